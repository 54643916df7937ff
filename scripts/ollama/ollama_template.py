"""Ollama's template compared with a model's own chat template, chat by chat.

The Go template is executed by Go (go_runner.py). The Jinja template, that of a checkpoint or the one inside a GGUF
file, is rendered by transformers. Every chat of template_cases.py must come out the same. What Ollama does not hand to
the template, or Go cannot do, is a known difference: known_differences.py has for each a reason, a chat, and the one
piece of text that differs. Ollama leaves <bos> to the tokenizer, and goes on with a chat that ends with the assistant.
"""

from pathlib import Path
from typing import Any

from chats.chat_tokenizer import load_tokenizer
from chats.template_sandbox import TemplateFailure, render_template
from files.input_errors import InputError
from ggufs.gguf_header import read_header
from ollama.go_runner import Rendered, render_go
from ollama.known_differences import KNOWN_DIFFERENCES
from ollama.template_cases import CASES, Case

TAGS = {"thinking": ("<|channel>thought", "<channel|>"), "tool call": "<|tool_call>call:"}
WINDOW_CHARACTERS = 60


def chat_template_of(model: Path) -> tuple[str, str]:
    """Return the chat template of a checkpoint or a GGUF file, and the text of its first token.

    Raises InputError when there is no chat template, or when the GGUF file does not ask for that token to be added.
    """
    if model.is_dir():
        tokenizer = load_tokenizer(model)
        return tokenizer.chat_template, tokenizer.bos_token or ""
    header = read_header(model)
    template = header.value("tokenizer.chat_template")
    if not template:
        raise InputError(model, "a GGUF file with a chat template (tokenizer.chat_template)", "none")
    if not header.value("tokenizer.ggml.add_bos_token"):
        raise InputError(
            model, "tokenizer.ggml.add_bos_token true (the Ollama template leaves <bos> to it)", "another value"
        )
    tokens, first = header.array("tokenizer.ggml.tokens") or [], header.value("tokenizer.ggml.bos_token_id")
    if not isinstance(first, int) or not first < len(tokens):
        raise InputError(model, "tokenizer.ggml.bos_token_id among its tokens", repr(first))
    return str(template), tokens[first]


def render_jinja(template: str, bos: str, case: Case) -> str:
    """Return what transformers makes of a chat with a Jinja template; raise InputError when that fails."""
    # Ollama lets the model go on with an assistant's text, but not with its tool call.
    continued = case.messages[-1]["role"] == "assistant" and not case.messages[-1].get("tool_calls")
    try:
        return render_template(
            template,
            case.messages,
            tools=case.tools or None,
            bos_token=bos,
            continue_final_message=continued,
            add_generation_prompt=not continued,
            **case.options(),
        )
    except TemplateFailure as error:
        raise InputError("chat template", f"one that renders the chat {case.name!r}", str(error)) from error


def jinja_or_refusal(template: str, bos: str, case: Case) -> str | None:
    """Return what transformers makes of a chat, None where the template refuses it."""
    try:
        return render_jinja(template, bos, case)
    except InputError:
        return None


def where_texts_differ(name: str, expected: str, found: str) -> str:
    """Return one line with the first place where two texts differ."""
    at = next((i for i, (a, b) in enumerate(zip(expected, found)) if a != b), min(len(expected), len(found)))
    shown = [repr(text[at : at + WINDOW_CHARACTERS]) for text in (expected, found)]
    return f"{name}, character {at}: the chat template has {shown[0]}, the Ollama template {shown[1]}"


def tag_differences(rendered: Rendered) -> list[str]:
    """Return where the tags that Ollama infers from the template are not those of the format."""
    found: dict[str, Any] = {"thinking": rendered.thinking_tags, "tool call": rendered.tool_tag}
    return [
        f"{what} tag that Ollama infers: expected {TAGS[what]!r}, found {found[what]!r}"
        for what in TAGS
        if found[what] != TAGS[what]
    ]


def template_differences(template: Path, model: Path) -> list[str]:
    """Return one line for each chat that Ollama's template renders otherwise than a model's own chat template.

    `model` is a checkpoint or a GGUF file. A known difference gets a line, too, when it is gone or is anything but the
    listed piece of text. Raises InputError when a template is missing or cannot be executed.
    """
    jinja, bos = chat_template_of(model)
    known = [difference.case for difference in KNOWN_DIFFERENCES]
    # One call for all chats: each starts a process.
    rendered = render_go(template, [case.request() for case in [*CASES, *known]])
    differences = tag_differences(rendered)
    for case, text in zip(CASES, rendered.texts):
        if (expected := render_jinja(jinja, bos, case)) != bos + text:
            differences.append(where_texts_differ(case.name, expected, bos + text))
    for difference, text in zip(KNOWN_DIFFERENCES, rendered.texts[len(CASES) :]):
        written = jinja_or_refusal(jinja, bos, difference.case)
        if not difference.accepts(written, bos + text):
            differences.append(
                f"{difference.name} (known difference): expected {' or '.join(map(repr, difference.jinja))} of the "
                f"chat template, {difference.go!r} of the Ollama template, and no other difference; "
                + where_texts_differ("first", written or "", bos + text)
            )
    return differences


def choose_template(templates: list[Path], model: Path) -> Path:
    """Return the Ollama template that writes what a model's own chat template writes.

    Raises InputError with the first difference of the nearest one when none does.
    """
    found = {path: template_differences(path, model) for path in templates}
    nearest = min(found, key=lambda path: len(found[path]))
    if found[nearest]:
        names = " or ".join(path.name for path in templates)
        raise InputError(
            model,
            f"a chat template whose rules {names} follows",
            f"another; {len(found[nearest])} chats differ from {nearest.name}, the first: {found[nearest][0]}",
            "write an Ollama template for it",
        )
    return nearest
