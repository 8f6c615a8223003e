"""run.py [nginx] [haproxy] [clients] - do refusals arrive behind the proxies people have, and at
the clients people have? Prints tables of figures; exit status 1 if an answer was lost or became a
502. Figures of speed are for the eye."""

import http.client
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "http")]
sys.dont_write_bytecode = True

from attnd import BUILD, Daemon  # noqa: E402: the path comes first
from proxy import NAME, Proxy  # noqa: E402
from tensors import golden, oip  # noqa: E402

SIZES = (200, 2_800, 27_000, 270_000, 2_700_000)
ROUNDS = 30
MODEL = "one_token"
PATH = f"/v2/models/{MODEL}/infer"
LOAD = f"/v2/repository/models/{MODEL}/load"
SMALL_LIMIT = 2_000_000  # --max-body of those that are sent too much; twice it is read on

_BUSY = {"inputs": [{"name": "query", "shape": [64, 4096, 16], "datatype": "FP32",
                     "parameters": {"binary_data_size": 64 * 4096 * 16 * 4}}],
         "parameters": {"return_attention_scores": False, "binary_data_output": True}}


def _null(size):
    start = b'{"inputs":[{"name":"query","shape":[1,1,32],"datatype":"FP32","data":[null'
    return start + b",1" * ((size - len(start)) // 2)


def _zeros(size):
    return bytes(size)


# What is refused, by whom, and how: status, pair of replicas, method, path, headers, body.
CASES = (
    ("400 in the body", 400, "plain", "POST", PATH, {}, _null),
    ("400 by a header", 400, "plain", "POST", PATH,
     {"Inference-Header-Content-Length": "x"}, _zeros),
    ("403", 403, "plain", "POST", LOAD, {}, _zeros),
    ("404", 404, "plain", "POST", "/v2/models/none/infer", {}, _zeros),
    ("405", 405, "plain", "PUT", PATH, {}, _zeros),
    ("413 of a route", 413, "plain", "POST", "/v2/repository/index", {}, _zeros),
    ("413 announced", 413, "small", "POST", PATH, {}, _zeros),
    ("415", 415, "plain", "POST", PATH, {"Content-Type": "image/png"}, _zeros),
    ("429", 429, "busy", "POST", PATH, {}, _zeros),
    ("503", 503, "empty", "POST", PATH, {}, _zeros),
)
# A body that is not too long is refused for what it is.
LIMITS = {"413 of a route": 1 << 20, "413 announced": SMALL_LIMIT}


def _ask(connection, method, path, body, headers):
    """A status, or the name of what happened in its place."""
    try:
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        reply.read()
        return reply.status
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return type(error).__name__


def _cell(counts, wanted):
    lost = sum(n for status, n in counts.items() if status == 502 or isinstance(status, str))
    others = sum(counts.values()) - counts[wanted] - lost
    return f"{counts[wanted]}" + (f"+{others}" if others else "") + (f" LOST {lost}" if lost else "")


# ---- replicas ------------------------------------------------------------------------------


def _replicas(stack, *options):
    return [stack.enter_context(Daemon("--allow-host", NAME, *options)) for _ in range(2)]


def _keep_busy(daemon, until):
    """One long call after the other, so that its queue of one is full but for moments."""
    text = json.dumps(_BUSY).encode()
    body = text + bytes(64 * 4096 * 16 * 4)
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=600)
    while not until.is_set():
        _ask(connection, "POST", "/v2/models/self_attention/infer", body,
             {"Inference-Header-Content-Length": str(len(text))})
    connection.close()


class Pairs:
    """Two replicas of each kind."""

    def __init__(self, stack):
        self.pairs = {"plain": _replicas(stack),
                      "small": _replicas(stack, "--max-body", str(SMALL_LIMIT)),
                      "busy": _replicas(stack, "--threads", "1", "--max-queue", "1",
                                        "--deadline-ms", "0"),
                      "empty": _replicas(stack, "--allow-control")}
        for daemon in self.pairs["empty"]:
            reply = daemon.post(f"/v2/repository/models/{MODEL}/unload")
            assert reply.status == 200, reply.body
        self._done = threading.Event()
        self._holders = [threading.Thread(target=_keep_busy, args=(daemon, self._done))
                         for daemon in self.pairs["busy"]]

    def __enter__(self):
        for holder in self._holders:
            holder.start()
        return self.pairs

    def __exit__(self, *_):
        self._done.set()
        for holder in self._holders:
            holder.join()


