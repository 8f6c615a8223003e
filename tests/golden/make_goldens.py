"""make_goldens.py GOLDEN OUT - golden tensors written by the real ReuseMultiHeadAttention.

Each case of GOLDEN is made again from what it holds: the layer from layer.json, its weights from
weights.safetensors, the call from call.safetensors. The answers go to OUT/CASE/call.safetensors in
the same form, and are compared with those of GOLDEN: the worst difference is printed, and the exit
status is 1 when one lies beyond the case's tolerance. New cases are made by adding a directory with
layer.json, weights and inputs, and copying what this writes.
"""

import importlib.util
import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # its softmax takes five dimensions at most

import numpy as np
import tensorflow as tf
import tf_keras

TYPES = {"F32": np.float32, "F64": np.float64, "F16": np.float16, "BOOL": np.bool_,
         "I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64, "U8": np.uint8}
NAMES = {np.dtype(kind): name for name, kind in TYPES.items()}
INPUTS = ("query", "value", "key", "attention_mask", "reuse_attention_scores")


def read(path):
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8:8 + length]), raw[8 + length:]
    header.pop("__metadata__", None)
    return {name: np.frombuffer(data[slice(*entry["data_offsets"])], TYPES[entry["dtype"]])
            .reshape(entry["shape"]) for name, entry in header.items()}


def write(path, tensors):
    header, data = {}, b""
    for name in sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name)):
        raw = np.ascontiguousarray(tensors[name]).tobytes()
        header[name] = {"dtype": NAMES[tensors[name].dtype], "shape": list(tensors[name].shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def layer_class():
    """The one file of the Model Garden that is needed, without its package's dependencies."""
    package = pathlib.Path(importlib.util.find_spec("official").submodule_search_locations[0])
    path = package / "nlp" / "modeling" / "layers" / "reuse_attention.py"
    spec = importlib.util.spec_from_file_location("reuse_attention", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ReuseMultiHeadAttention


def policy_of(config):
    dtype = config.get("dtype", "float32")
    return dtype["config"]["name"] if isinstance(dtype, dict) else dtype


def set_weights(layer, weights):
    """Variables by their names: "…/query/kernel:0" takes "query/kernel"."""
    for variable in layer.weights:
        name = variable.name.split(":")[0]
        fitting = [key for key in weights if name == key or name.endswith("/" + key)]
        assert len(fitting) == 1, (variable.name, fitting)
        variable.assign(tf.cast(weights[fitting[0]], variable.dtype))


def make(directory, kind):
    config = json.loads((directory / "layer.json").read_text())
    tf_keras.mixed_precision.set_global_policy(policy_of(config))
    given = read(directory / "call.safetensors")
    arguments = {name: tf.constant(given[name]) for name in INPUTS if name in given}
    for name in ("query_shape", "key_shape", "value_shape", "activity_regularizer", "dtype"):
        config.pop(name, None)
    layer = kind(**{key: tf_keras.initializers.get(value) if key.endswith("_initializer") else value
                    for key, value in config.items()})
    layer(**arguments)  # builds
    set_weights(layer, read(directory / "weights.safetensors"))
    output, scores = layer(return_attention_scores=True, **arguments)
    made = {name: given[name] for name in INPUTS if name in given}
    made["expected/attention_output"] = tf.cast(output, tf.float32).numpy()
    made["expected/attention_scores"] = tf.cast(scores, tf.float32).numpy()
    return given, made


def main(golden, out):
    cases = json.loads((golden / "MANIFEST.json").read_text())["cases"]
    kind, wrong = layer_class(), 0
    for name, facts in cases.items():
        given, made = make(golden / name, kind)
        (out / name).mkdir(parents=True, exist_ok=True)
        write(out / name / "call.safetensors", made)
        share = 0.0
        for key in ("expected/attention_output", "expected/attention_scores"):
            room = facts["tolerance"]["atol"] + facts["tolerance"]["rtol"] * np.abs(given[key])
            share = max(share, float(np.max(np.abs(made[key] - given[key]) / room)))
        wrong += share > 1.0
        print(f"{name:32} worst difference {share:.3f} of the tolerance")
    print(f"{len(cases) - wrong} made, {wrong} beyond their tolerance, in {out}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])))
