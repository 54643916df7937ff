"""Clients without a key at the recording proxy: they end no run, and write no line into its log."""

import asyncio
import errno
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import freeze_questions
from conftest import REPO
from files.input_errors import InputError
from hostile_client import besieged, half_a_request
from llama.llama_server import LlamaServer, authorization, server_command
from makers.shared_ggufs import demo_ggufs
from scoring import strangers
from scoring.answer_proxy import AnswerProxy
from scoring.answer_record import prompt_sha256
from scoring.lm_eval_samples import read_frozen
from scoring.server_pool import AskedServer, ServerPool

import aiohttp
import psutil
import pytest

QUESTIONS, ROOM = 4, 500  # files and connections that the proxy's process may have open besides those of pytest


@pytest.fixture(scope="module")
def demo(tools, tmp_path_factory) -> Iterator[tuple[LlamaServer, Path]]:
    """A llama-server of our own, and a few frozen questions."""
    folder, gguf = tmp_path_factory.mktemp("strangers"), demo_ggufs(tmp_path_factory) / "F16.gguf"
    lines = (REPO / "data/demo/eval_questions.csv").read_text().splitlines(keepends=True)
    (folder / "few.csv").write_text("".join(lines[: QUESTIONS + 1]))
    freeze_questions.main(["--questions", str(folder / "few.csv"), "--output", str(folder / "task")])
    command = server_command(tools.tool("llama-server"), gguf, "demo", 0, ["-np", "1", "-c", "1024"])
    with LlamaServer(command, gguf, folder / "server.log") as server:
        yield server, folder / "task"


@asynccontextmanager
async def proxy_of(demo: tuple[LlamaServer, Path], record: Path) -> AsyncIterator[tuple[AnswerProxy, str]]:
    """The proxy and its URL."""
    server, task = demo
    documents = {prompt_sha256(document["prompt"]): document for document in read_frozen(task)}
    proxy = AnswerProxy(ServerPool([AskedServer("local 1", own=server)], 1, 60), 3, documents, record, lambda _: None)
    async with proxy.listening() as url:
        yield proxy, url


async def states_of(proxy: AnswerProxy, url: str) -> list[int]:
    """Ask all questions, each by a connection of its own, as lm-eval might; return the HTTP states."""
    states = []
    for document in proxy.documents.values():
        body = {"messages": [{"role": "user", "content": document["prompt"]}], "max_tokens": 16, "seed": 42}
        async with aiohttp.ClientSession(headers=authorization(proxy.key)) as session:
            async with session.post(url, json=body, timeout=aiohttp.ClientTimeout(20)) as reply:
                states.append(reply.status)
    return states


def port_of(url: str) -> int:
    return int(url.split(":")[2].split("/")[0])


@contextmanager
def few_files() -> Iterator[int]:
    """Let this process have few files open meanwhile; yield how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = psutil.Process().num_fds() + ROOM
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield most
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_connections_without_a_key_use_up_no_files(demo, tmp_path, monkeypatch, caplog):
    """1,500 half requests, whatever the limit of open files; then each question goes through."""
    monkeypatch.setattr(strangers, "OPEN_FILES", 0)  # the limit stays where it is

    async def ask() -> tuple[list[int], int]:
        async with proxy_of(demo, tmp_path / "answers.jsonl") as (proxy, url):
            with besieged(port_of(url), 1500):
                await asyncio.sleep(3)
                return await states_of(proxy, url), len(proxy.strangers.waiting)

    with few_files() as most:
        states, held = asyncio.run(ask())
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == most
    assert states == [200] * QUESTIONS and 0 < held <= strangers.MOST and not caplog.records


def test_who_shows_no_key_is_not_waited_for(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(strangers, "SECONDS", 0.5)

    async def ask() -> bytes:
        async with proxy_of(demo, tmp_path / "answers.jsonl") as (proxy, url):
            stranger = half_a_request(port_of(url))
            async with aiohttp.ClientSession(headers=authorization(proxy.key)) as session:
                for pause in (1, 0):  # the second one goes over the same connection
                    async with session.post(url, json={"messages": [{"content": "x"}]}) as reply:
                        assert reply.status == 400
                    assert len(proxy.strangers.waiting) == int(bool(pause))
                    await asyncio.sleep(pause)
            with stranger:
                stranger.settimeout(5)
                return await asyncio.to_thread(stranger.recv, 1)

    try:
        assert asyncio.run(ask()) == b""
    except ConnectionResetError:
        pass  # ended as well


def test_the_rest_of_a_request_without_a_key_is_not_read(demo, tmp_path):
    def ask(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=4) as connection:
            connection.sendall(POST + b"Content-Length: 1000000\r\n\r\na")
            said = b""
            while more := connection.recv(1 << 16):
                said += more
            return said

    async def asked() -> bytes:
        async with proxy_of(demo, tmp_path / "answers.jsonl") as (_, url):
            return await asyncio.to_thread(ask, port_of(url))

    assert b"401" in asyncio.run(asked())


def test_no_free_port_is_one_line(demo, tmp_path, monkeypatch):
    """Another user can take them all."""

    def none_left(*_: object) -> None:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    async def ask() -> None:
        async with proxy_of(demo, tmp_path / "answers.jsonl"):
            pass

    monkeypatch.setattr(strangers.socket, "create_server", none_left)
    with pytest.raises(InputError, match="127.0.0.1: expected a free port, found Address already in use"):
        asyncio.run(ask())


def test_the_limit_of_open_files_is_raised_as_far_as_it_may_be():
    with few_files() as most:
        strangers.allow_open_files()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert soft == max(most, strangers.OPEN_FILES if hard < 0 else min(hard, strangers.OPEN_FILES))


POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
RUBBISH = {
    "no UTF-8": (POST + b"Authorization: Bearer \xff\xfe\r\nContent-Length: 0\r\n\r\n", b"401"),
    "a header of 9,000 bytes": (POST + b"Authorization: " + b"a" * 9000 + b"\r\n\r\n", b"400"),
    "no HTTP": (b"\x16\x03\x01\xff\r\n\r\n", b"400"),
    "no header": (POST + b"nonsense\r\n\r\n", b"400"),
    "no length": (POST + b"Content-Length: -1\r\n\r\n", b"400"),
    "no chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", b"40"),
    "nothing that was compressed": (POST + b"Content-Encoding: deflate\r\nContent-Length: 2\r\n\r\n\xff\xff", b"401"),
    "another after it": (POST + b"Content-Length: 0\r\n\r\n\xff\xff\r\n\r\n", b"40"),
}


@pytest.mark.parametrize("name", RUBBISH)
def test_what_a_stranger_sends_stands_in_no_log(demo, tmp_path, capfd, caplog, name):
    sent, state = RUBBISH[name]

    def send(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(sent)
            answer = connection.recv(1 << 16)
            connection.shutdown(socket.SHUT_WR)
            return answer

    async def ask() -> bytes:
        async with proxy_of(demo, tmp_path / "answers.jsonl") as (_, url):
            answer = await asyncio.to_thread(send, port_of(url))
            await asyncio.sleep(0.1)
            return answer

    assert asyncio.run(ask()).split()[1].startswith(state)
    assert not caplog.records and capfd.readouterr() == ("", "")
