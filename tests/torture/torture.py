"""torture.py FAILING.SO [--quick] [--seed N] [NAME...] - no allocation that fails gives a wrong answer.

The daemon runs with failing.c preloaded, which refuses allocations on demand, whoever asks.

  start     the n-th allocation of a start fails, n = 1 to 200 and then 200 random ones: the daemon
            ends with a status that is not 0 and a line that says why, or it serves; what it serves
            is right, and it is not ready while it does not serve a model.
  requests  for each request of cases.py the n-th allocation from when it is sent fails, n = 1 to
            200 or until it asks for no more: the answer is the right one to the byte, a 500 or 503
            that is one sentence, or the connection closes. Asked again without failures, the
            answer is the right one.
  first     the same for the first request after a start, when nothing is warm.
  random    random allocations of random requests, two and twenty in a row, and all from there on.

After requests and random no block of memory and no descriptor is left over. --quick takes a part
of the points. NAMEs pick parts, or requests by their names. Prints the figures, and last a line
"N passed, M failed"; the exit status is 1 if anything was wrong. Python's own
library and curl only."""

import argparse
import collections
import mmap
import os
import pathlib
import random
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "http")]
sys.dont_write_bytecode = True

from attnd import BUILD, GOLDEN, READY, Asking, Unanswered  # noqa: E402: the path comes first
from cases import FIRST, MODELS, ORIGIN, READINESS, UPLOAD, all_requests, plain_request  # noqa: E402

PARTS = ("start", "requests", "first", "random")
CONTROL = struct.Struct("<QQQQq")  # as failing.c's struct control
NEVER, ALL = 1 << 40, 1 << 40
HANG_S = 60
GONE_S = 0.2  # for the end of a process that gave no answer
BROKEN_OFF = (7, 18, 52, 55, 56)  # curl's: not taken in, cut, empty, neither sent nor received
KEPT_BLOCKS = 4  # a buffer that was not needed before may be kept for the next request
SHOWN = 40


class Wrong(Exception):
    """A finding."""


# ---- a daemon whose allocations fail ----------------------------------------------------------


class Control:
    """The file that arms the failures of a process that it is given to."""

    def __init__(self):
        self.file = tempfile.NamedTemporaryFile(prefix="attnd-failing-")
        self.file.write(bytes(CONTROL.size))
        self.file.flush()
        self.map = mmap.mmap(self.file.fileno(), CONTROL.size)

    def arm(self, first, run=1):
        struct.pack_into("<QQQ", self.map, 8, run, 0, 0)
        struct.pack_into("<Q", self.map, 0, first)

    def disarm(self):
        """How many allocations there were, and how many of them failed."""
        struct.pack_into("<Q", self.map, 0, 0)
        _, _, count, failed, _ = CONTROL.unpack_from(self.map)
        return count, failed

    def live(self):
        return CONTROL.unpack_from(self.map)[4]


class Daemon:
    """attnd with failing allocations, started; whether it serves is for serves() to say."""

    def __init__(self, library, control):
        command = [str(BUILD / "attnd"), "--listen", "127.0.0.1:0", "--drain-delay-ms", "0",
                   "--threads", "2", "--log-level", "error", "--allow-control",
                   "--cors-origin", ORIGIN]
        for model in MODELS:
            command += ["--model", f"{model}={GOLDEN / model}"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ATTND_")}
        environment |= {"LD_PRELOAD": str(library), "FAILING_FILE": control.file.name}
        self.control, self.port, self.log = control, 0, []
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, text=True, errors="replace",
                                        env=environment)
        self.known = threading.Event()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line)
            ready = READY.match(line.strip())
            if ready:
                self.port = int(ready.group(1))
                self.known.set()
        self.known.set()

    def serves(self):
        """False: it has ended, or is about to."""
        if not self.known.wait(HANG_S):
            self.process.kill()
            raise Wrong("hangs at its start")
        return self.port != 0

    def ask(self, request):
        """The answer; None: the connection closed before it was whole."""
        return self.ask_all([request])[0]

    def ask_all(self, requests):
        """The answers, in order; None where there is none."""
        questions = [request.question for request in requests]
        with Asking(f"http://127.0.0.1:{self.port}", questions, timeout=HANG_S) as asking:
            return [self._answer(reply) for reply in asking.outcomes()]

    @staticmethod
    def _answer(reply):
        if not isinstance(reply, Unanswered):
            return reply
        if reply.code in BROKEN_OFF:
            return None
        raise Wrong(f"no answer, {reply}")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def wait(self):
        """Exit status of a daemon that ends."""
        try:
            status = self.process.wait(HANG_S)
        except subprocess.TimeoutExpired as error:
            self.process.kill()
            raise Wrong("does not end") from error
        self.reader.join(HANG_S)
        return status

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def is_gone(self, seconds):
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self.reader.join(HANG_S)
        return True

    def last_words(self):
        return "".join(self.log[-5:]).strip()


