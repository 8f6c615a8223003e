"""The real layer's answers, through every protocol that attnd speaks."""

from attnd import BUNDLED
from tensors import MANIFEST, Case, flatten, golden, oip, read_oip, read_safetensors
from tensors import write_safetensors


def _every_case(ask):
    """Asks all cases; all failures at once, or the worst share of a tolerance."""
    failures, worst = [], (0.0, "")
    for name in sorted(MANIFEST):
        try:
            share = ask(golden(name))
        except AssertionError as error:
            failures.append(f"{name}: {error}")
            continue
        worst = max(worst, (share or 0.0, name))
    assert not failures, f"{len(failures)} cases:\n          " + "\n          ".join(failures)
    return f"{len(MANIFEST)} cases, worst error {worst[0]:.3f} of its tolerance ({worst[1]})"


def _ask_oip(daemon, case, **how):
    body, headers = oip(case.inputs, **how)
    return read_oip(daemon.post(f"/v2/models/{case.name}/infer", body, headers))


def test_every_case_through_json(daemon):
    return _every_case(lambda case: case.check(_ask_oip(daemon, case)[0]))


def test_every_case_through_binary_tensors(daemon):
    how = {"binary": True, "parameters": {"binary_data_output": True}}
    return _every_case(lambda case: case.check(_ask_oip(daemon, case, **how)[0]))


def test_every_case_through_safetensors(daemon):
    kind = {"Content-Type": "application/safetensors", "Accept": "application/safetensors"}

    def ask(case):
        body = write_safetensors(case.inputs)
        reply = daemon.post(f"/v2/models/{case.name}/infer", body, kind)
        assert reply.status == 200, reply.body[:300]
        assert reply.headers["content-type"] == "application/safetensors", reply.headers
        return case.check(read_safetensors(reply.body)[0])

    return _every_case(ask)


def test_every_case_through_tensorflow_serving_columns(daemon):
    def ask(case):
        inputs = {name: tensor.nested() for name, tensor in case.inputs.items()}
        reply = daemon.post(
            f"/v1/models/{case.name}:predict",
            {"signature_name": "with_scores", "inputs": inputs},
        )
        assert reply.status == 200, reply.body[:300]
        outputs = reply.json()["outputs"]
        return case.check({name: flatten(nested) for name, nested in outputs.items()})

    return _every_case(ask)


def test_the_bundled_layer_agrees_with_its_expected_tensors(daemon):
    case = Case("minilm", BUNDLED / "minilm", atol=2e-5, rtol=1e-5)
    shares = [
        case.check(_ask_oip(daemon, case)[0]),
        case.check(
            _ask_oip(daemon, case, binary=True, parameters={"binary_data_output": True})[0]
        ),
    ]
    return f"worst error {max(shares):.3f} of atol 2e-5, rtol 1e-5"


def test_numbers_in_json_read_back_as_the_same_float32(daemon):
    case = golden("self_attention")
    text, _ = _ask_oip(daemon, case)
    binary, _ = _ask_oip(daemon, case, binary=True, parameters={"binary_data_output": True})
    for name, tensor in text.items():
        assert tensor.bytes() == binary[name].bytes(), name
