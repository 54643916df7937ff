"""What Ollama reads: params (JSON of its options) and a Modelfile, and the commands that wrap a GGUF file for it.

Only a wrap sets Ollama's Gemma 4 renderer and parser (see `ollama_note`).
"""

import json
import math
import shlex
from dataclasses import dataclass
from pathlib import Path

from files.safe_files import InputError, read_json
from ggufs.gguf_header import PART_ENDING, read_header

# Names and types of Ollama's options: the structs Options and Runner in api/types.go of
# https://github.com/ollama/ollama (described in its docs/modelfile.md). Ollama only warns about a name that it does not
# know; here it is refused.
OPTIONS = {
    "num_keep": int,
    "seed": int,
    "num_predict": int,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "typical_p": float,
    "repeat_last_n": int,
    "temperature": float,
    "repeat_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "stop": list,
    "num_ctx": int,
    "num_batch": int,
    "num_gpu": int,
    "main_gpu": int,
    "use_mmap": bool,
    "num_thread": int,
}
DESCRIPTIONS = {int: "a whole number", float: "a number", bool: "true or false", list: "a list of texts"}
REQUIRED = ("num_ctx", "stop")
RENDERER = "RENDERER gemma4\nPARSER gemma4\n"


def fits(value: object, kind: type) -> bool:
    """Tell whether Ollama takes a value of JSON for an option of that type. True and false are no numbers."""
    if kind is list:
        return isinstance(value, list) and all(isinstance(item, str) and item for item in value)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is kind


def check_options(path: Path, params: dict) -> None:
    """Raise InputError when params holds no option of Ollama or a value of another type, or lacks a required option."""
    for name, value in params.items():
        if name not in OPTIONS:
            raise InputError(path, "options of Ollama", f"{name!r}")
        if not fits(value, OPTIONS[name]):
            raise InputError(path, f"{DESCRIPTIONS[OPTIONS[name]]} for {name}", json.dumps(value)[:60])
    for name in REQUIRED:
        if not params.get(name):
            raise InputError(path, f"{name}", "none")
    if params["num_ctx"] < 0:
        raise InputError(path, "num_ctx above 0 (tokens)", f"{params['num_ctx']}")


def ollama_params(path: Path, gguf: Path) -> dict:
    """Return Ollama's params, num_ctx (tokens) lowered to the model's context where that is smaller.

    Raises InputError when params are no options of Ollama, a stop is not one token of the GGUF file, or that file
    gives no context length. The params of a release are right when this returns them unchanged.
    """
    params = read_json(path)
    check_options(path, params)
    header = read_header(gguf)
    key = f"{header.architecture}.context_length"
    context = header.value(key)
    if not isinstance(context, int) or context <= 0:
        raise InputError(gguf, f"a GGUF file with {key}", "none")
    tokens = set(header.array("tokenizer.ggml.tokens") or [])
    for stop in params["stop"]:
        if stop not in tokens:
            raise InputError(path, f"stops that are tokens of {gguf.name}", stop)
    return {**params, "num_ctx": min(params["num_ctx"], context)}


def modelfile(source: str, params: dict) -> str:
    """Return a Modelfile that wraps a GGUF file with Ollama's Gemma 4 renderer and parser, and sets params.

    `source` is a path, from the Modelfile's folder or from the root, or hf.co/USER/REPO:FILE.
    """
    lines = [f"FROM {source if source.startswith(('hf.co/', '/')) else f'./{source}'}", RENDERER.rstrip()]
    for key, value in params.items():
        # A list, such as stop, takes a line for each of its items.
        for item in value if isinstance(value, list) else [value]:
            lines.append(f"PARAMETER {key} {json.dumps(item, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Wrap:
    """A model that `ollama create` makes: its NAME:TAG, the GGUF file, and the Modelfile."""

    model: str
    modelfile: str


def wraps(name: str, gguf_names: list[str], params: dict, repo: str = "", folder: Path = Path()) -> list[Wrap]:
    """Return what to create for each GGUF file: from the Hub's USER/REPO, or from a folder.

    Files in parts are left out: Ollama does not take them. A file on the Hub is named in full after the colon, as a
    short label may fit another file, too. Its params come with the repository and are not repeated.
    """
    made = []
    for gguf in gguf_names:
        if PART_ENDING.search(gguf):  # Ollama takes no file in parts
            continue
        tag = Path(gguf).name.removesuffix(".gguf").removeprefix(f"{name}-")
        source = f"hf.co/{repo}:{Path(gguf).name}" if repo else str(folder / gguf)
        made.append(Wrap(f"{name.lower()}:{tag}", modelfile(source, {} if repo else params)))
    return made


def wrap_commands(name: str, gguf_names: list[str], params: dict, repo: str = "", folder: Path = Path()) -> str:
    """Return the shell commands that wrap each GGUF file, as the card prints them (see `wraps`).

    The Modelfile is a file of its own, as `ollama create -f` takes no `-` for stdin (cmd/cmd.go looks for that name).
    """
    lines = []
    for wrap in wraps(name, gguf_names, params, repo, folder):
        text = wrap.modelfile.rstrip("\n").split("\n")
        target = f"Modelfile.{wrap.model.split(':')[1]}"
        lines.append(f"printf '%s\\n' {' '.join(shlex.quote(line) for line in text)} >{shlex.quote(target)}")
        lines.append(f"ollama create {shlex.quote(wrap.model)} -f {shlex.quote(target)}")
    return "\n".join(lines) + "\n"


def ollama_note() -> str:
    """Return the card's paragraph: what Ollama parses with `template` and `params` alone, and what only after the wrap.

    Sources: https://huggingface.co/docs/hub/ollama (sidecars), thinking/template.go and tools/template.go of
    https://github.com/ollama/ollama (the tags that it infers from a template; `tag_differences` checks them).
    """
    return (
        "`ollama run hf.co/...` reads `template` and `params` of this repository, and no Modelfile. With "
        "them alone it writes the prompt as the model's own chat template does, tools included, and splits thoughts "
        "from answers by the tags around them. It does not parse tool calls: without a parser of its own it expects "
        'JSON arguments, where Gemma 4 writes `call:NAME{key:<|"|>text<|"|>}`, so they are not handed over as '
        "`tool_calls`. "
        "That needs `RENDERER gemma4` and `PARSER gemma4`, which only `ollama create` sets: wrap the file once with "
        "the commands below. repeat_penalty 1.15 is there to stop repeated tool calls."
    )
