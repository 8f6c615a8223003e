"""Web pages of others: what a browser sends for them is refused, and changes nothing.

A browser adds Origin to whatever may change something, and the page's name as Host, also when the
name was made to lead here (DNS rebinding). Both are told from requests of programs by spelling
alone, so these tests are tables of spellings."""

import os
import re
import socket
import subprocess
import tempfile
import time

from attnd import BUILD, Daemon, read_all, split_replies
from tensors import golden, oip

MODEL = "self_attention"
UNLOAD = f"/v2/repository/models/{MODEL}/unload"
PAGE = "https://page.example"


def _ready_line(daemon, pattern):
    """What the pattern finds in the log; the other thread that reads it may be behind."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        found = re.search(pattern, "".join(daemon.log))
        if found:
            return found[1]
        time.sleep(0.01)
    raise AssertionError(f"no {pattern} in the log: {daemon.log}")


def _connect(daemon, where):
    """where: "v4", "v6" or a path."""
    if where == "v4":
        return socket.create_connection(("127.0.0.1", daemon.port), timeout=20)
    if where == "v6":
        port = int(_ready_line(daemon, r"ready on http://\[::1\]:(\d+)"))
        return socket.create_connection(("::1", port), timeout=20)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    connection.connect(where)
    return connection


def _ask(daemon, method, target, *headers, body=b"", version="HTTP/1.1", where="v4"):
    """One request, its headers as they are written here."""
    lines = [f"{method} {target} {version}", *headers, "Connection: close"]
    if method in ("POST", "DELETE", "PUT"):
        lines.append(f"Content-Length: {len(body)}")
    with _connect(daemon, where) as connection:
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        data = read_all(connection)
    if method == "HEAD":
        data = data.replace(b"\r\nContent-Length: ", b"\r\nLength-Of-Get: ")
    (reply,) = split_replies(data)
    return reply


def _host(value):
    return [] if value is None else [f"Host: {value}"]


def _judge(rows, ask, word):
    """Rows of (what is sent, whether it is served); a refusal is 403 and names the way out."""
    wrong = []
    for sent, served in rows:
        reply = ask(sent)
        if served and reply.status != 200:
            wrong.append(f"{sent}: {reply.status} {reply.body[:200]!r}, wanted 200")
        if not served and (reply.status != 403 or word not in reply.error()):
            wrong.append(f"{sent}: {reply.status} {reply.body[:200]!r}, wanted 403 and {word}")
    assert not wrong, f"{len(wrong)} of {len(rows)}\n          " + "\n          ".join(wrong)
    return f"{len(rows)} spellings"


def _hosts(port):
    return [
        (f"127.0.0.1:{port}", True), ("127.0.0.1", True), ("127.0.0.1:", True), ("10.1.2.3:80", True),
        (f"localhost:{port}", True), ("localhost", True), ("LocalHost:9000", True),
        ("localhost.", True), (f"localhost.:{port}", True), ("[::1]", True), (f"[::1]:{port}", True),
        ("[0:0:0:0:0:0:0:1]", True), ("[::ffff:127.0.0.1]:8080", True),
        ("named.example", True), ("NAMED.example.:8080", True),
        ("evil.example", False), (f"evil.example:{port}", False), ("evil.localhost", False),
        ("localhost.evil.example", False), ("127.0.0.1.evil.example", False),
        ("sub.named.example", False), ("named.example.evil", False), ("named", False),
        ("localhost:port", False), ("localhost:99999", False), ("localhost:80:80", False),
        ("::1", False), ("[::1", False), ("[evil.example]", False), ("[]", False), (":8080", False),
        ("user@localhost", False), ("localhost, evil.example", False), ("localhost/x", False),
        ("http://localhost", False), ("localhost..", False), (".", False), ("a" * 300, False),
    ]


def test_on_loopback_the_host_is_an_address_or_a_name_that_was_allowed():
    with Daemon("--allow-host", "named.example") as daemon:
        rows = _hosts(daemon.port)
        for method, target in [("GET", f"/v2/models/{MODEL}"), ("POST", "/v2/repository/index"),
                               ("OPTIONS", "/v2")]:
            note = _judge(rows, lambda value: _ask(daemon, method, target, *_host(value)),
                          "--allow-host")
        head = _ask(daemon, "HEAD", "/v2", "Host: evil.example")
        assert head.status == 403 and head.body == b"", head.body
    return note


def test_the_rule_for_hosts_holds_on_the_other_loopback_and_not_on_unix_sockets():
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "s")
        with Daemon("--listen", "[::1]:0", "--unix", path) as daemon:
            rows = [("evil.example", False), ("[::1]", True), ("localhost", True)]
            _judge(rows, lambda v: _ask(daemon, "GET", "/v2", *_host(v), where="v6"), "--allow-host")
            rows = [("evil.example", True), ("localhost", True), ("a b", True)]
            _judge(rows, lambda v: _ask(daemon, "GET", "/v2", *_host(v), where=path), "--allow-host")
            for host, origin, status in [("a.example", "https://a.example", 200),
                                         ("a.example", "https://b.example", 403)]:
                reply = _ask(daemon, "POST", "/v2/repository/index", f"Host: {host}",
                             f"Origin: {origin}", where=path)
                assert reply.status == status, f"{host} {origin}: {reply.status}"


def test_a_target_with_an_authority_is_judged_by_it_and_old_clients_send_no_host():
    with Daemon() as daemon:
        port = daemon.port
        rows = [
            ((f"http://127.0.0.1:{port}/v2", "localhost", "HTTP/1.1"), True),
            (("http://localhost/v2", "evil.example", "HTTP/1.1"), True),
            (("http://evil.example/v2", "localhost", "HTTP/1.1"), False),
            (("http://evil.example", f"127.0.0.1:{port}", "HTTP/1.1"), False),
            (("https://user@localhost/v2", "localhost", "HTTP/1.1"), False),
            (("/v2", None, "HTTP/1.0"), True),
            (("/v2", "evil.example", "HTTP/1.0"), False),
            (("http://evil.example/v2", None, "HTTP/1.0"), False),
        ]
        _judge(rows, lambda s: _ask(daemon, "GET", s[0], *_host(s[1]), version=s[2]),
               "--allow-host")
        for target in ("http://user@localhost/v2", "http://localhost:x/v2", "http:///v2"):
            text = _ask(daemon, "GET", target, f"Host: 127.0.0.1:{port}").error()
            authority = target.split("/")[2]
            assert text.startswith(f'Host is "{authority}"'), f"{target}: {text}"
        index = "/v2/repository/index"
        rows = [
            (("HTTP/1.0", None, f"http://127.0.0.1:{port}"), False),
            (("HTTP/1.0", "localhost", "http://localhost"), True),
        ]
        _judge(rows, lambda s: _ask(daemon, "POST", index, *_host(s[1]), f"Origin: {s[2]}",
                                    version=s[0]), "--cors-origin")


def _origins(port):
    """Host, Origin (a list: several headers), whether the page is the daemon's own or allowed."""
    here = f"127.0.0.1:{port}"
    return [
        ((here, f"http://{here}"), True), ((here, f"HTTP://{here}"), True),
        ((here, f"https://{here}"), True), ((f"LOCALHOST:{port}", f"http://localhost:{port}"), True),
        ((f"localhost.:{port}", f"http://localhost:{port}"), True),
        (("localhost", "http://localhost"), True), (("localhost", "http://localhost:80"), True),
        (("localhost:80", "http://localhost"), True), (("localhost:443", "https://localhost"), True),
        (("localhost", "https://localhost:443"), True),
        (("[::1]:80", "http://[0:0:0:0:0:0:0:1]"), True),
        ((here, PAGE), True), ((here, "HTTPS://PAGE.example:443"), True),
        ((here, "http://other.example:8000"), True),
        ((here, "http://evil.example"), False), ((here, "null"), False), ((here, ""), False),
        ((here, f"http://localhost:{port}"), False), ((here, "http://127.0.0.1"), False),
        ((here, f"http://127.0.0.1:{port + 1}"), False), ((here, here), False),
        ((here, f"http://{here}/"), False), ((here, f"http://{here} http://evil.example"), False),
        ((here, f"http://{here}.evil.example"), False), ((here, f"http://user@{here}"), False),
        ((here, f"file://{here}"), False), ((here, f"chrome-extension://{here}"), False),
        (("localhost", "https://localhost:80"), False), (("localhost:443", "http://localhost"), False),
        ((here, "http://page.example"), False), ((here, f"{PAGE}:444"), False),
        ((here, f"{PAGE}."), True), ((here, "https://sub.page.example"), False),
        ((here, "https://page.example.evil"), False), ((here, "http://other.example"), False),
        ((here, "*"), False),
    ]


