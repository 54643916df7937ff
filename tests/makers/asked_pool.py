"""Questions sent to the recording proxy all at once, without lm-eval, and what was answered."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from llama.llama_server import authorization
from scoring.answer_proxy import AnswerProxy
from scoring.answer_record import Answer, prompt_sha256, read_answers
from scoring.lm_eval_samples import read_frozen
from scoring.server_pool import ServerPool

import aiohttp


async def ask_pool(
    pool: ServerPool, task: Path, record: Path, on_answer: Callable[[Answer], None] = lambda answer: None
) -> list[int]:
    """Ask every frozen question of a task folder; return the HTTP states, in their order."""
    documents = {prompt_sha256(document["prompt"]): document for document in read_frozen(task)}
    proxy = AnswerProxy(pool, 3, documents, record, on_answer)
    async with proxy.listening() as url, aiohttp.ClientSession(headers=authorization(proxy.key)) as session:

        async def post(prompt: str) -> int:
            body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 64, "seed": 42}
            async with session.post(url, json=body) as reply:
                return reply.status

        states = await asyncio.gather(*(post(document["prompt"]) for document in documents.values()))
    if proxy.failure.done():
        proxy.failure.result()
    return states


def answers_of(record: Path) -> dict:
    """What was answered, without how long it took, how often it was asked, and by which server."""
    return {
        key: (answer.answer, answer.reasoning, answer.finish_reason, answer.request_sha256, answer.kind)
        for key, answer in read_answers(record).items()
    }
