"""What the tests share: the emulator as a program, Kosli as it plays it, and moto's server."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from json import dumps, loads
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug"
FUNCTION = TARGET / "kosli-key-rotation"
SCRIPTS = Path(sys.executable).parent
KOSLI = ROOT / "tests/kosli-cli/node_modules/.bin/kosli"

# Nobody checks them, but a client without any does not even send a request.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_REGION": "eu-west-1",
}

# Everything here is on this machine: no proxy of the tester's environment is asked.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def pytest_runtest_logreport(report):
    """What is skipped, .ci/run says at its end."""
    if report.skipped and "SKIPPED_BECAUSE" in os.environ:
        with open(os.environ["SKIPPED_BECAUSE"], "a") as file:
            print(f"{report.nodeid}: {report.longrepr[2]}", file=file)


def request(method, url, body=None, key=None):
    """One HTTP request: the status, and the answer as text."""
    message = urllib.request.Request(url, method=method, data=None if body is None else dumps(body).encode())
    if key:
        message.add_header("Authorization", f"Bearer {key}")
    try:
        with OPENER.open(message, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def eventually(look, seconds=30):
    """Looks until there is something to see."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if seen := look():
            return seen
        time.sleep(0.1)
    raise AssertionError(f"nothing within {seconds} s")


class Emulator:
    """`emulator serve`, with the real function behind RotateSecret, or with one that somebody else invokes."""

    def __init__(self, log, function=FUNCTION, variables=(), options=()):
        self.log = log
        with log.open("w") as output:
            command = [TARGET / "emulator", "serve", "--port", "0"] + (["--function", function] if function else [])
            command += [argument for variable in variables for argument in ("--env", variable)]
            command += options
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self.endpoint = eventually(self._endpoint)

    def _endpoint(self):
        assert self.process.poll() is None, self.log.read_text()
        found = re.search(r"listen on (http://\S+) ", self.log.read_text())
        return found and found[1]

    def add_key(self, account):
        """Makes a key for a service account of the organization acme: its id and its value. It may rotate itself."""
        account = {"org": "acme", "service_account": account, "role": "admin"}
        status, answer = request("POST", f"{self.endpoint}/_emulator/kosli/keys", account)
        assert status == 200, answer
        key = loads(answer)
        return key["id"], key["key"]

    def advance(self, by):
        status, answer = request("POST", f"{self.endpoint}/_emulator/clock", {"advance": by})
        assert status == 200, answer

    def accepts(self, key):
        """Whether Kosli lets somebody in with this key."""
        status, answer = request("GET", f"{self.endpoint}/api/v2/environments/acme", key=key)
        assert status in (200, 401), answer
        return status == 200


@pytest.fixture
def emulator(tmp_path):
    running = Emulator(tmp_path / "emulator.log")
    yield running
    running.process.terminate()
    running.process.wait(60)
    # Shown for a test that fails.
    print(running.log.read_text())


@pytest.fixture
def moto(tmp_path):
    """moto's server: its endpoint."""
    with moto_server(tmp_path) as endpoint:
        yield endpoint


@contextmanager
def moto_server(folder):
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    log = folder / "moto.log"
    with log.open("w") as output:
        command = [SCRIPTS / "moto_server", "--host", "127.0.0.1", "--port", str(port)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def is_up():
        assert process.poll() is None, log.read_text()
        try:
            return request("GET", f"{endpoint}/moto-api/data.json")[0] == 200
        except OSError:
            return False

    try:
        eventually(is_up)
        yield endpoint
    finally:
        process.terminate()
        process.wait(60)
