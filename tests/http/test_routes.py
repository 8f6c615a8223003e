"""Every route that is no inference: what it answers, and what it refuses."""

import base64
import json

import attnd
from attnd import GOLDEN, Daemon, ModelDirectory
from tensors import golden, oip, read_oip

MODEL = "self_attention"
READ_ONLY = [
    "/", "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models", "/v2/models/stats", "/metrics",
    f"/v2/models/{MODEL}", f"/v2/models/{MODEL}/ready", f"/v2/models/{MODEL}/config",
    f"/v2/models/{MODEL}/stats", f"/v2/models/{MODEL}/versions/1",
    f"/v2/models/{MODEL}/versions/1/ready", f"/v2/models/{MODEL}/versions/1/config",
    f"/v2/models/{MODEL}/versions/1/stats", f"/v1/models/{MODEL}", f"/v1/models/{MODEL}/metadata",
    f"/v1/models/{MODEL}/versions/1", "/v1/models", "/openapi.json",
]


def test_every_route_that_reads_answers_200_with_a_type(daemon):
    replies = daemon.ask_all([attnd.get(path) for path in READ_ONLY])
    for path, reply in zip(READ_ONLY, replies):
        assert reply.status == 200, f"{path}: {reply.status} {reply.body[:200]!r}"
        kind = reply.headers["content-type"]
        if path == "/metrics":
            assert kind.startswith("text/plain"), kind
        else:
            assert kind == "application/json", f"{path}: {kind}"
            reply.json()


