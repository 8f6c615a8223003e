#!/usr/bin/env python3
"""run.py [--quiet] PROGRAM... - runs unit test programs, each of them, whatever became of the
others. What failed is listed last, then "N passed, M failed".

It counts the lines that cmocka prints for each test; its closing lines differ between versions. A
test that began and did not end well has failed, and so has one that a crash kept from running.
--quiet shows the output of programs that fail, and nothing of the others."""

import argparse
import pathlib
import re
import subprocess
import sys

SECONDS = 900  # of one program, under sanitizers on a busy machine
ANNOUNCED = re.compile(r"\[=+\] (?:.*: )?Running (\d+) test")
BEGAN = re.compile(r"\[ RUN {6}\] (\w+)")
PASSED = re.compile(r"\[ {7}OK \] (\w+)")


def run(program, quiet):
    """Names of tests that passed, sentences about what failed."""
    announced, began, passed, lines = 0, [], [], []
    process = subprocess.Popen(["timeout", str(SECONDS), program], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, errors="replace")
    for line in process.stdout:
        announced += sum(int(count) for count in ANNOUNCED.findall(line))
        began += BEGAN.findall(line)
        passed += PASSED.findall(line)
        lines.append(line)
        if not quiet:
            print(line, end="", flush=True)
    status = process.wait()
    failed = [name for name in began if name not in passed]
    if announced > len(began):
        failed.append(f"{announced - len(began)} of its tests never ran")
    if status != 0 and not failed or announced == 0:
        failed.append(f"exit status {status}, {announced} tests")
    if quiet and failed:
        print("".join(lines), end="", flush=True)
    return len(passed), max(announced - len(passed), len(failed) > 0), failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("programs", nargs="+", metavar="PROGRAM")
    arguments = parser.parse_args()
    all_passed, all_failed, sentences = 0, 0, []
    for program in arguments.programs:
        passed, failed, names = run(program, arguments.quiet)
        all_passed, all_failed = all_passed + passed, all_failed + failed
        sentences += [f"FAILED  {pathlib.Path(program).name}: {name}" for name in names]
    print("\n".join([*sentences, f"{all_passed} passed, {all_failed} failed"]))
    return 1 if all_failed else 0


if __name__ == "__main__":
    sys.exit(main())
