"""`cargo lambda watch` and `cargo lambda invoke`, the way to run the function without a container, as docs/deploy.md has it: a whole
rotation, a step at a time, with the emulator as AWS and Kosli."""

import os
import signal
import socket
import subprocess
from json import dumps, loads

import boto3
import pytest
from conftest import CREDENTIALS, ROOT, Emulator, eventually

CARGO_LAMBDA = ROOT / ".venv-deploy/bin/cargo-lambda"
FUNCTION_ARN = "arn:aws:lambda:eu-west-1:123456789012:function:kosli-key-rotation"
# It builds the function first.
BUILD_SECONDS = 600


@pytest.fixture
def emulator(tmp_path):
    running = Emulator(tmp_path / "emulator.log", function=None)
    yield running
    running.process.terminate()
    running.process.wait(60)
    print(running.log.read_text())


class Watch:
    """`cargo lambda watch`, and the function behind it."""

    def __init__(self, emulator, log):
        self.environment = {
            **os.environ,
            **CREDENTIALS,
            "KOSLI_HOST": emulator.endpoint,
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": emulator.endpoint,
            "NO_PROXY": "127.0.0.1",
        }
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = ["--invoke-address", "127.0.0.1", "--invoke-port", str(port)]
        with log.open("w") as output:
            self.process = subprocess.Popen(
                # `--wait`: the first invocation waits for the build.
                [CARGO_LAMBDA, "lambda", "watch", "--ignore-changes", "--wait", *self.address],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

        def is_up():
            assert self.process.poll() is None, log.read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        eventually(is_up)

    def invoke(self, event, seconds=60):
        """The answer, or the error as an object with `errorType`."""
        command = [CARGO_LAMBDA, "lambda", "invoke", "kosli-key-rotation", *self.address, "--data-ascii", dumps(event)]
        ended = subprocess.run(
            command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds
        )
        if ended.returncode == 0:
            return loads(ended.stdout)
        return {"errorType": ended.stderr}

    def stop(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)


@pytest.fixture
def watch(emulator, tmp_path):
    if not CARGO_LAMBDA.exists():
        pytest.skip(f"{CARGO_LAMBDA.relative_to(ROOT)} is missing: make it with requirements-deploy.txt")
    log = tmp_path / "watch.log"
    running = Watch(emulator, log)
    yield running
    running.stop()
    print(log.read_text())


def test_a_rotation_step_by_step(emulator, watch):
    aws = boto3.client(
        "secretsmanager",
        endpoint_url=emulator.endpoint,
        region_name="eu-west-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    old = loads(aws.get_secret_value(SecretId="kosli/ci")["SecretString"])
    # Nobody polls the emulator's own Runtime API: the steps are invoked below.
    rotation = aws.rotate_secret(SecretId="kosli/ci", RotationLambdaARN=FUNCTION_ARN)
    event = {"SecretId": "kosli/ci", "ClientRequestToken": rotation["VersionId"]}

    assert "InvalidEvent" in watch.invoke({"Step": "rotate"}, BUILD_SECONDS)["errorType"]
    outcomes = [
        watch.invoke({"Step": step, **event})["outcome"]
        for step in ["createSecret", "setSecret", "testSecret", "finishSecret"]
    ]
    assert outcomes == ["rotated", "checked", "tested", "promoted"]

    value = aws.get_secret_value(SecretId="kosli/ci")
    new = loads(value["SecretString"])
    assert value["VersionId"] == rotation["VersionId"]
    assert new["api_key"] != old["api_key"] and emulator.accepts(new["api_key"]) and emulator.accepts(old["api_key"])
    report = watch.invoke({"Step": "checkSecret", "SecretId": "kosli/ci"})
    assert report["healthy"], report
