"""What README.md tells people to paste ("Your own layer"), pasted: with the real layer as people
have it, and with what they have in other formats. Runs in the environment that has TensorFlow."""

import os
import re
import sys
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "http")]

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
import tf_keras
from official.nlp.modeling.layers import ReuseMultiHeadAttention, ReuseTransformer

import differential_wire as wire
import real_layer
from attnd import Daemon

WIDTH = 24
CUSTOM = {"ReuseMultiHeadAttention": ReuseMultiHeadAttention, "ReuseTransformer": ReuseTransformer}
ROOM = {"float32": 1e-5, "mixed_float16": 1e-2, "mixed_bfloat16": 5e-2}
SECTION = real_layer.readme_section()
EXPORT, _, EXPORT_BERT = real_layer.BLOCK.findall(SECTION)


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    tf_keras.mixed_precision.set_global_policy("float32")
    tf_keras.backend.clear_session()


def trained(model):
    """A model whose weights are no longer those that it began with, biases included."""
    rng = np.random.default_rng(1)
    for variable in model.weights:
        variable.assign_add(tf.cast(rng.normal(0, 0.2, variable.shape), variable.dtype))
    return model


def numbers(*shape):
    return np.random.default_rng(2).normal(0, 1, shape).astype(np.float32)


def functional(**arguments):
    """Query and value in, output and scores out; the layer is called "mine"."""
    query, value = tf_keras.Input((None, WIDTH)), tf_keras.Input((None, 9))
    layer = ReuseMultiHeadAttention(3, 8, name="mine", use_relative_pe=True, **arguments)
    return tf_keras.Model([query, value], layer(query, value, return_attention_scores=True))


def ask(model, inputs):
    """The answer of a daemon that serves models/ in this directory."""
    with Daemon(models=("models",)) as daemon:
        return wire.ask_binary(wire.connection(daemon), model, inputs)


def check(layer, policy="float32", with_value=True):
    """Pastes the README's lines for layer, and compares what attnd then answers."""
    exec(EXPORT, {"layer": layer})
    inputs = {"query": numbers(2, 7, WIDTH)}
    if with_value:
        inputs["value"] = numbers(2, 5, 9)
    want = layer(return_attention_scores=True, **{"value": inputs["query"], **inputs})
    got = ask("mine", inputs)
    for name, array in zip(("attention_output", "attention_scores"), want):
        wanted = tf.cast(array, tf.float32).numpy()
        np.testing.assert_allclose(got[name], wanted, atol=ROOM[policy], rtol=ROOM[policy])


# ---- the layer, as people have it ----------------------------------------------------------


def test_the_block_is_at_most_ten_lines():
    assert len(EXPORT.splitlines()) <= 10


def test_alone():
    layer = ReuseMultiHeadAttention(3, 8, use_relative_pe=True, pe_max_seq_length=4)
    layer(numbers(1, 2, WIDTH), numbers(1, 3, 9))
    check(trained(layer))


def test_in_a_functional_model_that_was_trained():
    model = functional()
    loss = tf_keras.Model(model.inputs, model.outputs[0])
    loss.compile("adam", "mse")
    loss.fit([numbers(8, 7, WIDTH), numbers(8, 5, 9)], numbers(8, 7, WIDTH), epochs=2, verbose=0)
    check(model.get_layer("mine"))


def test_inside_a_reuse_transformer():
    block = ReuseTransformer(3, 32, "relu", use_relative_pe=True)
    block(numbers(1, 2, WIDTH))
    check(trained(block)._attention_layer, with_value=False)


