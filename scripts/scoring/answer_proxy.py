"""A proxy between lm-eval and llama-server that records every answer as it happens and never asks twice.

lm-eval drops reasoning, finish reason and token counts, and loses a whole run to one HTTP 500. So it talks to this
proxy. A recorded question is answered from the record, any other one by the server. A server that dies, hangs or
answers with an error is restarted, and the question is asked again, by itself. When the attempts are used up, lm-eval
gets an empty answer, which counts as invalid; so it does at once when the server's parser fails on what the model
wrote: with one seed the model writes the same again. lm-eval's run and score stay its own.
"""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from files.safe_files import InputError, flush_to_disk, sha256_json
from llama.llama_server import KEY_BYTES, MAX_ANSWER_BYTES, LlamaServer, authorization
from scoring.answer_record import (
    Answer,
    append_answer,
    class_of,
    class_of_failure,
    cut_half_line,
    flexible_letter,
    is_parser_error,
    prompt_sha256,
    read_answers,
)
from scoring.eval_protocol import Protocol

import aiohttp
from aiohttp import web

MAX_REQUEST_BYTES = 64 << 20
SHUTDOWN_SECONDS = 0.1  # for requests that still run at the end, which is then that of a failure or of Ctrl-C
WATCH_SECONDS = 5  # how often a server that has not answered yet is asked whether it still listens
ERROR_CHARACTERS = 300  # of a failed attempt, as recorded
NO_ANSWER = (aiohttp.ClientError, ConnectionError, TimeoutError)
NO_COMPLETION = (ValueError, KeyError, IndexError, TypeError)  # an answer that is no JSON, or another JSON


@dataclass(frozen=True)
class Attempts:
    """What became of all attempts at one request. reply: the server's JSON, None when every attempt failed."""

    reply: dict[str, Any] | None
    errors: list[str]
    asked_at: float
    seconds: float


def completion(answer: Answer) -> dict:
    """Return what lm-eval reads of a chat completion."""
    message = {"role": "assistant", "content": answer.answer}
    return {"choices": [{"index": 0, "message": message, "finish_reason": answer.finish_reason}]}


def recorded(document: dict, digest: str, request_sha256: str, asked: Attempts) -> Answer:
    """Return the record of one question; `digest` is that of its prompt."""
    reply = asked.reply or {"choices": [{"message": {}, "finish_reason": None}]}
    message, finish_reason = reply["choices"][0]["message"], reply["choices"][0]["finish_reason"]
    text, usage = message.get("content") or "", reply.get("usage", {})
    letter, target = flexible_letter(text, document["choices"]), document["answer"].strip("()")
    return Answer(
        record_id=document["Record ID"],
        prompt_sha256=digest,
        request_sha256=request_sha256,
        answer=text,
        reasoning=message.get("reasoning_content") or "",
        finish_reason=finish_reason,
        prompt_tokens=usage.get("prompt_tokens", 0),
        completion_tokens=usage.get("completion_tokens", 0),
        asked_at=round(asked.asked_at, 3),
        seconds=round(asked.seconds, 3),
        attempts=len(asked.errors) + (asked.reply is not None),
        errors=asked.errors,
        letter=letter,
        target=target,
        correct=letter == target,
        kind=class_of_failure(asked.errors) if asked.reply is None else class_of(text, finish_reason, letter),
    )


async def bounded(answer: aiohttp.ClientResponse) -> bytes:
    """Return an answer's body; raise ValueError when it is larger than any answer of ours."""
    body = bytearray()
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            raise ValueError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


