"""The servers of an evaluation: which one gets the next question, and what becomes of one that fails.

A question goes to the least busy server that is well. A server that dies, falls silent or answers with an error is left
out and its question goes elsewhere, by itself. One of ours is started again; another is looked at again from time to
time, and comes back when it serves the same model as before. The answers do not depend on how many servers there are:
each has the same model, and as many requests at once as the protocol says.
"""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from files.input_errors import InputError
from llama.llama_server import MAX_ANSWER_BYTES, POLL_SECONDS, LlamaServer, authorization
from scoring.answer_classes import is_parser_error

import aiohttp

WATCH_SECONDS = 5  # how often a server that has not answered yet is asked whether it still listens
SILENT_SECONDS = 120  # without any word to that, a server counts as hung
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1, 60  # between two looks at a server that is left out
GIVE_UP_SECONDS = 600  # without any server that is well; ours are not waited for, as they were started again
ERROR_CHARACTERS = 300  # of a failed attempt, as recorded
# A shorter key ("none", "EMPTY") is no secret and may be a word of an answer, which stays as the model wrote it.
LEAST_KEY = 16
NO_ANSWER = (aiohttp.ClientError, ConnectionError, TimeoutError)
# An answer that is no JSON, or another JSON.
NO_COMPLETION = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError)
Reply = tuple[dict[str, Any] | None, str]  # a server's JSON, or None and what went wrong


class RefusedRequest(ValueError):
    """A server's answer that is no success, as `HTTP CODE: its words`."""


@dataclass
class AskedServer:
    """A server as the pool knows it. name: as recorded with answers; own: the process, where we started it.

    worded: a chat completion as this server takes it; running: requests at work; kept: one request has it, or waits to
    have it, alone; trouble: why it is left out.
    """

    name: str
    given_url: str = ""
    key: str = field(default="", repr=False)
    own: LlamaServer | None = None
    worded: Callable[[dict], dict] = dict
    running: int = 0
    kept: bool = False
    well: bool = True
    ill_since: float = 0.0
    trouble: Exception | None = None

    @property
    def url(self) -> str:
        """The address. One of ours has another one after each start."""
        return self.own.url if self.own else self.given_url

    @property
    def shown_key(self) -> str:
        """The key that requests show. One of ours has another one after each start."""
        return self.own.key if self.own else self.key

    @property
    def headers(self) -> dict[str, str]:
        """What shows the server its key."""
        return authorization(self.shown_key) if self.shown_key else {}

    def without_key(self, words: str) -> str:
        """Return a server's words without its key, which some repeat in a refusal: they reach logs and records."""
        for form in (self.shown_key, json.dumps(self.shown_key)[1:-1]):
            words = words.replace(form, "...") if form else words
        return words

    def answer_without_key(self, value: Any) -> Any:
        """Return an answer whose texts do not hold the key. A short one stays: it may be a word of the model's."""
        if len(self.shown_key) < LEAST_KEY:
            return value
        if isinstance(value, str):
            return self.without_key(value)
        if isinstance(value, list):
            return [self.answer_without_key(one) for one in value]
        if isinstance(value, dict):
            return {self.without_key(name): self.answer_without_key(one) for name, one in value.items()}
        return value

    @property
    def alive(self) -> bool:
        """Whether the process runs, as far as we can know: that of another's server we cannot."""
        return self.own is None or self.own.alive


@dataclass(frozen=True)
class Attempts:
    """What became of all attempts at one request. reply: None when every attempt failed; server: the last one's."""

    reply: dict[str, Any] | None
    errors: list[str]
    asked_at: float
    seconds: float
    server: str


async def bounded(answer: aiohttp.ClientResponse) -> bytes:
    """Return an answer's body; raise ValueError when it is larger than any answer of ours."""
    body = bytearray()
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            raise ValueError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


def certificates_for(servers: list[AskedServer]) -> ssl.SSLContext | bool:
    """Return by what the certificates of servers are verified; without an https server none is."""
    if not any(server.url.startswith("https:") for server in servers):
        return True
    try:
        return ssl.create_default_context()
    except OSError as error:  # what it says names no file
        raise InputError("SSLKEYLOGFILE, SSL_CERT_FILE", "files that can be used", str(error.strerror)) from error


def connector_to(server: AskedServer, certificates: ssl.SSLContext | bool) -> aiohttp.BaseConnector:
    """Return the way to a server: its own socket, or its address."""
    if server.own and server.own.socket:
        return aiohttp.UnixConnector(server.own.socket, limit=0)
    return aiohttp.TCPConnector(limit=0, ssl=certificates)


