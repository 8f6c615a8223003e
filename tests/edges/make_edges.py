"""make_edges.py GOLDEN OUT COUNT SEED - COUNT random edge cases of each kind by the real layer.

OUT/KIND_sSEED_NUMBER is a case; the same seed makes the same ones. engine_edges_test takes OUT as
its argument. GOLDEN is the directory of make_goldens.py, whose layer and files are used here.
"""

import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # its softmax takes five dimensions at most

import numpy as np
import tensorflow as tf
import tf_keras

TYPES = {"float32": tf.float32, "float64": tf.float64, "mixed_float16": tf.float16,
         "mixed_bfloat16": tf.bfloat16}
TOLERANCES = {"float32": 2e-5, "mixed_float16": 4e-3, "mixed_bfloat16": 3e-2}


class Maker:
    """One layer and call: what a kind does not set is drawn."""

    def __init__(self, rng, kind, policy="float32"):
        self.rng, self.kind, self.policy = rng, kind, policy
        self.layer, self.inputs, self.weights = {}, {}, {}
        self.intent, self.rule = "", "compare"
        self.touch = []  # (input or weight, how many values, value): set after drawing

    def below(self, *bounds):
        return int(self.rng.integers(*bounds))

    def one_in(self, n):
        return self.below(n) == 0

    def numbers(self, *shape):
        return self.rng.normal(size=shape).astype(np.float32)

    # ---- shapes -----------------------------------------------------------------------------

    def shape(self, rank, axes=None, batch=None, heads=None, reused=0, positions=False, free=False):
        """Sizes of everything; axes None: all between batch and features, or some if free."""
        b = batch or 1 + self.below(3)
        inner = list(range(1, rank - 1))
        if axes is None and free and len(inner) > 1:
            axes = list(self.rng.permutation(inner)[: 1 + self.below(len(inner) - 1)])
        self.axes = [int(a) for a in (axes or inner)]
        limit = 6 if rank == 3 else 4 if rank == 4 else 3
        query = [b] + [1 + self.below(limit) for _ in inner]
        value = [n if i not in self.axes else 1 + self.below(limit) for i, n in enumerate(query)]
        self.heads = heads or 1 + self.below(4)
        self.reused = self.heads if reused == -1 else reused
        self.query, self.value = query, value
        self.widths = [1 + self.below(6) for _ in range(3)]
        self.layer = {
            "num_heads": self.heads, "key_dim": 1 + self.below(6), "reuse_attention": self.reused,
            "use_relative_pe": positions, "pe_max_seq_length": 1 + self.below(6),
            "use_bias": not self.one_in(4), "attention_axes": None if axes is None else self.axes,
            "value_dim": None if self.one_in(2) else 1 + self.below(6)}
        if self.one_in(3):
            self.layer["output_shape"] = [1 + self.below(4)] * (1 + self.below(2))

    def scores(self, heads):
        free = [n for i, n in enumerate(self.query) if i and i not in self.axes]
        return [self.query[0], *free, heads, *(self.query[a] for a in self.axes),
                *(self.value[a] for a in self.axes)]

    def draw_inputs(self):
        cast = TYPES[self.policy]
        self.inputs["query"] = self.numbers(*self.query, self.widths[0])
        self.inputs["value"] = self.numbers(*self.value, self.widths[1])
        if self.one_in(2):
            self.inputs["key"] = self.numbers(*self.value, self.widths[2])
        if self.reused:
            given = self.rng.random(self.scores(self.reused + (self.below(2) if self.reused <
                                                self.heads else 0))).astype(np.float32)
            # What the layer before returned: values of the policy's type.
            self.inputs["reuse_attention_scores"] = tf.cast(tf.cast(given, cast),
                                                            tf.float32).numpy()

    def draw_mask(self, heads, rank=None, kinds=("bool",), dropped=True):
        shape = self.scores(heads)
        rank = rank or len(shape)
        inserted, lead = len(shape) - rank, rank - 2 * len(self.axes)
        shape = shape[:lead] + shape[lead + inserted:]
        if dropped:
            shape = [1 if self.one_in(4) else n for n in shape]
        kind = kinds[self.below(len(kinds))]
        mask = self.rng.random(shape) < self.rng.random()
        self.inputs["attention_mask"] = mask.astype(kind)

    # ---- the layer's answer -------------------------------------------------------------------

    def run(self, kind):
        tf_keras.mixed_precision.set_global_policy(self.policy)
        layer = kind(**self.layer)
        arguments = {name: tf.constant(value) for name, value in self.inputs.items()}
        if "reuse_attention_scores" in arguments and self.reused < self.heads:
            name = "reuse_attention_scores"
            arguments[name] = tf.cast(arguments[name], TYPES[self.policy])
        layer(**arguments)  # builds
        for variable in layer.weights:
            values = self.numbers(*variable.shape) * 0.5
            name = variable.name.split(":")[0].removeprefix(layer.name + "/")
            for what, count, value in self.touch:
                if what == name:
                    values.flat[self.rng.permutation(values.size)[:count]] = value
            variable.assign(tf.cast(values, variable.dtype))
            self.weights[name] = values
        output, scores = layer(return_attention_scores=True, **arguments)
        self.config = json.loads(json.dumps(layer.get_config(), default=list))
        self.expected = {"expected/attention_output": tf.cast(output, tf.float32).numpy(),
                         "expected/attention_scores": tf.cast(scores, tf.float32).numpy()}

    def write(self, directory, golden):
        directory.mkdir(parents=True, exist_ok=True)
        case = {"cls": self.kind, "intent": self.intent, "policy": self.policy, "proto": "binary",
                "rule": self.rule, "tolerance": TOLERANCES[self.policy]}
        (directory / "case.json").write_text(json.dumps(case, indent=1) + "\n")
        (directory / "layer.json").write_text(json.dumps(self.config, indent=1) + "\n")
        golden.write(directory / "weights.safetensors", self.weights)
        golden.write(directory / "call.safetensors", {**self.inputs, **self.expected})

    def poke(self):
        """Sets the values of inputs that the kind wants extreme."""
        for what, count, value in self.touch:
            if what in self.inputs:
                values = self.inputs[what] = self.inputs[what].astype(np.float32)
                values.flat[self.rng.permutation(values.size)[:count]] = value


