"""The work that every engine and every server is given: one BERT-base sized layer.

Width 768, 12 heads of 64, self-attention, all biases, random weights from a fixed seed; an
additive key mask that hides the last key of each sequence (one key only, so that an engine which
skips hidden keys gains nothing by it). Needs numpy alone. Times nothing, starts nothing.
"""

import json
import os
import struct

import numpy as np

WIDTH, HEADS, HEAD_DIM = 768, 12, 64
POSITIONS = 2048  # pe_max_seq_length: reaches over the longest case
REUSED = (0, 6, 12)
MAX_ROWS = 2048  # B * T of the largest case


def _glorot(rng, *shape):
    """Scaled for unit variance of query times key, as a trained layer has it."""
    return (rng.standard_normal(shape) * WIDTH**-0.5).astype(np.float32)


def weights():
    """All weights of the layer that reuses nothing, under the names of the weight file."""
    rng = np.random.default_rng(20)
    w = {}
    for name in ("query", "key", "value_new"):
        w[name + "/kernel"] = _glorot(rng, WIDTH, HEADS, HEAD_DIM)
        w[name + "/bias"] = (0.02 * rng.standard_normal((HEADS, HEAD_DIM))).astype(np.float32)
    w["attention_output_new/kernel"] = _glorot(rng, HEADS, HEAD_DIM, WIDTH)
    w["attention_output_new/bias"] = (0.02 * rng.standard_normal(WIDTH)).astype(np.float32)
    w["relative_position_embeddings"] = np.clip(
        0.2 * rng.standard_normal((1, HEADS, 2 * POSITIONS - 1)), -0.4, 0.4
    ).astype(np.float32)
    return w


def weights_reusing(reused, positions=True):
    """The same weights arranged for a layer that reuses the scores of its last `reused` heads:
    the first HEADS - reused heads are new. Only the one output bias moves to the reused part."""
    w, new = weights(), HEADS - reused
    out = {}
    if reused < HEADS:
        if positions:
            out["relative_position_embeddings"] = w["relative_position_embeddings"][:, :new].copy()
        for name in ("query", "key", "value_new"):
            out[name + "/kernel"] = w[name + "/kernel"][:, :new].copy()
            out[name + "/bias"] = w[name + "/bias"][:new].copy()
        out["attention_output_new/kernel"] = w["attention_output_new/kernel"][:new].copy()
        if reused == 0:
            out["attention_output_new/bias"] = w["attention_output_new/bias"]
    if reused > 0:
        out["value_reuse/kernel"] = w["value_new/kernel"][:, new:].copy()
        out["value_reuse/bias"] = w["value_new/bias"][new:].copy()
        out["attention_output_reuse/kernel"] = w["attention_output_new/kernel"][new:].copy()
        out["attention_output_reuse/bias"] = w["attention_output_new/bias"]
    return out


def layer_config(reused=0, positions=True):
    """What layer.get_config() writes for it (the entries that differ from the defaults)."""
    return {
        "name": "bench",
        "trainable": True,
        "dtype": "float32",
        "num_heads": HEADS,
        "key_dim": HEAD_DIM,
        "value_dim": HEAD_DIM,
        "dropout": 0.0,
        "use_bias": True,
        "output_shape": None,
        "attention_axes": [1],
        "reuse_attention": reused,
        "use_relative_pe": positions and reused < HEADS,
        "pe_max_seq_length": POSITIONS,
        "kernel_initializer": {"class_name": "GlorotUniform", "config": {"seed": None}},
        "bias_initializer": {"class_name": "Zeros", "config": {}},
        "kernel_regularizer": None,
        "bias_regularizer": None,
        "activity_regularizer": None,
        "kernel_constraint": None,
        "bias_constraint": None,
        "query_shape": [None, None, WIDTH],
        "key_shape": [None, None, WIDTH],
        "value_shape": [None, None, WIDTH],
    }


def inputs():
    """[MAX_ROWS, WIDTH]; a case of B times T uses the first B * T rows."""
    return np.random.default_rng(7).standard_normal((MAX_ROWS, WIDTH)).astype(np.float32)


def query(rows, batch, length):
    return np.ascontiguousarray(rows[: batch * length]).reshape(batch, length, WIDTH)


def additive_mask(batch, length):
    """[B, 1, 1, S]: 0, and -1e9 for the last key."""
    mask = np.zeros((batch, 1, 1, length), np.float32)
    mask[..., -1] = -1e9
    return mask


def reference(x, reused=0, positions=True, mask=True):
    """The layer in float64, one formula a line: (output [B,T,E], scores [B,N,T,S])."""
    w = {
        name: value.astype(np.float64) for name, value in weights_reusing(reused, positions).items()
    }
    x = x.astype(np.float64)
    batch, length, _ = x.shape
    out, scores = 0.0, []
    if reused < HEADS:
        q, k, v = (
            np.einsum("btc,cnh->bnth", x, w[name + "/kernel"]) + w[name + "/bias"][:, None]
            for name in ("query", "key", "value_new")
        )
        logits = q @ k.swapaxes(-1, -2) / HEAD_DIM**0.5
        if positions:
            distance = np.arange(length)[None, :] - np.arange(length)[:, None] + POSITIONS - 1
            logits += w["relative_position_embeddings"][:, :, distance]
        if mask:
            logits += additive_mask(batch, length)
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        scores.append(p)
        out = np.einsum("bnth,nhe->bte", p @ v, w["attention_output_new/kernel"])
        out = out + w.get("attention_output_new/bias", 0.0)
    if reused > 0:
        p = np.full((batch, reused, length, length), 1.0 / length)
        v = np.einsum("btc,cnh->bnth", x, w["value_reuse/kernel"]) + w["value_reuse/bias"][:, None]
        scores.append(p)
        out = out + np.einsum("bnth,nhe->bte", p @ v, w["attention_output_reuse/kernel"])
        out = out + w["attention_output_reuse/bias"]
    return out, np.concatenate(scores, 1)


def safetensors(tensors):
    """The bytes of a safetensors file of float32 arrays."""
    header, offset = {}, 0
    for name, array in tensors.items():
        end = offset + array.nbytes
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(np.ascontiguousarray(a, "<f4").tobytes() for a in tensors.values())
    return struct.pack("<Q", len(text)) + text + data


def write_directory(path, positions=True):
    """What engine_turns reads: input.f32, r0.safetensors, r6.safetensors, r12.safetensors."""
    os.makedirs(path, exist_ok=True)
    inputs().tofile(os.path.join(path, "input.f32"))
    for reused in REUSED:
        with open(os.path.join(path, f"r{reused}.safetensors"), "wb") as file:
            file.write(safetensors(weights_reusing(reused, positions)))


def write_model(path, reused=0, positions=False):
    """A model directory that the daemon serves."""
    os.makedirs(path, exist_ok=True)
    with open(os.path.join(path, "layer.json"), "w") as file:
        json.dump(layer_config(reused, positions), file)
    with open(os.path.join(path, "weights.safetensors"), "wb") as file:
        file.write(safetensors(weights_reusing(reused, positions)))
