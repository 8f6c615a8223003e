"""The same request has the same answer, bit by bit: alone, beside others, on one thread or two."""

import random

import attnd
from attnd import Daemon, Load
from tensors import Tensor, golden, oip

HOW = {"binary": True, "parameters": {"binary_data_output": True}}
SMALL = ["self_attention", "reuse_some_masked", "relative_pe", "axes_two_reuse_some", "tails_odd",
         "policy_bfloat16"]


def _questions():
    """Golden calls, and larger ones that are cut into many units."""
    questions = [attnd.post(f"/v2/models/{n}/infer", *oip(golden(n).inputs, **HOW)) for n in SMALL]
    draw = random.Random(7)
    for batch, length in ((1, 5), (3, 130), (2, 257)):
        values = [draw.uniform(-2, 2) for _ in range(batch * length * 384)]
        query = Tensor("FP32", [batch, length, 384], values)
        questions.append(attnd.post("/v2/models/minilm/infer", *oip({"query": query}, **HOW)))
        precise = {**HOW, "parameters": {"binary_data_output": True, "precision": "x3"}}
        questions.append(attnd.post("/v2/models/minilm/infer", *oip({"query": query}, **precise)))
    return questions


def _answers(daemon, questions):
    replies = daemon.ask_all(questions)
    for reply in replies:
        assert reply.status == 200, reply.body[:200]
    return [reply.body for reply in replies]


def test_alone_and_repeated_and_on_one_thread_and_two():
    questions = _questions()
    with Daemon("--threads", "1") as one:
        wanted = _answers(one, questions)
        assert _answers(one, questions) == wanted, "repeated"
    with Daemon("--threads", "2") as two:
        for _ in range(3):
            assert _answers(two, questions) == wanted, "on two threads"
    return f"{len(questions)} calls"


def test_beside_other_requests():
    questions = _questions()
    with Daemon("--threads", "2") as daemon:
        with Load(daemon, questions, _answers(daemon, questions), 8, 25) as load:
            counts = load.counts()
        assert counts["answered"] == 200, counts


def test_a_batch_has_the_bits_of_its_parts():
    case = golden("self_attention")
    with Daemon() as daemon:
        path = "/v2/models/self_attention/infer"
        whole = daemon.post(path, *oip(case.inputs, binary=True, outputs=[
            {"name": "attention_output", "parameters": {"binary_data": True}}]))
        size = int(whole.headers["inference-header-content-length"])
        parts = b""
        for row in range(case.inputs["query"].shape[0]):
            inputs = {name: tensor.rows(row, row + 1) for name, tensor in case.inputs.items()}
            part = daemon.post(path, *oip(inputs, binary=True, outputs=[
                {"name": "attention_output", "parameters": {"binary_data": True}}]))
            parts += part.body[int(part.headers["inference-header-content-length"]):]
        assert parts == whole.body[size:]
