#!/usr/bin/env python3
"""Ask one model all frozen questions: one or several servers, a recording proxy, and lm-eval's own run over it.

Inputs:  a GGUF file; the frozen questions and task of freeze_questions.py in RUN/task; the tokenizer of the unmodified
         base (directory or Hub id); the protocol's open values (scoring/eval_protocol.py).
Output:  RUN/run.json: name, digests of model, questions and protocol, the protocol, and the processor and devices;
         RUN/answers.jsonl: one line per question as it happens (scoring/answer_record.py); RUN/lm_eval/: lm-eval's
         results and samples; RUN/server.log.
Example: .venv/bin/python scripts/ask_questions.py --name gemma-4-demo --tokenizer data/demo/model \\
             --gguf build/gemma-4-demo/full/gguf/calibration_questions/gemma-4-demo-Q6_K.gguf --run build/try/eval \\
             --context 4096 --reasoning-budget 1024 --max-gen-toks 2048
         after the example of freeze_questions.py.

The same command goes on with the answers that RUN holds; a RUN of another model, protocol or question set is refused.
"""

import argparse
import asyncio
import json
import os
import time
from dataclasses import asdict
from pathlib import Path

from files.command_start import die_with_parent
from files.input_errors import InputError, shown
from files.json_records import read_json
from files.known_digests import held_sha256
from files.option_types import command_parser
from files.safe_files import directory_when_done, only_writer, remove, run, unchanged
from files.sealed_lines import check_kept_lines
from files.seals import check_kept
from files.written_records import write_record
from llama.llama_tools import LlamaCpp, find_llama_cpp
from llama.template_check import check_gguf_template
from scoring.answer_proxy import AnswerProxy
from scoring.answer_record import Answer, prompt_sha256, read_answers
from scoring.asked_servers import add_server_arguments, answered_by, asked_servers
from scoring.eval_protocol import (
    BACKENDS,
    BY_DIGEST,
    OpenAiProtocol,
    Protocol,
    add_protocol_arguments,
    first_differing_key,
    protocol_of,
)
from scoring.eval_tasks import frozen_name, task_of
from scoring.evaluated_file import evaluated_sha256
from scoring.frozen_task import check_frozen_task
from scoring.lm_eval_run import check_lm_eval_values, lm_eval_command, lm_eval_environment, run_lm_eval
from scoring.lm_eval_samples import check_whole, missing_results, read_frozen, shorten_names
from scoring.run_files import (
    ANOTHER_OUTPUT,
    ANSWERS,
    FROZEN,
    LM_EVAL,
    READ_FROM,
    RUN,
    TASK_FOLDER,
    RunRecord,
    begin_run,
    is_begun,
    read_run,
    resume_run,
    subject_of,
    subjects_of,
)
from scoring.score_records import SUMMARY_NAME
from scoring.server_pool import ServerPool

from tqdm import tqdm


def tokenizer_identity(tokenizer: str) -> str:
    """Return a Hub id as it is, and of a directory the digest of its tokenizer.json: paths differ between machines."""
    directory = Path(tokenizer)
    if not directory.is_dir():
        if directory.is_absolute():
            raise InputError(tokenizer, "the tokenizer's directory or Hub id", "nothing")
        return tokenizer
    if not (directory / "tokenizer.json").is_file():
        raise InputError(directory, "tokenizer.json", "none")
    return f"{BY_DIGEST}{held_sha256(directory / 'tokenizer.json')}"


def identity(args: argparse.Namespace, protocol: Protocol) -> dict:
    """Return the content of run.json: what makes this run another than the next one."""
    read_from = read_json(args.run / TASK_FOLDER / READ_FROM)
    return {
        "name": args.name,
        "gguf_sha256": evaluated_sha256(args.gguf),
        "protocol_sha256": protocol.digest,
        "questions_sha256": held_sha256(args.run / TASK_FOLDER / FROZEN),
        **{key: read_from.get(key) for key in ("question_file_sha256", "examples_file_sha256")},
        "protocol": asdict(protocol),
    }


def check_run(directory: Path, mine: dict) -> dict:
    """Return the record of a run to go on from; raise InputError if it is of another model, protocol or question set.

    What the run goes on from is this record, and never the file again: it may be another one by then.
    """
    # Answers that took hours are never mixed with others, and never deleted here.
    if not (directory / RUN).exists():
        raise InputError(directory, f"{RUN} beside {ANSWERS}", "none", ANOTHER_OUTPUT)
    # What a run goes on from would else be taken for its own: an edited machine, or an edited answer.
    with unchanged(directory / RUN):
        found = read_run(directory)
        check_same_run(directory, mine, found)
        check_kept(directory / RUN)
    check_kept_lines(directory / ANSWERS, subjects_of(found))
    return found


