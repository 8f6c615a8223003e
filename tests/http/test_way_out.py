"""The mistakes that people make first: each is told in one sentence that names the way out.

They are made with curl, as people make them: what it does to a file sent with -d is part of it."""

import json
import pathlib
import subprocess
import tempfile

from attnd import ROOT
from tensors import golden, oip, write_safetensors

MODEL = "self_attention"
QUERY = golden(MODEL).inputs["query"]
ENTRY = {"name": "query", "shape": QUERY.shape, "datatype": "FP32", "data": list(QUERY.values)}
SAFETENSORS = "Content-Type: application/safetensors"


def _curl(daemon, *arguments, path=f"/v2/models/{MODEL}/infer"):
    """Status and body of what curl was answered."""
    done = subprocess.run(["curl", "-sS", "-w", "\n%{http_code}", *arguments, daemon.url + path],
                          cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    body, _, status = done.stdout.rpartition(b"\n")
    return int(status), body


def _without(*names):
    return json.dumps({"inputs": [{k: v for k, v in ENTRY.items() if k not in names}]})


def _binary():
    """A JSON header and the bytes behind it."""
    body, headers = oip({"query": QUERY}, binary=True)
    length = int(headers["Inference-Header-Content-Length"])
    return body, length


def _rows(directory):
    body, length = _binary()
    header = "Inference-Header-Content-Length: "
    binary = directory / "binary"
    binary.write_bytes(body)
    text = json.loads(body[:length])
    indented = json.dumps(text, indent=2).encode()
    spread = directory / "indented"
    spread.write_bytes(indented + body[length:length + 40] + b"\n\r\n" + body[length + 43:])
    file = directory / "call.safetensors"
    file.write_bytes(write_safetensors({"query": QUERY}))
    large = directory / "large"
    large.write_bytes(b'{"query": [' + b"0.5, " * 40000 + b"0.5]}")
    both = directory / "large_binary"
    both.write_bytes(body[:length] + bytes(range(256)) * 1000)
    stripped = []  # by newer versions of curl also of zeros; the length's first byte is what is left
    for first in b"@8t{n\x01\xff":
        path = directory / f"stripped{first}"
        path.write_bytes(bytes([first]) + file.read_bytes()[8:].translate(None, b"\0\r\n"))
        stripped.append((f"stripped, {first:#04x} first", ["--data-binary", f"@{path}"], 400,
                         SAFETENSORS))
    asked = ("--data-binary", "@docker/question.safetensors")
    infer = f"/v1/models/{MODEL}:predict"
    return [
        ("binary tensors without the header", ["--data-binary", f"@{binary}"], 400,
         f"{header}{length}"),
        ("many of them", ["--data-binary", f"@{both}"], 400, f"{header}{length}"),
        ("the header too large", ["--data-binary", f"@{binary}", "-H", f"{header}{length + 9}"], 400,
         f"{header}{length}"),
        ("the header too small", ["--data-binary", f"@{binary}", "-H", f"{header}{length - 9}"], 400,
         "Inference-Header-Content-Length"),
        ("-d drops line ends of binary", ["-d", f"@{spread}", "-H", f"{header}{len(indented)}"], 400,
         ("--data-binary", "Inference-Header-Content-Length")),
        ("the input's name for inputs", ["-d", json.dumps({"query": [[[1, 2]]]})], 400,
         '"inputs": [{"name": "query"'),
        ("large, too", ["-d", f"@{large}"], 413, "inputs[].data"),
        ("nothing", ["-d", "{}"], 400, '"inputs": [{"name": "query"'),
        ("instances for inputs", ["-d", '{"instances": [[[1, 2]]]}'], 400, infer),
        ("inputs by name", ["-d", '{"inputs": {"query": [[[1, 2]]]}}'], 400, infer),
        ("inputs for instances", ["-d", json.dumps({"inputs": [ENTRY]})], 400, f"/v2/models/{MODEL}/infer", infer),
        ("names for instances", ["-d", '{"query": [[1]]}'], 400, '{"instances": [{"query"', infer),
        ("no datatype", ["-d", _without("datatype")], 400, 'datatype is missing; it is "FP32"'),
        ("no shape", ["-d", _without("shape")], 400, "shape is missing"),
        ("no name", ["-d", _without("name")], 400, "name"),
        ("no data", ["-d", _without("data")], 400, "data is missing"),
        ("safetensors without the type", asked, 400, SAFETENSORS),
        ("its name", ["--data-binary", f"@{file}"], 400, SAFETENSORS),
        ("with -d", ["-d", f"@{file}"], 400, SAFETENSORS),
        *stripped,
        ("with -d and the type", ["-d", "@docker/question.safetensors", "-H", SAFETENSORS],
         (400, 413), "--data-binary"),
        ("JSON with that type", ["-d", json.dumps({"inputs": [ENTRY]}), "-H", SAFETENSORS],
         (400, 413), "application/json"),
        ("compressed, and not said", ["--data-binary", "@-"], 400, "Content-Encoding"),
        ("not JSON at all", ["-d", "query=1"], 400, "JSON"),
        ("two documents", ["-d", json.dumps({"inputs": [ENTRY]}) * 2], 400, "goes on"),
        ("behind a prediction", ["-d", '{"instances": [[[1]]]} x'], 400, "goes on", infer),
        ("single quotes", ["-d", "{'inputs': []}"], 400, "JSON"),
        ("the answer's page", ["-X", "GET"], 405, "POST"),
        ("no body", ["-X", "POST"], 411, "body"),
        ("the model's name", ["-d", "{}"], 404, "GET /v2/models", "/v2/models/absent/infer"),
        ("the version", ["-d", "{}"], 404, f"GET /v2/models/{MODEL}", f"/v2/models/{MODEL}/versions/7/infer"),
        ("the route's", ["-d", "{}"], 404, "/openapi.json", f"/v2/models/{MODEL}/predict"),
        ("one protocol's route in the other", ["-d", "{}"], 404, "/v1/models/NAME:predict", f"/v2/models/{MODEL}:predict"),
        ("and the other way", ["-d", "{}"], 404, "/v2/models/NAME/infer", f"/v1/models/{MODEL}/infer"),
        ("a page that is none", [], 404, "/openapi.json", "/v2/modles"),
        ("a file that is not there", ["-d", ""], 400, '"inputs": [{"name": "query"'),
        ("the same of a prediction", ["-d", ""], 400, "instances", infer),
        ("and of a safetensors file", ["-d", "", "-H", SAFETENSORS], 400, "--data-binary @FILE"),
        ("the shape as a text", ["-d", json.dumps({"inputs": [{**ENTRY, "shape": "1,4,8"}]})], 400, "as in [1, 4, 384]"),
    ]


def test_a_first_mistake_is_told_with_the_way_out(daemon):
    wrong = []
    with tempfile.TemporaryDirectory() as name:
        rows = _rows(pathlib.Path(name))
        for what, arguments, wanted, words, *path in rows:
            if what == "compressed, and not said":
                arguments = ["--data-binary", "@" + _compressed(name)]
            status, body = _curl(daemon, *arguments, **({"path": path[0]} if path else {}))
            sentence = json.loads(body).get("error", "") if body else ""
            words = words if isinstance(words, tuple) else (words,)
            wanted = wanted if isinstance(wanted, tuple) else (wanted,)
            if status not in wanted or not any(word in sentence for word in words):
                wrong.append(f"{what}: {status} {sentence!r}, wanted {wanted} and {words}")
    assert not wrong, f"{len(wrong)} of {len(rows)}\n          " + "\n          ".join(wrong)
    status, _ = _curl(daemon, "-d", json.dumps({"inputs": [ENTRY]}))
    assert status == 200, "the right request is served"
    return f"{len(rows)} mistakes"


def _compressed(directory):
    import gzip
    path = pathlib.Path(directory) / "gz"
    path.write_bytes(gzip.compress(json.dumps({"inputs": [ENTRY]}).encode()))
    return str(path)
