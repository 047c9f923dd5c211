"""Least privilege, proven: the real executable rotates against moto, with IAM enforced, under the policy of template.yaml.

With the policy as it is, a rotation passes. With any one action taken away, it fails with an error that names the permission.

moto compares actions and resources of policies, not conditions and not what KMS allows. So the statements for KMS are held
against AWS's documentation in test_template.py, as are the conditions; and logs and network interfaces are Lambda's own
calls, which no test of the function can make.
"""

import copy
import json
import logging
import unittest
import unittest.mock
import uuid

import boto3
from moto import settings
from moto.core.exceptions import JsonRESTError
from moto.iam.access_control import IAMRequest
from moto.secretsmanager.models import secretsmanager_backends
from moto.secretsmanager.responses import SecretsManagerResponse
from moto.server import ThreadedMotoServer

from function import Function, Kosli
from stack import ACCOUNT, FUNCTION_ARN, REGION, Stack

# The other permissions are missed before anything has happened, and the error is about nothing else.
ERROR_TYPES = {
    ("RotateSecrets", "secretsmanager:PutSecretValue"): "StoreFailed",
    ("ReadAdminKey", "secretsmanager:GetSecretValue"): "InvalidAdminSecret",
}
STEPS = ["createSecret", "setSecret", "testSecret", "finishSecret"]


def secret_arn(response):
    """Which resource a call is for: moto asks for it where a service says it, and Secrets Manager's does not."""
    secret_id = response._get_param("SecretId")
    return response.backend.secrets[secret_id].arn if secret_id else "*"


def access_denied(request):
    """AWS's answer for a JSON protocol. moto has XML, which no client of Secrets Manager can read; and unlike AWS's own, this
    message does not name the resource, so that where an error of the function does, the function has said it."""
    message = f"User: {request._access_key.arn} is not authorized to perform: {request._action}"
    reason = f"because no identity-based policy allows the {request._action} action"
    error = JsonRESTError("AccessDeniedException", f"{message} {reason}")
    error.code = 400
    raise error


