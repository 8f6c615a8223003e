"""The real layer and attnd side by side: what README.md's lines write down, served."""

import json
import re

from attnd import ROOT, Daemon  # of tests/http
from safetensors.numpy import save_file

BLOCK = re.compile(r"```python\n(.*?)```", re.S)
# Instruction sets that the daemon can be told to keep to; those a machine has not are the same.
CAPS = (None, "AVX512_CORE_BF16", "AVX512_CORE", "AVX2", "SSE41")


def readme_section():
    text = (ROOT / "README.md").read_text()
    return text.split("\n## Your own layer\n")[1].split("\n## ")[0]


def readme_export(layer, directory):
    """What README.md tells people to paste, with another directory."""
    block = BLOCK.search(readme_section()).group(1)
    assert '"models/mine"' in block
    exec(block.replace('"models/mine"', repr(str(directory))), {"layer": layer})


def write_down(keras, weights, directory):
    """A layer that TensorFlow could not build has no variables: its weights come by name."""
    (directory / "layer.json").write_text(json.dumps(keras.get_config(), default=list))
    save_file(weights, directory / "weights.safetensors")


def servers(stack, models):
    """Daemons on the same models, one an instruction set, closed with the stack. The first has all
    that the machine has."""
    found = {}
    for cap in CAPS:
        variables = {"ONEDNN_MAX_CPU_ISA": cap} if cap else {}
        daemon = stack.enter_context(Daemon(models=(models,), **variables))
        found.setdefault(instructions(daemon), daemon)
    return found.values()


def instructions(daemon):
    """The instruction set that its first line names."""
    return re.search(r"threads, (.*?), f32 by", daemon.log[0]).group(1)
