"""configurations.py ATTND - does every configuration of the real layer come back equal?

Makes random layers with the real ReuseMultiHeadAttention, writes the configuration of each in every
spelling that Python has for it, serves them all with weights drawn from a seed, and compares what
GET /v2/models/M/config says with get_config(). Prints a line a spelling; the exit status is 1 if one
layer was refused or came back changed. `make configurations` installs the TensorFlow that it needs."""

import argparse
import json
import math
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import threading
import urllib.request

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "golden"))

import numpy as np
import tensorflow as tf
import tf_keras
from make_goldens import layer_class
from tf_keras.src.saving.legacy.saved_model import json_utils

Layer = layer_class()
READY = re.compile(r"attnd: ready on http://127\.0\.0\.1:(\d+)$")
POLICIES = ("float32",) * 5 + ("mixed_float16", "mixed_bfloat16", "float64")


# ---- random layers -----------------------------------------------------------------------------


def initializer(r, bias):
    seed = r.choice([None, None, r.randrange(2**31)])
    kinds = tf_keras.initializers
    choices = [
        "glorot_uniform", "he_normal", "LecunNormal", "zeros", "ones", kinds.Zeros(),
        kinds.Constant(r.uniform(-1, 1)), kinds.Constant(np.float32(0.125)), kinds.Constant(2),
        kinds.RandomUniform(-0.25, r.random(), seed=seed), kinds.RandomNormal(0.5, r.random(), seed),
        kinds.TruncatedNormal(stddev=r.random() + 0.01, seed=seed), kinds.GlorotNormal(seed=seed),
        kinds.HeUniform(seed=seed), kinds.LecunUniform(seed=seed),
        kinds.VarianceScaling(r.random() + 0.1, r.choice(["fan_in", "fan_out", "fan_avg"]),
                              r.choice(["truncated_normal", "untruncated_normal", "uniform",
                                        "normal"]), seed),
    ]
    if not bias:
        choices.append(kinds.Orthogonal(gain=r.random() + 0.5, seed=seed))
    return r.choice(choices)


def regularizer(r):
    kinds = tf_keras.regularizers
    return r.choice([None, None, "l1", "l2", "l1_l2", kinds.L1(r.random()), kinds.L2(r.random()),
                     kinds.L1L2(r.random(), 0.5), kinds.L1L2()])


def constraint(r):
    kinds = tf_keras.constraints
    return r.choice([None, None, "non_neg", "max_norm", "unit_norm", kinds.MaxNorm(3, axis=[0, 1]),
                     kinds.MaxNorm(math.inf), kinds.UnitNorm(axis=r.randrange(3)),
                     kinds.MinMaxNorm(0.25, 2.0, r.random(), axis=0)])


def name(r):
    return r.choice(["attn", "reuse_multi_head_attention_7", "a.b-c_d", "Aufmerksamkeit_ä",
                     "注意", "n" * r.randrange(100, 5000)]) + f"_{r.randrange(10**6)}"


def arguments(r, rank):
    heads = r.randrange(1, 7)
    ret = {
        "num_heads": r.choice([heads, heads, np.int64(heads)]),
        "key_dim": r.randrange(1, 9), "value_dim": r.choice([None, 0, r.randrange(1, 9)]),
        "dropout": r.choice([0, 0.0, 0.1, r.random() * 0.9, np.float32(0.125)]),
        "use_bias": r.choice([True, True, False, 1, 0]),
        "output_shape": r.choice([None, None, 0, [], (), 5, [6], (7,), [2, 3], [2, 3, 4]]),
        "attention_axes": r.choice([None, None, 1, (1,), [1], np.int64(1)]
                                   + [(1, 2), [2, 1], (2,), (-3,)] * (rank == 4)),
        "reuse_attention": r.choice([0, 0, False, -1, heads, r.randrange(heads + 1)]),
        "use_relative_pe": r.choice([False, True, 0, 1]), "pe_max_seq_length": r.choice([512, 9]),
        "name": name(r), "trainable": r.choice([True, True, False]),
        "kernel_initializer": initializer(r, False), "bias_initializer": initializer(r, True),
        "kernel_regularizer": regularizer(r), "bias_regularizer": regularizer(r),
        "activity_regularizer": regularizer(r),
        "kernel_constraint": constraint(r), "bias_constraint": constraint(r),
    }
    return {key: value for key, value in ret.items()
            if key in ("num_heads", "key_dim") or r.random() < 0.7}


def call(layer, r, rank):
    """Builds it by a call on symbolic inputs, inside a model."""
    shape = [r.randrange(2, 5) for _ in range(rank - 2)]
    query = tf_keras.Input([*shape, r.randrange(2, 7)], name="query")
    value = query if r.random() < 0.5 else tf_keras.Input([*shape, r.randrange(2, 7)], name="value")
    inputs, more = [query] if value is query else [query, value], {}
    if r.random() < 0.2:
        more["key"] = tf_keras.Input([*shape, r.randrange(2, 7)], name="key")
        inputs.append(more["key"])
    reused = layer.get_config()["reuse_attention"]
    if reused:
        axes = layer.get_config()["attention_axes"]
        axes = sorted(range(1, rank - 1) if axes is None else [a % (rank + 1) for a in axes])
        free = [shape[a - 1] for a in range(1, rank - 1) if a not in axes]
        over = [shape[a - 1] for a in axes] * 2
        heads = int(layer.get_config()["num_heads"])
        scores = tf_keras.Input([*free, heads, *over], name="scores")
        more["reuse_attention_scores"] = scores
        inputs.append(scores)
    return tf_keras.Model(inputs, layer(query, value, **more))


