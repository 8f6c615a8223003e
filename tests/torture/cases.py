"""The requests that torture.py asks: every route of server/routes.c in every form that has code of
its own, and what a right answer to each of them is."""

import base64
import gzip
import json
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "http"))

from attnd import GOLDEN, Question  # noqa: E402: the path comes first
from tensors import Tensor, golden, oip, write_safetensors  # noqa: E402: the path comes first

MODEL, REUSE, UPLOADED = "self_attention", "reuse_some", "uploaded"
MODELS = (MODEL, REUSE)
ORIGIN = "http://page.example"
# Texts that a parser's buffer has to grow for, several times; a byte of them is easily lost.
ID = "ident-" + "0123456789abcdef" * 11 + "-\u00e9\u4e16\U0001f600-end"
LONG = "parameter_" + "abcdefghijklmnopqrstuvwxyz" * 4

# What differs from one right answer to the next.
_CHANGING = ("date", "x-request-id", "server-timing")
_TIMES = re.compile(rb'("(?:ns|count|last_inference|inference_count|execution_count)":)\d+')
_SAMPLE = re.compile(rb"(?m)^([a-z_]+(?:\{[^}]*\})?) \S+$")


class Request:
    """name, the question, and undo: a request that has to go before this is asked again."""

    def __init__(self, name, method, path, body=None, headers=None, undo=None):
        self.name, self.undo = name, undo
        self.question = Question(method, path, body, headers)

    def normal(self, reply):
        """Status, headers and body without what may differ: ids, times, counters and samples."""
        path, body = self.question.path, reply.body
        headers = {name: "" if name in _CHANGING else value for name, value in reply.headers.items()}
        if path.endswith("/stats"):
            body = _TIMES.sub(rb"\1", body)
        if path == "/metrics":
            body = re.sub(rb"(?m)^attnd_requests_total\{.*\n", b"", _SAMPLE.sub(rb"\1", body))
        if body != reply.body:
            del headers["content-length"]
        return reply.status, headers, body


def _inference():
    case, reuse = golden(MODEL), golden(REUSE)
    path = f"/v2/models/{MODEL}/infer"
    compressed = {"Accept-Encoding": "gzip, identity;q=0"}
    head = {"id": ID, "parameters": {LONG: "x" * 70, "real": 1234567890.12345, "seed": 7}}
    text, headers = oip(case.inputs, **head)
    yield Request("infer json", "POST", path, text, headers)
    yield Request("infer json version", "POST", f"/v2/models/{MODEL}/versions/1/infer", text, headers)
    yield Request("infer chunked", "POST", path, text, {**headers, "Transfer-Encoding": "chunked"})
    yield Request("infer gzip both ways", "POST", path, gzip.compress(text),
                  {**headers, "Content-Encoding": "gzip", **compressed})
    binary, binary_headers = oip(case.inputs, binary=True, **head)
    yield Request("infer binary in", "POST", path, binary, binary_headers)
    outputs = [{"name": "attention_output", "parameters": {"binary_data": True}},
               {"name": "attention_scores",
                "parameters": {"binary_data": False, "heads": "0,2", "query_rows": "1-3"}}]
    mixed, mixed_headers = oip(case.inputs, binary=("query",), outputs=outputs, **head)
    yield Request("infer mixed", "POST", path, mixed, mixed_headers)
    top = [{"name": "attention_scores", "parameters": {"top_k": 2, "datatype": "FP16"}}]
    best, best_headers = oip(case.inputs, outputs=top, **head)
    yield Request("infer top_k", "POST", path, best, best_headers)
    coded = {**json.loads(text)}
    for entry in coded["inputs"]:
        data = Tensor(entry["datatype"], entry["shape"], entry["data"]).bytes()
        entry["data"] = {"b64": base64.b64encode(data).decode()}
    yield Request("infer base64", "POST", path, json.dumps(coded).encode(), headers)
    body, reuse_headers = oip(reuse.inputs, binary=True, **head)
    yield Request("infer reuse", "POST", f"/v2/models/{REUSE}/infer", body, reuse_headers)
    # Long enough for a worker, and for an answer that is not copied.
    query = Tensor("FP32", [2, 96, 16], [(i % 23) / 7 for i in range(2 * 96 * 16)])
    large, large_headers = oip({"query": query}, binary=True, id=ID,
                               parameters={"binary_data_output": True})
    yield Request("infer large binary", "POST", path, large, large_headers)
    query = Tensor("FP32", [2, 64, 16], query.values[: 2 * 64 * 16])
    large, large_headers = oip({"query": query}, id=ID)
    yield Request("infer large json", "POST", path, large, large_headers)
    yield Request("infer large gzip", "POST", path, large, {**large_headers, **compressed})
    file = write_safetensors(case.inputs, {"id": ID, "outputs": "attention_output,attention_scores",
                                           "seed": "12345678901234567"})
    tensors = {"Content-Type": "application/safetensors"}
    yield Request("infer safetensors", "POST", path, file, tensors)
    yield Request("infer safetensors to json", "POST", path, file,
                  {**tensors, "Accept": "application/json"})


