"""What README.md and api/PROTOCOL.md tell people to type, typed."""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from attnd import BUILD, GOLDEN, ROOT, Daemon
from tensors import Tensor, golden, read_safetensors, write_safetensors

# Names with a slash that are no files of this tree: what is made, tensors, weights.
MADE = ("models/", "build/", "expected/", "attn/", "query/", "key/", "value_", "attention_output_")
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


def test_the_files_that_the_pages_name_are_there():
    pages = ["README.md", "engine/README.md", "api/PROTOCOL.md", *sorted(
        str(path.relative_to(ROOT)) for path in (ROOT / "tests").glob("**/README.md"))]
    named = re.compile(r"`([\w.]+(?:/[\w.]+)*/(?:[\w.]+\.(?:c|h|py|sh|md|json))?)`")
    missing, count = [], 0
    for page in pages:
        for name in named.findall((ROOT / page).read_text()):
            count += 1
            places = (ROOT, (ROOT / page).parent, ROOT / "tests")
            if not name.startswith(MADE) and not any((p / name).exists() for p in places):
                missing.append(f"{page}: {name}")
    assert count > 30 and not missing, missing
    return f"{count} files"


# ---- a layer of one's own ----------------------------------------------------------------------


class _Values:
    """What numpy() gives of a variable or an output, here a Tensor."""

    def __init__(self, tensor, name=None):
        self.name, self.tensor = name, tensor

    def numpy(self):
        return self.tensor


class _Layer:
    """Stands for the layer of a golden case as Keras holds it: its answers are those recorded."""

    def __init__(self, name):
        self.case, self.directory = golden(name), GOLDEN / name
        tensors, _ = read_safetensors((self.directory / "weights.safetensors").read_bytes())
        self.weights = [_Values(tensor, f"attn/{key}:0") for key, tensor in tensors.items()]

    def get_config(self):
        return json.loads((self.directory / "layer.json").read_text())

    def inputs(self):
        return self.case.inputs["query"], self.case.inputs["value"]

    def __call__(self, query, value, return_attention_scores):
        assert [query, value] == list(self.inputs()) and return_attention_scores
        expected = self.case.expected
        return [_Values(expected[name]) for name in ("attention_output", "attention_scores")]


class _Safetensors:
    """Stands for the package, which the tests do not need otherwise."""

    @staticmethod
    def save_file(tensors, path):
        assert all(isinstance(tensor, Tensor) for tensor in tensors.values()), tensors
        pathlib.Path(path).write_bytes(write_safetensors(tensors))


def test_a_layer_of_ones_own_is_exported_served_and_asked_as_the_readme_says():
    text = (ROOT / "README.md").read_text()
    export, question = re.findall(r"```python\n(.*?)```", text, re.S)[:2]
    (ask,) = re.findall(r"^build/attn infer http://127.0.0.1:8080 (mine .*)$", text, re.M)
    layer = _Layer("self_attention")
    package = type(sys)("safetensors")
    package.numpy = sys.modules["safetensors.numpy"] = _Safetensors
    sys.modules["safetensors"] = package
    with tempfile.TemporaryDirectory() as directory:
        script = export + question
        assert script.count('"models/') == 2, script
        script = script.replace('"models/', f'"{directory}/models/')  # other tests run beside
        try:
            exec(script, dict(zip(("x", "y"), layer.inputs()), layer=layer))
        finally:
            del sys.modules["safetensors"], sys.modules["safetensors.numpy"]
        with Daemon(models=(f"{directory}/models",)) as daemon:
            done = subprocess.run([BUILD / "attn", "infer", daemon.url, *ask.split()], text=True,
                                  cwd=directory, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("worst difference") == 2, done.stdout
    return done.stdout.split()[-1]
