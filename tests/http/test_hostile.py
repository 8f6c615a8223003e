"""Clients that are slow, silent, gone, or that send what is damaged or too much: they get nothing
but their own end, and memory stays within its bounds."""

import gzip
import json
import os
import pathlib
import random
import re
import socket
import struct
import threading
import time

import attnd
from attnd import Daemon
from tensors import Tensor, golden, oip, read_oip, write_safetensors

NAME = "one_token"
PATH = f"/v2/models/{NAME}/infer"
CAP = 1 << 20


def _still_serves(daemon):
    case = golden(NAME)
    case.check(read_oip(daemon.post(PATH, *oip(case.inputs, binary=True)))[0])


def _request(name=NAME, inputs=None, path=None):
    """Head and body of a binary inference request."""
    body, headers = oip(inputs or golden(name).inputs, binary=True)
    lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    head = f"POST {path or f'/v2/models/{name}/infer'} HTTP/1.1\r\nHost: localhost\r\n{lines}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode(), body


def _connect(daemon, timeout=60):
    return socket.create_connection(("127.0.0.1", daemon.port), timeout=timeout)


def _reset(connection):
    """Closing sends a reset instead of an orderly end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _dawdle(daemon, data):
    """Sends a byte each half second after data; what came back until the server closed."""
    with _connect(daemon, 0.5) as connection:
        connection.sendall(data)
        began, got = time.monotonic(), b""
        while time.monotonic() - began < 60:
            try:
                connection.sendall(b" ")
                piece = connection.recv(65536)
                if not piece:
                    return got
                got += piece
            except TimeoutError:
                continue
            except ConnectionError:
                return got
    raise AssertionError("kept for a minute at two bytes a second")


# ---- slow and silent -----------------------------------------------------------------------


def test_a_body_that_comes_too_slowly_is_told_408(daemon):
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
    got = _dawdle(daemon, head.encode() + b"{")
    assert b" 408 " in got[:20], got[:200]
    _still_serves(daemon)


test_a_body_that_comes_too_slowly_is_told_408.waits = True


def test_headers_that_come_too_slowly_are_cut(daemon):
    got = _dawdle(daemon, b"GET /v2 HTTP/1.1\r\nX-Slow:")
    assert got == b"" or b" 408 " in got[:20], got[:200]
    _still_serves(daemon)


test_headers_that_come_too_slowly_are_cut.waits = True


def test_200_silent_connections_keep_nobody_out(daemon):
    silent = [_connect(daemon) for _ in range(200)]
    try:
        for i, connection in enumerate(silent):
            connection.sendall(_request()[0][: i % 90])
        for _ in range(20):
            _still_serves(daemon)
    finally:
        for connection in silent:
            connection.close()


# ---- gone ----------------------------------------------------------------------------------


def test_clients_that_vanish_at_any_byte_do_no_harm(daemon):
    whole = b"".join(_request())
    for length in range(0, len(whole) + 1, 5):
        with _connect(daemon) as connection:
            connection.sendall(whole[:length])
            if length % 2:
                _reset(connection)
    _still_serves(daemon)


def test_clients_that_vanish_while_computed_leave_the_others_right():
    large = {"query": Tensor("FP32", [4, 512, 16], [0.25] * (4 * 512 * 16))}
    whole = b"".join(_request("self_attention", large))
    models = ["self_attention", "reuse_some", "mask_padding", "relative_pe"]
    wrong = []
    with Daemon("--deadline-ms", "0") as daemon:  # how long a call waits is not the matter

        def vanish(number):
            for _ in range(5):
                with _connect(daemon) as connection:
                    connection.sendall(whole)
                    if number % 2:
                        _reset(connection)

        def stay(number):
            case = golden(models[number])
            question = attnd.post(f"/v2/models/{case.name}/infer", *oip(case.inputs, binary=True))
            for reply in daemon.ask_all([question] * 20):
                try:
                    case.check(read_oip(reply)[0])
                except AssertionError as error:
                    wrong.append(str(error))

        threads = [threading.Thread(target=vanish, args=(i,)) for i in range(4)]
        threads += [threading.Thread(target=stay, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong, wrong[:3]


# ---- damaged -------------------------------------------------------------------------------


def _answers_within_the_contract(daemon, path, bodies, headers):
    """Any answers but a server's fault, and errors as promised; the statuses."""
    replies = daemon.ask_all([attnd.post(path, body, headers) for body in bodies])
    for body, reply in zip(bodies, replies):
        assert reply.status in (200, 400, 413, 415, 501), f"{reply.status} to {body[:200]!r}"
        if reply.status != 200:
            reply.error()
    return [reply.status for reply in replies]


