#!/usr/bin/env python3
"""soak.py [SECONDS] - mixed work for a long time (default 600 s): does anything grow or stall?

Clients with small and large calls in every form, mistakes, clients that vanish, metadata, and a
model that is loaded again and again, all at once against one daemon. A line every tenth of the
time; at the end it fails if an answer was wrong or was a server's fault, if one took longer than
STALL_S, if resident memory of the second half grew by more than GROWTH_KB, or if descriptors are
left open. BUILD names another build than build. Python's own library and curl only."""

import pathlib
import random
import socket
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "http"))
sys.dont_write_bytecode = True

import attnd  # noqa: E402: the path comes first
from attnd import Daemon  # noqa: E402: the path comes first
from tensors import MANIFEST, Tensor, golden, oip, read_oip  # noqa: E402

STALL_S, GROWTH_KB, CLIENTS = 10, 65536, 12
MISTAKES = [b"{", b'{"inputs":[]}', b"[" * 1000, b"\xff\xfe", b'{"inputs":[{"name":"x"}]}']


class Soak:
    def __init__(self, daemon, seconds):
        self.daemon, self.end = daemon, time.monotonic() + seconds
        self.lock = threading.Lock()
        self.answers, self.worst, self.wrong = 0, 0.0, []

    def note(self, seconds, failure=None):
        with self.lock:
            self.answers += 1
            self.worst = max(self.worst, seconds)
            if failure:
                self.wrong.append(failure)

    def running(self):
        return time.monotonic() < self.end and len(self.wrong) < 10

    def golden_call(self, draw):
        case = golden(draw.choice(sorted(MANIFEST)))
        body, headers = oip(case.inputs, binary=True if draw.random() < 0.7 else ())

        def judge(reply):
            if reply.status != 429:
                case.check(read_oip(reply)[0])

        return attnd.post(f"/v2/models/{case.name}/infer", body, headers), judge

    def large_call(self, draw):
        length = draw.choice((64, 500, 1000))
        query = Tensor("FP32", [2, length, 16], [0.25] * (2 * length * 16))
        question = oip({"query": query}, binary=True, parameters={"binary_data_output": True})

        def judge(reply):
            assert reply.status in (200, 429), reply.body[:200]

        return attnd.post("/v2/models/self_attention/infer", *question), judge

    def mistake(self, draw):
        def judge(reply):
            assert 400 <= reply.status < 500, reply.status
            reply.error()

        return attnd.post("/v2/models/one_token/infer", draw.choice(MISTAKES)), judge

    def look(self, draw):
        path = draw.choice(("/metrics", "/v2/models/stats", "/v2/health/live", "/openapi.json"))
        return attnd.get(path), self.served

    def reload(self, _):
        return attnd.post("/v2/repository/models/key_dim_one/load"), self.served

    @staticmethod
    def served(reply):
        assert reply.status == 200, reply.status

    def vanish(self, draw):
        body, headers = oip(golden("tails_over_128").inputs, binary=True)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST /v2/models/tails_over_128/infer HTTP/1.1\r\nHost: localhost\r\n{lines}"
        whole = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        with socket.create_connection(("127.0.0.1", self.daemon.port), timeout=30) as gone:
            gone.sendall(whole[: draw.randrange(len(whole) + 1)])

    def connection(self, draw):
        """Up to 40 questions on one connection, which is then given up for another."""
        kinds = [self.golden_call, self.large_call, self.mistake, self.look, self.reload]
        chosen = draw.choices(kinds, (74, 8, 8, 6, 2), k=draw.randrange(1, 40))
        asked = [kind(draw) for kind in chosen]
        replies = self.daemon.ask_all([question for question, _ in asked])
        for kind, (_, judge), reply in zip(chosen, asked, replies):
            try:
                judge(reply)
                self.note(reply.seconds)
            except Exception as error:  # whatever it is, it is a finding
                self.note(reply.seconds, f"{kind.__name__}: {error!r}"[:300])

    def client(self, number):
        draw = random.Random(number)
        while self.running():
            try:
                self.connection(draw)
                for _ in range(draw.randrange(12)):
                    self.vanish(draw)
            except Exception as error:
                self.note(0.0, repr(error)[:300])


def resident_kb(daemon):
    text = pathlib.Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0])


def descriptors(daemon):
    return len(list(pathlib.Path(f"/proc/{daemon.process.pid}/fd").iterdir()))


def settle(daemon, wanted):
    """Descriptors, once the daemon has seen that its clients are gone."""
    end = time.monotonic() + 30
    while descriptors(daemon) > wanted and time.monotonic() < end:
        time.sleep(0.1)
    return descriptors(daemon)


def watch(soak, daemon, seconds):
    """Resident memory, ten times; the daemon is looked at while the clients work."""
    memory = []
    for part in range(1, 11):
        while time.monotonic() < soak.end - seconds * (10 - part) / 10 and soak.running():
            time.sleep(0.05)
        if part < 10 and not soak.running():
            continue
        memory.append(resident_kb(daemon))
        print(f"{part * seconds // 10:5} s  {soak.answers:8} answers  {memory[-1]:7} KB  "
              f"slowest {soak.worst * 1000:6.0f} ms  {len(soak.wrong)} wrong", flush=True)
    return memory


def main():
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 600
    with Daemon("--allow-control", "--log-level", "error") as daemon:
        before = descriptors(daemon)
        soak = Soak(daemon, seconds)
        threads = [threading.Thread(target=soak.client, args=(n,)) for n in range(CLIENTS)]
        for thread in threads:
            thread.start()
        memory = watch(soak, daemon, seconds)
        for thread in threads:
            thread.join()
        left = settle(daemon, before) - before
    found = soak.wrong[:10]
    if soak.worst > STALL_S:
        found.append(f"an answer took {soak.worst:.1f} s")
    if len(memory) == 10 and max(memory[5:]) - memory[4] > GROWTH_KB:
        found.append(f"memory grew: {memory} KB")
    if left > 0:
        found.append(f"{left} descriptors are left open")
    print("\n".join(found) or "soak: nothing grew, nothing stalled")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
