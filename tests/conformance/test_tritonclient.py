"""tritonclient.http, the synchronous client (geventhttpclient)."""

import json

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

import golden


@pytest.fixture(scope="module")
def client(daemon):
    with triton.InferenceServerClient(daemon) as client:
        yield client


def tensors(case, binary=True, names=None):
    result = []
    for name, array in case.inputs.items():
        tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array, binary_data=binary if names is None else name in names)
        result.append(tensor)
    return result


def check(case, result):
    for name in case.expected:
        case.check(name, result.as_numpy(name))


def test_server_and_models_are_ready(client, case):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(case.name) and client.is_model_ready(case.name, "1")


def test_binary_is_the_default(client, case):
    check(case, client.infer(case.name, tensors(case)))


def test_json_both_ways(client, case):
    outputs = [triton.InferRequestedOutput(n, binary_data=False) for n in case.expected]
    check(case, client.infer(case.name, tensors(case, binary=False), outputs=outputs))


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_compressed_requests_and_answers(client, plain, algorithm, binary):
    outputs = [triton.InferRequestedOutput(n, binary_data=binary) for n in golden.OUTPUTS]
    check(
        plain,
        client.infer(
            plain.name,
            tensors(plain, binary),
            outputs=outputs,
            request_compression_algorithm=algorithm,
            response_compression_algorithm=algorithm,
        ),
    )


def test_mixed_binary_and_json(client, plain):
    outputs = [
        triton.InferRequestedOutput("attention_output", binary_data=True),
        triton.InferRequestedOutput("attention_scores", binary_data=False),
    ]
    result = client.infer(
        plain.name,
        tensors(plain, names=["query"]),
        outputs=outputs,
        request_id="a-1",
        priority=1,
        timeout=5000000,
        parameters={"k": 1},
    )
    check(plain, result)
    assert result.get_response()["id"] == "a-1"


def test_only_the_requested_output_is_sent(client, plain):
    outputs = [triton.InferRequestedOutput("attention_output")]
    result = client.infer(plain.name, tensors(plain), outputs=outputs, model_version="1")
    plain.check("attention_output", result.as_numpy("attention_output"))
    assert result.as_numpy("attention_scores") is None
    response = result.get_response()
    assert (response["model_name"], response["model_version"]) == (plain.name, "1")


def test_async_infer(client, plain):
    check(plain, client.async_infer(plain.name, tensors(plain)).get_result())


def test_prepared_bodies(client, plain):
    body, json_size = triton.InferenceServerClient.generate_request_body(tensors(plain))
    assert json_size is not None and json_size < len(body)
    answer = client._post(
        f"v2/models/{plain.name}/infer", body, {"Inference-Header-Content-Length": json_size}, None
    )
    size = answer.get("inference-header-content-length")
    check(
        plain,
        triton.InferenceServerClient.parse_response_body(
            answer.read(), header_length=size and int(size)
        ),
    )


@pytest.mark.parametrize(
    "dtype,convert",
    [
        ("FP16", lambda a: a.astype(np.float16)),
        ("FP64", lambda a: a.astype(np.float64)),
        ("BF16", lambda a: a.astype(ml_dtypes.bfloat16)),
    ],
)
def test_other_float_types(client, plain, dtype, convert):
    inputs = []
    for name, array in plain.inputs.items():
        floating = array.dtype == np.float32
        kind = dtype if floating else np_to_triton_dtype(array.dtype)
        tensor = triton.InferInput(name, list(array.shape), kind)
        tensor.set_data_from_numpy(convert(array) if floating else array)
        inputs.append(tensor)
    got = client.infer(plain.name, inputs).as_numpy("attention_output")
    np.testing.assert_allclose(got, plain.expected["attention_output"], atol=0.05)


def test_an_empty_batch(client, plain):
    inputs = []
    for name, array in plain.inputs.items():
        tensor = triton.InferInput(name, [0, *array.shape[1:]], np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array[:0])
        inputs.append(tensor)
    result = client.infer(plain.name, inputs)
    assert result.get_output("attention_output")["shape"][0] == 0


def test_not_a_number_travels_in_json(client, plain):
    array = plain.inputs["query"].copy()
    array[0, 0, 0] = np.nan
    array[0, 1, 0] = np.inf
    inputs = tensors(plain, binary=False)
    next(t for t in inputs if t.name() == "query").set_data_from_numpy(array, binary_data=False)
    outputs = [triton.InferRequestedOutput("attention_output", binary_data=False)]
    got = client.infer(plain.name, inputs, outputs=outputs).as_numpy("attention_output")
    assert np.isnan(got[0, 0]).all() and np.isfinite(got[1:]).all()


