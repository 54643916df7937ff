"""The tokenizer of a checkpoint, with a chat template or not at all."""

from pathlib import Path

import jinja2
import transformers

from safe_files import InputError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def load_tokenizer(directory: Path):
    """Load a checkpoint's tokenizer; raise InputError when its files or its chat template are missing."""
    if not directory.is_dir():
        raise InputError(directory, "a model directory", "nothing" if not directory.exists() else "a file")
    if not any((directory / name).exists() for name in TOKENIZER_FILES):
        raise InputError(directory, "a tokenizer (tokenizer.json)", "none")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(directory, "a tokenizer that loads", str(error).splitlines()[0][:200]) from error
    if not tokenizer.chat_template:
        raise InputError(directory, "a tokenizer with a chat template (chat_template.jinja)", "none")
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
    except jinja2.TemplateError as error:
        raise InputError(directory, "a chat template that renders", str(error).splitlines()[0][:200]) from error
    return tokenizer
