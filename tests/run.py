#!/usr/bin/env python3
"""run.py NAME=COMMAND... - runs commands that test, all of them, whatever became of the others.

Shows what they print. The last line is "N passed, M failed" over all of them: the sum of what each
said in such lines, which are shown as "NAME: N passed, M failed". Above it stand the lines
"FAILED  ..." that stood above theirs, with NAME. A command that says no numbers counts as one test;
one that fails and counts no failure has failed once. Exit status 0: nothing failed."""

import re
import subprocess
import sys
import textwrap
import time

COUNTS = re.compile(r"(\d+) passed, (\d+) failed$")


def run(name, command):
    """Tests that passed, tests that failed, lines about these."""
    passed = failed = counts = 0
    failures, listed = [], []
    print(f"== {name}: {textwrap.shorten(command, 100, placeholder=' ...')}", flush=True)
    began = time.monotonic()
    process = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, errors="replace")
    for line in process.stdout:
        found = COUNTS.match(line)
        if found:
            passed, failed, counts = passed + int(found[1]), failed + int(found[2]), counts + 1
            failures += [f"FAILED  {name}: {sentence}" for sentence in listed]
            line = f"{name}: {line}"
        listed = [*listed, line[8:]] if line.startswith("FAILED  ") else []
        print(line, end="", flush=True)
    status = process.wait()
    if status != 0 and failed == 0:
        failed = 1
        failures.append(f"FAILED  {name}: exit status {status}, and no failure counted\n")
    elif counts == 0:
        passed = 1
    print(f"== {name}: {'FAILED' if failed else 'passed'}, {time.monotonic() - began:.0f} s",
          flush=True)
    return passed, failed, failures


def main():
    all_passed, all_failed, all_failures = 0, 0, []
    for argument in sys.argv[1:]:
        name, _, command = argument.partition("=")
        passed, failed, failures = run(name, command)
        all_passed, all_failed = all_passed + passed, all_failed + failed
        all_failures += failures
    print("".join(all_failures) + f"{all_passed} passed, {all_failed} failed")
    return 1 if all_failed or not all_passed else 0


if __name__ == "__main__":
    sys.exit(main())
