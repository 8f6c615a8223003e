"""The servers that servers.py compares: how each is started, asked, read and watched.

A case is "bin" or "json", T of a [1,T,768] call, "s" with scores: body_of() makes its request as
a server wants it, answer_of() reads the answer back. Server is one running server, in a process
group of its own, with its CPU time, page faults and memory. Nothing is timed or judged here.
"""

import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import time
import urllib.request

import numpy as np

import workload

HERE = pathlib.Path(__file__).resolve().parent
PEERS = HERE / "peer_servers"
OIP = ("attnd", "triton")
TRITON_CONFIG = """name: "bench"
backend: "python"
max_batch_size: 0
input [{ name: "query" data_type: TYPE_FP32 dims: [-1, -1, 768] }]
output [{ name: "attention_output" data_type: TYPE_FP32 dims: [-1, -1, 768] },
        { name: "attention_scores" data_type: TYPE_FP32 dims: [-1, -1, -1, -1] }]
instance_group [{ count: 1 kind: KIND_CPU }]
"""
TICKS = os.sysconf("SC_CLK_TCK")


def split_case(case):
    form, size = case.split(" ")
    return form, int(size.rstrip("s")), size.endswith("s")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


# ---- bodies --------------------------------------------------------------------------------


def number_list(array):
    return "[" + ",".join(map(str, array.ravel())) + "]"


def body_of(server, case, x):
    """(path, body, headers) of a request, as each server wants it."""
    form, length, scores = split_case(case)
    wanted = ["attention_output"] + (["attention_scores"] if scores else [])
    if server in OIP:
        binary = form == "bin"
        head = {
            "inputs": [{"name": "query", "shape": list(x.shape), "datatype": "FP32"}],
            "outputs": [{"name": n, "parameters": {"binary_data": binary}} for n in wanted],
        }
        path = "/v2/models/bench/infer"
        if binary:
            head["inputs"][0]["parameters"] = {"binary_data_size": x.nbytes}
            text = json.dumps(head, separators=(",", ":")).encode()
            return (
                path,
                text + x.tobytes(),
                {
                    "Inference-Header-Content-Length": str(len(text)),
                    "Content-Type": "application/octet-stream",
                },
            )
        head["inputs"][0]["data"] = "@"
        text = json.dumps(head, separators=(",", ":")).replace('"@"', number_list(x))
        return path, text.encode(), {"Content-Type": "application/json"}
    if form == "bin":
        kind = {"Content-Type": "application/octet-stream"}
        if server == "mosec":
            return "/binary", struct.pack("<II", length, scores) + x.tobytes(), kind
        return f"/binary/{length}/{int(scores)}", x.tobytes(), kind
    rows = ",".join(number_list(row) for row in x[0])
    text = '{"query":[[%s]],"scores":%s}' % (rows, "true" if scores else "false")
    return "/json", text.encode(), {"Content-Type": "application/json"}


def answer_of(server, case, headers, body):
    """The output, and the scores or None, out of an answer."""
    form, length, scores = split_case(case)
    out_shape, scores_shape = (1, length, workload.WIDTH), (1, workload.HEADS, length, length)
    tensors = {}
    if server in OIP:
        size = int(headers.get("Inference-Header-Content-Length", len(body)))
        rest = body[size:]
        for output in json.loads(body[:size])["outputs"]:
            if "data" in output:
                tensors[output["name"]] = np.array(output["data"], np.float32)
            else:
                count = output["parameters"]["binary_data_size"]
                tensors[output["name"]] = np.frombuffer(rest[:count], np.float32)
                rest = rest[count:]
    elif form == "bin":
        values, cut = np.frombuffer(body, np.float32), length * workload.WIDTH
        tensors = {"attention_output": values[:cut], "attention_scores": values[cut:]}
    else:
        tensors = {n: np.array(v, np.float32) for n, v in json.loads(body).items()}
    return (
        tensors["attention_output"].reshape(out_shape),
        tensors["attention_scores"].reshape(scores_shape) if scores else None,
    )


# ---- servers -------------------------------------------------------------------------------


def tree(pid):
    """The process and all its descendants."""
    try:
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid] + [p for child in children for p in tree(int(child))]


