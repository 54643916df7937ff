"""What a server may reply: nothing that the record could not be read again from, so that the run goes on."""

import asyncio
from pathlib import Path

import freeze_questions
from conftest import DEMO
from scoring.answer_proxy import AnswerProxy
from scoring.answer_record import prompt_sha256, read_answers
from scoring.lm_eval_samples import read_frozen
from scoring.server_pool import AskedServer, ServerPool

import pytest

GOOD = {"choices": [{"message": {"content": "The answer is (A)."}, "finish_reason": "stop"}], "usage": None}


def reply(**changed: object) -> dict:
    """A good reply but for some of its values."""
    choice = {"message": {"content": "x"}, "finish_reason": "stop"}
    usage = changed.pop("usage", None)
    choice["message"].update(changed.pop("message", {}))
    return {"choices": [choice | changed], "usage": usage}


ODD = {
    "tokens without end": reply(usage={"completion_tokens": float("inf")}),
    "fewer tokens than none": reply(usage={"prompt_tokens": -5}),
    "half a token": reply(usage={"completion_tokens": 1.5}),
    "usage that is a list": reply(usage=[1]),
    "a reasoning that is no text": reply(message={"reasoning_content": {"a": 1}}),
    "an answer that is no text": reply(message={"content": 7}),
    "a message that is a text": {"choices": [{"message": "x", "finish_reason": "stop"}]},
    "an unknown end": reply(finish_reason={"a": 1}),
    "no choices": {"choices": []},
    "choices that are a number": {"choices": 5},
    "a list": [1],
}


@pytest.fixture(scope="module")
def document(tmp_path_factory) -> dict:
    """A frozen question of the demo."""
    folder = tmp_path_factory.mktemp("odd")
    lines = (DEMO / "eval_questions.csv").read_text().splitlines(keepends=True)
    (folder / "one.csv").write_text("".join(lines[:2]))
    freeze_questions.main(["--questions", str(folder / "one.csv"), "--output", str(folder / "task")])
    return read_frozen(folder / "task")[0]


def ask(document: dict, record: Path, replies: list) -> None:
    """Ask a question of a server that replies so, one after the other."""
    digest, left = prompt_sha256(document["prompt"]), list(replies)

    async def replied(*_: object) -> object:
        return left.pop(0)

    async def asked() -> None:
        pool = ServerPool([AskedServer("http://one"), AskedServer("http://other")], 1, 60)
        pool.request = replied
        proxy = AnswerProxy(pool, 3, {digest: document}, record, lambda _: None)
        body = {"messages": [{"role": "user", "content": document["prompt"]}]}
        await proxy.answer(document, digest, body)

    asyncio.run(asked())


@pytest.mark.parametrize("name", ODD)
def test_a_reply_that_no_record_can_hold_is_a_failed_attempt(document, tmp_path, name):
    ask(document, tmp_path / "answers.jsonl", [ODD[name], GOOD])
    (answer,) = read_answers(tmp_path / "answers.jsonl").values()
    assert answer.attempts == 2 and len(answer.errors) == 1 and answer.letter == "A"


def test_a_server_that_replies_nothing_else_leaves_an_answer_that_is_invalid(document, tmp_path):
    odd = ODD["a reasoning that is no text"]
    ask(document, tmp_path / "answers.jsonl", [odd] * 3)
    (answer,) = read_answers(tmp_path / "answers.jsonl").values()
    assert answer.invalid and len(answer.errors) == 3 and not answer.answer