def test_a_page_may_post_to_its_own_host_or_when_it_was_allowed():
    with Daemon("--cors-origin", PAGE, "--cors-origin", "http://other.example:8000") as daemon:
        def ask(sent):
            return _ask(daemon, "POST", "/v2/repository/index", f"Host: {sent[0]}",
                        f"Origin: {sent[1]}", "Content-Type: text/plain")

        note = _judge(_origins(daemon.port), ask, "--cors-origin")
        two = _ask(daemon, "POST", "/v2/repository/index", "Host: localhost",
                   "Origin: http://localhost", "Origin: http://evil.example")
        assert two.status in (400, 403) and "Origin" in two.error(), two.body
    return note


def test_every_method_that_may_change_something_is_guarded_and_reading_is_not():
    body, headers = oip(golden(MODEL).inputs)
    headers = [f"{name}: {value}" for name, value in headers.items()]
    with Daemon("--allow-control") as daemon:
        for evil in (["Host: localhost", "Origin: http://evil.example"],
                     ["Host: localhost", "Origin: null"],
                     ["Host: evil.example", "Origin: http://evil.example"], ["Host: evil.example"]):
            for method, path, sent in [
                ("POST", UNLOAD, b""), ("POST", UNLOAD, b"{}"), ("POST", "/v2/logging", b"{}"),
                ("POST", f"/v2/repository/models/{MODEL}/load", b"{}"),
                ("POST", f"/v1/models/{MODEL}:predict", b'{"instances":[]}'),
                ("DELETE", "/v2/scores/x", b""), ("DELETE", f"/v2/models/{MODEL}", b""),
                ("PUT", UNLOAD, b"{}"),
            ]:
                reply = _ask(daemon, method, path, *evil, "Content-Type: text/plain", body=sent)
                assert reply.status == 403, f"{method} {path} {evil}: {reply.status}"
                assert "access-control-allow-origin" not in reply.headers
            reply = _ask(daemon, "POST", f"/v2/models/{MODEL}/infer", *evil, *headers,
                         body=body if isinstance(body, bytes) else body.encode())
            assert reply.status == 403, f"infer {evil}: {reply.status}"
        assert daemon.get(f"/v2/models/{MODEL}/ready").status == 200, "a refusal changed something"
        assert daemon.post(f"/v2/models/{MODEL}/infer", body, dict(
            line.split(": ") for line in headers)).status == 200
        (stats,) = daemon.get(f"/v2/models/{MODEL}/stats").json()["model_stats"]
        assert stats["execution_count"] == 1, "a refused call was computed"
        for method in ("GET", "HEAD", "OPTIONS"):
            reply = _ask(daemon, method, "/v2", "Host: localhost", "Origin: http://evil.example")
            assert reply.status == 200, f"{method}: {reply.status}"
            assert not [name for name in reply.headers if name.startswith("access-control")]
        assert _ask(daemon, "POST", UNLOAD, "Host: localhost").status == 200, "a program may"


