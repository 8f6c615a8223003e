"""attnd beside Triton, mosec and FastAPI + orjson, and beside the bare torch call without a server.

    servers.py --attnd build/attnd --engine build/engine_turns --out build/bench-servers
               [--servers attnd,triton,mosec,fastapi] [--cases "bin 16,json 128s,..."]
               [--heap-count build/heap_count.so] [--rounds 5] [--seconds 2] [--no-mixed]

The layer is workload.py's, float32, no mask, no relative positions, two threads inside everybody.
Cases are "bin" or "json", T of a [1,T,768] call, "s" with scores. wrk posts fixed bodies over
keep-alive connections of the loopback, 1 and 8 of them. All servers run during the whole test and
sleep outside their turn (Triton dies of being stopped: it takes its backend for dead). Rounds go
A B C ... A B C; a ratio is the median over the rounds of ours / theirs in the same round. Each
answer is checked against float64 first.

Writes servers.csv and servers.svg, prints the tables; exit status 1 if a bar is missed.
It installs nothing: see `make bench-servers`. It says nothing about hostile clients: that is
tests/faults.
"""

import argparse
import collections
import csv
import json
import os
import pathlib
import statistics
import struct
import subprocess
import sys
import time

import numpy as np

import plot
import workload
from peers import Engine, machine
from server_processes import PEERS, Server, answer_of, body_of, install_mb, split_case

HERE = pathlib.Path(__file__).resolve().parent
CASES = tuple(f"{form} {t}{s}" for form in ("bin", "json") for t in (16, 128) for s in ("", "s"))


# ---- measuring -----------------------------------------------------------------------------


def wrk(server, request, connections, seconds):
    path, body_file, headers = request
    flat = [word for pair in headers.items() for word in pair]
    return subprocess.Popen(
        [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds}s",
            "--timeout",
            "60s",
            "-s",
            HERE / "post.lua",
            f"http://127.0.0.1:{server.port}{path}",
            "--",
            body_file,
            *flat,
        ],
        stdout=subprocess.PIPE,
        text=True,
    )


def wrk_result(process):
    output = process.communicate()[0]
    return json.loads(output.strip().splitlines()[-1])


def turn(server, request, connections, seconds):
    """One server's turn: a short warm-up, then the measurement with its CPU time."""
    path, file, headers = request
    body, warm_end = file.read_bytes(), time.monotonic() + 0.2
    while time.monotonic() < warm_end:
        server.post(path, body, headers)
    before = server.cpu_seconds()
    result = wrk_result(wrk(server, request, connections, seconds))
    result["cpu_ms"] = (server.cpu_seconds() - before) * 1e3 / max(1, result["requests"])
    result["rps"] = result["requests"] / result["seconds"]
    if result["errors"] or not result["requests"]:
        raise RuntimeError(f"{server.name}: {result['errors']} errors in a turn")
    return result