# ---- behind a proxy ------------------------------------------------------------------------


def _sweep(proxy, case):
    """How often each status came, a size after the other."""
    name, wanted, _, method, path, headers, body = case
    row, bad = [], 0
    for size in SIZES:
        if size <= LIMITS.get(name, 0):
            row.append("")
            continue
        connection, sent = proxy.connection(), body(size)
        counts = Counter(_ask(connection, method, path, sent, headers) for _ in range(ROUNDS))
        connection.close()
        row.append(_cell(counts, wanted))
        bad += "LOST" in row[-1] or (wanted != 429 and counts[wanted] != ROUNDS)
    print(f"| {name} | " + " | ".join(row) + " |", flush=True)
    return bad


def _refusals(kind, pairs):
    print(f"\n{kind}: answers of {ROUNDS} to bodies of so many bytes; +: another answer of attnd\n")
    print("| refusal | " + " | ".join(f"{size:,}" for size in SIZES) + " |")
    print("|---|" + "---|" * len(SIZES))
    bad = 0
    for case in CASES:
        with Proxy(kind, pairs[case[2]]) as proxy:
            bad += _sweep(proxy, case)
    return bad


def _loop(proxy, request, until, counts):
    connection = proxy.connection()
    while not until.is_set():
        counts[_ask(connection, *request)] += 1
    connection.close()


def _together(proxy, requests, seconds):
    """So many clients for so long; the statuses each of them got."""
    until, counts = threading.Event(), [Counter() for _ in requests]
    threads = [threading.Thread(target=_loop, args=(proxy, request, until, counts[i]))
               for i, request in enumerate(requests)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    until.set()
    for thread in threads:
        thread.join()
    return counts


def _overload(kind):
    entry = {"name": "query", "shape": [4, 512, 16], "datatype": "FP32",
             "parameters": {"binary_data_size": 4 * 512 * 16 * 4}}
    text = json.dumps({"inputs": [entry]}).encode()
    request = ("POST", "/v2/models/self_attention/infer", text + bytes(4 * 512 * 16 * 4),
               {"Inference-Header-Content-Length": str(len(text))})
    with ExitStack() as stack:
        daemons = _replicas(stack, "--threads", "1", "--max-queue", "1")
        proxy = stack.enter_context(Proxy(kind, daemons))
        total = sum(_together(proxy, [request] * 12, 5), Counter())
    print(f"\n{kind}, overload, 12 clients: {dict(total)}")
    return sum(n for status, n in total.items() if status not in (200, 429))


def _bench(url):
    """Requests a second of a client that does all right, and how many failed: attn bench."""
    done = subprocess.run([str(BUILD / "attn"), "bench", url, "minilm", "--clients", "1",
                           "--seconds", "2", "--json"], capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    figures = json.loads(done.stdout)
    return figures["requests_per_second"], figures["failed"]


def _beside(proxy, request, wanted):
    """The same beside a client that asks a hundred times a second; None: beside nobody."""
    until, counts = threading.Event(), Counter()

    def ask():
        connection = proxy.connection()
        while request is not None and not until.wait(0.01):
            counts[_ask(connection, *request)] += 1
        connection.close()

    other = threading.Thread(target=ask)
    other.start()
    speed, failed = _bench(f"http://127.0.0.1:{proxy.port}")
    until.set()
    other.join()
    return speed, failed + sum(n for status, n in counts.items() if status != wanted)


def _neighbour(kind):
    """What a client that only errs costs another, beside one that asks as often and errs never."""
    good, headers = oip(golden(MODEL).inputs, binary=True)
    others = {"alone": (None, 0),
              "beside a client that errs 100 times a second":
                  (("POST", PATH, _null(27_000), {}), 400),
              "beside one that asks rightly as often": (("POST", PATH, good, headers), 200)}
    speeds, failed = {name: [] for name in others}, 0
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(kind, _replicas(stack)))
        for _ in range(3):
            for name, (request, wanted) in others.items():
                speed, wrong = _beside(proxy, request, wanted)
                speeds[name].append(speed)
                failed += wrong
    print(f"\n{kind}, requests a second of a client, median of 3: " +
          "; ".join(f"{name} {statistics.median(each):.0f}"
                    for name, each in speeds.items()) + f"; failed: {failed}")
    return failed


def _cpu_seconds(daemon):
    fields = pathlib.Path(f"/proc/{daemon.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _cost():
    """What a request costs the daemon, in processor time, whoever else is at work."""
    good, headers = oip(golden(MODEL).inputs, binary=True)
    print("\nmicroseconds of processor time, a request of one client after the other: ", end="")
    with Daemon() as daemon:
        for name, times, request in (
            ("refused, 27 kB", 3000, ("POST", PATH, _null(27_000), {})),
            ("refused, 2.7 MB", 300, ("POST", "/v2/models/none/infer", _zeros(2_700_000), {})),
            ("served, one token", 3000, ("POST", PATH, good, headers)),
            ("served, liveness", 3000, ("GET", "/v2/health/live", None, {})),
        ):
            connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)
            before = _cpu_seconds(daemon)
            for _ in range(times):
                _ask(connection, *request)
            connection.close()
            print(f"{name} {(_cpu_seconds(daemon) - before) / times * 1e6:.0f}", end="; ", flush=True)
    print()


# ---- clients -------------------------------------------------------------------------------


def _curl(url, file, times, *headers):
    options = [option for line in headers for option in ("-H", line)]
    for _ in range(times):
        done = subprocess.run(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *options,
                               "--data-binary", f"@{file}", url],
                              capture_output=True, text=True, check=False)
        yield done.stdout if done.returncode == 0 else f"curl's error {done.returncode}"


