"""Small calls of the real layer where implementations go wrong, on each instruction set."""

import json
import math

from attnd import EDGES, Daemon
from tensors import Case, flatten, from_bytes, oip, read_oip, to_bytes

# What a machine lacks is what it has anyway.
CAPS = ("SSE41", "AVX2", "AVX512_CORE", "AVX512_CORE_BF16", "DEFAULT")
GRIDS = {"mixed_float16": "FP16", "mixed_bfloat16": "BF16"}


def _on_grid(values, policy):
    kind = GRIDS[policy]
    for value in values:
        exact = math.isnan(value) or from_bytes(kind, to_bytes(kind, [value]))[0] == value
        assert exact, f"score {value!r} is no value of {kind}"


def _ask(daemon, directory):
    facts = json.loads((directory / "case.json").read_text())
    case = Case(directory.name, directory, facts["tolerance"], facts["tolerance"])
    body, headers = oip(case.inputs, binary=True, parameters={"binary_data_output": True})
    outputs, _ = read_oip(daemon.post(f"/v2/models/{case.name}/infer", body, headers))
    if facts["rule"] == "grid":
        _on_grid(outputs["attention_scores"].values, facts["policy"])
    else:
        assert facts["rule"] == "compare", facts
    return case.check(outputs)


def _cases(proto):
    for path in sorted(EDGES.glob("*/case.json")):
        if json.loads(path.read_text())["proto"] == proto:
            yield path.parent


def test_edge_cases_through_rows_of_json():
    """Each row an object, as TensorFlow Serving's clients write them."""
    worst, count = 0.0, 0
    with Daemon(models=(EDGES,)) as daemon:
        for directory in _cases("tfs"):
            tolerance = json.loads((directory / "case.json").read_text())["tolerance"]
            case = Case(directory.name, directory, tolerance, tolerance)
            columns = {name: tensor.nested() for name, tensor in case.inputs.items()}
            rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
            reply = daemon.post(f"/v1/models/{case.name}:predict",
                                {"signature_name": "with_scores", "instances": rows})
            assert reply.status == 200, reply.body[:300]
            answers = reply.json()["predictions"]
            worst = max(worst, case.check({
                name: flatten([row[name] for row in answers]) for name in case.expected}))
            count += 1
    assert count > 0
    return f"{count} calls, worst error {worst:.3g} of its tolerance"


def test_every_edge_case_through_binary_tensors_on_each_instruction_set():
    worst, failures, count = 0.0, [], 0
    for cap in CAPS:
        with Daemon(models=(EDGES,), ONEDNN_MAX_CPU_ISA=cap) as daemon:
            for directory in _cases("binary"):
                count += 1
                try:
                    worst = max(worst, _ask(daemon, directory))
                except AssertionError as error:
                    failures.append(f"{cap}, {directory.name}: {error}")
    assert not failures, f"{len(failures)} cases:\n          " + "\n          ".join(failures)
    assert count > 0
    return f"{count} calls, worst error {worst:.3f} of its tolerance"
