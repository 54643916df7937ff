"""Chat templates in their process with limits: the same text as transformers, and no harm by what does not end."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import fetch_model
import render_calibration
import teacher_force_analysis
from chats import template_sandbox
from chats.chat_tokenizer import load_tokenizer
from chats.template_sandbox import TemplateFailure, render_chat, render_template
from conftest import REPO

import pytest

pytestmark = pytest.mark.usefixtures("impatient")
CHAT = [{"role": "user", "content": "é \U0001f600 <b>|"}, {"role": "assistant", "content": "a"}]
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}"
# The template, the words of its failure, whether that is by its size.
HARMFUL = [
    (LOOP, "no end after 0.2 s of work", True),
    ("{{ 'x' * 99999999999 }}", "more than 1 GiB of memory taken", True),
    (DOUBLING, "no end after 0.2 s of work|more than 1 GiB of memory taken", True),
    ("{{ 'x' * 2000000 }}", "a text of 2000000 characters for a chat of 104", True),
    ("{{ 'x' * (4 * 104 + 32769) }}", "a text of 33185 characters", True),
    ("{% for i in range(10 ** 12) %}{% endfor %}", "Range too big", True),
    ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError", True),
    ("{{ ''.__class__.__mro__ }}", "SecurityError", False),
    ("{% include '/etc/passwd' %}", "no loader", False),
    ("{{ ''.join }}", "an address of this process's memory", True),
    ("{{ joiner() | string | urlencode }}", "an address of this process's memory", True),
    ("{{ joiner() | string | upper }}", "an address of this process's memory", True),
    ("{{ raise_exception('no\nway') }}", "TemplateError: no way", False),
    ("{% if %}", "TemplateSyntaxError", False),
]


def test_a_chat_is_what_transformers_makes_of_it(demo_model):
    tokenizer = load_tokenizer(demo_model)
    for options in ({}, {"add_generation_prompt": True, "enable_thinking": True}):
        expected = tokenizer.apply_chat_template(CHAT, tokenize=False, **options)
        assert render_chat(tokenizer, CHAT, **options) == expected


@pytest.mark.parametrize("template, words, endless", HARMFUL)
def test_a_harmful_template_ends_in_one_line(template, words, endless):
    with pytest.raises(TemplateFailure, match=words) as caught:
        render_template(template, CHAT)
    assert caught.value.endless == endless and "\n" not in str(caught.value)
    assert render_template("{{ messages[0].content }}", CHAT) == CHAT[0]["content"]  # the next one finds a process


def test_a_template_has_no_clock_and_draws_alike_in_every_process(monkeypatch):
    """Else a run that goes on tomorrow would be made of two texts."""
    words = "{{ strftime_now('%d %B %Y %H:%M:%S %s') }} {{ range(10**5) | list | random }} {{ lipsum(n=1) }}"
    first = render_template(words, CHAT)
    assert first.startswith("01 January 2026 00:00:00 ") and render_template(words, CHAT) == first
    template_sandbox._renderers.clear()
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert render_template(words, CHAT) == first


def test_a_question_may_hold_an_address():
    asked = [{"role": "user", "content": "What is <f at 0x7f01>?"}]
    assert render_template("{{ messages[0].content }}", asked) == asked[0]["content"]


def test_a_control_character_is_the_chat_s_or_none():
    """A terminal obeys some, and the calibration text is looked at there. A question may have one by a copy."""
    asked = [{"role": "user", "content": "What is\x0b 2\x96?"}]
    assert render_template("{{ messages[0].content }}", asked) == asked[0]["content"]
    with pytest.raises(TemplateFailure, match=r"the control character '\\x1b', which no chat has"):
        render_template("\x1b[2J{{ messages[0].content }}", asked)


def test_a_text_may_grow_with_its_chat_and_have_a_long_beginning():
    """As with tools, which a template indents, and a system's words that it holds itself."""
    tools = [{"type": "function", "function": {"name": "f", "description": "d" * 50_000}}]
    written = "{{ 'x' * 32768 }}{{ messages[0].content * 4 }}{{ tools | tojson(indent=4) }}"
    long = [{"role": "user", "content": "q" * 100_000}]
    assert len(render_template(written, long, tools=tools)) > 32768 + 400_000 + 50_000


def test_a_template_that_takes_its_whole_time_again_and_again_is_refused(monkeypatch):
    """Each chat would be within the limit, and all questions of a file would take hours."""
    monkeypatch.setattr(template_sandbox, "SECONDS_PER_CHAT", 0.001)
    slow = "{% for j in range(4) %}{% for i in range(99999) %}{% set x = i %}{% endfor %}{% endfor %}"
    with pytest.raises(TemplateFailure, match="no end after 0.2 s of work"):
        for _ in range(200):
            render_template(slow, CHAT)


def test_the_limits_need_no_proc_and_keep_to_those_that_are_there(without_proc):
    renders = "from chats.template_sandbox import render_template as r; print(r('{{ 1 + 1 }}', [])); "
    code = f"import sys; sys.path.insert(0, 'scripts'); {renders}r('{{{{ 99999999999 * [0] }}}}', [])"
    script = 'ulimit -v 4000000; exec "$@"'
    for line in ([sys.executable, "-c", code], ["bash", "-c", script, "bash", sys.executable, "-c", code]):
        done = without_proc(*line)
        assert done.stdout == "2\n" and done.stderr.endswith("TemplateFailure: more than 1 GiB of memory taken\n")


def test_a_process_that_is_forked_has_a_renderer_of_its_own():
    assert render_template("a", CHAT) == "a"
    child = os.fork()
    if child == 0:
        os._exit(0 if render_template("{{ 1 + 1 }}", CHAT) == "2" else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert render_template("b", CHAT) == "b"


def test_the_renderer_ends_with_its_process():
    code = (
        "import os; from chats.template_sandbox import _renderers, render_template; render_template('a', []);"
        "print(_renderers[0].process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO / "scripts", stdout=subprocess.PIPE, text=True)
    status = Path(f"/proc/{done.stdout.strip()}/status")
    ends = time.monotonic() + 60
    while status.exists() and "zombie" not in status.read_text():
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_every_command_that_reads_chats_refuses_such_a_checkpoint(demo_model, few_questions, refusal, tmp_path):
    model = shutil.copytree(demo_model, tmp_path / "model")
    (model / "chat_template.jinja").write_text(LOOP)
    paths = ["--model", model, "--output", tmp_path / "output"]
    for command in (fetch_model, render_calibration, teacher_force_analysis):
        questions = [] if command is fetch_model else ["--questions", few_questions]
        refusal(command.main, [*paths, *questions], model, "a chat template that renders, found no end after 0.2 s")
    # Less than a GiB, and tokenised it would take several.
    for text in ("'a' * 16000000", "'a b' * 100000"):
        (model / "chat_template.jinja").write_text(f"{{{{ messages[0].content }}}}{{{{ {text} }}}}")
        refusal(render_calibration.main, [*paths, "--questions", few_questions], model, "renders, found a text of ")
    # One that waits for a question is refused with that question's name.
    (model / "chat_template.jinja").write_text("{% if messages[0].content|length > 50 %}" + LOOP + "{% endif %}x")
    refusal(render_calibration.main, [*paths, "--questions", few_questions], "question ", "no end after 0.2 s")
    assert not (tmp_path / "output").exists()
