#!/usr/bin/env python3
"""caps.py PROGRAM... - runs unit test programs as if the machine had fewer instructions than it
has: ATTND_CPU is avx512, avx2 and portable in turn. A line of counts each; levels that the machine
lacks are named. Ends with "N passed, M failed"."""

import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
LEVELS = ["avx512", "avx2", "portable"]
LACKING = "must not be above what this machine has"


def lacks(level, program):
    """The engine knows: a program that may not begin says so."""
    done = subprocess.run([program], env={**os.environ, "ATTND_CPU": level}, text=True,
                          capture_output=True, check=False)
    return LACKING in done.stderr and done.stderr.strip()


def main():
    programs = sys.argv[1:]
    steps = []
    for level in LEVELS:
        sentence = lacks(level, programs[0])
        if sentence:
            print(f"cpu {level}: not run: {sentence}", flush=True)
            continue
        command = " ".join(["ATTND_CPU=" + level, f"{HERE}/unit/run.py", "--quiet", *programs])
        steps.append(f"cpu {level}={command}")
    return subprocess.run([f"{HERE}/run.py", *steps], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
