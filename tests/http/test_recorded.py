"""Requests that real clients sent, byte for byte (tests/wire/recorded), asked again."""

import gzip
import json
import re
import socket
import zlib

from attnd import ROOT, Daemon, read_all, split_replies
from tensors import golden, read_oip

RECORDED = ROOT / "tests" / "wire" / "recorded"


def _ask(daemon, data):
    """The answer to one request; the client says that no more will come."""
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=20) as connection:
        connection.sendall(re.sub(rb"(?i)\r\nconnection: [^\r]*", b"", data, count=1).replace(
            b"\r\n", b"\r\nConnection: close\r\n", 1))
        (reply,) = split_replies(read_all(connection))
    undo = {"gzip": gzip.decompress, "deflate": zlib.decompress}
    if "content-encoding" in reply.headers:
        reply.body = undo[reply.headers["content-encoding"]](reply.body)
    return reply


def _check(reply, exchange):
    assert reply.status == exchange["status"], f"{reply.status} {reply.body[:200]!r}"
    expect = exchange["expect"]
    if "outputs" in expect:
        outputs, _ = read_oip(reply)
        assert list(outputs) == expect["outputs"], list(outputs)
        if not exchange["file"].startswith("perf_analyzer"):  # it sends numbers of its own
            golden(exchange["model"]).check(outputs, expect["outputs"])
    if "keys" in expect:
        size = reply.headers.get("inference-header-content-length")
        body = json.loads(reply.body[: int(size) if size else None])
        missing = [key for key in expect["keys"] if key not in body]
        assert not missing, f"{missing} are missing in {str(body)[:200]}"


def test_every_recorded_request_is_answered_as_its_client_needs():
    exchanges = json.loads((RECORDED / "exchanges.json").read_text())
    failures = []
    with Daemon("--allow-control") as daemon:
        for exchange in sorted(exchanges, key=lambda e: "unload" in e["file"]):
            try:
                _check(_ask(daemon, (RECORDED / exchange["file"]).read_bytes()), exchange)
            except (AssertionError, ValueError, KeyError) as error:
                failures.append(f"{exchange['file']} ({exchange['client']}): {error}")
    assert not failures, "\n          ".join(failures)
    return f"{len(exchanges)} requests"
