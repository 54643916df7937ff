"""The gates that run something: Ollama's sidecars against the GGUF, and an answer of the smallest file by llama-server."""

import json
import re
import tempfile
import urllib.error
from collections.abc import Callable
from pathlib import Path

from chats.questions import Question
from files.safe_files import InputError, read_json
from llama.llama_server import LlamaServer, request_json, server_command
from llama.llama_tools import LlamaCpp
from ollama.ollama_files import ollama_params
from ollama.ollama_template import template_differences
from release.gates import Checked, Outcome
from release.release_files import CHECKPOINT, SIDECARS

SERVER_FLAGS = ["-c", "2048", "-np", "1", "--reasoning-format", "deepseek", "--reasoning-budget", "64"]
ANSWER_TOKENS = 256
# In the form of the evaluation, which any model that was scored can answer, the demo included.
QUESTION = Question("gate", "What is the chemical symbol of iron?", ("Au", "Fe", "Pb", "Na"), 1, "")
ANSWER_SECONDS = 1800


def smallest(checked: Checked) -> Path:
    """Return the smallest model of a release, of a split one the first part."""
    return checked.first_part(min(checked.manifest["records"].values(), key=lambda record: record["bytes"]))


def missing_sidecars(checked: Checked) -> list[str]:
    """Return which of Ollama's files are not there."""
    return [
        f"{checked.folder / name}: expected Ollama's {name}, found nothing"
        for name in SIDECARS
        if not (checked.folder / name).is_file()
    ]


def sidecars(checked: Checked) -> Outcome:
    """Params are options whose stops are tokens and whose context is the model's; the Modelfile wraps a file of the folder."""
    outcome = Outcome("params and Modelfile against the smallest GGUF file", applies=checked.kind != CHECKPOINT)
    if outcome.applies:
        outcome.deviations = missing_sidecars(checked)
    if outcome.deviations or not outcome.applies:
        return outcome
    params, gguf = checked.folder / "params", smallest(checked)
    if (lowered := ollama_params(params, gguf)) != (given := read_json(params)):
        outcome.deviations.append(
            f"{params}: expected num_ctx {lowered['num_ctx']} at most, the model's context, found {given['num_ctx']}"
        )
    lines = (checked.folder / "Modelfile").read_text(encoding="utf-8").splitlines()
    whole = {record["files"][0] for record in checked.manifest["records"].values()}
    source = next((match[1] for line in lines if (match := re.fullmatch(r"FROM \./(\S+)", line))), None)
    if source not in whole:
        outcome.deviations.append(
            f"{checked.folder / 'Modelfile'}: expected FROM ./FILE of this folder, found {source}"
        )
    outcome.deviations += [
        f"{checked.folder / 'Modelfile'}: expected the line {line!r}, found no such"
        for line in ("RENDERER gemma4", "PARSER gemma4")
        if line not in lines
    ]
    return outcome


def template(checked: Checked) -> Outcome:
    """The Go template renders what the GGUF's chat template does."""
    outcome = Outcome(
        "the Go template, run against the chat template of the smallest GGUF file", applies=checked.kind != CHECKPOINT
    )
    if outcome.applies and not (missing := [line for line in missing_sidecars(checked) if "template:" in line]):
        outcome.deviations = template_differences(checked.folder / "template", smallest(checked))
    elif outcome.applies:
        outcome.deviations = missing
    return outcome


def ask(server: LlamaServer) -> str:
    """Return the answer to one question, thought included; raise InputError when there is none."""
    body = {
        "messages": [{"role": "user", "content": QUESTION.prompt}],
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "seed": 1,
    }
    try:
        message = request_json(f"{server.url}/v1/chat/completions", body, ANSWER_SECONDS)["choices"][0]["message"]
    except urllib.error.HTTPError as error:
        raise InputError(
            server.gguf,
            "an answer of llama-server",
            f"HTTP {error.code}: {error.read()[:200].decode(errors='replace')}",
        ) from error
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise InputError(server.gguf, "an answer of llama-server", f"{type(error).__name__}: {error}"[:200]) from error
    text = f"{message.get('reasoning_content') or ''}{message.get('content') or ''}".strip()
    if not text:
        raise InputError(server.gguf, "words in the answer of llama-server", "none")
    return text


def answer(checked: Checked, tools: LlamaCpp, gpu_layers: int) -> Outcome:
    """llama-server loads the smallest file and answers."""
    if checked.kind == CHECKPOINT:
        return Outcome("no GGUF file to load", applies=False)
    gguf = smallest(checked)
    with tempfile.TemporaryDirectory() as folder:
        command = server_command(
            tools.tool("llama-server"), gguf, "release", 0, [*SERVER_FLAGS, "-ngl", str(gpu_layers)]
        )
        with LlamaServer(command, gguf, Path(folder) / "server.log") as server:
            text = ask(server)
    return Outcome(f"{gguf.name} loaded by llama-server, which answers {json.dumps(text[:60], ensure_ascii=False)}")


def running_gates(tools: LlamaCpp, gpu_layers: int) -> dict[str, Callable[[Checked], Outcome]]:
    """Return the gates of this module by name."""
    return {"sidecars": sidecars, "template": template, "answer": lambda checked: answer(checked, tools, gpu_layers)}
