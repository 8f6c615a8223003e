"""KServe's own inference client, protocols v1 and v2."""

import asyncio

import httpx
import numpy as np
import pytest
from kserve import InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from tritonclient.utils import np_to_triton_dtype

import golden


def run(protocol, work):
    async def main():
        async with InferenceRESTClient(RESTConfig(protocol=protocol, timeout=30)) as client:
            return await work(client)

    return asyncio.run(main())


def request(case, binary):
    inputs = []
    for name, array in case.inputs.items():
        tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array, binary_data=binary)
        inputs.append(tensor)
    return InferRequest(
        case.name, inputs, request_id="r-7", parameters={"binary_data_output": binary}
    )


@pytest.mark.parametrize("binary", [True, False])
def test_v2_infer(daemon, case, binary):
    result = run(
        "v2", lambda c: c.infer(f"http://{daemon}", request(case, binary), model_name=case.name)
    )
    assert result.model_name == case.name and result.id == "r-7"
    for output in result.outputs:
        case.check(output.name, output.as_numpy())
    assert {o.name for o in result.outputs} == set(golden.OUTPUTS)


def test_v2_probes(daemon, plain):
    base = f"http://{daemon}"
    assert run("v2", lambda c: c.is_server_live(base)) is True
    assert run("v2", lambda c: c.is_server_ready(base)) is True
    assert run("v2", lambda c: c.is_model_ready(base, plain.name)) is True
    assert run("v2", lambda c: c.is_model_ready(base, "nobody")) is False


def test_v1_probes(daemon, plain):
    base = f"http://{daemon}"
    assert run("v1", lambda c: c.is_server_live(base)) is True
    assert run("v1", lambda c: c.is_model_ready(base, plain.name)) is True


def test_v1_predict(daemon, plain):
    rows = [
        {name: array[i].tolist() for name, array in plain.inputs.items()}
        for i in range(plain.inputs["query"].shape[0])
    ]
    answer = run(
        "v1", lambda c: c.infer(f"http://{daemon}", {"instances": rows}, model_name=plain.name)
    )
    plain.check("attention_output", np.asarray(answer["predictions"], np.float32))


@pytest.mark.parametrize(
    "protocol,data",
    [
        ("v1", {"instances": "junk"}),
        ("v2", {"inputs": [{"name": "query", "shape": [1], "datatype": "FP32", "data": ["x"]}]}),
    ],
)
def test_errors_carry_their_text(daemon, plain, protocol, data):
    with pytest.raises(httpx.HTTPStatusError) as info:
        run(protocol, lambda c: c.infer(f"http://{daemon}", data, model_name=plain.name))
    assert info.value.response.status_code == 400
    assert len(str(info.value).split(", '400")[0]) > 10  # the client shows the error's text
