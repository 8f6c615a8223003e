"""One [8,128,768] tensor (786,432 floats) there and back: JSON and binary through the daemon,
beside what jansson alone takes to parse and dump the same JSON.

    json_tensor.py --attnd build/attnd --jansson build/json_tensor --out build/bench-json
                   [--rounds 7] [--turn-ms 1000]

The layer has one head of one dimension, so that computing costs next to nothing beside the
transport; the figures are whole requests over a keep-alive connection of the loopback all the
same. Rounds are interleaved; a ratio is the median over the rounds. Exit status 1 if a bar is
missed.
"""

import argparse
import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import time

import numpy as np

import workload
from peers import Engine, machine

SHAPE = (8, 128, workload.WIDTH)
JSON_BAR, BINARY_BAR = 6.0, 50.0


def write_model(path):
    rng, width = np.random.default_rng(1), workload.WIDTH
    weights = {}
    for name in ("query", "key", "value_new"):
        weights[name + "/kernel"] = 0.05 * rng.standard_normal((width, 1, 1)).astype(np.float32)
        weights[name + "/bias"] = np.zeros((1, 1), np.float32)
    weights["attention_output_new/kernel"] = rng.standard_normal((1, 1, width)).astype(np.float32)
    weights["attention_output_new/bias"] = rng.standard_normal(width).astype(np.float32)
    config = dict(workload.layer_config(positions=False), num_heads=1, key_dim=1, value_dim=1)
    path.mkdir(parents=True, exist_ok=True)
    (path / "layer.json").write_text(json.dumps(config))
    (path / "weights.safetensors").write_bytes(workload.safetensors(weights))


def request(x, binary):
    head = {
        "inputs": [{"name": "query", "shape": list(SHAPE), "datatype": "FP32"}],
        "outputs": [{"name": "attention_output", "parameters": {"binary_data": binary}}],
    }
    if binary:
        head["inputs"][0]["parameters"] = {"binary_data_size": x.nbytes}
        text, tail = json.dumps(head).encode(), x.tobytes()
    else:
        head["inputs"][0]["data"] = "@"
        numbers = ",".join("%.9g" % v for v in x.ravel())
        text, tail = json.dumps(head).replace('"@"', f"[{numbers}]").encode(), b""
    extra = f"Inference-Header-Content-Length: {len(text)}\r\n" if binary else ""
    start = (
        f"POST /v2/models/thin/infer HTTP/1.1\r\nHost: localhost\r\n{extra}"
        f"Content-Length: {len(text) + len(tail)}\r\n\r\n"
    ).encode()
    return start + text + tail, text


class Connection:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.room = memoryview(bytearray(32 << 20))

    def call(self, raw):
        """Milliseconds from the first byte sent to the last byte received, and the body."""
        begin = time.perf_counter()
        # A daemon may answer before it has read everything: only an error is so short.
        self.socket.sendall(raw)
        have = end = 0
        head = b""
        while not end or have < end:
            count = self.socket.recv_into(self.room[have:])
            if count == 0:
                raise RuntimeError("the daemon closed the connection")
            have += count
            if not end:
                head, found, _ = bytes(self.room[: min(have, 16384)]).partition(b"\r\n\r\n")
                if found:
                    length = re.search(rb"\ncontent-length: *(\d+)", head, re.I)
                    end = len(head) + 4 + int(length.group(1))
        ms = (time.perf_counter() - begin) * 1e3
        if not head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(bytes(self.room[: min(have, 500)]).decode("latin-1"))
        return ms, self.room[len(head) + 4 : end], head

    def turn(self, raw, ms):
        self.call(raw)
        samples, stop = [], time.perf_counter() + ms / 1e3
        while len(samples) < 3 or time.perf_counter() < stop:
            samples.append(self.call(raw)[0])
        return statistics.median(samples)


def check(connection, raw_json, raw_binary):
    """JSON and binary answers are the same floats."""
    _, body, _ = connection.call(raw_json)
    (output,) = json.loads(bytes(body))["outputs"]
    from_json = np.array(output["data"], np.float32)
    _, body, head = connection.call(raw_binary)
    size = int(re.search(rb"inference-header-content-length: *(\d+)", head, re.I).group(1))
    from_binary = np.frombuffer(body[size:], np.float32)
    if not np.array_equal(from_json, from_binary):
        raise RuntimeError("JSON and binary answers differ")


def measure(args, port, out):
    x = np.random.default_rng(3).uniform(-1, 1, SHAPE).astype(np.float32)
    raw_json, text = request(x, False)
    raw_binary, _ = request(x, True)
    (out / "request.json").write_bytes(text)
    connection = Connection(port)
    check(connection, raw_json, raw_binary)
    times = {"jansson": [], "json": [], "binary": []}
    with open(out / "jansson.log", "w") as log:
        jansson = Engine("jansson", [os.path.abspath(args.jansson), out / "request.json"], log)
        for _ in range(args.rounds):
            times["jansson"].append(float(jansson.ask(f"time {args.turn_ms}")[0]))
            times["json"].append(connection.turn(raw_json, args.turn_ms))
            times["binary"].append(connection.turn(raw_binary, args.turn_ms))
        jansson.close()
    return times


def judge(times):
    def faster(a, b):
        return statistics.median(x / y for x, y in zip(times[a], times[b]))

    print(f"  jansson parse + dump alone   {statistics.median(times['jansson']):8.2f} ms")
    print(f"  JSON there and back          {statistics.median(times['json']):8.2f} ms")
    print(f"  binary there and back        {statistics.median(times['binary']):8.2f} ms")
    missed = 0
    for what, value, bar in (
        ("JSON, times faster than jansson alone", faster("jansson", "json"), JSON_BAR),
        ("binary, times faster than jansson's JSON", faster("jansson", "binary"), BINARY_BAR),
    ):
        missed += value < bar
        print(f"  {what:42} {value:6.1f}  bar {bar:g}  {'pass' if value >= bar else 'FAIL'}")
    print(f"  {'binary, times faster than our own JSON':42} {faster('json', 'binary'):6.1f}")
    return missed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--attnd", default="build/attnd")
    parser.add_argument("--jansson", default="build/json_tensor")
    parser.add_argument("--out", default="build/bench-json")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--turn-ms", type=float, default=1000)
    args = parser.parse_args()
    out = pathlib.Path(args.out).resolve()
    write_model(out / "models" / "thin")
    print(f"machine: {machine()}; {args.rounds} rounds of {args.turn_ms:g} ms")
    daemon = subprocess.Popen(
        [args.attnd, "--listen", "127.0.0.1:0", "--models", out / "models", "--log-level", "warning"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = []
        for line in daemon.stderr:
            lines.append(line)
            match = re.match(r"attnd: ready on http://[^:]+:(\d+)$", line.strip())
            if match:
                missed = judge(measure(args, int(match.group(1)), out))
                break
        else:
            raise RuntimeError("attnd ended before it was ready:\n" + "".join(lines))
    finally:
        daemon.terminate()
        daemon.wait(30)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
