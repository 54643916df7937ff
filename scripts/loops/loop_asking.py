"""Prompts of the loop gate, asked of one or several llama-servers, and recorded in their own order.

Servers answer in any order, and the record has another: the answers behind a slow one wait for it. So that a kill loses
few of them, only AHEAD answers per server are asked for before the first of them is there.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path

from files.input_errors import InputError
from loops.loop_answers import ERROR_CHARACTERS, answer_of_reply, append_loop_answer, refused_by_parser
from loops.loop_classes import LoopAnswer
from loops.loop_prompts import LoopPrompt, LoopPrompts, request_of
from scoring.answer_classes import is_parser_error
from scoring.server_pool import AskedServer, ServerPool

ATTEMPTS = 3
AHEAD = 8


async def ask_prompt(pool: ServerPool, body: dict, prompt: LoopPrompt, seed: int) -> LoopAnswer:
    """Return the answer of the chat endpoint of one of the servers.

    Raises InputError when ATTEMPTS failed. What the parser refuses is an answer: the same seed would write it again.
    """

    async def work(server: AskedServer) -> dict:
        reply = await pool.request(server, "/v1/chat/completions", body)
        answer_of_reply(prompt, seed, reply)  # what is no completion counts as a failure, too
        return reply

    asked = await pool.ask(work, ATTEMPTS)
    if asked.reply is not None:
        return answer_of_reply(prompt, seed, asked.reply)
    error = asked.errors[-1][:ERROR_CHARACTERS]
    if is_parser_error(error):
        return refused_by_parser(prompt, seed, error)
    first = pool.servers[0]
    served = first.own.gguf if first.own else first.name
    raise InputError(served, f"an answer to {prompt.id} of {ATTEMPTS} attempts", error, "the same command goes on")


async def ask_missing(
    pool: ServerPool,
    prompts: LoopPrompts,
    inputs: dict,
    asked: list[tuple[LoopPrompt, int]],
    record: Path,
    seen: Callable[[LoopAnswer], object],
) -> None:
    """Ask these prompts, record the answers in their order, and show each to `seen`."""
    fixed = {**inputs["sampling"], "max_tokens": inputs["max_tokens"], "cache_prompt": False}

    def question(prompt: LoopPrompt, seed: int) -> Awaitable[LoopAnswer]:
        return ask_prompt(pool, {**request_of(prompt, prompts.tools), **fixed, "seed": seed}, prompt, seed)

    async with pool.opened():
        working: deque[asyncio.Future] = deque()
        try:
            for prompt, seed in asked:
                working.append(asyncio.ensure_future(question(prompt, seed)))
                if len(working) >= AHEAD * pool.places:
                    record_next(record, await working[0], seen)
                    working.popleft()
            while working:
                record_next(record, await working[0], seen)
                working.popleft()
        finally:
            for left in working:
                left.cancel()
            await asyncio.gather(*working, return_exceptions=True)


def record_next(record: Path, answer: LoopAnswer, seen: Callable[[LoopAnswer], object]) -> None:
    """Append an answer to the record and show it."""
    append_loop_answer(record, answer)
    seen(answer)
