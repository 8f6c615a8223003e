"""TensorFlow Serving's and KServe v1's predict, rows and columns."""

import gzip
import json
import re

from tensors import flatten, golden

NAME = "self_attention"
PATH = f"/v1/models/{NAME}:predict"


def _predict(daemon, body, path=PATH, headers=None):
    reply = daemon.post(path, body, headers)
    assert reply.status == 200, f"{reply.status} {reply.body[:300]!r}"
    assert reply.headers["content-type"] == "application/json"
    return reply.json()


def test_columns_with_the_default_signature_answer_the_bare_output(daemon):
    case = golden(NAME)
    inputs = {name: tensor.nested() for name, tensor in case.inputs.items()}
    answer = _predict(daemon, {"inputs": inputs})
    case.check({"attention_output": flatten(answer["outputs"])}, ["attention_output"])


def test_a_single_input_may_come_without_its_name(daemon):
    query = golden(NAME).inputs["query"].nested()
    named = _predict(daemon, {"inputs": {"query": query}})["outputs"]
    assert _predict(daemon, {"inputs": query})["outputs"] == named
    assert _predict(daemon, {"instances": query})["predictions"] == named
    rows = [{"query": row} for row in query]
    assert _predict(daemon, {"instances": rows})["predictions"] == named


def test_rows_with_scores_are_objects(daemon):
    case = golden("mask_padding")
    count = case.inputs["query"].shape[0]
    rows = [{name: tensor.nested()[i] for name, tensor in case.inputs.items()}
            for i in range(count)]
    answer = _predict(daemon, {"signature_name": "with_scores", "instances": rows},
                      "/v1/models/mask_padding:predict")
    outputs = {name: flatten([row[name] for row in answer["predictions"]]) for name in case.expected}
    case.check(outputs)


def test_a_version_may_be_named(daemon):
    query = golden(NAME).inputs["query"].nested()
    _predict(daemon, {"inputs": query}, f"/v1/models/{NAME}/versions/1:predict")


def test_names_that_are_no_input_are_ignored_in_columns(daemon):
    query = golden(NAME).inputs["query"].nested()
    _predict(daemon, {"inputs": {"query": query, "other": [1]}})


def test_a_request_may_be_gzipped_and_of_any_type(daemon):
    body = gzip.compress(json.dumps({"inputs": golden(NAME).inputs["query"].nested()}).encode())
    _predict(daemon, body, headers={"Content-Encoding": "gzip"})
    plain = json.dumps({"inputs": golden(NAME).inputs["query"].nested()})
    _predict(daemon, plain, headers={"Content-Type": "application/x-www-form-urlencoded"})


def test_whole_numbers_keep_their_point(daemon):
    case = golden("axes_two_fully_masked")
    answer = daemon.post("/v1/models/axes_two_fully_masked:predict", {
        "signature_name": "with_scores",
        "inputs": {name: tensor.nested() for name, tensor in case.inputs.items()}})
    scores = answer.body.decode().split("attention_scores")[1]
    assert re.search(r"[\[,\s]1\.0[,\]]", scores), scores[:200]


def test_what_does_not_fit_is_refused_in_one_sentence(daemon):
    query = golden(NAME).inputs["query"].nested()
    ragged = [query[0], query[1][:-1]]
    for body, word in [
        ({"inputs": query, "instances": query}, "instances"),
        ({}, "inputs"),
        ({"instances": []}, "query"),
        ({"inputs": query, "signature_name": "x"}, "signature"),
        ({"inputs": ragged}, "nested"),
        ({"instances": ragged}, ""),
        ({"inputs": {"value": query}}, "query"),
        ({"instances": [{"query": query[0]}, {"value": query[0]}]}, ""),
        ({"instances": [{"query": query[0], "bogus": 1}]}, "bogus"),
        ({"inputs": "text"}, ""),
        ([], ""),
    ]:
        reply = daemon.post(PATH, body)
        assert reply.status == 400, f"{str(body)[:80]}: {reply.status} {reply.body[:200]!r}"
        assert word in reply.error(), reply.body
    _predict(daemon, {"inputs": query})
