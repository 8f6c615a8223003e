"""What does not fit is refused: the right status, one sentence that names the field, and the next
request is served. A row is a name for people, the request, the status, a word of the sentence."""

import base64
import gzip
import json
import pathlib
import struct
import zlib

import attnd
from attnd import GOLDEN, Daemon, ModelDirectory
from tensors import Tensor, golden, oip, read_oip, read_safetensors, write_safetensors

NAME = "self_attention"
PATH = f"/v2/models/{NAME}/infer"


def _still_serves(daemon):
    case = golden(NAME)
    case.check(read_oip(daemon.post(PATH, *oip(case.inputs)))[0])


def _refused(daemon, rows, path=PATH):
    """Each row is asked; all that went wrong at once."""
    wrong = []
    replies = daemon.ask_all([attnd.post(path, row[1], row[2]) for row in rows])
    for (what, _, _, status, word), reply in zip(rows, replies):
        try:
            assert reply.status == status, f"status {reply.status}, wanted {status}"
            sentence = reply.error()
            assert word in sentence, f"no {word!r} in the sentence"
            assert "\n" not in sentence and len(sentence) < 600, "not one sentence"
        except AssertionError as error:
            wrong.append(f"{what}: {error}: {reply.body[:160]!r}")
    daemon.assert_alive()
    assert not wrong, f"{len(wrong)} of {len(rows)}\n          " + "\n          ".join(wrong)
    _still_serves(daemon)
    return f"{len(rows)} refusals"


def _entry(**changes):
    query = golden(NAME).inputs["query"]
    entry = {"name": "query", "shape": query.shape, "datatype": "FP32", "data": list(query.values)}
    entry.update(changes)
    return {key: value for key, value in entry.items() if value is not None}


def _inputs(*entries, **members):
    return json.dumps({"inputs": list(entries), **members}), {}


def _case(name, **tensors):
    """A golden call with other tensors in it; None leaves one out."""
    inputs = {**golden(name).inputs, **tensors}
    return oip({n: t for n, t in inputs.items() if t is not None}, binary=True)


def test_tensors_that_do_not_fit_the_layer(daemon):
    case = golden(NAME)
    query = case.inputs["query"]
    b, t, c = query.shape

    def of(shape, datatype="FP32"):
        return Tensor(datatype, shape, [0] * _product(shape))

    rows = [
        ("rank 2", *_case(NAME, query=of([t, c])), 400, "query"),
        ("rank 4 for one axis", *_case(NAME, query=of([b, 1, t, c])), 400, "query"),
        ("rank 0", *_case(NAME, query=of([])), 400, "query"),
        ("width", *_case(NAME, query=of([b, t, c + 1])), 400, "query"),
        ("value's width", *_case(NAME, value=of([b, t, c + 1])), 400, "value"),
        ("value's batch", *_case(NAME, value=of([b + 1, t, c])), 400, "value"),
        ("key's length", *_case(NAME, key=of([b, t + 1, c])), 400, "key"),
        ("integers for query", *_case(NAME, query=of([b, t, c], "INT32")), 400, "query"),
        ("BOOL for query", *_case(NAME, query=of([b, t, c], "BOOL")), 400, "query"),
        ("no query", *oip({"value": case.inputs["value"]}, binary=True), 400, "query"),
        ("mask of rank 1", *_case(NAME, attention_mask=of([t], "BOOL")), 400, "attention_mask"),
        ("mask of rank 5", *_case(NAME, attention_mask=of([1, 1, 1, t, t], "BOOL")), 400,
         "attention_mask"),
        ("mask's length", *_case(NAME, attention_mask=of([b, t, t + 1], "BOOL")), 400,
         "attention_mask"),
    ]
    return _refused(daemon, rows)


def test_scores_given_to_a_layer_that_reuses_none_change_nothing(daemon):
    case = golden(NAME)
    scores = Tensor("FP32", case.expected["attention_scores"].shape,
                    [0.5] * len(case.expected["attention_scores"].values))
    case.check(read_oip(daemon.post(PATH, *_case(NAME, reuse_attention_scores=scores)))[0])


