"""A client of TensorFlow Serving's REST API, as people write it with requests."""

import gzip
import json

import numpy as np
import pytest
import requests

import golden


@pytest.fixture(scope="module")
def session(daemon):
    with requests.Session() as session:
        session.base = f"http://{daemon}/v1/models/"
        yield session


def columns(case):
    return {name: array.tolist() for name, array in case.inputs.items()}


def predict(session, name, body, **kwargs):
    answer = session.post(f"{session.base}{name}:predict", json=body, **kwargs)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_columnar_with_scores(session, case):
    answer = predict(session, case.name, {"signature_name": "with_scores", "inputs": columns(case)})
    assert set(answer["outputs"]) == set(golden.OUTPUTS)
    for name in golden.OUTPUTS:
        case.check(name, np.asarray(answer["outputs"][name], np.float32))


def test_columnar_default_signature_is_one_bare_output(session, case):
    answer = predict(session, case.name, {"inputs": columns(case)})
    case.check("attention_output", np.asarray(answer["outputs"], np.float32))


def row_wise(case):
    """Every input's first dimension is the batch (a mask may have none, or one of 1)."""
    batch = case.inputs["query"].shape[0]
    return all(a.ndim > 2 and a.shape[0] == batch for a in case.inputs.values())


@pytest.mark.parametrize("name", [n for n in golden.CASES if row_wise(golden.Case(n))])
def test_rows(session, name):
    case = golden.Case(name)
    rows = [
        {n: a[i].tolist() for n, a in case.inputs.items()}
        for i in range(case.inputs["query"].shape[0])
    ]
    answer = predict(session, name, {"signature_name": "with_scores", "instances": rows})
    for output in golden.OUTPUTS:
        got = np.asarray([row[output] for row in answer["predictions"]], np.float32)
        case.check(output, got)


def test_gzip_request(session, plain):
    body = gzip.compress(json.dumps({"inputs": columns(plain)}).encode())
    answer = session.post(
        f"{session.base}{plain.name}:predict", data=body, headers={"Content-Encoding": "gzip"}
    )
    plain.check("attention_output", np.asarray(answer.json()["outputs"], np.float32))


def test_version_in_the_path(session, plain):
    predict(session, plain.name + "/versions/1", {"inputs": columns(plain)})
    answer = session.post(
        f"{session.base}{plain.name}/versions/99:predict", json={"inputs": columns(plain)}
    )
    assert answer.status_code == 404 and isinstance(answer.json()["error"], str)


def test_status(session, plain):
    (entry,) = session.get(session.base + plain.name).json()["model_version_status"]
    assert entry["version"] == "1" and entry["state"] == "AVAILABLE"
    assert entry["status"] == {"error_code": "OK", "error_message": ""}


def test_metadata(session, plain):
    body = session.get(f"{session.base}{plain.name}/metadata").json()
    assert body["model_spec"]["name"] == plain.name
    signatures = body["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) >= {"serving_default", "with_scores"}
    default = signatures["serving_default"]
    assert default["method_name"] == "tensorflow/serving/predict"
    assert "query" in default["inputs"] and "attention_output" in default["outputs"]
    assert default["inputs"]["query"]["dtype"] == "DT_FLOAT"


@pytest.mark.parametrize(
    "name,body,status",
    [
        ("nobody", {"inputs": {}}, 404),
        ("self_attention", {"signature_name": "spam", "inputs": {}}, 400),
        ("self_attention", {}, 400),
        ("self_attention", {"instances": []}, 400),
        ("self_attention", {"inputs": {"query": [[1.0], [2.0, 3.0]]}}, 400),
    ],
)
def test_errors(session, name, body, status):
    answer = session.post(f"{session.base}{name}:predict", json=body)
    assert answer.status_code == status and isinstance(answer.json()["error"], str)
