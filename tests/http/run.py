"""run.py [--core] [SUITE...] - runs the HTTP tests against build/attnd (BUILD names another).

A suite is a file test_*.py here, a test a function whose name says what holds. A test with a
parameter gets the daemon that serves all golden cases and the bundled model, one for all
suites; a test without makes its own. --core leaves out what is slow under sanitizers and proves
nothing there. A test that is marked "waits" spends its time waiting for the daemon that all share;
it runs beside the others, from the start. Ends with what failed and the line "N passed, M failed"."""

import argparse
import concurrent.futures
import importlib
import inspect
import pathlib
import sys
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True

from attnd import Daemon  # noqa: E402: the path comes first

# The order in which a failure says most: first what all others rest upon.
SUITES = ["golden", "edges", "routes", "oip", "tfserving", "recorded", "bad_input", "way_out",
          "framing", "refusals", "origin", "models", "layers", "hostile", "same_bits",
          "concurrency", "attn", "warmup", "start", "machines", "make", "readme"]


def all_suites():
    """Those, then what else lies here."""
    found = sorted(file.stem[5:] for file in HERE.glob("test_*.py"))
    return SUITES + [suite for suite in found if suite not in SUITES]


def tests_of(suite, core):
    module = importlib.import_module(f"test_{suite}")
    for name, function in inspect.getmembers(module, inspect.isfunction):
        mine = function.__module__ == module.__name__ and name.startswith("test_")
        if mine and not (core and getattr(function, "not_core", False)):
            yield name[5:].replace("_", " "), function


def run(suite, sentence, function, daemon):
    began = time.monotonic()
    try:
        note = function(daemon) if inspect.signature(function).parameters else function()
        daemon.assert_alive()
    except Exception as error:  # whatever it is, it is this test's failure
        print(f"FAILED  {suite}: {sentence}\n        {error}")
        frames = traceback.extract_tb(error.__traceback__)
        print("".join(f"        at {f.filename}:{f.lineno}: {f.line}\n" for f in frames[1:]), end="")
        return False
    seconds = time.monotonic() - began
    print(f"ok      {suite}: {sentence} ({seconds:.2f} s)" + (f": {note}" if note else ""))
    return True


def run_all(tests, passed, failures):
    """Those that do not wait, one after the other; a daemon that is gone is followed by another."""
    daemon = Daemon("--allow-control")
    waiting = [test for test in tests if getattr(test[2], "waits", False)]
    with concurrent.futures.ThreadPoolExecutor(len(waiting) + 1) as beside:
        begun = [(test, beside.submit(run, *test, daemon)) for test in waiting]
        for test in tests:
            if test in waiting:
                continue
            if daemon.process.poll() is not None:
                print("attnd is gone:\n" + "".join(daemon.log[-60:]))
                daemon = Daemon("--allow-control")
            (passed if run(*test, daemon) else failures).append(f"{test[0]}: {test[1]}")
            sys.stdout.flush()
        for test, good in begun:
            (passed if good.result() else failures).append(f"{test[0]}: {test[1]}")
    try:
        daemon.stop()
    except AssertionError as error:
        print(f"FAILED  the daemon did not end well: {error}")
        failures.append("the daemon did not end well")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--core", action="store_true")
    parser.add_argument("suites", nargs="*", metavar="SUITE")
    arguments = parser.parse_args()
    passed, failures = [], []
    run_all([(suite, *test) for suite in arguments.suites or all_suites()
             for test in tests_of(suite, arguments.core)], passed, failures)
    print("".join(f"FAILED  {failure}\n" for failure in failures), end="")
    print(f"{len(passed)} passed, {len(failures)} failed")
    return 1 if failures or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
