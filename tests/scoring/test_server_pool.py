"""Several real llama-servers: the same answers as one gives, whatever happens to some of them."""

import asyncio
import json
import os
import random
import shutil
import signal
import ssl
import subprocess
from argparse import Namespace
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import freeze_questions
from calls import ON_A_PORT
from conftest import REPO
from files.input_errors import InputError
from llama.llama_server import LlamaServer, server_command, server_environment
from llama.llama_tools import LlamaCpp
from makers.asked_pool import answers_of, ask_pool
from makers.shared_ggufs import demo_ggufs, link_f16
from scoring import server_pool
from scoring.answer_record import Answer, read_answers
from scoring.asked_servers import asked_servers, given_servers, local_commands
from scoring.eval_protocol import Protocol
from scoring.lm_eval_run import lm_eval_environment
from scoring.served_model import build_of
from scoring.server_pool import NO_ANSWER, AskedServer, ServerPool

import aiohttp
import pytest
from aiohttp import web

QUESTIONS = 18
PROTOCOL = Protocol(context=1024, reasoning_budget=4, max_gen_toks=64)  # a budget that cuts thoughts off


@pytest.fixture(scope="session")
def asked(tmp_path_factory) -> Path:
    """A folder with the demo's F16 GGUF and the frozen task of a few of its questions."""
    folder = tmp_path_factory.mktemp("asked")
    lines = (REPO / "data/demo/eval_questions.csv").read_text().splitlines(keepends=True)
    (folder / "few.csv").write_text("".join(lines[: QUESTIONS + 1]))
    link_f16(demo_ggufs(tmp_path_factory), folder / "demo.gguf")
    freeze_questions.main(["--questions", str(folder / "few.csv"), "--output", str(folder / "task")])
    return folder


@pytest.fixture(scope="session")
def protocol(tools) -> Protocol:
    return Protocol(**vars(PROTOCOL) | {"llama_cpp": LlamaCpp(tools.directory).version()})


def started(tools, gguf: Path, log: Path, flags: list[str]) -> LlamaServer:
    command = server_command(tools.tool("llama-server"), gguf, "demo", 0, [*ON_A_PORT, *flags])
    return LlamaServer(command, gguf, log)


@pytest.fixture(scope="session")
def others(asked, tools, protocol, tmp_path_factory) -> Iterator[list[LlamaServer]]:
    """Three llama-servers of somebody else's: with the flags of the protocol that no request can say."""
    folder, flags = tmp_path_factory.mktemp("others"), ["-c", str(protocol.context), "-np", "1"]
    with ExitStack() as stack:
        yield [stack.enter_context(started(tools, asked / "demo.gguf", folder / f"{n}.log", flags)) for n in range(3)]


def ask_servers(
    asked: Path,
    tools,
    protocol: Protocol,
    output: Path,
    on_answer: Callable[[Answer, ServerPool], None] = lambda answer, pool: None,
    **options: object,
) -> dict:
    """Ask all questions of given or local servers as ask_questions.py does; return what was answered."""
    values = {"gguf": asked / "demo.gguf", "servers": [], "local_servers": "1", "port": "0", **options}
    output.mkdir(exist_ok=True)
    arguments = (Namespace(**values), tools.tool("llama-server"), "demo", protocol, output / "server.log", 1)
    with asked_servers(*arguments) as pool:
        record = output / "answers.jsonl"
        states = asyncio.run(ask_pool(pool, asked / "task", record, lambda answer: on_answer(answer, pool)))
    assert states == [200] * QUESTIONS
    return answers_of(record)


def by_address(servers: list[LlamaServer], monkeypatch) -> list[str]:
    """The servers' addresses; their keys go into the environment."""
    for number, server in enumerate(servers, start=1):
        monkeypatch.setenv(f"SERVER_KEY_{number}", server.key)
    return [server.url for server in servers]