def _program(*command):
    def run(url, file, times, *headers):
        done = subprocess.run([*command, url, str(file), str(times), *headers],
                              capture_output=True, text=True, check=False)
        return done.stdout.split("\n")[:-1] if done.returncode == 0 else [done.stderr[-200:]]

    return run


CLIENTS = {"curl": _curl, "curl without Expect": lambda *a: _curl(*a, "Expect:"),
           "node's fetch": _program("node", str(HERE / "fetch.mjs")),
           "requests": _program("/usr/bin/python3", str(HERE / "post.py"))}


def _clients(pairs, times=20):
    """Every refusal, by every client, straight from the daemon; bodies of 2.7 MB."""
    print(f"\nanswers of {times} to bodies of 2.7 MB, without a proxy\n")
    print("| refusal | " + " | ".join(CLIENTS) + " |")
    print("|---|" + "---|" * len(CLIENTS))
    bad = 0
    with tempfile.NamedTemporaryFile() as file:
        for name, wanted, pair, method, path, headers, body in CASES:
            if method != "POST" or pair == "busy":
                continue
            pathlib.Path(file.name).write_bytes(body(SIZES[-1]))
            lines, row = [f"{key}: {value}" for key, value in headers.items()], []
            for run in CLIENTS.values():
                counts = Counter(run(pairs[pair][0].url + path, file.name, times, *lines))
                row.append(str(times) if set(counts) == {str(wanted)} else str(dict(counts)))
                bad += counts[str(wanted)] != times
            print(f"| {name} | " + " | ".join(row) + " |", flush=True)
    return bad


def main():
    wanted = sys.argv[1:] or ["nginx", "haproxy", "clients"]
    bad = 0
    with ExitStack() as stack, Pairs(stack) as pairs:
        if "clients" in wanted:
            bad += _clients(pairs)
            _cost()
        for kind in ("nginx", "haproxy"):
            if kind in wanted:
                bad += _refusals(kind, pairs)
    for kind in ("nginx", "haproxy"):
        if kind in wanted:
            bad += _overload(kind) + _neighbour(kind)
    print(f"\n{bad} failures")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
