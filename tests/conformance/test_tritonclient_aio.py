"""tritonclient.http.aio, the asynchronous client: asks for gzip on every request, and inflates
only the answers to infer."""

import asyncio

import pytest
import tritonclient.http as triton
import tritonclient.http.aio as aio
from tritonclient.utils import InferenceServerException

import golden
from test_tritonclient import tensors


def run(daemon, work):
    async def main():
        async with aio.InferenceServerClient(daemon) as client:
            return await work(client)

    return asyncio.run(main())


def check(case, result):
    for name in case.expected:
        case.check(name, result.as_numpy(name))


@pytest.mark.parametrize("binary", [True, False])
def test_infer(daemon, case, binary):
    outputs = [triton.InferRequestedOutput(n, binary_data=binary) for n in case.expected]
    check(case, run(daemon, lambda c: c.infer(case.name, tensors(case, binary), outputs=outputs)))


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(daemon, plain, algorithm):
    check(
        plain,
        run(
            daemon,
            lambda c: c.infer(
                plain.name,
                tensors(plain),
                request_compression_algorithm=algorithm,
                response_compression_algorithm=algorithm,
            ),
        ),
    )


def test_many_at_once(daemon):
    cases = [golden.Case(name) for name in golden.CASES] * 3

    async def work(client):
        return await asyncio.gather(*(client.infer(c.name, tensors(c)) for c in cases))

    for case, result in zip(cases, run(daemon, work)):
        check(case, result)


def test_health_metadata_and_statistics(daemon, plain):
    async def work(client):
        assert await client.is_server_live() and await client.is_server_ready()
        assert await client.is_model_ready(plain.name)
        assert (await client.get_server_metadata())["extensions"]
        assert (await client.get_model_metadata(plain.name))["name"] == plain.name
        assert (await client.get_model_config(plain.name))["name"] == plain.name
        assert (await client.get_inference_statistics(plain.name))["model_stats"]
        index = await client.get_model_repository_index()
        assert set(golden.CASES) <= {entry["name"] for entry in index}

    run(daemon, work)


def test_load_and_unload(daemon):
    case = golden.Case("tails_over_128")

    async def work(client):
        await client.unload_model(case.name)
        assert not await client.is_model_ready(case.name)
        await client.load_model(case.name)
        return await client.infer(case.name, tensors(case))

    check(case, run(daemon, work))


def test_errors_are_readable(daemon, plain):
    for name, status in (("nobody", "404"), (plain.name, "400")):
        with pytest.raises(InferenceServerException) as info:
            run(
                daemon,
                lambda c, n=name: c.infer(
                    n, tensors(plain), outputs=[triton.InferRequestedOutput("attention_spam")]
                ),
            )
        assert info.value.status() == status and str(info.value)
