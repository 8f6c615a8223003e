"""The golden cases as numpy arrays: tests/golden, written by the real layer."""

import json
import pathlib
import struct

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent / "golden"
MANIFEST = json.loads((ROOT / "MANIFEST.json").read_text())["cases"]
CASES = sorted(MANIFEST)
OUTPUTS = ("attention_output", "attention_scores")

_DTYPES = {
    "F32": "<f4",
    "F64": "<f8",
    "F16": "<f2",
    "BOOL": "?",
    "I8": "<i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "U8": "<u1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
}


def _safetensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        array = np.frombuffer(data[start:end], _DTYPES[entry["dtype"]])
        tensors[name] = array.reshape(entry["shape"])
    return tensors


class Case:
    """One case: inputs and expected answers by name, and how far an answer may be away."""

    def __init__(self, name):
        self.name = name
        self.config = json.loads((ROOT / name / "layer.json").read_text())
        call = _safetensors(ROOT / name / "call.safetensors")
        self.inputs = {n: a for n, a in call.items() if not n.startswith("expected/")}
        self.expected = {n[9:]: a for n, a in call.items() if n.startswith("expected/")}
        self.tolerance = MANIFEST[name]["tolerance"]

    def check(self, output, got):
        want = self.expected[output]
        assert tuple(got.shape) == want.shape
        np.testing.assert_allclose(
            np.asarray(got, np.float32), want, **self.tolerance, err_msg=f"{self.name} {output}"
        )
