#!/usr/bin/env python3
"""Ask for the invalid answers of an evaluation again, the thought closed and the answer begun: the card's patch step.

Inputs:  a run directory of ask_questions.py; the GGUF file that gave the answers.
Output:  RUN/patched.json: for each invalid question its class, the completion, its letter, and right or wrong; written
         as it happens.
Example: .venv/bin/python scripts/patch_answers.py --run build/try/eval \\
             --gguf build/gemma-4-demo/full/gguf/calibration_questions/gemma-4-demo-Q6_K.gguf
         after the example of ask_questions.py.

Every invalid answer (anything but "answered", see scoring/answer_record.py) goes through /completion: the exact chat
prompt (/apply-template), the thought closed, then "The answer is (", 10 tokens, greedy. No parser stands in between.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from files.option_types import command_parser
from files.safe_files import InputError, only_writer, read_record, recorded_sha256, run, write_record
from llama.llama_server import LlamaServer, server_command
from llama.llama_tools import die_with_parent, find_llama_cpp
from scoring.answer_record import Answer, completion_letter, read_answers
from scoring.eval_protocol import recorded_protocol
from scoring.lm_eval_samples import read_asked
from scoring.run_files import (
    ANSWERS,
    PATCH_TEMPERATURE,
    PATCHED,
    PREDICT_TOKENS,
    PREFILL,
    RUN,
    Patched,
    patch_head,
    read_run,
)

from tqdm import tqdm


def closed_thought(chat_template: str) -> str:
    """Return an empty, closed thought as the family of the chat template writes it; "" where it has no thoughts."""
    if "<|channel>" in chat_template:
        return "<|channel>thought\n<channel|>"
    return "<think>\n\n</think>\n\n" if "<think>" in chat_template else ""


def complete(server: LlamaServer, prompt: str) -> str:
    """Return the server's completion of the begun answer. Raises OSError and ValueError when the server fails."""
    thought = closed_thought(server.request("/props").get("chat_template", ""))
    chat = server.request("/apply-template", {"messages": [{"role": "user", "content": prompt}]})["prompt"]
    # cache_prompt false, as in the protocol: the answer must not depend on the question before it.
    asked = {"n_predict": PREDICT_TOKENS, "temperature": PATCH_TEMPERATURE, "cache_prompt": False}
    body = {"prompt": chat + thought + PREFILL, **asked}
    return server.request("/completion", body)["content"]


def patch_answer(server: LlamaServer, answer: Answer, prompt: str, attempts: int) -> dict:
    """Complete one invalid answer; restart the server after each failure. When all attempts fail there is no letter."""
    completion = ""
    errors: list[str] = []
    while len(errors) < attempts:
        try:
            completion = complete(server, prompt)
            break
        except (OSError, ValueError, KeyError) as error:
            errors.append(f"{type(error).__name__}: {error}"[:300])
            server.restart()
    letter = completion_letter(completion)
    return {
        "record_id": answer.record_id,
        "class": answer.kind,
        "completion": completion,
        "letter": letter,
        "correct": letter == answer.target,
        "errors": errors,
    }


def patch_all(args: argparse.Namespace, run_record: dict, invalid: list[Answer]) -> Iterator[dict]:
    """Start the server and yield each invalid answer as it is patched."""
    protocol = recorded_protocol(args.run / RUN, run_record["protocol"])
    prompts = {document["Record ID"]: document["prompt"] for document in read_asked(args.run, run_record)}
    tool = find_llama_cpp(None).tool("llama-server")
    command = server_command(tool, args.gguf, run_record["name"], args.port, protocol.server_flags)
    with LlamaServer(command, args.gguf, args.run / "patch-server.log") as server:
        for answer in tqdm(invalid, desc="patch invalid answers"):
            yield patch_answer(server, answer, prompts[answer.record_id], protocol.attempts)


def patched_before(path: Path, head: dict, invalid: list[Answer]) -> list[dict]:
    """Return what a killed patch step left for these invalid answers; what another run left counts for nothing."""
    content = read_record(path, Patched, "remove it") if path.exists() else {}
    if {key: content.get(key) for key in head} != head:
        return []
    done = {entry["record_id"]: entry for entry in content["answers"]}
    # An answer that was asked again may have another class now: then its patch is out of date.
    return [done[answer.record_id] for answer in invalid if done.get(answer.record_id, {}).get("class") == answer.kind]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--run", type=Path, required=True, help="run directory of ask_questions.py")
    add("--gguf", type=Path, required=True, help="the GGUF file that was evaluated")
    add = parser.add_argument_group("how the server runs").add_argument
    add("--port", default="0", help="port of llama-server on 127.0.0.1 (default: a free one)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    run_record, path = read_run(args.run), args.run / PATCHED
    if recorded_sha256(args.gguf) != run_record["gguf_sha256"]:
        raise InputError(args.gguf, f"the model that gave the answers of {args.run}", "another one")
    with only_writer(args.run / ANSWERS):
        answers = read_answers(args.run / ANSWERS).values()
        invalid = [answer for answer in answers if answer.invalid]
        head = patch_head(run_record)
        done = patched_before(path, head, invalid)
        known = {entry["record_id"] for entry in done}
        left = [answer for answer in invalid if answer.record_id not in known]
        if left:  # a server takes its time to load: none is started for nothing
            for entry in patch_all(args, run_record, left):
                done.append(entry)
                write_record(path, head | {"answers": done}, Patched)
        write_record(path, head | {"answers": done}, Patched)
    right = sum(entry["correct"] for entry in done)
    print(f"{args.run}: {len(invalid)} of {len(answers)} answers invalid, {right} of them right after the patch")


if __name__ == "__main__":
    die_with_parent()
    run(main)
