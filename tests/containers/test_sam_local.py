"""scripts/sam-local with a container engine, as docs/deploy.md has it: `sam build` has to have been run.

`tests/containers/engine` runs a command with an engine, and brings one up where none is running:
tests/containers/engine .venv/bin/python -m pytest tests/containers
"""

import os
import platform
import re
import signal
import subprocess
import sys
import time
import urllib.request
from json import load, loads
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug"
AWS = Path(sys.executable).with_name("aws")
FUNCTION_ARN = "arn:aws:lambda:eu-west-1:123456789012:function:kosli-key-rotation"
# SAM takes the variables that the template declares from its shell, and a person's credentials from wherever they are.
SHELL = {
    **os.environ,
    "PATH": f"{ROOT / '.venv-deploy/bin'}:{os.environ['PATH']}",
    "HTTPS_PROXY": "http://192.0.2.1:3128",
    "NO_PROXY": "*",
    "SSL_CERT_FILE": "/no/such/file.pem",
    "KOSLI_GRACE_PERIOD_HOURS": "720",
    "KOSLI_HOST": "https://app.kosli.com",
    "AWS_ACCESS_KEY_ID": "a-persons-own",
    "AWS_SESSION_TOKEN": "a-persons-own",
    "AWS_PROFILE": "no-such-profile",
}
INVOCATION_SECONDS = 120


def docker(*arguments):
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="session")
def image():
    """Options for sam: none where Amazon's image can be pulled, else one that is made of this machine's files."""
    architecture = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())
    if "ENGINE_WITHOUT_NETWORK" not in os.environ:
        if not subprocess.run(["docker", "pull", f"public.ecr.aws/lambda/provided:al2023-{architecture}"]).returncode:
            yield "--skip-pull-image"
            return
    made = "kosli-key-rotation-base:made-for-a-test"
    subprocess.run([ROOT / "tests/containers/base_image", made], check=True)
    yield f"--skip-pull-image --invoke-image {made}"
    # What sam makes of it, first.
    for name in (f"{made.partition(':')[0]}:rapid-{architecture}", made):
        subprocess.run(["docker", "rmi", name], check=True, capture_output=True)


@pytest.fixture
def sam_local(image):
    """Starts scripts/sam-local."""

    def start(*arguments, **options):
        command = [ROOT / "scripts/sam-local", *arguments, "--emulator", TARGET / "emulator", "--sam", image]
        return subprocess.Popen(command, env=SHELL, stdin=subprocess.DEVNULL, text=True, **options)

    containers, processes = docker("ps", "--all", "--quiet"), emulators()
    yield start
    # It leaves nothing behind, and nothing where it would be deployed.
    assert (docker("ps", "--all", "--quiet"), emulators()) == (containers, processes)
    assert list((ROOT / ".aws-sam").glob("local-*")) == []
    assert [file.name for file in (ROOT / ".aws-sam/build/Function").iterdir()] == ["bootstrap"]