def _product(shape):
    result = 1
    for extent in shape:
        result *= extent
    return result


def test_reused_scores_that_do_not_fit(daemon):
    scores = golden("reuse_some").inputs["reuse_attention_scores"]
    b, n, t, s = scores.shape
    path = "/v2/models/reuse_some/infer"
    rows = [
        ("left out", *_case("reuse_some", reuse_attention_scores=None), 400,
         "reuse_attention_scores"),
        ("no head", *_case("reuse_some", reuse_attention_scores=Tensor("FP32", [b, 0, t, s], [])),
         400, "reuse_attention_scores"),
        ("rows", *_case("reuse_some", reuse_attention_scores=Tensor(
            "FP32", [b, n, t + 1, s], [0.0] * (b * n * (t + 1) * s))), 400,
         "reuse_attention_scores"),
        ("rank", *_case("reuse_some", reuse_attention_scores=Tensor(
            "FP32", [b, t, s], [0.0] * (b * t * s))), 400, "reuse_attention_scores"),
    ]
    return _refused(daemon, rows, path)


def test_json_members_that_are_wrong(daemon):
    query = golden(NAME).inputs["query"]
    good = _entry()
    big = 2**63
    rows = [
        ("unknown input", *_inputs(_entry(name="queries")), 400, "queries"),
        ("name with a NUL", *_inputs(_entry(name="query\0")), 400, ""),
        ("name missing", *_inputs(_entry(name=None)), 400, "name"),
        ("name a number", *_inputs(_entry(name=1)), 400, "name"),
        ("input twice", *_inputs(good, good), 400, "query"),
        ("unknown datatype", *_inputs(_entry(datatype="FLOAT")), 400, "datatype"),
        ("datatype BYTES", *_inputs(_entry(datatype="BYTES")), 400, "datatype"),
        ("datatype missing", *_inputs(_entry(datatype=None)), 400, "datatype"),
        ("shape missing", *_inputs(_entry(shape=None)), 400, "shape"),
        ("shape negative", *_inputs(_entry(shape=[-1, 6, 16])), 400, "shape"),
        ("shape a fraction", *_inputs(_entry(shape=[2.5, 6, 16])), 400, "shape"),
        ("shape a text", *_inputs(_entry(shape="2,6,16")), 400, "shape"),
        ("shape beyond 64 bits", *_inputs(_entry(shape=[big, 6, 16])), 400, ""),
        ("shape wraps to nothing", *_inputs(_entry(shape=[2**33, 2**33, 768])), 400, ""),
        ("shape of 2^62 elements", *_inputs(_entry(shape=[2**31, 2**31, 1])), 400, "elements"),
        ("shape of 17 dimensions", *_inputs(_entry(shape=[1] * 17)), 400, ""),
        ("one value too few", *_inputs(_entry(data=list(query.values)[:-1])), 400, "data"),
        ("one value too many", *_inputs(_entry(data=[*query.values, 1.0])), 400, "data"),
        ("text among the values", *_inputs(_entry(data=["1", *list(query.values)[1:]])), 400, ""),
        ("null among the values", *_inputs(_entry(data=[None, *list(query.values)[1:]])), 400, ""),
        ("neither data nor size", *_inputs(_entry(data=None)), 400, "inputs[0].data"),
        ("data and size", *_inputs(_entry(parameters={"binary_data_size": 4})), 400, "data"),
        ("data a number", *_inputs(_entry(data=1)), 400, "data"),
        ("inputs missing", b'{"id":"1"}', {}, 400, "inputs"),
        ("inputs an object", b'{"inputs":{}}', {}, 400, "inputs"),
        ("no inputs", b'{"inputs":[]}', {}, 400, "query"),
        ("input a number", b'{"inputs":[1]}', {}, 400, "inputs"),
        ("unknown output", *_inputs(good, outputs=[{"name": "x"}]), 400, "x"),
        ("output twice", *_inputs(good, outputs=[{"name": "attention_output"}] * 2), 400, "twice"),
        ("outputs an object", *_inputs(good, outputs={}), 400, "outputs"),
        ("id a number", *_inputs(good, id=5), 400, "id"),
        ("id too long", *_inputs(good, id="x" * 1025), 400, "id"),
        ("parameters a list", *_inputs(good, parameters=[1]), 400, "parameters"),
        ("parameter an object", *_inputs(good, parameters={"k": {}}), 400, "k"),
        ("parameter reserved", *_inputs(good, parameters={"triton_x": 1}), 400, "triton_"),
        ("precision unknown", *_inputs(good, parameters={"precision": "f8"}), 400, "precision"),
        ("training a number", *_inputs(good, parameters={"training": 1}), 400, "training"),
        ("seed negative", *_inputs(good, parameters={"seed": -1}), 400, "seed"),
        ("timeout a text", *_inputs(good, parameters={"timeout": "soon"}), 400, "timeout"),
        ("heads out of range", *_inputs(good, outputs=[
            {"name": "attention_scores", "parameters": {"heads": "99"}}]), 400, "heads"),
        ("heads unreadable", *_inputs(good, outputs=[
            {"name": "attention_scores", "parameters": {"heads": "a-b"}}]), 400, "heads"),
        ("heads of the output", *_inputs(good, outputs=[
            {"name": "attention_output", "parameters": {"heads": "0"}}]), 400, "heads"),
        ("top_k of nothing", *_inputs(good, outputs=[
            {"name": "attention_scores", "parameters": {"top_k": 0}}]), 400, "top_k"),
        ("datatype of an output", *_inputs(good, outputs=[
            {"name": "attention_scores", "parameters": {"datatype": "INT8"}}]), 400, "datatype"),
        ("shared memory", *_inputs(_entry(data=None, parameters={
            "shared_memory_region": "r", "shared_memory_byte_size": 8})), 400, "shared"),
        ("a handle", *_inputs(_entry(data=None, parameters={"handle": "h"})), 501, "handle"),
        ("b64 broken", *_inputs(_entry(data={"b64": "!!!!"})), 400, ""),
        ("b64 too short", *_inputs(_entry(data={"b64": base64.b64encode(b"1234").decode()})), 400,
         ""),
        ("17 inputs", *_inputs(*[_entry(name=f"i{i}") for i in range(17)]), 400, ""),
    ]
    return _refused(daemon, rows)


