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
import asyncio
from collections.abc import Callable
from pathlib import Path

from files.command_start import die_with_parent
from files.input_errors import InputError, shown
from files.json_records import read_record
from files.known_digests import known_sha256
from files.option_types import command_parser
from files.safe_files import only_writer, run
from files.seals import is_kept
from files.written_records import write_record
from llama.llama_tools import find_llama_cpp
from scoring.answer_letters import completion_letter
from scoring.answer_record import Answer, read_answers
from scoring.asked_servers import add_server_arguments, answered_by, asked_servers
from scoring.eval_protocol import recorded_protocol
from scoring.lm_eval_samples import read_asked
from scoring.run_files import (
    ANOTHER_OUTPUT,
    ANSWERS,
    PATCH_TEMPERATURE,
    PATCHED,
    PREDICT_TOKENS,
    PREFILL,
    RUN,
    Patched,
    patch_head,
    read_run,
    resume_run,
)
from scoring.score_records import ANSWERED_BY
from scoring.server_pool import AskedServer, ServerPool

from tqdm import tqdm


def closed_thought(chat_template: str) -> str:
    """Return an empty, closed thought as the family of the chat template writes it; "" where it has no thoughts."""
    if "<|channel>" in chat_template:
        return "<|channel>thought\n<channel|>"
    return "<think>\n\n</think>\n\n" if "<think>" in chat_template else ""


async def complete(pool: ServerPool, server: AskedServer, prompt: str) -> dict:
    """Return a server's completion of the begun answer. Raises what the pool takes for a failure."""
    thought = closed_thought((await pool.request(server, "/props")).get("chat_template", ""))
    asked = {"messages": [{"role": "user", "content": prompt}]}
    chat = (await pool.request(server, "/apply-template", asked))["prompt"]
    # cache_prompt false, as in the protocol: the answer must not depend on the question before it.
    settings = {"n_predict": PREDICT_TOKENS, "temperature": PATCH_TEMPERATURE, "cache_prompt": False}
    reply = await pool.request(server, "/completion", {"prompt": chat + thought + PREFILL, **settings})
    reply["content"]  # a reply without it is an error
    return reply


async def patch_answer(pool: ServerPool, answer: Answer, prompt: str, attempts: int) -> dict:
    """Complete one invalid answer. When all attempts fail there is no letter."""
    asked = await pool.ask(lambda server: complete(pool, server, prompt), attempts)
    completion = asked.reply["content"] if asked.reply else ""
    letter = completion_letter(completion)
    return {
        "record_id": answer.record_id,
        "class": answer.kind,
        "completion": completion,
        "letter": letter,
        "correct": letter == answer.target,
        "errors": asked.errors,
    }


async def patch_all(
    pool: ServerPool, prompts: dict[str, str], invalid: list[Answer], attempts: int, keep: Callable[[dict], None]
) -> None:
    """Patch the invalid answers, one at a time on each server; `keep` is called with each as it is patched."""
    async with pool.opened():
        tasks = [asyncio.create_task(patch_answer(pool, one, prompts[one.record_id], attempts)) for one in invalid]
        try:
            for task in tqdm(asyncio.as_completed(tasks), desc="patch invalid answers", total=len(tasks)):
                keep(await task)
        finally:
            for left in tasks:
                left.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def patch_left(args: argparse.Namespace, run_record: dict, left: list[Answer], keep: Callable[[dict], None]) -> None:
    """Ask the servers for the answers that are left to patch."""
    protocol = recorded_protocol(args.run / RUN, run_record["protocol"])
    prompts = {document["Record ID"]: document["prompt"] for document in read_asked(args.run, run_record)}
    tool, log = find_llama_cpp(None).tool("llama-server"), args.run / "patch-server.log"
    with asked_servers(args, tool, run_record["name"], protocol, log, at_once=1) as pool:
        asyncio.run(patch_all(pool, prompts, left, protocol.attempts, keep))


def patched_before(path: Path, head: dict, invalid: list[Answer]) -> tuple[list[dict], dict[str, list]]:
    """Return what a killed patch step left for these invalid answers, and what had answered.

    What another run left counts for nothing.
    """
    content = read_record(path, Patched, "remove it") if is_kept(path) else {}
    if {key: content.get(key) for key in head} != head:
        return [], {}
    done = {entry["record_id"]: entry for entry in content["answers"]}
    # An answer that was asked again may have another class now: then its patch is out of date.
    still = [done[one.record_id] for one in invalid if done.get(one.record_id, {}).get("class") == one.kind]
    return still, {key: content[key] for key in ANSWERED_BY if still and key in content}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--run", type=Path, required=True, help="run directory of ask_questions.py")
    add("--gguf", type=Path, required=True, help="the GGUF file that was evaluated")
    add_server_arguments(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    run_record, path = read_run(args.run), args.run / PATCHED
    if known_sha256(args.gguf) != run_record["gguf_sha256"]:
        raise InputError(args.gguf, f"the model that gave the answers of {args.run}", "another one")
    with only_writer(args.run / ANSWERS):
        resume_run(args.run)
        by_id = read_answers(args.run / ANSWERS)
        asked = [document["Record ID"] for document in read_asked(args.run, run_record)]
        if strange := sorted({*asked} ^ by_id.keys()):
            found = f"{'none' if strange[0] in asked else 'one'} to {shown(strange[0])}"
            raise InputError(
                args.run / ANSWERS, f"an answer to each of its {len(asked)} questions", found, ANOTHER_OUTPUT
            )
        # In the order of the questions: several servers answer in any.
        answers = [by_id[record_id] for record_id in asked]
        invalid = [answer for answer in answers if answer.invalid]
        head = patch_head(run_record)
        done, machines = patched_before(path, head, invalid)
        known = {entry["record_id"] for entry in done}
        left = [answer for answer in invalid if answer.record_id not in known]
        places = [answer.record_id for answer in invalid]

        def keep(entry: dict) -> None:
            done.append(entry)
            done.sort(key=lambda one: places.index(one["record_id"]))  # several servers end in any order
            write_record(path, head | machines | {"answers": done}, Patched)

        if left:  # a server takes its time to load: none is started for nothing
            machines = answered_by(machines, None if args.servers else find_llama_cpp(None))
            patch_left(args, run_record, left, keep)
        write_record(path, head | machines | {"answers": done}, Patched)
    right = sum(entry["correct"] for entry in done)
    print(f"{args.run}: {len(invalid)} of {len(answers)} answers invalid, {right} of them right after the patch")


if __name__ == "__main__":
    die_with_parent()
    run(main)
