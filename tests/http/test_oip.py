"""The Open Inference Protocol: every way to write a request, and the same answer to all of them."""

import base64
import gzip
import json
import math
import zlib

from attnd import BUNDLED, split_replies
from tensors import Case, Tensor, golden, oip, read_oip, read_safetensors, write_safetensors

NAME = "self_attention"
PATH = f"/v2/models/{NAME}/infer"
BINARY = {"parameters": {"binary_data_output": True}}


def _infer(daemon, inputs, path=PATH, extra=None, **how):
    body, headers = oip(inputs, **how)
    return read_oip(daemon.post(path, body, {**headers, **(extra or {})}))


def _masked(name="mask_padding"):
    return golden(name), f"/v2/models/{name}/infer"


# ---- the bytes that Triton's client sends -----------------------------------------------------


def _raw(headers, body):
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"POST {PATH} HTTP/1.1\r\n{lines}\r\n".encode() + body


def _client_body(case, binary=True):
    """As tritonclient writes it: no spaces, inputs first, binary_data_output."""
    entries, tail = [], b""
    for name, tensor in case.inputs.items():
        data = tensor.bytes()
        entries.append({"name": name, "shape": tensor.shape, "datatype": tensor.datatype,
                        "parameters": {"binary_data_size": len(data)}})
        tail += data
    text = json.dumps({"inputs": entries, "parameters": {"binary_data_output": binary}},
                      separators=(",", ":")).encode()
    return text, tail


def test_the_default_request_of_tritons_client_is_answered_in_its_form(daemon):
    case = golden(NAME)
    text, tail = _client_body(case)
    request = _raw(
        [("user-agent", "python-geventhttpclient"), ("inference-header-content-length", len(text)),
         ("host", f"127.0.0.1:{daemon.port}"), ("content-length", len(text) + len(tail)),
         ("connection", "close")], text + tail)
    (reply,) = split_replies(daemon.raw(request))
    outputs, answer = read_oip(reply)
    case.check(outputs)
    output, scores = (case.expected[n] for n in ("attention_output", "attention_scores"))
    assert reply.headers["content-type"] == "application/octet-stream"
    size = int(reply.headers["inference-header-content-length"])
    wanted = (
        '{"model_name":"%s","model_version":"1","parameters":{"precision":"f32"},'
        '"outputs":[{"name":"attention_output",'
        '"datatype":"FP32","shape":%s,"parameters":{"binary_data_size":%d}},'
        '{"name":"attention_scores","datatype":"FP32","shape":%s,'
        '"parameters":{"binary_data_size":%d}}]}'
        % (NAME, str(output.shape).replace(" ", ""), 4 * len(output.values),
           str(scores.shape).replace(" ", ""), 4 * len(scores.values))
    )
    assert reply.body[:size].decode() == wanted, reply.body[:size]


def test_a_compressed_request_keeps_the_header_length_of_the_text_before(daemon):
    case = golden(NAME)
    text, tail = _client_body(case)
    for coding, compress in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        reply = daemon.post(PATH, compress(text + tail), {
            "Content-Encoding": coding, "Inference-Header-Content-Length": str(len(text))})
        case.check(read_oip(reply)[0])


def test_no_elements_are_a_binary_input_of_no_bytes(daemon):
    case = golden(NAME)
    empty = {name: tensor.rows(0, 0) for name, tensor in case.inputs.items()}
    body, headers = oip(empty, binary=True, **BINARY)
    assert headers["Inference-Header-Content-Length"] == str(len(body))
    outputs, answer = read_oip(daemon.post(PATH, body, headers))
    assert outputs["attention_output"].shape[0] == 0
    outputs, _ = _infer(daemon, empty)
    assert outputs["attention_output"].shape == [0, *case.expected["attention_output"].shape[1:]]


