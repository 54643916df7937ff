"""A proxy between lm-eval and the servers that records every answer as it happens and never asks twice.

lm-eval drops reasoning, finish reason and token counts, and loses a whole run to one HTTP 500. So it talks to this
proxy. A recorded question is answered from the record, any other one by a server (server_pool.py). When the attempts
are used up, lm-eval gets an empty answer, which counts as invalid; so it does at once when the server's parser fails on
what the model wrote: with one seed the model writes the same again. lm-eval's run and score stay its own.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from files.input_errors import InputError
from files.json_records import sha256_json
from files.safe_files import flush_to_disk
from llama.llama_server import KEY_BYTES, authorization
from scoring.answer_classes import class_of, class_of_failure
from scoring.answer_record import (
    Answer,
    append_answer,
    cut_half_line,
    prompt_sha256,
    read_answers,
    read_line,
    record_line,
)
from scoring.eval_protocol import DEFAULT_TASK
from scoring.eval_tasks import TASKS, EvalTask
from scoring.server_pool import AskedServer, Attempts, ServerPool
from scoring.strangers import Strangers, allow_open_files, worth_a_line

from aiohttp import web

MAX_REQUEST_BYTES = 64 << 20
LOGGER = logging.getLogger(__name__)
LOGGER.addFilter(worth_a_line)
SHUTDOWN_SECONDS = 0.1  # for requests that still run at the end, which is then that of a failure or of Ctrl-C


def completion(answer: Answer) -> dict:
    """Return what lm-eval reads of a chat completion."""
    message = {"role": "assistant", "content": answer.answer}
    return {"choices": [{"index": 0, "message": message, "finish_reason": answer.finish_reason}]}


def recorded(document: dict, task: EvalTask, digest: str, request_sha256: str, asked: Attempts, named: bool) -> Answer:
    """Return the record of one question; digest: of its prompt; named: whether it names the server."""
    reply = asked.reply or {"choices": [{"message": {}, "finish_reason": None}]}
    message, finish_reason = reply["choices"][0]["message"], reply["choices"][0]["finish_reason"]
    text, usage = message.get("content") or "", reply.get("usage") or {}
    letter, target = task.read(text, document), document.get("target") or task.target(document[task.answer])
    return Answer(
        record_id=document["Record ID"],
        prompt_sha256=digest,
        request_sha256=request_sha256,
        answer=text,
        reasoning=message.get("reasoning_content") or message.get("reasoning") or "",  # vLLM has had either name
        finish_reason=finish_reason,
        prompt_tokens=usage.get("prompt_tokens", 0),
        completion_tokens=usage.get("completion_tokens", 0),
        asked_at=round(asked.asked_at, 3),
        seconds=round(asked.seconds, 3),
        attempts=len(asked.errors) + (asked.reply is not None),
        errors=asked.errors,
        letter=letter,
        target=target,
        correct=task.right(letter, target),
        kind=class_of_failure(asked.errors) if asked.reply is None else class_of(text, finish_reason, letter),
        server=asked.server if named else None,
    )


class AnswerProxy:
    """The proxy's state. `documents`: the frozen rows by digest of their prompt; `record`: answers.jsonl.

    `on_answer` is called with every new answer. What ends the run (a server that cannot be started again, a full disk)
    is set as the exception of `failure`. `subject`: what the seals of the answers are bound to (run_files.py).
    """

    def __init__(
        self,
        pool: ServerPool,
        attempts: int,
        documents: dict[str, dict],
        record: Path,
        on_answer: Callable[[Answer], None],
        task: EvalTask = TASKS[DEFAULT_TASK],
        subject: str = "",
    ) -> None:
        self.task, self.subject = task, subject
        self.pool, self.attempts, self.documents = pool, attempts, documents
        self.record, self.on_answer = record, on_answer
        cut_half_line(record)
        self.answers = read_answers(record)
        # Others on this machine can connect, too. Without the key nobody reads a question or puts an answer in.
        self.key = secrets.token_urlsafe(KEY_BYTES)
        # The record's name is forced to the disk once, its content after each answer.
        record.touch()
        flush_to_disk(record.parent)
        self.failure: asyncio.Future = asyncio.get_running_loop().create_future()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Serve on a free port of 127.0.0.1; yield the URL of the chat completions.

        It is a port, as lm-eval knows no Unix sockets.
        """
        allow_open_files()
        app = web.Application(client_max_size=MAX_REQUEST_BYTES)
        app.router.add_post("/v1/chat/completions", self.handle)
        runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=SHUTDOWN_SECONDS,
            logger=LOGGER,
            # What a stranger sends is neither decompressed nor waited for: either would take the time of all others.
            auto_decompress=False,
            lingering_time=0,
        )
        async with self.pool.opened():
            await runner.setup()
            assert runner.server is not None  # it was set up
            self.strangers = Strangers(runner.server)
            port, listener = await self.strangers.listen()
            try:
                yield f"http://127.0.0.1:{port}/v1/chat/completions"
            finally:
                listener.close()
                await runner.cleanup()

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one chat completion from the record or from a server."""
        # aiohttp keeps bytes that are no UTF-8 as surrogates, which have no other code.
        shown = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        if not secrets.compare_digest(shown, authorization(self.key)["Authorization"].encode()):
            return web.json_response({"error": "no key of this run"}, status=401)
        if request.protocol is not None:
            self.strangers.forget(request.protocol)
        body = await request.json()
        digest = prompt_sha256(body["messages"][-1]["content"])
        if digest not in self.documents:
            return web.json_response({"error": "a prompt that is none of the frozen questions"}, status=400)
        try:
            return web.json_response(completion(await self.answer(self.documents[digest], digest, body)))
        except (InputError, OSError) as error:
            # aiohttp would only log it, and lm-eval only sees a request that failed: the run has to end here.
            self.fail(error)
            return web.json_response({"error": str(error)}, status=500)

    def fail(self, error: BaseException) -> None:
        """End the run with an error, the first one if there are several."""
        if not self.failure.done():
            self.failure.set_exception(error)

    def keep(self, answer: Answer) -> None:
        """Record an answer, and force it to the disk while the next question is asked (it took 1.3 ms)."""
        append_answer(self.record, answer, self.subject)
        self.answers[answer.record_id] = answer
        asyncio.get_running_loop().run_in_executor(None, flush_to_disk, self.record).add_done_callback(self.flushed)

    def flushed(self, done: asyncio.Future) -> None:
        """End the run if an answer could not be forced to the disk."""
        if not done.cancelled() and (error := done.exception()):
            self.fail(error)

    async def answer(self, document: dict, digest: str, body: dict) -> Answer:
        """Return the recorded answer of a question, or ask for it and record it."""
        # A run may go on under another name of the model, which changes no answer.
        request_sha256 = sha256_json({key: value for key, value in body.items() if key != "model"})
        known = self.answers.get(document["Record ID"])
        if known is None:
            named = self.pool.named
            of_question = partial(recorded, document, self.task, digest, request_sha256, named=named)
            asked = await self.pool.ask(lambda server: self.send(server, body, of_question), self.attempts)
            known = of_question(asked)
            self.keep(known)
            self.on_answer(known)
        if known.request_sha256 != request_sha256:
            raise InputError(
                self.record, f"{known.record_id} answered to the request that lm-eval sends", "to another one"
            )
        return known

    async def send(self, server: AskedServer, body: dict, of_question: Callable[[Attempts], Answer]) -> dict:
        """Send one request to a server; return the reply. Raises what `ServerPool.answered` takes for a failure.

        of_question: makes the record of a reply. One that could not be read again would end this run and all later
        ones, so it is no answer.
        """
        reply = await self.pool.request(server, "/v1/chat/completions", server.worded(body))
        reply["choices"][0]["message"], reply["choices"][0]["finish_reason"]  # a reply without them is an error
        read_line(record_line(of_question(Attempts(reply, [], 0.0, 0.0, server.name))))
        return reply
