"""The daemon as the tests drive it: start, ask, stop. Python's own library only."""

import atexit
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / os.environ.get("BUILD", "build")
GOLDEN = ROOT / "tests" / "golden"
EDGES = ROOT / "tests" / "edges"
BUNDLED = ROOT / "docker" / "models"
READY = re.compile(r"attnd: ready on http://127\.0\.0\.1:(\d+)$")


class Reply:
    """One answer: status, headers by lower-case name, body."""

    def __init__(self, status, headers, body):
        self.status, self.body = status, body
        self.headers = {name.lower(): value for name, value in headers}

    def json(self):
        return json.loads(self.body)

    def error(self):
        """The one sentence of a refusal; the body has to be exactly {"error": text}."""
        kind = self.headers.get("content-type")
        assert kind == "application/json", f"Content-Type of a {self.status} is {kind!r}"
        body = self.json()
        assert list(body) == ["error"] and isinstance(body["error"], str), body
        assert body["error"].strip(), "an empty sentence"
        return body["error"]


class Daemon:
    """attnd on a free port, its log kept. As a context it has to drain and exit with 0."""

    def __init__(self, *options, models=(GOLDEN, BUNDLED), **variables):
        command = [str(BUILD / "attnd"), "--listen", "127.0.0.1:0", "--drain-delay-ms", "0"]
        for directory in models:
            command += ["--models", str(directory)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ATTND_")}
        environment.update(variables)
        self.log = []
        self.process = subprocess.Popen(
            [*command, *options], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
            env=environment,
        )
        atexit.register(self.process.kill)  # a failed test leaves nothing behind
        self.port = self._read_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    def _read_port(self):
        for line in self.process.stderr:
            self.log.append(line)
            ready = READY.match(line.strip())
            if ready:
                return int(ready.group(1))
        raise RuntimeError("attnd ended before it was ready:\n" + "".join(self.log))

    def _read_log(self):
        for line in self.process.stderr:
            self.log.append(line)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.stop()
        else:
            self.process.kill()

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait(self):
        """Exit status after the end; the log is complete then."""
        status = self.process.wait(60)
        self._reader.join(10)
        return status

    def stop(self):
        if self.process.poll() is None:
            self.terminate()
        status = self.wait()
        assert status == 0, f"exit status {status}\n" + "".join(self.log[-60:])

    def assert_alive(self):
        assert self.process.poll() is None, "attnd is gone:\n" + "".join(self.log[-60:])

    def connection(self, timeout=60):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(self, method, path, body=None, headers=None):
        """One request on its own connection."""
        connection = self.connection()
        try:
            return ask_on(connection, method, path, body, headers)
        finally:
            connection.close()

    def get(self, path, **headers):
        return self.ask("GET", path, headers=headers)

    def post(self, path, body=b"", headers=None):
        if not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        return self.ask("POST", path, body, headers)

    def raw(self, data, timeout=10, finish=False):
        """Sends bytes as they are; everything that came back until the other side closed, or
        until `timeout` seconds brought nothing. finish: no more will be sent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            try:
                connection.sendall(data)
                if finish:
                    connection.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, ConnectionResetError):
                pass
            return read_all(connection)


def ask_on(connection, method, path, body=None, headers=None):
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    return Reply(response.status, response.getheaders(), response.read())


def read_all(connection):
    got = b""
    try:
        while True:
            piece = connection.recv(65536)
            if not piece:
                return got
            got += piece
    except (TimeoutError, ConnectionResetError):
        return got


def split_replies(data):
    """The answers in a stream of bytes, as Reply; bodies by Content-Length."""
    replies = []
    while data:
        head, separator, rest = data.partition(b"\r\n\r\n")
        assert separator, f"no end of headers in {data[:200]!r}"
        lines = head.decode("latin-1").split("\r\n")
        assert lines[0].startswith("HTTP/1."), lines[0]
        status = int(lines[0].split()[1])
        headers = [tuple(part.strip() for part in line.split(":", 1)) for line in lines[1:]]
        if status == 100:
            data = rest
            continue
        length = int({k.lower(): v for k, v in headers}.get("content-length", "0"))
        assert len(rest) >= length, f"{len(rest)} of {length} bytes of a body"
        replies.append(Reply(status, headers, rest[:length]))
        data = rest[length:]
    return replies


class ModelDirectory:
    """A directory of models made by a test; gone at the end of the context."""

    def __enter__(self):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="attnd-models-"))
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.path)

    def copy(self, case, name=None, only=("layer.json", "weights.safetensors")):
        """A copy of a golden case that the test may change."""
        target = self.path / (name or case)
        target.mkdir(parents=True)
        for file in only:
            shutil.copyfile(GOLDEN / case / file, target / file)
        return target