class ServerPool:
    """The servers, and who works at which. room: requests at once for each; check: raises InputError of a wrong one."""

    def __init__(
        self,
        servers: list[AskedServer],
        room: int,
        timeout_seconds: float,
        check: Callable[["ServerPool", AskedServer], Awaitable[None]] | None = None,
    ) -> None:
        self.servers, self.room, self.timeout_seconds, self.check = servers, room, timeout_seconds, check
        self.waiting: list[asyncio.Future] = []
        self.nurses: set[asyncio.Task] = set()
        self.sessions: dict[str, aiohttp.ClientSession] = {}
        self.lost: BaseException | None = None

    @property
    def named(self) -> bool:
        """Whether answers say which server gave them; a single one of ours is not worth a word."""
        return len(self.servers) > 1 or self.servers[0].own is None

    @property
    def places(self) -> int:
        """How many requests can be at work."""
        return self.room * len(self.servers)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["ServerPool"]:
        """Check every server; then let requests through until the block ends."""
        timeout, certificates = aiohttp.ClientTimeout(total=self.timeout_seconds), certificates_for(self.servers)
        async with AsyncExitStack() as opened:
            for server in self.servers:
                session = aiohttp.ClientSession(
                    timeout=timeout, connector=connector_to(server, certificates), cookie_jar=aiohttp.DummyCookieJar()
                )
                self.sessions[server.name] = await opened.enter_async_context(session)
            try:
                if self.check:
                    for server in self.servers:
                        await self.check(self, server)
                yield self
            finally:
                for nurse in self.nurses:
                    nurse.cancel()
                await asyncio.gather(*self.nurses, return_exceptions=True)

    async def request(self, server: AskedServer, path: str, body: dict | None = None) -> Any:
        """GET a path of a server, or POST a JSON body; return its JSON. Raises NO_ANSWER or ValueError.

        A redirection is not followed: it could lead anywhere.
        """
        method, url = "GET" if body is None else "POST", f"{server.url}{path}"
        try:
            async with self.sessions[server.name].request(
                method, url, json=body, headers=server.headers, allow_redirects=False
            ) as answer:
                content = await bounded(answer)
                if answer.status != 200:
                    words = server.without_key(content.decode(errors="replace"))[:ERROR_CHARACTERS]
                    raise RefusedRequest(f"HTTP {answer.status}: {words}")
                return server.answer_without_key(json.loads(content))
        except (aiohttp.ClientError, ValueError) as error:
            # aiohttp quotes what is no HTTP.
            if (words := server.without_key(str(error))) == str(error):
                raise
            raise RefusedRequest(f"{type(error).__name__}: {words}"[:ERROR_CHARACTERS]) from None

    async def ask(self, work: Callable[[AskedServer], Awaitable[dict]], attempts: int) -> Attempts:
        """Let a server do the work, and again after each failure that another attempt may mend.

        Whoever is asked again is asked alone. Else a question that makes a server crash would use up the attempts of
        its neighbours.
        """
        asked_at, begin, reply, server = 0.0, 0.0, None, None
        errors: list[str] = []
        while reply is None and len(errors) < attempts:
            async with self.place(alone=bool(errors), after=server) as server:
                if not asked_at:  # the time in which a request waited for a place is not the server's
                    asked_at, begin = time.time(), time.monotonic()
                reply, error = await self.attempt(server, work)
                if reply is None:
                    errors.append(error)
                    if is_parser_error(error):  # each attempt would be a whole generation, to the same end
                        break
                    # What a question did to a server of ours until the end, the server itself has outlived.
                    if len(errors) < attempts or server.own is None or not server.alive:
                        self.leave_out(server)
        return Attempts(reply, errors, asked_at, time.monotonic() - begin, server.name if server else "")

    async def attempt(self, server: AskedServer, work: Callable[[AskedServer], Awaitable[dict]]) -> Reply:
        """Do the work once; return the reply, or None and what went wrong.

        Meanwhile the server is watched. A llama-server that is terminated while it answers closes its port, but neither
        ends nor answers; one that is frozen says nothing at all: the request would wait for hours.
        """
        request, heard_at = asyncio.ensure_future(self.answered(server, work)), time.monotonic()
        try:
            while not (await asyncio.wait({request}, timeout=WATCH_SECONDS))[0]:
                listens = await self.listens(server)
                if listens is False:
                    return None, "the server listens no longer"
                heard_at = time.monotonic() if listens else heard_at
                if time.monotonic() - heard_at > SILENT_SECONDS:
                    return None, f"the server was silent for {SILENT_SECONDS} s"
            return request.result()
        finally:
            request.cancel()

    async def answered(self, server: AskedServer, work: Callable[[AskedServer], Awaitable[dict]]) -> Reply:
        """Return the reply of the work, or None and what went wrong."""
        try:
            reply = await work(server)
        except RefusedRequest as error:
            return None, str(error)
        except (*NO_ANSWER, *NO_COMPLETION) as error:
            return None, f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS]
        # Of a server that has ended meanwhile, somebody else may have taken the port.
        return (reply, "") if server.alive else (None, "the server has ended")

    async def listens(self, server: AskedServer) -> bool | None:
        """Whether a server takes connections; None for one that takes them and says nothing for a while."""
        timeout = aiohttp.ClientTimeout(total=WATCH_SECONDS)
        try:
            session = self.sessions[server.name]
            asked = session.get(f"{server.url}/health", timeout=timeout, headers=server.headers, allow_redirects=False)
            async with asked:
                return True
        except aiohttp.ClientConnectorError:  # refused: before the next one, whose subclass it is
            return False
        except (aiohttp.ClientError, OSError):  # a busy server may time out
            return None

    @asynccontextmanager
    async def place(self, alone: bool, after: AskedServer | None) -> AsyncIterator[AskedServer]:
        """Wait for a place at a server, not the one that failed before if another is well."""
        server = await (self.whole(after) if alone else self.shared())
        server.running += 1
        try:
            yield server
        finally:
            server.running -= 1
            server.kept = server.kept and not alone
            self.wake()

    async def shared(self) -> AskedServer:
        """Wait for the least busy server that has room."""
        while True:
            free = [server for server in self.free() if server.running < self.room]
            if free:
                return min(free, key=lambda server: server.running)
            await self.change()

    async def whole(self, after: AskedServer | None) -> AskedServer:
        """Wait until a server has no other request, and keep others out of it."""
        while True:
            free = self.free()
            if not free:
                await self.change()
                continue
            server = min([one for one in free if one is not after] or free, key=lambda server: server.running)
            server.kept, empty = True, False
            try:
                while server.well and server.running:
                    await self.change()
                empty = server.well
            finally:
                server.kept = empty
            if empty:
                return server

    def free(self) -> list[AskedServer]:
        """Return the servers that take requests; raise what ended the last of them."""
        if self.lost:
            raise self.lost
        return [server for server in self.servers if server.well and not server.kept]

    async def change(self) -> None:
        """Wait until something has changed: a place, or the state of a server."""
        self.waiting.append(asyncio.get_running_loop().create_future())
        await self.waiting[-1]

    def wake(self) -> None:
        """Let all who wait look again, in the order in which they came."""
        waiting, self.waiting = self.waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def leave_out(self, server: AskedServer) -> None:
        """Give a server no more requests until it is well again."""
        if server.well:
            server.well, server.ill_since, server.trouble = False, time.monotonic(), None
            nurse = asyncio.create_task(self.nursed(server))
            self.nurses.add(nurse)
            nurse.add_done_callback(self.nursing_ended)

    def nursing_ended(self, nurse: asyncio.Task) -> None:
        """End the run by what nobody foresaw, and wake those who wait for the server."""
        self.nurses.discard(nurse)
        if not nurse.cancelled() and nurse.exception():
            self.lost = nurse.exception()
        self.wake()

    async def nursed(self, server: AskedServer) -> None:
        """Bring a server back, once the requests that it still has are through."""
        while server.running:
            await self.change()
        pause = FIRST_PAUSE_SECONDS
        while not await self.mended(server):
            if all(self.hopeless(other) for other in self.servers):
                self.lost = server.trouble
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        server.well = True

    async def mended(self, server: AskedServer) -> bool:
        """Start a server of ours anew, and check whether it is as it was."""
        try:
            if server.own:
                server.own.stop()
                for _ in server.own.starting():
                    await asyncio.sleep(POLL_SECONDS)
            if self.check:
                await self.check(self, server)
        except (InputError, OSError) as error:
            server.trouble = error
        else:
            server.trouble = None
        return server.trouble is None

    def hopeless(self, server: AskedServer) -> bool:
        """Whether a server is not worth waiting for."""
        if server.well or server.trouble is None:
            return False
        return server.own is not None or time.monotonic() - server.ill_since > GIVE_UP_SECONDS