def make(r):
    """A random layer that Keras builds, in a model; most failures are mismatches of free axes."""
    while True:
        tf_keras.backend.clear_session()
        tf_keras.mixed_precision.set_global_policy(r.choice(POLICIES))
        rank = r.choice([3, 3, 3, 4])
        try:
            layer = Layer(**arguments(r, rank))
            return layer, call(layer, r, rank)
        except (ValueError, TypeError, tf.errors.OpError):
            continue


# ---- what should come back, and what is written ------------------------------------------------


def plain(value):
    """A value of get_config() as JSON has it; infinities are texts there."""
    if isinstance(value, tf.TensorShape):
        return None if value.rank is None else value.as_list()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def edited(config, edit):
    return json.dumps({key: edit(value) if isinstance(value, tf.TensorShape) else value
                       for key, value in config.items()}, default=str)


def typed(config):
    """An older Keras' initializers carry their dtype."""
    text = json.loads(json.dumps(config, default=str))
    for key in ("kernel_initializer", "bias_initializer"):
        text[key] = {"class_name": text[key]["class_name"],
                     "config": {**text[key]["config"], "dtype": "float32"}, "shared_object_id": 3}
    return json.dumps(text)


def with_mark(config):
    return "\ufeff" + json.dumps(config, default=str, ensure_ascii=False, indent=1)


SPELLINGS = {
    "json.dump(get_config(), default=str)": lambda c, _l, _m: json.dumps(c, default=str),
    "repr() of shapes": lambda c, _l, _m: edited(c, repr),
    "shapes as texts of lists": lambda c, _l, _m: edited(c, lambda shape: str(shape.as_list())),
    "plain lists": lambda c, _l, _m: json.dumps(plain(c)),
    "keras.layers.serialize": lambda _c, l, _m: json.dumps(tf_keras.layers.serialize(l), default=str),
    "the legacy serialize": lambda _c, l, _m: json.dumps(
        tf_keras.layers.serialize(l, use_legacy_format=True), default=str),
    "serialize_keras_object": lambda _c, l, _m: json.dumps(
        tf_keras.saving.serialize_keras_object(l), default=str),
    "SavedModel's metadata": lambda c, _l, _m: json_utils.Encoder().encode(
        {"class_name": "ReuseMultiHeadAttention", "config": c, "shared_object_id": 2}),
    "model.to_json()": lambda _c, _l, m: m.to_json(),
    "model.get_config()": lambda _c, _l, m: json.dumps(m.get_config(), default=str),
    "a model in a Sequential": lambda _c, _l, m: tf_keras.Sequential(
        [m]).to_json() if len(m.inputs) == 1 else m.to_json(),
    "initializers with dtype": lambda c, _l, _m: typed(c),
    "a byte order mark": lambda c, _l, _m: with_mark(c),
}


def write(directory, number, layer, model):
    config = layer.get_config()
    for index, spell in enumerate(SPELLINGS.values()):
        target = directory / f"m{number}-{index}"
        target.mkdir()
        (target / "layer.json").write_text(spell(config, layer, model), encoding="utf-8")
        (target / "model.json").write_text(json.dumps({"initialize": number}))
    return plain(config)


# ---- the daemon --------------------------------------------------------------------------------


class Daemon:
    def __init__(self, attnd, directory):
        command = [attnd, "--listen", "127.0.0.1:0", "--models", directory, "--drain-delay-ms", "0",
                   "--log-level", "error"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.refusals = []
        for line in self.process.stderr:
            if match := READY.match(line.strip()):
                self.url = f"http://127.0.0.1:{match.group(1)}"
                break
            self.refusals.append(line.strip())
        else:
            raise RuntimeError("attnd ended before it was ready:\n" + "\n".join(self.refusals[-20:]))
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def layer(self, model):
        try:
            with urllib.request.urlopen(f"{self.url}/v2/models/{model}/config") as reply:
                return json.load(reply)["layer"]
        except urllib.error.HTTPError as error:
            return f"status {error.code}"

    def stop(self):
        self.process.terminate()
        assert self.process.wait(60) == 0


def differences(got, wanted):
    if not isinstance(got, dict):
        return [got]
    return [f"{key}: {got.get(key, 'not there')!r}, wanted {wanted.get(key, 'not there')!r}"
            for key in sorted({*got, *wanted})
            if key not in got or key not in wanted or got[key] != wanted[key]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("attnd")
    parser.add_argument("--layers", type=int, default=322)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    r, wrong = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory(prefix="attnd-configurations-") as directory:
        wanted = [write(pathlib.Path(directory), number, *make(r)) for number in range(options.layers)]
        daemon = Daemon(options.attnd, directory)
        for line in daemon.refusals[:5]:
            print(f"refused: {line[:300]}")
        for index, what in enumerate(SPELLINGS):
            equal = 0
            for number, config in enumerate(wanted):
                found = differences(daemon.layer(f"m{number}-{index}"), config)
                equal += not found
                if found and wrong < 10:
                    print(f"m{number}-{index}: {'; '.join(found)[:500]}")
                wrong += bool(found)
            print(f"{equal} of {len(wanted)} come back equal: {what}", flush=True)
        daemon.stop()
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
