"""What is asked of OpenAI-compatible servers before the first question: the model's name, and the same words."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import REPO
from files.input_errors import InputError
from scoring.openai_model import OpenAiModel
from scoring.server_pool import AskedServer, ServerPool

import pytest


@contextmanager
def told_servers(folder: Path, *texts: str) -> Iterator[list[AskedServer]]:
    """Servers that list the model models/demo and answer everything with their text."""
    processes, servers = [], []
    try:
        for number, text in enumerate(texts):
            told = folder / f"{number}.json"
            told.write_text(json.dumps({"": text}))
            command = [sys.executable, str(REPO / "tests/servers/told_server.py"), str(told)]
            processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
            url = processes[-1].stdout.readline().strip()
            servers.append(AskedServer(url, url))
        yield servers
    finally:
        for process in processes:
            process.kill()
            process.communicate()


async def opened(servers: list[AskedServer], name: str) -> list[dict]:
    """Check servers as an evaluation does; return how each then takes a request."""
    body = {"messages": [{"role": "user", "content": "Why?"}], "top_k": 64, "seed": 1}
    async with ServerPool(servers, 1, 60, OpenAiModel(name).check).opened():
        return [server.worded(body) for server in servers]


def test_servers_with_the_model_and_the_same_words_are_asked_for_it(tmp_path):
    asked = {"model": "models/demo", "messages": [{"role": "user", "content": "Why?"}], "seed": 1}
    with told_servers(tmp_path, "hello", "hello") as servers:
        assert asyncio.run(opened(servers, "demo")) == [asked, asked]
        assert asyncio.run(opened(servers, "models/demo")) == [asked, asked]


@pytest.mark.parametrize(
    ("name", "texts", "words"),
    [
        ("demo-109e", ["hello"], "expected a model demo-109e, found 'models/demo'"),
        ("demo", ["hello", "good day"], "the words of the first server"),
    ],
)
def test_another_model_is_refused_by_the_servers_address(tmp_path, name, texts, words):
    with told_servers(tmp_path, *texts) as servers:
        with pytest.raises(InputError) as error:
            asyncio.run(opened(servers, name))
        assert str(error.value).startswith(servers[-1].name) and words in str(error.value)