def test_json_cut_at_any_byte_is_refused(daemon):
    body = oip(golden(NAME).inputs, id="a\u00e9\n")[0]
    cut = [body[:length] for length in range(1, len(body), 5)]
    for part, status in zip(cut, _answers_within_the_contract(daemon, PATH, cut, {})):
        assert status == 400, part
    _still_serves(daemon)


def _damaged(body, source):
    """Most of a body is numbers; what decides stands in its first bytes."""
    damaged = bytearray(body)
    for _ in range(source.randrange(1, 5)):
        damaged[source.randrange(min(len(body), 400))] = source.randrange(256)
    return bytes(damaged)


def test_bytes_changed_at_random_do_no_harm(daemon):
    source, counts = random.Random(7), {}
    inputs = golden(NAME).inputs
    safetensors = {"Content-Type": "application/safetensors"}
    forms = [
        oip(inputs, id="x", parameters={"timeout": 5000000}),
        oip(inputs, binary=True),
        (write_safetensors(inputs, {"id": "x"}), safetensors),
        (json.dumps({"instances": [{"query": [[0.5] * 32]}]}).encode(), {}),
    ]
    for body, headers in forms:
        body = body.encode() if isinstance(body, str) else body
        path = f"/v1/models/{NAME}:predict" if b"instances" in body else PATH
        bodies = [_damaged(body, source) for _ in range(150)]
        for status in _answers_within_the_contract(daemon, path, bodies, headers):
            counts[status] = counts.get(status, 0) + 1
    _still_serves(daemon)
    return f"600 bodies: {dict(sorted(counts.items()))}"


# ---- too much ------------------------------------------------------------------------------


def _status_kb(daemon, key):
    text = pathlib.Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(re.search(rf"^{key}:\s+(\d+) kB$", text, re.M).group(1))


def _peak_of(daemon, work):
    """How many KB the peak of resident memory rose above what is resident before."""
    _still_serves(daemon)
    pathlib.Path(f"/proc/{daemon.process.pid}/clear_refs").write_text("5")
    before = _status_kb(daemon, "VmHWM")
    work()
    return _status_kb(daemon, "VmHWM") - before