@pytest.fixture(scope="session")
def alone(asked, tools, protocol, tmp_path_factory) -> dict:
    """What one server of ours answers."""
    output = tmp_path_factory.mktemp("alone")
    found = ask_servers(asked, tools, protocol, output)
    unlimited = Protocol(**vars(protocol) | {"reasoning_budget": 1000})
    assert ask_servers(asked, tools, unlimited, tmp_path_factory.mktemp("unlimited")) != found
    assert '"server"' not in (output / "answers.jsonl").read_text()  # as it was before there were several
    return found


@pytest.mark.parametrize("count", [1, 2, 3])
def test_given_servers_answer_as_one_of_ours(asked, tools, protocol, others, alone, tmp_path, monkeypatch, count):
    addresses = by_address(others[:count], monkeypatch)
    assert ask_servers(asked, tools, protocol, tmp_path, servers=addresses) == alone
    asked_of = {answer.server for answer in read_answers(tmp_path / "answers.jsonl").values()}
    assert asked_of == set(addresses)
    for path in tmp_path.rglob("*"):
        assert not any(server.key.encode() in path.read_bytes() for server in others)


def test_one_of_ours_that_is_killed_at_a_random_moment_is_started_again(asked, tools, protocol, alone, tmp_path):
    moment, starts = random.randrange(1, QUESTIONS - 4), []

    def kill(answer: Answer, pool: ServerPool) -> None:
        starts[:] = [server.own.starts for server in pool.servers]
        if len(read_answers(tmp_path / "answers.jsonl")) == moment:
            pool.servers[moment % 2].own.process.kill()

    assert ask_servers(asked, tools, protocol, tmp_path, kill, local_servers="2") == alone, f"killed at {moment}"
    answers = read_answers(tmp_path / "answers.jsonl").values()
    assert {answer.server for answer in answers} == {"local 1", "local 2"}
    assert max(answer.attempts for answer in answers) <= 2 and (tmp_path / "server-2.log").is_file()


