"""differential.py - random layers and calls, side by side: the real ReuseMultiHeadAttention of
TensorFlow, and attnd by every protocol.

    differential.py [--calls N] [--seed N] [--only LAYER]

Each layer is written down by the lines that README.md tells people to paste, and served from there.
A call counts as explained if
  - both answer, and outputs and scores differ by at most TOLERANCE units of the policy's rounding
    (differential_truth.py says what one unit is for a call),
  - or by no more than the real layer itself moves when its inputs move by one rounding,
  - or both refuse (attnd by a 4xx),
  - or the difference is a row of engine/README.md, "Where we differ".
Besides, all protocols must give the same bits, scores and outputs of 16-bit policies must be values
of the type. Anything else is printed as unexplained, and the exit status is 1. In the end the worst
errors against float64, of TensorFlow and of attnd, by policy and instruction set, as a table.
"""

import argparse
import collections
import contextlib
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE.parent / "golden"), str(HERE.parent / "http")]

import ml_dtypes
import numpy as np

import make_goldens
import tensorflow as tf
import tf_keras

import differential_draw as draw
import differential_wire as wire
import real_layer
from differential_truth import UNIT, Truth

TOLERANCE = 8
CALLS_A_LAYER = 4
NAMES = ("attention_output", "attention_scores")
# Compute types of the 16-bit policies.
SIXTEEN = {"mixed_float16": np.float16, "mixed_bfloat16": ml_dtypes.bfloat16}


# ---- documented differences ----------------------------------------------------------------


def _axes_of_batch_or_heads(layer, _):
    return (0 in layer.axes or layer.rank - 1 in layer.axes
            or len(set(layer.axes)) < len(layer.axes))


def _positions_of_other_axes(layer, _):
    return layer.positions and layer.axes != (1,)


def _slices_a_free_axis(layer, _):
    return 0 < layer.reused < layer.heads and bool(layer.free)


def _scores_say_the_shape(layer, call):
    """Full reuse: TensorFlow never looks at the query."""
    return layer.new == 0 and "reuse_attention_scores" in call.inputs


def _new_scores(layer, call):
    query, key = call.inputs["query"], call.key
    return [query.shape[0], *(query.shape[a] for a in layer.free), layer.new,
            *(query.shape[a] for a in layer.axes), *(key.shape[a] for a in layer.axes)]


def _mask_makes_rows(layer, call):
    """The mask is larger than the scores somewhere: TensorFlow broadcasts the scores up to it."""
    mask = call.inputs.get("attention_mask")
    if mask is None or not layer.new:
        return False
    scores, attended = _new_scores(layer, call), 2 * len(layer.axes)
    fitting = scores[:mask.ndim - attended] + scores[len(scores) - attended:]
    return any(m > s for m, s in zip(mask.shape, fitting))


def _mask_of_all_heads(layer, call):
    mask, heads = call.inputs.get("attention_mask"), 1 + len(layer.free)
    return (mask is not None and 0 < layer.reused < layer.heads and mask.ndim > heads
            and mask.shape[heads] == layer.heads)


def _too_many_dimensions(layer, call):
    return len(_new_scores(layer, call)) >= 8


def _float64_mixed_with_float32(layer, call):
    scores = call.inputs.get("reuse_attention_scores")
    return layer.policy == "float64" and (
        layer.positions or layer.new > 0 and scores is not None and scores.dtype != np.float64)


def _float32_scores_under_16_bits(layer, call):
    scores = call.inputs.get("reuse_attention_scores")
    return (layer.policy in SIXTEEN and layer.new > 0 and scores is not None
            and scores.dtype != SIXTEEN[layer.policy])


# The first words of a row of engine/README.md's table; who answers then, while the other refuses;
# when it applies.
DIFFERENCES = (
    ("attends over the batch", "TensorFlow", _axes_of_batch_or_heads),
    ("relative positions over other axes than 1", "TensorFlow", _positions_of_other_axes),
    ("partial reuse with an axis not attended", "TensorFlow", _slices_a_free_axis),
    ("full reuse: T, or an unlike B,", "TensorFlow", _scores_say_the_shape),
    ("a mask `[B,4,S]`", "TensorFlow", _mask_makes_rows),
    ("a mask with N heads in partial reuse fails", "attnd", _mask_of_all_heads),
    ("four attended axes fail, three with some masks", "attnd", _too_many_dimensions),
    ("`float64` with relative positions, or reusing", "attnd", _float64_mixed_with_float32),
    ("16-bit policies: reusing some of float32 scores", "attnd", _float32_scores_under_16_bits),
)


