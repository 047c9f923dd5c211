"""Every command of the documents runs, or stands here with the reason why not. A new one that does neither fails the test."""

import re
from json import dumps, loads

import pytest
import yaml
from commands import FUNCTION_ARN, SAM_PYTHON, Template, World, client_of, code_spans, commands, pages, scripts, words
from conftest import ROOT, free_port, moto_server

# These .ci/run runs, or tests/containers, word for word.
IN_CI = {
    "cargo demo",
    "cargo test",
    "cargo exhaustive",
    "cargo build --workspace",
    "scripts/supply-chain",
    "bench/counts",
    "sam validate --lint --region eu-west-1",
    "cfn-lint template.yaml",
    "checkov --config-file .checkov.yaml",
    # In tests/containers.
    "aws lambda invoke --function-name kosli-key-rotation --endpoint-url http://127.0.0.1:3001"
    " --payload fileb://events/checkSecret.json report.json",
}

# `cargo lambda watch` builds the function first.
BUILD_SECONDS = 600

# By the command's first words.
NOT_RUN = {
    "python3 -m venv .venv-deploy": "CI makes the same environment by itself",
    "python3 -m unittest discover": "CI runs these tests with pytest",
    "rustup target add": "it changes the machine's toolchain",
    "sam build": "CI runs it, where there can be a container engine, for the tests of sam local",
    "sam delete": "moto knows no stack that SAM has deployed",
    "sam local": "scripts/sam-local runs it with all the options that it needs",
    "scripts/sam-local": "it needs a container engine: tests/containers runs it with one",
    "scripts/build": "it takes minutes, and CI runs it with --installed",
    "scripts/sbom": "test_supply_chain.py runs it",
    "scripts/lock-python": "it asks the registry for what is newest; test_supply_chain.py looks at what it has made",
    "bench/run": "it takes half an hour, and measures well on a quiet machine only",
    "bench/counts --update": "it changes the committed counts",
    "cargo doc --open": "it opens a browser; CI builds the same pages",
    "cargo demo --serve": "it stays up; test_emulator_lines.py runs what it prints",
    "target/debug/emulator serve --function": "likewise",
    "target/debug/emulator serve --lambda-endpoint": "likewise; test_password_rotation.py starts it",
    "cargo test --workspace": "cargo test and cargo exhaustive in one, unoptimized; CI runs these two",
    ".ci/run": "CI is what runs it",
    "scripts/sbom arm64 x86_64": "test_supply_chain.py runs it",
    "cargo test --test log_lines": "a part of cargo test",
    "CASE=json": "a case of a test that CI runs whole",
    "SEED=7 cargo exhaustive": "likewise",
    "TRACES=write": "it writes what cargo test compares with",
    "PICTURE=write": "it writes the committed picture; CI runs the test that makes it",
    "cargo tree": "the word for what it lists, without its options",
    "cargo update --workspace": "it changes a lock file",
    "fuzz/run": "it goes on until Ctrl-C, or needs a finding; CI runs all targets for a while",
    "kubectl rollout restart": "there is no cluster",
    "npm ci --prefix tests/kosli-cli": "without it none of these tests would run",
}


@pytest.fixture(scope="module")
def rest_of_aws(tmp_path_factory):
    """What the commands expect of AWS besides Secrets Manager and Lambda: the deployed stack, its log, a cluster."""
    with moto_server(tmp_path_factory.mktemp("moto")) as endpoint:

        def client(service):
            return client_of(service, endpoint)

        topic = {"Type": "AWS::SNS::Topic"}
        stack = {"Resources": {"Topic": topic}, "Outputs": {"FunctionArn": {"Value": FUNCTION_ARN}}}
        client("cloudformation").create_stack(StackName="kosli-key-rotation", TemplateBody=dumps(stack))
        client("logs").create_log_group(logGroupName="/aws/lambda/kosli-key-rotation")
        client("secretsmanager").create_secret(Name="kosli_api_token", SecretString="a made-up key")
        ecs = client("ecs")
        ecs.create_cluster(clusterName="main")
        container = {"name": "reporter", "image": "reporter", "memory": 64}
        ecs.register_task_definition(family="reporter", containerDefinitions=[container])
        ecs.create_service(cluster="main", serviceName="reporter", taskDefinition="reporter", desiredCount=1)
        yield endpoint


@pytest.fixture
def world(emulator, rest_of_aws, tmp_path):
    running = World(emulator, rest_of_aws, tmp_path)
    yield running
    running.stop()


def begins(command, first):
    return (command + " ").startswith(first + " ")


def reason(command):
    """Why the command is not run, if it is not."""
    if command in IN_CI:
        return "CI runs it"
    return next((why for first, why in NOT_RUN.items() if begins(command, first)), None)


def is_a_name(text):
    """A command without what belongs to it, that the prose speaks of: it stands whole elsewhere."""
    return re.fullmatch(r"(sam|cargo|cargo lambda) \w+", text) and any(text + " " in other for _, other in scripts())


def to_run():
    """What is left of every script without the commands that are not run."""
    for page, text in scripts():
        kept = [command for command in commands(text) if not reason(words(command))]
        if kept and not is_a_name(text):
            yield pytest.param("".join(kept), id=f"{page}: {words(kept[0])[:70]}")


