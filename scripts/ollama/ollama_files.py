"""What Ollama reads: params (JSON of its options) and a Modelfile, and the commands that wrap a GGUF file for it.

A release's params are made from a source that gives each option's value and the reason for it. Only a wrap sets
Ollama's Gemma 4 renderer and parser (see `ollama_note`). Ollama has not been run here: the syntax is that of its
docs/modelfile.mdx and parser/parser.go, read in October 2026.
"""

import json
import math
import shlex
from dataclasses import dataclass
from pathlib import Path

from files.input_errors import InputError
from files.json_records import read_json
from ggufs.companions import is_companion
from ggufs.gguf_header import PART_ENDING, read_header
from ggufs.sibling_choice import draft_pick, mmproj_pick

# Names and types of Ollama's options: the structs Options and Runner in api/types.go of
# https://github.com/ollama/ollama (described in its docs/modelfile.mdx). Ollama only warns about a name that it does
# not know; here it is refused. typical_p is left out: `ollama create` refuses a model that sets it.
OPTIONS = {
    "num_keep": int,
    "seed": int,
    "num_predict": int,
    "top_k": int,
    "top_p": float,
    "min_p": float,
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
    "draft_num_predict": int,
}
DESCRIPTIONS = {int: "a whole number", float: "a number", bool: "true or false", list: "a list of texts"}
SOURCE_FORM = '{"value": ..., "why": "the reason"}'
# The oldest Ollama that runs such a file. From 0.30.0 llama.cpp runs GGUF files: it ends an answer at <turn|> by the
# token, so that no stop is needed. DRAFT is known from 0.31.1, the oldest version that a report of it names.
REQUIRES, REQUIRES_DRAFT = "0.30.0", "0.31.1"
RENDERER = "RENDERER gemma4\nPARSER gemma4\n"


def fits(value: object, kind: type) -> bool:
    """Tell whether Ollama takes a value of JSON for an option of that type. True and false are no numbers."""
    if kind is list:
        return isinstance(value, list) and all(isinstance(item, str) and item for item in value)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is kind


def check_options(path: Path, params: dict) -> None:
    """Raise InputError when params holds no option of Ollama or a value of another type, or lacks num_ctx."""
    for name, value in params.items():
        if name not in OPTIONS:
            raise InputError(path, "options of Ollama", f"{name!r}")
        if not fits(value, OPTIONS[name]):
            raise InputError(path, f"{DESCRIPTIONS[OPTIONS[name]]} for {name}", json.dumps(value)[:60])
    # Without it Ollama cuts the context to a few thousand tokens, which a thought alone can fill.
    if not params.get("num_ctx"):
        raise InputError(path, "num_ctx", "none")
    if params["num_ctx"] < 0:
        raise InputError(path, "num_ctx above 0 (tokens)", f"{params['num_ctx']}")


def source_params(path: Path) -> dict:
    """Return the options of a source of params; raise InputError when one lacks its value or its reason."""
    content = read_json(path)
    for name, option in content.items():
        whole = isinstance(option, dict) and option.keys() == {"value", "why"}
        if not whole or not isinstance(option["why"], str) or not option["why"].strip():
            raise InputError(path, f"{SOURCE_FORM} for {name}", json.dumps(option)[:60])
    return {name: option["value"] for name, option in content.items()}


def fitted_params(path: Path, params: dict, gguf: Path) -> dict:
    """Return Ollama's params, num_ctx (tokens) lowered to the model's context where that is smaller.

    Raises InputError, which names `path`, when params are no options of Ollama, a stop is not one token of the GGUF
    file, or that file gives no context length. The params of a release are right when this returns them unchanged.
    """
    check_options(path, params)
    header = read_header(gguf)
    key = f"{header.architecture}.context_length"
    context = header.value(key)
    if not isinstance(context, int) or context <= 0:
        raise InputError(gguf, f"a GGUF file with {key}", "none")
    tokens = set(header.array("tokenizer.ggml.tokens") or [])
    for stop in params.get("stop", []):
        if stop not in tokens:
            raise InputError(path, f"stops that are tokens of {gguf.name}", stop)
    return {**params, "num_ctx": min(params["num_ctx"], context)}


def ollama_params(path: Path, gguf: Path) -> dict:
    """Return the params of a release as they should be (see `fitted_params`)."""
    return fitted_params(path, read_json(path), gguf)


def companions_of(names: list[str], model: str) -> tuple[str, str]:
    """Return the file for pictures and the draft model that go with a model of a listing, "" where there is none.

    Those that llama.cpp's `-hf` would fetch with it: so one file has one pair, whatever runs it.
    """
    return mmproj_pick(names, model) or "", draft_pick(names, model, "") or ""


