#!/usr/bin/env python3
"""Measure what a draft model gains: acceptance, speed, and whether greedy answers stay the same.

Inputs:  a draft model of build_draft.py; GGUF files that it drafts for, with their records, as NAME=FILE: the full and
         the pruned model; questions in GPQA's columns.
Output:  TABLE.md and beside it the same name as .json (speed/draft_results.py): every answer's tokens, times, drafts.
Example: .venv/bin/python scripts/measure_draft.py --output build/try/draft.md \\
             --draft build/gemma-4-demo/109e/draft/mtp-gemma-4-demo-109e-Q8_0.gguf \\
             --gguf gemma-4-demo-109e=build/gemma-4-demo/109e/gguf/gemma-4-demo-109e-Q6_K.gguf \\
             --questions data/demo/eval_questions.csv --limit 8

llama-server answers every question greedily without and with the draft model, in turns, so that a machine that slows
down slows both. An answer that differs is an error, after the files are written. Method: Leviathan et al. 2023,
https://arxiv.org/abs/2211.17192.
"""

import argparse
from pathlib import Path

from chats.questions import QUESTION_SEED, Question, load_questions, question_set_digest
from files.command_start import die_with_parent
from files.input_errors import InputError, sha256_file
from files.option_types import command_parser, output_file, positive, whole_number
from files.safe_files import check_apart, replace_when_done, run
from files.written_records import write_record
from ggufs.draft_fit import check_fits
from ggufs.gguf_header import read_header
from llama.drafting import DRAFT_TOKENS, draft_flags
from llama.hardware import hardware_of
from llama.llama_tools import LlamaCpp, find_llama_cpp
from quants.draft_record import DraftRecord
from quants.quant_record import read_held_gguf
from speed.draft_results import ANSWER_TOKENS, DraftResults, check_same_answers, draft_table
from speed.greedy_answers import Greedy, greedy_answers, speed_of
from speed.round_speeds import ROUNDS, in_turns

COUNTS = ("tokens", "drafted", "accepted")
MOST_DRAFTED = 64  # in a row; the server would draft without end, and hardly a later one is accepted


def named_file(text: str) -> tuple[str, Path]:
    """Parse NAME=FILE."""
    name, sign, path = text.partition("=")
    if not (name and sign and path):
        raise argparse.ArgumentTypeError(f"expected NAME=FILE, found {text!r}")
    return name, Path(path)


def draft_answers(args: argparse.Namespace, tools: LlamaCpp, name: str, gguf: Path, questions: list[Question]) -> dict:
    """Return what one model answers without and with the draft model (`Answers`)."""
    record = read_held_gguf(gguf)
    common = ["-c", args.context, "-ngl", args.gpu_layers]
    ways = {"without": common, "with": [*common, *draft_flags(args.draft, args.draft_tokens)]}
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    last: dict[str, list[Greedy]] = {}
    for way in in_turns(list(ways), args.rounds):
        last[way] = list(greedy_answers(tools, gguf, questions, args.max_tokens, ways[way]))
        speeds[way].append(round(speed_of(last[way]), 3))
    return {
        "name": name,
        "gguf": gguf.name,
        "gguf_sha256": record["sha256"],
        "source_sha256": record["source_sha256"],
        "same": [mine.whole == other.whole for mine, other in zip(last["with"], last["without"])],
        **{count: [getattr(answer, count) for answer in last["with"]] for count in COUNTS},
        "speeds": speeds["with"],
        "speeds_without": speeds["without"],
    }


def read_draft(path: Path, targets: list[Path]) -> dict:
    """Return the record of a draft model; raise InputError when it is damaged or does not fit one of its targets."""
    record = read_held_gguf(path, DraftRecord)
    for target in targets:
        check_fits(read_header(path), read_header(target), path)
    return record


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--draft", type=Path, required=True, help="draft model (GGUF) with its record")
    add("--gguf", type=named_file, nargs="+", required=True, metavar="NAME=FILE", help="models that it drafts for")
    add("--questions", type=Path, required=True, help="questions in GPQA's columns")
    add("--limit", type=positive, metavar="N", help="ask the first N questions only")
    add("--output", type=output_file, required=True, help="Markdown file to write; .json goes beside it")
    add = parser.add_argument_group("how the models run").add_argument
    add("--draft-tokens", type=positive, default=DRAFT_TOKENS, help=f"tokens drafted in a row, at most {MOST_DRAFTED}")
    add("--max-tokens", type=positive, default=ANSWER_TOKENS, help="most tokens of an answer")
    add("--rounds", type=positive, default=ROUNDS, help="how often both ways take turns")
    add("--context", type=positive, default=4096, help="tokens of context")
    add("--gpu-layers", type=whole_number, default=0, help="layers on the GPU")
    add("--llama-cpp", type=Path, help="llama.cpp directory (default: $LLAMA_CPP, else the built one)")
    args = parser.parse_args(argv)
    if args.draft_tokens > MOST_DRAFTED:
        parser.error(f"--draft-tokens: expected at most {MOST_DRAFTED}, found {args.draft_tokens}")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    ggufs = [path for _, path in args.gguf]
    check_apart([args.draft, args.questions, *ggufs], [args.output, args.output.with_suffix(".json")])
    tools, draft = find_llama_cpp(args.llama_cpp), read_draft(args.draft, ggufs)
    questions = load_questions(args.questions, QUESTION_SEED)[: args.limit]
    if len(questions) < 2:
        raise InputError(args.questions, "two questions or more", str(len(questions)))
    results = {
        "file": args.draft.name,
        **{key: draft[key] for key in ("type", "bytes", "parameters", "sha256")},
        **{key: getattr(args, key) for key in ("draft_tokens", "max_tokens", "context", "gpu_layers", "rounds")},
        "questions": len(questions),
        "questions_sha256": question_set_digest(questions),
        "question_file_sha256": sha256_file(args.questions),
        "llama_cpp": tools.version(),
        "tools_sha256": tools.digest(),
        "hardware": hardware_of(tools),
        "models": [draft_answers(args, tools, name, gguf, questions) for name, gguf in args.gguf],
    }
    write_record(args.output.with_suffix(".json"), results, DraftResults)
    with replace_when_done(args.output) as partial:  # last: it is the file that make looks for
        partial.write_text(f"# What the draft model {args.draft.name} gains\n\n{draft_table(results)}\n")
    print(f"{args.output}: {len(args.gguf)} models over {len(questions)} questions")
    check_same_answers(results)


if __name__ == "__main__":
    die_with_parent()
    run(main)
