"""Triton's perf_analyzer, out of the tritonclient wheel that still carries it (install.sh)."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

DIRECTORY = pathlib.Path(sys.prefix) / "perf_analyzer"


@pytest.mark.skipif(not DIRECTORY.exists(), reason="perf_analyzer cannot be had on this machine")
@pytest.mark.parametrize("tensor_format", ["binary", "json"])
def test_perf_analyzer_measures(daemon, plain, tmp_path, tensor_format):
    # One row: its JSON form writes a tensor without its first dimension, whatever that is.
    data = {
        name: {"content": array[:1].ravel().tolist(), "shape": [1, *array.shape[1:]]}
        for name, array in plain.inputs.items()
    }
    (tmp_path / "data.json").write_text(json.dumps({"data": [data]}))
    done = subprocess.run(
        [
            DIRECTORY / "perf_analyzer",
            "-m",
            plain.name,
            "-u",
            daemon,
            "-i",
            "http",
            "--input-data",
            tmp_path / "data.json",
            "--concurrency-range",
            "1:2",
            "--measurement-mode",
            "count_windows",
            "--measurement-request-count",
            "50",
            "--stability-percentage",
            "999",
            "--input-tensor-format",
            tensor_format,
            "--output-tensor-format",
            tensor_format,
        ],
        env={**os.environ, "LD_LIBRARY_PATH": str(DIRECTORY)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Concurrency: 2, throughput:" in done.stdout, done.stdout
    assert "Inference count" in done.stdout, done.stdout  # the server's statistics were read
