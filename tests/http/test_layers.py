"""Layers as people export them from Keras: weights under Keras' names, configurations as Python
writes them. The same call has to give the answer that the plain files give."""

import base64
import ctypes
import json
import os
import subprocess

from attnd import BUILD, GOLDEN, Daemon, ModelDirectory
from tensors import Tensor, golden, oip, read_oip, read_safetensors, write_safetensors

_libc = ctypes.CDLL(None, use_errno=True)
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


# ---- configurations ----------------------------------------------------------------------------

SHAPES = ("query_shape", "key_shape", "value_shape")


def _config(case):
    return json.loads((GOLDEN / case / "layer.json").read_text())


def _changed(change):
    """A spelling that changes some values of the configuration."""
    return lambda config: {**config, **{k: v for k, v in change(config).items() if k in config}}


def _as_text(shape):
    """str() of a TensorShape."""
    inner = ", ".join("None" if size is None else str(size) for size in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"


def _shapes(make):
    return _changed(lambda config: {k: config[k] and make(config[k]) for k in SHAPES})


def _saved_model(config):
    """As SavedModel's metadata has it: tuples and shapes as objects, initializers without module."""
    shape = _shapes(lambda items: {"class_name": "TensorShape", "items": items})(config)
    axes = config["attention_axes"]
    shape["attention_axes"] = axes and {"class_name": "__tuple__", "items": axes}
    shape["kernel_initializer"] = {"class_name": "GlorotUniform", "config": {"seed": None},
                                   "shared_object_id": 1}
    return {"class_name": "ReuseMultiHeadAttention", "name": config["name"], "trainable": True,
            "expects_training_arg": True, "batch_input_shape": None, "autocast": True,
            "config": shape, "shared_object_id": 3, "build_input_shape": None}


def _serialized(config):
    return {"module": "official.nlp.modeling.layers.reuse_attention", "config": config,
            "class_name": "ReuseMultiHeadAttention", "registered_name": "ReuseMultiHeadAttention",
            "build_config": {"input_shape": config["query_shape"]}, "name": config["name"],
            "inbound_nodes": [[["q", 0, 0, {"value": ["q", 0, 0]}]]]}


def _model(*layers):
    entry = {"module": "keras.layers", "class_name": "InputLayer",
             "config": {"batch_input_shape": [None, 5, 4], "dtype": "float32", "name": "q"},
             "registered_name": None, "name": "q", "inbound_nodes": []}
    return {"class_name": "Functional", "keras_version": "2.21.0", "backend": "tensorflow",
            "config": {"name": "model", "trainable": True, "layers": [entry, *layers],
                       "input_layers": [["q", 0, 0]], "output_layers": []}}


SPELLINGS = {
    "str": _shapes(_as_text),
    "repr": _shapes(lambda shape: f"TensorShape([{_as_text(shape)[1:-1].rstrip(',')}])"),
    "list": _shapes(lambda shape: f"[{_as_text(shape)[1:-1].rstrip(',')}]"),
    "wrapped-lists": _changed(lambda c: {
        "attention_axes": c["attention_axes"] and f"ListWrapper({c['attention_axes']})"}),
    "numpy": _changed(lambda c: {"num_heads": str(c["num_heads"]), "key_dim": str(c["key_dim"])}),
    "bits": _changed(lambda c: {"use_bias": int(c["use_bias"]),
                                "use_relative_pe": int(c["use_relative_pe"])}),
    "base-layer": lambda c: {**c, "batch_input_shape": c["query_shape"]},
    "typed-initializer": lambda c: {**c, "kernel_initializer": {
        "class_name": "GlorotUniform", "config": {"seed": None, "dtype": "float32"}}},
    "bounds": lambda c: {**c, "kernel_constraint": {
        "class_name": "MaxNorm", "config": {"max_value": float("inf"), "axis": 0}}},
    "saved-model": _saved_model,
    "serialized": _serialized,
    "to-json": lambda c: _model(_serialized(c)),
    "nested": lambda c: _model(_model(_model(_serialized(c)))),
    "sequential": lambda c: {"class_name": "Sequential", "config": [_serialized(c)]},
}


def test_configurations_as_python_writes_them_are_the_layers():
    with ModelDirectory() as models:
        for case in CASES:
            for what, spell in SPELLINGS.items():
                target = models.copy(case, f"{case}-{what}", only=("weights.safetensors",))
                text = json.dumps(spell(_config(case)))
                (target / "layer.json").write_text("\ufeff" + text, encoding="utf-8")
        with Daemon(models=(models.path,)) as daemon:
            for case in CASES:
                for what in SPELLINGS:
                    name = f"{case}-{what}"
                    _ask(daemon, name, golden(case))
                    got = daemon.get(f"/v2/models/{name}/config").json()["layer"]
                    extra = {"batch_input_shape", "kernel_constraint"}
                    wanted = _config(case)
                    assert {k: v for k, v in got.items() if k not in extra} == {
                        k: v for k, v in wanted.items() if k not in extra}, (name, got)
    return f"{len(CASES)} layers, {len(SPELLINGS)} spellings"


WEIGHTS = (GOLDEN / "self_attention" / "weights.safetensors").read_bytes()


def _load(daemon, config, **files):
    """Uploads a model: its configuration, its weights, other files by the stems of their names."""
    parameters = {"config": json.dumps(config)}
    for name, content in ({"weights.safetensors": WEIGHTS} | files).items():
        if not isinstance(content, bytes):
            name, content = f"{name}.json", json.dumps(content).encode()
        parameters[f"file:1/{name}"] = base64.b64encode(content).decode()
    return daemon.post("/v2/repository/models/uploaded/load", {"parameters": parameters})


def _refused(reply, status, *parts):
    sentence = reply.error()
    assert reply.status == status, (reply.status, sentence)
    for part in parts:
        assert part in sentence, sentence


def test_a_layer_of_several_is_chosen_by_name():
    first, second = ({**_config("self_attention"), "name": name} for name in ("first", "second"))
    document = _model(_serialized(first), {**_model(_serialized(second)), "name": "inner"})
    with Daemon("--allow-control", models=()) as daemon:
        _refused(_load(daemon, document), 400, "first, model/second", '"layer"')
        for layer in ("first", "second", "model/second"):
            for reply in (_load(daemon, document, model={"layer": layer}),
                          _load(daemon, {"layer": layer}, layer=document),
                          _load(daemon, {"layer": layer, **document_keys(document)})):
                assert reply.status == 200, reply.body
                _ask(daemon, "uploaded", golden("self_attention"))
                got = daemon.get("/v2/models/uploaded/config").json()["layer"]["name"]
                assert got == layer.split("/")[-1], got
        _refused(_load(daemon, document, model={"layer": "third"}), 400, "third", "first, model/")
        _refused(_load(daemon, first, model={"layer": "second"}), 400, "second", "first")


def document_keys(document):
    """What model.json may hold of a document of Keras, beside its settings."""
    return {key: document[key] for key in ("class_name", "config")}


def test_blocks_and_wrapped_layers_are_refused_by_name():
    layer = _serialized(_config("self_attention"))
    wrapped = {"class_name": "TimeDistributed", "config": {"name": "w", "layer": layer}}
    block = {"class_name": "ReuseTransformer", "config": {"name": "block", "inner_dim": 8,
                                                          "num_attention_heads": 2}}
    name = _config("self_attention")["name"]
    with Daemon("--allow-control", models=()) as daemon:
        for document, parts in [
            (wrapped, ("TimeDistributed", name)),
            (_model(wrapped), ("TimeDistributed", name)),
            (block, ("block", "ReuseTransformer", "_attention_layer")),
            (block["config"], ("block", "ReuseTransformer", "_attention_layer")),
            (_model(block), ("ReuseTransformer", "_attention_layer")),
            (_model(), ("ReuseMultiHeadAttention",)),
        ]:
            _refused(_load(daemon, document), 501, *parts)
            _refused(_load(daemon, {}, layer=document), 501, *parts)


# ---- files -------------------------------------------------------------------------------------


def _with_header(change, data=b""):
    """The weights with a header changed, and data behind theirs."""
    length = int.from_bytes(WEIGHTS[:8], "little")
    header = change(json.loads(WEIGHTS[8:8 + length]), len(WEIGHTS) - 8 - length)
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + WEIGHTS[8 + length:] + data


def _foreign(name, kind, size):
    """A tensor of a type that nothing here reads, of `size` bytes and four elements."""
    return lambda header, at: {**header, name: {"dtype": kind, "shape": [4],
                                                "data_offsets": [at, at + size]}}


def _foreign_kernel(kind, size):
    """The kernel's own bytes belong to a tensor of another scope then."""
    change = _foreign("query/kernel", kind, size)
    return lambda header, at: {"b/c/d": header["query/kernel"], **change(header, at)}


def test_safetensors_are_read_as_the_reference_library_reads_them():
    types = {"F4": 2, "F6_E2M3": 3, "F6_E3M2": 3, "F8_E4M3": 4, "F8_E5M2": 4, "F8_E8M0": 4,
             "F8_E4M3FNUZ": 4, "F8_E5M2FNUZ": 4, "C64": 32}
    files = {kind: _with_header(_foreign("scale", kind, size), b"x" * size)
             for kind, size in types.items()}
    files["no metadata"] = _with_header(lambda header, _: {"__metadata__": None, **header})
    files["white space"] = _with_header(lambda h, _: b" \t\r\n" + json.dumps(h).encode() + b" \n")
    with Daemon("--allow-control", models=()) as daemon:
        config = _config("self_attention")
        for what, content in files.items():
            reply = _load(daemon, config, **{"weights.safetensors": content})
            assert reply.status == 200, (what, reply.body)
            _ask(daemon, "uploaded", golden("self_attention"))
        for kind, size in types.items():
            content = _with_header(_foreign_kernel(kind, size), b"x" * size)
            reply = _load(daemon, config, **{"weights.safetensors": content})
            _refused(reply, 400, "query/kernel", kind)
        reply = daemon.post("/v2/models/uploaded/infer",
                            _with_header(_foreign("query", "F8_E4M3", 4), b"x" * 4),
                            {"Content-Type": "application/safetensors"})
        assert reply.status == 400, reply.body
    return f"{len(files)} files"


def test_what_is_no_weight_file_is_called_what_it_is():
    index = json.dumps({"weight_map": {"query/kernel": "model-1.safetensors"}}).encode()
    with Daemon("--allow-control", models=()) as daemon:
        for content, part in [
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "Git LFS"),
            (b"<!DOCTYPE html><html><title>Not found</title></html>", "HTML"),
            (index, "index"), (b"", "empty"), (b"PK\x03\x04" + bytes(20), "ZIP"),
        ]:
            reply = _load(daemon, _config("self_attention"), **{"weights.safetensors": content})
            _refused(reply, 400, "weights.safetensors", part)


