"""scripts/sam-local with a container engine, by the commands of the documents: `sam build` has to have been run.

`tests/containers/engine` runs a command with an engine, and brings one up where none is running:
tests/containers/engine .venv/bin/python -m pytest tests/containers
"""

import os
import platform
import shlex
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
    # There is nothing newer to look for.
    "SAM_SKIP_PULL_IMAGE": "1",
}
INVOCATION_SECONDS = 120

# The documents' commands.
ROTATION = "scripts/sam-local rotation checkSecret"
RECOVERY = "scripts/sam-local rotation --http --fault rotate#1=drop-after --env KOSLI_REVOKE_OLD_KEY=immediately"
CHECK = "scripts/sam-local checkSecret"
START_LAMBDA = "scripts/sam-local start-lambda"
INVOKE = (
    "aws lambda invoke --function-name kosli-key-rotation --endpoint-url http://127.0.0.1:3001"
    " --payload fileb://events/checkSecret.json report.json"
)


def test_the_documents_have_these_commands_and_no_others_of_their_kind():
    documents = [path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]]
    found = {line.partition(" # ")[0].strip() for text in documents for line in text.splitlines() if re.match("scripts/sam-local |.*:3001 ", line)}
    found |= {span for text in documents for span in re.findall("`(scripts/sam-local [^`]+)`", text)}
    assert found == {ROTATION, RECOVERY, CHECK, START_LAMBDA, INVOKE}


def docker(*arguments):
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="session")
def image():
    """Sees that there is a base image, and gives options for the script where it is not Amazon's by its name."""
    architecture = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())
    amazons = f"public.ecr.aws/lambda/provided:al2023-{architecture}"
    if "ENGINE_WITHOUT_NETWORK" in os.environ:
        # It ends with the engine.
        subprocess.run([ROOT / "tests/containers/base_image", amazons], check=True)
        yield []
    elif subprocess.run(["docker", "pull", amazons]).returncode == 0:
        yield []
    else:
        # In an engine that stays, what was made for a test must not be taken for Amazon's.
        made = "kosli-key-rotation-base:made-for-a-test"
        subprocess.run([ROOT / "tests/containers/base_image", made], check=True)
        yield ["--sam", f"--invoke-image {made}"]
        # What sam makes of it, first.
        for name in (f"{made.partition(':')[0]}:rapid-{architecture}", made):
            subprocess.run(["docker", "rmi", name], check=True, capture_output=True)


@pytest.fixture
def sam_local(image):
    """Starts a command of scripts/sam-local."""

    def start(command, **options):
        command = ["bash", "-c", f"exec {command} {shlex.join(image)}"]
        return subprocess.Popen(command, cwd=ROOT, env=SHELL, stdin=subprocess.DEVNULL, text=True, **options)

    containers, processes = docker("ps", "--all", "--quiet"), emulators()
    yield start
    # It leaves nothing behind, and nothing where it would be deployed.
    assert (docker("ps", "--all", "--quiet"), emulators()) == (containers, processes)
    assert list((ROOT / ".aws-sam").glob("local-*")) == []
    assert [file.name for file in (ROOT / ".aws-sam/build/Function").iterdir()] == ["bootstrap"]