def test_the_question_of_a_frozen_server_goes_elsewhere(asked, tools, protocol, others, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(server_pool, "WATCH_SECONDS", 1)
    monkeypatch.setattr(server_pool, "SILENT_SECONDS", 3)
    addresses, states = by_address(others[:2], monkeypatch), []

    def freeze(answer: Answer, pool: ServerPool) -> None:
        states.append(pool.servers[0].well)
        if len(states) == 3:
            others[0].process.send_signal(signal.SIGSTOP)

    try:
        assert ask_servers(asked, tools, protocol, tmp_path, freeze, servers=addresses) == alone
    finally:
        others[0].process.send_signal(signal.SIGCONT)
    answers = list(read_answers(tmp_path / "answers.jsonl").values())
    errors = [error for answer in answers for error in answer.errors]
    assert len(errors) == 1 and "silent" in errors[0] and not states[-1]
    assert [answer.server for answer in answers[3:]].count(addresses[0]) <= 1  # what was on its way before


@asynccontextmanager
async def front_of(server: LlamaServer, failing: Callable[[], bool]) -> AsyncIterator[str]:
    """A real HTTP server that hands everything on to a llama-server, or answers 500 to everything; its address."""

    async def hand_on(request: web.Request) -> web.Response:
        if failing():
            return web.json_response({"error": "broken"}, status=500)
        body = await request.json() if request.method == "POST" else None
        return web.json_response(await asyncio.to_thread(server.request, request.path, body))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", hand_on)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def pool_of(addresses: dict[str, str]) -> ServerPool:
    """A pool of servers that are well when they tell their properties; addresses: with their keys."""

    async def check(pool: ServerPool, server: AskedServer) -> None:
        try:
            await pool.request(server, "/props")
        except (*NO_ANSWER, ValueError) as error:
            raise InputError(server.name, "a server", str(error)) from error

    return ServerPool([AskedServer(url, url, key) for url, key in addresses.items()], 1, 600, check)


def test_one_that_answers_500_to_all_gets_no_more_questions(asked, others, tmp_path):
    done: list[Answer] = []
    requests = count(1)  # the first one is the check's: how many questions it gets before it breaks, nobody knows

    async def ask() -> None:
        async with front_of(others[0], lambda: next(requests) > 1) as front:
            pool = pool_of({front: "", others[1].url: others[1].key})
            await ask_pool(pool, asked / "task", tmp_path / "answers.jsonl", done.append)

    asyncio.run(ask())
    assert {answer.kind for answer in done} <= {"answered", "truncated", "no letter"} and len(done) == QUESTIONS
    errors = [error for answer in done for error in answer.errors]
    assert len(errors) == 1 and errors[0].startswith("HTTP 500")
    assert {answer.server for answer in done} == {others[1].url}


def test_a_server_that_is_well_again_gets_questions_again(others):
    """The one that failed answers nothing else meanwhile, and the question goes to the other one."""
    broken = [True]

    async def ask() -> None:
        async with front_of(others[0], lambda: broken[0]) as front:
            pool = pool_of({others[1].url: others[1].key, front: ""})
            async with pool_opened_while(pool, broken):
                one, two = await asyncio.gather(*(pool.ask(work(pool), 3) for _ in range(2)))
                assert (one.errors, one.server) == ([], others[1].url)
                assert len(two.errors) == 1 and two.server == others[1].url and not pool.servers[1].well
                broken[0] = False
                async with asyncio.timeout(60):
                    while not pool.servers[1].well:
                        await asyncio.sleep(0.05)
                answered = await asyncio.gather(*(pool.ask(work(pool), 3) for _ in range(2)))
                assert {attempts.server for attempts in answered} == {others[1].url, front}
                assert not [error for attempts in answered for error in attempts.errors]

    asyncio.run(ask())


def work(pool: ServerPool) -> Callable[[AskedServer], Awaitable[dict]]:
    """A question of one token."""
    return lambda server: pool.request(server, "/completion", {"prompt": "The", "n_predict": 1})


@asynccontextmanager
async def pool_opened_while(pool: ServerPool, broken: list[bool]) -> AsyncIterator[None]:
    """Open a pool while all its servers are well; then let one break."""
    broken[0] = False
    async with pool.opened():
        broken[0] = True
        yield


def test_without_any_server_the_run_ends_in_one_line_and_goes_on_later(asked, others, tmp_path, monkeypatch):
    monkeypatch.setattr(server_pool, "GIVE_UP_SECONDS", 1)
    done: list[Answer] = []

    async def ask(failing: Callable[[], bool]) -> None:
        async with front_of(others[0], failing) as front:
            await ask_pool(pool_of({front: ""}), asked / "task", tmp_path / "answers.jsonl", done.append)

    with pytest.raises(InputError, match="HTTP 500") as error:
        asyncio.run(ask(lambda: len(done) >= 3))
    assert len(str(error.value).splitlines()) == 1 and str(error.value).startswith("http://127.0.0.1")
    assert len(done) == 3  # what no server could answer counts as unanswered, not as wrong
    asyncio.run(ask(lambda: False))
    assert len(read_answers(tmp_path / "answers.jsonl")) == QUESTIONS


def test_a_server_with_something_else_is_refused_by_its_name(
    asked, tools, protocol, others, tmp_path, monkeypatch, tmp_path_factory
):
    """Other weights of the same sizes show in what the server writes, even where its file cannot be read."""
    other = tmp_path / "other.gguf"
    content = bytearray((asked / "demo.gguf").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200_000] = bytes(200_000)
    other.write_bytes(content)
    flags = ["-c", str(protocol.context), "-np", "1"]

    def refused(address: str, key: str, *words: str) -> None:
        addresses = by_address(others[:1], monkeypatch)
        monkeypatch.setenv("SERVER_KEY_2", key)
        with pytest.raises(InputError) as error:
            ask_servers(asked, tools, protocol, tmp_path / "run", servers=[*addresses, address])
        assert str(error.value).startswith(address) and len(str(error.value).splitlines()) == 1
        assert all(word in str(error.value) for word in words), error.value

    with started(tools, other, tmp_path / "other.log", flags) as server:
        refused(server.url, server.key, "the model with sha256")
        other.unlink()
        refused(server.url, server.key, "the log-probabilities of the first server", "another model")
        refused(server.url, "wrong key", "HTTP 401")
        gone = server.url
    refused(gone, "", "a llama-server that answers", "Connect")
    with started(tools, asked / "demo.gguf", tmp_path / "wide.log", ["-c", "4096", "-np", "2"]) as server:
        refused(server.url, server.key, "1024 tokens of context", "found 2048", "-np NP")
    assert not (tmp_path / "run/answers.jsonl").read_bytes()


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that no authority has signed; return it and its key."""
    files = (folder / "cert.pem", folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, *names, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    return files


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl, which makes the certificate")
def test_a_certificate_is_verified(tmp_path, monkeypatch):
    cert, key = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    seen = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.json_response({})

    async def ask() -> None:
        app = web.Application()
        app.router.add_get("/props", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        url = f"https://127.0.0.1:{runner.addresses[0][1]}"
        try:
            async with ServerPool([AskedServer(url, url, "secret")], 1, 60).opened() as pool:
                await pool.request(pool.servers[0], "/props")
        finally:
            await runner.cleanup()

    with pytest.raises(aiohttp.ClientError, match="CERTIFICATE_VERIFY_FAILED"):
        asyncio.run(ask())
    assert not seen
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "none/keys"))
    with pytest.raises(InputError, match="SSLKEYLOGFILE, SSL_CERT_FILE: expected files that can be used"):
        asyncio.run(ask())
    monkeypatch.delenv("SSLKEYLOGFILE")
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    asyncio.run(ask())
    assert seen == ["Bearer secret"]


async def asked_with(key: str, answer: Callable[[web.Request], Awaitable[web.Response]]) -> Any:
    """Return what a server with a key answers to one request; answer: the server's."""
    app = web.Application()
    app.router.add_get("/props", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with ServerPool([AskedServer(url, url, key)], 1, 60).opened() as pool:
            return await pool.request(pool.servers[0], "/props")
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    "key, said", [("a key of many letters", "..."), ('a "key" of many letters', "..."), ("EMPTY", "EMPTY")]
)
def test_an_answer_that_repeats_the_key_is_taken_without_it(key, said):
    """It goes into records and the log. A key that is a word stays: an answer is what the model wrote."""

    async def answer(request: web.Request) -> web.Response:
        words = json.dumps({"content": [f"é {request.headers['Authorization']}"]}).replace("o", r"\u006f")
        return web.Response(text=words.replace(r"c\u006fntent", "content"), content_type="application/json")

    assert asyncio.run(asked_with(key, answer)) == {"content": [f"é Bearer {said}"]}


@pytest.mark.parametrize("key", ["secret", 'se"cr\\et'])
def test_a_refusal_that_repeats_the_key_is_told_without_it(key):
    async def answer(request: web.Request) -> web.Response:
        words = f"Invalid token: {request.headers['Authorization']}"
        return web.json_response({"error": words, "x": key * 200}, status=401)

    with pytest.raises(server_pool.RefusedRequest, match="HTTP 401: .*Invalid token: Bearer [.]{3}") as error:
        asyncio.run(asked_with(key, answer))
    assert "cr" not in str(error.value)


def test_what_is_no_http_and_repeats_the_key_is_told_without_it():
    async def ask() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"Invalid token: Bearer secret\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, ServerPool([AskedServer(url, url, "secret")], 1, 60).opened() as pool:
            await pool.request(pool.servers[0], "/props")

    with pytest.raises(server_pool.RefusedRequest, match="Bearer [.]{3}") as error:
        asyncio.run(ask())
    assert "secret" not in str(error.value) and error.value.__suppress_context__


def test_addresses_and_keys():
    keys = {"SERVER_KEY": "all", "SERVER_KEY_2": "second"}
    servers = given_servers(["https://a:8080/", "https://b"], keys)
    assert [(server.url, server.key) for server in servers] == [("https://a:8080", "all"), ("https://b", "second")]
    assert [server.key for server in given_servers(["http://127.0.0.1:1"], keys)] == ["all"]
    for addresses, words in (
        (["http://a:8080"], "an https address"),
        (["https://me:secret@a"], "without keys"),
        (["ftp://a"], "addresses such as"),
        (["https://a", "https://a/"], "every address once"),
    ):
        with pytest.raises(InputError, match=words):
            given_servers(addresses, keys)
    assert not {*server_environment(keys), *lm_eval_environment(keys, Path("x"), "k")} & keys.keys()
    assert not {"HF_TOKEN", "OPENAI_API_KEY"} & {*server_environment({"HF_TOKEN": "hf_x", "OPENAI_API_KEY": "sk-x"})}


def test_no_message_holds_what_may_be_a_password(tmp_path):
    """Nor does a process get it on its command line, whose last word would stand in the log."""
    plain = {"ftp://a": "'ftp://a'", "http://a/KEY": "'http://a' and more", "http://a:1?k=KEY": "'http://a:1' and more"}
    hidden = {"http://me:KEY@a": "one with more", "me:KEY@a": "one with more", "http://KEY:a": "one with more"}
    for address, words in (plain | hidden).items():
        with pytest.raises(InputError) as error:
            given_servers([address], {})
        assert words in str(error.value) and "KEY" not in str(error.value), error.value
    script, gguf = REPO / "scripts/eval_gpqa_v3.sh", tmp_path / "a.gguf"
    gguf.touch()
    for address in ("http://me:KEY@a", "http://a/KEY", "http://a:1?k=KEY"):
        keys = os.environ | {"SERVERS": f"http://b/ {address}", "OUTPUT": str(tmp_path / "run"), "PYTHON": "none"}
        done = subprocess.run([script, "a", gguf], env=keys, capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr.startswith("error: SERVERS: expected addresses"), done.stderr
        assert address not in done.stderr and len(done.stderr.splitlines()) == 1 and not (tmp_path / "run").exists()
    keys["SERVERS"] = "http://b/ https://a:1"
    done = subprocess.run([script, "a", gguf], env=keys, capture_output=True, text=True)
    assert done.stderr.startswith("error: none: expected the Python"), done.stderr


def test_builds_as_both_places_name_them():
    assert build_of("version: 0.5.0-dev (build 0, commit unknown)") == "b0-unknown"
    assert build_of("version: 6527 (ab12cd3), llama-cpp-python==1") == "b6527-ab12cd3"
    assert build_of("version: unknown") is None


def test_several_of_ours_have_a_gpu_and_a_port_each(tmp_path):
    tool = tmp_path / "llama-server"
    tool.write_text("#!/bin/sh\nprintf 'Available devices:\\n  CUDA0: one (1 MiB)\\n  CUDA1: two (1 MiB)\\n'\n")
    tool.chmod(0o755)

    def ends(protocol: Protocol, count: str) -> list[list[str]]:
        args = Namespace(local_servers=count, port="80", gguf=tmp_path / "m.gguf")
        commands = local_commands(tool, "m", args, protocol.server_flags, protocol.gpu_layers > 0)
        return [[c[c.index("--port") + 1], *c[c.index("--device") + 1 :]] if "--device" in c else c for c in commands]

    assert ends(Protocol(), "3") == [["80", "CUDA0"], ["81", "CUDA1"], ["82", "CUDA0"]]
    assert all("--device" not in command for command in [*ends(Protocol(), "1"), *ends(Protocol(gpu_layers=0), "2")])
    with pytest.raises(InputError, match="LOCAL_SERVERS"):
        ends(Protocol(), "0")