# ---- judging ------------------------------------------------------------------------------------


def difference(got, right):
    """Where two answers part."""
    if got[:2] != right[:2]:
        return f"{got[:2]}, right: {right[:2]}"
    pairs = enumerate(zip(got[2], right[2]))
    at = next((i for i, (a, b) in pairs if a != b), min(len(got[2]), len(right[2])))
    first = max(at - 60, 0)
    return f"at byte {at}: {got[2][first : at + 120]!r}, right: {right[2][first : at + 120]!r}"


def judge(request, reply, right):
    """What an answer under failure is: "right", "closed", a status. Raises Wrong."""
    if reply is None:
        return "closed"
    got = request.normal(reply)
    if got == right:
        return "right"
    if reply.status not in (500, 503):
        raise Wrong(f"answers {reply.status}; {difference(got, right)}")
    if request.question.method != "HEAD":
        try:
            assert reply.json()["error"].strip(), "an empty sentence"
        except (AssertionError, KeyError, ValueError) as error:
            raise Wrong(f"a {reply.status} that is no sentence: {reply.body!r}: {error!r}") from error
    return str(reply.status)


def check(request, reply, right):
    """An answer without failures."""
    if reply is None:
        raise Wrong("the next answer is none")
    if request.normal(reply) != right:
        raise Wrong("the next answer is wrong; " + difference(request.normal(reply), right))


class Figures:
    """What was tried and what came of it."""

    def __init__(self):
        self.points, self.outcomes = collections.Counter(), collections.Counter()
        self.crashes = self.wrong = 0
        self.findings = []

    def tried(self, part, outcome):
        self.points[part] += 1
        self.outcomes[outcome] += 1

    def found(self, where, what, crash=False):
        self.crashes += crash
        self.wrong += not crash
        self.findings.append(f"{where}: {what}".replace("\n", " | "))
        if len(self.findings) <= SHOWN:
            print(self.findings[-1], flush=True)

    def print(self):
        for title, counts in (("points", self.points), ("outcomes", self.outcomes)):
            print(f"torture: {title}: " + ", ".join(f"{key} {n}" for key, n in sorted(counts.items())))
        failed = self.crashes + self.wrong
        print(f"torture: {self.crashes} crashes, {self.wrong} wrong answers")
        print("".join(f"FAILED  {finding}\n" for finding in self.findings[:SHOWN]), end="")
        print(f"{max(sum(self.points.values()) - failed, 0)} passed, {failed} failed")


# ---- one daemon under failing requests ------------------------------------------------------------


