"""Model directories as people make them, mistakes in them included; models replaced at work."""

import json
import os
import pathlib
import shutil
import stat
import subprocess
import tempfile
import threading

import attnd
from attnd import BUILD, GOLDEN, Asking, Daemon, ModelDirectory
from tensors import Tensor, golden, oip, read_oip, read_safetensors, write_safetensors

NAME = "self_attention"
CONFIG = json.loads((GOLDEN / NAME / "layer.json").read_text())
WEIGHTS = (GOLDEN / NAME / "weights.safetensors").read_bytes()


def _check(directory):
    """--check of one model: exit status, and all that it said."""
    done = subprocess.run(
        [BUILD / "attnd", "--check", "--log-level", "error", "--model", f"m={directory}"],
        capture_output=True, text=True, timeout=60, check=False,
    )
    return done.returncode, done.stdout + done.stderr


def _refused(rows):
    """A row is a name, files by name (None: the file is left out), a word of the sentence."""
    wrong = []
    with ModelDirectory() as models:
        for number, (what, files, word) in enumerate(rows):
            target = models.copy(NAME, f"m{number}")
            for file, content in files.items():
                (target / file).unlink(missing_ok=True)
                if content is not None:
                    text = content if isinstance(content, bytes) else json.dumps(content).encode()
                    (target / file).write_bytes(text)
            status, text = _check(target)
            if status not in (1, 2) or word not in text:
                wrong.append(f"{what}: exit status {status}, {text[:200]!r}, wanted {word!r}")
    assert not wrong, f"{len(wrong)} of {len(rows)}\n          " + "\n          ".join(wrong)
    return f"{len(rows)} refusals"


def _config(**changes):
    return {"layer.json": {**CONFIG, **changes}}


def test_arguments_out_of_range_are_refused_by_their_names():
    return _refused([
        (f"{name}={value!r}", _config(**{name: value}), name)
        for name, value in [
            ("num_heads", 0), ("num_heads", -1), ("num_heads", 2**40), ("num_heads", "x"),
            ("num_heads", 3.5), ("num_heads", None), ("key_dim", 0), ("key_dim", -4),
            ("key_dim", 2**62), ("value_dim", -1), ("dropout", -0.1), ("dropout", "x"),
            ("reuse_attention", -2), ("reuse_attention", "all"), ("use_bias", "yes"),
            ("output_shape", [0, 3]), ("output_shape", [2**40, 2**40]), ("output_shape", "x"),
            ("attention_axes", "x"), ("attention_axes", [1.5]), ("attention_axes", [True]),
            ("attention_axes", []), ("kernel_initializer", "no_such_initializer"),
            ("kernel_initializer", 3), ("kernel_regularizer", {"class_name": "L9", "config": {}}),
            ("dtype", "float8"), ("dtype", 3),
        ]
    ])


def test_every_missing_or_misshapen_weight_is_named():
    tensors = read_safetensors(WEIGHTS)[0]
    rows = []
    for name, tensor in tensors.items():
        without = {n: t for n, t in tensors.items() if n != name}
        rows.append((f"no {name}", {"weights.safetensors": write_safetensors(without)}, name))
        small = {**tensors, name: Tensor("FP32", [1], [0.0])}
        rows.append((f"small {name}", {"weights.safetensors": write_safetensors(small)}, name))
    name = next(iter(tensors))
    whole = {**tensors, name: Tensor("INT32", tensors[name].shape, [0] * len(tensors[name].values))}
    rows.append(("integers", {"weights.safetensors": write_safetensors(whole)}, name))
    return _refused(rows)


