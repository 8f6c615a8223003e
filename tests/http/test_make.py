"""The first minutes: `make run` in a terminal of its own, and what make prints."""

import os
import pathlib
import pty
import re
import select
import signal
import socket
import subprocess
import tempfile
import time

from attnd import BUILD, ROOT

LIMIT = 60  # seconds; nothing here takes ten


def _environment(**changes):
    """Of a person at a shell: nothing of the make or the daemon that runs these tests."""
    dropped = ("MAKE", "MFLAGS", "ATTND_", "LISTEN", "CI")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    return {**kept, "BUILD": os.path.relpath(BUILD, ROOT), **changes}


class Terminal:
    """A command in a session and on a terminal of its own."""

    def __init__(self, *command, **environment):
        self.output = ""
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)  # as at a shell, wherever the tests run
            os.chdir(ROOT)
            os.execvpe(command[0], command, _environment(**environment))
        self.status = None

    def read(self, until=None):
        """Reads until the pattern was printed, or all when there is none; what it found."""
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            found = until and re.search(until, self.output)
            if found:
                return found
            if not select.select([self.descriptor], [], [], 1)[0]:
                continue
            try:
                piece = os.read(self.descriptor, 65536)
            except OSError:  # the other end of the terminal is closed
                piece = b""
            if not piece:
                assert until is None, f"no {until} in\n{self.output}"
                return None
            self.output += piece.decode(errors="replace")
        raise AssertionError(f"waited {LIMIT} s for {until or 'the end'}\n{self.output}")

    def type(self, text):
        os.write(self.descriptor, text)

    def hang_up(self):
        os.close(self.descriptor)
        self.descriptor = -1

    def wait(self):
        """The exit code. It ends by itself, or this fails."""
        if self.descriptor >= 0:
            self.read()
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid == self.pid:
                self.status = status
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        raise AssertionError(f"still runs after {LIMIT} s: {self.members()}")

    def members(self):
        """Process ids of the session, by the names of their programs."""
        found = {}
        for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                name, rest = re.fullmatch(r"\d+ \((.*)\) (.*)", path.read_text(), re.S).groups()
            except (OSError, AttributeError):
                continue
            state, _, _, session = rest.split()[:4]
            if int(session) == self.pid and state != "Z":
                found[name] = int(path.parent.name)
        return found

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pid in self.members().values():
            os.kill(pid, signal.SIGKILL)
        if self.descriptor >= 0:
            os.close(self.descriptor)
        if self.status is None:
            os.waitpid(self.pid, 0)


def _run(listen="127.0.0.1:0"):
    """make run, on what was built before: compiling takes as long as it takes."""
    build = os.path.relpath(BUILD, ROOT)
    built = _make(f"{build}/attnd", f"{build}/attn")
    assert built.returncode == 0, built.stderr
    return Terminal("make", "run", f"LISTEN={listen}")


def _serving(terminal):
    """The port, once it goes on serving."""
    return int(terminal.read(r"goes on serving at http://127\.0\.0\.1:(\d+)[^$]*README")[1])


def _nothing_is_left(terminal, port):
    end = time.monotonic() + LIMIT
    while terminal.members() and time.monotonic() < end:
        time.sleep(0.01)
    assert not terminal.members(), f"left behind: {terminal.members()}"
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "something still listens"


def test_make_run_answers_and_ctrl_c_ends_it_without_a_complaint():
    with _run() as terminal:
        port = _serving(terminal)
        assert (BUILD / "attn").exists(), "README.md uses it"
        for shown in ("attnd: ready on", "attention_scores", "animal", "Ctrl-C"):
            assert shown in terminal.output, terminal.output
        terminal.type(b"\x03")
        terminal.wait()
        assert "***" not in terminal.output, terminal.output
        assert "Traceback" not in terminal.output, terminal.output
        _nothing_is_left(terminal, port)


def test_make_run_leaves_nothing_however_it_is_ended():
    for what, end in [
        ("SIGTERM to make", lambda t: os.kill(t.pid, signal.SIGTERM)),
        ("SIGTERM to the demo", lambda t: os.kill(_demo(t), signal.SIGTERM)),
        ("SIGKILL to the demo", lambda t: os.kill(_demo(t), signal.SIGKILL)),
        ("SIGTERM to all", lambda t: os.killpg(t.pid, signal.SIGTERM)),
        ("the terminal is closed", lambda t: t.hang_up()),
    ]:
        with _run() as terminal:
            port = _serving(terminal)
            end(terminal)
            terminal.wait()
            try:
                _nothing_is_left(terminal, port)
            except AssertionError as error:
                raise AssertionError(f"{what}: {error}") from error
            assert "Traceback" not in terminal.output, f"{what}: {terminal.output}"


def _demo(terminal):
    return next(pid for name, pid in terminal.members().items() if name in ("demo", "python3"))


def test_a_port_that_is_taken_is_said_with_the_way_out():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with _run(f"127.0.0.1:{port}") as terminal:
            status = terminal.wait()
            assert status != 0 and f"127.0.0.1:{port} is taken" in terminal.output, terminal.output
            assert "make run LISTEN=127.0.0.1:0" in terminal.output, terminal.output
            assert "Traceback" not in terminal.output, terminal.output
            assert not terminal.members(), terminal.members()


def _make(*arguments):
    return subprocess.run(["make", *arguments], cwd=ROOT, env=_environment(), timeout=600,
                          capture_output=True, text=True, check=False)


def test_make_prints_a_short_line_a_file_and_with_v_the_commands():
    with tempfile.TemporaryDirectory() as directory:
        build = f"BUILD={directory}/build"
        everything = [build, "CC=true", "CXX=true", "all"]  # true compiles very fast
        done = _make(*everything)
        lines = done.stdout.splitlines()
        assert done.returncode == 0, done.stderr
        assert len(lines) > 50 and max(map(len, lines)) < 100, max(lines, key=len)
        assert any(line.split() == ["CC", "server/main.c"] for line in lines), lines[:9]
        loud = _make(*everything, "V=1").stdout
        assert re.search(r"^true .*-c -o \S*server/main\.o server/main\.c$", loud, re.M), loud[:900]
        assert _make("-s", *everything).stdout == "", "make -s is silent"


def test_make_with_jobs_hands_them_on():
    """Without a warning, that is, as who types make -j2 out of habit would see it."""
    for arguments in (["-j2", "demo"], ["-j", "demo"], ["demo"]):
        done = _make(*arguments, "LISTEN=127.0.0.1:0")
        assert done.returncode == 0 and "animal" in done.stdout, (arguments, done.stderr)
        assert not done.stderr, f"make {' '.join(arguments)}: {done.stderr}"
    assert (BUILD / "attn").exists(), "README.md uses it after make demo, too"


def test_make_clean_removes_what_build_names_and_never_sources():
    with tempfile.TemporaryDirectory() as directory:
        build = pathlib.Path(directory) / "build"
        (build / "engine").mkdir(parents=True)
        done = _make("clean", f"BUILD={build}")
        assert done.returncode == 0 and not build.exists(), done.stderr
        assert (BUILD / "attnd").exists(), "that was another folder"
    for name in (".", "server", "tests", "docker", ""):
        done = _make("-n", "clean", f"BUILD={name}")
        assert done.returncode != 0 and "sources" in done.stderr, f"BUILD={name}: {done.stderr}"


for function in list(globals().values()):
    if getattr(function, "__name__", "").startswith("test_"):
        function.not_core = True  # make would build in the sanitizers' folder without them
