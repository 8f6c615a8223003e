"""A refusal arrives: also at a client that first sends all of a large body and reads then, as most
clients and all proxies do, and the connection serves its next request."""

import json
import pathlib
import re
import socket
import time
import zlib

from attnd import Daemon, Question, get, read_all, split_replies

NAME = "one_token"
PATH = f"/v2/models/{NAME}/infer"
LARGE = 8 << 20  # more than the buffers of both kernels hold
CAP = 1 << 20
ROUNDS = 5


def _json(before, piece, after=b"", size=LARGE):
    return before + piece * ((size - len(before) - len(after)) // len(piece)) + after


_DATA = b'{"inputs":[{"name":"query","shape":[1,1,32],"datatype":"FP32","data":['


def _damaged_gzip():
    packer = zlib.compressobj(0, zlib.DEFLATED, 31)
    packed = bytearray(packer.compress(bytes(LARGE)) + packer.flush())
    packed[10:14] = b"\xff" * 4  # the head of the first block
    return bytes(packed)


def _refused_then_served(daemon, status, method, path, body, headers=None):
    """On one connection, which must be the same to the end."""
    questions = [Question(method, path, body, headers), get("/v2/health/live")] * ROUNDS
    replies = daemon.ask_all(questions)
    for reply, live in zip(replies[::2], replies[1::2]):
        assert reply.status == status, f"{reply.status}, wanted {status}: {reply.body[:200]}"
        reply.error()
        assert live.status == 200, live.status
    assert [reply.connects for reply in replies] == [1] + [0] * (2 * ROUNDS - 1), \
        f"another connection behind {status}"


def test_a_mistake_in_the_middle_of_a_large_body_is_told_and_the_connection_stays(daemon):
    for status, body, headers in (
        (400, _json(_DATA, b"1,", b"1]}]}").replace(b"1,1,1,1,", b"null,1,1", 1), {}),
        (400, _json(_DATA, b"1,", b"1]}]}"), {}),
        (413, _json(b'{"x":"', b"y", b'","inputs":[]}'), {}),
        (400, _damaged_gzip(), {"Content-Encoding": "gzip"}),
    ):
        _refused_then_served(daemon, status, "POST", PATH, body, headers)


def test_a_refusal_by_the_header_is_told_behind_a_large_body(daemon):
    body = bytes(LARGE)
    for status, method, path, headers in (
        (404, "POST", "/v2/models/none/infer", {}),
        (404, "POST", "/nowhere", {}),
        (405, "PUT", PATH, {}),
        (405, "DELETE", "/v2", {}),
        (400, "POST", PATH, {"Inference-Header-Content-Length": "x"}),
        (415, "POST", PATH, {"Content-Type": "image/png"}),
        (415, "POST", PATH, {"Content-Encoding": "br"}),
        (413, "POST", "/v2/repository/index", {}),
    ):
        _refused_then_served(daemon, status, method, path, body, headers)


def test_what_may_not_be_done_is_told_behind_a_large_body():
    with Daemon() as daemon:
        _refused_then_served(daemon, 403, "POST", f"/v2/repository/models/{NAME}/load",
                             bytes(LARGE))


def test_an_overload_is_told_behind_a_large_body():
    """One place, and a call in it that waits for its own body does not count: it is taken by a
    call of seconds, which is cancelled when its client leaves."""
    entry = {"name": "query", "shape": [16, 2048, 16], "datatype": "FP32",
             "parameters": {"binary_data_size": 16 * 2048 * 16 * 4}}
    text = json.dumps({"inputs": [entry]}).encode()
    with Daemon("--threads", "1", "--max-queue", "1", "--deadline-ms", "0") as daemon:
        with socket.create_connection(("127.0.0.1", daemon.port)) as busy:
            body = text + bytes(16 * 2048 * 16 * 4)
            busy.sendall(b"POST /v2/models/self_attention/infer HTTP/1.1\r\nHost: localhost\r\n"
                         b"Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n"
                         % (len(text), len(body)) + body)
            while "attnd_calls_admitted 1\n" not in daemon.get("/metrics").body.decode():
                pass
            _refused_then_served(daemon, 429, "POST", PATH, bytes(LARGE))


def test_who_asks_first_is_refused_before_the_body(daemon):
    for path, length, status in (("/nowhere", 5, 404), (PATH, 1 << 40, 413)):
        with socket.create_connection(("127.0.0.1", daemon.port), timeout=10) as connection:
            connection.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
                               f"Content-Length: {length}\r\n\r\n".encode())
            (reply,) = split_replies(read_all(connection))
        assert reply.status == status and reply.headers["connection"].lower() == "close"