def quants_of(gguf_names: list[str]) -> list[str]:
    """Return the files that Ollama can take as a model: without companions, and without files in parts.

    `ollama create` takes parts since 0.35.0, a pull from the Hub takes none.
    """
    return [name for name in gguf_names if not is_companion(name) and not PART_ENDING.search(name)]


def required(drafts: bool) -> str:
    """Return the oldest Ollama that runs a file, with a draft model or without."""
    return REQUIRES_DRAFT if drafts else REQUIRES


def modelfile(source: str, params: dict, mmproj: str = "", draft: str = "") -> str:
    """Return a Modelfile that wraps a GGUF file with Ollama's Gemma 4 renderer and parser, and sets params.

    source: a path, from the Modelfile's folder or from the root, or hf.co/USER/REPO:FILE. mmproj, draft: paths of a
    vision tower (a second FROM) and of a draft model; "": none.
    """

    def place(name: str) -> str:
        return name if name.startswith(("hf.co/", "/")) else f"./{name}"

    lines = [f"FROM {place(source)}"]
    lines += [f"FROM {place(mmproj)}"] if mmproj else []
    lines += [f"DRAFT {place(draft)}"] if draft else []
    # Both must be set. If one is missing, `ollama create` adds it and, where no stop is set, the stop <turn|>.
    lines += [*RENDERER.splitlines(), f"REQUIRES {required(bool(draft))}"]
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
    """Return what to create for each quant: from the Hub's USER/REPO, or from a folder.

    gguf_names: all GGUF files of the release; each model takes an mmproj and a draft of them. A file on the Hub is
    named in full after the colon, as a short label may fit another file, too. Its params come with the repository, and
    so does the mmproj; Ollama takes a draft from the disk alone, so that of the Hub must be there (`wrap_commands`).
    """
    made = []
    for gguf in quants_of(gguf_names):
        mmproj, draft = companions_of(gguf_names, gguf)
        tag = Path(gguf).name.removesuffix(".gguf").removeprefix(f"{name}-")
        if repo:
            text = modelfile(f"hf.co/{repo}:{Path(gguf).name}", {}, "", draft)
        else:
            beside = [str(folder / other) if other else "" for other in (mmproj, draft)]
            text = modelfile(str(folder / gguf), params, *beside)
        made.append(Wrap(f"{name.lower()}:{tag}", text))
    return made


def wrap_commands(name: str, gguf_names: list[str], params: dict, repo: str = "", folder: Path = Path()) -> str:
    """Return the shell commands that wrap each quant, as the card prints them (see `wraps`).

    The Modelfile is a file of its own, as `ollama create -f` takes no `-` for stdin (cmd/cmd.go looks for that name).
    """
    drafts = {companions_of(gguf_names, gguf)[1] for gguf in quants_of(gguf_names)} if repo else set()
    lines = [f"hf download {shlex.quote(repo)} {shlex.quote(draft)} --local-dir ." for draft in sorted(drafts - {""})]
    for wrap in wraps(name, gguf_names, params, repo, folder):
        text = wrap.modelfile.rstrip("\n").split("\n")
        target = f"Modelfile.{wrap.model.split(':')[1]}"
        lines.append(f"printf '%s\\n' {' '.join(shlex.quote(line) for line in text)} >{shlex.quote(target)}")
        lines.append(f"ollama create {shlex.quote(wrap.model)} -f {shlex.quote(target)}")
    return "\n".join(lines) + "\n"


def ollama_note(drafts: bool = False) -> str:
    """Return the card's paragraph: what Ollama parses with `template` and `params` alone, and what only after the wrap.

    drafts: whether the release has a draft model.

    Sources: https://huggingface.co/docs/hub/ollama (sidecars); server/create.go, server/images.go, server/prompt.go,
    thinking/template.go and tools/template.go of https://github.com/ollama/ollama, read in October 2026 (the tags that
    it infers from a template: `tag_differences` checks them).
    """
    return (
        "`ollama run hf.co/...` reads `template` and `params` of this repository, and no Modelfile. The values in "
        "`params` are for chats; set the flags above as options to get the answers of an evaluation. "
        "With both alone Ollama writes the prompt as the model's own chat template does, tools included, and splits "
        "thoughts from answers by the tags around them. It does not parse tool calls: without a parser of its own it "
        'expects JSON arguments, where Gemma 4 writes `call:NAME{key:<|"|>text<|"|>}`, so they are not handed over as '
        "`tool_calls`. That needs `RENDERER gemma4` and `PARSER gemma4`. A pull from the Hub sets neither; `ollama "
        "create` does, so wrap the file once with the commands below. They name both, because `ollama create` would "
        "otherwise add them itself, and the stop `<turn|>` with them, which cuts an answer that quotes it. A renderer "
        f"comes before the `template`. This needs Ollama {required(drafts)} or newer. All of this was "
        "read in Ollama's source; Ollama itself was not run."
    )
