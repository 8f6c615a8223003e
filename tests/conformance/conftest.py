"""One daemon for the whole run, on a free port, serving every golden case with --allow-control."""

import contextlib
import os
import pathlib
import re
import subprocess
import threading

import pytest

import golden

BUILD = pathlib.Path(os.environ.get("BUILD_DIR", "build")).resolve()
READY = re.compile(r"^attnd: ready on http://([0-9.]+:\d+)$")


def read_address(process, lines):
    """HOST:PORT out of the line that says the daemon is ready."""
    for line in process.stderr:
        lines.append(line)
        match = READY.match(line.strip())
        if match:
            return match.group(1)
    raise RuntimeError("attnd ended before it was ready:\n" + "".join(lines))


@contextlib.contextmanager
def serve():
    """A daemon that serves every golden case; it has to drain and exit with 0 in the end."""
    command = [BUILD / "attnd", "--listen", "127.0.0.1:0", "--models", golden.ROOT]
    process = subprocess.Popen([*command, "--allow-control"], stderr=subprocess.PIPE, text=True)
    lines = []
    address = read_address(process, lines)
    # A full pipe would stop the daemon: keep reading what it logs.
    reader = threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True)
    reader.start()
    try:
        yield address
    finally:
        process.terminate()
        status = process.wait(30)
        reader.join(5)
    assert status == 0, "".join(lines[-50:])


@pytest.fixture(scope="session")
def daemon():
    with serve() as address:
        yield address


@pytest.fixture(scope="module")
def own_daemon():
    """For a client that may unload models."""
    with serve() as address:
        yield address


@pytest.fixture(params=golden.CASES)
def case(request):
    return golden.Case(request.param)


@pytest.fixture
def plain():
    """The simplest case: self-attention, nothing reused."""
    return golden.Case("self_attention")