def test_inside_a_model_of_two_reuse_transformers():
    data = tf_keras.Input((None, WIDTH))
    first, scores = ReuseTransformer(3, 32, "relu", name="first")(data)
    reuse = ReuseTransformer(3, 32, "relu", reuse_attention=-1, name="second")
    model = trained(tf_keras.Model(data, reuse([first, None, scores])[0]))
    check(model.get_layer("first")._attention_layer, with_value=False)
    layer, query = model.get_layer("second")._attention_layer, numbers(2, 7, WIDTH)
    exec(EXPORT, {"layer": layer})
    given = np.random.default_rng(3).random((2, 3, 7, 7), np.float32)
    got = ask("mine", {"query": query, "reuse_attention_scores": given})
    want = layer(query, query, reuse_attention_scores=given).numpy()
    np.testing.assert_allclose(got["attention_output"], want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_under_a_mixed_policy(policy):
    tf_keras.mixed_precision.set_global_policy(policy)
    check(trained(functional()).get_layer("mine"), policy)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_reloaded_from_a_saved_model(policy):
    tf_keras.mixed_precision.set_global_policy(policy)
    trained(functional()).save("saved")
    check(tf_keras.models.load_model("saved", CUSTOM).get_layer("mine"), policy)


def test_reloaded_from_a_saved_model_without_its_class():
    model = trained(functional())
    model.save("saved")
    exec(EXPORT, {"layer": tf_keras.models.load_model("saved").get_layer("mine")})
    inputs = {"query": numbers(2, 7, WIDTH), "value": numbers(2, 5, 9)}
    want = model([inputs["query"], inputs["value"]])
    np.testing.assert_allclose(ask("mine", inputs)["attention_output"], want[0], atol=1e-5)


def test_a_block_reloaded_from_a_saved_model():
    data = tf_keras.Input((None, WIDTH))
    block = ReuseTransformer(3, 32, "relu", use_relative_pe=True, name="block")
    trained(tf_keras.Model(data, block(data))).save("saved")
    model = tf_keras.models.load_model("saved", CUSTOM)
    check(model.get_layer("block")._attention_layer, with_value=False)


# ---- other formats -------------------------------------------------------------------------


def line(word):
    """The line of the README's table whose first cell holds word."""
    rows = [row.split(" | ") for row in SECTION.splitlines() if row.startswith("| ")]
    (row,) = [row for row in rows if word in row[0]]
    return re.search(r"`([^`]*)`", row[1]).group(1)


def names(**more):
    return {"tf": tf, "tf_keras": tf_keras, "numpy": np, "safetensors": safetensors,
            "ReuseMultiHeadAttention": ReuseMultiHeadAttention, **more}


@pytest.mark.parametrize("word,path", [("SavedModel", "saved"), ("`.keras`", "mine.keras"),
                                       ("`.h5` (a model)", "mine.h5")])
def test_a_whole_model(word, path):
    trained(functional()).save(path)
    scope = names(path=path)
    exec(line(word), scope)
    check(scope["model"].get_layer("mine"))


@pytest.mark.parametrize("word,path", [("`.weights.h5`", "mine.weights.h5"), ("`.h5` (weights)", "mine.h5"),
                                       ("checkpoint by Keras", "ckpt")])
def test_weights_of_a_model(word, path):
    trained(functional()).save_weights(path)
    scope = names(path=path, model=functional())
    exec(line(word), scope)
    check(scope["model"].get_layer("mine"))


def test_a_checkpoint():
    model = trained(functional())
    path = tf.train.Checkpoint(model=model).write("ckpt")
    scope = names(path=path, model=functional())
    exec(line("`tf.train.Checkpoint`"), scope)
    np.testing.assert_array_equal(scope["model"].get_weights()[0], model.get_weights()[0])
    check(scope["model"].get_layer("mine"))


def test_npz():
    model = trained(functional())
    np.savez("mine.npz", *model.get_layer("mine").get_weights())
    layer = functional().get_layer("mine")
    exec(line("`.npz`"), names(path="mine.npz", layer=layer))
    np.testing.assert_array_equal(layer.get_weights()[3], model.get_weights()[3])
    check(layer)


def _bert_attention(state, x, heads):
    """The attention of BERT in NumPy, with the matrices as PyTorch keeps them."""
    def linear(name, y):
        return y @ state[f"encoder.layer.0.attention.{name}.weight"].T + \
            state[f"encoder.layer.0.attention.{name}.bias"]

    def split(y):
        return y.reshape(*y.shape[:2], heads, -1).transpose(0, 2, 1, 3)

    q, k, v = (split(linear("self." + name, x)) for name in ("query", "key", "value"))
    logits = q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    context = (weights @ v).transpose(0, 2, 1, 3).reshape(x.shape)
    return linear("output.dense", context)


def test_the_attention_of_bert_from_hugging_face():
    rng, width = np.random.default_rng(4), 48
    state = {}
    for name in ("self.query", "self.key", "self.value", "output.dense"):
        prefix = f"encoder.layer.0.attention.{name}."
        state[prefix + "weight"] = rng.normal(0, 0.2, (width, width)).astype(np.float32)
        state[prefix + "bias"] = rng.normal(0, 0.2, width).astype(np.float32)
    safetensors.numpy.save_file(state, "model.safetensors")
    scope = names(path="model.safetensors")
    exec(line("Hugging Face"), scope)
    exec(EXPORT_BERT, scope)
    x = numbers(2, 5, width)
    got = ask("bert0", {"query": x})["attention_output"]
    np.testing.assert_allclose(got, _bert_attention(state, x, 12), atol=1e-5)
