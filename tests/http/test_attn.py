"""attn, the command-line client, and with it the client library: every command, what it prints and
writes, what it says of wrong usage, of a server's refusals, and of servers that misbehave."""

import base64
import json
import os
import pathlib
import re
import socket
import subprocess
import tempfile
import threading
import time

from attnd import BUILD, BUNDLED, GOLDEN, ROOT, Daemon, ModelDirectory
from tensors import MANIFEST, Tensor, golden, read_safetensors, write_safetensors

COMMANDS = ["models", "infer", "load", "unload", "bench", "inspect", "convert"]
NAME = "reuse_some"
CALL = str(GOLDEN / NAME / "call.safetensors")


def _attn(*arguments):
    """Exit status, standard output, standard error."""
    done = subprocess.run([BUILD / "attn", *map(str, arguments)], capture_output=True, text=True,
                          timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


def _done(*arguments):
    status, output, errors = _attn(*arguments)
    assert status == 0, f"{arguments}: exit status {status}: {errors}"
    return output


def _failed(*arguments, word, status=1):
    """The one line that says why."""
    got, output, errors = _attn(*arguments)
    assert got == status, f"{arguments}: exit status {got}, {output!r}, {errors!r}"
    assert output == "" and errors.startswith("attn: ") and errors.count("\n") == 1, (output, errors)
    assert word in errors, f"{arguments}: {errors!r}, wanted {word!r}"
    return errors


class Scratch(tempfile.TemporaryDirectory):
    """A directory for what a command writes, as a path."""

    def __init__(self):
        super().__init__(prefix="attnd-attn-")

    def __enter__(self):
        return pathlib.Path(super().__enter__())


# ---- the program -----------------------------------------------------------------------------


def test_help_names_every_command_and_each_has_its_own():
    for arguments in (("--help",), ("help",)):
        text = _done(*arguments)
        assert all(f"\n  {command} " in text for command in COMMANDS), text
    for command in COMMANDS:
        text = _done(command, "--help")
        assert text.startswith(f"usage: attn {command} "), text
        usage, _, more = text.partition("\n\n")
        assert more.strip(), f"attn --help promises that {usage!r} says more"
        unexplained = [word for word in re.findall(r"--[a-z-]+|[A-Z]{3,}", usage) if word not in more]
        assert not unexplained, f"{command}: nothing is said of {unexplained}"
    status, output, errors = _attn()
    assert status == 2 and not output and errors.startswith("usage: attn "), errors


def test_the_version_has_the_revision_of_the_daemon():
    text = _done("--version")
    version, revision = re.fullmatch(r"attn (\d+\.\d+\.\d+) \(revision (\S+)\)\n", text).groups()
    daemon = subprocess.run([BUILD / "attnd", "--version"], capture_output=True, text=True,
                            timeout=60, check=True)
    assert daemon.stdout == f"attnd {version} (revision {revision})\n", daemon.stdout


def test_the_revision_is_that_of_git_or_unknown():
    """As make finds it: in this tree, and in a copy of the Makefile that is in no git."""
    def made(directory):
        script = "include Makefile\n.PHONY: say\nsay:\n\t@echo '$(REVISION)'\n"
        done = subprocess.run(["make", "-s", "-f", "-", "say"], input=script, cwd=directory,
                              capture_output=True, text=True, timeout=60, check=True,
                              env={**os.environ, "MAKEFLAGS": ""})
        return done.stdout.strip()

    with Scratch() as elsewhere:
        (elsewhere / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
        assert made(elsewhere) == "unknown"
    asked = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, text=True,
                           capture_output=True, timeout=60, check=False) if _has_git() else None
    wanted = asked.stdout.strip() if asked and asked.returncode == 0 else "unknown"
    assert made(ROOT) == wanted, wanted


def _has_git():
    return (ROOT / ".git").exists() and any(
        (pathlib.Path(part) / "git").exists() for part in os.environ["PATH"].split(":"))


def test_wrong_usage_is_status_2_and_named():
    rows = [
        (["bogus"], "bogus"), (["--bogus"], "--bogus"),
        (["models"], "missing"), (["models", "a", "b"], '"b"'), (["models", "a", "--no"], "--no"),
        (["infer", "a", "b"], "missing"), (["infer", "a", "b", "c", "d"], '"d"'),
        (["infer", "a", "b", "c", "-o"], "-o"), (["infer", "a", "b", "c", "--tolerance"], "needs"),
        (["infer", "a", "b", "c", "--tolerance", "much"], "--tolerance"),
        (["infer", "a", "b", "c", "--tolerance", "-1"], "--tolerance"),
        (["load", "a"], "missing"), (["unload", "a", "b", "--config", "x"], "--config"),
        (["bench", "a"], "missing"), (["bench", "a", "b", "--batch", "0"], "--batch"),
        (["bench", "a", "b", "--tokens", "x"], "--tokens"),
        (["bench", "a", "b", "--tokens", "1x"], "--tokens"),
        (["bench", "a", "b", "--clients", "257"], "--clients"),
        (["bench", "a", "b", "--seconds", "99999999999999999999"], "--seconds"),
        (["inspect"], "missing"), (["convert", "a"], "missing"),
    ]
    for arguments, word in rows:
        _failed(*arguments, word=word, status=2)
    return f"{len(rows)} rows"


def test_a_server_that_is_not_there_or_no_url_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    for rest in (["models"], ["load", "m"], ["unload", "m"], ["bench", "m"], ["infer", "m", CALL]):
        command, *others = rest
        _failed(command, url, *others, word="the request failed")
        _failed(command, "ftp://host", *others, word="ftp://host")
        _failed(command, "http://" + "x" * 600, *others, word="URL")
    _failed("models", "unix:/nonexistent/socket", word="the request failed")


# ---- against the daemon ----------------------------------------------------------------------


def test_models_are_listed_as_a_table_and_as_json(daemon):
    index = daemon.post("/v2/repository/index", b"{}")
    assert json.loads(_done("models", daemon.url, "--json")) == index.json()
    lines = _done("models", daemon.url + "/").splitlines()  # a slash at the end does no harm
    assert lines[0].split() == ["name", "version", "state", "reason"]
    names = [line.split()[0] for line in lines[1:]]
    assert names == [entry["name"] for entry in index.json()] and "minilm" in names


def test_a_broken_model_is_listed_with_its_reason():
    with ModelDirectory() as directory:
        directory.copy(NAME, "whole")
        (directory.copy(NAME, "broken") / "weights.safetensors").write_bytes(b"")
        with Daemon(models=(directory.path,)) as daemon:
            (line,) = [s for s in _done("models", daemon.url).splitlines() if s.startswith("broken")]
            assert "UNAVAILABLE" in line and len(line.split()) > 4, line


def test_every_golden_case_is_answered_and_saved(daemon):
    """The program compares with the call's expected/ tensors; what it saves is compared here."""
    with Scratch() as directory:
        for name in sorted(MANIFEST):
            call, output = GOLDEN / name / "call.safetensors", directory / f"{name}.safetensors"
            case = golden(name)
            text = _done("infer", daemon.url, name, call, "--scores", "-o", output,
                         "--tolerance", "1")
            tensors, _ = read_safetensors(output.read_bytes())
            case.check(tensors)
            assert sorted(tensors) == ["attention_output", "attention_scores"], sorted(tensors)
            assert text.count("worst difference") == 2, text
    return f"{len(MANIFEST)} cases"


def test_scores_are_asked_for_only_when_wanted_and_the_precision_may_be_named(daemon):
    call, _ = read_safetensors(pathlib.Path(CALL).read_bytes())
    del call["expected/attention_scores"]
    with Scratch() as directory:
        path = directory / "call.safetensors"
        path.write_bytes(write_safetensors(call))
        text = _done("infer", daemon.url, NAME, path)
        assert "attention_output" in text and "attention_scores" not in text, text
        assert "attention_scores" in _done("infer", daemon.url, NAME, path, "--scores")
    call = BUNDLED / "minilm" / "call.safetensors"
    _done("infer", daemon.url, "minilm", call, "--precision", "x3", "--scores")
    _done("infer", daemon.url, "minilm", call, "--precision", "bf16", "--tolerance", "0.5")
    _failed("infer", daemon.url, "minilm", call, "--precision", "f8", word="precision")


def test_an_answer_that_is_not_the_expected_one_is_status_1(daemon):
    call, _ = read_safetensors(pathlib.Path(CALL).read_bytes())
    wanted = call["expected/attention_output"]
    moved = Tensor("FP32", wanted.shape, [*list(wanted.values)[:-1], wanted.values[-1] + 0.5])
    other = Tensor("FP32", [1], [0.0])
    nothing = Tensor("FP32", wanted.shape, [float("nan")] * len(wanted.values))
    with Scratch() as directory:
        path = directory / "call.safetensors"
        for tensor, word in ((moved, "worst difference 0.5"), (other, "worst difference inf"),
                             (nothing, "worst difference inf")):
            path.write_bytes(write_safetensors({**call, "expected/attention_output": tensor}))
            status, output, errors = _attn("infer", daemon.url, NAME, path)
            assert status == 1 and word in output and not errors, (status, output, errors)
        assert _attn("infer", daemon.url, NAME, path, "--tolerance", "inf")[0] == 0
        unexpected = {n: t for n, t in call.items() if not n.startswith("expected/")}
        path.write_bytes(write_safetensors(unexpected))
        assert "difference" not in _done("infer", daemon.url, NAME, path)


def test_nothing_that_a_call_expects_is_left_uncompared(daemon):
    call, _ = read_safetensors(pathlib.Path(CALL).read_bytes())
    scores = call["expected/attention_scores"]
    moved = Tensor("FP32", scores.shape, [scores.values[0] + 0.5, *list(scores.values)[1:]])
    with Scratch() as directory:
        path = directory / "call.safetensors"
        path.write_bytes(write_safetensors({**call, "expected/attention_scores": moved}))
        status, output, errors = _attn("infer", daemon.url, NAME, path)
        assert status == 1 and not errors, "the scores were not asked for"
        assert "worst difference 0.5, more than the tolerance 0.001" in output, output
        assert output.count("more than") == 1, f"the output lies within it: {output}"
        path.write_bytes(write_safetensors({**call, "expected/output": scores}))
        status, output, errors = _attn("infer", daemon.url, NAME, path)
        assert status == 1 and not errors, (status, output, errors)
        assert "output is expected, and the answer has no such tensor" in output, output


def test_what_infer_cannot_read_send_or_write_is_said(daemon):
    call, _ = read_safetensors(pathlib.Path(CALL).read_bytes())
    with Scratch() as directory:
        path = directory / "call.safetensors"
        _failed("infer", daemon.url, NAME, path, word=str(path))
        path.write_bytes(b"nothing of the kind")
        _failed("infer", daemon.url, NAME, path, word="header")
        path.write_bytes(write_safetensors({f"i{i}": Tensor("FP32", [1], [0.0]) for i in range(17)}))
        _failed("infer", daemon.url, NAME, path, word="more than 16")
        path.write_bytes(write_safetensors({"queries": call["query"]}))
        _failed("infer", daemon.url, NAME, path, word="queries")
        status, _, errors = _attn("infer", daemon.url, NAME, CALL, "-o", directory / "no" / "where")
        assert status == 1 and "where" in errors, errors
    _failed("infer", daemon.url, "absent", CALL, word='404: model "absent"')
    _failed("infer", daemon.url, "", CALL, word="name")
    _failed("infer", daemon.url, "x" * 129, CALL, word="129 bytes")


def test_a_name_is_never_another_path(daemon):
    """Escaped, it is refused as a name; as it stands it would be the index or another route."""
    for name in ("../../health/live?", "a/b", "a#b", "..", "%2e%2e", "a\nb", "\u00e9"):
        for command in (["load", name], ["unload", name], ["infer", name, CALL], ["bench", name]):
            errors = _failed(command[0], daemon.url, *command[1:], word="the server answered 4")
            assert "name" in errors or "known" in errors, errors


def test_long_transfers_show_their_progress(daemon):
    query = Tensor("FP32", [24, 256, 384], [0.25] * (24 * 256 * 384))
    with Scratch() as directory:
        path = directory / "call.safetensors"
        path.write_bytes(write_safetensors({"query": query}))
        status, output, errors = _attn("infer", daemon.url, "minilm", path)
        assert status == 0 and "attention_output" in output, errors
        assert re.search(r"\d+ MB sent, \d+ MB received\n$", errors), errors


def test_models_are_unloaded_and_loaded():
    with Daemon("--allow-control") as daemon:
        assert _done("unload", daemon.url, NAME) == f"{NAME} unloaded\n"
        _failed("infer", daemon.url, NAME, CALL, word="the server answered")
        assert _done("load", daemon.url, NAME) == f"{NAME} loaded\n"
        _done("infer", daemon.url, NAME, CALL)
        _failed("load", daemon.url, "absent", word="absent")
        config = GOLDEN / NAME / "layer.json"
        _done("load", daemon.url, NAME, "--config", config)
        _done("infer", daemon.url, NAME, CALL)
        _failed("load", daemon.url, NAME, "--config", "/nonexistent", word="/nonexistent")
        _failed("load", daemon.url, NAME, "--config", GOLDEN, word="directory")
        with Scratch() as directory:
            path = directory / "layer.json"
            path.write_text(json.dumps({**json.loads(config.read_text()), "num_heads": 0}))
            _failed("load", daemon.url, NAME, "--config", path, word="num_heads")
            path.write_bytes(b'"\xff"')
            _failed("load", daemon.url, NAME, "--config", path, word="UTF-8")
            path.write_bytes(config.read_bytes() + b"\0")
            _failed("load", daemon.url, NAME, "--config", path, word="no text")
            path.write_bytes(b" " * (1 << 20))
            _failed("load", daemon.url, NAME, "--config", path, word="1 MB")
        _done("infer", daemon.url, NAME, CALL)
    with Daemon() as daemon:
        for command in ("load", "unload"):
            _failed(command, daemon.url, NAME, word="--allow-control")


def test_a_unix_socket_is_an_address_as_well():
    with Scratch() as directory:
        path = directory / "s"
        with Daemon("--unix", str(path)):
            _done("infer", f"unix:{path}", NAME, CALL)


# ---- bench -----------------------------------------------------------------------------------

SHORT = ("--seconds", "1", "--clients", "2")


def test_bench_measures_layers_of_every_kind_in_both_bodies(daemon):
    """Those that reuse scores get scores of the program's own, others the inputs they need."""
    before = _counts(daemon)
    names = ["self_attention", "reuse_some", "reuse_all", "reuse_distinct_key"]
    for name, more in zip(names, ((), ("--json-body",), ("--scores",), ("--json-body", "--scores"))):
        got = json.loads(_done("bench", daemon.url, name, "--tokens", "6", "--json", *more, *SHORT))
        assert (got["model"], got["batch"], got["tokens"], got["clients"]) == (name, 1, 6, 2), got
        assert got["body"] == ("json" if "--json-body" in more else "binary"), got
        assert got["scores"] is ("--scores" in more) and got["failed"] == 0, got
        served = _counts(daemon)[name] - before[name]
        # Each client's first one is served and not counted.
        assert got["requests"] == served - 2 and got["requests"] > 0, (got, served)
        assert 0 < got["p50_ms"] <= got["p90_ms"] <= got["p99_ms"] <= got["max_ms"], got
        assert got["server"]["compute_ms"] > 0, got
    text = _done("bench", daemon.url, "reuse_some", "--batch", "2", *SHORT)
    assert re.search(r"^  requests +\d+, 0 failed, ", text, re.M) and "latency ms" in text, text


def _counts(daemon):
    stats = daemon.get("/v2/models/stats").json()["model_stats"]
    return {s["name"]: s["inference_stats"]["success"]["count"] for s in stats}


def test_bench_ends_at_the_first_refusal_and_names_it():
    """Not after an hour: the run is ended by the refusal of what it would send again and again."""
    with Daemon("--max-body", "4096") as daemon:
        for body in ((), ("--json-body",)):
            _failed("bench", daemon.url, NAME, *body, "--seconds", "3600", word="answered 413")
    with Daemon("--allow-control") as daemon:
        arguments = [BUILD / "attn", "bench", daemon.url, NAME, "--seconds", "3600", "--clients", "2"]
        running = subprocess.Popen([*arguments, "--tokens", "4"], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        while _counts(daemon)[NAME] < 100:
            assert running.poll() is None, running.communicate()
        files = {"config": (GOLDEN / "one_token" / "layer.json").read_text()}
        weights = (GOLDEN / "one_token" / "weights.safetensors").read_bytes()
        files["file:1/weights.safetensors"] = base64.b64encode(weights).decode()
        other = {"parameters": files}  # another width: what was good is refused from now on
        assert daemon.post(f"/v2/repository/models/{NAME}/load", other).status == 200
        output, errors = running.communicate(timeout=60)
        assert running.returncode == 1 and output == "", (running.returncode, output)
        assert re.match(r"attn: the server answered 400: .*query", errors), errors


def test_bench_says_what_it_cannot_measure(daemon):
    _failed("bench", daemon.url, "axes_1_of_4d", word="axes_1_of_4d")
    _failed("bench", daemon.url, "absent", word="absent")
    _failed("bench", daemon.url, "minilm", "--batch", "65536", "--tokens", "1048576", word="large")


# ---- without a server ------------------------------------------------------------------------


def test_inspect_describes_a_models_weights():
    tensors, _ = read_safetensors((GOLDEN / NAME / "weights.safetensors").read_bytes())
    told = json.loads(_done("inspect", GOLDEN / NAME, "--json"))
    assert {entry["name"] for entry in told["weights"]} == set(tensors)
    for entry in told["weights"]:
        values = tensors[entry["name"]].values
        mean = sum(values) / len(values)
        deviation = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
        assert entry["shape"] == tensors[entry["name"]].shape, entry
        for key, wanted in (("min", min(values)), ("max", max(values)), ("mean", mean),
                            ("stddev", deviation)):
            assert abs(entry[key] - wanted) <= 1e-6 * max(1, abs(wanted)), (entry, key, wanted)
    assert told["kernel_constraint_satisfied"] is True and told["regularization_loss"] == 0
    table = _done("inspect", GOLDEN / NAME)
    assert all(name in table for name in tensors) and "regularization loss 0" in table, table
    _failed("inspect", "/nonexistent", word="/nonexistent")


def test_inspect_has_null_for_what_is_not_finite():
    with ModelDirectory() as directory:
        target = directory.copy(NAME)
        tensors, _ = read_safetensors((target / "weights.safetensors").read_bytes())
        name = next(iter(tensors))
        tensors[name].values[0] = float("inf")
        (target / "weights.safetensors").write_bytes(write_safetensors(tensors))
        told = json.loads(_done("inspect", target, "--json"), parse_constant=None)
        (entry,) = [entry for entry in told["weights"] if entry["name"] == name]
        assert entry["max"] is None and entry["min"] is not None, entry


def test_a_converted_model_is_served():
    """Weights under a prefix among others, a configuration with the object round it."""
    tensors, _ = read_safetensors((GOLDEN / NAME / "weights.safetensors").read_bytes())
    config = json.loads((GOLDEN / NAME / "layer.json").read_text())
    with Scratch() as directory:
        source, layer = directory / "all.safetensors", directory / "config.json"
        source.write_bytes(write_safetensors({
            **{f"encoder/layer_3/{n}": t for n, t in tensors.items()},
            "other": Tensor("FP32", [1], [0.0])}))
        layer.write_text(json.dumps({"class_name": "ReuseMultiHeadAttention", "config": config}))
        models = directory / "models"
        models.mkdir()
        arguments = ("convert", source, models / NAME, "--prefix", "encoder/layer_3/")
        _done(*arguments, "--config", layer)
        _done(*arguments)  # into what is there
        with Daemon(models=(models,)) as daemon:
            _done("infer", daemon.url, NAME, CALL, "--scores")
        _failed(*arguments, "--config", models, word="directory")
        layer.write_text("{")
        _failed(*arguments, "--config", layer, word="")
        _failed("convert", source, models / NAME, "--prefix", "decoder/", word="decoder/")
        _failed("convert", source, layer / "in a file", word="in a file")
        _failed("convert", layer, models / "m", word="config.json")
        _failed("convert", directory / "none.safetensors", models / "m", word="none.safetensors")
        if os.geteuid() != 0:  # root may write everywhere
            models.chmod(0o500)
            _failed("convert", source, models / "other", word="other")


# ---- servers that misbehave ------------------------------------------------------------------


class Scripted:
    """A server that gives one answer after the other, each on its own connection, to whatever is
    asked; the bytes of the last stay for all that follow."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()

    def _serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                self._read(connection)
                answer = self.answers[min(self.asked, len(self.answers) - 1)]
                self.asked += 1
                connection.sendall(answer)

    @staticmethod
    def _read(connection):
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        length = re.search(rb"(?i)content-length: (\d+)", data)
        missing = int(length.group(1)) - len(data.split(b"\r\n\r\n", 1)[1]) if length else 0
        while missing > 0:
            missing -= len(connection.recv(65536))


def _answer(status, body=b"", **headers):
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{lines}\r\n"
    return head.encode() + body


def test_a_busy_server_is_asked_again_as_it_wishes():
    good = _answer(200, b"[]")
    for answers, asked in [
        ([_answer(503, Retry_After="0"), _answer(429, Retry_After="0"), good], 3),
        ([_answer(503), good], 2),
        ([_answer(429, Retry_After="Wed, 21 Oct 2065 07:28:00 GMT"), good], 2),
        ([_answer(429, Retry_After="soon"), good], 2),
        ([_answer(429, Retry_After="-5"), good], 2),
    ]:
        with Scripted(*answers) as server:
            assert _done("models", server.url, "--json") == "[]\n"
            assert server.asked == asked, (answers, server.asked)
    with Scripted(_answer(503, b'{"error":"later"}', Retry_After="0")) as server:
        _failed("models", server.url, word="503: later")
        assert server.asked == 4, server.asked
    with Scripted(_answer(503, b'{"error":"much later"}', Retry_After="3600")) as server:
        began = time.monotonic()
        _failed("models", server.url, word="503: much later")
        assert server.asked == 1 and time.monotonic() - began < 1800, server.asked


def test_an_error_is_told_with_its_status_and_the_servers_sentence():
    for status in (400, 401, 403, 404, 405, 408, 411, 413, 415, 418, 500, 501, 504, 302):
        with Scripted(_answer(status, b'{"error":"the server\'s sentence"}')) as server:
            _failed("models", server.url, word=f"the server answered {status}: the server's sentence")
    for body in (b"", b"text", b"{", b"[]", b'{"error":1}', b'{"error":null}', b"\xff", b"null"):
        with Scripted(_answer(400, body)) as server:
            _failed("models", server.url, word="the server answered 400: (no text)")
    with Scripted(_answer(400, json.dumps({"error": "x" * 5000}).encode())) as server:
        assert len(_failed("models", server.url, word="400: xxx")) < 300


def test_answers_that_are_none_are_failures():
    for bytes_of, word in [
        (b"", "the request failed"), (b"nonsense\r\n\r\n", "the request failed"),
        (_answer(200, b"[]")[:-1], "broke off after 1 bytes"),
        (b"HTTP/1.1 200 X\r\nContent-Len", "broke off after 0 bytes"),
    ]:
        with Scripted(bytes_of) as server:
            _failed("models", server.url, word=word)
    for body in (b"", b"not one", b"{}" * 40, b"\xff" * 8 + b"{}"):
        with Scripted(_answer(200, body)) as server:
            _failed("infer", server.url, NAME, CALL, word="")
    for body in (b"", b"{", b"[]", b'{"inputs":{}}', b'{"inputs":[{"name":"query","shape":[1,2]}]}',
                 b'{"inputs":[{"name":"query","shape":[-1,-1,"x"]}]}'):
        with Scripted(_answer(200, body)) as server:
            _failed("bench", server.url, NAME, word="known width")
    for body in (b"", b"{", b"{}", b"1"):
        with Scripted(_answer(200, body)) as server:
            _failed("models", server.url, word="JSON list")
            _failed("models", server.url, "--json", word="JSON list")
    with Scripted(_answer(200, b'[1, {"name": 2}, {"name": "m"}]')) as server:
        assert len(_done("models", server.url).splitlines()) == 4


def test_bench_counts_what_fails_for_the_moment():
    """429 and 5xx are figures, not an end; the server has no statistics."""
    metadata = json.dumps({"inputs": [{"name": "query", "shape": [-1, -1, 4]}]}).encode()
    with Scripted(_answer(200, metadata), _answer(404), _answer(200), _answer(200, b"x"),
                  _answer(429, b'{"error":"full"}')) as server:
        status, output, errors = _attn("bench", server.url, NAME, "--clients", "1", "--seconds", "1",
                                       "--json")
        got = json.loads(output)
        assert status == 1 and errors == "attn: the server answered 429: full\n", errors
        assert got["requests"] == 1 and got["failed"] > 0 and "server" not in got, got