class Server:
    """A server in a process group of its own; start() waits for the first right answer."""

    def __init__(self, name, out, args, environment=None):
        self.name, self.out, self.args = name, out, args
        self.extra = environment or {}
        self.log = open(out / f"{name}.log", "w")
        self.process = self.port = self.start_seconds = None

    def start(self, path, body, headers):
        begin = time.monotonic()
        command, environment, self.port = getattr(self, "_" + self.name)()
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **environment, **self.extra},
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
            cwd=self.out,
        )
        while time.monotonic() < begin + 90:
            if self.process.poll() is not None:
                break
            try:
                self.post(path, body, headers)
            except OSError:
                time.sleep(0.002)
                continue
            self.start_seconds = time.monotonic() - begin
            return
        raise RuntimeError(f"{self.name} gives no answer: see {self.log.name}")

    def post(self, path, body, headers):
        if self.name == "attnd" and self.port is None:
            self.port = self._ready_port()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.headers, answer.read()

    def _ready_port(self):
        text = pathlib.Path(self.log.name).read_text()
        match = re.search(r"^attnd: ready on http://[^:]+:(\d+)$", text, re.M)
        if not match:
            raise OSError("not ready yet")
        return int(match.group(1))

    def _attnd(self):
        workload.write_model(self.out / "models" / "bench")
        return (
            [
                os.path.abspath(self.args.attnd),
                "--listen",
                "127.0.0.1:0",
                "--threads",
                "2",
                "--models",
                self.out / "models",
            ],
            {},
            None,
        )

    def _fastapi(self):
        port = free_port()
        return [sys.executable, PEERS / "fastapi_server.py", str(port)], {}, port

    def _mosec(self):
        port = free_port()
        return (
            [sys.executable, PEERS / "mosec_server.py", "--port", str(port), "--timeout", "60000"],
            {},
            port,
        )

    def _triton(self):
        """tritonserver out of the pytriton wheel, with its own python backend."""
        site = pathlib.Path(sysconfig.get_path("platlib"))
        wheel = site / "pytriton" / "tritonserver"
        backend = self.out / "triton" / "backends" / "python"
        model = self.out / "triton" / "models" / "bench"
        (model / "1").mkdir(parents=True, exist_ok=True)
        backend.mkdir(parents=True, exist_ok=True)
        stub = wheel / "python_backend_stubs" / "{}.{}".format(*sys.version_info)
        for source in (*(wheel / "backends" / "python").iterdir(), *stub.iterdir()):
            link = backend / source.name
            link.unlink(missing_ok=True)
            link.symlink_to(source)
        (model / "1" / "model.py").write_text((PEERS / "triton_model.py").read_text())
        (model / "config.pbtxt").write_text(TRITON_CONFIG)
        libraries = [str(site / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR") or ""]
        # Its embedded interpreter ignores PYTHONPATH and finds its packages by PATH's python3.
        environment = {
            "LD_LIBRARY_PATH": ":".join(libraries),
            "PEER_SERVERS": str(PEERS),
            "PATH": os.path.dirname(sys.executable) + ":" + os.environ["PATH"],
        }
        port = free_port()
        return (
            [
                wheel / "bin" / "tritonserver",
                "--model-repository",
                self.out / "triton" / "models",
                "--backend-directory",
                backend.parent,
                "--http-port",
                str(port),
                "--http-address",
                "127.0.0.1",
                "--allow-grpc",
                "false",
                "--allow-metrics",
                "false",
                "--log-error",
                "true",
            ],
            environment,
            port,
        )

    def cpu_seconds(self):
        total = 0
        for pid in tree(self.process.pid):
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def page_faults(self):
        return sum(
            int(pathlib.Path(f"/proc/{p}/stat").read_text().rsplit(")", 1)[1].split()[7])
            for p in tree(self.process.pid)
        )

    def memory_mb(self):
        """Proportional set size of the tree."""
        total = 0
        for pid in tree(self.process.pid):
            text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss:\s+(\d+)", text, re.M).group(1))
        return total / 1024

    def stop(self):
        if self.process and self.process.poll() is None:
            pids = tree(self.process.pid)
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                pass
            for pid in pids:  # workers that outlive their parent
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.process.wait()
        self.log.close()


def directory_mb(path):
    return sum(f.stat().st_size for f in pathlib.Path(path).rglob("*") if f.is_file()) / 2**20


def install_mb(server, args):
    """Binary and what it brings along: our libraries but libc's; Triton's two wheel directories."""
    if server == "triton":
        site = pathlib.Path(sysconfig.get_path("platlib"))
        return directory_mb(site / "pytriton" / "tritonserver") + directory_mb(
            site / "nvidia_pytriton.libs"
        )
    text = subprocess.run(["ldd", args.attnd], capture_output=True, text=True, check=True).stdout
    files = {os.path.realpath(p) for p in re.findall(r"=> (/\S+)", text)}
    files.add(os.path.realpath(args.attnd))
    return sum(os.path.getsize(f) for f in files) / 2**20
