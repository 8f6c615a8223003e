"""wire_forms.py [ADDR:PORT] - requests that servers may read differently, and what attnd makes of
each: a table for api/PROTOCOL.md. test_framing.py holds that nothing behind them is served.

A: attnd's own answer in JSON. L: the HTTP library's in HTML, and then the connection closes.
2xL: that with its header twice. -: closed without an answer. +: what comes behind is answered."""

import re
import socket
import sys

PATH = b"/v2/models/self_attention/infer"
# Answered 404.
BEHIND = b"GET /v2/models/behind HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def get(*lines, target=b"/v2/health/live", version=b"HTTP/1.1", host=b"Host: localhost\r\n", end=b"\r\n"):
    return b"GET " + target + b" " + version + b"\r\n" + host + b"".join(lines) + end


def post(*lines, body=b"", target=PATH, version=b"HTTP/1.1"):
    return b"POST " + target + b" " + version + b"\r\nHost: localhost\r\n" + b"".join(lines) + b"\r\n" + body


def chunked(body, *lines):
    return post(b"Transfer-Encoding: chunked\r\n", *lines, body=body)


_ONE = b'd\r\n{"inputs":[]}\r\n0\r\n'  # a chunk and the last one; a trailer may follow

# What is unseen by 0.9.75 and by the header's size is marked: nobody can close behind it.
UNSEEN = "bare LF behind chunk lines", "trailer `: x`"

# 505 is HTTP's word for it. 0.9.75 calls the line of a chunk that is longer than its memory an
# error of the server.
SERVERS_STATUS = "HTTP/2.0", "chunk extension of 200 KB"