class Bench:
    def __init__(self, args):
        self.args, self.out = args, pathlib.Path(args.out).resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.cases = args.cases.split(",")
        self.rows = workload.inputs()
        self.servers, self.requests, self.idle_mb = [], {}, {}
        # {(case, connections, name): {"p50_ms": [of round 0, ...], ...}}
        self.samples = collections.defaultdict(lambda: collections.defaultdict(list))
        self.engines = []

    def start(self):
        for name in self.args.servers.split(","):
            for case in CASES:
                self._request(name, case)
            server = Server(name, self.out, self.args)
            try:
                path, file, headers = self.requests[name, "bin 16"]
                server.start(path, file.read_bytes(), headers)
            except RuntimeError as error:
                server.stop()
                print(f"{error}", file=sys.stderr)
                continue
            self.servers.append(server)
            self.idle_mb[name] = server.memory_mb()
            self._check(server)
        weights = self.out / "weights"
        workload.write_directory(weights, positions=False)
        log = open(self.out / "engines.log", "w")
        self.engines = [Engine("bare torch", [sys.executable, PEERS / "torch_layer.py", "2"], log)]
        if os.path.exists(self.args.engine):
            self.engines.append(
                Engine("engine", [os.path.abspath(self.args.engine), weights, "2"], log)
            )

    def _request(self, name, case):
        x = workload.query(self.rows, 1, split_case(case)[1])
        path, body, headers = body_of(name, case, x)
        file = self.out / f"{name}-{case.replace(' ', '-')}.body"
        file.write_bytes(body)
        self.requests[name, case] = (path, file, headers)

    def _check(self, server):
        for case in CASES:
            _, length, scores = split_case(case)
            x = workload.query(self.rows, 1, length)
            expected = workload.reference(x, positions=False, mask=False)
            path, file, headers = self.requests[server.name, case]
            answer = answer_of(server.name, case, *server.post(path, file.read_bytes(), headers))
            worst = [
                float(np.abs(got - want).max())
                for got, want in zip(answer, expected)
                if got is not None
            ]
            if len(worst) != 1 + scores or max(worst) > 1e-4:
                raise RuntimeError(f"{server.name} answers {case} wrong: {worst}")

    def run(self):
        for case in self.cases:
            form, length, scores = split_case(case)
            variant = "f32+s" if scores else "f32"
            for _ in range(self.args.rounds):
                for connections in (1, 8):
                    for server in self.servers:
                        self._keep(
                            case,
                            connections,
                            server.name,
                            turn(
                                server,
                                self.requests[server.name, case],
                                connections,
                                self.args.seconds,
                            ),
                        )
                if form == "bin":
                    self._engine_turns(case, length, variant)

    def _engine_turns(self, case, length, variant):
        ms = self.args.seconds * 500
        for engine in self.engines:
            ours = engine.name == "engine"
            name = variant + ".nomask" if ours else variant
            p50 = float(engine.ask(f"time 1 {length} {name} {ms}")[0])
            self._keep(case, 1, engine.name, {"p50_ms": p50})
            if ours:
                rps = float(engine.ask(f"load 1 {length} {name} {ms} 8")[0])
                self._keep(case, 8, engine.name, {"rps": rps})

    def _keep(self, case, connections, name, result):
        for key, value in result.items():
            self.samples[case, connections, name][key].append(value)

    def mixed(self):
        """p99 of eight clients of T=16 beside one of T=2048 (attnd alone)."""
        server = next((s for s in self.servers if s.name == "attnd"), None)
        if not server:
            return None
        x = workload.query(self.rows, 1, workload.MAX_ROWS)
        path, body, headers = body_of("attnd", f"bin {workload.MAX_ROWS}", x)
        file = self.out / "attnd-long.body"
        file.write_bytes(body)
        seconds = max(2, self.args.seconds * 2)
        long = wrk(server, (path, file, headers), 1, seconds + 1)
        time.sleep(0.5)
        small = wrk_result(wrk(server, self.requests["attnd", "bin 16"], 8, seconds))
        wrk_result(long)
        return small["p99_ms"]

    def steady(self):
        """Page faults, heap allocations above 4 KB and growth of memory over 1,000 equal requests
        on one connection, of a daemon of its own that heap_count.so counts in."""
        counter = self.out / "heap-count"
        counter.write_bytes(bytes(8))
        preload = {
            "LD_PRELOAD": os.path.abspath(self.args.heap_count),
            "HEAP_COUNT_FILE": str(counter),
        }
        server = Server("attnd", self.out, self.args, preload)
        request = self.requests["attnd", "bin 128s"]
        try:
            server.start(request[0], request[1].read_bytes(), request[2])
            for _ in range(2):  # the first time warms up
                faults, memory = server.page_faults(), server.memory_mb()
                (before,) = struct.unpack("<Q", counter.read_bytes())
                result = wrk_result(wrk(server, request, 1, 5))
                (after,) = struct.unpack("<Q", counter.read_bytes())
                thousand = 1000 / result["requests"]
                measured = (
                    (server.page_faults() - faults) * thousand,
                    (after - before) * thousand,
                    server.memory_mb() - memory,
                )
        finally:
            server.stop()
        return measured

    def stop(self):
        for server in self.servers:
            server.stop()
        for engine in self.engines:
            engine.close()


# ---- judging -------------------------------------------------------------------------------


