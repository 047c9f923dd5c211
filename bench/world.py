"""The emulator over HTTPS, with secrets to rotate, and made-up certificates for it."""

import datetime
import ipaddress
import json
import re
import subprocess
import threading
import urllib.request
import uuid

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from runtime_api import FUNCTION_ARN


class World:
    """Both services, until the block ends. `folder` is for the certificates."""

    def __init__(self, emulator, folder):
        self._emulator = emulator
        self.authority = folder / "authority.pem"
        self._identity = folder / "identity.pem"
        make_certificates(self.authority, self._identity)

    def __enter__(self):
        self._process = subprocess.Popen(
            [self._emulator, "serve", "--port", "0", "--https-pem", self._identity], stdout=subprocess.PIPE, text=True
        )
        addresses = {}
        while len(addresses) < 2:
            line = self._process.stdout.readline()
            if found := re.search(r"listen on (https?)://127\.0\.0\.1:([0-9]+) ", line):
                addresses[found[1]] = int(found[2])
            assert line, "the emulator has ended"
        threading.Thread(target=self._process.stdout.read, daemon=True).start()
        self._plain = f"http://127.0.0.1:{addresses['http']}"
        # Two names, so that nobody can use one connection for both services.
        self.environment = {
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": f"https://localhost:{addresses['https']}",
            "KOSLI_HOST": f"https://127.0.0.1:{addresses['https']}",
        }
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()

    def new_rotation(self):
        """A secret of its own account, with a rotation that has begun: the event of its first step."""
        account = f"bench-{uuid.uuid4()}"
        name, token = f"kosli/{account}", str(uuid.uuid4())
        self._aws("CreateSecret", Name=name, ClientRequestToken=str(uuid.uuid4()), SecretString=self._document(account))
        # The emulator waits for a function that polls its own Runtime API, in vain: the steps are delivered here.
        answer = self._aws("RotateSecret", SecretId=name, ClientRequestToken=token, RotationLambdaARN=FUNCTION_ARN)
        return {"SecretId": answer["ARN"], "ClientRequestToken": token, "Step": "createSecret"}

    def new_pending(self):
        """The same with a key under AWSPENDING: the event of testSecret, which may be delivered any number of times."""
        event = self.new_rotation()
        account = event["SecretId"].rsplit("/", 1)[1].rsplit("-", 1)[0]
        self._aws("PutSecretValue", SecretId=event["SecretId"], ClientRequestToken=event["ClientRequestToken"],
                  SecretString=self._document(account), VersionStages=["AWSPENDING"])
        return {**event, "Step": "testSecret"}

    def label(self, event):
        """The labels of the version that the event names."""
        return self._aws("DescribeSecret", SecretId=event["SecretId"])["VersionIdsToStages"][event["ClientRequestToken"]]

    def _document(self, account):
        """A secret's value with a new key, which may rotate itself."""
        key = self._post("/_emulator/kosli/keys", {"org": "acme", "service_account": account, "role": "admin"})
        return json.dumps({"api_key": key["key"], "org": "acme", "service_account": account, "key_id": key["id"]})

    def _aws(self, operation, **fields):
        headers = {
            "X-Amz-Target": f"secretsmanager.{operation}",
            "Authorization": "AWS4-HMAC-SHA256 Credential=made-up",
            "Content-Type": "application/x-amz-json-1.1",
        }
        return self._post("/", fields, headers)

    def _post(self, path, fields, headers={}):
        request = urllib.request.Request(self._plain + path, json.dumps(fields).encode(), headers)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)


def make_certificates(authority_file, identity_file):
    """A root, an intermediate authority and a server's certificate, all with RSA-2048: AWS's services show such chains."""
    root, root_key = certificate("made-up root", None, None, True)
    intermediate, intermediate_key = certificate("made-up intermediate", root, root_key, True)
    server, server_key = certificate("made-up server", intermediate, intermediate_key, False)
    pem = serialization.Encoding.PEM
    key = server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    authority_file.write_bytes(root.public_bytes(pem))
    identity_file.write_bytes(server.public_bytes(pem) + intermediate.public_bytes(pem) + key)


def certificate(name, issuer, issuer_key, is_authority):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = issuer_key or key
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if is_authority:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
    else:
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256()), key