class LeastPrivilege(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        for patched in (
            unittest.mock.patch.object(SecretsManagerResponse, "_determine_resource", secret_arn, create=True),
            unittest.mock.patch.object(IAMRequest, "_raise_access_denied", access_denied),
        ):
            cls.enterClassContext(patched)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        cls.moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        cls.moto.start()
        cls.addClassCleanup(cls.moto.stop)
        host, port = cls.moto.get_host_and_port()
        cls.endpoint = f"http://{host}:{port}"
        cls.kosli = cls.enterClassContext(Kosli())
        cls.admin = cls.secret("kosli-admin", {"api_key": cls.kosli.key("acme", "admin")[1]})

    @classmethod
    def client(cls, service):
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=cls.endpoint,
            aws_access_key_id="moto",
            aws_secret_access_key="moto",
        )

    @classmethod
    def secret(cls, name, value):
        """A new secret's ARN."""
        return cls.client("secretsmanager").create_secret(Name=name, SecretString=json.dumps(value))["ARN"]

    def rotated_secret(self):
        """A secret for which Secrets Manager has just begun a rotation: (ARN, version to be made)."""
        account = f"ci-{uuid.uuid4().hex[:8]}"
        key_id, key = self.kosli.key("acme", account)
        document = {"api_key": key, "org": "acme", "service_account": account, "key_id": key_id}
        arn = self.secret(f"kosli/{account}", document)
        # moto's RotateSecret wants a container engine to run the function in; what it leaves behind before that is this.
        secret = secretsmanager_backends[ACCOUNT][REGION].secrets[arn]
        secret.rotation_requested = secret.rotation_enabled = True
        secret.rotation_lambda_arn = FUNCTION_ARN
        token = str(uuid.uuid4())
        secret.versions[token] = {
            "createdate": secret.created_date,
            "version_id": token,
            "version_stages": ["AWSPENDING"],
        }
        return arn, token

    def run_under(self, stack, statements, events):
        """Lets the function handle events with these permissions, until it answers one with an error."""
        role = self.client("iam").create_role(RoleName=f"function-{uuid.uuid4()}", AssumeRolePolicyDocument="{}")["Role"]
        policy = {"Version": "2012-10-17", "Statement": statements}
        self.client("iam").put_role_policy(
            RoleName=role["RoleName"], PolicyName="secrets", PolicyDocument=json.dumps(policy)
        )
        session = self.client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="function")["Credentials"]
        environment = {
            **stack.environment(),
            "KOSLI_HOST": self.kosli.host,
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": self.endpoint,
            "AWS_ACCESS_KEY_ID": session["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": session["SecretAccessKey"],
            "AWS_SESSION_TOKEN": session["SessionToken"],
        }
        enforced_after = settings.INITIAL_NO_AUTH_ACTION_COUNT
        settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
        try:
            with Function(environment) as function:
                for event in events:
                    answer = function.invoke(event)
                    if "errorType" in answer:
                        return answer | {"step": event["Step"]}
                return answer
        finally:
            settings.INITIAL_NO_AUTH_ACTION_COUNT = enforced_after

    def rotate(self, arn, token, stack, statements):
        events = [{"Step": step, "SecretId": arn, "ClientRequestToken": token} for step in STEPS]
        return self.run_under(stack, statements, events)

    def stack(self, arn):
        return Stack(KosliServiceAccounts="acme/*", SecretArns=arn, AdminSecretArn=self.admin)

    def test_a_rotation_passes_with_the_policy_and_the_secret_is_rotated(self):
        arn, token = self.rotated_secret()
        stack = self.stack(arn)
        answer = self.rotate(arn, token, stack, list(secrets_statements(stack)))
        self.assertEqual(answer.get("outcome"), "promoted", answer)
        self.assertEqual(self.holder(arn, "AWSCURRENT"), token)

    def test_without_any_one_action_it_fails_and_names_the_permission(self):
        removed = 0
        for sid, action in actions(secrets_statements(self.stack("any"))):
            with self.subTest(sid=sid, action=action):
                arn, token = self.rotated_secret()
                stack = self.stack(arn)
                answer = self.rotate(arn, token, stack, without(secrets_statements(stack), sid, action))
                print(f"\nWithout {action} ({sid}), {answer.get('step')} fails:")
                print(f"{answer.get('errorType')}: {answer.get('errorMessage')}")
                resource = self.admin if sid == "ReadAdminKey" else arn
                self.assertEqual(answer.get("errorType"), ERROR_TYPES.get((sid, action), "SecretsManagerRefused"), answer)
                self.assertIn(action, answer["errorMessage"])
                self.assertIn(resource, answer["errorMessage"])
                self.assertNotEqual(self.holder(arn, "AWSCURRENT"), token)
                removed += 1
        self.assertEqual(removed, 5)

    def test_the_policy_is_for_its_own_secrets_alone(self):
        arn, token = self.rotated_secret()
        other, _ = self.rotated_secret()
        answer = self.rotate(arn, token, self.stack(arn), list(secrets_statements(self.stack(other))))
        self.assertEqual(answer.get("errorType"), "SecretsManagerRefused", answer)

    def test_a_prefix_covers_the_secrets_below_it(self):
        arn, token = self.rotated_secret()
        stack = Stack(KosliServiceAccounts="acme/*", SecretNamePrefix="kosli/", AdminSecretArn=self.admin)
        statements = copy.deepcopy(list(secrets_statements(stack)))
        # moto cannot tell AllowRotationLambdaArn; that the condition is there, test_template.py sees to.
        del statements[0]["Condition"]
        self.assertEqual(self.rotate(arn, token, stack, statements).get("outcome"), "promoted")
        other = copy.deepcopy(statements)
        other[0]["Resource"] = [resource.replace("kosli/", "others/") for resource in other[0]["Resource"]]
        arn, token = self.rotated_secret()
        self.assertEqual(self.rotate(arn, token, stack, other).get("errorType"), "SecretsManagerRefused")

    def test_the_check_of_all_secrets_needs_list_secrets(self):
        stack = Stack(
            KosliServiceAccounts="acme/*",
            SecretNamePrefix="kosli/",
            AdminSecretArn=self.admin,
            AlarmTopicArn=f"arn:aws:sns:{REGION}:{ACCOUNT}:alarms",
        )
        statements = copy.deepcopy(list(secrets_statements(stack)))
        del statements[0]["Condition"]
        answer = self.run_under(stack, statements, [{"Step": "checkSecret"}])
        self.assertNotIn("errorType", answer)
        statements = without(statements, "FindSecretsToCheck", "secretsmanager:ListSecrets")
        answer = self.run_under(stack, statements, [{"Step": "checkSecret"}])
        print("\nWithout secretsmanager:ListSecrets (FindSecretsToCheck), checkSecret fails:")
        print(f"{answer.get('errorType')}: {answer.get('errorMessage')}")
        self.assertIn("secretsmanager:ListSecrets", answer.get("errorMessage", ""))

    def holder(self, arn, label):
        versions = self.client("secretsmanager").describe_secret(SecretId=arn)["VersionIdsToStages"]
        return next(version for version, labels in versions.items() if label in labels)


def secrets_statements(stack):
    return [one for one in stack.statements().values() if one["Sid"] != "WriteOwnLog"]


def actions(statements):
    for statement in statements:
        action = statement["Action"]
        for one in action if isinstance(action, list) else [action]:
            yield statement["Sid"], one


def without(statements, sid, action):
    """The statements without one action of one of them; a statement that has no other goes altogether."""
    remaining = copy.deepcopy(list(statements))
    for statement in remaining:
        if statement["Sid"] == sid:
            listed = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            statement["Action"] = [one for one in listed if one != action]
    return [statement for statement in remaining if statement["Action"]]


if __name__ == "__main__":
    unittest.main()
