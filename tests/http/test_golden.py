"""The real layer's answers, through every protocol that attnd speaks."""

import attnd
from attnd import BUNDLED
from tensors import MANIFEST, Case, flatten, golden, oip, read_oip, read_safetensors
from tensors import write_safetensors


KIND = {"Content-Type": "application/safetensors", "Accept": "application/safetensors"}
BINARY = {"binary": True, "parameters": {"binary_data_output": True}}


def _every_case(daemon, question, outputs):
    """Asks all cases with question(case), reads outputs(reply); all failures at once, or the worst
    share of a tolerance."""
    failures, worst = [], (0.0, "")
    cases = [golden(name) for name in sorted(MANIFEST)]
    for case, reply in zip(cases, daemon.ask_all([question(case) for case in cases])):
        try:
            assert reply.status == 200, f"{reply.status} {reply.body[:300]!r}"
            share = case.check(outputs(reply))
        except AssertionError as error:
            failures.append(f"{case.name}: {error}")
            continue
        worst = max(worst, (share or 0.0, case.name))
    assert not failures, f"{len(failures)} cases:\n          " + "\n          ".join(failures)
    return f"{len(MANIFEST)} cases, worst error {worst[0]:.3f} of its tolerance ({worst[1]})"


def _oip_question(case, **how):
    return attnd.post(f"/v2/models/{case.name}/infer", *oip(case.inputs, **how))


def _ask_oip(daemon, case, **how):
    return read_oip(daemon.ask(*_oip_question(case, **how)))[0]


def test_every_case_through_json(daemon):
    return _every_case(daemon, _oip_question, lambda reply: read_oip(reply)[0])


def test_every_case_through_binary_tensors(daemon):
    return _every_case(daemon, lambda case: _oip_question(case, **BINARY),
                       lambda reply: read_oip(reply)[0])


def test_every_case_through_safetensors(daemon):
    def question(case):
        return attnd.post(f"/v2/models/{case.name}/infer", write_safetensors(case.inputs), KIND)

    def outputs(reply):
        assert reply.headers["content-type"] == "application/safetensors", reply.headers
        return read_safetensors(reply.body)[0]

    return _every_case(daemon, question, outputs)


def test_every_case_through_tensorflow_serving_columns(daemon):
    def question(case):
        inputs = {name: tensor.nested() for name, tensor in case.inputs.items()}
        return attnd.post(f"/v1/models/{case.name}:predict",
                          {"signature_name": "with_scores", "inputs": inputs})

    return _every_case(daemon, question, lambda reply: {
        name: flatten(nested) for name, nested in reply.json()["outputs"].items()})


def test_the_bundled_layer_agrees_with_its_expected_tensors(daemon):
    case = Case("minilm", BUNDLED / "minilm", atol=2e-5, rtol=1e-5)
    shares = [case.check(_ask_oip(daemon, case)), case.check(_ask_oip(daemon, case, **BINARY))]
    return f"worst error {max(shares):.3f} of atol 2e-5, rtol 1e-5"


def test_numbers_in_json_read_back_as_the_same_float32(daemon):
    case = golden("self_attention")
    text, binary = _ask_oip(daemon, case), _ask_oip(daemon, case, **BINARY)
    for name, tensor in text.items():
        assert tensor.bytes() == binary[name].bytes(), name