def test_head_answers_as_get_without_the_body(daemon):
    """Over a raw socket: curl does not look for a body that should not be there."""
    replies = daemon.ask_all([attnd.get(path) for path in READ_ONLY])
    for path, get in zip(READ_ONLY, replies):
        data = daemon.raw(f"HEAD {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        assert data.endswith(b"\r\n\r\n") and data.count(b"\r\n\r\n") == 1, (path, data[-200:])
        head = daemon.ask("HEAD", path)
        assert head.status == get.status, path
        assert head.headers["content-type"] == get.headers["content-type"], path
        if path not in ("/metrics", "/v2/models/stats") and not path.endswith("/stats"):
            assert head.headers["content-length"] == get.headers["content-length"], path


def test_options_names_the_methods(daemon):
    for path, allowed in [
        ("/v2", {"GET", "HEAD", "OPTIONS"}),
        (f"/v2/models/{MODEL}/infer", {"POST", "OPTIONS"}),
        (f"/v1/models/{MODEL}:predict", {"POST", "OPTIONS"}),
        ("/v2/logging", {"GET", "HEAD", "POST", "OPTIONS"}),
    ]:
        reply = daemon.ask("OPTIONS", path)
        assert reply.status in (200, 204), f"{path}: {reply.status}"
        assert set(reply.headers["allow"].replace(" ", "").split(",")) == allowed, reply.headers


def test_a_wrong_method_is_405_and_names_the_right_ones(daemon):
    for method, path, allowed in [
        ("POST", "/v2", "GET"), ("DELETE", f"/v2/models/{MODEL}", "GET"),
        ("GET", f"/v2/models/{MODEL}/infer", "POST"), ("PUT", f"/v2/models/{MODEL}/infer", "POST"),
        ("GET", f"/v1/models/{MODEL}:predict", "POST"), ("GET", "/v2/repository/index", "POST"),
        ("POST", "/metrics", "GET"), ("TRACE", "/v2", "GET"), ("PATCH", "/v2/logging", "POST"),
    ]:
        reply = daemon.ask(method, path)
        assert reply.status == 405, f"{method} {path}: {reply.status}"
        assert allowed in reply.headers["allow"], reply.headers
        assert method in reply.error()


def test_an_unknown_route_or_model_or_version_is_404(daemon):
    for path in ["/nothing", "/v2/nothing", "/v3", "/v2/models/absent", "/v2/models/absent/ready",
                 "/v2/models/absent/config", "/v1/models/absent", "/v1/models/absent/metadata",
                 f"/v2/models/{MODEL}/versions/2", f"/v2/models/{MODEL}/versions/2/ready",
                 f"/v2/models/{MODEL}/versions/one", f"/v2/models/{MODEL}/nothing"]:
        reply = daemon.get(path)
        assert reply.status == 404, f"{path}: {reply.status} {reply.body[:200]!r}"
        reply.error()
    body, headers = oip(golden(MODEL).inputs)
    for path in ["/v2/models/absent/infer", f"/v2/models/{MODEL}/versions/7/infer",
                 "/v1/models/absent:predict"]:
        reply = daemon.post(path, body, headers)
        assert reply.status == 404, f"{path}: {reply.status}"
        assert "absent" in reply.error() or "7" in reply.error(), reply.body


def test_names_that_lead_out_of_the_repository_are_refused(daemon):
    for path in ["/v2/models/..%2f..%2fetc", "/v2/models/%2e%2e/config", "/v2/models/../../etc",
                 "/v2/models/.hidden", "/v2/models/a%00b", "/v2/models/%zz", "/v2/models/a%0ab"]:
        reply = daemon.get(path)
        assert reply.status in (400, 404), f"{path}: {reply.status}"
        reply.error()


def test_health_bodies_serve_triton_and_kserve_at_once(daemon):
    assert daemon.get("/v2/health/live").json() == {"live": True}
    assert daemon.get("/v2/health/ready").json() == {"live": True, "ready": True}
    assert daemon.get(f"/v2/models/{MODEL}/ready").json() == {"name": MODEL, "ready": True}
    assert daemon.get("/").json() == {"status": "alive"}


def test_server_metadata_lists_what_is_there(daemon):
    body = daemon.get("/v2").json()
    assert body["name"] == "attnd" and body["version"]
    assert "binary_tensor_data" in body["extensions"], body


def test_model_metadata_names_inputs_outputs_and_versions(daemon):
    body = daemon.get(f"/v2/models/{MODEL}").json()
    assert body["name"] == MODEL and body["versions"] == ["1"] and body["platform"]
    inputs = {entry["name"]: entry for entry in body["inputs"]}
    assert {"query", "value", "key", "attention_mask"} <= set(inputs), inputs
    assert "reuse_attention_scores" not in inputs, "this model reuses none"
    assert inputs["query"]["datatype"] == "FP32" and len(inputs["query"]["shape"]) == 3
    assert [o["name"] for o in body["outputs"]] == ["attention_output", "attention_scores"]
    reuse = daemon.get("/v2/models/reuse_some").json()
    assert "reuse_attention_scores" in {entry["name"] for entry in reuse["inputs"]}


def test_model_config_marks_optional_inputs_and_carries_the_layer(daemon):
    body = daemon.get(f"/v2/models/{MODEL}/config").json()
    optional = {entry["name"] for entry in body["input"] if entry.get("optional")}
    assert {"value", "key", "attention_mask"} <= optional, body["input"]
    assert "query" not in optional
    layer = json.loads((GOLDEN / MODEL / "layer.json").read_text())
    assert f"\"num_heads\":{layer['num_heads']}" in json.dumps(body).replace(" ", "").replace(
        "\\", ""
    ), body


def test_statistics_count_what_was_served():
    case = golden(MODEL)
    body, headers = oip(case.inputs)
    with Daemon() as daemon:
        for _ in range(3):
            assert daemon.post(f"/v2/models/{MODEL}/infer", body, headers).status == 200
        assert daemon.post(f"/v2/models/{MODEL}/infer", b"{}", headers).status == 400
        (stats,) = daemon.get(f"/v2/models/{MODEL}/stats").json()["model_stats"]
        assert (stats["name"], stats["version"]) == (MODEL, "1")
        assert stats["execution_count"] == 3, stats
        assert stats["inference_count"] == 3 * case.inputs["query"].shape[0], stats
        assert stats["inference_stats"]["success"]["count"] == 3, stats
        assert stats["inference_stats"]["compute_infer"]["ns"] > 0, stats
        every = daemon.get("/v2/models/stats").json()["model_stats"]
        assert MODEL in {entry["name"] for entry in every}


def test_metrics_are_prometheus_text_and_count_requests():
    body, headers = oip(golden(MODEL).inputs)
    with Daemon() as daemon:
        before = _metrics(daemon)
        for _ in range(2):
            daemon.post(f"/v2/models/{MODEL}/infer", body, headers)
        after = _metrics(daemon)
        grown = [name for name, value in after.items()
                 if "infer" in name and value - before.get(name, 0) == 2]
        assert grown, sorted(after)[:40]


def _metrics(daemon):
    values = {}
    for line in daemon.get("/metrics").body.decode().splitlines():
        if not line or line.startswith("#"):
            assert not line or line.startswith(("# HELP ", "# TYPE ", "# EOF", "# UNIT ")), line
            continue
        name, value = line.rsplit(" ", 1)
        values[name] = float(value)
    return values


def test_the_index_lists_every_model_and_filters_by_readiness(daemon):
    for body in (b"", b"{}", {"ready": True}):
        entries = daemon.post("/v2/repository/index", body).json()
        found = {entry["name"]: entry for entry in entries}
        assert MODEL in found and "minilm" in found
        assert found[MODEL]["state"] == "READY" and found[MODEL]["version"] == "1"


def test_a_model_can_be_unloaded_and_loaded_again():
    body, headers = oip(golden(MODEL).inputs)
    path = f"/v2/models/{MODEL}/infer"
    with Daemon("--allow-control") as daemon:
        first = daemon.post(path, body, headers)
        assert daemon.post(f"/v2/repository/models/{MODEL}/unload").status == 200
        gone = daemon.post(path, body, headers)
        assert gone.status in (404, 503), gone.status
        gone.error()
        assert daemon.get("/v2/health/ready").status == 200, "unloading on purpose is no failure"
        loaded = daemon.post(f"/v2/repository/models/{MODEL}/load", {})
        assert loaded.status == 200, loaded.body
        again = daemon.post(path, body, headers)
        assert again.status == 200 and again.body == first.body


def test_a_model_can_be_uploaded_and_a_broken_one_leaves_the_old_serving():
    case = golden(MODEL)
    body, headers = oip(case.inputs)
    with Daemon("--allow-control") as daemon:
        weights = (GOLDEN / MODEL / "weights.safetensors").read_bytes()
        config = (GOLDEN / MODEL / "layer.json").read_text()
        parameters = {"config": config,
                      "file:1/weights.safetensors": base64.b64encode(weights).decode()}
        reply = daemon.post("/v2/repository/models/uploaded/load", {"parameters": parameters})
        assert reply.status == 200, reply.body
        case.check(read_oip(daemon.post("/v2/models/uploaded/infer", body, headers))[0])
        broken = base64.b64encode(weights[:200]).decode()
        parameters["file:1/weights.safetensors"] = broken
        reply = daemon.post("/v2/repository/models/uploaded/load", {"parameters": parameters})
        assert reply.status == 400, reply.body
        reply.error()
        case.check(read_oip(daemon.post("/v2/models/uploaded/infer", body, headers))[0])


def test_load_and_unload_are_refused_unless_allowed():
    with Daemon() as daemon:
        for action in ("load", "unload"):
            reply = daemon.post(f"/v2/repository/models/{MODEL}/{action}")
            assert reply.status == 403, reply.status
            assert "--allow-control" in reply.error()
        assert daemon.get(f"/v2/models/{MODEL}/ready").status == 200


def test_numbered_versions_are_served_and_the_highest_is_the_default():
    with ModelDirectory() as directory:
        directory.copy("self_attention", "m/2")
        directory.copy("no_bias", "m/10")
        with Daemon(models=(directory.path,)) as daemon:
            assert sorted(daemon.get("/v2/models/m").json()["versions"]) == ["10", "2"]
            for version, name in (("/versions/2", "self_attention"), ("", "no_bias")):
                case = golden(name)
                body, headers = oip(case.inputs)
                outputs, answer = read_oip(
                    daemon.post(f"/v2/models/m{version}/infer", body, headers)
                )
                case.check(outputs)
                assert answer["model_version"] == ("2" if version else "10")


def test_logging_can_be_read_and_set(daemon):
    settings = daemon.get("/v2/logging").json()
    assert {"log_info", "log_warning", "log_error", "log_verbose_level", "log_format"} <= set(
        settings
    ), settings
    changed = daemon.post("/v2/logging", {"log_verbose_level": 1})
    assert changed.status == 200 and changed.json()["log_verbose_level"] == 1, changed.body
    assert daemon.post("/v2/logging", {"log_verbose_level": 0}).json()["log_verbose_level"] == 0
    assert daemon.post("/v2/logging", {"log_verbose_level": "much"}).status == 400


def test_openapi_describes_the_routes_that_are_served(daemon):
    document = daemon.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    for pattern, methods in document["paths"].items():
        path = pattern.replace("{model}", MODEL).replace("{version}", "1")
        path = path.replace("{name}", MODEL).replace("{MODEL}", MODEL)
        if "{" in path:
            continue
        allowed = daemon.ask("OPTIONS", path).headers.get("allow", "")
        for method in methods:
            if method in ("get", "post", "delete"):
                assert method.upper() in allowed, f"{method} {pattern}: Allow is {allowed!r}"


def test_query_strings_and_one_slash_at_the_end_are_ignored(daemon):
    for path in ("/v2/", "/v2?x=1", f"/v2/models/{MODEL}?a=b&c", "/v2/health/live/?"):
        assert daemon.get(path).status == 200, path


def test_answers_carry_a_request_id_and_no_sniffing(daemon):
    reply = daemon.get("/v2", **{"X-Request-Id": "abc-123"})
    assert reply.headers["x-content-type-options"] == "nosniff", reply.headers
    assert reply.headers["x-request-id"] == "abc-123", reply.headers
    forged = daemon.get("/v2", **{"X-Request-Id": "a b;c"})
    assert forged.headers["x-request-id"] != "a b;c", forged.headers


def test_tensorflow_serving_status_holds_kserves_keys_too(daemon):
    body = daemon.get(f"/v1/models/{MODEL}").json()
    (version,) = body["model_version_status"]
    assert version["version"] == "1" and version["state"] == "AVAILABLE"
    assert version["status"]["error_code"] == "OK"
    assert body["name"] == MODEL and body["ready"] is True
    assert MODEL in daemon.get("/v1/models").json()["models"]


def test_tensorflow_serving_metadata_holds_both_signatures(daemon):
    body = daemon.get(f"/v1/models/{MODEL}/metadata").json()
    assert body["model_spec"]["name"] == MODEL
    signatures = body["metadata"]["signature_def"]["signature_def"]
    assert {"serving_default", "with_scores"} <= set(signatures)
    query = signatures["serving_default"]["inputs"]["query"]
    assert query["dtype"] == "DT_FLOAT" and len(query["tensor_shape"]["dim"]) == 3