def check_answered(directory: Path, documents: list[dict]) -> None:
    """Raise InputError when a run holds an answer to none of its questions: it would be found after hours of asking."""
    asked = {document["Record ID"] for document in documents}
    for record_id in read_answers(directory / ANSWERS):
        if record_id not in asked:
            found = f"one to {shown(record_id)}"
            raise InputError(directory / ANSWERS, f"answers to its {len(asked)} questions", found, ANOTHER_OUTPUT)


def check_same_run(directory: Path, mine: dict, found: dict) -> None:
    """Raise InputError when a run's record is not of this model, protocol and question set."""
    advice = ANOTHER_OUTPUT
    of_files = {
        "gguf_sha256": "answers of the model",
        "questions_sha256": "answers to the questions",
        "question_file_sha256": "answers to the questions of the file",
        "examples_file_sha256": "answers with the examples of the file",
    }
    for key, what in of_files.items():
        if found.get(key) and found[key] != mine[key]:  # older runs do not know of all files
            expected, other = (str(digest)[:12] for digest in (mine[key], found.get(key)))
            raise InputError(directory, f"{what} with sha256 {expected}", f"those of {other}", advice)
    protocol, other_protocol = mine["protocol"], found["protocol"]
    if differing := first_differing_key(protocol, other_protocol):
        expected, other = protocol.get(differing), other_protocol.get(differing)
        raise InputError(directory, f"answers under {differing} {expected}", f"those under {other}", advice)


def is_asked(directory: Path, mine: dict, documents: list[dict]) -> bool:
    """Tell whether a run holds every answer of this very model, protocol and question set, and lm-eval's results.

    lm-eval writes results and samples one after the other and bit by bit. `evaluate` gives them their place only when
    both are whole, so a run that was killed between the last answer and lm-eval's end is not taken for finished.
    """
    if missing_results(directory / LM_EVAL) or not (directory / RUN).is_file():
        return False
    known = read_run(directory)
    if known | {"version": RunRecord.current, **mine} != known:  # the machine is not part of what was asked
        return False
    return read_answers(directory / ANSWERS).keys() == {document["Record ID"] for document in documents}


class Progress:
    """One live line: done, right, invalid, tokens per second, time left."""

    def __init__(self, answers: dict[str, Answer], total: int) -> None:
        self.begin: float | None = None
        self.tokens = 0
        self.right = sum(answer.correct for answer in answers.values())
        self.invalid = sum(answer.invalid for answer in answers.values())
        self.bar = tqdm(
            desc="answered",
            total=total,
            initial=len(answers),
            unit="question",
            smoothing=0,  # the mean speed of the whole run: thoughts differ too much in length for a recent one
            bar_format="{desc} {n_fmt}/{total_fmt}{postfix}, {remaining} left ",
        )
        self.show()

    def show(self) -> None:
        """Refresh the figures."""
        speed = self.tokens / max(time.monotonic() - self.begin, 1e-9) if self.begin else 0
        self.bar.set_postfix_str(f"{self.right} right, {self.invalid} invalid, {speed:.0f} tokens/s", refresh=False)

    def __call__(self, answer: Answer) -> None:
        """Count one more answer. The clock starts with the first question: lm-eval needs a while to start."""
        if self.begin is None:
            self.begin = time.monotonic() - answer.seconds
            self.bar.start_t = time.time() - answer.seconds
        self.tokens += answer.completion_tokens
        self.right, self.invalid = self.right + answer.correct, self.invalid + answer.invalid
        self.show()
        self.bar.update()


async def evaluate(
    args: argparse.Namespace, protocol: Protocol, pool: ServerPool, documents: list[dict], subject: str
) -> None:
    """Run lm-eval over the recording proxy into RUN/lm_eval; raise InputError when either cannot go on.

    RUN must hold no lm_eval of an earlier run. subject: of the seals of the answers.
    """
    by_prompt = {prompt_sha256(document["prompt"]): document for document in documents}
    task_folder = args.run / TASK_FOLDER
    progress = Progress(read_answers(args.run / ANSWERS), len(documents))
    task = task_of(protocol.task)
    proxy = AnswerProxy(pool, protocol.attempts, by_prompt, args.run / ANSWERS, progress, task, subject)
    # The copy of the questions that lm-eval's loader makes, under names of 200 characters, and does not flush: what a
    # power cut has left of it must not be read. It is made again in a moment.
    remove(task_folder / "datasets")
    check_frozen_task(task_folder, protocol.task)
    environment = lm_eval_environment(dict(os.environ), task_folder / "datasets", proxy.key)
    try:
        async with proxy.listening() as url:
            # No marker: there is no old directory to replace.
            with directory_when_done(args.run / LM_EVAL, marker="") as partial:
                command = lm_eval_command(args.name, url, protocol, args.tokenizer, task_folder, partial, pool.places)
                await run_lm_eval(command, environment, args.run / "lm_eval.log", proxy.failure)
                if missing := missing_results(partial):
                    raise InputError(
                        "lm-eval", missing, "none", f"the same command goes on; log: {args.run}/lm_eval.log"
                    )
                shorten_names(partial)
                check_whole(partial, task, len(documents))
    finally:
        progress.bar.close()
    remove(task_folder / "datasets")