def test_text_that_is_no_json(daemon):
    entry = json.dumps(_entry())
    rows = [(f"text {text[:30]!r}", text, {}, 400, "") for text in [
        b"", b" ", b"{", b"}", b"nonsense", b'{"inputs":[', b'{"inputs":[]} x', b'{"inputs":[],}',
        b'{"a":1}{"a":1}', b"null", b"[]", b"1", b'"x"', b'{"inputs":[{"name":"query","data":[1,,2]}]}',
        b'{"inputs":[{"name":"query","data":[1 2]}]}', b'{"inputs":[{"name":"query","data":[01]}]}',
        b'{"inputs":[{"name":"query","data":[1.]}]}', b'{"inputs":[{"name":"query","data":[.5]}]}',
        b'{"inputs":[{"name":"query","data":[+1]}]}', b'{"inputs":[{"name":"query","data":[1e]}]}',
        b'{"inputs":[{"name":"query","data":[0x10]}]}', b'{"inputs":[{"name":"query","data":[--1]}]}',
        b'{"id":"\xff\xfe","inputs":[]}', b'{"id":"\xc0\x80","inputs":[]}',
        b'{"id":"\\ud800","inputs":[]}', b'{"id":"\n","inputs":[]}', b'{"id":"\\x","inputs":[]}',
        b'\xef\xbb\xbf{"inputs":[]}', b'{"inputs":[],"inputs":[]}',
        b'{"inputs":[{"name":"query","name":"value"}]}',
        b'{"inputs":[{"name":"query","data":[1],"data":[2]}]}',
        ('{"inputs":[%s],"outputs":[],"outputs":[]}' % entry).encode(),
    ]]
    return _refused(daemon, rows)


