"""The tokenizer of a checkpoint, with a chat template or not at all."""

from pathlib import Path

import transformers

from files.safe_files import InputError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def load_tokenizer(directory: Path):
    """Load a checkpoint's tokenizer; raise InputError when its files or its chat template are missing."""
    if not directory.is_dir():
        raise InputError(directory, "a model directory", "nothing" if not directory.exists() else "a file")
    if not any((directory / name).exists() for name in TOKENIZER_FILES):
        raise InputError(directory, "a tokenizer (tokenizer.json)", "none")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    except Exception as error:  # whatever the library makes of a user's files
        raise InputError(
            directory, "a tokenizer that loads", f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        ) from error
    if not tokenizer.chat_template:
        raise InputError(directory, "a tokenizer with a chat template (chat_template.jinja)", "none")
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
    except Exception as error:  # a template is a program: it can fail in any way
        raise InputError(
            directory, "a chat template that renders", f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        ) from error
    return tokenizer
