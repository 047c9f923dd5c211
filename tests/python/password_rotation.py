"""A rotation function for the password of a server, in the shape of AWS's template for other types of secrets: one function for each
step, and a handler that checks the version's labels before it calls one of them."""

import json

import boto3
from botocore.config import Config

# Characters that many connection strings cannot carry.
EXCLUDED = "/@\"'\\"


class PasswordRotation:
    """The function, for one server: `users` maps a name to the password that it accepts."""

    def __init__(self, endpoint, users):
        self.users = users
        self.client = boto3.client(
            "secretsmanager",
            endpoint_url=endpoint,
            region_name="eu-west-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(proxies={}),
        )
        self.steps = []

    def handler(self, event):
        arn, token, step = event["SecretId"], event["ClientRequestToken"], event["Step"]
        metadata = self.client.describe_secret(SecretId=arn)
        if not metadata["RotationEnabled"]:
            raise ValueError(f"Secret {arn} is not enabled for rotation")
        versions = metadata["VersionIdsToStages"]
        if token not in versions:
            raise ValueError(f"Secret version {token} has no stage for rotation of secret {arn}.")
        if "AWSCURRENT" in versions[token]:
            return None
        if "AWSPENDING" not in versions[token]:
            raise ValueError(f"Secret version {token} not set as AWSPENDING for rotation of secret {arn}.")
        self.steps.append(step)
        steps = {
            "createSecret": self.create_secret,
            "setSecret": self.set_secret,
            "testSecret": self.test_secret,
            "finishSecret": self.finish_secret,
        }
        return steps[step](arn, token)

    def create_secret(self, arn, token):
        current = self.read(arn, "AWSCURRENT")
        try:
            self.read(arn, "AWSPENDING", token)
        except self.client.exceptions.ResourceNotFoundException:
            password = self.client.get_random_password(PasswordLength=40, ExcludeCharacters=EXCLUDED)
            value = json.dumps({**current, "password": password["RandomPassword"]})
            self.client.put_secret_value(
                SecretId=arn, ClientRequestToken=token, SecretString=value, VersionStages=["AWSPENDING"]
            )

    def set_secret(self, arn, token):
        pending = self.read(arn, "AWSPENDING", token)
        self.users[pending["user"]] = pending["password"]

    def test_secret(self, arn, token):
        pending = self.read(arn, "AWSPENDING", token)
        if self.users[pending["user"]] != pending["password"]:
            raise ValueError("The server does not accept the pending password.")

    def finish_secret(self, arn, token):
        versions = self.client.describe_secret(SecretId=arn)["VersionIdsToStages"]
        current = next(version for version, stages in versions.items() if "AWSCURRENT" in stages)
        self.client.update_secret_version_stage(
            SecretId=arn, VersionStage="AWSCURRENT", MoveToVersionId=token, RemoveFromVersionId=current
        )

    def read(self, arn, stage, token=None):
        version = {"VersionId": token} if token else {}
        return json.loads(self.client.get_secret_value(SecretId=arn, VersionStage=stage, **version)["SecretString"])
