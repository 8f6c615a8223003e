"""Records what real clients send: the raw bytes of their requests, as fixtures for `make test`.

    build/venv-conformance/bin/python tests/wire/recorded/record.py

Each client talks to a stand-in server of this script, which answers by path (for infer with the
golden answers) and keeps the bytes as they came. One request is one file NAME.http; the port in
Host is written as 8080. exchanges.json lists them: client, model, expected status, and what the
answer has to hold: {"outputs": [...]} are golden outputs, {"keys": [...]} keys of a JSON object.
replay.py sends them to a daemon. Nothing here is needed to run the tests.
"""

import asyncio
import gzip
import importlib.metadata
import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "conformance"))
import golden  # noqa: E402

CASE = golden.Case("self_attention")
INFER = {"outputs": list(golden.OUTPUTS)}


class StandIn:
    """A server of one thread a connection that answers everything and keeps what it was sent."""

    def __init__(self):
        self.requests, self.lock = [], threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        stream = connection.makefile("rb")
        while True:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = stream.readline()
                if not line:
                    return
                head += line
            length = 0
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    length = int(line[15:])
                if line.startswith(b"expect:"):
                    connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = stream.read(length)
            with self.lock:
                self.requests.append(head.replace(self.address.encode(), b"127.0.0.1:8080") + body)
            answer = json.dumps(self._answer(head.split()[1].decode().split("?")[0])).encode()
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(answer), answer)
            )

    def _answer(self, path):
        if path.endswith("/infer"):
            return {
                "model_name": CASE.name,
                "model_version": "1",
                "id": "r-7",
                "outputs": [
                    {
                        "name": n,
                        "datatype": "FP32",
                        "shape": list(a.shape),
                        "data": a.ravel().tolist(),
                    }
                    for n, a in CASE.expected.items()
                ],
            }
        if path.endswith(":predict"):
            return {"predictions": [], "outputs": []}
        if path.endswith("/config"):
            names = [
                {"name": n, "data_type": "TYPE_FP32", "dims": [-1, -1, -1]} for n in CASE.inputs
            ]
            return {
                "name": CASE.name,
                "platform": "",
                "backend": "",
                "max_batch_size": 0,
                "input": names,
                "output": [{**names[0], "name": n} for n in golden.OUTPUTS],
            }
        if path.endswith("/stats"):
            zero = {"count": 0, "ns": 0}
            sides = (
                "success",
                "fail",
                "queue",
                "compute_input",
                "compute_infer",
                "compute_output",
                "cache_hit",
                "cache_miss",
            )
            return {
                "model_stats": [
                    {
                        "name": CASE.name,
                        "version": "1",
                        "last_inference": 0,
                        "inference_count": 0,
                        "execution_count": 0,
                        "inference_stats": {s: zero for s in sides},
                        "batch_stats": [],
                    }
                ]
            }
        if path.startswith(f"/v2/models/{CASE.name}") and not path.endswith("/ready"):
            tensor = {"datatype": "FP32", "shape": [-1, -1, -1]}
            return {
                "name": CASE.name,
                "versions": ["1"],
                "platform": "",
                "inputs": [{"name": n, **tensor} for n in CASE.inputs],
                "outputs": [{"name": n, **tensor} for n in golden.OUTPUTS],
            }
        if path == "/v2/repository/index":
            return []
        return {
            "name": "attnd",
            "version": "1",
            "extensions": ["statistics"],
            "ready": True,
            "live": True,
            "status": "alive",
        }


class Recorder:
    def __init__(self):
        self.server, self.exchanges = StandIn(), []

    def keep(self, name, client, raw, expect):
        (HERE / f"{name}.http").write_bytes(raw)
        self.exchanges.append(
            {
                "file": f"{name}.http",
                "client": client,
                "model": CASE.name,
                "status": 200,
                "expect": expect,
            }
        )

    def record(self, name, client, work, expect):
        """Runs work (a client's call) and keeps the one request it makes."""
        self.server.requests.clear()
        result = work()
        if asyncio.iscoroutine(result):
            asyncio.run(result)
        assert len(self.server.requests) == 1, (name, len(self.server.requests))
        self.keep(name, client, self.server.requests[0], expect)


def version(package):
    return f"{package} {importlib.metadata.version(package)}"


