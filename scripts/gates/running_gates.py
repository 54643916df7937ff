"""The gates that run something: Ollama's files against the GGUF, and an answer of the smallest file by llama-server."""

import json
import re
import tempfile
import urllib.error
from collections.abc import Callable
from pathlib import Path

from chats.questions import Question
from files.input_errors import InputError, read_words
from files.json_records import read_json
from gates.checked import SERVER_FLAGS, Checked, Outcome
from llama.llama_server import LlamaServer, server_command
from llama.llama_tools import LlamaCpp
from ollama.ollama_files import ollama_params
from ollama.ollama_template import template_differences
from ollama.own_files import check_own_params, check_own_template
from release.manifest import CHECKPOINT

SIDECARS = ("template", "params", "Modelfile")
ANSWER_TOKENS = 256
# In the form of the evaluation: any model that was scored can answer it, the demo included.
QUESTION = Question("gate", "What is the chemical symbol of iron?", ("Au", "Fe", "Pb", "Na"), 1, "")
ANSWER_SECONDS = 1800  # a large model without a GPU is slow


def smallest(checked: Checked) -> Path:
    """Return the smallest model of a release, of a split one the first part."""
    return checked.first_part(min(checked.records.values(), key=lambda record: record["bytes"]))


def missing_sidecars(checked: Checked, *names: str) -> list[str]:
    """Return a line for each of Ollama's files that is not there."""
    return [
        f"{checked.folder / name}: expected Ollama's {name}, found nothing"
        for name in names
        if not (checked.folder / name).is_file()
    ]


def modelfile_deviations(checked: Checked) -> list[str]:
    """Return what is wrong with the Modelfile: it must wrap a file of the folder with Gemma 4's renderer and parser."""
    path = checked.folder / "Modelfile"
    lines = read_words(path).splitlines()
    named = [(match[1], match[2]) for line in lines if (match := re.fullmatch(r"(FROM|DRAFT) \./(\S+)", line))]
    source = named[0][1] if named else None
    found = [
        f"{path}: expected {word} ./FILE of this folder, found {name}"
        for word, name in named[1:]  # mmproj and draft
        if not (checked.folder / name).is_file()
    ]
    if source not in {record["files"][0] for record in checked.records.values()}:
        found.append(f"{path}: expected FROM ./FILE of this folder, found {source}")
    found += [
        f"{path}: expected the line {line!r}, found none"
        for line in ("RENDERER gemma4", "PARSER gemma4")
        if line not in lines
    ]
    return found


def sidecars_gate(checked: Checked) -> Outcome:
    """Template and params are the project's own, fit the model, and the Modelfile wraps a file of the folder."""
    outcome = Outcome("params, Modelfile and template: the project's own, and right for it", applies=checked.for_ollama)
    if outcome.applies:
        outcome.deviations = missing_sidecars(checked, *SIDECARS)
    if outcome.deviations or not outcome.applies:
        return outcome
    check_own_template(checked.folder / "template")
    # The gate `made` holds the params against this file.
    check_own_params(checked.sources["params"]["params"], checked.manifest["settings"])
    params = checked.folder / "params"
    lowered, given = ollama_params(params, smallest(checked)), read_json(params)
    if lowered != given:
        most = lowered["num_ctx"]
        outcome.deviations.append(
            f"{params}: expected num_ctx {most} at most, the model's context, found {given['num_ctx']}"
        )
    outcome.deviations += modelfile_deviations(checked)
    return outcome


def template_gate(checked: Checked) -> Outcome:
    """The Go template renders what the GGUF's chat template does."""
    looked_at = "the Go template, run against the chat template of the smallest GGUF file"
    if not checked.for_ollama:
        return Outcome(looked_at, applies=False)
    if missing := missing_sidecars(checked, "template"):
        return Outcome(looked_at, missing)
    return Outcome(looked_at, template_differences(checked.folder / "template", smallest(checked)))


def ask(server: LlamaServer) -> str:
    """Return the answer to one question, thought included; raise InputError when there is none."""
    body = {
        "messages": [{"role": "user", "content": QUESTION.prompt}],
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "seed": 1,
    }
    expected = "an answer of llama-server"
    try:
        message = server.request("/v1/chat/completions", body, ANSWER_SECONDS)["choices"][0]["message"]
    except urllib.error.HTTPError as error:
        words = error.read()[:200].decode(errors="replace")
        raise InputError(server.gguf, expected, f"HTTP {error.code}: {words}") from error
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise InputError(server.gguf, expected, f"{type(error).__name__}: {error}"[:200]) from error
    text = f"{message.get('reasoning_content') or ''}{message.get('content') or ''}".strip()
    if not text:
        raise InputError(server.gguf, "words in the answer of llama-server", "none")
    return text


def answer_gate(checked: Checked, tools: LlamaCpp, gpu_layers: int) -> Outcome:
    """llama-server loads the smallest file and answers."""
    if checked.kind == CHECKPOINT:
        return Outcome("no GGUF file to load", applies=False)
    gguf = smallest(checked)
    flags = [*SERVER_FLAGS, "-ngl", str(gpu_layers)]
    command = server_command(tools.tool("llama-server"), gguf, "release", 0, flags)
    with tempfile.TemporaryDirectory() as folder, LlamaServer(command, gguf, Path(folder) / "server.log") as server:
        text = ask(server)
    return Outcome(f"{gguf.name} loaded by llama-server, which answers {json.dumps(text[:60], ensure_ascii=False)}")


def running_gates(tools: LlamaCpp, gpu_layers: int) -> dict[str, Callable[[Checked], Outcome]]:
    """Return the gates of this module by name."""
    return {
        "sidecars": sidecars_gate,
        "template": template_gate,
        "answer": lambda checked: answer_gate(checked, tools, gpu_layers),
    }
