"""The function's real executable, invoked as Lambda does it, and the emulator's Kosli for it to talk to."""

import http.server
import json
import os
import queue
import re
import subprocess
import threading
import time
import urllib.request

from stack import FUNCTION_ARN, NAME, REGION, ROOT

EXECUTABLE = os.environ.get("FUNCTION_EXECUTABLE", str(ROOT / "target/debug/kosli-key-rotation"))
EMULATOR = os.environ.get("EMULATOR_EXECUTABLE", str(ROOT / "target/debug/emulator"))
TIMEOUT_SECONDS = 90


class Function:
    """One execution environment. `invoke` gives the answer, or {"errorType", "errorMessage"}."""

    def __init__(self, environment):
        self.events = queue.Queue()
        self.outcomes = queue.Queue()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), runtime_api(self))
        # The process is killed while it waits for the next event.
        self.server.handle_error = lambda *_: None
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.process = subprocess.Popen(
            [EXECUTABLE],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={
                "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self.server.server_port}",
                "AWS_LAMBDA_FUNCTION_NAME": NAME,
                "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
                "AWS_REGION": REGION,
                "AWS_ACCESS_KEY_ID": "made-up",
                "AWS_SECRET_ACCESS_KEY": "made-up",
                **environment,
            },
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.events.put(None)
        self.server.shutdown()
        self.server.server_close()

    def invoke(self, event):
        self.events.put(event)
        return self.outcomes.get(timeout=TIMEOUT_SECONDS)


def runtime_api(function):
    """https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html"""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            event = function.events.get()
            if event is None:
                self.close_connection = True
                return
            deadline = int((time.time() + TIMEOUT_SECONDS) * 1000)
            self.answer(200, event, {
                "Lambda-Runtime-Aws-Request-Id": "8476a536-e9f4-11e8-9739-2dfe598c3fcd",
                "Lambda-Runtime-Deadline-Ms": str(deadline),
                "Lambda-Runtime-Invoked-Function-Arn": FUNCTION_ARN,
            })

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"])) if "Content-Length" in self.headers else self.chunks()
            self.answer(202, {"status": "OK"}, {})
            function.outcomes.put(json.loads(body))

        def chunks(self):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def answer(self, status, value, headers):
            body = json.dumps(value).encode()
            self.send_response(status)
            for name, header in {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}.items():
                self.send_header(name, header)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Nothing to say."""

    return Handler


class Kosli:
    """The emulator, of which only Kosli is used here."""

    def __enter__(self):
        self.process = subprocess.Popen([EMULATOR, "serve", "--port", "0"], stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if found := re.search(r"listen on (http://[0-9.:]+) ", line):
                self.host = found[1]
                break
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def key(self, organization, account):
        """A new key: (id, value)."""
        request = {"org": organization, "service_account": account, "role": "admin"}
        with urllib.request.urlopen(f"{self.host}/_emulator/kosli/keys", json.dumps(request).encode()) as answer:
            key = json.load(answer)
        return key["id"], key["key"]
