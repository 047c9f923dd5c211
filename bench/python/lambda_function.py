"""What somebody would write today: AWS's rotation template (SecretsManagerRotationTemplate), with Kosli filled in.

https://github.com/aws-samples/aws-secrets-manager-rotation-lambdas/blob/master/SecretsManagerRotationTemplate/lambda_function.py

It shows what such a function costs, not what one should do: it loses keys wherever an answer of Kosli's is lost.

CLIENTS=call makes the clients in every invocation, as the template does; CLIENTS=module once, as its readers learn to.
"""

import json
import logging
import os

import boto3
import urllib3

logger = logging.getLogger()
logger.setLevel(logging.INFO)

KOSLI_HOST = os.environ.get("KOSLI_HOST", "https://app.kosli.com")


def clients():
    # The endpoint comes from AWS_ENDPOINT_URL_SECRETS_MANAGER, as in the template from SECRETS_MANAGER_ENDPOINT.
    return boto3.client("secretsmanager"), urllib3.PoolManager()


MODULE_CLIENTS = clients() if os.environ.get("CLIENTS") == "module" else None


def lambda_handler(event, context):
    arn = event["SecretId"]
    token = event["ClientRequestToken"]
    step = event["Step"]
    service_client, http = MODULE_CLIENTS or clients()

    metadata = service_client.describe_secret(SecretId=arn)
    if not metadata["RotationEnabled"]:
        logger.error("Secret %s is not enabled for rotation", arn)
        raise ValueError(f"Secret {arn} is not enabled for rotation")
    versions = metadata["VersionIdsToStages"]
    if token not in versions:
        logger.error("Secret version %s has no stage for rotation of secret %s.", token, arn)
        raise ValueError(f"Secret version {token} has no stage for rotation of secret {arn}.")
    if "AWSCURRENT" in versions[token]:
        logger.info("Secret version %s already set as AWSCURRENT for secret %s.", token, arn)
        return
    if "AWSPENDING" not in versions[token]:
        logger.error("Secret version %s not set as AWSPENDING for rotation of secret %s.", token, arn)
        raise ValueError(f"Secret version {token} not set as AWSPENDING for rotation of secret {arn}.")

    if step == "createSecret":
        create_secret(service_client, http, arn, token)
    elif step == "setSecret":
        set_secret(service_client, arn, token)
    elif step == "testSecret":
        test_secret(service_client, http, arn, token)
    elif step == "finishSecret":
        finish_secret(service_client, arn, token)
    else:
        raise ValueError("Invalid step parameter")


def create_secret(service_client, http, arn, token):
    current = read(service_client, arn, "AWSCURRENT")
    try:
        read(service_client, arn, "AWSPENDING", token)
        logger.info("createSecret: Successfully retrieved secret for %s.", arn)
    except service_client.exceptions.ResourceNotFoundException:
        key = kosli(
            http,
            "POST",
            f"service-accounts/{current['org']}/{current['service_account']}/api-keys/{current['key_id']}/rotate",
            current["api_key"],
            {"grace_period_hours": 24},
        )
        pending = {**current, "key_id": key["id"], "api_key": key["key"]}
        service_client.put_secret_value(
            SecretId=arn, ClientRequestToken=token, SecretString=json.dumps(pending), VersionStages=["AWSPENDING"]
        )
        logger.info("createSecret: Successfully put secret for ARN %s and version %s.", arn, token)


def set_secret(service_client, arn, token):
    # Kosli has the key already.
    read(service_client, arn, "AWSPENDING", token)


def test_secret(service_client, http, arn, token):
    pending = read(service_client, arn, "AWSPENDING", token)
    kosli(http, "GET", f"environments/{pending['org']}", pending["api_key"])
    logger.info("testSecret: Kosli accepts the key of %s.", arn)


def finish_secret(service_client, arn, token):
    metadata = service_client.describe_secret(SecretId=arn)
    current_version = None
    for version, stages in metadata["VersionIdsToStages"].items():
        if "AWSCURRENT" in stages:
            if version == token:
                logger.info("finishSecret: Version %s already marked as AWSCURRENT for %s", version, arn)
                return
            current_version = version
            break
    service_client.update_secret_version_stage(
        SecretId=arn, VersionStage="AWSCURRENT", MoveToVersionId=token, RemoveFromVersionId=current_version
    )
    logger.info("finishSecret: Successfully set AWSCURRENT stage to version %s for secret %s.", token, arn)


def read(service_client, arn, stage, token=None):
    which = {"VersionId": token, "VersionStage": stage} if token else {"VersionStage": stage}
    secret = json.loads(service_client.get_secret_value(SecretId=arn, **which)["SecretString"])
    for field in ("org", "service_account", "key_id", "api_key"):
        if field not in secret:
            raise KeyError(f"{field} key is missing from secret JSON")
    return secret


def kosli(http, method, path, key, body=None):
    answer = http.request(
        method, f"{KOSLI_HOST}/api/v2/{path}", headers={"Authorization": f"Bearer {key}"}, json=body, timeout=30
    )
    if answer.status >= 300:
        raise RuntimeError(f"Kosli answered {answer.status}: {answer.data.decode()}")
    return answer.json()