class Judge:
    """Prints a line a bar and counts the missed ones."""

    def __init__(self, bench):
        self.samples, self.missed = bench.samples, 0
        self.names = [s.name for s in bench.servers]

    def bar(self, what, value, limit, most=True, unit=""):
        if value is None:
            self.missed += 1
            print(f"  {what:62}    -   bar {limit:g}{unit}  FAIL  (not measured)")
            return
        good = value <= limit if most else value >= limit
        self.missed += not good
        print(
            f"  {what:62} {value:6.3f}  bar {'<=' if most else '>='} {limit:g}{unit}  "
            f"{'pass' if good else 'FAIL'}"
        )

    def ratio(self, case, connections, key, theirs, ours="attnd"):
        a = self.samples.get((case, connections, ours), {}).get(key)
        b = self.samples.get((case, connections, theirs), {}).get(key)
        return statistics.median(x / y for x, y in zip(a, b)) if a and b else None

    def best(self, case, connections, key, names=("triton", "mosec", "fastapi"), most=False):
        """The name of the best peer of this case; a name nobody has where none was measured."""
        known = [
            (statistics.median(self.samples[case, connections, n][key]), n)
            for n in names
            if (case, connections, n) in self.samples
        ]
        return (max(known) if most else min(known))[1] if known else "?"

    def latency(self, cases):
        for case, limit in (
            ("bin 16", 0.45),
            ("bin 16s", 0.45),
            ("bin 128", 0.65),
            ("bin 128s", 0.60),
        ):
            if case in cases:
                self.bar(
                    f"{case}: p50 / Triton's, one client",
                    self.ratio(case, 1, "p50_ms", "triton"),
                    limit,
                )
                self.bar(
                    f"{case}: p50 / bare torch call",
                    self.ratio(case, 1, "p50_ms", "bare torch"),
                    0.9,
                )
        for case, limit in (
            ("json 16", 0.55),
            ("json 16s", 0.55),
            ("json 128", 0.60),
            ("json 128s", 0.60),
        ):
            if case in cases:
                peer = self.best(case, 1, "p50_ms", ("mosec", "fastapi"))
                self.bar(
                    f"{case}: p50 / best peer's ({peer}), one client",
                    self.ratio(case, 1, "p50_ms", peer),
                    limit,
                )

    def throughput(self, cases):
        for case, limit in (("bin 16", 2.0), ("bin 128", 1.4), ("json 128", 1.8)):
            if case in cases:
                peer = self.best(case, 8, "rps", most=True)
                self.bar(
                    f"{case}: requests/s / best peer's ({peer}), 8 clients",
                    self.ratio(case, 8, "rps", peer),
                    limit,
                    most=False,
                )
        for case, limit in (("bin 16", 0.5), ("bin 128", 0.7)):
            if case in cases:
                peer = self.best(case, 8, "cpu_ms")
                self.bar(
                    f"{case}: CPU a request / best peer's ({peer}), 8 clients",
                    self.ratio(case, 8, "cpu_ms", peer),
                    limit,
                )

    def overhead(self, cases):
        for case, limit in (("bin 16", 0.10), ("bin 128s", 0.25)):
            if case in cases:
                ours = self.samples.get((case, 1, "attnd"), {}).get("p50_ms", [])
                engine = self.samples.get((case, 1, "engine"), {}).get("p50_ms", [])
                gaps = [a - b for a, b in zip(ours, engine)]
                self.bar(
                    f"{case}: own overhead, p50 - engine alone",
                    statistics.median(gaps) if gaps else None,
                    limit,
                    unit=" ms",
                )
        for case in cases:
            if (case, 1, "attnd") in self.samples:
                entry = self.samples[case, 1, "attnd"]
                self.bar(
                    f"{case}: p99 / p50, one client",
                    statistics.median(a / b for a, b in zip(entry["p99_ms"], entry["p50_ms"])),
                    2.0,
                )
        for case in cases:
            if case.startswith("bin"):
                self.bar(
                    f"{case}: requests/s / engine alone, 8 callers",
                    self.ratio(case, 8, "rps", "engine"),
                    0.92,
                    most=False,
                )