def test_deep_and_wide_json(daemon):
    rows = [
        ("40 levels of data", b'{"inputs":[{"name":"query","shape":[1],"datatype":"FP32","data":'
         + b"[" * 40 + b"1" + b"]" * 40 + b"}]}", {}, 400, ""),
        ("100,000 brackets", b"[" * 100000, {}, 400, ""),
        ("100,000 brackets as data", b'{"inputs":[{"name":"query","data":' + b"[" * 100000, {}, 400,
         ""),
        ("40 objects", b'{"a":' * 40 + b"1" + b"}" * 40, {}, 400, ""),
        ("an envelope of 1 MB", b'{"x":"' + b"a" * (1 << 20) + b'","inputs":[]}', {}, 400, ""),
        ("100,000 small arrays", b'{"inputs":[' + b"[],".join([b""] * 100000) + b"[]]}", {}, 400, ""),
        ("10,000 keys", b"{" + b",".join(b'"k%d":0' % i for i in range(10000)) + b"}", {}, 400, ""),
    ]
    wrong = []
    replies = daemon.ask_all([attnd.post(PATH, row[1], row[2]) for row in rows])
    for (what, _, _, status, _), reply in zip(rows, replies):
        if reply.status not in (status, 413):
            wrong.append(f"{what}: {reply.status} {reply.body[:120]!r}")
    assert not wrong, wrong
    _still_serves(daemon)


def test_binary_sizes_that_do_not_add_up(daemon):
    query = golden(NAME).inputs["query"]
    data = query.bytes()

    def request(size, tail, header=None, shape=None):
        entry = {"name": "query", "shape": shape or query.shape, "datatype": "FP32",
                 "parameters": {"binary_data_size": size}}
        text = json.dumps({"inputs": [entry]}).encode()
        length = len(text) if header is None else header
        return text + tail, {"Inference-Header-Content-Length": str(length)}

    rows = [
        ("a byte too few", *request(len(data), data[:-1]), 400, "inputs[0]"),
        ("a byte too many", *request(len(data), data + b"x"), 400, ""),
        ("no tail", *request(len(data), b""), 400, "inputs[0]"),
        ("size below the shape", *request(len(data) - 4, data[:-4]), 400, "inputs[0]"),
        ("size above the shape", *request(len(data) + 4, data + b"1234"), 400, "inputs[0]"),
        ("size negative", *request(-1, data), 400, "binary_data_size"),
        ("size beyond 64 bits", *request(2**64, data), 400, ""),
        ("size a text", *request("768", data), 400, "binary_data_size"),
        ("shape overflows", *request(len(data), data, shape=[2**32, 2**32, 768]), 400, ""),
        ("header beyond the body", *request(len(data), data, header=10**9), 400,
         "Inference-Header-Content-Length"),
        ("header negative", *request(len(data), data, header=-1), 400,
         "Inference-Header-Content-Length"),
        ("header no number", *request(len(data), data, header="abc"), 400,
         "Inference-Header-Content-Length"),
        ("header beyond 64 bits", *request(len(data), data, header=2**70), 400,
         "Inference-Header-Content-Length"),
        ("header within the JSON", *request(len(data), data, header=20), 400, ""),
        ("raw request, header 0", *request(len(data), data, header=0), 400, ""),
        ("header missing", request(len(data), data)[0], {}, 400, ""),
    ]
    return _refused(daemon, rows)


def test_bodies_in_the_wrong_coding_or_type(daemon):
    text, _ = oip(golden(NAME).inputs)
    bomb = zlib.compress(b" " * (300 << 20), 9)
    squeezed = gzip.compress(text)
    rows = [
        ("br", text, {"Content-Encoding": "br"}, 415, "Content-Encoding"),
        ("zstd", text, {"Content-Encoding": "zstd"}, 415, "Content-Encoding"),
        ("gzip that is none", text, {"Content-Encoding": "gzip"}, 400, ""),
        ("deflate that is none", text, {"Content-Encoding": "deflate"}, 400, ""),
        ("gzip cut off", squeezed[:-20], {"Content-Encoding": "gzip"}, 400, ""),
        ("gzip and more", squeezed + b"more", {"Content-Encoding": "gzip"}, 400, ""),
        ("a bomb of 300 MB", bomb, {"Content-Encoding": "deflate"}, 413, ""),
        ("an image", text, {"Content-Type": "image/png"}, 415, "Content-Type"),
    ]
    before = _resident(daemon)
    note = _refused(daemon, rows)
    grown = (_resident(daemon) - before) >> 20
    assert grown < 300, f"{grown} MB more are resident"
    return note