def record_tritonclient(recorder):
    import ml_dtypes
    import tritonclient.http as triton
    from test_tritonclient import tensors

    who = version("tritonclient") + " http"
    client = triton.InferenceServerClient(recorder.server.address)

    def infer(name, inputs, expect=INFER, **kwargs):
        recorder.record(
            "triton_" + name, who, lambda: client.infer(CASE.name, inputs, **kwargs), expect
        )

    def wanted(**binary):
        return [triton.InferRequestedOutput(n, binary_data=b) for n, b in binary.items()]

    infer("infer_binary", tensors(CASE))
    infer(
        "infer_json",
        tensors(CASE, False),
        outputs=wanted(attention_output=False, attention_scores=False),
    )
    infer(
        "infer_gzip",
        tensors(CASE),
        request_compression_algorithm="gzip",
        response_compression_algorithm="gzip",
    )
    infer(
        "infer_deflate",
        tensors(CASE),
        request_compression_algorithm="deflate",
        response_compression_algorithm="deflate",
    )
    infer(
        "infer_mixed",
        tensors(CASE, names=["query"]),
        request_id="a-1",
        priority=1,
        timeout=5000000,
        parameters={"k": 1},
        outputs=wanted(attention_output=True, attention_scores=False),
    )
    infer(
        "infer_one_output",
        tensors(CASE),
        {"outputs": ["attention_output"]},
        model_version="1",
        outputs=wanted(attention_output=True),
    )
    empty = []
    for name, array in CASE.inputs.items():
        tensor = triton.InferInput(name, [0, *array.shape[1:]], "FP32")
        tensor.set_data_from_numpy(array[:0])
        empty.append(tensor)
    infer("infer_zero_batch", empty, {"keys": ["outputs"]})
    for dtype, kind in (("FP16", np.float16), ("BF16", ml_dtypes.bfloat16), ("FP64", np.float64)):
        inputs = []
        for name, array in CASE.inputs.items():
            tensor = triton.InferInput(name, list(array.shape), dtype)
            tensor.set_data_from_numpy(array.astype(kind))
            inputs.append(tensor)
        infer("infer_" + dtype.lower(), inputs, {"keys": ["outputs"]})
    weights = (golden.ROOT / CASE.name / "weights.safetensors").read_bytes()
    config = json.dumps({"class_name": "ReuseMultiHeadAttention", "config": CASE.config})
    for name, work, expect in (
        ("live", client.is_server_live, {}),
        ("ready", client.is_server_ready, {}),
        ("model_ready", lambda: client.is_model_ready(CASE.name), {}),
        (
            "server_metadata",
            client.get_server_metadata,
            {"keys": ["name", "version", "extensions"]},
        ),
        (
            "model_metadata",
            lambda: client.get_model_metadata(CASE.name),
            {"keys": ["name", "versions", "platform", "inputs", "outputs"]},
        ),
        (
            "config",
            lambda: client.get_model_config(CASE.name),
            {"keys": ["name", "max_batch_size", "input", "output"]},
        ),
        (
            "statistics",
            lambda: client.get_inference_statistics(CASE.name),
            {"keys": ["model_stats"]},
        ),
        ("all_statistics", client.get_inference_statistics, {"keys": ["model_stats"]}),
        ("index", client.get_model_repository_index, {}),
        ("log_settings", client.get_log_settings, {"keys": ["log_verbose_level"]}),
        (
            "log_settings_update",
            lambda: client.update_log_settings({"log_verbose_level": 0}),
            {"keys": ["log_verbose_level"]},
        ),
        ("load", lambda: client.load_model(CASE.name), {}),
        (
            "load_files",
            lambda: client.load_model(
                "uploaded", config=config, files={"file:1/weights.safetensors": weights}
            ),
            {},
        ),
        ("unload", lambda: client.unload_model("uploaded"), {}),
    ):
        recorder.record("triton_" + name, who, work, expect)


def record_aio(recorder):
    import tritonclient.http.aio as aio
    from test_tritonclient import tensors

    def call(work):
        async def main():
            async with aio.InferenceServerClient(recorder.server.address) as client:
                await work(client)

        return main

    for name, work, expect in (
        ("infer", lambda c: c.infer(CASE.name, tensors(CASE)), INFER),
        ("metadata", lambda c: c.get_model_metadata(CASE.name), {"keys": ["name", "inputs"]}),
        ("index", lambda c: c.get_model_repository_index(), {}),
    ):
        recorder.record(
            "triton_aio_" + name, version("tritonclient") + " http.aio", call(work), expect
        )