def ask_all(
    args: argparse.Namespace, tools: LlamaCpp | None, protocol: Protocol, documents: list[dict], subject: str
) -> int:
    """Ask the servers what is not answered yet; return how often servers of ours were started."""
    print(f"{args.name}: protocol {protocol.digest[:16]}: {json.dumps(asdict(protocol))[1:-1]}", flush=True)
    tool, log = tools.tool("llama-server") if tools else Path(), args.run / "server.log"
    with asked_servers(args, tool, args.name, protocol, log, protocol.concurrency) as pool:
        asyncio.run(evaluate(args, protocol, pool, documents, subject))
        return sum(server.own.starts for server in pool.servers if server.own)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--name", required=True, help="name of the model in tables")
    add("--gguf", type=Path, required=True, help="GGUF file to evaluate, or with --backend openai the checkpoint")
    add("--tokenizer", required=True, help="tokenizer of the unmodified base: directory or Hub id")
    add("--run", type=Path, required=True, help="run directory with the frozen task")
    add_protocol_arguments(parser)
    add_server_arguments(parser)
    add = parser.add_argument_group("what the servers are").add_argument
    add("--backend", choices=BACKENDS, default="llama.cpp", help="llama.cpp, or any OpenAI-compatible server")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    kind = BACKENDS[args.backend]
    if not (args.gguf.is_dir() if kind is OpenAiProtocol else args.gguf.is_file()):
        raise InputError(args.gguf, "a checkpoint" if kind is OpenAiProtocol else "a GGUF file", "none")
    check_lm_eval_values(args.name, args.tokenizer)
    tools = None if kind is OpenAiProtocol else find_llama_cpp(None)
    protocol = protocol_of(
        args, tokenizer_identity(args.tokenizer), tools.version() if tools else "", task_of(args.task).filter, kind
    )
    if not (args.run / TASK_FOLDER / f"{frozen_name(protocol.task)}.yaml").is_file():
        raise InputError(args.run / TASK_FOLDER, f"questions frozen for the task {protocol.task}", "none")
    documents = read_frozen(args.run / TASK_FOLDER)
    mine = identity(args, protocol)
    with only_writer(args.run / ANSWERS):
        known = {}
        if going_on := is_begun(args.run):  # decided here, once
            resume_run(args.run)
            known = check_run(args.run, mine)
            check_answered(args.run, documents)
        if is_asked(args.run, mine, documents):
            print(f"{args.run}: all {len(documents)} questions are answered already")
            return
        # llama-server renders every question without limits, so each is rendered once with them.
        if tools:
            check_gguf_template(args.gguf, [document["prompt"] for document in documents])
        check_frozen_task(args.run / TASK_FOLDER, protocol.task)
        # The old results go first: a run that is killed from here on must not look finished.
        for old in (SUMMARY_NAME, LM_EVAL):
            remove(args.run / old)
        if not going_on:
            begin_run(args.run)
            if is_begun(args.run):
                raise InputError(args.run / ANSWERS, "no answers before the first question", "some", ANOTHER_OUTPUT)
        record = {**mine, **answered_by(known, None if args.servers else tools)}
        write_record(args.run / RUN, record, RunRecord)
        starts = ask_all(args, tools, protocol, documents, subject_of(record))
    answers = read_answers(args.run / ANSWERS).values()
    # The proxy answers what it is asked; this shows that lm-eval has asked every question.
    if len(answers) != len(documents):
        raise InputError(args.run / ANSWERS, f"{len(documents)} answers", str(len(answers)))
    invalid = sum(answer.invalid for answer in answers)
    print(f"{args.run}: {len(answers)} answers, {invalid} invalid, server started {starts} times")


if __name__ == "__main__":
    die_with_parent()
    run(main)