def check_that_they_are_documented():
    text = (HERE.parent.parent / "engine" / "README.md").read_text()
    rows = text.split("\n## Where we differ")[1].split("\n## ")[0]
    assert "Infinite inputs give NaN" in rows
    for row, _, _ in DIFFERENCES:
        assert f"\n| {row}" in rows, f"engine/README.md has no row that begins with: {row}"


def documented(layer, call, answers):
    """The row that says why only one of them answers, or None."""
    for row, who, applies in DIFFERENCES:
        if who == answers and applies(layer, call):
            return row
    return None


# ---- the real layer ------------------------------------------------------------------------


class Real:
    """The layer in TensorFlow, its weights drawn, written down for attnd in directory."""

    def __init__(self, kind, export, layer, rng, directory):
        tf_keras.mixed_precision.set_global_policy(layer.policy)
        self.layer, self.weights, self.why = layer, layer.draw_weights(rng), None
        self.keras = kind(**layer.arguments)
        try:
            self(draw.plain_call(layer))
        except Exception as error:  # whatever TensorFlow raises is a refusal
            self.why = error
            real_layer.write_down(self.keras, self.weights, directory)
        else:
            make_goldens.set_weights(self.keras, self.weights)
            export(self.keras, directory)

    def __call__(self, call):
        if self.why:
            raise self.why
        inputs = {"value": call.value, **call.inputs}
        arguments = {name: tf.constant(array) for name, array in inputs.items()}
        output, scores = self.keras(return_attention_scores=True, **arguments)
        return dict(zip(NAMES, (output.numpy(), scores.numpy())))


def moved(rng, call, unit):
    """The call with its inputs one rounding away."""
    inputs = dict(call.inputs)
    for name in ("query", "value", "key"):
        if name in inputs:
            factor = 1 + unit * rng.choice([-1.0, 1.0], inputs[name].shape)
            inputs[name] = (inputs[name] * factor).astype(inputs[name].dtype)
    return draw.Call(inputs)


# ---- comparing -----------------------------------------------------------------------------


def _wide(array):
    return np.asarray(array, np.float64)


def _same_kind(got, want):
    """Not a number, infinite or finite at the same places."""
    return (np.isnan(got) == np.isnan(want)).all() and (np.isinf(got) == np.isinf(want)).all()


def _rooms(truth, want):
    """How far an answer may be away, element by element."""
    unit = TOLERANCE * UNIT[truth.layer.policy]
    size = np.nan_to_num(np.abs(_wide(want["attention_scores"])), nan=0.0, posinf=0.0)
    return {"attention_output": np.float64(unit * truth.output_bound + 1e-30),
            "attention_scores": unit * truth.score_bound * (size + 0.01)}


def compare(got, want, rooms):
    """Sentences that say what is wrong, and the worst difference as a share of what is allowed."""
    wrong, worst = [], 0.0
    for name in NAMES:
        g, w = _wide(got[name]), _wide(want[name])
        if g.shape != w.shape:
            wrong.append(f"{name} has shape {g.shape}, wanted {w.shape}")
        elif not _same_kind(g, w):
            wrong.append(f"{name} is not finite in {(~np.isfinite(g)).sum()} places, "
                         f"wanted {(~np.isfinite(w)).sum()}")
        elif g.size:
            with np.errstate(all="ignore"):
                share = np.nan_to_num(np.abs(g - w)) / rooms[name]
            worst = max(worst, float(share.max()))
            if share.max() > 1:
                place = np.unravel_index(share.argmax(), share.shape)
                wrong.append(f"{name}{list(map(int, place))} is {g[place]:.9g}, wanted "
                             f"{w[place]:.9g}: {share.max():.3g} of what is allowed")
    return wrong, worst