def test_binary_and_json_may_be_mixed_both_ways(daemon):
    case = golden("distinct_key")
    outputs, answer = _infer(
        daemon, case.inputs, path="/v2/models/distinct_key/infer", binary=("query", "key"),
        id="mixed-1", parameters={"priority": 1, "timeout": 5000000, "k": 1},
        outputs=[{"name": "attention_scores", "parameters": {"binary_data": True}},
                 {"name": "attention_output", "parameters": {"binary_data": False}}])
    case.check(outputs)
    assert answer["id"] == "mixed-1"
    forms = {entry["name"]: "data" in entry for entry in answer["outputs"]}
    assert forms == {"attention_output": True, "attention_scores": False}


def test_every_type_that_holds_the_numbers_is_taken(daemon):
    case, path = _masked()
    for datatype, share in (("FP64", 1), ("FP16", 2000), ("BF16", 20000)):
        inputs = {name: tensor.cast(datatype) if tensor.datatype == "FP32" else tensor
                  for name, tensor in case.inputs.items()}
        for binary in (True, ()):
            outputs, _ = _infer(daemon, inputs, path=path, binary=binary)
            got = outputs["attention_output"]
            case.compare("attention_output", got, case.expected["attention_output"], share)
    mask = case.inputs["attention_mask"]
    for datatype in ("INT8", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP32"):
        cast = [float(v) if datatype == "FP32" else int(v) for v in mask.values]
        inputs = {**case.inputs, "attention_mask": Tensor(datatype, mask.shape, cast)}
        for binary in (True, ()):
            case.check(_infer(daemon, inputs, path=path, binary=binary)[0])


def test_zero_and_one_pass_for_bool_in_json(daemon):
    case, path = _masked()
    mask = case.inputs["attention_mask"]
    numbers = Tensor("BOOL", mask.shape, [int(v) for v in mask.values])
    case.check(_infer(daemon, {**case.inputs, "attention_mask": numbers}, path=path)[0])


def test_bfloat16_is_the_upper_half_of_a_float32(daemon):
    case = golden(NAME)
    entries, tail = [], b""
    for name, tensor in case.inputs.items():
        data = tensor.bytes()
        data = b"".join(data[i + 2 : i + 4] for i in range(0, len(data), 4))
        entries.append({"name": name, "shape": tensor.shape, "datatype": "BF16",
                        "parameters": {"binary_data_size": len(data)}})
        tail += data
    text = json.dumps({"inputs": entries}).encode()
    reply = daemon.post(PATH, text + tail, {"Inference-Header-Content-Length": str(len(text))})
    outputs, _ = read_oip(reply)
    case.compare("attention_output", outputs["attention_output"],
                 case.expected["attention_output"], 20000)


def test_nested_and_flat_data_are_the_same(daemon):
    case = golden(NAME)
    entries = [{"name": n, "shape": t.shape, "datatype": t.datatype, "data": t.nested()}
               for n, t in case.inputs.items()]
    case.check(read_oip(daemon.post(PATH, {"inputs": entries}))[0])


def test_numbers_may_come_as_base64(daemon):
    case = golden(NAME)
    entries = [{"name": n, "shape": t.shape, "datatype": t.datatype,
                "data": {"b64": base64.b64encode(t.bytes()).decode()}}
               for n, t in case.inputs.items()]
    case.check(read_oip(daemon.post(PATH, {"inputs": entries}))[0])


def test_a_binary_size_may_be_left_out_when_shape_and_type_tell_it(daemon):
    case = golden(NAME)
    entries = [{"name": n, "shape": t.shape, "datatype": t.datatype} for n, t in case.inputs.items()]
    text = json.dumps({"inputs": entries}).encode()
    tail = b"".join(t.bytes() for t in case.inputs.values())
    reply = daemon.post(PATH, text + tail, {"Inference-Header-Content-Length": str(len(text))})
    case.check(read_oip(reply)[0])


# ---- outputs ----------------------------------------------------------------------------------


def test_no_outputs_and_an_empty_list_mean_all(daemon):
    case = golden(NAME)
    for how in ({}, {"outputs": []}):
        assert list(_infer(daemon, case.inputs, **how)[0]) == ["attention_output", "attention_scores"]


def test_only_the_outputs_asked_for_are_sent(daemon):
    case = golden(NAME)
    for name in ("attention_output", "attention_scores"):
        outputs, _ = _infer(daemon, case.inputs, outputs=[{"name": name}])
        assert list(outputs) == [name]
        case.check(outputs, [name])


def test_the_parameter_return_attention_scores_decides(daemon):
    case = golden(NAME)
    outputs, _ = _infer(daemon, case.inputs, parameters={"return_attention_scores": False})
    assert list(outputs) == ["attention_output"]
    outputs, _ = _infer(daemon, case.inputs, parameters={"return_attention_scores": True},
                        outputs=[{"name": "attention_output"}])
    assert list(outputs) == ["attention_output", "attention_scores"]
    body, headers = oip(case.inputs, parameters={"return_attention_scores": False},
                        outputs=[{"name": "attention_scores"}])
    reply = daemon.post(PATH, body, headers)
    assert reply.status == 400 and "return_attention_scores" in reply.error(), reply.error()


def test_the_outputs_parameter_wins_over_the_requests_default(daemon):
    case = golden(NAME)
    body, headers = oip(case.inputs, **BINARY, outputs=[
        {"name": "attention_output", "parameters": {"binary_data": False}},
        {"name": "attention_scores"}])
    outputs, answer = read_oip(daemon.post(PATH, body, headers))
    forms = {entry["name"]: "data" in entry for entry in answer["outputs"]}
    assert forms == {"attention_output": True, "attention_scores": False}, forms
    case.check(outputs)


def test_heads_and_query_rows_choose_a_part_of_the_scores(daemon):
    case = golden(NAME)
    full, _ = _infer(daemon, case.inputs)
    scores = full["attention_scores"]
    batch, heads, rows, keys = scores.shape
    chosen = ([heads - 1, 0], [0, rows - 2, rows - 1])
    parameters = {"heads": f"{heads - 1},0", "query_rows": f"0,{rows - 2}-{rows - 1}"}
    part, _ = _infer(daemon, case.inputs,
                     outputs=[{"name": "attention_scores", "parameters": parameters}])
    part = part["attention_scores"]
    assert part.shape == [batch, 2, 3, keys]
    wanted = [scores.values[((b * heads + h) * rows + r) * keys + k] for b in range(batch)
              for h in chosen[0] for r in chosen[1] for k in range(keys)]
    assert list(part.values) == wanted


def test_top_k_gives_the_largest_scores_and_where_they_are(daemon):
    case = golden(NAME)
    scores = _infer(daemon, case.inputs)[0]["attention_scores"]
    outputs, _ = _infer(daemon, case.inputs,
                        outputs=[{"name": "attention_scores", "parameters": {"top_k": 2}}])
    values, indices = outputs["attention_scores"], outputs["attention_scores_indices"]
    assert values.shape == indices.shape == [*scores.shape[:-1], 2]
    keys = scores.shape[-1]
    for row in range(len(values.values) // 2):
        line = list(scores.values[row * keys : (row + 1) * keys])
        got = list(zip(values.values[2 * row : 2 * row + 2], indices.values[2 * row : 2 * row + 2]))
        assert [value for value, _ in got] == sorted(line, reverse=True)[:2], row
        assert all(line[int(index)] == value for value, index in got), row


def test_outputs_come_in_the_type_asked_for(daemon):
    case = golden(NAME)
    full, _ = _infer(daemon, case.inputs)
    for datatype, share in (("FP16", 2000), ("BF16", 20000), ("FP64", 1)):
        for binary in (True, False):
            outputs, _ = _infer(daemon, case.inputs, outputs=[
                {"name": name, "parameters": {"datatype": datatype, "binary_data": binary}}
                for name in full])
            for name, tensor in outputs.items():
                assert tensor.datatype == datatype
                case.compare(name, tensor, full[name], share)


# ---- parameters -------------------------------------------------------------------------------


def test_an_id_is_echoed_and_none_is_made_up(daemon):
    case = golden(NAME)
    for given in ("42", "a b\u00e9\"\\", "x" * 1024):
        assert _infer(daemon, case.inputs, id=given)[1]["id"] == given
    assert "id" not in _infer(daemon, case.inputs)[1]


def test_members_and_parameters_of_other_servers_are_accepted(daemon):
    case = golden(NAME)
    outputs, answer = _infer(daemon, case.inputs, model_name="else", raw_output="x", parameters={
        "custom": "text", "flag": True, "number": 1.5, "sequence_id": 7})
    case.check(outputs)
    assert answer["model_name"] == NAME


def test_answers_of_every_protocol_say_what_was_used(daemon):
    """Precision always, the seed with training; a seed told draws the same dropout again."""
    case, path = Case("minilm", BUNDLED / "minilm"), "/v2/models/minilm/infer"
    text, headers = oip(case.inputs, parameters={"training": True})
    first = daemon.post(path, text, headers)
    seed = first.json()["parameters"]["seed"]
    assert first.headers["x-attnd-seed"] == str(seed) and 0 <= seed < 2**53
    assert first.headers["x-attnd-precision"] == first.json()["parameters"]["precision"] == "f32"
    text, headers = oip(case.inputs, parameters={"training": True, "seed": seed})
    assert daemon.post(path, text, headers).json()["outputs"] == first.json()["outputs"]
    plain = daemon.post(path, *oip(case.inputs))
    assert "x-attnd-seed" not in plain.headers and "seed" not in plain.json()["parameters"]
    file = write_safetensors(case.inputs, {"training": "true", "seed": "9"})
    reply = daemon.post(path, file, {"Content-Type": "application/safetensors"})
    length = int.from_bytes(reply.body[:8], "little")
    metadata = json.loads(reply.body[8:8 + length])["__metadata__"]
    assert metadata["seed"] == reply.headers["x-attnd-seed"] == "9"
    assert metadata["precision"] == reply.headers["x-attnd-precision"] == "f32"
    rows = {"inputs": {name: tensor.nested() for name, tensor in case.inputs.items()},
            "parameters": {"training": True}}
    reply = daemon.post("/v1/models/minilm:predict", rows)
    assert reply.status == 200 and int(reply.headers["x-attnd-seed"]) >= 0
    assert reply.headers["x-attnd-precision"] == "f32"


def test_dropout_is_drawn_from_the_seed(daemon):
    case = Case("minilm", BUNDLED / "minilm")
    path = "/v2/models/minilm/infer"

    def ask(**parameters):
        return _infer(daemon, case.inputs, path=path, binary=True,
                      parameters={**parameters, "binary_data_output": True})[0]

    plain, one = ask(), ask(training=True, seed=1)
    again, other = ask(training=True, seed=1), ask(training=True, seed=2)
    values = [out["attention_output"].bytes() for out in (plain, one, again, other)]
    assert values[1] == values[2], "the same seed, another answer"
    assert values[1] != values[0] and values[1] != values[3]
    assert one["attention_scores"].bytes() == plain["attention_scores"].bytes(), \
        "scores are returned as they are before dropout"
    assert ask(training=False, seed=1)["attention_output"].bytes() == values[0]


def test_every_precision_stays_within_its_distance(daemon):
    case = Case("minilm", BUNDLED / "minilm")
    worst = []
    for precision, scale in (("f32", 4), ("x3", 10), ("bf16", 4000)):
        outputs, _ = _infer(daemon, case.inputs, path="/v2/models/minilm/infer", binary=True,
                            parameters={"precision": precision, "binary_data_output": True})
        shares = [case.compare(n, outputs[n], t, scale) for n, t in case.expected.items()]
        worst.append(f"{precision} {max(shares) * scale * 1e-5:.2g}")
    return "worst errors " + ", ".join(worst)


def test_a_deadline_that_has_passed_is_504(daemon):
    body, headers = oip({"query": Tensor("FP32", [64, 64, 384], [0.5] * (64 * 64 * 384))},
                        binary=True, parameters={"timeout": 1})
    reply = daemon.post("/v2/models/minilm/infer", body, headers)
    assert reply.status == 504, reply.status
    reply.error()


# ---- compression ------------------------------------------------------------------------------


def test_a_json_answer_is_compressed_when_the_client_prefers_it(daemon):
    case = Case("minilm", BUNDLED / "minilm")
    body, headers = oip(case.inputs, binary=True)
    for accept, undo in (("gzip", gzip.decompress), ("deflate", zlib.decompress)):
        reply = daemon.post("/v2/models/minilm/infer", body, {**headers, "Accept-Encoding": accept})
        assert reply.status == 200
        if "content-encoding" in reply.headers:
            assert reply.headers["content-encoding"] == accept
            assert len(reply.body) < len(undo(reply.body))
            reply.body = undo(reply.body)
        case.check(read_oip(reply)[0])


def test_only_inference_answers_are_ever_compressed(daemon):
    accept = {"Accept-Encoding": "gzip, deflate"}
    for path in ("/v2", f"/v2/models/{NAME}", f"/v2/models/{NAME}/config", "/metrics",
                 "/openapi.json", "/v2/models/absent"):
        assert "content-encoding" not in daemon.ask("GET", path, headers=accept).headers, path
    reply = daemon.post(PATH, b"{}", accept)
    assert reply.status == 400 and "content-encoding" not in reply.headers


def test_the_asynchronous_clients_headers_change_nothing(daemon):
    case = golden(NAME)
    text, tail = _client_body(case)
    reply = daemon.post(PATH, text + tail, {
        "Accept": "*/*", "Accept-Encoding": "gzip, deflate",
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(text))})
    if "content-encoding" in reply.headers:
        reply.body = gzip.decompress(reply.body)
    case.check(read_oip(reply)[0])
    index = daemon.post("/v2/repository/index", b"", {"Content-Type": "application/octet-stream"})
    assert index.status == 200


# ---- safetensors ------------------------------------------------------------------------------

FILE = {"Content-Type": "application/safetensors", "Accept": "application/safetensors"}


def test_safetensors_take_parameters_from_their_metadata(daemon):
    case = golden(NAME)
    body = write_safetensors(case.inputs, {
        "id": "s-1", "outputs": "attention_scores", "heads": "0", "datatype": "FP16"})
    reply = daemon.post(PATH, body, FILE)
    assert reply.status == 200, reply.body[:200]
    tensors, metadata = read_safetensors(reply.body)
    assert metadata["id"] == "s-1" and metadata["model_name"] == NAME
    assert list(tensors) == ["attention_scores"]
    assert tensors["attention_scores"].datatype == "FP16"
    assert tensors["attention_scores"].shape[1] == 1


def test_safetensors_and_json_may_differ_by_direction(daemon):
    case = golden(NAME)
    reply = daemon.post(PATH, write_safetensors(case.inputs),
                        {"Content-Type": "application/safetensors", "Accept": "application/json"})
    case.check(read_oip(reply)[0])
    body, headers = oip(case.inputs, binary=True)
    reply = daemon.post(PATH, body, {**headers, "Accept": "application/safetensors"})
    assert reply.headers["content-type"] == "application/safetensors", reply.headers
    case.check(read_safetensors(reply.body)[0])


def test_not_a_number_travels_both_ways(daemon):
    case = golden(NAME)
    values = list(case.inputs["query"].values)
    values[0] = math.nan
    query = Tensor("FP32", case.inputs["query"].shape, values)
    for binary in ((), True):
        outputs, _ = _infer(daemon, {**case.inputs, "query": query}, binary=binary)
        assert any(v != v for v in outputs["attention_output"].values)
