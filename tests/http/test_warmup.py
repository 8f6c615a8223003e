"""model.json's warmup: calls of given shapes before the first client."""

import json

import attnd
from attnd import Daemon, ModelDirectory
from tensors import MANIFEST, Tensor, golden, oip, read_oip

SHAPES = [[1, 300, 200], [2, 7, 7]]


def _settings(target, **settings):
    (target / "model.json").write_text(json.dumps(settings))


def _metric(daemon, name):
    for line in daemon.get("/metrics").body.decode().splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    raise AssertionError(f"no {name} in /metrics")


def _plain(name):
    """Layers that [B,T,S] describes: one attention axis, nothing free."""
    return len(golden(name).inputs["query"].shape) == 3


def test_every_kind_of_layer_is_warmed_up_and_answers_as_before():
    names = [name for name in sorted(MANIFEST) if _plain(name)]
    with ModelDirectory() as directory:
        for name in names:
            _settings(directory.copy(name), warmup=SHAPES)
        with Daemon(models=(directory.path,)) as daemon:
            cases = [golden(name) for name in names]
            replies = daemon.ask_all([attnd.post(f"/v2/models/{case.name}/infer", *oip(
                case.inputs, binary=True)) for case in cases])
            for case, reply in zip(cases, replies):
                case.check(read_oip(reply)[0])
    return f"{len(names)} layers"


def test_buffers_are_there_before_the_first_call_of_that_shape():
    _, length, keys = SHAPES[0]
    query, value = (Tensor("FP32", [1, n, 16], [0.5] * (n * 16)) for n in (length, keys))
    body, headers = oip({"query": query, "value": value}, binary=True,
                        parameters={"binary_data_output": True})
    takes, misses = {}, {}
    for warm in (False, True):
        with ModelDirectory() as directory:
            _settings(directory.copy("self_attention"), warmup=SHAPES if warm else [])
            with Daemon(models=(directory.path,)) as daemon:
                takes[warm] = _metric(daemon, "attnd_buffer_takes_total")
                before = _metric(daemon, "attnd_buffer_misses_total")
                reply = daemon.post("/v2/models/self_attention/infer", body, headers)
                assert reply.status == 200, reply.body[:200]
                misses[warm] = _metric(daemon, "attnd_buffer_misses_total") - before
    assert takes[True] > takes[False] and misses[True] < misses[False], (takes, misses)
    return f"the first call made {misses[False]:.0f} buffers, {misses[True]:.0f} when warm"


def test_a_warmup_that_cannot_be_run_is_named():
    with ModelDirectory() as directory:
        rows = {
            "huge": ("self_attention", [[1 << 20, 1 << 20, 1 << 20]]),
            "large": ("self_attention", [[1, 2, 3], [10, 2000, 2000]]),
            "axes": ("axes_two_reuse_some", [[1, 4, 4]]),
            "text": ("self_attention", "soon"),
            "short": ("self_attention", [[1, 2]]),
            "zero": ("self_attention", [[1, 0, 1]]),
            "many": ("self_attention", [[1, 1, 1]] * 9),
        }
        for name, (case, shapes) in rows.items():
            _settings(directory.copy(case, name), warmup=shapes)
        directory.copy("self_attention")
        with Daemon("--memory-budget", str(1 << 26), models=(directory.path,)) as daemon:
            states = {entry["name"]: entry for entry in daemon.post("/v2/repository/index").json()}
            wrong = [f"{name}: {states[name]}" for name in rows
                     if states[name]["state"] != "UNAVAILABLE"
                     or "warmup" not in states[name].get("reason", "")]
            assert not wrong, "\n          ".join(wrong)
            assert states["self_attention"]["state"] == "READY"
            return states["large"]["reason"]