def record_kserve(recorder):
    from kserve import InferenceRESTClient
    from kserve.inference_client import RESTConfig
    from test_kserve import request

    base = f"http://{recorder.server.address}"

    def call(protocol, work):
        async def main():
            async with InferenceRESTClient(RESTConfig(protocol=protocol)) as client:
                await work(client)

        return main

    rows = [
        {n: a[i].tolist() for n, a in CASE.inputs.items()}
        for i in range(CASE.inputs["query"].shape[0])
    ]
    for name, protocol, work, expect in (
        (
            "v2_json",
            "v2",
            lambda c: c.infer(base, request(CASE, False), model_name=CASE.name),
            INFER,
        ),
        (
            "v2_binary",
            "v2",
            lambda c: c.infer(base, request(CASE, True), model_name=CASE.name),
            INFER,
        ),
        ("v2_live", "v2", lambda c: c.is_server_live(base), {"keys": ["live"]}),
        ("v2_ready", "v2", lambda c: c.is_server_ready(base), {"keys": ["ready"]}),
        ("v1_live", "v1", lambda c: c.is_server_live(base), {"keys": ["status"]}),
        ("v1_model_ready", "v1", lambda c: c.is_model_ready(base, CASE.name), {"keys": ["ready"]}),
        (
            "v1_predict",
            "v1",
            lambda c: c.infer(base, {"instances": rows}, model_name=CASE.name),
            {"keys": ["predictions"]},
        ),
    ):
        recorder.record("kserve_" + name, version("kserve"), call(protocol, work), expect)


def record_tfserving(recorder):
    import requests

    url = f"http://{recorder.server.address}/v1/models/{CASE.name}"
    columns = {n: a.tolist() for n, a in CASE.inputs.items()}
    rows = [
        {n: a[i].tolist() for n, a in CASE.inputs.items()}
        for i in range(CASE.inputs["query"].shape[0])
    ]
    for name, work, expect in (
        (
            "columns",
            lambda: requests.post(
                url + ":predict", json={"signature_name": "with_scores", "inputs": columns}
            ),
            {"keys": ["outputs"]},
        ),
        (
            "rows",
            lambda: requests.post(
                url + "/versions/1:predict",
                json={"signature_name": "serving_default", "instances": rows},
            ),
            {"keys": ["predictions"]},
        ),
        (
            "gzip",
            lambda: requests.post(
                url + ":predict",
                data=gzip.compress(json.dumps({"inputs": columns}).encode(), mtime=0),
                headers={"Content-Encoding": "gzip"},
            ),
            {"keys": ["outputs"]},
        ),
        ("status", lambda: requests.get(url), {"keys": ["model_version_status"]}),
        ("metadata", lambda: requests.get(url + "/metadata"), {"keys": ["model_spec", "metadata"]}),
    ):
        recorder.record("tfserving_" + name, version("requests"), work, expect)


def record_perf_analyzer(recorder):
    """It makes hundreds of requests: the first infer is kept, binary and JSON. The JSON one has a
    batch of one: this perf_analyzer writes a tensor without its first dimension, whatever that is.
    """
    directory = pathlib.Path(sys.prefix) / "perf_analyzer"
    for kind, rows, expect in (("binary", 2, INFER), ("json", 1, {"keys": ["outputs"]})):
        tensors = {
            n: {"content": a[:rows].ravel().tolist(), "shape": [rows, *a.shape[1:]]}
            for n, a in CASE.inputs.items()
        }
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({"data": [tensors]}, file)
            file.flush()
            raw = first_infer(recorder.server, directory, file.name, kind)
        recorder.keep("perf_analyzer_infer_" + kind, "perf_analyzer 2.44.0", raw, expect)


def first_infer(server, directory, data, kind):
    server.requests.clear()
    command = f"""{directory}/perf_analyzer -m {CASE.name} -u {server.address} -i http
        --input-data {data} --measurement-mode count_windows --measurement-request-count 5
        --stability-percentage 999 --input-tensor-format {kind} --output-tensor-format {kind}"""
    subprocess.run(
        command.split(),
        env={"LD_LIBRARY_PATH": str(directory)},
        timeout=60,
        check=False,  # it does not like the stand-in's statistics
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return next(r for r in server.requests if b"/infer " in r.split(b"\r\n")[0])


def main():
    recorder = Recorder()
    for record in (
        record_tritonclient,
        record_aio,
        record_kserve,
        record_tfserving,
        record_perf_analyzer,
    ):
        record(recorder)
    text = json.dumps(recorder.exchanges, indent=1)
    (HERE / "exchanges.json").write_text(text + "\n")
    print(f"{len(recorder.exchanges)} requests recorded in {HERE}")


if __name__ == "__main__":
    main()