def test_a_weight_file_cut_anywhere_is_refused():
    return _refused([
        (f"{length} bytes", {"weights.safetensors": WEIGHTS[:length]}, "m")
        for length in (0, 1, 7, 8, 9, 100, 500, len(WEIGHTS) // 2, len(WEIGHTS) - 1)
    ])


def test_what_is_no_configuration_is_refused():
    return _refused([
        (repr(text[:20]), {"layer.json": text}, "m")
        for text in (b"", b"[]", b"3", b"{", b"null", b"[" * 100000, b"\xff\xfe", b"x" * 100,
                     b'{"class_name": "Dense", "config": {}}')
    ])


def test_no_weights_or_two_weight_files_are_refused_by_name():
    two = {"weights.safetensors": None, "one.safetensors": WEIGHTS, "another.safetensors": WEIGHTS}
    return _refused([
        ("none", {"weights.safetensors": None}, "weights"),
        ("two", two, "another.safetensors"),
        ("two", two, "one.safetensors"),
    ])


def test_paths_that_leave_the_directory_are_refused():
    with ModelDirectory() as models:
        outside = models.path / "outside.safetensors"
        outside.write_bytes(WEIGHTS)
        for number, path in enumerate(("../outside.safetensors", str(outside),
                                       "x/../../outside.safetensors")):
            target = models.copy(NAME, f"m{number}", only=("layer.json",))
            (target / "model.json").write_text(json.dumps({"weights": path}))
            status, text = _check(target)
            assert status in (1, 2), f"{path}: {text}"
        target = models.copy(NAME, "linked", only=("layer.json",))
        os.symlink("../outside.safetensors", target / "weights.safetensors")
        status, text = _check(target)
        assert status in (1, 2), f"a link out of the directory: {text}"


def test_wrapped_configurations_and_default_outputs_are_read():
    wrapped = {"class_name": "ReuseMultiHeadAttention", "config": CONFIG}
    case = golden(NAME)
    with ModelDirectory() as models:
        (models.copy(NAME, "wrapped") / "layer.json").write_text(json.dumps(wrapped))
        settings = models.copy(NAME, "settings", only=("weights.safetensors",))
        (settings / "model.json").write_text(json.dumps(wrapped))
        settings = models.copy(NAME, "scoreless")
        (settings / "model.json").write_text(json.dumps({"outputs": ["attention_output"]}))
        with Daemon(models=(models.path,)) as daemon:
            for name in ("wrapped", "settings", "scoreless"):
                reply = daemon.post(f"/v2/models/{name}/infer", *oip(case.inputs, binary=True))
                outputs = read_oip(reply)[0]
                names = ["attention_output"] if name == "scoreless" else None
                case.check(outputs, names)
                assert len(outputs) == (1 if names else 2), (name, list(outputs))


def test_a_model_replaced_while_it_is_asked_always_answers(daemon):
    case, wrong, stop = golden("one_head"), [], threading.Event()

    question = attnd.post("/v2/models/one_head/infer", *oip(case.inputs, binary=True))

    def ask():
        while not stop.is_set():
            try:
                for reply in daemon.ask_all([question] * 20):
                    case.check(read_oip(reply)[0])
            except AssertionError as error:
                wrong.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        load = attnd.post("/v2/repository/models/one_head/load")
        for reply in daemon.ask_all([load] * 30):
            assert reply.status == 200, reply.body
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong, wrong[:2]


def test_a_unix_socket_is_for_its_owner_alone_and_removed_at_the_end():
    directory = tempfile.mkdtemp(prefix="attnd-socket-")
    path = pathlib.Path(directory) / "s"
    try:
        with Daemon("--unix", str(path)) as daemon:
            daemon.get("/v2/health/live")
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, oct(path.stat().st_mode)
            local = (f'unix-socket = "{path}"',)
            with Asking("http://localhost", [attnd.get("/v2/health/ready")], options=local) as asking:
                assert asking.replies()[0].json() == {"live": True, "ready": True}
            probe = subprocess.run([BUILD / "attnd", "--probe", f"unix:{path}"], check=False)
            assert probe.returncode == 0
            assert any(line.startswith(f"attnd: ready on unix:{path}") for line in daemon.log)
        assert not path.exists()
    finally:
        shutil.rmtree(directory)
