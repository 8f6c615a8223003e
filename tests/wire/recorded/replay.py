"""Sends the recorded requests of real clients to a daemon, byte for byte; needs Python alone.

    replay.py HOST:PORT       a daemon that serves tests/golden with --allow-control

Checks the status, and the answer as exchanges.json says: golden outputs within their tolerance,
or the keys of a JSON object. Prints one line a failure, and the worst error; exit status 1 if any.
"""

import gzip
import json
import math
import pathlib
import socket
import struct
import sys
import zlib

HERE = pathlib.Path(__file__).resolve().parent
GOLDEN = HERE.parent.parent / "golden"


def read_answer(stream):
    status = int(stream.readline().split()[1])
    headers = {}
    while line := stream.readline().strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    if status == 100:
        return read_answer(stream)
    body = stream.read(int(headers.get("content-length", 0)))
    encoding = headers.get("content-encoding", "identity")
    inflate = {"gzip": gzip.decompress, "deflate": zlib.decompress, "identity": bytes}[encoding]
    return status, headers, inflate(body)


def send(address, raw):
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(raw)
        with connection.makefile("rb") as stream:
            return read_answer(stream)


def golden_outputs(model):
    """{name: (shape, values)} of the answers, float32."""
    data = (GOLDEN / model / "call.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    outputs = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name.startswith("expected/"):
            start, end = (8 + length + o for o in entry["data_offsets"])
            outputs[name[9:]] = (
                entry["shape"],
                struct.unpack(f"<{(end - start) // 4}f", data[start:end]),
            )
    return outputs


def answered_outputs(headers, body):
    size = int(headers.get("inference-header-content-length", len(body)))
    outputs, offset = {}, size
    for output in json.loads(body[:size])["outputs"]:
        if "data" in output:
            values = output["data"]
        else:
            count = output["parameters"]["binary_data_size"]
            values = struct.unpack_from(f"<{count // 4}f", body, offset)
            offset += count
        outputs[output["name"]] = (output["shape"], values)
    if offset != len(body):
        raise ValueError(f"{len(body) - offset} bytes behind the last tensor")
    return outputs


def compare(model, names, headers, body):
    """The worst error, or ValueError with what is wrong."""
    tolerance = json.loads((GOLDEN / "MANIFEST.json").read_text())["cases"][model]["tolerance"]
    want, got, worst = golden_outputs(model), answered_outputs(headers, body), 0.0
    if sorted(got) != sorted(names):
        raise ValueError(f"outputs {sorted(got)} instead of {sorted(names)}")
    for name in names:
        if got[name][0] != want[name][0]:
            raise ValueError(f"{name} has shape {got[name][0]} instead of {want[name][0]}")
        for a, b in zip(got[name][1], want[name][1], strict=True):
            if not abs(a - b) <= tolerance["atol"] + tolerance["rtol"] * abs(b):
                raise ValueError(f"{name}: {a} instead of {b}")
            worst = max(worst, abs(a - b))
    return worst


def replay(address, exchange):
    status, headers, body = send(address, (HERE / exchange["file"]).read_bytes())
    if status != exchange["status"]:
        raise ValueError(f"status {status} instead of {exchange['status']}: {body[:200]!r}")
    expect = exchange["expect"]
    if "outputs" in expect:
        return compare(exchange["model"], expect["outputs"], headers, body)
    if "keys" in expect:
        size = int(headers.get("inference-header-content-length", len(body)))
        missing = set(expect["keys"]) - set(json.loads(body[:size]))
        if missing:
            raise ValueError(f"the answer lacks {sorted(missing)}: {body[:200]!r}")
    return 0.0


def main():
    exchanges = json.loads((HERE / "exchanges.json").read_text())
    failures, worst = 0, 0.0
    for exchange in exchanges:
        try:
            worst = max(worst, replay(sys.argv[1], exchange))
        except (ValueError, OSError, KeyError, IndexError) as error:
            failures += 1
            print(f"FAIL {exchange['file']} ({exchange['client']}): {error}")
    if math.isnan(worst):
        failures += 1
    print(f"{len(exchanges)} recorded requests, {failures} failures, worst error {worst:.1e}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