def test_metadata(client, case):
    server = client.get_server_metadata()
    assert {"name", "version", "extensions"} <= set(server)
    assert {"binary_tensor_data", "statistics", "model_repository"} <= set(server["extensions"])
    model = client.get_model_metadata(case.name)
    assert model["name"] == case.name and "1" in model["versions"]
    assert set(case.inputs) <= {tensor["name"] for tensor in model["inputs"]}
    assert set(golden.OUTPUTS) <= {tensor["name"] for tensor in model["outputs"]}
    config = client.get_model_config(case.name)
    assert config["name"] == case.name and "max_batch_size" in config
    assert {t["name"] for t in config["input"]} == {t["name"] for t in model["inputs"]}


def test_statistics_count(client, plain):
    before = client.get_inference_statistics(plain.name)["model_stats"][0]
    client.infer(plain.name, tensors(plain))
    after = client.get_inference_statistics(plain.name)["model_stats"][0]
    batch = plain.inputs["query"].shape[0]
    assert after["inference_count"] - before["inference_count"] == batch
    assert after["execution_count"] - before["execution_count"] == 1
    for side in ("success", "queue", "compute_infer"):
        assert after["inference_stats"][side]["count"] > before["inference_stats"][side]["count"]
        assert isinstance(after["inference_stats"][side]["ns"], int)
    assert after["last_inference"] >= before["last_inference"]
    names = {entry["name"] for entry in client.get_inference_statistics()["model_stats"]}
    assert set(golden.CASES) <= names


def test_unload_and_load(client):
    case = golden.Case("tails_odd")
    client.unload_model(case.name)
    assert not client.is_model_ready(case.name)
    with pytest.raises(InferenceServerException):
        client.infer(case.name, tensors(case))
    assert client.is_server_ready()
    client.load_model(case.name)
    check(case, client.infer(case.name, tensors(case)))


def test_load_with_an_uploaded_model(client):
    case = golden.Case("one_head")
    weights = (golden.ROOT / case.name / "weights.safetensors").read_bytes()
    client.load_model(
        "uploaded",
        config=json.dumps({"class_name": "ReuseMultiHeadAttention", "config": case.config}),
        files={"file:1/weights.safetensors": weights},
    )
    try:
        check(case, client.infer("uploaded", tensors(case)))
    finally:
        client.unload_model("uploaded")


def test_a_failed_reload_keeps_the_old_version(client):
    case = golden.Case("one_head")
    with pytest.raises(InferenceServerException):
        client.load_model(case.name, config="{}", files={"file:1/weights.safetensors": b"junk"})
    check(case, client.infer(case.name, tensors(case)))


def test_repository_index(client):
    entries = {entry["name"]: entry for entry in client.get_model_repository_index()}
    assert set(golden.CASES) <= set(entries)
    assert entries["self_attention"]["state"] == "READY"
    assert entries["self_attention"]["version"] == "1"


def test_log_settings(client):
    before = client.get_log_settings()
    level = 0 if before["log_verbose_level"] else 1
    assert client.update_log_settings({"log_verbose_level": level})["log_verbose_level"] == level
    client.update_log_settings({"log_verbose_level": before["log_verbose_level"]})


def refused(status, *words):
    """The client understood the error: a status, and a text that names what is wrong."""

    class Refused:
        def __enter__(self):
            self.context = pytest.raises(InferenceServerException)
            self.info = self.context.__enter__()

        def __exit__(self, *exception):
            caught = self.context.__exit__(*exception)
            error = self.info.value
            assert error.status() == str(status), str(error)
            for word in words:
                assert word in str(error)
            return caught

    return Refused()


def test_errors_name_the_fault(client, plain):
    query = plain.inputs["query"]
    with refused(404, "nobody"):
        client.infer("nobody", tensors(plain))
    with refused(404, "99"):
        client.infer(plain.name, tensors(plain), model_version="99")
    with refused(400, "attention_spam"):
        client.infer(
            plain.name, tensors(plain), outputs=[triton.InferRequestedOutput("attention_spam")]
        )
    wide = triton.InferInput("query", [1, 2, query.shape[-1] + 1], "FP32")
    wide.set_data_from_numpy(np.zeros((1, 2, query.shape[-1] + 1), np.float32))
    with refused(400, "query"):
        client.infer(plain.name, [wide])
    with refused(404, "nobody"):
        client.get_model_metadata("nobody")
    with refused(404):
        client.load_model("nobody")


def test_unserved_extensions_are_refused_readably(client):
    for call in (
        client.get_trace_settings,
        client.get_system_shared_memory_status,
        client.get_cuda_shared_memory_status,
    ):
        with pytest.raises(InferenceServerException) as info:
            call()
        assert info.value.status() in ("400", "404", "501") and str(info.value)


def test_query_parameters_are_ignored(client, plain):
    check(plain, client.infer(plain.name, tensors(plain), query_params={"trace": "1"}))