@pytest.fixture
def run(sam_local):
    """Runs it to its end: the exit code, the answers by event, and where secret and keys stand then."""

    def run(command):
        process = sam_local(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
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
    code, answers, labels, keys = run(ROTATION)
    assert (code, outcomes(answers)) == (0, ["rotated", "checked", "tested", "promoted", True]), answers
    created = answers["createSecret"]
    assert labels["AWSCURRENT"] == created["version_id"] != labels["AWSPREVIOUS"]
    assert keys == {created["key_id"]: "live", created["replaced_key_id"]: "in its grace period"}
    # The default, and not what the shell says.
    report = {check["name"]: check["detail"] for check in answers["checkSecret"]["checks"]}
    assert created["current_key_dies_at"][:10] in report["old-key"]


def test_a_lost_answer_is_recovered_from_over_http(run):
    code, answers, labels, keys = run(RECOVERY)
    assert (code, outcomes(answers)) == (0, ["recovered", "checked", "tested", "promoted"]), answers
    created = answers["createSecret"]
    assert labels["AWSCURRENT"] == created["version_id"]
    # The one that was there and the one whose value was lost.
    assert sorted(keys.values()) == ["live", "revoked", "revoked"] and keys[created["key_id"]] == "live", keys


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        # No createSecret has gone before.
        ("setSecret testSecret", "PendingValueMissing"),
        ("createSecret --http --env 'KOSLI_SERVICE_ACCOUNTS=acme/deploy-*'", "NotPermitted"),
    ],
)
def test_an_error_is_one(run, arguments, error):
    code, answers, labels, keys = run(f"scripts/sam-local {arguments}")
    assert (code, [answer["errorType"] for answer in answers.values()]) == (1, [error])
    assert labels["AWSCURRENT"] != labels["AWSPENDING"] and list(keys.values()) == ["live"]


def test_an_unhealthy_secret_is_an_answer(run):
    code, answers, _, _ = run(CHECK)
    checks = answers["checkSecret"]["checks"]
    assert (code, [check["name"] for check in checks if not check["ok"]]) == (0, ["rotation"]), checks


def test_secrets_managers_own_way(sam_local, tmp_path):
    log = tmp_path / "log"
    with log.open("w") as output:
        process = sam_local(START_LAMBDA, stdout=output, stderr=subprocess.STDOUT)
    try:
        found = eventually(lambda: re.search(r"listen on (http://\S+) until", log.read_text()), process, log)
        emulator = found[1]
        assert "OPEN: any program that reaches " in log.read_text()
        # As it says itself.
        told = re.search(r"^ +(aws secretsmanager rotate-secret .*)$", log.read_text(), re.MULTILINE)[1]
        version = loads(aws(told, tmp_path))["VersionId"]
        end = eventually(lambda: re.search(r"the rotation (succeeded|failed)", log.read_text()), process, log)
        assert end[1] == "succeeded", log.read_text()

        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{emulator}/_emulator/state") as answer:
            state = load(answer)
        labels = {version["id"]: version["labels"] for version in state["secrets"][0]["versions"]}
        assert "AWSCURRENT" in labels[version]
        assert sorted(key["standing"] for key in state["keys"] if key["account"] == "acme/ci") == ["in its grace period", "live"]

        assert "FunctionError" not in loads(aws(INVOKE, tmp_path))
        assert loads((tmp_path / "report.json").read_text())["healthy"] is True
        event = tmp_path / "event.json"
        event.write_text((ROOT / "events/testSecret.json").read_text().replace("kosli/ci", "kosli/another"))
        answer = aws(INVOKE.replace("events/checkSecret.json", str(event)), tmp_path)
        assert loads(answer)["FunctionError"] == "Unhandled"
        assert loads((tmp_path / "report.json").read_text())["errorType"] == "SecretNotFound"
    finally:
        # As Ctrl+C does.
        process.send_signal(signal.SIGINT)
        code = process.wait(30)
        print(log.read_text())
    assert code == 130


def aws(command, folder):
    """Runs it in a folder of its own, with the events."""
    if not (folder / "events").exists():
        (folder / "events").symlink_to(ROOT / "events")
    environment = {"AWS_ACCESS_KEY_ID": "emulator", "AWS_SECRET_ACCESS_KEY": "emulator", "AWS_DEFAULT_REGION": "eu-west-1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ended = subprocess.run(shlex.split(command), cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def eventually(look, process, log):
    until = time.monotonic() + INVOCATION_SECONDS
    while time.monotonic() < until:
        if seen := look():
            return seen
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)
    raise AssertionError(log.read_text())