def test_a_request_behind_a_refused_body_is_served(daemon):
    refused = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + bytes(100000)
    last = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert [r.status for r in split_replies(daemon.raw(refused * 3 + last))] == [404] * 3 + [200]


# ---- answers that cannot wait for the end of the body ----------------------------------------


def _send_all_then_read(daemon, head, body):
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=60) as connection:
        connection.sendall(head)
        for at in range(0, len(body), 1 << 16):
            connection.sendall(body[at : at + (1 << 16)])
        return split_replies(read_all(connection))


def test_a_body_that_is_announced_too_long_is_told_413_while_it_comes():
    with Daemon("--max-body", str(CAP)) as daemon:
        for length in (CAP + 1, 2 * CAP):
            head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
            for _ in range(20):
                (reply,) = _send_all_then_read(daemon, head.encode(), bytes(length))
                assert reply.status == 413 and "1048576" in reply.error()


def test_a_chunked_body_that_grows_too_long_is_told_413_while_it_comes():
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with Daemon("--max-body", str(CAP)) as daemon:
        for pieces in (17, 40):
            for _ in range(20):
                (reply,) = _send_all_then_read(daemon, head, piece * pieces + b"0\r\n\r\n")
                assert reply.status == 413, reply.status
                reply.error()
                assert reply.headers["connection"] == "close" and reply.headers["x-request-id"]
        (line,) = [line for line in daemon.get("/metrics").body.decode().split("\n")
                   if line.startswith("attnd_requests_total") and '"413"' in line]
        assert line.endswith(" 40"), line


def test_broken_framing_is_told_though_its_body_comes(daemon):
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\n" + f"Content-Length: {LARGE}\r\n" * 2 + "\r\n"
    for _ in range(ROUNDS):
        (reply,) = _send_all_then_read(daemon, head.encode(), bytes(LARGE))
        assert reply.status == 400
        reply.error()


def test_a_drain_does_not_wait_for_clients_that_do_not_close():
    daemon = Daemon("--max-body", str(CAP))
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=60) as connection:
        connection.sendall(f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {2 * CAP}\r\n\r\n"
                           .encode())
        (reply,) = split_replies(read_all(connection))
        assert reply.status == 413
        assert _metric(daemon, "attnd_connections_lingering") == 1
        began = time.monotonic()
        daemon.stop()
        assert time.monotonic() - began < 4.5, "waited until the client was idle for 5 s"


# ---- what it costs ---------------------------------------------------------------------------


def _metric(daemon, name):
    return float(re.search(rf"^{name} (.*)$", daemon.get("/metrics").body.decode(), re.M).group(1))


def test_what_is_thrown_away_costs_no_memory_and_is_counted():
    size = 128 << 20
    with Daemon() as daemon:
        _refused_then_served(daemon, 404, "POST", "/nowhere", bytes(LARGE))
        status = pathlib.Path(f"/proc/{daemon.process.pid}")
        (status / "clear_refs").write_text("5")

        def peak():
            text = (status / "status").read_text()
            return int(re.search(r"^VmHWM:\s+(\d+) kB$", text, re.M).group(1))

        before, counted = peak(), _metric(daemon, "attnd_discarded_bytes_total")
        for path, body in (("/nowhere", bytes(size)), (PATH, b"]" * size)):
            assert daemon.post(path, body).status in (400, 404, 413)
        assert _metric(daemon, "attnd_discarded_bytes_total") - counted > 1.9 * size
        assert _metric(daemon, "attnd_memory_taken_bytes") == 0
        assert peak() - before < 4096, f"{peak() - before} KB"


test_what_is_thrown_away_costs_no_memory_and_is_counted.not_core = True


def test_a_reader_may_pause(daemon):
    """Longer than the grace of a request, behind which 64 KiB/s have to flow."""
    size = 16 * 512 * 384 * 4
    entry = {"name": "query", "shape": [16, 512, 384], "datatype": "FP32",
             "parameters": {"binary_data_size": size}}
    text = json.dumps({"inputs": [entry], "parameters": {"return_attention_scores": False,
                                                        "binary_data_output": True}}).encode()
    body = text + bytes(size)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        connection.settimeout(120)
        connection.connect(("127.0.0.1", daemon.port))
        connection.sendall(b"POST /v2/models/minilm/infer HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                           b"Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n"
                           % (len(text), len(body)) + body)
        head = connection.recv(1000)
        time.sleep(6)  # the pause is what is tested
        received = len(head)
        while piece := connection.recv(1 << 16):
            received += len(piece)
    assert head.startswith(b"HTTP/1.1 200") and received > size, f"{received} of {size} bytes"


test_a_reader_may_pause.not_core = True