class Session:
    """A daemon, the right answers of all requests, and what becomes of them under failures."""

    def __init__(self, library, figures, requests):
        self.library, self.figures, self.requests = library, figures, requests
        self.control, self.daemon, self.right = Control(), None, {}
        self.descriptors = 0
        self.open()

    def open(self):
        self.daemon = Daemon(self.library, self.control)
        if not self.daemon.serves():
            raise RuntimeError("attnd does not start: " + self.daemon.last_words())
        self.descriptors = self.daemon.descriptors()
        self.daemon.ask(UPLOAD)  # so that lists of models stay as they are
        self.right = {request.name: self.right_answer(request) for request in self.requests}

    def right_answer(self, request):
        first, second = (request.normal(reply) for reply in self.ask_twice(request))
        if first != second:
            raise RuntimeError(f"{request.name}, without failures: {difference(first, second)}")
        return first

    def ask_twice(self, request):
        """Without failures, and without effect on what comes after."""
        if not request.undo:
            return self.daemon.ask_all([request, request])
        return self.daemon.ask_all([request, request.undo] * 2)[::2]

    def ask_again(self, request):
        """After a request that failed or not."""
        if not request.undo:
            return self.daemon.ask(request)
        return self.daemon.ask_all([request.undo, request, request.undo])[1]

    def point(self, part, request, first, run=1):
        """A request with failures, then without. How many allocations the first one had."""
        where = f"{part}: {request.name}, allocation {first}" + (f", {run} in a row" if run > 1 else "")
        self.control.arm(first, run)
        count = failed = 0
        try:
            answer = self.daemon.ask(request)
            count, failed = self.control.disarm()
            outcome = judge(request, answer, self.right[request.name])
            check(request, self.ask_again(request), self.right[request.name])
            self.figures.tried(part, outcome if failed else "not reached")
        except Wrong as error:
            self.control.disarm()
            self.figures.tried(part, "failed")
            self.note(where, error)
        return count

    def note(self, where, error):
        """A finding; a daemon that is gone is replaced."""
        gone = self.daemon.is_gone(GONE_S)
        if not gone:
            self.figures.found(where, error)
            return
        status = self.daemon.process.returncode
        self.figures.found(where, f"ended with {status}: {self.daemon.last_words()}", crash=True)
        self.open()

    def each(self, part, step, limit):
        for request in self.requests:
            first = 1
            while first <= limit and self.point(part, request, first) >= first:
                first += step

    def at_random(self, part, draw, points):
        for i in range(points):
            request = draw.choice(self.requests)
            self.point(part, request, draw.randint(1, 150), (1, 2, 20, ALL)[i % 4])

    def settled(self, measure, wanted):
        """A measure, once it is no more than wanted, or after a while."""
        end = time.monotonic() + 10
        while measure() > wanted and time.monotonic() < end:
            time.sleep(0.01)
        return measure()

    def leaks(self, part, work):
        """Does the work and looks what is left over of it; every request was answered before, so
        that what the daemon keeps for the next one is there."""
        self.settled(self.daemon.descriptors, self.descriptors)
        daemon, live = self.daemon, self.control.live()
        work()
        if daemon is not self.daemon:
            return  # it crashed, which was told
        blocks = self.settled(self.control.live, live) - live
        files = self.settled(self.daemon.descriptors, self.descriptors) - self.descriptors
        print(f"torture: {part}: {blocks} blocks of memory more, {files} descriptors", flush=True)
        if blocks > KEPT_BLOCKS:
            self.figures.found(part, f"{blocks} blocks of memory are left")
        if files > 0:
            self.figures.found(part, f"{files} descriptors are left")

    def close(self):
        status = self.daemon.stop()
        if status != 0:
            self.figures.found("the end", f"exit status {status}: {self.daemon.last_words()}", status < 0)


# ---- starts ---------------------------------------------------------------------------------------