# ---- kinds ------------------------------------------------------------------------------------

MASKS = ("bool", "bool", "int32", "float32", "uint8")


def headmask(m):
    m.policy = ("float32", "float32", "mixed_float16", "mixed_bfloat16")[m.below(4)]
    m.rule = "compare" if m.policy == "float32" else "grid"
    rank = (3, 3, 4, 4, 5)[m.below(5)]
    heads = 2 + m.below(4)
    reused = m.below(heads) if not m.one_in(8) else -1
    m.shape(rank, heads=heads, reused=reused, positions=rank == 3 and m.one_in(2),
            free=reused in (0, -1) and m.one_in(2))
    m.draw_inputs()
    m.draw_mask(m.heads if reused == -1 else m.heads - m.reused, kinds=MASKS)
    m.intent = f"mask {list(m.inputs['attention_mask'].shape)}, R={m.reused} of {heads}"


def grid(m):
    m.policy, m.rule = ("mixed_float16", "mixed_bfloat16")[m.below(2)], "grid"
    rank = (3, 3, 4, 5)[m.below(4)]
    heads = 1 + m.below(4)
    reused = m.below(-1, heads + 1)
    free = reused in (0, -1, heads)
    m.shape(rank, heads=heads, reused=reused, positions=rank == 3 and m.one_in(2), free=free)
    if rank == 4 and free and m.one_in(3):
        m.shape(4, axes=[1], heads=heads, reused=reused, positions=True)
    m.draw_inputs()
    if m.one_in(2):
        m.draw_mask(1, rank=2 * len(m.axes) + m.below(2), kinds=MASKS)
    m.intent = (f"{m.policy}, R={m.reused} of {heads}, axes {m.axes} of {rank}-D, "
                f"positions {m.layer['use_relative_pe']}")


def infaxes(m):
    m.policy = ("float32", "float32", "mixed_float16", "mixed_bfloat16")[m.below(4)]
    several = not m.one_in(4)
    rank = (4, 4, 5)[m.below(3)] if several else 3
    heads = 1 + m.below(3)
    reused = m.below(heads) if not m.one_in(8) else -1
    m.shape(rank, heads=heads, reused=reused, positions=not several and m.one_in(2))
    m.draw_inputs()
    what = ("attention_mask", "attention_mask", "attention_mask", "query", "value", "key",
            "relative_position_embeddings", "reuse_attention_scores", "query/bias",
            "value_new/kernel")[m.below(10)]
    if what == "attention_mask" or m.one_in(2):
        m.draw_mask(1, kinds=("float32",))
    value = (np.inf, -np.inf, np.nan, 1e30, -1e30)[m.below(5)]
    m.touch.append((what, 1 + m.below(3), np.float32(value)))
    m.poke()
    m.intent = f"{value} in {what}, axes {m.axes}, R={m.reused} of {heads}"


def f16over(m):
    m.policy = "mixed_float16"
    rank = (3, 3, 3, 4)[m.below(4)]
    heads = 1 + m.below(3)
    reused = m.below(-1, heads + 1)
    m.shape(rank, heads=heads, reused=reused, positions=rank == 3 and m.one_in(2))
    m.draw_inputs()
    names = ["query/kernel", "key/kernel", "value_new/kernel", "value_reuse/kernel",
             "attention_output_new/kernel", "attention_output_reuse/kernel", "query/bias",
             "key/bias", "attention_output_new/bias", "relative_position_embeddings", "query",
             "value", "attention_mask"]
    count = 1 + m.below(2)
    what = [names[i] for i in m.rng.permutation(len(names))[:count]]
    if "attention_mask" in what or m.one_in(3):
        m.draw_mask(1, kinds=("float32",))
    for name in what:
        size = (3.0, -1.0, -2.0, -3.0, 7e4, 200.0)[m.below(6)] if name == "attention_mask" else (
            300.0, 3e4, 6.5e4, -6.5e4, 7e4, 1e6)[m.below(6)]
        m.touch.append((name, 1 + m.below(2), np.float32(size)))
    m.poke()
    m.intent = ", ".join(f"{value:g} in {name}" for name, _, value in m.touch)


KINDS = {"headmask": headmask, "grid": grid, "infaxes": infaxes, "f16over": f16over}


def main(golden_directory, out, count, seed):
    sys.path.insert(0, str(golden_directory))
    sys.dont_write_bytecode = True
    import make_goldens as golden
    kind_of_layer = golden.layer_class()
    for kind, fill in KINDS.items():
        for i in range(count):
            m = Maker(np.random.default_rng([seed, i]), kind)
            fill(m)
            try:
                m.run(kind_of_layer)
            except Exception as error:  # a refusal is no case
                print(kind, i, m.intent, type(error).__name__, str(error)[:100])
                continue
            m.write(out / f"{kind}_s{seed}_{i}", golden)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]),
         *(int(argument) for argument in sys.argv[3:]))
