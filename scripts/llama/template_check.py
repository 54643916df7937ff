"""The chat template inside a GGUF file, tried with limits before llama-server runs it without any."""

from itertools import product
from pathlib import Path

from chats.template_sandbox import TemplateFailure, render_template
from files.input_errors import InputError
from ggufs.gguf_header import read_header

TEMPLATE_KEY = "tokenizer.chat_template"
ASKED = {"role": "user", "content": "?"}
TOOL = {"type": "function", "function": {"name": "f", "description": "f", "parameters": {"type": "object"}}}
# What llama-server itself renders before it serves: with and without a system's words, an answer and tools.
SYSTEM, ANSWER = {"role": "system", "content": "."}, {"role": "assistant", "content": "."}
SMALL_CHATS = (([SYSTEM, ASKED, ANSWER, ASKED], None), ([ASKED], [TOOL]))


def check_gguf_template(gguf: Path, prompts: list[str]) -> None:
    """Raise InputError when a GGUF file's chat template fails on these prompts, or loops or grows on any small chat.

    A file without a template passes: llama-server has one of its own. Another one, such as for tools, need not render.
    """
    header = read_header(gguf)
    if template := header.value(TEMPLATE_KEY):
        try:
            for prompt in [str(ASKED["content"]), *prompts]:
                _render(str(template), [{"role": "user", "content": prompt}], enable_thinking=True)
        except TemplateFailure as error:
            raise InputError(gguf, "a chat template that renders", str(error)) from error
    templates = {pair.key: pair.value for pair in header.key_values if pair.key.startswith(TEMPLATE_KEY)}
    for key, (chat, tools) in product(templates, SMALL_CHATS):
        try:
            _render(str(templates[key] or ""), chat, tools=tools)  # a list of names, which has no value here, is none
        except TemplateFailure as error:
            if error.endless:  # another failure is its right: not every model knows tools or a system's words
                of = "" if key == TEMPLATE_KEY else f" by {key}"
                raise InputError(gguf, "a chat template that renders", f"{error}{of}") from error


def _render(template: str, chat: list[dict], **options: object) -> None:
    render_template(template, chat, bos_token="", eos_token="", add_generation_prompt=True, **options)
