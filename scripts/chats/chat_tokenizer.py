"""The tokenizer of a checkpoint. One without a chat template that works is refused."""

from pathlib import Path
from typing import TYPE_CHECKING

from chats.template_sandbox import TemplateFailure, render_chat
from chats.without_torch import spare_torch
from files.safe_files import InputError, reason_of

if TYPE_CHECKING:  # importing transformers takes a second, and many who import this module never load a tokenizer
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def load_tokenizer(directory: Path) -> "PreTrainedTokenizerBase":
    """Load a checkpoint's tokenizer; raise InputError when its files or its chat template are missing or fail."""
    if not directory.is_dir():
        raise InputError(directory, "a model directory", "nothing" if not directory.exists() else "a file")
    # Without these files the library looks for the name on the Hub, and its message is about the network.
    if not any((directory / name).exists() for name in TOKENIZER_FILES):
        raise InputError(directory, "a tokenizer (tokenizer.json)", "none")
    spare_torch()
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()  # what it warns of and then fails by is one line of ours
    try:  # false and not left out: the library would ask at a terminal whether to run code of the checkpoint
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # the library raises anything when a user's files are damaged
        raise InputError(directory, "a tokenizer that loads", reason_of(error)) from error
    if not tokenizer.chat_template:
        raise InputError(directory, "a tokenizer with a chat template (chat_template.jinja)", "none")
    try:  # one small chat, so that a broken template is refused here and not after an hour of work
        render_chat(tokenizer, [{"role": "user", "content": "?"}])
    except TemplateFailure as error:
        raise InputError(directory, "a chat template that renders", str(error)) from error
    return tokenizer
