"""The recorded answers to the frozen prompts: asked of llama-server, a line each as it happens, and read again.

FOLDER/answers.jsonl holds the answers of one file: all prompts with the first seed, then all with the next one, and so
on, so that more seeds only add lines. Beside it inputs.json says what they depend on. They hold no time: a run that was
killed and goes on ends with the bytes of one that was not.
"""

import json
from pathlib import Path

from files.input_errors import InputError, no_link, read_lines
from files.json_records import check_fields, parse_json, read_json
from files.run_state import results_folder
from files.safe_files import flush_to_disk
from files.sealed_lines import seal_line
from files.seals import INPUTS_NAME
from loops.loop_classes import LoopAnswer, WrittenCall
from loops.loop_prompts import LoopPrompt, LoopPrompts
from scoring.eval_protocol import Protocol
from scoring.run_files import ANSWERS

ANSWERS_NAME = ANSWERS  # as of an evaluation
SUBJECT = ""  # of the seals: inputs.json and begun.json beside the answers bind them
ERROR_CHARACTERS = 200
SAMPLED_BY = ("temperature", "top_p", "top_k", "dry_multiplier")  # of the evaluation's protocol
RUN_AGAIN = "run `make loops REPLACE=loops`"


def loop_inputs(prompts: LoopPrompts, protocol: Protocol, tools_sha256: str) -> dict:
    """Return what all answers depend on beside the file that gives them; tools_sha256: of the build of llama.cpp.

    No budget of thought: it would end the endless thoughts that are to be seen.
    """
    return {
        "prompts_sha256": prompts.sha256,
        "sampling": {name: getattr(protocol, name) for name in SAMPLED_BY},
        "seed": protocol.seed,
        "max_tokens": protocol.max_gen_toks,
        "context": protocol.context,
        "gpu_layers": protocol.gpu_layers,
        "llama_cpp": protocol.llama_cpp,
        "tools_sha256": tools_sha256,
    }


def loop_flags(inputs: dict, seconds: int) -> list[str]:
    """Return llama-server's flags: one answer at a time and no cache of prompts, so that none depends on another."""
    flags = ["--jinja", "-c", inputs["context"], "-np", 1, "-ngl", inputs["gpu_layers"], "--timeout", seconds]
    flags += ["--reasoning-format", "deepseek", "--reasoning-budget", -1, "--no-cache-prompt", "--cache-ram", 0]
    return list(map(str, flags))


def answers_folder(cache: Path, inputs: dict, gguf_sha256: str) -> tuple[Path, dict]:
    """Return where the answers of one file are kept, and what they depend on."""
    own = {**inputs, "gguf_sha256": gguf_sha256}
    return results_folder(cache, "loops", own), own


def asked_in_order(prompts: LoopPrompts, seed: int, seeds: int) -> list[tuple[LoopPrompt, int]]:
    """Return every prompt with every seed, in the order of the record."""
    return [(prompt, seed + number) for number in range(seeds) for prompt in prompts.prompts]


def read_loop_answers(path: Path, asked: list[tuple[LoopPrompt, int]], cut: bool = False) -> list[LoopAnswer]:
    """Return the recorded answers, at most those that were asked; cut: take half a last line off the file.

    Raises InputError for a line that is no answer, or one to another prompt or seed than was asked in its place.
    """
    lines = read_lines(path) if path.is_file() else []
    if lines and not lines[-1].endswith(b"\n"):  # that a kill has left; the next answer would be appended to it
        half = lines.pop()
        if cut:
            with open(path, "r+b", opener=no_link) as file:
                file.truncate(path.stat().st_size - len(half))
    found = []
    for number, (line, (prompt, seed)) in enumerate(zip(lines, asked), 1):
        what, place = "a recorded answer", f"{path}, line {number}"
        try:
            row = parse_json(line)
        except (ValueError, RecursionError) as error:
            raise InputError(place, what, str(error)[:ERROR_CHARACTERS], RUN_AGAIN) from error
        if not isinstance(row, dict):
            raise InputError(place, what, type(row).__name__, RUN_AGAIN)
        check_fields(place, row, LoopAnswer, what, RUN_AGAIN)
        answer = LoopAnswer.model_validate(row)
        if (answer.prompt, answer.seed) != (prompt.id, seed):
            other = f"one to {answer.prompt} with seed {answer.seed}"
            raise InputError(place, f"the answer to {prompt.id} with seed {seed}", other, RUN_AGAIN)
        found.append(answer)
    return found


def recorded_answers(
    cache: Path, inputs: dict, gguf_sha256: str, asked: list[tuple[LoopPrompt, int]]
) -> list[LoopAnswer]:
    """Return all answers of one file; raise InputError where they are not there, or depend on something else."""
    folder, own = answers_folder(cache, inputs, gguf_sha256)
    if read_json(folder / INPUTS_NAME) != own:
        raise InputError(folder / INPUTS_NAME, "what the answers depend on, as loops.json says", "others", RUN_AGAIN)
    answers = read_loop_answers(folder / ANSWERS_NAME, asked)
    if len(answers) < len(asked):
        raise InputError(folder / ANSWERS_NAME, f"{len(asked)} answers", str(len(answers)), RUN_AGAIN)
    return answers


def append_loop_answer(path: Path, answer: LoopAnswer) -> None:
    """Append an answer, sealed, and force it to the disk.

    Half a line of a full disk is cut off when the run goes on.
    """
    line = json.dumps(answer.model_dump()).encode() + b"\n"
    seal_line(path, line, SUBJECT)
    with open(path, "ab", buffering=0, opener=no_link) as file:
        file.write(line)
    flush_to_disk(path)


def answer_of_reply(prompt: LoopPrompt, seed: int, reply: dict) -> LoopAnswer:
    """Return what is recorded of a reply; raise LookupError, TypeError or ValueError when it is no completion."""
    choice = reply["choices"][0]
    message = choice["message"]
    calls = [call["function"] for call in message.get("tool_calls") or []]
    return LoopAnswer(
        prompt=prompt.id,
        seed=seed,
        reasoning=message.get("reasoning_content") or "",
        content=message.get("content") or "",
        calls=[WrittenCall(name=call["name"], arguments=call["arguments"]) for call in calls],
        finish_reason=choice["finish_reason"],
        tokens=reply["usage"]["completion_tokens"],
        error="",
    )


def refused_by_parser(prompt: LoopPrompt, seed: int, error: str) -> LoopAnswer:
    """Return what is recorded where the server's parser refused what the model wrote."""
    return LoopAnswer(
        prompt=prompt.id, seed=seed, reasoning="", content="", calls=[], finish_reason="", tokens=0, error=error
    )
