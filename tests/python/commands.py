"""The commands of the documents: where they stand, and a world in which they run."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections import namedtuple
from contextlib import suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import boto3
import pytest
import yaml
from conftest import CREDENTIALS, FUNCTION, KOSLI, ROOT, SCRIPTS, eventually
from runtime_api import RuntimeApi

FUNCTION_ARN = "arn:aws:lambda:eu-west-1:123456789012:function:kosli-key-rotation"
SAM_PYTHON = ROOT / ".venv-deploy/bin/python"

# What stands in front of a space in a command. The parts of this repository come by their paths.
TOOLS = r"(aws|kosli|sam|cargo|curl|jq|npm|kubectl|(?:\.venv/bin/)?python3?|cfn-lint|checkov|rustup|export|scripts/\S+|bench/\S+|fuzz/run|target/debug/\S+)"

# The blocks that are no shell.
OTHER_LANGUAGES = ("json", "yaml", "hcl", "mermaid", "text")

Script = namedtuple("Script", "page text")


def pages():
    """Every document of the repository."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name: (ROOT / name).read_text() for name in listed.split()}


@cache
def scripts():
    """Every shell block of the documents, every command in their prose, and those of the template's texts."""
    found = []
    for page, text in pages().items():
        for language, block in BLOCK.findall(text):
            if language == "sh":
                found.append(Script(page, block))
            else:
                assert language in OTHER_LANGUAGES, f"{page}: say what this is, or call it sh: {block}"
                # A workflow's steps.
                found += [Script(page, line) for line in re.findall(r"^ *- run: (.+)$", block, re.MULTILINE)]
        found += [Script(page, span) for span in code_spans(text) if is_command(span)]
    # In the template's texts a command ends the text, or its line.
    for text in texts(yaml.load((ROOT / "template.yaml").read_text(), Loader=Template)):
        for command in re.findall(r"(?:echo '[^']*' \| )?\baws [a-z]+ [a-z]+-?[a-z-]* .*?(?=\"?$)", text, re.MULTILINE):
            for variable, value in IN_THE_TEMPLATE.items():
                command = command.replace(variable, value)
            found.append(Script("template.yaml", command))
    # The same words twice are one command.
    return list(dict.fromkeys(found))


BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)

# What CloudFormation and EventBridge fill in.
IN_THE_TEMPLATE = {"${AWS::StackName}": "kosli-key-rotation", "${AWS::Region}": "eu-west-1", "<secret>": "kosli/ci"}


class Template(yaml.SafeLoader):
    """`!Sub` is its text, and CloudFormation's other short forms do not matter here."""


Template.add_constructor("!Sub", lambda loader, node: loader.construct_scalar(node))
Template.add_multi_constructor("!", lambda loader, suffix, node: None)


def texts(value):
    """Every text within a value."""
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from texts(inner)


def code_spans(page):
    """What stands in backticks in a page's prose."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", BLOCK.sub("", page))]


def is_command(span):
    if re.match(r"([A-Z]+=\S+ )?" + TOOLS + r" [^=]", span):
        return True
    return re.match(r"[.\w]+/[-\w]+$", span) and os.access(ROOT / span, os.X_OK) and (ROOT / span).is_file()


def commands(script):
    """The complete commands of a script, each with its continuation lines, its loop or its here-document."""
    lines, found = "", []
    for line in script.splitlines():
        lines += line + "\n"
        parsed = subprocess.run(["bash", "-n", "-c", lines], capture_output=True, text=True)
        if parsed.returncode == 0 and not parsed.stderr and not line.endswith("\\"):
            if words(lines):
                found.append(lines)
            lines = ""
    assert not lines, f"this is no complete command: {lines}"
    return found


def words(command):
    """The command without its comments and line breaks."""
    return " ".join(shlex.split(re.sub(r"(^|\s)# .*$", "", command, flags=re.MULTILINE).replace("\\\n", " ")))


def executables(folder):
    """A folder with the tools, for the path."""
    folder.mkdir()
    (folder / "aws").symlink_to(SCRIPTS / "aws")
    (folder / "kosli").symlink_to(KOSLI)
    (folder / "python3").symlink_to(shutil.which("python3"))
    (folder / "cargo-lambda").symlink_to(ROOT / ".venv-deploy/bin/cargo-lambda")
    # `sam deploy` as it is, but for the deployment: what the options, samconfig.toml and SAM's parser of parameters make of the
    # command is written down instead.
    (folder / "sam").write_text(f"""#!{SAM_PYTHON}
import inspect, json, sys
from samcli.cli.main import cli
from samcli.commands.deploy import command

real = inspect.signature(command.do_cli)

def write_down(*arguments, **named):
    with open("deployed.json", "w") as file:
        json.dump(real.bind(*arguments, **named).arguments, file, default=str)

