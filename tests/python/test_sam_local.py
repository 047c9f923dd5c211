"""What scripts/sam-local says where something is missing, without a container engine. tests/containers has it at work."""

import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

ENGINE = """
case $1 in
    info) echo '{"Architecture": "x86_64", "OperatingSystem": "Debian GNU/Linux 12"}' ;;
    network) echo '[{"IPAM": {"Config": [{"Subnet": "172.17.0.0/16"}]}}]' ;;
esac
"""
NO_ENGINE = """
echo '{"ServerErrors": ["Cannot connect to the Docker daemon"]}'
"""
# What an executable for x86_64 and one for arm64 begin with.
X86_64 = b"\x7fELF".ljust(18, b"\0") + (62).to_bytes(2, "little")
ARM64 = b"\x7fELF".ljust(18, b"\0") + (183).to_bytes(2, "little")


class Checkout:
    """The script and the events in a folder of their own, beside programs that this test has made up."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "scripts").mkdir()
        shutil.copy(ROOT / "scripts/sam-local", folder / "scripts")
        shutil.copytree(ROOT / "events", folder / "events")
        self.program("python3", f'exec {sys.executable} "$@"')

    def program(self, name, script):
        file = self.folder / "bin" / name
        file.write_text(f"#!/bin/bash\n{script}\n")
        file.chmod(0o755)

    def build(self, executable):
        function = self.folder / ".aws-sam/build/Function"
        function.mkdir(parents=True)
        (function / "bootstrap").write_bytes(executable)

    def run(self, *arguments):
        """The exit code, and what it writes to standard error."""
        command = [self.folder / "bin/python3", self.folder / "scripts/sam-local", *arguments]
        environment = {"PATH": str(self.folder / "bin")}
        ended = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        assert ended.stdout == ""
        return ended.returncode, ended.stderr


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_what_is_missing_is_named(checkout):
    def says(why):
        code, said = checkout.run("rotation")
        assert code == 2 and said.startswith(f"scripts/sam-local: {why}"), said

    says("docker is missing. To get it: ")
    checkout.program("docker", NO_ENGINE)
    says("no container engine answers: start Docker first. Cannot connect")
    checkout.program("docker", "echo no such context >&2; exit 1")
    says("no container engine answers: start Docker first. no such context")
    checkout.program("docker", ENGINE)
    says("sam is missing. To get it: python3 -m venv .venv-deploy && ")
    checkout.program("sam", "exit 1")
    says("nothing is built: sam build --parameter-overrides Architecture=x86_64\n")
    checkout.build(X86_64)
    says("cargo, which builds the emulator, is missing")
    checkout.program("cargo", "exit 1")
    says("the emulator could not be built")


def test_a_build_for_another_architecture_is_made_anew_for_the_engines(checkout):
    checkout.program("docker", ENGINE)
    checkout.program("sam", 'echo "sam $*" >&2; exit 1')
    checkout.build(ARM64)
    code, said = checkout.run("rotation")
    command = f"sam build --build-dir {checkout.folder}/.aws-sam/build-x86_64 --parameter-overrides Architecture=x86_64\n"
    assert code == 2 and "is for arm64, and this engine runs x86_64" in said, said
    # It says the command, and runs it.
    assert said.count(command) == 2 and "rustup target add x86_64-unknown-linux-gnu" in said, said


def test_what_is_no_event_is_refused(checkout):
    checkout.program("docker", ENGINE)
    checkout.program("sam", "exit 1")
    checkout.build(X86_64)
    code, said = checkout.run("rotate")
    assert code == 2 and '"rotate" is neither a file nor one of rotation, start-lambda, checkSecret, checkSecret-all, createSecret,' in said, said
    assert checkout.run("start-lambda", "rotation")[0] == checkout.run()[0] == 2
