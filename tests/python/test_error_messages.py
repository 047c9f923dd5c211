"""The command lines in the function's real errors and reports: complete, and what heals heals."""

import re
from json import dumps

import pytest
from commands import FUNCTION_ARN, World
from conftest import ROOT, Emulator, request

STEPS = ["createSecret", "setSecret", "testSecret", "finishSecret"]


@pytest.fixture
def emulator(tmp_path):
    # Nobody answers its rotations but these tests.
    running = Emulator(tmp_path / "emulator.log", function=None)
    yield running
    running.process.terminate()
    running.process.wait(60)
    print(running.log.read_text())


@pytest.fixture
def world(emulator, tmp_path):
    running = World(emulator, "http://127.0.0.1:9", tmp_path)
    # The commands name the host and the region: whoever pastes them need not have set either.
    del running.environment["KOSLI_HOST"]
    del running.environment["AWS_REGION"]
    running.environment["AWS_DEFAULT_REGION"] = "us-east-1"
    yield running
    running.stop()


def begin(world, **options):
    """The event of a rotation's steps, without the step."""
    rotation = world.aws.rotate_secret(SecretId="kosli/ci", RotationLambdaARN=FUNCTION_ARN, **options)
    return {"SecretId": rotation["ARN"], "ClientRequestToken": rotation["VersionId"]}


def error_of(world, kind, step, event):
    """The message of the error that a step ends with."""
    how, error = world.function.function.outcome({"Step": step, **event})
    assert how == "1/error" and error["errorType"] == kind, error
    return error["errorMessage"]


def detail_of(world, name):
    """What checkSecret says of a check that is not ok."""
    arn = world.aws.describe_secret(SecretId="kosli/ci")["ARN"]
    report = world.function.function.invoke({"Step": "checkSecret", "SecretId": arn})
    [check] = [check for check in report["checks"] if check["name"] == name]
    assert not check["ok"], report
    return check["detail"]


def told(message):
    """The command lines of a message."""
    return re.findall(r"`((?:aws|kosli) [^`]+)`", message)


def rotate_through(world):
    """A rotation whose steps all succeed: the one that is under way, if there is one."""
    secret = world.aws.describe_secret(SecretId="kosli/ci")
    pending = next((version for version, labels in secret["VersionIdsToStages"].items() if labels == ["AWSPENDING"]), None)
    event = {"SecretId": secret["ARN"], "ClientRequestToken": pending} if pending else begin(world)
    for step in STEPS:
        world.function.function.invoke({"Step": step, **event})
    assert world.emulator.accepts(world.current()["api_key"])



def follow(world, message, expected, key_id=None):
    """Types what the message says, with the key id that it asks for."""
    lines = told(message)
    operations = [re.match(r"aws secretsmanager (\S+)|kosli (\S+ \S+)", line) for line in lines]
    assert [operation[1] or operation[2] for operation in operations] == expected, message
    (world.here / "value").write_text(world.new_value())
    for line in lines:
        assert ("--region eu-west-1" if line.startswith("aws") else f"--host {world.emulator.endpoint}") in line, line
        try:
            world.run(line.replace("KEY_ID", key_id or "KEY_ID"))
        except AssertionError as error:
            # "That is what is wanted here", as the runbook says.
            assert "rotate-secret" in line and "That rotation will be reattempted" in str(error), error


def test_rotation_not_enabled(world):
    event = begin(world)
    world.aws.cancel_rotate_secret(SecretId="kosli/ci")
    follow(world, error_of(world, "RotationNotEnabled", "createSecret", event), ["rotate-secret"])
    assert world.aws.describe_secret(SecretId="kosli/ci")["RotationLambdaARN"] == FUNCTION_ARN


def test_checkSecret_says_how_rotation_is_switched_on(world):
    follow(world, detail_of(world, "rotation"), ["rotate-secret"])
    assert world.aws.describe_secret(SecretId="kosli/ci")["RotationEnabled"]


def test_token_not_staged(world):
    event = {**begin(world), "ClientRequestToken": "01234567-89ab-cdef-0123-456789abcdef"}
    follow(world, error_of(world, "TokenNotStaged", "createSecret", event), ["rotate-secret"])


def test_token_not_pending(world):
    event = begin(world)
    world.aws.put_secret_value(SecretId="kosli/ci", SecretString=world.new_value(), VersionStages=["mine"])
    token = world.holder("mine")
    message = error_of(world, "TokenNotPending", "createSecret", {**event, "ClientRequestToken": token})
    follow(world, message, ["rotate-secret"])
    rotate_through(world)


def test_no_current_value(world):
    world.aws.delete_secret(SecretId="kosli/ci", ForceDeleteWithoutRecovery=True)
    world.aws.create_secret(Name="kosli/ci")
    event = begin(world)
    follow(world, error_of(world, "NoCurrentValue", "createSecret", event), ["put-secret-value"])
    rotate_through(world)


