"""Ollama's template and params are this project's own: those of modelfiles/, the params by the setting OLLAMA_PARAMS.

Both are published as they are, and tell Ollama what to write into every prompt and how to sample.
"""

import re
from pathlib import Path

from files.input_errors import InputError, sha256_file, shown
from files.option_types import VERSION_FILE

MODELFILES = VERSION_FILE.parent / "modelfiles"
SETTING, DEFAULT = "OLLAMA_PARAMS", "card"
ADVICE = "put a file of your own there, and choose it by its name"


def own_params(settings: dict[str, str]) -> Path:
    """Return the project's file of the params that make's settings choose; raise InputError where it has none."""
    name = settings.get(SETTING) or DEFAULT
    path = MODELFILES / f"gemma4-{name}.params.json"
    if not re.fullmatch(r"[\w-]+", name) or not path.is_file():
        raise InputError(SETTING, f"the name of a set of params in {MODELFILES.name}/", shown(name), ADVICE)
    return path


def name_of_params(path: Path) -> str | None:
    """Return the name that chooses a file of params, None where the file's own name has none."""
    found = re.fullmatch(r"gemma4-([\w-]+)\.params\.json", path.name)
    return found[1] if found else None


def check_own_params(path: Path, settings: dict[str, str]) -> None:
    """Raise InputError unless a file has the params that the settings choose, to the byte."""
    if sha256_file(path) != sha256_file(own := own_params(settings)):
        raise InputError(path, f"{MODELFILES.name}/{own.name}, as {SETTING} says", "another file", ADVICE)


def check_own_template(path: Path) -> None:
    """Raise InputError unless a file is one of the project's templates, to the byte."""
    if sha256_file(path) not in {sha256_file(own) for own in MODELFILES.glob("*.template")}:
        raise InputError(path, f"a template of {MODELFILES.name}/", "another file")
