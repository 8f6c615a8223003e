"""seeds.py DIRECTORY - what the fuzzers begin with: golden files and requests in every protocol.

Writes DIRECTORY/request and DIRECTORY/documents. The head of a request is what fuzz_request.c
says. Python's own library only."""

import gzip
import json
import math
import pathlib
import struct
import sys
import zlib

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"
OIP, SAFETENSORS, TFSERVING = range(3)
PLAIN, GZIP, DEFLATE = range(3)


def head(protocol, coding=PLAIN, length=0xFFFF, piece=7):
    return bytes([protocol + 3 * coding]) + struct.pack("<H", length) + bytes([piece])


def tensor(name, shape, **members):
    return {"name": name, "shape": shape, "datatype": "FP32", **members}


def safetensors(tensors):
    text, body = {}, b""
    for name, (shape, data) in tensors.items():
        end = len(body) + len(data)
        text[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(body), end]}
        body += data
    header = json.dumps(text).encode()
    return struct.pack("<Q", len(header)) + header + body


def requests():
    """A layer of width 2 with two heads, the first of them reused."""
    query = tensor("query", [1, 2, 2], data=[0.5, -1e-3, 2, 1e30])
    scores = tensor("reuse_attention_scores", [1, 2, 2, 2], data=[[[[1, 0], [0.5, 0.5]]] * 2])
    mask = {"name": "attention_mask", "shape": [1, 2, 2], "datatype": "BOOL", "data": [True, 0, 1, 1]}
    parameters = {"training": True, "seed": 3, "timeout": 1000, "precision": "x3", "k": "v"}
    outputs = [
        {"name": "attention_output", "parameters": {"binary_data": True, "datatype": "BF16"}},
        {"name": "attention_scores", "parameters": {"heads": "0,1", "query_rows": "0-1", "top_k": 1}},
    ]
    plain = json.dumps({"id": "a\u00e9", "inputs": [query, scores]}).encode()
    rich = json.dumps(
        {"inputs": [query, mask, scores], "parameters": parameters, "outputs": outputs}
    ).encode()
    yield head(OIP) + plain
    yield head(OIP, piece=0) + rich
    yield head(OIP, GZIP) + gzip.compress(plain)
    yield head(OIP, DEFLATE) + zlib.compress(rich)
    data = struct.pack("<4f", 1, 2, 3, 4)
    entry = tensor("query", [1, 2, 2], parameters={"binary_data_size": len(data)})
    mixed = json.dumps({"inputs": [entry, scores]}).encode()
    yield head(OIP, length=len(mixed)) + mixed + data
    coded = tensor("query", [1, 2, 2], data={"b64": "AACAPwAAgD8AAIA/AACAPw=="})
    yield head(OIP) + json.dumps({"inputs": [coded, scores]}).encode()
    odd = b'{"inputs":[{"name":"query","shape":[1,1,2],"datatype":"FP64","data":[NaN,-Infinity]}]}'
    yield head(OIP) + odd
    row = {"query": [[1, 2], [3, 4]], "reuse_attention_scores": [[[1, 0], [0, 1]]] * 2}
    yield head(TFSERVING) + json.dumps({"instances": [row, row]}).encode()
    columns = {name: [value] for name, value in row.items()}
    yield head(TFSERVING) + json.dumps({"inputs": columns, "signature_name": "with_scores"}).encode()
    tensors = {"query": ([1, 2, 2], data), "reuse_attention_scores": ([1, 2, 2, 2], data * 2)}
    yield head(SAFETENSORS) + safetensors(tensors)


def documents():
    for case in sorted(GOLDEN.glob("*/layer.json")):
        yield b"\0" + case.read_bytes()
        weights = (case.parent / "weights.safetensors").read_bytes()
        if len(weights) < 8192:
            yield b"\1" + weights
    for entry in json.loads((GOLDEN / "facts" / "configurations.json").read_text()):
        yield b"\0" + json.dumps(entry).encode()
    layer = {"num_heads": 2, "key_dim": 3, "query_shape": "(None, ?, TensorShape([3]))",
             "value_shape": {"class_name": "TensorShape", "items": [None, "3"]}, "use_bias": 1,
             "attention_axes": "ListWrapper([1])", "dropout": "np.float32(0.5)",
             "kernel_constraint": {"class_name": "MaxNorm", "config": {"max_value": math.inf}}}
    inner = {"class_name": "ReuseMultiHeadAttention", "config": layer, "shared_object_id": 1}
    wrapped = {"class_name": "TimeDistributed", "config": {"layer": inner}}
    for layers in ([inner], [wrapped, inner], [{"class_name": "Sequential", "config": [inner]}]):
        model = {"class_name": "Functional", "config": {"name": "m", "layers": layers}}
        yield b"\0\xef\xbb\xbf" + json.dumps(model).encode()
    names = ("a/query/kernel:0", "a/query/bias:0", "relative_position_embeddings:0")
    yield b"\1" + safetensors({name: ([1], b"\0" * 4) for name in names})
    yield b'\2{"parameters": {"config": "{}", "file:1/weights.safetensors": "AAAA"}}'
    yield b'\2{"ready": true}'
    yield b'\2{"log_info": true, "log_verbose_level": 1, "log_format": "ISO8601"}'
    yield b'\2{"parameters": {"unload_dependents": false}}'


def main():
    for name, seeds in (("request", requests()), ("documents", documents())):
        directory = pathlib.Path(sys.argv[1]) / name
        directory.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds):
            (directory / f"seed-{number:03}").write_bytes(seed)


if __name__ == "__main__":
    main()
