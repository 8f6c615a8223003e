"""The program: options, start, health probe, what it prints, what it needs."""

import os
import pathlib
import re
import subprocess
import time

from attnd import BUILD, BUNDLED, GOLDEN, Daemon

ATTND = str(BUILD / "attnd")


def _run(*options, **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("ATTND_")}
    return subprocess.run([ATTND, *options], capture_output=True, text=True, timeout=60,
                          env={**clean, **environment}, check=False)


def test_bad_options_are_errors_that_name_them():
    for options, word in [
        (["--bogus"], "bogus"), (["--threads", "many"], "threads"), (["--threads", "-1"], "threads"),
        (["--threads", "99999999999999999999"], "threads"), (["--max-body", "0"], "max-body"),
        (["--max-body", "12X"], "max-body"), (["--precision", "f16"], "precision"),
        (["--listen", "nowhere"], "listen"), (["--listen", "127.0.0.1:99999"], "99999"),
        (["--log-level", "loud"], "log-level"), (["--models"], "models"), (["word"], "word"),
        (["--models", "/nonexistent", "--listen", "127.0.0.1:0"], "/nonexistent"),
        (["--model", "nodirectory", "--listen", "127.0.0.1:0"], "model"),
    ]:
        done = _run(*options)
        assert done.returncode not in (0, -6, -11), f"{options}: {done.returncode}"
        assert word in done.stderr, f"{options}: {done.stderr!r}"


def test_options_may_come_from_the_environment_and_a_flag_wins():
    done = _run("--version", ATTND_THREADS="many")
    assert done.returncode != 0 and "ATTND_THREADS" in done.stderr, done.stderr
    done = _run("--check", "--models", str(GOLDEN), "--threads", "1", ATTND_PRECISION="x3")
    assert done.returncode == 0, done.stderr
    done = _run("--check", ATTND_MODELS=str(BUNDLED))
    assert done.returncode == 0 and "minilm" in done.stdout, (done.stdout, done.stderr)


def test_help_and_version_print_and_exit():
    done = _run("--help")
    assert done.returncode == 0
    for flag in ("--models", "--listen", "--unix", "--threads", "--precision", "--max-body",
                 "--drain-delay-ms", "--probe", "--check", "--allow-control"):
        assert flag in done.stdout, flag
    done = _run("--version")
    assert done.returncode == 0 and done.stdout.startswith("attnd "), done.stdout


def test_check_prints_what_would_be_served():
    done = _run("--check", "--models", str(BUNDLED))
    assert done.returncode == 0 and "minilm" in done.stdout, (done.stdout, done.stderr)


def test_the_probe_says_whether_a_server_is_ready():
    with Daemon() as daemon:
        assert _run("--probe", daemon.url).returncode == 0
        port = daemon.port
    done = _run("--probe", f"http://127.0.0.1:{port}")
    assert done.returncode != 0 and done.stderr, done.stderr


def test_a_port_that_is_taken_is_an_error_that_says_so():
    with Daemon() as daemon:
        done = _run("--models", str(BUNDLED), "--listen", f"127.0.0.1:{daemon.port}")
        assert done.returncode != 0 and str(daemon.port) in done.stderr, done.stderr


def test_the_bundled_model_is_ready_soon_and_small():
    times = []
    for _ in range(5):
        began = time.monotonic()
        daemon = Daemon(models=(BUNDLED,))
        times.append(time.monotonic() - began)
        status = pathlib.Path(f"/proc/{daemon.process.pid}/status").read_text()
        resident = int(status.split("VmRSS:")[1].split()[0]) / 1024
        daemon.stop()
    note = f"ready after {sorted(times)[2] * 1000:.0f} ms (median of 5), {resident:.1f} MB resident"
    assert sorted(times)[2] < 1, note
    return note


test_the_bundled_model_is_ready_soon_and_small.not_core = True


def test_the_log_has_one_line_a_request_with_its_id():
    with Daemon() as daemon:
        reply = daemon.get("/v2/models/absent", **{"X-Request-Id": "log-test-1"})
        assert reply.status == 404
        daemon.get("/v2/models/a%0aFORGED%20line")
        daemon.stop()
        lines = [line for line in daemon.log if "log-test-1" in line]
        assert len(lines) == 1 and "404" in lines[0], daemon.log[-5:]
        assert not any(line.startswith("FORGED") for line in daemon.log)


def test_a_port_without_an_address_is_one_of_the_loopback():
    for text, host in [("0", "127.0.0.1"), (":0", "127.0.0.1"), ("0.0.0.0:0", "0.0.0.0"),
                       ("localhost:0", "127.0.0.1"), ("[::1]:0", "[::1]"), ("[::]:0", "[::]")]:
        # The second listener is the one that is looked at: Daemon reads the first.
        with Daemon("--listen", text, models=(BUNDLED,)) as daemon:
            line = _line(daemon, lambda found: len(found) == 2, r"ready on http://(.*):\d+")
            allowed = {host, "[::1]"} if text.startswith("localhost") else {host}
            assert line[1] in allowed, f"--listen {text} is on {line[1]}"
    for text in ("x", ":", "", ":x", "*:8080", "[]:0", "1.2.3:4:5:", "65536", "-1", "127.0.0.1",
                 "127.0.0.1:", ":65536", "http://localhost:0"):
        done = _run("--models", str(BUNDLED), "--listen", text)
        assert done.returncode != 0 and "--listen" in done.stderr, f"{text!r}: {done.stderr}"


def _line(daemon, enough, pattern):
    """All that the pattern finds in the log, once it is enough."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        found = re.findall(pattern, "".join(daemon.log))
        if enough(found):
            return found
        time.sleep(0.01)
    raise AssertionError(f"{pattern} is not in the log: {daemon.log}")
