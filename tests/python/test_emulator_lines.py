"""The lines to paste that `emulator serve` and `cargo demo --serve` print."""

import re
import subprocess
from json import loads

import pytest
from commands import World
from conftest import FUNCTION, ROOT, TARGET, Emulator, eventually

SERVE = ["serve", "--port", "0", "--function", FUNCTION]
# Listens on a free port by itself. The function is built already.
DEMO = ["demo", "--serve", "--function", FUNCTION]


class Printing(Emulator):
    """The emulator, started in one of the two ways."""

    def __init__(self, arguments, log):
        self.log = log
        with log.open("w") as output:
            command = [TARGET / "emulator", *arguments]
            self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        eventually(lambda: "What happens from here on:" in log.read_text(), 60)
        self.endpoint = self._endpoint()


@pytest.fixture(params=[SERVE, DEMO], ids=["serve", "demo"])
def emulator(request, tmp_path):
    running = Printing(request.param, tmp_path / "emulator.log")
    yield running
    running.process.terminate()
    running.process.wait(60)
    print(running.log.read_text())


@pytest.fixture
def world(emulator, tmp_path):
    running = World(emulator, "http://127.0.0.1:9", tmp_path)
    # The lines bring all that they need.
    for name in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SECRETS_MANAGER", "KOSLI_HOST", "KOSLI_API_TOKEN"]:
        del running.environment[name]
    yield running
    running.stop()


def test_the_lines_to_paste_run(emulator, world):
    pasted = re.findall(r"^  ((?:export|aws|kosli|curl) .+)$", emulator.log.read_text(), re.MULTILINE)
    assert {line.split()[0] for line in pasted} == {"export", "aws", "kosli", "curl"}
    before = world.current()
    printed = world.run("\n".join(pasted))
    assert before["key_id"] in printed
    eventually(lambda: world.current() != before)

    # And what else a person wants of Kosli: host, organization and token are in the shell now.
    exported = [line for line in pasted if line.startswith("export")]
    keys = world.run("\n".join([*exported, "kosli list api-keys --service-account ci --output json"]))
    assert world.current()["key_id"] in {key["id"] for key in loads(keys)}
    made = "kosli create service-account new --privilege admin && kosli list environments"
    assert "service account new was created" in world.run("\n".join([*exported, made]))
