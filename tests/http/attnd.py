"""The daemon as the tests drive it: start, ask, stop. Python's own library and curl only.

Questions are asked by the program curl, one process for one question or for many behind each other
on one connection (ask_all) or beside each other (parallel). What goes over the wire is the request
line, Host, Content-Length where there is a body, and the headers that the test gives: curl's own
Accept, Content-Type, Expect and User-Agent are taken away. Answers are not decoded. curl 7.88 and
later. raw() sends bytes as they are, for tests in which those are the matter."""

import atexit
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
import typing

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / os.environ.get("BUILD", "build")
GOLDEN = ROOT / "tests" / "golden"
EDGES = ROOT / "tests" / "edges"
BUNDLED = ROOT / "docker" / "models"
READY = re.compile(r"attnd: ready on http://127\.0\.0\.1:(\d+)$")


class Reply:
    """One answer: status, headers by lower-case name, body; from curl also how many connections
    were opened for it, and how long it took."""

    def __init__(self, status, headers, body, connects=None, seconds=None):
        self.status, self.body = status, body
        self.headers = {name.lower(): value for name, value in headers}
        self.connects, self.seconds = connects, seconds

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


class Question(typing.NamedTuple):
    """A request. body: bytes, text, or None; a POST, PUT or PATCH has one in any case. A header
    whose value is None is one that curl would add and is not to."""

    method: str
    path: str
    body: bytes | str | None = None
    headers: dict | None = None


def post(path, body=b"", headers=None):
    """A POST to be asked with others; what is neither bytes nor text becomes JSON."""
    if not isinstance(body, (bytes, str)):
        body = json.dumps(body)
    return Question("POST", path, body, headers)


def get(path, **headers):
    return Question("GET", path, headers=headers)


class Unanswered(ConnectionError):
    """curl had no answer, or not all of one; code is curl's exit status for it."""

    def __init__(self, code, text):
        super().__init__(f"curl ({code}): {text}")
        self.code = code


class Program:
    """A program at work beside the test, with files in a directory of its own. As a context: at
    the end the program is ended if it still runs, and the directory removed."""

    def __init__(self):
        self._kept = tempfile.TemporaryDirectory(prefix="attnd-test-")
        self.directory, self.process = pathlib.Path(self._kept.name), None

    def start(self, *command):
        with open(self.directory / "said", "wb") as said, \
                open(self.directory / "errors", "wb") as errors:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said,
                                            stderr=errors)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.running():
            self.process.kill()
        self.process.wait()
        self._kept.cleanup()

    def running(self):
        return self.process.poll() is None

    def wait(self):
        """Exit status, standard output and error as text."""
        status = self.process.wait()
        return status, *((self.directory / name).read_text() for name in ("said", "errors"))


