"""Many clients at once, each with its own data and its own right answer, also while draining."""

import socket
import time

import attnd
from attnd import Daemon, Load
from tensors import Tensor, golden, oip, read_safetensors, write_safetensors

NAME = "self_attention"
PATH = f"/v2/models/{NAME}/infer"
FILE = {"Content-Type": "application/safetensors", "Accept": "application/safetensors"}
CLIENTS, REQUESTS = 64, 10000


def _question(number):
    """The golden call with its numbers turned: every client's data are its own."""
    inputs = {}
    for name, tensor in golden(NAME).inputs.items():
        values = list(tensor.values)
        turn = number % len(values)
        inputs[name] = Tensor(tensor.datatype, tensor.shape, values[turn:] + values[:turn])
    return attnd.post(PATH, write_safetensors(inputs, {"id": f"client-{number}"}), FILE)


def _questions(daemon):
    """Questions, and their answers when each is asked alone."""
    questions = [_question(number) for number in range(CLIENTS)]
    replies = daemon.ask_all(questions)
    assert {reply.status for reply in replies} == {200}, [reply.status for reply in replies]
    golden(NAME).check(read_safetensors(replies[0].body)[0])
    answers = [reply.body for reply in replies]
    assert len(set(answers)) == CLIENTS, "the answers are to differ"
    return questions, answers


def test_64_clients_with_different_data_each_get_their_own_answer():
    with Daemon("--log-level", "warning") as daemon:
        with Load(daemon, *_questions(daemon), CLIENTS, REQUESTS // CLIENTS + 1) as load:
            counts = load.counts()
        assert counts["failed"] == 0 and counts["refused"] == 0, counts
        assert counts["answered"] >= REQUESTS, counts
        return f"{counts['answered']} requests in {counts['seconds']:.1f} s"


def test_sigterm_in_the_middle_breaks_no_request():
    """Each client goes on until it is told that no more is served. A request that was taken is
    answered in full; one that was not taken finds a closed connection before any byte of an
    answer, or 503."""
    daemon = Daemon("--log-level", "warning", "--drain-delay-ms", "300")
    with Load(daemon, *_questions(daemon), CLIENTS, 10**9) as load:
        while _served(daemon) < 2000:
            assert load.running(), load.counts()
        began = time.monotonic()
        daemon.terminate()
        status = daemon.wait()
        seconds = time.monotonic() - began
        counts = load.counts()
    assert counts["failed"] == 0, counts
    assert counts["refused"] == CLIENTS and counts["answered"] >= 2000 - CLIENTS, counts
    assert status == 0, f"exit status {status}:\n" + "".join(daemon.log[-40:])
    assert seconds < 10, f"the drain took {seconds:.1f} s"
    return f"{counts}, ended {seconds:.1f} s after SIGTERM"


def _served(daemon):
    (stats,) = daemon.get(f"/v2/models/{NAME}/stats").json()["model_stats"]
    return stats["inference_stats"]["success"]["count"]


def test_a_slow_request_that_was_taken_is_answered_after_sigterm():
    daemon = Daemon("--threads", "1")
    query = Tensor("FP32", [24, 256, 384], [0.25] * (24 * 256 * 384))
    question = attnd.post("/v2/models/minilm/infer", *oip({"query": query}, binary=True, parameters={
        "binary_data_output": True, "return_attention_scores": False}))
    with daemon.asking([question], timeout=600) as asking:
        while b"attnd_calls_running 1\n" not in daemon.get("/metrics").body:
            assert asking.running(), "it was answered before it was seen running"
        daemon.terminate()
        (reply,) = asking.replies()
    assert reply.status == 200, (reply.status, reply.body[:100])
    assert len(reply.body) > 24 * 256 * 384 * 4
    status = daemon.wait()
    assert status == 0, "".join(daemon.log[-40:])


def test_readiness_falls_at_once_and_requests_go_on_during_the_drain_delay():
    daemon = Daemon("--drain-delay-ms", "60000")
    daemon.terminate()
    while daemon.get("/v2/health/ready").status == 200:
        pass
    reply = daemon.get("/v2/health/ready")
    assert reply.status == 503 and reply.json().get("ready") is False, reply.body
    assert "draining" in reply.json()["error"], "what it means, and where to look"
    assert "POST /v2/repository/index" in reply.json()["error"], reply.body
    live, inference = daemon.ask_all([attnd.get("/v2/health/live"), _question(1)])
    assert live.status == 200 and inference.status == 200, (live.status, inference.status)
    daemon.terminate()  # a second one ends the delay
    assert daemon.wait() == 0


def test_clients_that_connected_before_sigterm_are_served_without_any_delay():
    """Some of them have been accepted and seen by nobody when the drain begins."""
    question = _question(0)
    head = f"POST {question.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: "
    head += f"{len(question.body)}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in question.headers.items())
    for _ in range(8):
        daemon = Daemon("--log-level", "warning", models=(attnd.GOLDEN,))
        clients = []
        for _ in range(8):
            clients.append(socket.create_connection(("127.0.0.1", daemon.port), timeout=30))
            clients[-1].sendall(head.encode() + b"\r\n" + question.body)
        daemon.terminate()
        statuses = []
        for client in clients:
            with client:
                statuses += [reply.status for reply in attnd.split_replies(attnd.read_all(client))]
        assert statuses == [200] * 8, statuses
        assert daemon.wait() == 0, "".join(daemon.log[-40:])