FORMS = [
    ("no Host", get(host=b"")),
    ("Content-Length not a number", post(b"Content-Length: x3\r\n", body=b"abc")),
    ("Content-Length empty", post(b"Content-Length: \r\n", body=b"abc")),
    ("Content-Length 2^64", post(b"Content-Length: 18446744073709551616\r\n")),
    ("Content-Length 2^64-1", post(b"Content-Length: 18446744073709551615\r\n")),
    ("Content-Length `3, 3`", post(b"Content-Length: 3, 3\r\n", body=b"abc")),
    ("white space behind Content-Length", post(b"Content-Length: 13 \r\n", body=b'{"inputs":[]}')),
    ("white space behind Transfer-Encoding",
     post(b"Transfer-Encoding: chunked \r\n", body=_ONE + b"\r\n")),
    ("white space behind Content-Encoding",
     post(b"Content-Encoding: identity \t\r\nContent-Length: 13\r\n", body=b'{"inputs":[]}')),
    ("folded Host", get(host=b"Host:\r\n localhost\r\n")),
    ("folded value", get(b"X-A: b\r\n c\r\n")),
    ("folded Transfer-Encoding", post(b"Transfer-Encoding:\r\n chunked\r\n", body=_ONE + b"\r\n")),
    ("folded Content-Length", post(b"Content-Length:\r\n 13\r\n", body=b'{"inputs":[]}')),
    ("cookies beyond the memory", get(b"Cookie: " + b"a=b; " * 6000 + b"\r\n")),
    ("line `: x`", get(b": x\r\n")),
    ("line `:`", get(b":\r\n")),
    ("line that begins with NUL", get(b"\0X-A: b\r\n")),
    ("NUL in a value", get(b"X-A: b\0c\r\n")),
    ("NUL in the target", get(target=b"/v2/health/live\0x")),
    ("bare LF line ends", get().replace(b"\r\n", b"\n")),
    ("bare CR in a value", get(b"X-A: b\rc\r\n")),
    ("bare CR in the request line", get(target=b"/v2/health/live\rx")),
    ("CR CR LF", get(b"X-A: b\r\r\n")),
    ("other control byte in a value", get(b"X-A: b\x01c\r\n")),
    ("DEL in a value", get(b"X-A: b\x7fc\r\n")),
    ("8-bit byte in a value", get(b"X-A: b\xe4c\r\n")),
    ("tab in a value", get(b"X-A: b\tc\r\n")),
    ("control byte in the target", get(target=b"/v2/health/live\x01")),
    ("bare LF behind chunk lines", chunked(b'd\n{"inputs":[]}\n0\n\n')),
    ("trailer `: x`", chunked(_ONE + b": x\r\n\r\n")),
    ("Transfer-Encoding and Content-Length",
     chunked(_ONE + b"\r\n", b"Content-Length: 4\r\n")),
    ("Transfer-Encoding `xchunked`", post(b"Transfer-Encoding: xchunked\r\n", body=_ONE + b"\r\n")),
    ("white space before the colon", post(b"Content-Length : 3\r\n", body=b"abc")),
    ("two Content-Length", post(b"Content-Length: 13\r\n" * 2, body=b'{"inputs":[]}')),
    ("two Transfer-Encoding", chunked(_ONE + b"\r\n", b"Transfer-Encoding: chunked\r\n")),
    ("two Host", get(b"Host: b\r\n")),
    ("chunked in HTTP/1.0",
     post(b"Transfer-Encoding: chunked\r\n", body=_ONE + b"\r\n", version=b"HTTP/1.0")),
    ("no length", post(body=b'{"inputs":[]}')),
    ("Content-Length 0", post(b"Content-Length: 0\r\n")),
    ("headers over 64 KiB", get(b"X-A: " + b"b" * 70000 + b"\r\n")),
    ("200 headers", get(*[b"X-A: b\r\n"] * 200)),
    ("target over 64 KiB", get(target=b"/" + b"a" * 70000)),
    ("target of 10 KiB", get(target=b"/" + b"a" * 10240)),
    ("HTTP/2.0", get(version=b"HTTP/2.0")),
    ("`HTTP/1.1 x`", get(version=b"HTTP/1.1 x")),
    ("method of 70 KB", b"G" * 70000 + b" / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("PROXY line", b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n" + get()),
    ("two spaces in the request line", b"GET  /v2/health/live  HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("tabs in the request line", b"GET\t/v2/health/live\tHTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("an empty line before", b"\r\n" + get()),
    ("two empty lines before", b"\r\n\r\n" + get()),
    ("chunk of 2^64-1", chunked(b"FFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n")),
    ("chunk of 17 digits", chunked(b"10000000000000000\r\nabc\r\n0\r\n\r\n")),
    ("chunk of -1", chunked(b"-1\r\nabc\r\n0\r\n\r\n")),
    ("chunk of +3", chunked(b"+3\r\nabc\r\n0\r\n\r\n")),
    ("chunk of 0x3", chunked(b"0x3\r\nabc\r\n0\r\n\r\n")),
    ("chunk of ` 3`", chunked(b" 3\r\nabc\r\n0\r\n\r\n")),
    ("chunk of no length", chunked(b"\r\nabc\r\n0\r\n\r\n")),
    ("chunk extension", chunked(b'd;a=b\r\n{"inputs":[]}\r\n0\r\n\r\n')),
    ("chunk extension of 200 KB", chunked(b"d;" + b"a" * 200000 + b'\r\n{"inputs":[]}\r\n0\r\n\r\n')),
]


def ask(address, request, seconds):
    """Everything that comes back for a request and one behind it."""
    got = b""
    with socket.create_connection(address, timeout=seconds) as connection:
        try:
            connection.sendall(request + BEHIND)
        except OSError:
            pass  # the answer may be there all the same
        try:
            while piece := connection.recv(65536):
                got += piece
        except OSError:
            pass  # silent, or reset
    return got


def judge(got):
    """One cell of the table, the first status, and whether what came behind was served."""
    heads = re.findall(rb"HTTP/1\.[01] (\d{3}) [^\r]*\r\n(.*?)\r\n\r\n", got, re.S)
    if not heads:
        return "-", None, False
    status, fields = heads[0]
    own = b"X-Request-Id" in fields or b"application/json" in fields
    served = any(b"X-Request-Id" in more for _, more in heads[1:])
    doubled = not own and len(heads) > 1
    cell = ("A " if own else "2xL " if doubled else "L ") + status.decode()
    return cell + (" +" if served else ""), int(status), served


def main():
    host, _, port = sys.argv[1].rpartition(":")
    for name, request in FORMS:
        print(f"| {name} | {judge(ask((host, int(port)), request, 7))[0]} |", flush=True)


if __name__ == "__main__":
    main()
