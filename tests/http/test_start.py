"""The program: options, start, health probe, what it prints, what it needs."""

import os
import pathlib
import re
import signal
import subprocess
import time

from attnd import BUILD, BUNDLED, GOLDEN, ROOT, Daemon, ModelDirectory

ATTND = str(BUILD / "attnd")


def _run(*options, **environment):
    """Runs the program to its end. No option that a test forgets makes it take the port that
    people's own daemon listens on."""
    environment = {"ATTND_LISTEN": "127.0.0.1:0", **environment}
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
    assert _run("-h").stdout == done.stdout
    for flag in ("--models", "--listen", "--unix", "--threads", "--cpu", "--precision",
                 "--max-body", "--drain-delay-ms", "--probe", "--check", "--allow-control"):
        assert flag in done.stdout, flag
    done = _run("--version")
    assert done.returncode == 0 and done.stdout.startswith("attnd "), done.stdout


def test_every_option_that_is_available_is_documented():
    options = re.findall(r"^  --([a-z0-9-]+) (?!.*not available)", _run("--help").stdout, re.M)
    text = "".join((ROOT / name).read_text() for name in ("README.md", "api/PROTOCOL.md"))
    missing = [name for name in options if not re.search(rf"--{name}\b(?!-)", text)]
    assert len(options) > 15 and not missing, f"neither README.md nor PROTOCOL.md has {missing}"


def test_check_prints_what_would_be_served_and_a_mistake_once():
    done = _run("--check", "--models", str(BUNDLED))
    assert done.returncode == 0 and "minilm" in done.stdout, (done.stdout, done.stderr)
    with ModelDirectory() as directory:
        directory.copy("self_attention", "good")
        broken = directory.copy("self_attention", "broken")
        (broken / "layer.json").write_text('{"num_heads": "many"}')
        done = _run("--check", "--models", str(directory.path))
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "good version 1: ready" in done.stdout, said
    assert said.count("num_heads") == 1, said


def test_directories_that_are_no_model_are_said_and_one_that_is_a_model_is_served():
    with ModelDirectory() as directory:
        model = directory.copy("self_attention", "m")
        directory.copy("self_attention", "bad+name")
        (directory.path / "notes").mkdir()
        (directory.path / "notes" / "weights.safetensors").write_bytes(b"")
        (directory.path / "README").write_text("a file is no directory")
        done = _run("--check", "--models", str(directory.path))
        skipped = [line for line in done.stderr.splitlines() if "skipped" in line]
        assert len(skipped) == 2, done.stderr
        for word, reason in (("notes", "layer.json"), ("bad+name", "name")):
            assert any(word in line and reason in line for line in skipped), skipped
        for path in (model, f"{model}/"):
            done = _run("--check", "--models", str(path))
            assert done.returncode == 0 and done.stdout.startswith("m version 1: ready"), done
            assert "skipped" not in done.stderr, done.stderr
        named = _run("--check", "--models", str(directory.path / "bad+name"))
        assert named.returncode != 0 and "--model NAME=DIR" in named.stderr, named.stderr


def test_unknown_variables_are_warned_of_and_the_configuration_is_logged():
    done = _run("--check", "--models", str(BUNDLED), "--max-queue", "7", ATTND_MAXBODY="1",
                ATTND_THREADS="1", ATTND_PORT="tcp://10.0.0.1:80", ATTND_SERVICE_HOST="10.0.0.1",
                ATTND_PORT_80_TCP_ADDR="10.0.0.1")
    warnings = [line for line in done.stderr.splitlines() if "warning" in line]
    assert done.returncode == 0, done.stderr
    assert len(warnings) == 1 and "ATTND_MAXBODY" in warnings[0], done.stderr
    assert "ATTND_MAX_BODY" in warnings[0], warnings
    for part in ("threads=1 ", "max-queue=7 ", "deadline-ms=30000 ", f"models={BUNDLED} "):
        assert part in done.stderr, f"{part} is not in\n{done.stderr}"


def _ready(daemon):
    """Status of the route and of the probe, which have to agree."""
    reply, done = daemon.get("/v2/health/ready"), _run("--probe", daemon.url)
    body = reply.json()
    assert (body["live"], body["ready"]) == (True, reply.status == 200), body
    assert (done.returncode == 0) == (reply.status == 200), done.stderr
    assert reply.status == 200 or "503" in done.stderr, done.stderr
    return reply.status


def test_ready_means_that_a_model_is_loaded():
    with Daemon("--allow-control", models=()) as daemon:
        assert _ready(daemon) == 503, "nothing is loaded yet"
    with Daemon("--allow-control", models=(BUNDLED,)) as daemon:
        assert _ready(daemon) == 200
        assert daemon.post("/v2/repository/models/minilm/unload").status == 200
        assert _ready(daemon) == 503, "nothing is loaded any more"
        assert daemon.get("/v2/health/live").status == 200
        assert daemon.post("/v2/repository/models/minilm/load").status == 200
        assert _ready(daemon) == 200


def test_sighup_is_logged_and_ignored():
    with Daemon(models=(BUNDLED,)) as daemon:
        for count in (1, 2):
            daemon.process.send_signal(signal.SIGHUP)
            _line(daemon, lambda found: len(found) == count, r"(SIGHUP)")
            assert daemon.get("/v2/health/ready").status == 200, "it goes on"
        daemon.process.send_signal(signal.SIGHUP)
        daemon.stop()


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
        assert "--listen" in done.stderr, done.stderr


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
