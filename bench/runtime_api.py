"""A Lambda Runtime API for one process, which takes the time of what the process does.

Source: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

import json
import os
import selectors
import signal
import socket
import time
from collections import namedtuple

FUNCTION_NAME = "kosli-key-rotation"
FUNCTION_ARN = f"arn:aws:lambda:eu-west-1:123456789012:function:{FUNCTION_NAME}"

# Under valgrind, Python takes tens of seconds for what it does in one.
PATIENCE_S = 300

Request = namedtuple("Request", "connection method path body at")


class Process:
    """A function's process, from its start until it is ended. It is measured from outside: it runs as it would on Lambda."""

    def __init__(self, command, environment):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._received = {}
        variables = {
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._listener.getsockname()[1]}",
            "AWS_LAMBDA_FUNCTION_NAME": FUNCTION_NAME,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{FUNCTION_NAME}",
            "AWS_LAMBDA_LOG_STREAM_NAME": "bench",
            # As in the template.
            "AWS_LAMBDA_LOG_FORMAT": "JSON",
            "AWS_LAMBDA_LOG_LEVEL": "INFO",
            "AWS_REGION": "eu-west-1",
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_ACCESS_KEY_ID": "made-up",
            "AWS_SECRET_ACCESS_KEY": "made-up",
            "AWS_SESSION_TOKEN": "made-up",
            **environment,
        }
        files = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        ]
        began = time.perf_counter()
        # Less work than subprocess, whose own share would blur the comparison.
        self.pid = os.posix_spawn(command[0], command, variables, file_actions=files)
        self._next = self._request()
        assert self._next.path.endswith("/invocation/next"), self._next
        self.start_s = self._next.at - began
        self._count = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def invoke(self, event):
        """What the function answers, and how long it took; an error of the function's is an error here."""
        self._count += 1
        began = time.perf_counter()
        self._answer(self._next.connection, 200, json.dumps(event), {
            "Lambda-Runtime-Aws-Request-Id": f"00000000-0000-4000-8000-{self._count:012}",
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + PATIENCE_S) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": FUNCTION_ARN,
            "Lambda-Runtime-Trace-Id": "Root=1-00000000-000000000000000000000000;Sampled=0",
        })
        outcome = self._request()
        self._answer(outcome.connection, 202, '{"status":"OK"}', {})
        if not outcome.path.endswith("/response"):
            raise RuntimeError(f"{outcome.path}: {outcome.body.decode(errors='replace')}")
        self._next = self._request()
        return json.loads(outcome.body), outcome.at - began

    def peak_memory(self):
        """In bytes: the most that was ever resident."""
        with open(f"/proc/{self.pid}/status") as status:
            peak = next(line for line in status if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024

    def end(self):
        """Ends it as Lambda does where there are no extensions; valgrind writes what it has counted."""
        if self.pid is None:
            return
        # What comes after the request for the next event (the registration of a wait) belongs to the start as well.
        time.sleep(0.05)
        os.kill(self.pid, signal.SIGTERM)
        os.waitpid(self.pid, 0)
        self.pid = None
        for connection in list(self._received):
            self._forget(connection)
        self._selector.close()
        self._listener.close()

    def _request(self):
        """The next request, and when all of it was here."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for key, _ in self._selector.select(timeout=1):
                if key.fileobj is self._listener:
                    connection, _ = self._listener.accept()
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._received[connection] = b""
                    self._selector.register(connection, selectors.EVENT_READ)
                    continue
                connection = key.fileobj
                piece = connection.recv(1 << 16)
                if not piece:
                    self._forget(connection)
                    continue
                self._received[connection] += piece
                at = time.perf_counter()
                if parsed := parse(self._received[connection]):
                    method, path, body, rest = parsed
                    self._received[connection] = rest
                    return Request(connection, method, path, body, at)
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                raise RuntimeError("the process has ended")
        raise TimeoutError("the process asks for nothing")

    def _forget(self, connection):
        del self._received[connection]
        self._selector.unregister(connection)
        connection.close()

    @staticmethod
    def _answer(connection, status, body, headers):
        body = body.encode()
        headers = {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        connection.sendall(f"HTTP/1.1 {status} OK\r\n{head}\r\n".encode() + body)


def parse(received):
    """Method, path, body and what follows, if there is a whole request."""
    head, separator, rest = received.partition(b"\r\n\r\n")
    if not separator:
        return None
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    method, path, _ = first.split(" ")
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while True:
            size, separator, rest = rest.partition(b"\r\n")
            if not separator or len(rest) < int(size, 16) + 2:
                return None
            length = int(size, 16)
            body, rest = body + rest[:length], rest[length + 2:]
            if length == 0:
                return method, path, body, rest
    length = int(headers.get("content-length", "0"))
    if len(rest) < length:
        return None
    return method, path, rest[:length], rest[length:]
