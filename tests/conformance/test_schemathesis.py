"""schemathesis: requests made up from openapi.json, answers checked against it."""

import pathlib
import subprocess
import sys


def test_openapi_document_describes_the_daemon(own_daemon, tmp_path):
    done = subprocess.run(
        [
            pathlib.Path(sys.prefix) / "bin" / "schemathesis",
            "run",
            f"http://{own_daemon}/openapi.json",
            "--max-examples",
            "20",
            "--seed",
            "1",
            "--phases",
            "examples,coverage,fuzzing",
            "--request-timeout",
            "20",
            # Unknown keys are ignored on purpose, and a made-up tensor fits no model's widths.
            # Unloading a model answers 503 for it from then on, which is no fault of the server.
            "--exclude-path-regex",
            "unload$",
            "--exclude-checks",
            "negative_data_rejection,positive_data_acceptance",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
