"""Random layers and random calls, each from its own seed: what a client might send, mistakes too.

A layer is the constructor's arguments and the inputs' widths. A call is arrays by input name, NumPy
throughout (bfloat16 by ml_dtypes). Sizes are small, so that a thousand calls take minutes; one in
eight is long enough (48 to 150 positions) for the kernels that serve only long sequences.
"""

import math

import ml_dtypes
import numpy as np

POLICIES = ("float32", "float64", "mixed_float16", "mixed_bfloat16")
COMPUTE = {"float32": np.float32, "float64": np.float64, "mixed_float16": np.float16,
           "mixed_bfloat16": ml_dtypes.bfloat16}
FLOATS = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
MASK_TYPES = (np.bool_, np.bool_, np.bool_, np.int8, np.uint8, np.int32, np.int64, *FLOATS)


def pick(rng, *options):
    return options[rng.integers(len(options))]


def happens(rng, probability):
    return bool(rng.random() < probability)


# ---- layers --------------------------------------------------------------------------------


class Layer:
    """policy, rank of the inputs, constructor's arguments, widths of query, key and value."""

    def __init__(self, rng):
        self.policy = pick(rng, *POLICIES, "float32")
        self.rank = int(rng.choice([3, 4, 5], p=[0.6, 0.25, 0.15]))
        self.arguments = _arguments(rng, self.rank)
        wide = pick(rng, 8, 20, 70)
        self.query_width = int(rng.integers(1, wide))
        self.value_width = self.query_width if happens(rng, 0.5) else int(rng.integers(1, wide))
        self.key_width = self.value_width if happens(rng, 0.5) else int(rng.integers(1, wide))
        self.gain = 6.0 if happens(rng, 0.05) else 1.0  # large logits

    @property
    def heads(self):
        return self.arguments["num_heads"]

    @property
    def reused(self):
        given = self.arguments.get("reuse_attention", 0)
        return self.heads if given == -1 else int(given)

    @property
    def new(self):
        return self.heads - self.reused

    @property
    def axes(self):
        """Attended axes, none negative, in the order given. May name the batch or the heads."""
        given = self.arguments.get("attention_axes")
        if given is None:
            return tuple(range(1, self.rank - 1))
        given = (given,) if isinstance(given, int) else given
        return tuple(axis + self.rank + 1 if axis < 0 else axis for axis in given)

    @property
    def free(self):
        return [axis for axis in range(1, self.rank - 1) if axis not in self.axes]

    @property
    def positions(self):
        return self.arguments.get("use_relative_pe", False) and self.new > 0

    def weight_shapes(self):
        """Shapes by name, as engine/README.md has them."""
        a, new, reused = self.arguments, self.new, self.reused
        key_dim, value_dim = a["key_dim"], a.get("value_dim") or a["key_dim"]
        out = a.get("output_shape") or [self.query_width]
        out = [out] if isinstance(out, int) else list(out)
        shapes = {}
        if self.positions:
            shapes["relative_position_embeddings"] = [1, new, 2 * a["pe_max_seq_length"] - 1]
        dense = []
        if new:
            dense += [("query", [self.query_width, new, key_dim], [new, key_dim]),
                      ("key", [self.key_width, new, key_dim], [new, key_dim])]
        if reused:
            dense.append(("value_reuse", [self.value_width, reused, value_dim], [reused, value_dim]))
        if new:
            dense.append(("value_new", [self.value_width, new, value_dim], [new, value_dim]))
        if reused:
            dense.append(("attention_output_reuse", [reused, value_dim, *out], out))
        if new:
            dense.append(("attention_output_new", [new, value_dim, *out], None if reused else out))
        for name, kernel, bias in dense:
            shapes[name + "/kernel"] = kernel
            if bias is not None and a.get("use_bias", True):
                shapes[name + "/bias"] = bias
        return shapes

    def draw_weights(self, rng):
        """Kernels that keep the size of what passes through, biases and positions of about 0.3."""
        weights = {}
        for name, shape in self.weight_shapes().items():
            scale = 0.3
            if name.endswith("/kernel"):
                bound = shape[0] if not name.startswith("attention_output") else shape[0] * shape[1]
                scale = (self.gain if name in ("query/kernel", "key/kernel") else 1) / math.sqrt(bound)
            weights[name] = rng.normal(0, scale, shape).astype(np.float32)
        return weights

    def __str__(self):
        widths = f"widths {self.query_width},{self.key_width},{self.value_width}"
        return f"{self.policy} rank {self.rank} {widths} {self.arguments}"


