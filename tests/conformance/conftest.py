"""One daemon for the whole run, on a free port, serving every golden case with --allow-control."""

import os
import pathlib
import re
import subprocess

import pytest

import golden

BUILD = pathlib.Path(os.environ.get("BUILD_DIR", "build")).resolve()
READY = re.compile(r"^attnd: ready on http://([0-9.]+:\d+)$")


def start_daemon(*arguments):
    """The process and its HOST:PORT, taken from the line that says it is ready."""
    command = [BUILD / "attnd", "--listen", "127.0.0.1:0", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    lines = []
    for line in process.stderr:
        lines.append(line)
        match = READY.match(line.strip())
        if match:
            return process, match.group(1), lines
    raise RuntimeError("attnd ended before it was ready:\n" + "".join(lines))


def _drain(process, lines):
    """A full pipe would stop the daemon: keep reading what it logs."""
    import threading

    thread = threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True)
    thread.start()
    return thread


@pytest.fixture(scope="session")
def daemon():
    process, address, lines = start_daemon("--models", str(golden.ROOT), "--allow-control")
    reader = _drain(process, lines)
    yield address
    process.terminate()
    status = process.wait(30)
    reader.join(5)
    assert status == 0, "".join(lines[-50:])


@pytest.fixture(params=golden.CASES)
def case(request):
    return golden.Case(request.param)


@pytest.fixture
def plain():
    """The simplest case: self-attention, nothing reused."""
    return golden.Case("self_attention")
