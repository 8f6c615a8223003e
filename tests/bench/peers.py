"""The engine beside PyTorch, TensorFlow, ONNX Runtime and OpenVINO: ratios inside one run.

    peers.py --engine build/engine_turns --out build/bench-peers
             [--cases 1x16,1x128,...] [--threads 1,2] [--rounds 7] [--turn-ms 40]
             [--engines attnd,torch,tf,ort,openvino] [--no-check]

Each engine is a process of its own, stopped (SIGSTOP) outside its turn: no spinning thread of one
takes a core from another. Rounds go A B C ... A B C; a turn is a warm-up and at least --turn-ms
of calls, its result their median. A ratio is the median over the rounds of ours / theirs in the
same round, so that a clock or a neighbour that changes within the run cancels. Before anything is
timed each variant is checked against the formulas in float64.

Writes peers.csv (every turn), peers.svg, and prints the tables; exit status 1 if a bar is missed
or an answer is wrong. It does not install anything: see `make bench-peers`.
"""

import argparse
import collections
import csv
import os
import signal
import statistics
import subprocess
import sys

import numpy as np

import plot
import workload

HERE = os.path.dirname(os.path.abspath(__file__))
CASES = ("1x16", "1x128", "8x128", "1x512", "4x512")
LONG = "1x2048"
OURS = ("f32+s", "f32", "x3+s", "x3", "b16+s", "b16", "f32+s.r6", "f32.r12", "b16.r12")

# (what, ours, against, bars for CASES, bar for LONG or None). "against": a label, a set of peers
# by precision and scores ("f32+s": the best of them), or ":" and a variant of our own.
BARS = (
    (
        "float32 with scores / best peer with scores",
        "f32+s",
        "best f32+s",
        (0.90, 0.85, 0.88, 0.76, 0.68),
        None,
    ),
    (
        "float32 with scores / torch MultiheadAttention",
        "f32+s",
        "torch f32+s/mha",
        (0.50, 0.65, 0.68, 0.42, 0.42),
        None,
    ),
    (
        "float32 with scores / TensorFlow's layer",
        "f32+s",
        "tf f32+s/layer",
        (0.45, 0.60, 0.66, 0.42, 0.42),
        None,
    ),
    ("float32 / best peer without scores", "f32", "best f32", (0.92, 0.90, 0.90, 0.92, 0.95), 0.95),
    (
        "bfloat16 with scores / best peer with scores",
        "b16+s",
        "best bf16+s",
        (0.78, 0.68, 0.80, 0.52, 0.30),
        None,
    ),
    (
        "bfloat16 / best peer without scores",
        "b16",
        "best bf16",
        (0.82, 0.78, 0.82, 0.72, 0.84),
        None,
    ),
    (
        "x3 with scores / own float32 with scores",
        "x3+s",
        ":f32+s",
        (0.75, 0.46, 0.54, 0.50, 0.56),
        None,
    ),
    ("scores / no scores, float32", "f32+s", ":f32", (1.03,) * 5, None),
    ("scores / no scores, bfloat16", "b16+s", ":b16", (1.08,) * 5, None),
    ("6 heads reused / none, float32 with scores", "f32+s.r6", ":f32+s", (0.76,) * 5, None),
    ("12 heads reused / none, float32", "f32.r12", ":f32", (0.50,) * 5, None),
)
THREADS_BAR = 0.55

# Errors allowed: output root mean square relative, scores largest absolute. Peers in bfloat16
# round more (their softmax and scores are 16-bit) and are only checked for doing the same work.
LIMITS = {"f32": (2e-6, 2e-6), "x3": (2e-5, 1e-5), "b16": (1e-2, 5e-3), "bf16": (3e-2, 3e-2)}