def _on_grid(got, want):
    """What TensorFlow returns in 16 bits has to be values of that type here, in whatever type."""
    return [f"{name} has values that {want[name].dtype.name} has not" for name in NAMES
            if want[name].dtype.itemsize == 2 and not np.array_equal(
                got[name].astype(want[name].dtype).astype(np.float64), _wide(got[name]),
                equal_nan=True)]


def _same_bits(protocol, got, want):
    wrong = []
    for name, array in got.items():
        array = array.astype(want[name].dtype)
        if not np.array_equal(array, want[name], equal_nan=True):
            wrong.append(f"{protocol.__name__}: {name} differs from the binary protocol's")
    return wrong


# ---- one run -------------------------------------------------------------------------------


class Run:
    """Counts, and the worst errors by (policy, who)."""

    def __init__(self):
        self.counts, self.unexplained = collections.Counter(), []
        self.share = collections.Counter()  # worst difference, of what is allowed, by policy
        self.worst = collections.defaultdict(lambda: [0.0, 0.0, 0])

    def error(self, policy, who, answer, truth):
        row = self.worst[policy, who]
        row[2] += 1
        for i, exact in enumerate((truth.output, truth.scores)):
            if exact.size:
                error = np.abs(_wide(answer[NAMES[i]]) - exact) / (1 + np.abs(exact))
                row[i] = max(row[i], float(error.max()))

    def report(self, where, layer, call, wrong):
        self.unexplained.append(f"{where}: {'; '.join(wrong)}\n    {layer}\n    {call}")
        print("UNEXPLAINED", self.unexplained[-1], flush=True)


class NotLoaded(Exception):
    """A model directory that attnd refused, and its sentence."""


class Server:
    """One daemon and what its log calls its instruction set."""

    def __init__(self, daemon):
        self.daemon, self.connection = daemon, wire.connection(daemon)
        self.name = real_layer.instructions(daemon)
        self.bad = {entry["name"]: entry["reason"] for entry in
                    daemon.post("/v2/repository/index").json() if entry["state"] != "READY"}

    def ask(self, protocol, model, inputs):
        """An answer, or NotLoaded, or Refused."""
        self.daemon.assert_alive()
        if model in self.bad:
            raise NotLoaded(self.bad[model])
        return protocol(self.connection, model, inputs)


def _refusal(error):
    """A sentence that says what is wrong, and not a fault of attnd's own."""
    return isinstance(error, NotLoaded) or (
        isinstance(error, wire.Refused) and 400 <= error.status < 500)


def _attempt(work):
    """(result, None) or (None, what was raised)."""
    try:
        return work(), None
    except Exception as error:
        return None, error


def _check_answers(run, servers, model, real, call, want, where):
    layer, truth = real.layer, Truth(real.layer, real.weights, call)
    comparable = truth.finite and truth.live and layer.gain == 1.0
    rooms, wrong, moves = _rooms(truth, want), [], None
    if comparable:
        run.error(layer.policy, "TensorFlow", want, truth)
    for server in servers:
        got = server.ask(wire.ask_binary, model, call.inputs)
        faults, share = compare(got, want, rooms)
        if not faults:
            run.share[layer.policy] = max(run.share[layer.policy], share)
        if faults and all("of what is allowed" in fault for fault in faults):
            moves = moves or _moves(real, call, want, rooms, where)
            faults, _ = compare(got, want, moves)
            run.counts["answers within what the real layer itself moves"] += not faults
        if not truth.finite and "amx" in server.name and layer.policy == "float32":
            run.counts["documented: Infinite inputs give NaN"] += bool(faults)
            faults = []
        faults += _on_grid(got, want)
        wrong += [f"{server.name}: {fault}" for fault in faults]
        if comparable:
            run.error(layer.policy, server.name, got, truth)
    return wrong + _check_protocols(run, servers[0], model, call)


def _check_protocols(run, server, model, call):
    both = server.ask(wire.ask_binary, model, call.inputs)
    alone = server.ask(lambda *call: wire.ask_binary(*call, NAMES[:1]), model, call.inputs)
    wrong = []
    for protocol in wire.protocols(call.inputs, both.values()):
        run.counts[protocol.__name__] += 1
        got, error = _attempt(lambda p=protocol: server.ask(p, model, call.inputs))
        wanted = alone if protocol is wire.ask_kserve else both
        wrong += [f"{protocol.__name__}: {error}"] if error else _same_bits(protocol, got, wanted)
    return wrong