class Asking(Program):
    """Questions that curl is asking. Nothing is left to chance: no configuration file, no proxy,
    HTTP/1.1, the path and its brackets as they are."""

    OPTIONS = ("http1.1", "globoff", "path-as-is", 'noproxy = "*"')
    NOT_ADDED = ("Accept", "Content-Type", "Expect", "User-Agent")

    def __init__(self, base, questions, parallel=0, timeout=60, options=()):
        super().__init__()
        self.count, self.options, self.timeout = len(questions), (*self.OPTIONS, *options), timeout
        self._bodies = {}  # files, by the object that is in them
        groups = [self._group(base, number, q) for number, q in enumerate(questions)]
        config = self.directory / "config"
        config.write_text("\nnext\n".join(groups), encoding="utf-8")
        beside = ["--parallel", "--parallel-immediate", "--parallel-max", str(parallel)]
        self.start("curl", "-q", "-sS", "--no-progress-meter", *(beside if parallel else []),
                   "-K", config)

    def _group(self, base, number, question):
        """The lines of curl's configuration for one question."""
        method, path, body, headers = question
        lines = [*self.options, f"max-time = {self.timeout}",
                 f"url = {_quoted(base + path)}",
                 f"output = {_quoted(self._file(number, 'body'))}",
                 f"dump-header = {_quoted(self._file(number, 'head'))}",
                 f'write-out = "{number} %{{json}}\\n"',
                 "head" if method == "HEAD" else f"request = {_quoted(method)}"]
        if body is not None or method in ("POST", "PUT", "PATCH"):
            lines.append(f"data-binary = {_quoted(f'@{self._sent(number, body)}')}")
        given = {**dict.fromkeys(self.NOT_ADDED), **(headers or {})}
        for name in self.NOT_ADDED:
            if any(other != name and other.lower() == name.lower() for other in given):
                del given[name]
        lines += [f"header = {_quoted(_header(*header))}" for header in given.items()]
        return "\n".join(lines)

    def _file(self, number, kind):
        return self.directory / f"{number}.{kind}"

    def _sent(self, number, body):
        """The file of a body, which is written once however often it is asked."""
        if id(body) not in self._bodies:
            self._bodies[id(body)] = self._file(number, "sent")
            self._bodies[id(body)].write_bytes(body.encode() if isinstance(body, str) else body or b"")
        return self._bodies[id(body)]

    def replies(self):
        """Waits. The answers in the questions' order; raises Unanswered if one is missing."""
        outcomes = self.outcomes()
        for outcome in outcomes:
            if isinstance(outcome, Unanswered):
                raise outcome
        return outcomes

    def outcomes(self):
        """Waits. The answers in the questions' order, Unanswered in place of one that is missing."""
        status, said, errors = self.wait()
        facts = {int(n): json.loads(text) for n, text in (line.split(" ", 1) for line in
                                                          said.splitlines())}
        if len(facts) != self.count:
            raise Unanswered(status, errors)
        return [self._outcome(number, facts[number]) for number in range(self.count)]

    def _outcome(self, number, facts):
        if facts["exitcode"] != 0:
            return Unanswered(facts["exitcode"], facts["errormsg"])
        # Interim answers (100) are blocks before the last.
        head = self._file(number, "head").read_bytes().decode("latin-1")
        lines = head.split("\r\n\r\n")[-2].split("\r\n")
        headers = [tuple(part.strip() for part in line.split(":", 1)) for line in lines[1:]]
        file = self._file(number, "body")
        body = file.read_bytes() if facts["method"] != "HEAD" and file.exists() else b""
        return Reply(facts["http_code"], headers, body, facts["num_connects"], facts["time_total"])


class Load(Program):
    """Many clients of the project's own library, each with one connection (tests/http/load.c):
    questions are asked again and again, answers have to be those given, byte by byte."""

    def __init__(self, daemon, questions, answers, clients, requests):
        super().__init__()
        entries = []
        for number, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            body, wanted = (self.directory / f"{number}.{kind}" for kind in ("body", "answer"))
            body.write_bytes(question.body)
            wanted.write_bytes(answer)
            headers = [f"{name}: {value}" for name, value in (question.headers or {}).items()]
            entries.append({"path": question.path, "headers": headers,
                            "body": str(body), "answer": str(wanted)})
        plan = self.directory / "questions.json"
        plan.write_text(json.dumps(entries))
        self.start(BUILD / "tests" / "http" / "load", daemon.url, plan, str(clients), str(requests))

    def counts(self):
        """Waits; what the program counted."""
        status, said, errors = self.wait()
        assert status == 0, f"load: exit status {status}: {errors}"
        return json.loads(said)


def _quoted(text):
    """As curl's configuration files want a value."""
    text = str(text).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") + '"'


def _header(name, value):
    """As curl takes a header: without a value it leaves its own out, with ";" it sends an empty
    one."""
    if value is None:
        return f"{name}:"
    return f"{name}: {value}" if value != "" else f"{name};"


class Daemon:
    """attnd on a free port, its log kept. As a context it has to drain and exit with 0."""

    def __init__(self, *options, models=(GOLDEN, BUNDLED), before_start=None, **variables):
        command = [str(BUILD / "attnd"), "--listen", "127.0.0.1:0", "--drain-delay-ms", "0"]
        for directory in models:
            command += ["--models", str(directory)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ATTND_")}
        environment.update(variables)
        self.log = []
        self.process = subprocess.Popen(
            [*command, *options], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
            env=environment, preexec_fn=before_start,
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

    def asking(self, questions, **how):
        """Begins to ask: a context, whose replies() waits. how: as Asking takes it."""
        return Asking(self.url, questions, **how)

    def ask_all(self, questions, **how):
        """Answers to many questions, each asked after the other on one connection; parallel=N: on
        up to N connections at a time, in no order."""
        with self.asking(questions, **how) as asking:
            return asking.replies()

    def ask(self, method, path, body=None, headers=None):
        """One request on its own connection."""
        (reply,) = self.ask_all([Question(method, path, body, headers)])
        return reply

    def get(self, path, **headers):
        return self.ask("GET", path, headers=headers)

    def post(self, path, body=b"", headers=None):
        return self.ask(*post(path, body, headers))

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
