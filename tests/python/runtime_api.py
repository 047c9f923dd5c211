"""A Lambda Runtime API for one function at a time."""

import subprocess
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from json import dumps, loads
from queue import Queue
from threading import Thread

PREFIX = "/2018-06-01/runtime/invocation/"


class RuntimeApi:
    """Runs the executable, and invokes it."""

    def __init__(self, executable, variables, log, arn="arn:aws:lambda:eu-west-1:123456789012:function:f"):
        events, self._outcomes = Queue(), Queue()
        self._events, outcomes = events, self._outcomes

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                body = dumps(events.get()).encode()
                self.send_response(200)
                self.send_header("Lambda-Runtime-Aws-Request-Id", "1")
                self.send_header("Lambda-Runtime-Deadline-Ms", str(int((time.time() + 90) * 1000)))
                self.send_header("Lambda-Runtime-Invoked-Function-Arn", arn)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self):
                body = loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()
                # `1/response` or `1/error`
                outcomes.put((self.path.removeprefix(PREFIX), body))

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        Thread(target=self._server.serve_forever, daemon=True).start()
        variables = {
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_port}",
            "AWS_LAMBDA_FUNCTION_NAME": "kosli-key-rotation",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
            "AWS_LAMBDA_LOG_LEVEL": "TRACE",
            **variables,
        }
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [executable], env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def invoke(self, event):
        """What the function answers; an error fails the test."""
        how, answer = self.outcome(event)
        assert how == "1/response", answer
        return answer

    def outcome(self, event):
        """`1/response` and what the function answers, or `1/error` and the error."""
        self._events.put(event)
        return self._outcomes.get(timeout=60)

    def stop(self):
        self._process.kill()
        self._process.wait(60)
        self._server.shutdown()