def test_no_room(world):
    event = begin(world)
    labels = [f"mine-{number}" for number in range(18)]
    world.aws.put_secret_value(SecretId="kosli/ci", SecretString="{}", VersionStages=labels)
    follow(world, error_of(world, "NoRoom", "createSecret", event), ["describe-secret"])


def test_key_id_unknown(world):
    world.emulator.add_key("ci")
    document = world.current()
    key_id = document.pop("key_id")
    for note in ["no version names the id", "that is labelled"]:
        world.aws.put_secret_value(SecretId="kosli/ci", SecretString=dumps({**document, "note": note}))
    message = error_of(world, "KeyIdUnknown", "createSecret", begin(world))
    follow(world, message, ["update-secret-version-stage"], key_id)
    rotate_through(world)


def test_key_not_on_account(world):
    world.aws.put_secret_value(SecretId="kosli/ci", SecretString=dumps({**world.current(), "key_id": "mistyped"}))
    message = error_of(world, "KeyNotOnAccount", "createSecret", begin(world))
    follow(world, message, ["list api-keys", "create api-key", "put-secret-value", "rotate-secret"])
    rotate_through(world)


def test_current_key_dead(world):
    key_id = world.current()["key_id"]
    world.run(f"kosli delete api-key {key_id} --service-account ci --org acme --assume-yes --host {world.emulator.endpoint}")
    message = error_of(world, "CurrentKeyDead", "createSecret", begin(world))
    follow(world, message, ["create api-key", "put-secret-value", "rotate-secret"])
    rotate_through(world)


@pytest.mark.parametrize("kind", ["PendingKeyDead", "PendingIsCurrent"])
def test_a_pending_version_is_cleared(world, kind):
    event = begin(world)
    dead = {**world.current(), "api_key": "a-key-that-nobody-made", "key_id": "nobodys"}
    value = dumps(dead if kind == "PendingKeyDead" else world.current())
    token = event["ClientRequestToken"]
    world.aws.put_secret_value(SecretId="kosli/ci", SecretString=value, VersionStages=["AWSPENDING"], ClientRequestToken=token)
    message = error_of(world, kind, "createSecret", event)
    follow(world, message, ["update-secret-version-stage", "rotate-secret"])
    assert world.holder("AWSPENDING") != token
    rotate_through(world)


def test_pending_value_missing(world):
    message = error_of(world, "PendingValueMissing", "setSecret", begin(world))
    follow(world, message, ["rotate-secret"])
    rotate_through(world)


def test_an_incomplete_clean_up(world):
    """The command has finishSecret called again, and the old key is revoked then."""
    world.aws.tag_resource(SecretId="kosli/ci", Tags=[{"Key": "kosli:revoke-old-key", "Value": "immediately"}])
    old = world.current()
    event = begin(world)
    for step in STEPS[:3]:
        world.function.function.invoke({"Step": step, **event})
    request("POST", f"{world.emulator.endpoint}/_emulator/faults", {"fault": "revoke#1=refuse:400"})
    message = error_of(world, "CleanUpIncomplete", "finishSecret", event)
    [command] = re.findall(r"`(echo .+? \| aws lambda invoke [^`]+)`", message)
    assert world.emulator.accepts(old["api_key"]) and "rotate-secret" not in message
    answer = world.run(command)
    assert '"already current"' in answer and not world.emulator.accepts(old["api_key"]), answer


def test_a_key_that_nobody_ends(world):
    """A warning, not an error: Kosli refuses to rotate the current key, and another is created beside it."""
    old = world.current()
    request("POST", f"{world.emulator.endpoint}/_emulator/faults", {"fault": "rotate=refuse:400"})
    event = begin(world)
    answers = [world.function.function.invoke({"Step": step, **event}) for step in STEPS]
    [warning] = answers[0]["warnings"]
    follow(world, warning, ["delete api-key"])
    assert world.emulator.accepts(world.current()["api_key"]) and not world.emulator.accepts(old["api_key"])


def test_commands_come_from_one_place():
    """Whatever else the source tells somebody to type would not be known to be complete, nor to run."""
    source = (ROOT / "src/by_hand.rs").read_text()
    operations = re.findall(r'secretsmanager\("([a-z-]+)"|"((?:list|get|create|rotate|delete) api-keys?)', source)
    assert len(operations) >= 7
    for operation in operations:
        assert f'"{"".join(operation)}"' in open(__file__).read(), f"no test here types {operation}"
    for file in (ROOT / "src").rglob("*.rs"):
        code = re.sub(r"^\s*//.*$", "", file.read_text().split("#[cfg(test)]")[0], flags=re.MULTILINE)
        code = re.sub(r"\\\n\s*", "", code)
        if file.name != "by_hand.rs":
            assert not re.search(r"\b(aws secretsmanager|kosli (list|get|create|rotate|delete)|[a-z]+-secret-[a-z-]+ --)", code), file
