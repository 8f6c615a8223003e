"""Processors with less than this one, and systems that forbid what oneDNN wants."""

import ctypes
import os
import subprocess

from attnd import BUILD, BUNDLED, Daemon
import test_golden

ATTND = str(BUILD / "attnd")
LEVELS = ["portable", "avx2", "avx512"]
PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1
LIBC = ctypes.CDLL(None)


def _machine():
    """The highest level of this machine, by another witness."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        flags = next((line.split() for line in file if line.startswith("flags")), [])
    if not {"avx2", "fma"} <= set(flags):
        return 0
    return 2 if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= set(flags) else 1


def _check(*options):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("ATTND_")}
    return subprocess.run([ATTND, "--check", "--models", str(BUNDLED), *options], text=True,
                          capture_output=True, timeout=60, check=False, env=clean)


def test_each_level_of_the_machine_can_be_asked_for_and_none_above():
    for index, level in enumerate(LEVELS):
        done = _check("--cpu", level)
        if index <= _machine():
            assert done.returncode == 0, done.stderr
            assert f"threads, {level}, f32 by" in done.stderr, done.stderr
        else:
            assert done.returncode != 0 and "ready" not in done.stdout, (done.stdout, done.stderr)
            words = done.stderr.replace(",", " ").split()
            assert level in words and LEVELS[_machine()] in words, done.stderr
    done = _check("--cpu", "sse9")
    assert done.returncode != 0 and "avx512|avx2|portable" in done.stderr, done.stderr


def test_the_least_of_all_answers_rightly_and_the_log_and_config_say_so():
    with Daemon("--cpu", "portable") as daemon:
        note = test_golden.test_every_case_through_binary_tensors(daemon)
        lines = [line for line in daemon.log if "threads, portable" in line]
        assert len(lines) == 1, daemon.log
        notes = daemon.get("/v2/models/minilm/config").json()
        if _machine() > 0:
            assert "portable is used, the machine has" in lines[0], lines
            assert "portable is used, the machine has" in str(notes), notes
    return note


def _refuse_executable_memory():
    if LIBC.prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
        raise OSError("prctl")


def test_without_executable_memory_answers_are_right_or_the_start_says_what_is_missing():
    """As under systemd's MemoryDenyWriteExecute=yes, from the first instruction on."""
    try:
        subprocess.run(["true"], preexec_fn=_refuse_executable_memory, check=True)
    except subprocess.SubprocessError:
        return "this system cannot forbid it (Linux 6.3 can)"
    try:
        daemon = Daemon(before_start=_refuse_executable_memory)
    except RuntimeError as error:
        assert "MemoryDenyWriteExecute" in str(error) and "oneDNN" in str(error), error
        return "refused, by name"
    with daemon:
        note = test_golden.test_every_case_through_binary_tensors(daemon)
        if any("f32 by sgemm" in line for line in daemon.log):
            assert any("MemoryDenyWriteExecute" in line for line in daemon.log), daemon.log
            config = daemon.get("/v2/models/minilm/config").json()
            assert "MemoryDenyWriteExecute" in str(config), config
    return note