def test_hostile_bodies_cost_no_more_than_twice_the_cap():
    bodies = [
        b"[" * CAP,
        b'{"a":' * (CAP // 5),
        b'{"inputs":[' + b"{}," * (CAP // 3 - 10),
        b'{"x":"' + b"y" * (CAP - 10),
        b'{"inputs":[{"name":"query","data":[' + b"[]," * (CAP // 3 - 50),
        b'{"inputs":[{"name":"query","shape":[1,1,32],"datatype":"FP32","data":['
        + b"1," * (CAP // 2 - 100),
    ]
    bombs = [gzip.compress(b" " * (200 << 20), 9), gzip.compress(b"[" + b"[1,1]," * (20 << 20), 9)]
    with Daemon("--max-body", str(CAP)) as daemon:

        def work():
            for body in bodies:
                reply = daemon.post(PATH, body)
                assert reply.status in (400, 413), f"{reply.status} to {body[:40]!r}"
                reply.error()
            for bomb in bombs:
                reply = daemon.post(PATH, bomb, {"Content-Encoding": "gzip"})
                assert reply.status == 413, reply.status
                reply.error()

        rose = _peak_of(daemon, work)
        # Beside the two caps: one page of each thread's arena that was never touched before.
        assert rose <= 2 * CAP // 1024 + 2048, f"{rose} KB"
        return f"{rose} KB at a cap of {CAP // 1024} KB"


test_hostile_bodies_cost_no_more_than_twice_the_cap.not_core = True


def test_a_gigabyte_that_is_announced_is_read_to_its_bound_and_never_allocated(daemon):
    """Twice --max-body are read and thrown away, so that the client sees why."""
    def work():
        with _connect(daemon) as connection:
            head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {1 << 30}\r\n\r\n"
            connection.sendall(head.encode())
            sent = 0
            try:
                while sent < 1 << 30:
                    sent += connection.send(bytes(1 << 16))
            except OSError:
                pass
            assert sent < (512 << 20) + (64 << 20), f"{sent} bytes were taken"

    rose = _peak_of(daemon, work)
    assert rose < 4096, f"{rose} KB"
    _still_serves(daemon)


test_a_gigabyte_that_is_announced_is_read_to_its_bound_and_never_allocated.not_core = True


def test_a_body_of_exactly_the_cap_is_served_and_one_byte_more_is_not():
    count = 32 * 1000
    text = oip({"query": Tensor("FP32", [1, 1000, 32], [0.5] * count)})[0]
    text = text.encode() if isinstance(text, str) else text
    with Daemon("--max-body", str(CAP)) as daemon:
        for length in (CAP, CAP + 1):
            room = length - len(text)  # zeros behind the numbers, and spaces, fill it exactly
            body = text.replace(b"0.5", b"0.5" + b"0" * (room // count))
            body = body.replace(b"0.5", b" 0.5", room % count)
            assert len(body) == length
            if length == CAP:
                reply = daemon.post(PATH, body)
                assert reply.status == 200, reply.body[:200]
            else:
                head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
                got = daemon.raw(head.encode())  # refused by its head alone
                assert got.startswith(b"HTTP/1.1 413"), got[:100]


def test_memory_and_descriptors_do_not_grow_with_requests():
    path = "/v2/models/tails_over_128/infer"
    body, headers = oip(golden("tails_over_128").inputs)
    question = attnd.post(path, body, {**headers, "Connection": "close"})
    with Daemon("--log-level", "warning") as daemon:

        def some():
            replies = daemon.ask_all([question] * 80, parallel=8)
            assert {reply.status for reply in replies} == {200}

        def descriptors():
            return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))

        some()
        some()
        before, open_before = _status_kb(daemon, "VmRSS"), descriptors()
        for _ in range(4):
            some()
        end = time.monotonic() + 20
        while descriptors() > open_before and time.monotonic() < end:
            time.sleep(0.02)  # the last connections are closed by the other side
        assert descriptors() <= open_before, f"{open_before}, then {descriptors()}"
        grown = _status_kb(daemon, "VmRSS") - before
        assert grown < 8192, f"{grown} KB"
        return f"{grown} KB after 320 more requests"


test_memory_and_descriptors_do_not_grow_with_requests.not_core = True


def test_a_full_queue_is_told_429_with_retry_after():
    query = Tensor("FP32", [4, 1024, 16], [0.25] * (4 * 1024 * 16))
    question = attnd.post("/v2/models/self_attention/infer", *oip(
        {"query": query}, binary=True,
        parameters={"return_attention_scores": False, "binary_data_output": True}))
    with Daemon("--max-queue", "1", "--threads", "1") as daemon:
        replies = daemon.ask_all([question] * 32, parallel=8)
        _still_serves(daemon)
    statuses = [reply.status for reply in replies]
    for reply in replies:
        assert reply.status != 429 or int(reply.headers.get("retry-after", 0)) >= 1, reply.headers
    assert set(statuses) == {200, 429}, sorted(set(statuses))
    return f"{statuses.count(200)} served, {statuses.count(429)} told to come back"