def _resident(daemon):
    status = pathlib.Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) << 10


def test_safetensors_that_are_none(daemon):
    case = golden(NAME)
    good = write_safetensors(case.inputs)
    (length,) = struct.unpack_from("<Q", good)
    kind = {"Content-Type": "application/safetensors"}

    def with_header(text):
        text = text if isinstance(text, bytes) else json.dumps(text).encode()
        return struct.pack("<Q", len(text)) + text + good[8 + length :]

    header = json.loads(good[8 : 8 + length])
    query = header["query"]
    other = {"header length 2^63": 413, "header length 2^64-1": 413}
    rows = [(what, body, kind, other.get(what, 400), "") for what, body in [
        ("nothing", b""), ("seven bytes", good[:7]), ("header cut off", good[: length // 2]),
        ("data cut off", good[:-1]), ("data too long", good + b"x"),
        ("header length 2^63", struct.pack("<Q", 2**63) + good[8:]),
        ("header length 2^64-1", struct.pack("<Q", 2**64 - 1) + good[8:]),
        ("header no JSON", with_header(b"{nonsense")),
        ("header a list", with_header([])),
        ("offsets overlap", with_header({**header, "value": {
            **header["value"], "data_offsets": query["data_offsets"]}})),
        ("offsets backwards", with_header({**header, "query": {**query, "data_offsets": [8, 0]}})),
        ("offsets beyond", with_header({**header, "query": {
            **query, "data_offsets": [0, 1 << 40]}})),
        ("shape against offsets", with_header({**header, "query": {**query, "shape": [1, 1, 1]}})),
        ("shape overflows", with_header({**header, "query": {
            **query, "shape": [2**32, 2**32, 2**32]}})),
        ("unknown type", with_header({**header, "query": {**query, "dtype": "Q4"}})),
        ("unknown name", write_safetensors({"queries": case.inputs["query"]})),
        ("40 levels", with_header(b"[" * 40 + b"]" * 40)),
    ]]
    return _refused(daemon, rows)


def test_a_body_over_the_limit_is_413_before_it_is_sent():
    with Daemon("--max-body", "100000") as daemon:
        head = (f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n%s\r\n")
        got = daemon.raw((head % (100001, "")).encode(), timeout=5)
        assert got.startswith(b"HTTP/1.1 413"), got[:100]
        got = daemon.raw((head % (1 << 40, "Expect: 100-continue\r\n")).encode(), timeout=5)
        assert got.startswith(b"HTTP/1.1 413"), got[:100]
        body = gzip.compress(b" " * 200000)
        assert daemon.post(PATH, body, {"Content-Encoding": "gzip"}).status == 413
        chunks = b"".join(b"8000\r\n" + b" " * 0x8000 + b"\r\n" for _ in range(5)) + b"0\r\n\r\n"
        got = daemon.raw(
            f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            + chunks, timeout=5)
        assert b" 413 " in got[:20], got[:100]
        _still_serves(daemon)


def test_no_body_is_411_or_a_sentence(daemon):
    got = daemon.raw(f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert got.startswith(b"HTTP/1.1 411"), got[:100]


def test_a_broken_body_on_control_routes_is_400():
    with Daemon("--allow-control") as daemon:
        for path, body in [
            (f"/v2/repository/models/{NAME}/load", b"{"),
            (f"/v2/repository/models/{NAME}/load", b'{"parameters":{"config":"{"}}'),
            (f"/v2/repository/models/{NAME}/load", b'{"parameters":{"config":1}}'),
            (f"/v2/repository/models/{NAME}/load",
             b'{"parameters":{"config":"{}","file:1/weights.safetensors":"!!"}}'),
            (f"/v2/repository/models/{NAME}/unload", b"["),
            ("/v2/repository/index", b"nonsense"), ("/v2/repository/index", b'{"ready":1}'),
            ("/v2/logging", b"["), ("/v2/logging", b'{"log_info":1}'),
            ("/v2/logging", b'{"log_file":"/tmp/x"}'),
        ]:
            reply = daemon.post(path, body)
            assert reply.status == 400, f"{path} {body!r}: {reply.status} {reply.body[:200]!r}"
            reply.error()
        for path in ("/v2/repository/models/absent/load", "/v2/repository/models/absent/unload"):
            reply = daemon.post(path)
            assert reply.status in (400, 404), f"{path}: {reply.status}"
            reply.error()
        _still_serves(daemon)


def _weights(change):
    tensors, _ = read_safetensors((GOLDEN / NAME / "weights.safetensors").read_bytes())
    change(tensors)
    return write_safetensors(tensors)


def _layer(**changes):
    config = json.loads((GOLDEN / NAME / "layer.json").read_text())
    return json.dumps({**config, **changes})


def test_a_broken_model_is_said_and_the_others_are_served():
    broken = {
        "missing": {"weights.safetensors": _weights(lambda t: t.pop("query/bias"))},
        "shape": {"weights.safetensors": _weights(
            lambda t: t.update({"query/bias": Tensor("FP32", [1], [0.0])}))},
        "cut": {"weights.safetensors": (GOLDEN / NAME / "weights.safetensors").read_bytes()[:500]},
        "empty": {"weights.safetensors": b""},
        "nojson": {"layer.json": "{"},
        "heads": {"layer.json": _layer(num_heads=0)},
        "text": {"layer.json": _layer(num_heads="2")},
        "repeated": {"layer.json": _layer(attention_axes=[1, 1])},
        "reuse": {"layer.json": _layer(reuse_attention=99)},
        "dropout": {"layer.json": _layer(dropout=2.0)},
    }
    with ModelDirectory() as directory:
        directory.copy(NAME)
        for name, files in broken.items():
            target = directory.copy(NAME, name)
            for file, text in files.items():
                (target / file).write_bytes(text if isinstance(text, bytes) else text.encode())
        with Daemon(models=(directory.path,)) as daemon:
            entries = daemon.post("/v2/repository/index").json()
            states = {entry["name"]: entry for entry in entries}
            wrong = []
            for name in broken:
                entry = states.get(name, {})
                if entry.get("state") != "UNAVAILABLE" or not entry.get("reason"):
                    wrong.append(f"{name}: {entry}")
                reply = daemon.get(f"/v2/models/{name}/ready")
                if reply.status != 503:
                    wrong.append(f"{name} ready: {reply.status}")
                reply = daemon.post(f"/v2/models/{name}/infer", *oip(golden(NAME).inputs))
                if reply.status != 503:
                    wrong.append(f"{name} infer: {reply.status} {reply.body[:120]!r}")
            assert not wrong, "\n          ".join(wrong)
            _still_serves(daemon)
            return "; ".join(states[n]["reason"][:70] for n in ("missing", "cut", "heads"))


def test_axes_that_the_inputs_do_not_have_are_refused_by_the_call_or_at_load_if_none_have_them():
    with ModelDirectory() as directory:
        for name, axes in (("beyond", [9]), ("batch", [0]), ("features", [2])):
            target = directory.copy(NAME, name)
            (target / "layer.json").write_text(_layer(attention_axes=axes))
        with Daemon(models=(directory.path,)) as daemon:
            for name, status in (("beyond", 503), ("batch", 503), ("features", 400)):
                reply = daemon.post(f"/v2/models/{name}/infer", *oip(golden(NAME).inputs))
                assert reply.status == status, f"{name}: {reply.status} {reply.body}"
                assert status == 503 or "attention_axes" in reply.error(), reply.body
            for name in ("beyond", "batch"):
                assert any(name in line and "attention_axes" in line for line in daemon.log), name
