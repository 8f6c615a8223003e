"""Layers as people export them from Keras: weights under Keras' names, configurations as Python
writes them. The same call has to give the answer that the plain files give."""

import json

from attnd import GOLDEN, Daemon, ModelDirectory
from tensors import Tensor, golden, oip, read_oip, read_safetensors, write_safetensors

TABLE = "relative_position_embeddings"
CASES = ("self_attention", "relative_pe_reuse", "reuse_all", "reuse_some", "output_shape_list")


def _weights(case, rename):
    tensors, _ = read_safetensors((GOLDEN / case / "weights.safetensors").read_bytes())
    return write_safetensors({rename(name): tensor for name, tensor in tensors.items()})


def _ask(daemon, name, case):
    reply = daemon.post(f"/v2/models/{name}/infer", *oip(case.inputs, binary=True))
    return case.check(read_oip(reply)[0])


def _keras(scope, table_scope):
    return lambda name: f"{table_scope if name == TABLE else scope}{name}:0"


def test_weights_under_the_names_of_keras_give_the_layers_answers():
    namings = {
        "alone": _keras("attn/", ""),
        "nested": _keras("model/block_3/self_attention/", "model/block_3/"),
        "beside": _keras("attn/", "other/scope/"),
        "none": _keras("", ""),
        "paths": lambda name: f"functional/attn/{name}",
    }
    with ModelDirectory() as models:
        for case in CASES:
            for what, rename in namings.items():
                target = models.copy(case, f"{case}-{what}", only=("layer.json",))
                (target / "w.safetensors").write_bytes(_weights(case, rename))
        with Daemon(models=(models.path,)) as daemon:
            for case in CASES:
                for what in namings:
                    _ask(daemon, f"{case}-{what}", golden(case))
    return f"{len(CASES)} layers, {len(namings)} spellings"


def test_two_layers_in_a_file_are_listed_and_a_prefix_chooses():
    case = "relative_pe_reuse"
    tensors, _ = read_safetensors((GOLDEN / case / "weights.safetensors").read_bytes())
    other = {n: Tensor(t.datatype, t.shape, [7.0] * len(t.values)) for n, t in tensors.items()}
    both = {f"m/attn/{n}:0".replace(f"attn/{TABLE}", TABLE): t for n, t in tensors.items()}
    both |= {f"n/attn_1/{n}:0".replace(f"attn_1/{TABLE}", TABLE): t for n, t in other.items()}
    with ModelDirectory() as models:
        for name, prefix in (("ambiguous", None), ("chosen", "m/attn"), ("slash", "m/attn/")):
            target = models.copy(case, name, only=("layer.json",))
            (target / "weights.safetensors").write_bytes(write_safetensors(both))
            if prefix:
                (target / "model.json").write_text(json.dumps({"prefix": prefix}))
        with Daemon("--allow-control", models=(models.path,)) as daemon:
            _ask(daemon, "chosen", golden(case))
            _ask(daemon, "slash", golden(case))
            reply = daemon.post("/v2/repository/models/ambiguous/load")
            sentence = reply.error()
            assert reply.status == 400, reply.status
            for part in (f"m/{TABLE}:0", f"n/{TABLE}:0", "prefix"):
                assert part in sentence, sentence


def test_a_missing_weight_comes_with_the_nearest_names():
    with ModelDirectory() as models:
        target = models.copy("self_attention", "m", only=("layer.json",))
        rename = {"query/kernel": "attn/querry/kernel:0"}
        weights = _weights("self_attention", lambda name: rename.get(name, f"attn/{name}:0"))
        (target / "weights.safetensors").write_bytes(weights)
        with Daemon("--allow-control", models=(models.path,)) as daemon:
            sentence = daemon.post("/v2/repository/models/m/load").error()
    assert "weight query/kernel is missing" in sentence, sentence
    assert "are attn/querry/kernel:0," in sentence, sentence