class Starts:
    """Daemons that are started under failures."""

    def __init__(self, library, figures):
        self.library, self.figures = library, figures
        self.control = Control()
        self.models = [plain_request(model) for model in MODELS]
        self.control.arm(NEVER)
        daemon = Daemon(library, self.control)
        daemon.serves()
        self.count, _ = self.control.disarm()
        self.requests = [READINESS, *self.models, *FIRST]
        self.right = {r.name: r.normal(daemon.ask(r)) for r in self.requests}
        daemon.stop()

    def judge_ended(self, daemon):
        status = daemon.wait()
        if status <= 0:
            raise Wrong(f"ended with {status}: {daemon.last_words()}")
        if not daemon.last_words():
            raise Wrong(f"ended with {status} without a word")
        return f"start refused, status {status}"

    def judge_serving(self, daemon):
        """Every model answers right; or it is refused, and readiness is too."""
        ready = judge(READINESS, daemon.ask(READINESS), self.right[READINESS.name])
        served = {judge(m, daemon.ask(m), self.right[m.name]) for m in self.models}
        if served == {"right"} and ready == "right":
            return "started whole"
        if "right" not in (ready, *served - {"right"}):
            return "started without a model, and not ready"
        raise Wrong(f"ready: {ready}, models: {served}")

    def point(self, first):
        daemon = None
        try:
            self.control.arm(first)
            daemon = Daemon(self.library, self.control)
            serves = daemon.serves()
            self.control.disarm()
            outcome = self.judge_serving(daemon) if serves else self.judge_ended(daemon)
            if serves and daemon.stop() != 0:
                raise Wrong(f"served, and ended with {daemon.process.returncode}")
            self.figures.tried("start", outcome)
        except Wrong as error:
            self.control.disarm()
            daemon.stop()
            self.figures.tried("start", "failed")
            crash = daemon.process.returncode < 0
            self.figures.found(f"start: allocation {first} of {self.count}", error, crash)

    def first_point(self, request, first):
        """The first request of a daemon fails. Whether it was reached."""
        daemon = Daemon(self.library, self.control)
        failed = 0
        try:
            if not daemon.serves():
                raise Wrong(f"does not start: {daemon.last_words()}")
            self.control.arm(first)
            answer = daemon.ask(request)
            _, failed = self.control.disarm()
            outcome = judge(request, answer, self.right[request.name])
            check(request, daemon.ask(request), self.right[request.name])
            if daemon.stop() != 0:
                raise Wrong(f"ended with {daemon.process.returncode}")
            self.figures.tried("first", outcome if failed else "not reached")
        except Wrong as error:
            self.control.disarm()
            gone = daemon.is_gone(GONE_S)
            words = f"ended with {daemon.process.returncode}: {daemon.last_words()}" if gone else error
            daemon.stop()
            self.figures.tried("first", "failed")
            self.figures.found(f"first: {request.name}, allocation {first}", words, gone)
            failed = 1
        return failed > 0


def torture_starts(starts, quick, draw):
    print(f"torture: a start has {starts.count} allocations", flush=True)
    for first in range(1, 201, 12 if quick else 1):
        starts.point(first)
    for _ in range(30 if quick else 200):
        starts.point(draw.randint(1, starts.count))


def torture_first(starts, quick):
    for request in FIRST:
        first = 1
        while first <= 200 and starts.first_point(request, first):
            first += 16 if quick else 1


# ---- all of it --------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("library", type=lambda text: pathlib.Path(text).resolve())
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_intermixed_args()
    quick, draw, figures = arguments.quick, random.Random(arguments.seed), Figures()
    parts = [part for part in PARTS if part in arguments.names or not set(PARTS) & set(arguments.names)]
    names = set(arguments.names) - set(PARTS)
    requests = [r for r in all_requests() if r.name in names or not names]
    began = time.monotonic()
    if {"start", "first"} & set(parts):
        starts = Starts(arguments.library, figures)
        if "start" in parts:
            torture_starts(starts, quick, draw)
        if "first" in parts:
            torture_first(starts, quick)
    if {"requests", "random"} & set(parts):
        session = Session(arguments.library, figures, requests)
        if "requests" in parts:
            session.leaks("requests", lambda: session.each("requests", 7 if quick else 1, 200))
        if "random" in parts:
            session.leaks("random", lambda: session.at_random("random", draw, 100 if quick else 1000))
        session.close()
    print(f"torture: {time.monotonic() - began:.1f} s")
    figures.print()
    return 1 if figures.crashes or figures.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
