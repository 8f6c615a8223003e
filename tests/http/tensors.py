"""Tensors as lists of numbers, and the three ways they travel: Open Inference Protocol in JSON and
binary, safetensors, TensorFlow Serving. Python's own library only."""

import array
import json
import math
import struct

from attnd import GOLDEN

# Name in safetensors, name in the protocol, letter for struct and array (None: converted).
_TYPES = [
    ("F64", "FP64", "d"), ("F32", "FP32", "f"), ("F16", "FP16", "e"), ("BF16", "BF16", None),
    ("I64", "INT64", "q"), ("I32", "INT32", "i"), ("I16", "INT16", "h"), ("I8", "INT8", "b"),
    ("U64", "UINT64", "Q"), ("U32", "UINT32", "I"), ("U16", "UINT16", "H"), ("U8", "UINT8", "B"),
    ("BOOL", "BOOL", "?"),
]
_BY_FILE = {row[0]: row for row in _TYPES}
_BY_WIRE = {row[1]: row for row in _TYPES}


def count(shape):
    return math.prod(shape)


def to_bytes(datatype, values):
    if datatype == "BF16":
        return b"".join(struct.pack("<f", value)[2:] for value in values)
    return struct.pack(f"<{len(values)}{_BY_WIRE[datatype][2]}", *values)


def from_bytes(datatype, data):
    if datatype == "BF16":
        pairs = (data[i : i + 2] for i in range(0, len(data), 2))
        return [struct.unpack("<f", b"\0\0" + pair)[0] for pair in pairs]
    letter = _BY_WIRE[datatype][2]
    if letter in "fdqihbQIHB":
        return array.array(letter, data)
    return list(struct.unpack(f"<{len(data) // struct.calcsize('<' + letter)}{letter}", data))


class Tensor:
    """datatype as the protocol names it, shape, values in row-major order."""

    def __init__(self, datatype, shape, values):
        self.datatype, self.shape, self.values = datatype, list(shape), values
        assert len(values) == count(shape), f"{len(values)} values for shape {shape}"

    def bytes(self):
        return to_bytes(self.datatype, self.values)

    def nested(self):
        """Lists of lists, as TensorFlow Serving wants them."""
        return _nest(list(self.values), self.shape)

    def rows(self, first, last):
        """The part [first:last] of the first axis."""
        size = count(self.shape[1:])
        values = self.values[first * size : last * size]
        return Tensor(self.datatype, [last - first, *self.shape[1:]], values)

    def cast(self, datatype):
        return Tensor(datatype, self.shape, from_bytes(datatype, to_bytes(datatype, self.values)))


def _nest(values, shape):
    if not shape:
        return values[0]
    size = count(shape[1:])
    return [_nest(values[i * size : (i + 1) * size], shape[1:]) for i in range(shape[0])]


def flatten(nested):
    """Values and shape of nested lists."""
    shape, level = [], nested
    while isinstance(level, list):
        shape.append(len(level))
        level = level[0] if level else None
    values = [nested]
    for _ in shape:
        values = [value for part in values for value in part]
    return Tensor("FP32", shape, values)


# ---- safetensors ---------------------------------------------------------------------------


def read_safetensors(data):
    """Tensors by name, and the metadata."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        first, last = (8 + length + offset for offset in entry["data_offsets"])
        datatype = _BY_FILE[entry["dtype"]][1]
        tensors[name] = Tensor(datatype, entry["shape"], from_bytes(datatype, data[first:last]))
    return tensors, metadata


def write_safetensors(tensors, metadata=None):
    header, body = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, tensor in tensors.items():
        data = tensor.bytes()
        header[name] = {
            "dtype": _BY_WIRE[tensor.datatype][0],
            "shape": tensor.shape,
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


# ---- the Open Inference Protocol ------------------------------------------------------------


def oip(inputs, binary=(), **members):
    """Body and headers of a request. binary: names of inputs that travel as bytes, or True."""
    entries, tail = [], b""
    for name, tensor in inputs.items():
        entry = {"name": name, "shape": tensor.shape, "datatype": tensor.datatype}
        if binary is True or name in binary:
            data = tensor.bytes()
            entry["parameters"] = {"binary_data_size": len(data)}
            tail += data
        else:
            entry["data"] = list(tensor.values)
        entries.append(entry)
    text = json.dumps({**members, "inputs": entries}).encode()
    headers = {"Content-Type": "application/json"}
    if binary:
        headers["Content-Type"] = "application/octet-stream"
        headers["Inference-Header-Content-Length"] = str(len(text))
    return text + tail, headers


def read_oip(reply):
    """Outputs by name, and the answer's JSON; every declared size has to add up."""
    assert reply.status == 200, f"status {reply.status}: {reply.body[:300]!r}"
    length = reply.headers.get("inference-header-content-length")
    size = len(reply.body) if length is None else int(length)
    answer, outputs = json.loads(reply.body[:size]), {}
    kind = "application/json" if length is None else "application/octet-stream"
    assert reply.headers["content-type"] == kind, reply.headers
    for entry in answer["outputs"]:
        if "data" in entry:
            values = entry["data"]
        else:
            bytes_of = entry["parameters"]["binary_data_size"]
            values = from_bytes(entry["datatype"], reply.body[size : size + bytes_of])
            size += bytes_of
        outputs[entry["name"]] = Tensor(entry["datatype"], entry["shape"], values)
    assert size == len(reply.body), f"{len(reply.body) - size} bytes are left over"
    return outputs, answer


# ---- golden cases ---------------------------------------------------------------------------


class Case:
    """A call and the answer of the real layer, and how far an answer may be away."""

    def __init__(self, name, directory=None, atol=1e-5, rtol=1e-5):
        call, _ = read_safetensors(((directory or GOLDEN / name) / "call.safetensors").read_bytes())
        self.name, self.atol, self.rtol = name, atol, rtol
        self.inputs = {n: t for n, t in call.items() if not n.startswith("expected/")}
        self.expected = {n[9:]: t for n, t in call.items() if n.startswith("expected/")}

    def check(self, outputs, names=None):
        """Worst error as a share of what is allowed; more than 1 fails."""
        worst = 0.0
        for name in names or self.expected:
            assert name in outputs, f"{self.name}: no {name} among {sorted(outputs)}"
            worst = max(worst, self.compare(name, outputs[name], self.expected[name]))
        return worst

    def compare(self, name, got, want, scale=1.0):
        where = f"{self.name} {name}"
        assert got.shape == want.shape, f"{where}: shape {got.shape}, wanted {want.shape}"
        worst = 0.0
        for index, (g, w) in enumerate(zip(got.values, want.values)):
            if g == w or (g != g and w != w):
                continue
            share = abs(g - w) / (scale * (self.atol + self.rtol * abs(w)))
            assert share <= 1, f"{where}[{index}]: {g!r}, wanted {w!r}, {share:.3g} of what is allowed"
            worst = max(worst, share)
        return worst


MANIFEST = json.loads((GOLDEN / "MANIFEST.json").read_text())["cases"]


def golden(name):
    return Case(name, **MANIFEST[name]["tolerance"])