def _without_rights_over_files():
    """The superuser reads whatever the mode says, but not without these capabilities."""
    if os.geteuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            assert _libc.prctl(24, capability, 0, 0, 0) == 0  # PR_CAPBSET_DROP


def test_a_file_that_may_not_be_read_is_said_with_its_path_to_the_operator_alone():
    with ModelDirectory() as models:
        target = models.copy("self_attention", "m")
        weights = target / "weights.safetensors"
        weights.chmod(0)
        with Daemon("--allow-control", "--model", f"m={target}", models=(),
                    before_start=_without_rights_over_files) as daemon:
            sentences = [daemon.post("/v2/repository/models/m/load").error(),
                         daemon.post("/v2/repository/index").body.decode()]
            for sentence in sentences:
                assert "weights.safetensors is there, but the server has no right" in sentence
                for secret in (str(models.path), "errno", "0000", "missing"):
                    assert secret not in sentence, sentence
            weights.chmod(0o644)
            assert daemon.post("/v2/repository/models/m/load").status == 200
            _ask(daemon, "m", golden("self_attention"))
            weights.chmod(0)
            check = subprocess.run([BUILD / "attnd", "--check", "--model", f"m={target}"], check=False,
                                   capture_output=True, text=True, timeout=60,
                                   preexec_fn=_without_rights_over_files)
            assert check.returncode != 0 and f"{weights}: Permission denied" in check.stdout, check
        log = "".join(daemon.log)
        for part in (str(weights), "errno 13", "mode 0000"):
            assert log.count(part) == 2, (part, log)  # at the start, and at the load
