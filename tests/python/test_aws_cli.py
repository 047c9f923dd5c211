"""The real `aws` command line against `emulator serve`, as in the README: a person creates, looks, rotates and cleans up."""

import os
import subprocess
from json import dumps, loads

import pytest
from conftest import CREDENTIALS, SCRIPTS, eventually

FUNCTION_ARN = "arn:aws:lambda:eu-west-1:123456789012:function:kosli-key-rotation"
NAME = "kosli/deploy"


@pytest.fixture
def aws(emulator):
    # Nothing of the tester's own AWS configuration.
    environment = {**CREDENTIALS, "PATH": os.environ["PATH"], "NO_PROXY": "127.0.0.1", "AWS_PAGER": ""}
    environment |= {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}

    def run(operation, **options):
        arguments = []
        for name, value in options.items():
            arguments += ["--" + name.replace("_", "-")] + (value if isinstance(value, list) else [value])
        command = [SCRIPTS / "aws", "secretsmanager", operation, *arguments, "--endpoint-url", emulator.endpoint]
        ended = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if ended.returncode:
            raise subprocess.SubprocessError(ended.stderr)
        return loads(ended.stdout or "null")

    return run


def test_a_secrets_whole_life(aws, emulator):
    key_id, key = emulator.add_key("deploy")
    document = {"api_key": key, "org": "acme", "service_account": "deploy", "key_id": key_id}
    created = aws("create-secret", name=NAME, secret_string=dumps(document), tags=["Key=team,Value=platform"])
    assert aws("get-secret-value", secret_id=NAME)["SecretString"] == dumps(document)

    document["note"] = "edited by hand"
    edited = aws("put-secret-value", secret_id=NAME, secret_string=dumps(document))
    described = aws("describe-secret", secret_id=created["ARN"])
    assert described["VersionIdsToStages"] == {
        created["VersionId"]: ["AWSPREVIOUS"],
        edited["VersionId"]: ["AWSCURRENT"],
    }
    assert described["Tags"] == [{"Key": "team", "Value": "platform"}]
    assert "RotationEnabled" not in described

    aws("tag-resource", secret_id=NAME, tags=["Key=kosli:grace-period-hours,Value=2"])
    started = aws("rotate-secret", secret_id=NAME, rotation_lambda_arn=FUNCTION_ARN)
    described = eventually(lambda: rotated(aws("describe-secret", secret_id=NAME)))
    assert described["RotationEnabled"] is True
    assert described["RotationLambdaARN"] == FUNCTION_ARN
    assert described["VersionIdsToStages"] == {
        edited["VersionId"]: ["AWSPREVIOUS"],
        started["VersionId"]: ["AWSCURRENT"],
    }

    value = aws("get-secret-value", secret_id=NAME)
    new = loads(value["SecretString"])
    assert (value["VersionId"], value["VersionStages"]) == (started["VersionId"], ["AWSCURRENT"])
    assert new == {**document, "api_key": new["api_key"], "key_id": new["key_id"]}
    assert new["api_key"] != key and new["key_id"] != key_id
    previous = aws("get-secret-value", secret_id=NAME, version_stage="AWSPREVIOUS")
    assert loads(previous["SecretString"]) == document

    assert emulator.accepts(new["api_key"]) and emulator.accepts(key)
    emulator.advance("119m")
    assert emulator.accepts(key)
    emulator.advance("1m")
    assert emulator.accepts(new["api_key"]) and not emulator.accepts(key)

    listed = aws("list-secrets", filters=["Key=name,Values=kosli/deploy"])["SecretList"]
    assert [secret["Name"] for secret in listed] == [NAME]
    assert {secret["Name"] for secret in aws("list-secrets")["SecretList"]} == {"kosli/ci", NAME}

    label = {"secret_id": NAME, "version_stage": "known-good"}
    aws("update-secret-version-stage", **label, move_to_version_id=started["VersionId"])
    stages = aws("describe-secret", secret_id=NAME)["VersionIdsToStages"][started["VersionId"]]
    assert sorted(stages) == ["AWSCURRENT", "known-good"]
    aws("update-secret-version-stage", **label, remove_from_version_id=started["VersionId"])
    with pytest.raises(subprocess.SubprocessError, match="ResourceNotFoundException"):
        aws("get-secret-value", secret_id=NAME, version_stage="known-good")

    deleted = aws("delete-secret", secret_id=NAME, recovery_window_in_days="7")
    assert deleted["ARN"] == created["ARN"]
    with pytest.raises(subprocess.SubprocessError, match="InvalidRequestException"):
        aws("get-secret-value", secret_id=NAME)
    assert [secret["Name"] for secret in aws("list-secrets")["SecretList"]] == ["kosli/ci"]


def rotated(described):
    return described if "LastRotatedDate" in described else None