def prepare(world, script):
    """The state in which a person would type it, and the script with the placeholders filled in."""
    if "--rotation-lambda-arn" not in script and "rotate-secret" in script and "create-secret" not in script:
        world.aws.rotate_secret(SecretId="kosli/ci", RotationLambdaARN=FUNCTION_ARN, RotateImmediately=False)
        # Its test ends before anything else begins.
        world.wait_until_settled()
    if "AWSPENDING" in script:
        pending = world.aws.put_secret_value(
            SecretId="kosli/ci", SecretString=world.new_value(), VersionStages=["AWSPENDING"]
        )
        script = script.replace("VERSION_ID", pending["VersionId"])
    if ".KOSLI_API_TOKEN" in script:
        _, key = world.emulator.add_key("ci")
        world.aws.put_secret_value(SecretId="kosli/ci", SecretString=dumps({"KOSLI_API_TOKEN": key, "KOSLI_ORG": "acme"}))
    if "create-secret --name kosli/ci" in script:
        world.aws.delete_secret(SecretId="kosli/ci", ForceDeleteWithoutRecovery=True)
    if "create service-account ci " in script:
        world.run("kosli delete service-account ci --org acme --assume-yes")
    if "aws ssm get-parameter --name kosli_api_token" in script:
        world.rest_of_aws("ssm").put_parameter(
            Name="kosli_api_token", Value=world.current()["api_key"], Type="SecureString", Overwrite=True
        )
    for file in re.findall(r"--secret-string file://(\S+)", script):
        if f"> {file}" not in script:
            (world.here / file).write_text(world.new_value())
    script = re.sub(r"(?<![A-Z_])KEY_ID\b", lambda _: world.current()["key_id"], script)
    if "emulator serve" in script:
        script = on_free_ports(script)
    return script.replace("CLUSTER", "main").replace("SERVICE", "reporter")


def on_free_ports(script):
    """Its own emulator, and `cargo lambda watch`, with other ports than their usual ones."""
    emulator, watch = str(free_port()), str(free_port())
    script = script.replace("emulator serve", f"emulator serve --port {emulator}").replace("7878", emulator)
    script = script.replace("127.0.0.1:9000", f"127.0.0.1:{watch}")
    return script.replace("--invoke-address 127.0.0.1", f"--invoke-address 127.0.0.1 --invoke-port {watch}")


@pytest.mark.parametrize("script", list(to_run()))
def test_a_command_runs(world, script):
    if "sam deploy" in script and not SAM_PYTHON.exists():
        pytest.skip("sam is missing: make .venv-deploy with requirements-deploy.txt")
    script = prepare(world, script)
    world.run(script, BUILD_SECONDS if "cargo lambda" in script else 120)
    if "emulator serve" in script:
        return
    for secret in re.findall(r"secretsmanager rotate-secret[^\n]* --secret-id (\S+)", script.replace("\\\n", " ")):
        world.wait_for_a_rotation(secret)
    if "create-secret --name kosli_api_token " in script:
        # The modules take a plain string as it is, so what it has around the key they would send.
        first = world.aws.get_secret_value(SecretId="kosli_api_token", VersionStage="AWSPREVIOUS")["SecretString"]
        assert first == first.strip()
    for file in world.here.glob("report*.json"):
        reports = loads(file.read_text())
        for report in reports if isinstance(reports, list) else [reports]:
            checks = {check["name"]: check["ok"] for check in report["checks"]}
            assert checks["current-key"] and checks["key-id"], report
    if "sam deploy" in script:
        check_deployment(loads((world.here / "deployed.json").read_text()))


def check_deployment(deployed):
    """The parameters arrive whole: the template has them, and accepts their values."""
    parameters = yaml.load((ROOT / "template.yaml").read_text(), Loader=Template)["Parameters"]
    assert deployed["stack_name"] == "kosli-key-rotation"
    assert deployed["resolve_s3"] and "CAPABILITY_IAM" in deployed["capabilities"]
    for name, value in deployed["parameter_overrides"].items():
        parameter = parameters[name]
        assert re.fullmatch(parameter.get("AllowedPattern", ".*"), value), (name, value)
        assert value in parameter.get("AllowedValues", [value]), (name, value)


def test_the_lists_name_nothing_that_is_gone():
    written = [words(command) for script in scripts() for command in commands(script.text)]
    for first in [*IN_CI, *NOT_RUN]:
        assert any(begins(command, first) for command in written), f"no document has: {first}"
    containers = (ROOT / "tests/containers/test_sam_local.py").read_text()
    ci = (ROOT / ".ci/run").read_text() + re.sub(r'"\s+"', "", containers)
    for command in IN_CI:
        assert re.search(rf'{re.escape(command)}( |"|$)', ci, re.MULTILINE), f"CI does not run: {command}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 170


def test_the_workflow_runs_ci():
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["ci"]
    assert job["steps"][-1] == {"run": ".ci/run"}
    version = re.search(r'^rust-version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    assert any(f"rustup default {version} " in step.get("run", "") for step in job["steps"])


def test_commands_are_whole():
    """With the tool in front, and with names in the place of dots: what can be pasted."""
    for page, text in scripts():
        assert "…" not in text, f"{page}: {text}"
        # Version 1 of the aws command has neither; version 2 has both.
        assert "--cli-binary-format" not in text and "aws logs tail" not in text, f"{page}: {text}"
    known = {text for _, text in scripts()}
    for page, text in pages().items():
        for span in code_spans(text):
            assert not re.match(r"[a-z]+(-[a-z]+)+ --", span) or span in known, f"{page}: `{span}` names no tool"
