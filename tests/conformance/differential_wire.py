"""One call through every protocol: bodies as clients write them, answers as arrays."""

import http.client
import json

import ml_dtypes
import numpy as np

from attnd import Reply  # of tests/http

WIRE = {"bool": "BOOL", "int8": "INT8", "uint8": "UINT8", "int32": "INT32", "int64": "INT64",
        "float16": "FP16", "bfloat16": "BF16", "float32": "FP32", "float64": "FP64"}
KIND = {name: np.dtype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
        for kind, name in WIRE.items()}
FILE = {"BOOL": "BOOL", "INT8": "I8", "UINT8": "U8", "INT32": "I32", "INT64": "I64",
        "FP16": "F16", "BF16": "BF16", "FP32": "F32", "FP64": "F64"}
FROM_FILE = {file: wire for wire, file in FILE.items()}


def connection(daemon):
    """Kept open over thousands of calls."""
    return http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)


def ask_on(connection, method, path, body=None, headers=None):
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    return Reply(response.status, response.getheaders(), response.read())


class Refused(Exception):
    """A status of 4xx or 5xx and its sentence."""

    def __init__(self, reply):
        self.status, self.text = reply.status, reply.error()
        super().__init__(f"{self.status} {self.text}")


def _answered(reply):
    if reply.status != 200:
        raise Refused(reply)
    return reply


def _numbers(array):
    """For JSON: bfloat16 has no tolist of its own."""
    return array.astype(np.float32).tolist() if array.dtype == ml_dtypes.bfloat16 else array.tolist()


def _array(datatype, shape, data):
    return np.frombuffer(data, KIND[datatype]).reshape(shape)


def _read_oip(reply):
    length = reply.headers.get("inference-header-content-length")
    place = len(reply.body) if length is None else int(length)
    outputs = {}
    for entry in json.loads(reply.body[:place])["outputs"]:
        if "data" in entry:
            data = np.array(entry["data"], KIND[entry["datatype"]]).reshape(entry["shape"])
        else:
            size = entry["parameters"]["binary_data_size"]
            data = _array(entry["datatype"], entry["shape"], reply.body[place:place + size])
            place += size
        outputs[entry["name"]] = data
    assert place == len(reply.body), f"{len(reply.body) - place} bytes are left over"
    return outputs


def ask_binary(connection, model, inputs, outputs=()):
    """outputs: names of those wanted; none are all."""
    entries, tail = [], b""
    for name, array in inputs.items():
        data = np.ascontiguousarray(array).tobytes()
        entries.append({"name": name, "shape": list(array.shape), "datatype": WIRE[array.dtype.name],
                        "parameters": {"binary_data_size": len(data)}})
        tail += data
    text = json.dumps({"inputs": entries, "outputs": [{"name": name} for name in outputs],
                       "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    return _read_oip(_answered(
        ask_on(connection, "POST", f"/v2/models/{model}/infer", text + tail, headers)))


def ask_json(connection, model, inputs):
    entries = [{"name": name, "shape": list(array.shape), "datatype": WIRE[array.dtype.name],
                "data": _numbers(array.reshape(-1))} for name, array in inputs.items()]
    body = json.dumps({"inputs": entries})
    return _read_oip(_answered(ask_on(connection, "POST", f"/v2/models/{model}/infer", body)))


def ask_nested_json(connection, model, inputs):
    entries = [{"name": name, "shape": list(array.shape), "datatype": WIRE[array.dtype.name],
                "data": _numbers(array)} for name, array in inputs.items()]
    body = json.dumps({"inputs": entries})
    return _read_oip(_answered(ask_on(connection, "POST", f"/v2/models/{model}/infer", body)))


def ask_safetensors(connection, model, inputs):
    header, data = {}, b""
    for name, array in inputs.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": FILE[WIRE[array.dtype.name]], "shape": list(array.shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    body = len(text).to_bytes(8, "little") + text + data
    reply = _answered(ask_on(connection, "POST", f"/v2/models/{model}/infer", body,
                             {"Content-Type": "application/safetensors"}))
    length = int.from_bytes(reply.body[:8], "little")
    header, data = json.loads(reply.body[8:8 + length]), reply.body[8 + length:]
    header.pop("__metadata__", None)
    return {name: _array(FROM_FILE[entry["dtype"]], entry["shape"], data[slice(*entry["data_offsets"])])
            for name, entry in header.items()}


def ask_columns(connection, model, inputs):
    body = {"signature_name": "with_scores",
            "inputs": {name: _numbers(array) for name, array in inputs.items()}}
    reply = _answered(ask_on(connection, "POST", f"/v1/models/{model}:predict", json.dumps(body)))
    return {name: np.array(value) for name, value in reply.json()["outputs"].items()}


def _rows(inputs):
    count = len(inputs["query"])
    return [{name: _numbers(array[i]) for name, array in inputs.items()} for i in range(count)]


def ask_rows(connection, model, inputs):
    body = {"signature_name": "with_scores", "instances": _rows(inputs)}
    reply = _answered(ask_on(connection, "POST", f"/v1/models/{model}:predict", json.dumps(body)))
    rows = reply.json()["predictions"]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def ask_kserve(connection, model, inputs):
    """KServe's v1 knows no signatures: the output alone (whose bits may depend on that)."""
    reply = _answered(ask_on(connection, "POST", f"/v1/models/{model}:predict",
                             json.dumps({"instances": _rows(inputs)})))
    return {"attention_output": np.array(reply.json()["predictions"])}


def protocols(inputs, answer):
    """Those that can say this call: nested lists lose the shape of what has no elements, and rows
    need the batch in front of every input."""
    sized = all(array.size for array in (*inputs.values(), *answer))
    batch = len(inputs["query"]) if inputs["query"].ndim else 0
    asks = [ask_json, ask_safetensors]
    if sized:
        asks += [ask_nested_json, ask_columns]
    if sized and all(array.ndim > 1 and len(array) == batch for array in inputs.values()):
        asks += [ask_rows, ask_kserve]
    return asks
