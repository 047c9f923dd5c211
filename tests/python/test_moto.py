"""A second opinion: the real function with moto as Secrets Manager. The emulator plays Kosli alone.

moto invokes no function here, so the steps are driven by the test. Where moto departs from AWS, a comment says so.
"""

from io import BytesIO
from json import dumps, loads
from zipfile import ZipFile

import boto3
import pytest
from conftest import CREDENTIALS, FUNCTION, request
from runtime_api import RuntimeApi

STEPS = ["createSecret", "setSecret", "testSecret", "finishSecret"]


class Aws:
    """moto's Secrets Manager, and a function in its Lambda that can be named but does nothing."""

    def __init__(self, endpoint):
        self.endpoint = endpoint
        request("POST", f"{endpoint}/moto-api/config", {"lambda": {"use_docker": False}})
        role = self.client("iam").create_role(RoleName="f", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        code = BytesIO()
        with ZipFile(code, "w") as archive:
            archive.writestr("bootstrap", "")
        created = self.client("lambda").create_function(
            FunctionName="f", Runtime="provided.al2023", Role=role, Handler="h", Code={"ZipFile": code.getvalue()}
        )
        self.function_arn = created["FunctionArn"]
        self.secrets = self.client("secretsmanager")

    def client(self, service):
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name="eu-west-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def rotate_secret(self, name, **options):
        answer = self.secrets.rotate_secret(
            SecretId=name,
            RotationLambdaARN=self.function_arn,
            RotationRules={"AutomaticallyAfterDays": 30},
            **options,
        )
        return answer["ARN"], answer["VersionId"]

    def labels(self, name):
        return self.secrets.describe_secret(SecretId=name)["VersionIdsToStages"]

    def value(self, name):
        # Without a stage moto would look at the version that RotateSecret has reserved.
        return self.secrets.get_secret_value(SecretId=name, VersionStage="AWSCURRENT")["SecretString"]


@pytest.fixture
def aws(moto, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    return Aws(moto)


@pytest.fixture
def function(moto, emulator, tmp_path):
    variables = {**CREDENTIALS, "AWS_ENDPOINT_URL_SECRETS_MANAGER": moto, "KOSLI_HOST": emulator.endpoint}
    running = RuntimeApi(FUNCTION, variables, tmp_path / "function.log")
    yield running
    running.stop()
    # Shown for a test that fails.
    print((tmp_path / "function.log").read_text())


def event(step, arn, token):
    return {"Step": step, "SecretId": arn, "ClientRequestToken": token, "RotationToken": "made-up-rotation-token-of-a-test-0001"}


def test_rotations(aws, emulator, function, tmp_path):
    key_id, key = emulator.add_key("deploy")
    document = {"api_key": key, "org": "acme", "service_account": "deploy", "key_id": key_id, "note": [1, None, "é"]}
    created = aws.secrets.create_secret(Name="kosli/deploy", SecretString=dumps(document))
    old = created["VersionId"]
    # Twice: only the second rotation finds an AWSPREVIOUS.
    for _ in range(2):
        arn, token = aws.rotate_secret("kosli/deploy")
        assert aws.labels("kosli/deploy")[token] == ["AWSPENDING"]
        outcomes = [function.invoke(event(step, arn, token))["outcome"] for step in STEPS]
        assert outcomes == ["rotated", "checked", "tested", "promoted"]
        labels = aws.labels("kosli/deploy")
        assert "AWSCURRENT" in labels[token] and labels[old] == ["AWSPREVIOUS"]

        rotated = loads(aws.value("kosli/deploy"))
        assert rotated["key_id"] != key_id and rotated["api_key"] != key
        assert rotated == {**document, "api_key": rotated["api_key"], "key_id": rotated["key_id"]}
        assert emulator.accepts(rotated["api_key"]) and emulator.accepts(key)
        for value in (key, rotated["api_key"], "made-up-rotation-token"):
            assert value not in (tmp_path / "function.log").read_text()

        # The same steps once more change nothing.
        outcomes = [function.invoke(event(step, arn, token))["outcome"] for step in STEPS]
        assert outcomes == ["already current", "already current", "tested", "already current"]
        assert loads(aws.value("kosli/deploy")) == rotated

        # AWS takes the label off when the rotation has ended; moto does not, and then refuses the next RotateSecret.
        aws.secrets.update_secret_version_stage(
            SecretId="kosli/deploy", VersionStage="AWSPENDING", RemoveFromVersionId=token
        )
        old, key_id, key = token, rotated["key_id"], rotated["api_key"]


def test_a_rotation_for_later_is_only_tested(aws, emulator, function):
    key_id, key = emulator.add_key("deploy")
    value = dumps({"KOSLI_API_TOKEN": key, "KOSLI_ORG": "acme", "KOSLI_SERVICE_ACCOUNT": "deploy"})
    aws.secrets.create_secret(Name="kosli/deploy", SecretString=value)
    arn, _ = aws.rotate_secret("kosli/deploy", RotateImmediately=False)
    # moto's answer names the current version; AWS names the one that it has made for the test.
    token = next(version for version, stages in aws.labels("kosli/deploy").items() if stages == ["AWSPENDING"])
    assert function.invoke(event("testSecret", arn, token))["outcome"] == "tested the current key"
    assert aws.value("kosli/deploy") == value
