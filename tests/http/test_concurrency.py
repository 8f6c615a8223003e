"""Many clients at once, each with its own data and its own right answer, also while draining."""

import http.client
import select
import threading
import time

from attnd import Daemon, ask_on
from tensors import Tensor, golden, oip, read_oip

NAME = "self_attention"
PATH = f"/v2/models/{NAME}/infer"
CLIENTS, REQUESTS = 64, 10000


def _question(number):
    """The golden call with its numbers turned: every client's data are its own."""
    inputs = {}
    for name, tensor in golden(NAME).inputs.items():
        values = list(tensor.values)
        turn = number % len(values)
        inputs[name] = Tensor(tensor.datatype, tensor.shape, values[turn:] + values[:turn])
    return oip(inputs, binary=True, id=f"client-{number}", parameters={"binary_data_output": True})


def _run_all(target, count):
    threads = [threading.Thread(target=target, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_64_clients_with_different_data_each_get_their_own_answer():
    with Daemon("--log-level", "warning") as daemon:
        wrong, served = [], [0] * CLIENTS
        questions = [_question(number) for number in range(CLIENTS)]
        wanted = [daemon.post(PATH, *question).body for question in questions]
        assert len(set(wanted)) == CLIENTS, "the answers are to differ"
        case = golden(NAME)
        case.check(read_oip(daemon.post(PATH, *questions[0]))[0])

        def ask(number):
            connection = daemon.connection()
            for _ in range(REQUESTS // CLIENTS + 1):
                reply = ask_on(connection, "POST", PATH, *questions[number])
                if reply.status != 200 or reply.body != wanted[number]:
                    wrong.append((number, reply.status, reply.body[:100]))
                served[number] += 1

        began = time.monotonic()
        _run_all(ask, CLIENTS)
        seconds = time.monotonic() - began
        assert not wrong, f"{len(wrong)} wrong answers: {wrong[:3]}"
        assert sum(served) >= REQUESTS
        return f"{sum(served)} requests in {seconds:.1f} s"


def test_sigterm_in_the_middle_breaks_no_request():
    """Each client goes on until it is told that no more is served. A request that was taken is
    answered in full; one that was not taken finds a closed connection before any byte of an
    answer, or 503."""
    daemon = Daemon("--log-level", "warning", "--drain-delay-ms", "300")
    questions = [_question(number) for number in range(CLIENTS)]
    wanted = [daemon.post(PATH, *question).body for question in questions]
    counts, wrong = {"answered": 0, "refused": 0, "closed": 0}, []
    lock, stop_at = threading.Lock(), threading.Event()

    def note(what):
        with lock:
            counts[what] += 1
            if counts["answered"] > 2000:
                stop_at.set()

    def ask(number):
        connection = daemon.connection(30)
        while True:
            try:
                reply = ask_on(connection, "POST", PATH, *questions[number])
            except (http.client.RemoteDisconnected, ConnectionError):
                # Keep-alive connections are closed between requests: no answer had begun.
                note("closed")
                return
            except http.client.IncompleteRead as error:
                wrong.append((number, f"an answer broke off after {len(error.partial)} bytes"))
                return
            if reply.status == 200 and reply.body == wanted[number]:
                note("answered")
            elif reply.status == 503:
                note("refused")
                return
            else:
                wrong.append((number, reply.status, reply.body[:100]))
            if reply.headers.get("connection", "").lower() == "close":
                return

    runner = threading.Thread(target=_run_all, args=(ask, CLIENTS))
    runner.start()
    assert stop_at.wait(60), "2,000 requests were not answered in a minute"
    began = time.monotonic()
    daemon.terminate()
    status = daemon.wait()
    seconds = time.monotonic() - began
    runner.join()
    assert not wrong, f"{len(wrong)}: {wrong[:3]}"
    assert status == 0, f"exit status {status}:\n" + "".join(daemon.log[-40:])
    assert seconds < 10, f"the drain took {seconds:.1f} s"
    return f"{counts}, ended {seconds:.1f} s after SIGTERM"


def test_a_slow_request_that_was_taken_is_answered_after_sigterm():
    daemon = Daemon("--threads", "1")
    query = Tensor("FP32", [24, 256, 384], [0.25] * (24 * 256 * 384))
    body, headers = oip({"query": query}, binary=True, parameters={
        "binary_data_output": True, "return_attention_scores": False})
    connection = daemon.connection()
    connection.request("POST", "/v2/models/minilm/infer", body, headers)
    while b"attnd_calls_running 1\n" not in daemon.get("/metrics").body:
        readable, _, _ = select.select([connection.sock], [], [], 0)
        assert not readable, "it was answered before it was seen running"
    daemon.terminate()
    response = connection.getresponse()
    data = response.read()
    assert response.status == 200, (response.status, data[:100])
    assert len(data) > 24 * 256 * 384 * 4
    status = daemon.wait()
    assert status == 0, "".join(daemon.log[-40:])


def test_readiness_falls_at_once_and_requests_go_on_during_the_drain_delay():
    daemon = Daemon("--drain-delay-ms", "60000")
    connection = daemon.connection()
    daemon.terminate()
    while daemon.get("/v2/health/ready").status == 200:
        pass
    reply = daemon.get("/v2/health/ready")
    assert reply.status == 503 and reply.json().get("ready") is False, reply.body
    assert daemon.get("/v2/health/live").status == 200
    assert ask_on(connection, "POST", PATH, *_question(1)).status == 200
    daemon.terminate()  # a second one ends the delay
    assert daemon.wait() == 0
