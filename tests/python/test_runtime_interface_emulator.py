"""AWS's Runtime Interface Emulator, which `sam local` puts into its containers, runs the function's executable without one.

It lies in the package of aws-sam-cli. What it does otherwise than Lambda: the function's ARN is made up, an error is status 200 with nothing
that tells it from an answer, and so is a time-out, as plain text; a process that has died is status 502.
"""

import os
import platform
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from json import dumps, loads
from urllib.error import HTTPError

import pytest
from commands import FUNCTION_ARN, client_of
from conftest import CREDENTIALS, FUNCTION, OPENER, ROOT, Emulator, eventually, free_port, request

ARCHITECTURE = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())
FOUND = list(ROOT.glob(f".venv-deploy/lib/python3*/site-packages/samcli/local/rapid/aws-lambda-rie-{ARCHITECTURE}"))
STEPS = ["createSecret", "setSecret", "testSecret", "finishSecret"]
# The template's.
TIMEOUT = 90


@pytest.fixture
def emulator(tmp_path):
    running = Emulator(tmp_path / "emulator.log", function=None)
    yield running
    running.process.terminate()
    running.process.wait(60)
    print(running.log.read_text())


@pytest.fixture
def start(emulator, tmp_path):
    """Starts the Runtime Interface Emulator: `start(timeout)` gives it."""
    if not FOUND:
        pytest.skip("the Runtime Interface Emulator is missing: make .venv-deploy with requirements-deploy.txt")
    started = []

    def start(timeout=TIMEOUT):
        started.append(RuntimeInterfaceEmulator(emulator, tmp_path / f"rie-{len(started)}.log", timeout))
        return started[-1]

    yield start
    for running in started:
        running.stop()
        print(running.log.read_text())


class RuntimeInterfaceEmulator:
    def __init__(self, emulator, log, timeout):
        self.log = log
        port, runtime_api = free_port(), free_port()
        self.address = f"http://127.0.0.1:{port}/2015-03-31/functions/function/invocations"
        command = [FOUND[0], "--runtime-interface-emulator-address", f"127.0.0.1:{port}"]
        command += ["--runtime-api-address", f"127.0.0.1:{runtime_api}", FUNCTION]
        environment = {
            **CREDENTIALS,
            "PATH": os.environ["PATH"],
            "AWS_LAMBDA_FUNCTION_TIMEOUT": str(timeout),
            "AWS_LAMBDA_FUNCTION_NAME": "kosli-key-rotation",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
            "KOSLI_HOST": emulator.endpoint,
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": emulator.endpoint,
        }
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        eventually(self.is_up)

    def is_up(self):
        assert self.process.poll() is None, self.log.read_text()
        try:
            # Anything but an invocation is "not found".
            return request("GET", self.address.partition("/2015")[0])[0] == 404
        except OSError:
            return False

    def invoke(self, event):
        """The answer as it comes. The status is 200, or 502 for a process that has died."""
        try:
            with OPENER.open(self.address, dumps(event).encode(), timeout=TIMEOUT) as answer:
                return answer.read().decode()
        except HTTPError as error:
            return error.read().decode()

    def function(self):
        """The ids of the function's processes."""
        return subprocess.run(["pgrep", "--parent", str(self.process.pid)], capture_output=True, text=True).stdout.split()

    def stop(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)


@pytest.fixture
def rotation(emulator):
    """A rotation has begun: what the events of its steps have in common."""
    begun = client_of("secretsmanager", emulator.endpoint).rotate_secret(SecretId="kosli/ci", RotationLambdaARN=FUNCTION_ARN)
    return {"SecretId": "kosli/ci", "ClientRequestToken": begun["VersionId"]}


def keys(emulator):
    """Those of the secret's account."""
    state = loads(request("GET", f"{emulator.endpoint}/_emulator/state")[1])
    return {key["id"]: key["standing"] for key in state["keys"] if key["account"] == "acme/ci"}


def rotate(function, rotation):
    return [loads(function.invoke({"Step": step, **rotation})).get("outcome") for step in STEPS]


def test_a_rotation(emulator, start, rotation):
    function = start()
    assert rotate(function, rotation) == ["rotated", "checked", "tested", "promoted"]
    assert sorted(keys(emulator).values()) == ["in its grace period", "live"]
    report = loads(function.invoke({"Step": "checkSecret", "SecretId": "kosli/ci"}))
    assert report["healthy"] is True, report


def test_an_error(emulator, start, rotation):
    function = start()
    before = keys(emulator)
    error = loads(function.invoke({"Step": "setSecret", **rotation}))
    assert error["errorType"] == "PendingValueMissing" and error["errorMessage"], error
    assert keys(emulator) == before
    # It goes on.
    assert loads(function.invoke({"Step": "createSecret", **rotation}))["outcome"] == "rotated"


def test_too_little_time(emulator, start, rotation):
    """The function knows its deadline, and mints nothing that it could not store."""
    error = loads(start(timeout=3).invoke({"Step": "createSecret", **rotation}))
    assert error["errorType"] == "OutOfTime", error
    assert list(keys(emulator).values()) == ["live"]


def test_a_time_out(start, rotation):
    """A function that cannot end by itself is ended, and the next invocation starts another."""
    function = start(timeout=3)
    report = {"Step": "checkSecret", "SecretId": "kosli/ci"}
    assert loads(function.invoke(report))["healthy"] is True
    (process,) = function.function()
    os.kill(int(process), signal.SIGSTOP)
    assert function.invoke(report) == "Task timed out after 3.00 seconds"
    assert function.function() == []
    assert loads(function.invoke(report))["healthy"] is True


def test_a_process_that_dies(emulator, start, rotation):
    """Between the mint and its storage: the next execution finds the lost key, replaces it and revokes it."""
    function = start()
    request("POST", f"{emulator.endpoint}/_emulator/faults", {"fault": "rotate#1=no-answer-after"})
    with ThreadPoolExecutor() as meanwhile:
        invocation = meanwhile.submit(function.invoke, {"Step": "createSecret", **rotation})
        eventually(lambda: len(keys(emulator)) == 2)
        (process,) = function.function()
        os.kill(int(process), signal.SIGKILL)
        answer = loads(invocation.result())
    assert answer["errorType"] == "Runtime.ExitError", answer

    # Nobody can tell that the first execution has died.
    assert loads(function.invoke({"Step": "createSecret", **rotation}))["errorType"] == "TwinExecution"
    emulator.advance("2m")
    assert rotate(function, rotation) == ["recovered", "checked", "tested", "promoted"]
    assert sorted(keys(emulator).values()) == ["in its grace period", "live", "revoked"]