class AnswerProxy:
    """The proxy's state. `documents`: the frozen rows by digest of their prompt; `record`: answers.jsonl.

    `on_answer` is called with every new answer. What ends the run (a server that cannot be started again, a full disk)
    is set as the exception of `failure`.
    """

    def __init__(
        self,
        server: LlamaServer,
        protocol: Protocol,
        documents: dict[str, dict],
        record: Path,
        on_answer: Callable[[Answer], None],
    ) -> None:
        self.server, self.protocol, self.documents = server, protocol, documents
        self.record, self.on_answer = record, on_answer
        cut_half_line(record)
        self.answers = read_answers(record)
        # Others on this machine can connect, too. Without the key nobody reads a question or puts an answer in.
        self.key = secrets.token_urlsafe(KEY_BYTES)
        # The record's name is forced to the disk once, its content after each answer.
        record.touch()
        flush_to_disk(record.parent)
        self.failure: asyncio.Future = asyncio.get_running_loop().create_future()
        # lm-eval sends one request more than the protocol allows. That one waits here for a place: so the server gets
        # its next question the moment it has answered one, not after lm-eval has made another request.
        self.places = asyncio.Semaphore(protocol.concurrency)
        self.turn = asyncio.Lock()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Serve on a free port of 127.0.0.1; yield the URL of the chat completions."""
        app = web.Application(client_max_size=MAX_REQUEST_BYTES)
        app.router.add_post("/v1/chat/completions", self.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        await runner.setup()
        timeout = aiohttp.ClientTimeout(total=self.protocol.timeout_seconds)
        headers = authorization(self.server.key)
        async with aiohttp.ClientSession(timeout=timeout, headers=headers) as self.session:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            try:
                yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1/chat/completions"
            finally:
                await runner.cleanup()

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one chat completion from the record or from the server."""
        shown = request.headers.get("Authorization", "").encode()
        if not secrets.compare_digest(shown, authorization(self.key)["Authorization"].encode()):
            return web.json_response({"error": "no key of this run"}, status=401)
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
        append_answer(self.record, answer)
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
            known = recorded(document, digest, request_sha256, await self.ask(body))
            self.keep(known)
            self.on_answer(known)
        if known.request_sha256 != request_sha256:
            raise InputError(
                self.record, f"{known.record_id} answered to the request that lm-eval sends", "to another one"
            )
        return known

    async def ask(self, body: dict) -> Attempts:
        """Ask the server, and again after each failure that another attempt may mend, up to the protocol's attempts."""
        asked_at, begin, reply, starts = 0.0, 0.0, None, self.server.starts
        errors: list[str] = []
        while reply is None and len(errors) < self.protocol.attempts:
            place: AbstractAsyncContextManager[None] = self.alone() if errors else self.places
            async with place:
                if not asked_at:  # the time in which a request waited for a place is not the server's
                    asked_at, begin = time.time(), time.monotonic()
                # Where the failure of another request has led to a restart since, this one needs none of its own.
                if errors and (self.server.starts == starts or not self.server.alive):
                    self.server.restart()
                starts = self.server.starts
                reply, error = await self.attempt(body)
                if reply is None:
                    errors.append(error)
            if is_parser_error(error):  # each attempt would be a whole generation, to the same end
                break
        return Attempts(reply, errors, asked_at, time.monotonic() - begin)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Wait until no other request runs, and keep others out.

        A restart ends every request that runs, and each would count that as a failed attempt of its own. A question
        that makes the server crash would use up the attempts of its neighbours, if it were asked again beside them.
        """
        # Without the lock two that each hold some of the places would wait for each other for ever.
        async with self.turn:
            for _ in range(self.protocol.concurrency):
                await self.places.acquire()
            try:
                yield
            finally:
                for _ in range(self.protocol.concurrency):
                    self.places.release()

    async def attempt(self, body: dict) -> tuple[dict | None, str]:
        """Send one request; return the reply, or None and what went wrong.

        Meanwhile the server's port is watched. A llama-server that is terminated while it answers closes its port, but
        neither ends nor answers: the request would wait for its timeout, which may be hours away.
        """
        request = asyncio.ensure_future(self.send(body))
        try:
            while not (await asyncio.wait({request}, timeout=WATCH_SECONDS))[0]:
                if not await self.listens():
                    return None, "the server listens no longer"
            return request.result()
        finally:
            request.cancel()

    async def listens(self) -> bool:
        """Whether the server takes connections. One that is slow to do so counts as listening."""
        url, timeout = f"{self.server.url}/health", aiohttp.ClientTimeout(total=WATCH_SECONDS)
        try:
            async with self.session.get(url, timeout=timeout):
                return True
        except aiohttp.ClientConnectorError:  # refused: before the next one, whose subclass it is
            return False
        except (aiohttp.ClientError, OSError):  # a busy server may time out
            return True

    async def send(self, body: dict) -> tuple[dict | None, str]:
        """Send one request; return the reply, or None and what went wrong."""
        try:
            async with self.session.post(f"{self.server.url}/v1/chat/completions", json=body) as answer:
                if answer.status != 200:
                    said = (await bounded(answer)).decode(errors="replace")
                    return None, f"HTTP {answer.status}: {said[:ERROR_CHARACTERS]}"
                reply = json.loads(await bounded(answer))
                reply["choices"][0]["message"], reply["choices"][0]["finish_reason"]  # a reply without them is an error
                # Of a server that has ended meanwhile, somebody else may have taken the port.
                return (reply, "") if self.server.alive else (None, "the server has ended")
        except (*NO_ANSWER, *NO_COMPLETION) as error:
            return None, f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS]