@pytest.fixture
def run(sam_local):
    """Runs it to its end: the exit code, the answers by event, and where secret and keys stand then."""

    def run(*arguments):
        process = sam_local(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        output, log = process.communicate(timeout=8 * INVOCATION_SECONDS)
        print(output, log, sep="\n")
        *lines, secret, keys = output.splitlines()
        answers = {name: loads(answer) for name, _, answer in (line.partition(": ") for line in lines)}
        labels = dict(re.findall(r"(AWS[A-Z]+)(?=[^;]* on ([^;.]+))", secret))
        standing = dict(re.findall(r"(?:: |; )(\S+) is ([a-z ]+), until", keys))
        return process.returncode, answers, labels, standing

    return run


def emulators():
    """The processes of the emulator."""
    return subprocess.run(["pgrep", "-f", f"{TARGET}/emulator serve"], capture_output=True, text=True).stdout


def outcomes(answers):
    return [answer.get("outcome", answer.get("healthy")) for answer in answers.values()]


def test_a_rotation_over_https(run):
    code, answers, labels, keys = run("rotation", "checkSecret")
    assert (code, outcomes(answers)) == (0, ["rotated", "checked", "tested", "promoted", True]), answers
    created = answers["createSecret"]
    assert labels["AWSCURRENT"] == created["version_id"] != labels["AWSPREVIOUS"]
    assert keys == {created["key_id"]: "live", created["replaced_key_id"]: "in its grace period"}
    # The default, and not what the shell says.
    report = {check["name"]: check["detail"] for check in answers["checkSecret"]["checks"]}
    assert created["current_key_dies_at"][:10] in report["old-key"]


def test_a_lost_answer_is_recovered_from_over_http(run):
    options = ["--fault", "rotate#1=drop-after", "--env", "KOSLI_REVOKE_OLD_KEY=immediately"]
    code, answers, labels, keys = run("rotation", "--http", *options)
    assert (code, outcomes(answers)) == (0, ["recovered", "checked", "tested", "promoted"]), answers
    created = answers["createSecret"]
    assert labels["AWSCURRENT"] == created["version_id"]
    # The one that was there and the one whose value was lost.
    assert sorted(keys.values()) == ["live", "revoked", "revoked"] and keys[created["key_id"]] == "live", keys


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        # No createSecret has gone before.
        (["setSecret", "testSecret"], "PendingValueMissing"),
        (["createSecret", "--http", "--env", "KOSLI_SERVICE_ACCOUNTS=acme/deploy-*"], "NotPermitted"),
    ],
)
def test_an_error_is_one(run, arguments, error):
    code, answers, labels, keys = run(*arguments)
    assert (code, [answer["errorType"] for answer in answers.values()]) == (1, [error])
    assert labels["AWSCURRENT"] != labels["AWSPENDING"] and list(keys.values()) == ["live"]


def test_secrets_managers_own_way(sam_local, tmp_path):
    log = tmp_path / "log"
    with log.open("w") as output:
        process = sam_local(
            "start-lambda", "--emulator-port", "0", "--lambda-port", "3017", stdout=output, stderr=subprocess.STDOUT
        )
    try:
        found = eventually(lambda: re.search(r"listen on (http://\S+) until", log.read_text()), process, log)
        emulator, lambda_endpoint = found[1], "http://127.0.0.1:3017"
        assert "OPEN: whoever reaches " in log.read_text()
        version = aws("secretsmanager", "rotate-secret", "--secret-id", "kosli/ci", "--rotation-lambda-arn", FUNCTION_ARN, at=emulator)["VersionId"]
        end = eventually(lambda: re.search(r"the rotation (succeeded|failed)", log.read_text()), process, log)
        assert end[1] == "succeeded", log.read_text()

        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{emulator}/_emulator/state") as answer:
            state = load(answer)
        labels = {version["id"]: version["labels"] for version in state["secrets"][0]["versions"]}
        assert "AWSCURRENT" in labels[version]
        assert sorted(key["standing"] for key in state["keys"]) == ["in its grace period", "live"]

        invoke = ["lambda", "invoke", "--function-name", "kosli-key-rotation", "--payload"]
        answer = tmp_path / "answer.json"
        event = ROOT / "events/checkSecret.json"
        assert "FunctionError" not in aws(*invoke, f"fileb://{event}", str(answer), at=lambda_endpoint)
        assert loads(answer.read_text())["healthy"] is True
        event = tmp_path / "event.json"
        event.write_text((ROOT / "events/testSecret.json").read_text().replace("kosli/ci", "kosli/another"))
        assert aws(*invoke, f"fileb://{event}", str(answer), at=lambda_endpoint)["FunctionError"] == "Unhandled"
        assert loads(answer.read_text())["errorType"] == "SecretNotFound"
    finally:
        # As Ctrl+C does.
        process.send_signal(signal.SIGINT)
        code = process.wait(30)
        print(log.read_text())
    assert code == 130


def aws(*arguments, at):
    environment = {"AWS_ACCESS_KEY_ID": "emulator", "AWS_SECRET_ACCESS_KEY": "emulator", "AWS_DEFAULT_REGION": "eu-west-1"}
    command = [AWS, *arguments, "--endpoint-url", at]
    ended = subprocess.run(command, env={**environment, "PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return loads(ended.stdout)


def eventually(look, process, log):
    until = time.monotonic() + INVOCATION_SECONDS
    while time.monotonic() < until:
        if seen := look():
            return seen
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)
    raise AssertionError(log.read_text())