def footprint(judge, bench):
    by_name = {s.name: s for s in bench.servers}
    print(f"\n  {'':10}{'start s':>9}{'idle MB':>9}{'after MB':>9}")
    after = {}
    for name, server in by_name.items():
        after[name] = server.memory_mb()
        print(f"  {name:10}{server.start_seconds:9.3f}{bench.idle_mb[name]:9.1f}{after[name]:9.1f}")
    if {"attnd", "triton"} <= set(by_name):
        judge.bar(
            "start to first answer / Triton's",
            by_name["attnd"].start_seconds / by_name["triton"].start_seconds,
            0.10,
        )
        judge.bar("memory idle / Triton's", bench.idle_mb["attnd"] / bench.idle_mb["triton"], 0.15)
        judge.bar("memory after load / Triton's", after["attnd"] / after["triton"], 0.20)
        ours, theirs = install_mb("attnd", bench.args), install_mb("triton", bench.args)
        judge.bar(
            f"install ({ours:.0f} MB) / Triton's wheel ({theirs:.0f} MB)", ours / theirs, 0.30
        )


def tables(bench):
    names = [s.name for s in bench.servers] + [e.name for e in bench.engines]
    for title, connections, key in (
        ("p50 ms, 1 client", 1, "p50_ms"),
        ("p99 ms, 1 client", 1, "p99_ms"),
        ("requests/s, 8 clients", 8, "rps"),
        ("p50 ms, 8 clients", 8, "p50_ms"),
        ("p99 ms, 8 clients", 8, "p99_ms"),
        ("server CPU ms a request, 8 clients", 8, "cpu_ms"),
    ):
        print(f"\n  {title:34}" + "".join(f"{case:>10}" for case in bench.cases))
        for name in names:
            values = [
                bench.samples.get((case, connections, name), {}).get(key) for case in bench.cases
            ]
            if any(values):
                print(
                    f"  {name:34}"
                    + "".join(
                        f"{statistics.median(v):10.4g}" if v else f"{'-':>10}" for v in values
                    )
                )


def write_files(bench):
    with open(bench.out / "servers.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("case", "connections", "server", "measure", "round", "value"))
        for (case, connections, name), measures in bench.samples.items():
            for measure, values in measures.items():
                writer.writerows(
                    (case, connections, name, measure, i, v) for i, v in enumerate(values)
                )
    panels = []
    for case in bench.cases:
        entries = {
            name: statistics.median(measures["p50_ms"])
            for (c, connections, name), measures in bench.samples.items()
            if c == case and connections == 1 and measures["p50_ms"]
        }
        panels.append((f"{case}, one client", entries))
    plot.bars(bench.out / "servers.svg", "p50 ms of one call", panels)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--attnd", default="build/attnd")
    parser.add_argument("--engine", default="build/engine_turns")
    parser.add_argument("--heap-count", default="build/heap_count.so")
    parser.add_argument("--out", default="build/bench-servers")
    parser.add_argument("--servers", default="attnd,triton,mosec,fastapi")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--no-mixed", action="store_true", help="no mixed load, no steady state")
    args = parser.parse_args()
    bench = Bench(args)
    print(f"machine: {machine()}; {args.rounds} rounds of {args.seconds:g} s")
    try:
        bench.start()
        bench.run()
        tables(bench)
        write_files(bench)
        judge = Judge(bench)
        print()
        judge.latency(bench.cases)
        judge.throughput(bench.cases)
        judge.overhead(bench.cases)
        if not args.no_mixed:
            judge.bar(
                "p99 of T=16, 8 clients, beside one of T=2048", bench.mixed(), 4.0, unit=" ms"
            )
            if "attnd" in judge.names:
                faults, heap, growth = bench.steady()
                judge.bar("page faults in 1,000 equal requests", faults, 0.0)
                judge.bar("heap allocations above 4 KB in them", heap, 0.0)
                judge.bar("growth of memory over them", growth, 0.1, unit=" MB")
        footprint(judge, bench)
    finally:
        bench.stop()
    print(f"\n{judge.missed} bar(s) missed; {bench.out}/servers.csv, servers.svg")
    return 1 if judge.missed else 0


if __name__ == "__main__":
    sys.exit(main())