def test_an_allowed_page_gets_the_answers_that_browsers_need():
    infer = f"/v2/models/{MODEL}/infer"
    with Daemon("--cors-origin", PAGE) as daemon:
        preflight = _ask(daemon, "OPTIONS", infer, "Host: localhost", f"Origin: {PAGE}",
                         "Access-Control-Request-Method: POST",
                         "Access-Control-Request-Headers: content-type,inference-header-content-length")
        assert preflight.status == 200, preflight.status
        headers = preflight.headers
        assert headers["access-control-allow-origin"] == PAGE, headers
        assert "POST" in headers["access-control-allow-methods"], headers
        allowed = headers["access-control-allow-headers"].lower()
        for name in ("content-type", "content-encoding", "inference-header-content-length",
                     "x-request-id"):
            assert name in allowed, headers
        assert "Origin" in headers["vary"] and int(headers["access-control-max-age"]) > 0, headers
        body, sent = oip(golden(MODEL).inputs)
        for path, body, status in [(infer, body, 200), (infer, b"{}", 400), ("/v2/absent", b"", 404)]:
            reply = daemon.post(path, body, {**sent, "Origin": PAGE})
            assert reply.status == status, f"{path}: {reply.status} {reply.body[:200]!r}"
            assert reply.headers["access-control-allow-origin"] == PAGE, reply.headers
            assert "Inference-Header-Content-Length" in reply.headers["access-control-expose-headers"]
            assert "Origin" in reply.headers["vary"], reply.headers
        for extra in ({}, {"Origin": "http://evil.example"}):
            reply = daemon.get("/v2", **extra)
            assert reply.status == 200 and "Origin" in reply.headers["vary"], reply.headers
            assert "access-control-allow-origin" not in reply.headers, reply.headers
    with Daemon() as daemon:
        assert "vary" not in daemon.get("/v2", Origin=PAGE).headers


def test_the_probe_is_served_by_every_name_of_the_loopback():
    with Daemon("--listen", "[::1]:0") as daemon:
        v6 = _ready_line(daemon, r"(http://\[::1\]:\d+)")
        for url in (daemon.url, daemon.url.replace("127.0.0.1", "localhost"), v6):
            for path in ("", "/", "/v2/health/live"):
                done = subprocess.run([BUILD / "attnd", "--probe", url + path], check=False,
                                      capture_output=True, text=True, timeout=60)
                assert done.returncode == 0, f"{url}{path}: {done.stderr}"
