"""The emulator for somebody else's rotation function: it is in Python, it makes a password, and an endpoint as Lambda's runs it."""

import json

import pytest
from commands import Invoke
from conftest import Emulator, eventually, request
from password_rotation import EXCLUDED, PasswordRotation

NAME = "server/admin"
FUNCTION_ARN = "arn:aws:lambda:eu-west-1:123456789012:function:password-rotation"


@pytest.fixture
def endpoint():
    running = Invoke("password-rotation")
    yield running
    running.stop()


@pytest.fixture
def emulator(endpoint, tmp_path):
    running = Emulator(tmp_path / "emulator.log", function=None, options=["--lambda-endpoint", endpoint.url])
    yield running
    running.process.terminate()
    running.process.wait(60)
    print(running.log.read_text())


@pytest.fixture
def function(emulator, endpoint):
    function = PasswordRotation(emulator.endpoint, {"admin": "the first one"})
    endpoint.handler = function.handler
    value = {"user": "admin", "password": "the first one", "host": "db.internal"}
    function.client.create_secret(Name=NAME, SecretString=json.dumps(value))
    return function


def test_a_function_in_the_shape_of_awss_template_is_rotated(function):
    client = function.client
    for _ in range(2):
        before = function.read(NAME, "AWSCURRENT")
        function.steps.clear()
        token = client.rotate_secret(SecretId=NAME, RotationLambdaARN=FUNCTION_ARN)["VersionId"]
        eventually(lambda: client.describe_secret(SecretId=NAME)["VersionIdsToStages"].get(token) == ["AWSCURRENT"])
        assert function.steps == ["createSecret", "setSecret", "testSecret", "finishSecret"]
        after = function.read(NAME, "AWSCURRENT")
        assert after == {**before, "password": after["password"]} and after["password"] != before["password"]
        assert len(after["password"]) == 40 and not set(EXCLUDED) & set(after["password"])
        assert function.users["admin"] == after["password"]
        assert function.read(NAME, "AWSPREVIOUS") == before
        assert "LastRotatedDate" in client.describe_secret(SecretId=NAME)


def test_what_goes_wrong_is_tried_again_with_the_same_version(function, emulator):
    status, answer = request("POST", f"{emulator.endpoint}/_emulator/faults", {"fault": "GetRandomPassword#1=error-before:503"})
    assert status == 200, answer
    token = function.client.rotate_secret(SecretId=NAME, RotationLambdaARN=FUNCTION_ARN)["VersionId"]
    eventually(lambda: "AWSCURRENT" in function.client.describe_secret(SecretId=NAME)["VersionIdsToStages"].get(token, []))
    assert "[fault error-before:503]" in emulator.log.read_text()
    assert function.users["admin"] == function.read(NAME, "AWSCURRENT")["password"]


def test_values_come_in_one_batch_and_a_policy_is_kept(function):
    client = function.client
    batch = client.batch_get_secret_value(SecretIdList=[NAME, "nowhere"])
    assert [entry["Name"] for entry in batch["SecretValues"]] == [NAME]
    assert [(error["SecretId"], error["ErrorCode"]) for error in batch["Errors"]] == [("nowhere", "ResourceNotFoundException")]
    batch = client.batch_get_secret_value(Filters=[{"Key": "name", "Values": ["server/"]}])
    assert [entry["Name"] for entry in batch["SecretValues"]] == [NAME] and batch["Errors"] == []

    assert "ResourcePolicy" not in client.get_resource_policy(SecretId=NAME)
    policy = json.dumps({"Version": "2012-10-17", "Statement": []})
    client.put_resource_policy(SecretId=NAME, ResourcePolicy=policy)
    assert client.get_resource_policy(SecretId=NAME)["ResourcePolicy"] == policy
    client.delete_resource_policy(SecretId=NAME)
    assert "ResourcePolicy" not in client.get_resource_policy(SecretId=NAME)
