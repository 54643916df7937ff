"""The tokenizer of a checkpoint. One without a chat template that works is refused."""

from pathlib import Path
from typing import TYPE_CHECKING

from chats.template_sandbox import TemplateFailure, render_chat
from chats.without_torch import spare_torch
from files.input_errors import InputError, check_bounded, read_words
from files.json_records import read_json
from files.silence import in_a_library
from files.tokenizer_names import TEMPLATES_NAME, TOKENIZER_FILES, TOKENIZER_PARTS

if TYPE_CHECKING:  # importing transformers takes a second, and many who import this module never load a tokenizer
    from transformers import PreTrainedTokenizerBase

MOST_CHARACTERS = 1000  # of a special token, of which each chat holds some; real ones have a few dozen at most


def check_one_template(directory: Path) -> None:
    """Raise InputError where a checkpoint's two places for a chat template hold two.

    transformers reads the file, llama.cpp's converter the tokenizer's config: what is measured would be asked by one,
    and what is published by the other.
    """
    file, config = directory / "chat_template.jinja", directory / "tokenizer_config.json"
    if not (file.is_file() and config.is_file()):
        return
    said = read_json(config).get("chat_template")
    several = [one for one in said if isinstance(one, dict)] if isinstance(said, list) else []
    texts = [one.get("template") for one in several if one.get("name") == "default"]
    other = said if isinstance(said, str) else (texts or [None])[-1]
    if isinstance(other, str) and other.strip() != read_words(file).strip():
        raise InputError(config, f"the chat template of {file.name}, or none", "another one", "keep one of them")


def load_tokenizer(directory: Path) -> "PreTrainedTokenizerBase":
    """Load a checkpoint's tokenizer; raise InputError when its files or its chat template are missing or fail."""
    if not directory.is_dir():
        raise InputError(directory, "a model directory", "nothing" if not directory.exists() else "a file")
    # Without these files the library looks for the name on the Hub, and its message is about the network.
    if not any((directory / name).exists() for name in TOKENIZER_FILES):
        raise InputError(directory, "a tokenizer (tokenizer.json)", "none")
    more = sorted((directory / TEMPLATES_NAME).glob("*.jinja"))
    for path in (*(directory / name for name in (*TOKENIZER_PARTS, "config.json")), *more):
        if path.exists():
            check_bounded(path)
    check_one_template(directory)
    spare_torch()
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()  # what it warns of and then fails by is one line of ours
    # False and not left out: the library would ask at a terminal whether to run code of the checkpoint.
    with in_a_library(directory, "a tokenizer that loads"):
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    if not tokenizer.chat_template:
        raise InputError(directory, "a tokenizer with a chat template (chat_template.jinja)", "none")
    for name, token in tokenizer.special_tokens_map.items():
        if len(token) > MOST_CHARACTERS:
            raise InputError(directory, f"{name} of at most {MOST_CHARACTERS} characters", str(len(token)))
    try:  # one small chat, so that a broken template is refused here and not after an hour of work
        render_chat(tokenizer, [{"role": "user", "content": "?"}])
    except TemplateFailure as error:
        raise InputError(directory, "a chat template that renders", str(error)) from error
    return tokenizer