def _prediction():
    inputs = golden(MODEL).inputs
    path = f"/v1/models/{MODEL}:predict"
    rows = [{name: tensor.rows(i, i + 1).nested()[0] for name, tensor in inputs.items()}
            for i in range(inputs["query"].shape[0])]
    columns = {name: tensor.nested() for name, tensor in inputs.items()}
    for name, body in [
        ("predict rows", {"instances": rows}),
        ("predict rows with scores", {"signature_name": "with_scores", "instances": rows}),
        ("predict columns", {"signature_name": "with_scores", "inputs": columns}),
    ]:
        yield Request(name, "POST", path, json.dumps(body).encode())
    yield Request("predict version", "POST", f"/v1/models/{MODEL}/versions/1:predict",
                  json.dumps({"instances": rows}).encode())


def _reading():
    model, tf = f"/v2/models/{MODEL}", f"/v1/models/{MODEL}"
    paths = ["/", "/metrics", "/openapi.json", "/v2", "/v2/health/live", "/v2/health/ready",
             "/v2/models", "/v2/models/stats", "/v2/logging", "/v1/models", tf,
             f"{tf}/metadata", f"{tf}/versions/1", f"{tf}/versions/1/metadata"]
    for at in (model, f"{model}/versions/1"):
        paths += [at, f"{at}/ready", f"{at}/config", f"{at}/stats"]
    for path in paths:
        yield Request(f"GET {path}", "GET", path)
    yield Request("HEAD /v2", "HEAD", "/v2")
    yield Request("OPTIONS infer", "OPTIONS", f"{model}/infer")
    yield Request("OPTIONS of a page", "OPTIONS", f"{model}/infer", None,
                  {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"})
    yield Request("GET of a page", "GET", "/v2", None, {"Origin": ORIGIN})


def _refusals():
    infer = f"/v2/models/{MODEL}/infer"
    yield Request("404 route", "GET", "/nothing")
    yield Request("403 page", "GET", "/v2", None, {"Origin": "http://other.example"})
    yield Request("404 model", "GET", "/v2/models/absent/config")
    yield Request("404 infer", "POST", "/v2/models/absent/infer", b"{}")
    yield Request("405", "DELETE", f"/v2/models/{MODEL}")
    yield Request("411", "POST", infer, None, {"Content-Length": None})
    yield Request("415", "POST", infer, b"{}", {"Content-Encoding": "br"})
    yield Request("400 json", "POST", infer, b'{"id": "' + b"x" * 100 + b'", "inputs": [}')
    yield Request("400 shape", "POST", infer, b'{"inputs":[{"name":"query","datatype":"FP32",'
                  b'"shape":[1,2,16],"data":[1,2,3]}]}')
    yield Request("400 safetensors", "POST", infer, b"\x40\0\0\0\0\0\0\0" + b'{"query":' + b" " * 55,
                  {"Content-Type": "application/safetensors"})
    yield Request("400 framing", "GET", "/v2", None, {"Transfer-Encoding": "gzip"})
    # Refused by libmicrohttpd itself.
    yield Request("431", "GET", "/v2", None, {f"X-{i}": "x" * 50000 for i in range(4)})


def _upload():
    weights = (GOLDEN / MODEL / "weights.safetensors").read_bytes()
    parameters = {"config": (GOLDEN / MODEL / "layer.json").read_text(),
                  "file:1/weights.safetensors": base64.b64encode(weights).decode()}
    return Request("load uploaded", "POST", f"/v2/repository/models/{UPLOADED}/load",
                   json.dumps({"parameters": parameters}).encode())


def _control():
    repository = "/v2/repository"
    yield Request("index", "POST", f"{repository}/index")
    yield Request("index ready", "POST", f"{repository}/index", b'{"ready": true}')
    yield Request("load", "POST", f"{repository}/models/{MODEL}/load", b"{}")
    yield UPLOAD
    reload = Request("load again", "POST", f"{repository}/models/{REUSE}/load", b"{}")
    yield Request("unload", "POST", f"{repository}/models/{REUSE}/unload",
                  b'{"parameters": {"unload_dependents": false}}', undo=reload)
    yield Request("set logging", "POST", "/v2/logging", b'{"log_verbose_level": 0, '
                  b'"log_format": "ISO8601", "log_info": false}')


def plain_request(model):
    """What a model answers, whatever it was told before."""
    body, headers = oip(golden(model).inputs, binary=True, parameters={"binary_data_output": True})
    return Request(f"infer {model}", "POST", f"/v2/models/{model}/infer", body, headers)


READINESS = Request("GET /v2/health/ready", "GET", "/v2/health/ready")
UPLOAD = _upload()
# Requests whose first answer is another code's than all later ones.
FIRST = [r for r in [*_inference(), *_prediction()] if r.name in (
    "infer json", "infer large binary", "infer large gzip", "infer reuse", "predict rows")]


def all_requests():
    return [*_inference(), *_prediction(), *_reading(), *_refusals(), *_control()]