def _axes(rng, rank):
    """None, or some of the axes between batch and features in any order, some counted from the
    end. One in 25 names the batch, the heads or an axis twice."""
    if happens(rng, 0.4):
        return None
    inner = list(range(1, rank - 1))
    axes = [int(a) for a in rng.permutation(inner)[: rng.integers(1, len(inner) + 1)]]
    if happens(rng, 0.04):
        axes = pick(rng, [0], [rank - 1], [axes[0], axes[0]])
    axes = [axis - rank - 1 if happens(rng, 0.2) else axis for axis in axes]
    return axes[0] if len(axes) == 1 and happens(rng, 0.3) else tuple(axes)


def _arguments(rng, rank):
    heads = int(rng.integers(1, 7))
    arguments = {"num_heads": heads, "key_dim": int(pick(rng, 1, 3, 4, 7, 8, 16, 33, 64))}
    arguments["attention_axes"] = _axes(rng, rank)
    if happens(rng, 0.5):
        arguments["value_dim"] = int(rng.integers(0, 13))
    if happens(rng, 0.5):
        arguments["reuse_attention"] = int(pick(rng, -1, heads, rng.integers(0, heads + 1)))
    if happens(rng, 0.3):
        arguments["use_relative_pe"] = True
        arguments["pe_max_seq_length"] = int(pick(rng, 1, 2, 5, 16, 512))
    if happens(rng, 0.2):
        arguments["use_bias"] = False
    if happens(rng, 0.4):
        arguments["output_shape"] = pick(rng, 0, [], int(rng.integers(1, 20)), [5], [2, 3], (3, 1, 2))
    return arguments


# ---- calls ---------------------------------------------------------------------------------


class Call:
    """Arrays by input name; what a client leaves out is not there. spoilt: which mistake it has."""

    def __init__(self, inputs, spoilt=None):
        self.inputs, self.spoilt = inputs, spoilt

    @property
    def value(self):
        return self.inputs.get("value", self.inputs["query"])

    @property
    def key(self):
        return self.inputs.get("key", self.value)

    def __str__(self):
        parts = [f"{n} {a.dtype}{list(a.shape)}" for n, a in self.inputs.items()]
        return ", ".join(parts) + (f" (spoilt: {self.spoilt})" if self.spoilt else "")


def plain_call(layer):
    """The smallest sensible call, to build a layer with."""
    shape = [2] * (layer.rank - 1)
    inputs = {name: np.zeros([*shape, width], np.float32) for name, width in
              (("query", layer.query_width), ("value", layer.value_width), ("key", layer.key_width))}
    if layer.reused:
        scores = _scores_shape(layer, shape, shape, layer.heads)
        inputs["reuse_attention_scores"] = np.zeros(scores, COMPUTE[layer.policy])
    return Call(inputs)


def _scores_shape(layer, queries, keys, heads):
    inner = [axis for axis in layer.axes if 0 < axis < layer.rank - 1]
    return [queries[0], *(queries[a] for a in layer.free), heads,
            *(queries[a] for a in inner), *(keys[a] for a in inner)]


def _sizes(rng, layer):
    """Batch and positions of the queries and of the keys; free axes agree."""
    def size(zero, most):
        return 0 if happens(rng, zero) else int(rng.integers(1, most))

    inner = range(1, layer.rank - 1)
    most = 9 if layer.rank == 3 else 5
    queries = [size(0.03, 4), *(size(0.015, most) for _ in inner)]
    keys = [queries[0], *(queries[a] if a in layer.free else size(0.015, most) for a in inner)]
    long = layer.rank == 3 and happens(rng, 0.2)
    if long:
        queries[1], keys[1] = int(rng.integers(48, 150)), int(rng.integers(48, 150))
    if happens(rng, 0.1):
        queries[1 if 1 in layer.axes or layer.rank == 3 else 0] = 1
        keys = [queries[a] if a in layer.free or a == 0 else k for a, k in enumerate(keys)]
    return queries, keys


def _normal(rng, shape, kind):
    return rng.normal(0, 1, shape).astype(kind)