class Engine:
    """A process that answers lines, stopped unless it is asked something."""

    def __init__(self, name, command, log):
        self.name = name
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            bufsize=1,
            cwd=HERE,
        )
        self.stopped = False

    def ask(self, line):
        """The words after "ok"; raises RuntimeError with the engine's own reason."""
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        self.process.send_signal(signal.SIGSTOP)
        if not answer.startswith("ok"):
            raise RuntimeError(answer.strip() or "the process ended")
        return answer.split()[1:]

    def close(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def split_case(case):
    batch, length = case.split("x")
    return int(batch), int(length)


def precision_of(variant):
    return variant.split("/")[0].split("+")[0].split(".")[0]


def kind_of(label):
    """ "torch f32+s/mha" -> "f32+s": the set of peers it is compared in. None: in no set."""
    variant = label.split(" ")[1]
    head, _, form = variant.partition("/")
    return None if ".r" in head or form == "mha-nomask" else head


def start_engines(args, threads, log):
    engines = []
    for name in args.engines.split(","):
        if name == "attnd":
            command = [os.path.abspath(args.engine), os.path.join(args.out, "weights")]
            engines.append((Engine("attnd", command + [str(threads)], log), OURS))
            if threads > 1:
                engines.append((Engine("attnd-1-thread", command + ["1"], log), ("f32+s",)))
        else:
            engine = Engine(
                name,
                [sys.executable, os.path.join(HERE, "peer_engines.py"), name, str(threads)],
                log,
            )
            engines.append((engine, tuple(engine.ask("variants"))))
    return engines


def errors_against(engine, prefix, expected, scores_wanted):
    output, scores = expected
    if engine.name.startswith("attnd"):
        got = np.fromfile(prefix + ".output", "<f4").reshape(output.shape)
        got_scores = (
            np.fromfile(prefix + ".scores", "<f4").reshape(scores.shape) if scores_wanted else None
        )
    else:
        got = np.load(prefix + ".output.npy").reshape(output.shape)
        got_scores = (
            np.load(prefix + ".scores.npy").reshape(scores.shape) if scores_wanted else None
        )
    rms = np.sqrt(np.mean((got - output) ** 2) / np.mean(output**2))
    worst = float(np.abs(got_scores - scores).max()) if scores_wanted else 0.0
    return float(rms), worst


def check(engines, args, threads):
    """Each variant once at 2x16 and 1x128 against float64. Returns the number of wrong answers."""
    rows, wrong = workload.inputs(), 0
    print(
        f"\nerrors against float64, {threads} thread(s): output rms relative, scores max absolute"
    )
    for case in ("2x16", "1x128"):
        batch, length = split_case(case)
        known = {}
        for engine, variants in engines:
            for variant in variants:
                head, _, form = variant.partition("/")
                reused = int(head.split(".r")[1]) if ".r" in head else 0
                key = (
                    reused,
                    engine.name in ("attnd", "attnd-1-thread", "tf"),
                    form != "mha-nomask",
                )
                if key not in known:
                    known[key] = workload.reference(workload.query(rows, batch, length), *key)
                prefix = os.path.join(args.out, "check")
                try:
                    engine.ask(f"check {batch} {length} {variant} {os.path.abspath(prefix)}")
                except RuntimeError as error:
                    wrong += "falls back" not in str(error)
                    print(f"  {case:6} {engine.name} {variant}: {error}")
                    continue
                rms, worst = errors_against(engine, prefix, known[key], "+s" in head)
                limit = LIMITS[precision_of(variant)]
                bad = not (rms <= limit[0] and worst <= limit[1])
                wrong += bad
                print(
                    f"  {case:6} {engine.name + ' ' + variant:28} {rms:9.2e} {worst:9.2e}"
                    f"{'   WRONG' if bad else ''}"
                )
    return wrong


def time_case(engines, case, args):
    """{label: [ms of round 0, ...]}. One round before the first is for compiling and not kept."""
    batch, length = split_case(case)
    times, reasons = collections.defaultdict(list), {}
    for number in range(-1, args.rounds):
        for engine, variants in engines:
            for variant in variants:
                label = f"{engine.name} {variant}"
                if label in reasons:
                    continue
                ms = args.turn_ms if number >= 0 else 1
                try:
                    answer = engine.ask(f"time {batch} {length} {variant} {ms}")
                except RuntimeError as error:
                    reasons[label] = str(error)
                    continue
                if number >= 0:
                    times[label].append(float(answer[0]))
    for label, reason in reasons.items():
        print(f"  {case}: no {label}: {reason}", file=sys.stderr)
    return {label: values for label, values in times.items() if len(values) == args.rounds}


def ratio(times, ours, theirs):
    return statistics.median(a / b for a, b in zip(times[ours], times[theirs]))


def opponent(times, against):
    """The label that `against` means in this case; None: nobody does it."""
    if against.startswith(":"):
        label = "attnd " + against[1:]
        return label if label in times else None
    if not against.startswith("best "):
        return against if against in times else None
    kind = against[5:]
    peers = [label for label in times if not label.startswith("attnd") and kind_of(label) == kind]
    return min(peers, key=lambda label: statistics.median(times[label]), default=None)


def judge(results, threads, amx):
    """Prints one line a bar and case; returns how many are missed. Without AMX there is no x3
    and bfloat16 only where it is faster: their bars are for machines that have it."""
    missed = 0
    print(f"\nbars, {threads} thread(s): ours / theirs, median over the rounds (lower is better)")
    for what, ours, against, bars, long_bar in BARS:
        if not amx and not ours.startswith("f32"):
            print(f"  {what}: no AMX on this machine")
            continue
        print(f"  {what}")
        limits = dict(zip(CASES, bars))
        if long_bar:
            limits[LONG] = long_bar
        for case, times in results.items():
            theirs = opponent(times, against)
            if case not in limits:
                continue
            if "attnd " + ours not in times or theirs is None:
                missed += 1
                print(f"    {case:7}   -   bar {limits[case]:4.2f}  FAIL  (not measured)")
                continue
            value = ratio(times, "attnd " + ours, theirs)
            good = value <= limits[case]
            missed += not good
            print(
                f"    {case:7} {value:5.2f}  bar {limits[case]:4.2f}  "
                f"{'pass' if good else 'FAIL'}  ({theirs})"
            )
    if threads == 2:
        print("  two threads / one, float32 with scores")
        for case, times in results.items():
            if "attnd-1-thread f32+s" in times:
                value = ratio(times, "attnd f32+s", "attnd-1-thread f32+s")
                missed += value > THREADS_BAR
                print(
                    f"    {case:7} {value:5.2f}  bar {THREADS_BAR:4.2f}  "
                    f"{'pass' if value <= THREADS_BAR else 'FAIL'}"
                )
    return missed


def table(results, threads):
    base = "attnd f32+s"
    labels = list(dict.fromkeys(label for times in results.values() for label in times))
    print(f"\n{threads} thread(s): median ms (ratio to {base} of the same round)")
    print(" " * 26 + "".join(f"{case:>17}" for case in results))
    for label in labels:
        cells = []
        for times in results.values():
            if label not in times:
                cells.append("-")
            else:
                ms = f"{statistics.median(times[label]):.3g}"
                cells.append(f"{ms} ({ratio(times, label, base):.2f})" if base in times else ms)
        print(f"  {label:24}" + "".join(f"{cell:>17}" for cell in cells))


def machine():
    with open("/proc/cpuinfo") as file:
        model = next(
            (line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "?"
        )
    return f"{model}, {len(os.sched_getaffinity(0))} CPUs"


def has_amx():
    with open("/proc/cpuinfo") as file:
        return "amx_bf16" in file.read()


def run(args, threads, log, rows):
    engines = start_engines(args, threads, log)
    try:
        for engine, _ in engines:
            if engine.name == "attnd":
                print(f"attnd: {' '.join(engine.ask('facts'))}")
        wrong = 0 if args.no_check else check(engines, args, threads)
        results = {case: time_case(engines, case, args) for case in args.cases.split(",")}
    finally:
        for engine, _ in engines:
            engine.close()
    for case, times in results.items():
        for label, values in times.items():
            rows += [
                (threads, case, *label.split(" "), number, ms) for number, ms in enumerate(values)
            ]
    table(results, threads)
    return wrong + judge(results, threads, has_amx()), results


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engine", default="build/engine_turns")
    parser.add_argument("--out", default="build/bench-peers")
    parser.add_argument("--cases", default=",".join(CASES + (LONG,)))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--turn-ms", type=float, default=40)
    parser.add_argument("--engines", default="attnd,torch,tf,ort,openvino")
    parser.add_argument("--no-check", action="store_true")
    args = parser.parse_args()
    args.out = os.path.abspath(args.out)
    workload.write_directory(os.path.join(args.out, "weights"))
    print(f"machine: {machine()}; {args.rounds} rounds of {args.turn_ms:g} ms")
    failed, rows, panels = 0, [], []
    with open(os.path.join(args.out, "engines.log"), "w") as log:
        for threads in map(int, args.threads.split(",")):
            missed, results = run(args, threads, log, rows)
            failed += missed
            panels += [
                (
                    f"{case}, {threads} thread(s)",
                    {label: statistics.median(values) for label, values in times.items()},
                )
                for case, times in results.items()
            ]
    with open(os.path.join(args.out, "peers.csv"), "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("threads", "case", "engine", "variant", "round", "ms"))
        writer.writerows(rows)
    plot.bars(os.path.join(args.out, "peers.svg"), "one layer, median ms", panels)
    print(f"\n{failed} bar(s) missed; {args.out}/peers.csv, peers.svg")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