def _moves(real, call, want, rooms, where):
    """Rooms widened to four times what the real layer's own answer moves."""
    rng, spread = np.random.default_rng(list(map(int, where.split(".")))), {n: 0.0 for n in NAMES}
    for _ in range(4):
        other = real(moved(rng, call, UNIT[real.layer.policy]))
        for name in NAMES:
            with np.errstate(all="ignore"):
                step = np.nan_to_num(np.abs(_wide(other[name]) - _wide(want[name])))
            spread[name] = np.maximum(spread[name], step.max(-1, keepdims=True, initial=0.0))
    return {name: rooms[name] + 4 * spread[name] for name in NAMES}


def check_call(run, servers, model, real, call, where):
    """One call: counted, or reported as unexplained."""
    layer = real.layer
    want, raised = _attempt(lambda: real(call))
    got, refused = _attempt(lambda: servers[0].ask(wire.ask_binary, model, call.inputs))
    run.counts["calls"] += 1
    if refused and not _refusal(refused):
        return run.report(where, layer, call, [f"attnd: {refused!r}"])
    if raised and refused:
        run.counts["both refuse"] += 1
        return None
    if raised or refused:
        row = documented(layer, call, "attnd" if raised else "TensorFlow")
        if row:
            run.counts[f"documented: {row}"] += 1
        else:
            said = f"{type(raised).__name__} {str(raised)[:300]}" if raised else "answers"
            run.report(where, layer, call, [f"TensorFlow: {said}; attnd: {refused or 'answers'}"])
        return None
    wrong = _check_answers(run, servers, model, real, call, want, where)
    run.counts["both answer"] += 1
    return run.report(where, layer, call, wrong) if wrong else None


def run_all(run, layers, seed):
    kind, export = make_goldens.layer_class(), real_layer.readme_export
    with tempfile.TemporaryDirectory() as root, contextlib.ExitStack() as stack:
        reals = []
        for number in layers:
            rng = np.random.default_rng([seed, number])
            layer = draw.Layer(rng)
            directory = pathlib.Path(root) / f"m{number}"
            directory.mkdir()
            reals.append((number, rng, Real(kind, export, layer, rng, directory)))
        servers = [Server(daemon) for daemon in real_layer.servers(stack, root)]
        print("instruction sets:", ", ".join(server.name for server in servers), flush=True)
        for number, rng, real in reals:
            tf_keras.mixed_precision.set_global_policy(real.layer.policy)
            for turn in range(CALLS_A_LAYER):
                call = draw.draw_call(rng, real.layer)
                check_call(run, servers, f"m{number}", real, call, f"{seed}.{number}.{turn}")


# ---- the report ----------------------------------------------------------------------------


def table(run):
    """Worst errors against float64, relative to 1 + value, in Markdown."""
    whos = list(dict.fromkeys(who for _, who in run.worst))
    lines = ["| Policy | calls | " + " | ".join(whos) + " |", "|---" * (len(whos) + 2) + "|"]
    for policy in draw.POLICIES:
        cells = ["{:.1e}, {:.1e}".format(*run.worst[policy, who][:2]) for who in whos]
        lines.append(f"| `{policy}` | {run.worst[policy, whos[0]][2]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="one layer, by its number in a report")
    options = parser.parse_args()
    count = -(-options.calls // CALLS_A_LAYER)
    layers = range(count) if options.only is None else [options.only]
    check_that_they_are_documented()
    tf.get_logger().setLevel("ERROR")  # not: that this machine has no GPU
    run = Run()
    run_all(run, layers, options.seed)
    for what, number in sorted(run.counts.items()):
        print(f"{number:7} {what}")
    for policy, share in run.share.items():
        print(f"{share:7.3f} of what is allowed is the worst difference under {policy}")
    if run.worst:
        print("\nworst error of outputs, of scores against float64, relative to 1 + value\n")
        print(table(run))
    print(f"\n{run.counts['calls']} calls, {len(run.unexplained)} unexplained")
    return 1 if run.unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