def _mask(rng, layer, scores):
    """2 * axes dimensions to those of the scores, each full or 1; one in 25 is of another shape."""
    attended = 2 * len(layer.axes)
    rank = int(rng.integers(attended, len(scores) + 1))
    shape = [*scores[: rank - attended], *scores[len(scores) - attended:]]
    shape = [1 if happens(rng, 0.15) else size for size in shape]
    if happens(rng, 0.04):
        shape = pick(rng, shape[1:], [1, *shape], [size + 1 for size in shape],
                     [4 if size == 1 else size for size in shape])
    elif rank == len(scores) and layer.reused and happens(rng, 0.1):
        shape[1 + len(layer.free)] = layer.heads
    kind = pick(rng, *MASK_TYPES)
    mask = (rng.random(shape) < pick(rng, 0.9, 0.6, 0.2, 1.0)).astype(kind)
    if shape and 0 not in shape and happens(rng, 0.15):
        mask[..., 0 if happens(rng, 0.5) else slice(None)] = 0  # keys or whole rows
    if kind in FLOATS and happens(rng, 0.3):
        mask = rng.choice([0, 1, 0.5, 2, -1], shape).astype(kind)
    if np.dtype(kind).kind == "i" and happens(rng, 0.15):
        mask = rng.choice([0, 1, 2, -1], shape).astype(kind)
    return mask


def _reuse_scores(rng, layer, scores):
    """What an earlier layer returns: rows that sum to 1; sometimes any numbers."""
    shape, place = list(scores), len(scores) - 2 * len(layer.axes) - 1
    shape[place] = layer.heads
    if layer.reused < layer.heads:
        shape[place] = int(rng.integers(layer.reused, layer.heads + 2))
    elif happens(rng, 0.04):
        shape[place] += 1
    given = rng.normal(0, 1, shape)
    if happens(rng, 0.8) and 0 not in shape:
        axes = tuple(range(len(shape) - len(layer.axes), len(shape)))
        given = np.exp(given) / np.exp(given).sum(axes, keepdims=True)
    return given.astype(np.float32 if happens(rng, 0.1) else COMPUTE[layer.policy])


def _infinite(rng, inputs):
    name = pick(rng, *(n for n in inputs if n != "attention_mask" or inputs[n].dtype in FLOATS))
    if inputs[name].size:
        place = tuple(int(rng.integers(size)) for size in inputs[name].shape)
        inputs[name][place] = pick(rng, np.inf, -np.inf, np.nan)


def _spoil(rng, layer, inputs):
    """One mistake; its name."""
    what = pick(rng, "width", "keys", "batch", "scores missing", "few heads", "rank", "query rank")
    name = pick(rng, *(n for n in ("query", "value", "key") if n in inputs))
    if what == "width":
        inputs[name] = np.concatenate([inputs[name], inputs[name][..., :1]], -1)
    elif what == "keys" and "key" in inputs:
        axis = layer.axes[0] if 0 < layer.axes[0] < layer.rank - 1 else 1
        inputs["key"] = np.concatenate([inputs["key"], inputs["key"]], axis)
    elif what == "batch" and "value" in inputs:
        inputs["value"] = np.concatenate([inputs["value"], inputs["value"]], 0)
    elif what == "scores missing":
        inputs.pop("reuse_attention_scores", None)
    elif what == "few heads" and layer.reused and layer.rank == 3:
        inputs["reuse_attention_scores"] = inputs["reuse_attention_scores"][:, : layer.reused - 1]
    elif what == "rank" and "value" in inputs:
        inputs["value"] = inputs["value"][:, None]
    elif what == "query rank":
        inputs["query"] = inputs["query"][:, 0] if inputs["query"].shape[1] else inputs["query"]
    return what


def draw_call(rng, layer):
    queries, keys = _sizes(rng, layer)
    kind = COMPUTE[layer.policy] if happens(rng, 0.5) else pick(rng, *FLOATS)
    inputs = {"query": _normal(rng, [*queries, layer.query_width], kind)}
    if layer.value_width == layer.query_width and happens(rng, 0.5):
        keys = queries  # self-attention: the value is left out
    else:
        inputs["value"] = _normal(rng, [*keys, layer.value_width], pick(rng, kind, np.float32))
    if layer.key_width != layer.value_width or happens(rng, 0.3):
        inputs["key"] = _normal(rng, [*keys, layer.key_width], pick(rng, kind, np.float32))
    scores = _scores_shape(layer, queries, keys, layer.new or layer.heads)
    if happens(rng, 0.5):
        inputs["attention_mask"] = _mask(rng, layer, scores)
    if layer.reused:
        inputs["reuse_attention_scores"] = _reuse_scores(rng, layer, scores)
    if happens(rng, 0.04):
        _infinite(rng, inputs)
    return Call(inputs, _spoil(rng, layer, inputs) if happens(rng, 0.05) else None)
