"""A GGUF file whose chat template does not end: refused before llama-server runs it, and stopped when it does."""

from pathlib import Path

from conftest import DEMO
from files.input_errors import InputError
from llama import llama_server
from llama.template_check import check_gguf_template
from makers.served_gguf import serve, with_template
from makers.shared_ggufs import demo_ggufs

import pytest

pytestmark = pytest.mark.usefixtures("impatient")
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
OWN = (DEMO / "model/chat_template.jinja").read_text()
NO_END = "a chat template that renders, found no end after 0.2 s of work"


@pytest.fixture(scope="module")
def f16(tmp_path_factory) -> Path:
    return demo_ggufs(tmp_path_factory) / "F16.gguf"


@pytest.mark.parametrize("condition", ["true", "tools", "messages[0].role == 'system'"])
def test_a_template_without_end_is_refused_before_the_server_starts(condition, f16, tools, tmp_path):
    gguf = with_template(f16, f"{{% if {condition} %}}{LOOP}{{% endif %}}{OWN}", tmp_path / "own.gguf")
    with pytest.raises(InputError, match=NO_END), serve(tools, gguf, tmp_path / "log"):
        pass
    assert not (tmp_path / "log").exists()


def test_one_that_waits_for_a_question_is_refused_by_that_question(f16, tmp_path):
    gguf = with_template(f16, f"{{% if 'six' in messages[0].content %}}{LOOP}{{% endif %}}{OWN}", tmp_path / "own.gguf")
    check_gguf_template(gguf, ["one", "two"])
    with pytest.raises(InputError, match=NO_END):
        check_gguf_template(gguf, ["one", "two", "six"])


def test_one_for_tools_alone_is_tried_too(f16, tmp_path):
    gguf = with_template(f16, LOOP, tmp_path / "own.gguf", ".tool_use")
    with pytest.raises(InputError, match=rf"{NO_END} by tokenizer.chat_template.tool_use"):
        check_gguf_template(gguf, [])


def test_one_that_only_llama_cpp_runs_without_end_is_stopped(f16, tools, tmp_path, monkeypatch):
    monkeypatch.setattr(llama_server, "TEMPLATE_SECONDS", 1)
    # Jinja has a function of this name, llama.cpp has none.
    gguf = with_template(f16, f"{{% if cycler is not defined %}}{LOOP}{{% endif %}}{OWN}", tmp_path / "own.gguf")
    server = serve(tools, gguf, tmp_path / "log")
    with pytest.raises(InputError, match="a chat template that llama-server renders within 1 s"), server:
        pass
    assert not server.alive