command.do_cli = write_down
cli(sys.argv[1:], prog_name="sam")
""")
    (folder / "sam").chmod(0o755)
    return folder


class Invoke:
    """Lambda's Invoke at a free port, for the function of this name; what its handler raises is the function's error."""

    def __init__(self, name, handler=None):
        self.handler = handler
        invoke = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                assert self.path == f"/2015-03-31/functions/{name}/invocations", self.path
                event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                try:
                    answer = invoke.handler(event)
                except Exception as error:
                    self.send_header("X-Amz-Function-Error", "Unhandled")
                    answer = {"errorType": type(error).__name__, "errorMessage": str(error)}
                body = json.dumps(answer).encode()
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Lambda:
    """The same, with the real function behind it."""

    def __init__(self, emulator, log):
        variables = {
            "KOSLI_HOST": emulator.endpoint,
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": emulator.endpoint,
            **CREDENTIALS,
        }
        self.function = RuntimeApi(FUNCTION, variables, log, FUNCTION_ARN)
        self.server = Invoke("kosli-key-rotation", self.function.invoke)
        self.endpoint = self.server.url

    def stop(self):
        self.function.stop()
        self.server.stop()


def client_of(service, endpoint):
    credentials = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return boto3.client(service, endpoint_url=endpoint, region_name="eu-west-1", **credentials)


class World:
    """An emulator with its secret and its service account, a person's shell, and what moto plays of the rest of AWS."""

    def __init__(self, emulator, moto, folder):
        if not KOSLI.exists():
            pytest.skip("Kosli's command line is missing: npm ci --prefix tests/kosli-cli")
        self.emulator, self.folder = emulator, folder
        self.here = folder / "clone"
        self.here.mkdir()
        for entry in ROOT.iterdir():
            if not entry.name.startswith((".git", ".venv", ".aws")):
                (self.here / entry.name).symlink_to(entry)
        self.function = Lambda(emulator, folder / "function.log")
        self.aws = client_of("secretsmanager", emulator.endpoint)
        self.rest_of_aws = lambda service: client_of(service, moto)
        _, self.admin_key = emulator.add_key("an-admin")
        cargo = {name: os.environ.get(name, os.path.expanduser(default))
                 for name, default in [("CARGO_HOME", "~/.cargo"), ("RUSTUP_HOME", "~/.rustup")]}  # fmt: skip
        self.environment = {
            **CREDENTIALS,
            **cargo,
            "HOME": str(folder),
            "PATH": os.pathsep.join([str(executables(folder / "bin")), os.environ["PATH"]]),
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_PAGER": "",
            "AWS_ENDPOINT_URL": moto,
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": emulator.endpoint,
            "AWS_ENDPOINT_URL_LAMBDA": self.function.endpoint,
            "KOSLI_HOST": emulator.endpoint,
            "KOSLI_API_TOKEN": self.admin_key,
            "NO_PROXY": "127.0.0.1",
            "SAM_CLI_TELEMETRY": "0",
        }

    def run(self, script, seconds=120):
        """What the script prints. It fails the test if it fails; nobody is there to answer a question."""
        # cargo and what it builds know their own folder only.
        here = ROOT if re.search(r"\bcargo |\btarget/", script) else self.here
        output = self.folder / "output"
        with output.open("w") as printed:
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=here,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                start_new_session=True,
            )
        try:
            process.wait(seconds)
        finally:
            # And what the script has left running in the background.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == 0, f"{script}\n{output.read_text()}"
        return output.read_text()

    def new_value(self):
        """A value for the secret with a new key."""
        key_id, key = self.emulator.add_key("ci")
        return json.dumps({"api_key": key, "org": "acme", "service_account": "ci", "key_id": key_id})

    def holder(self, label, secret="kosli/ci"):
        """The version that carries the label."""
        stages = self.aws.describe_secret(SecretId=secret)["VersionIdsToStages"]
        return next((version for version, labels in stages.items() if label in labels), None)

    def current(self, secret="kosli/ci"):
        """The value under AWSCURRENT; of a plain string, the key."""
        value = self.aws.get_secret_value(SecretId=secret)["SecretString"]
        return json.loads(value) if value.startswith("{") else {"api_key": value}

    def wait_until_settled(self):
        """Until no rotation, and no test of one, is under way."""
        eventually(lambda: self.holder("AWSPENDING") in (None, self.holder("AWSCURRENT")))

    def wait_for_a_rotation(self, secret="kosli/ci"):
        """Until the secret has been rotated, and readers have a key that works."""
        eventually(lambda: "LastRotatedDate" in self.aws.describe_secret(SecretId=secret))
        assert self.holder("AWSPREVIOUS", secret) and self.emulator.accepts(self.current(secret)["api_key"])

    def stop(self):
        self.function.stop()
        print((self.folder / "function.log").read_text())
