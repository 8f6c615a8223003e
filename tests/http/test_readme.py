"""What README.md and api/PROTOCOL.md tell people to type, typed."""

import os
import re
import subprocess

from attnd import ROOT

BLOCK = re.compile(r"```sh\n(.*?)```\n(?:```text\n(.*?)```)?", re.S)


def _run(script, daemon):
    done = subprocess.run(["sh", "-c", script], cwd=ROOT, capture_output=True, timeout=60,
                          env={**os.environ, "URL": daemon.url})
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode()


def _blocks(path):
    found = BLOCK.findall((ROOT / path).read_text())
    assert found, f"{path} has no examples"
    return found


def test_the_recipes_of_the_readme_work_as_pasted(daemon):
    count = 0
    (ROOT / "build").mkdir(exist_ok=True)
    for script, _ in _blocks("README.md"):
        status, output, errors = _run(script, daemon)
        assert status == 0, f"{script}\n{errors}"
        assert '"error"' not in output, f"{script}\n{output[:300]}"
        count += 1
    return f"{count} recipes"


def test_the_examples_of_the_protocol_print_what_they_say(daemon):
    count = 0
    for script, wanted in _blocks("api/PROTOCOL.md"):
        _, output, errors = _run(script, daemon)
        assert wanted.strip() in output, f"{script}\nprinted\n{output[:500]}\n{errors}\nwanted\n{wanted}"
        count += 1
    return f"{count} examples"
