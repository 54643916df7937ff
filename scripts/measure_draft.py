#!/usr/bin/env python3
"""Measure what a draft model gains: acceptance, speed, and whether greedy answers stay the same.

Inputs:  a draft model of build_draft.py; GGUF files that it drafts for, with their records, as NAME=FILE: the full and
         the pruned model; questions in GPQA's columns.
Output:  TABLE.md and beside it the same name as .json (speed/draft_results.py): every answer's tokens, times, drafts.
Example: .venv/bin/python scripts/measure_draft.py --draft build/gemma-4-demo/109e/gguf/mtp-gemma-4-demo-109e-Q8_0.gguf \\
             --gguf gemma-4-demo-109e=build/gemma-4-demo/109e/gguf/gemma-4-demo-109e-Q6_K.gguf \\
             --questions data/demo/eval_questions.csv --limit 8 --output build/try/draft.md

llama-server answers every question greedily without and with the draft model, in turns, so that a machine that slows
down slows both. An answer that differs is an error, after the files are written. Method: Leviathan et al. 2023,
https://arxiv.org/abs/2211.17192.
"""

import argparse
import tempfile
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chats.questions import QUESTION_SEED, Question, load_questions, question_set_digest
from files.option_types import command_parser, positive, whole_number
from files.safe_files import InputError, check_apart, read_record, replace_when_done, run, sha256_file, write_record
from ggufs.draft_fit import check_fits
from ggufs.gguf_header import read_header
from llama.drafting import DRAFT_TOKENS, draft_flags, drafted_and_accepted
from llama.llama_server import LlamaServer, server_command
from llama.llama_tools import LlamaCpp, die_with_parent, find_llama_cpp
from quants.draft_record import DraftRecord
from quants.quant_record import read_whole_quant, record_path
from speed.draft_results import DraftResults, check_same, draft_table

from tqdm import tqdm

ANSWER_SECONDS = 3600
COUNTS = ("tokens", "ms", "drafted", "accepted")


def named_file(text: str) -> tuple[str, Path]:
    """Parse NAME=FILE."""
    name, sign, path = text.partition("=")
    if not (name and sign and path):
        raise argparse.ArgumentTypeError(f"expected NAME=FILE, found {text!r}")
    return name, Path(path)


def ask(server: LlamaServer, question: Question, most: int) -> tuple[str, dict]:
    """Return a greedy answer's text, thought included, and its times; raise InputError when there is none."""
    # Without the prompt's cache: a part of a prompt that is not computed again would be computed in other pieces.
    body = {
        "messages": [{"role": "user", "content": question.prompt}],
        **{"temperature": 0, "top_k": 1, "seed": 1, "max_tokens": most, "cache_prompt": False},
    }
    try:
        answer = server.request("/v1/chat/completions", body, ANSWER_SECONDS)
        message, times = answer["choices"][0]["message"], answer["timings"]
    except urllib.error.HTTPError as error:
        words = error.read()[:200].decode(errors="replace")
        raise InputError(server.gguf, f"an answer to {question.record_id}", f"HTTP {error.code}: {words}") from error
    except (OSError, ValueError, KeyError, IndexError) as error:
        found = f"{type(error).__name__}: {error}"[:200]
        raise InputError(server.gguf, f"an answer to {question.record_id}", found) from error
    return f"{message.get('reasoning_content') or ''}\n{message.get('content') or ''}", times


def answers_of(
    args: argparse.Namespace, tools: LlamaCpp, gguf: Path, questions: list[Question], flags: list[str]
) -> Iterator[tuple[str, dict[str, float]]]:
    """Start a server and yield text and COUNTS of every question."""
    common = ["-c", args.context, "-np", 1, "-ngl", args.gpu_layers, "--reasoning-format", "deepseek", "--cache-ram", 0]
    command = server_command(tools.tool("llama-server"), gguf, "draft", 0, [*map(str, common), *flags])
    with tempfile.TemporaryDirectory() as folder, LlamaServer(command, gguf, Path(folder) / "server.log") as server:
        ask(server, questions[0], 8)  # the first answer of a server is slower
        for question in tqdm(questions, desc=gguf.stem, leave=False):
            text, times = ask(server, question, args.max_tokens)
            drafted, accepted = drafted_and_accepted(times)
            yield text, dict(zip(COUNTS, (times["predicted_n"], times["predicted_ms"], drafted, accepted)))


def measure(args: argparse.Namespace, tools: LlamaCpp, name: str, gguf: Path, questions: list[Question]) -> dict:
    """Return what one model answers without and with the draft model (`Answers`)."""
    record, number = read_whole_quant(gguf), len(questions)
    ways = {False: [], True: draft_flags(args.draft, args.draft_tokens)}
    texts: dict[bool, list[str]] = {}
    sums = {way: {count: [0.0] * number for count in COUNTS} for way in ways}
    for _ in range(args.rounds):
        for way, flags in ways.items():
            found = list(answers_of(args, tools, gguf, questions, flags))
            texts[way] = [text for text, _ in found]
            for place, (_, counts) in enumerate(found):
                for count, value in counts.items():
                    sums[way][count][place] += value
    whole: dict[str, Any] = {
        count: [int(value) for value in sums[True][count]] for count in ("tokens", "drafted", "accepted")
    }
    return {
        "name": name,
        "gguf": gguf.name,
        "gguf_sha256": record["sha256"],
        "source_sha256": record["source_sha256"],
        "same": [mine == other for mine, other in zip(texts[False], texts[True])],
        **whole,
        "tokens_without": [int(value) for value in sums[False]["tokens"]],
        "ms": [round(value, 3) for value in sums[True]["ms"]],
        "ms_without": [round(value, 3) for value in sums[False]["ms"]],
    }


def read_draft(path: Path, targets: list[Path]) -> dict:
    """Return the record of a draft model; raise InputError when it is damaged or does not fit one of its targets."""
    record = read_record(record_path(path), DraftRecord)
    if (found := sha256_file(path)) != record["sha256"]:
        raise InputError(path, f"the file of its record, sha256 {record['sha256'][:12]}", found[:12], "build it again")
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
    add("--output", type=Path, required=True, help="Markdown file to write; .json goes beside it")
    add = parser.add_argument_group("how the models run").add_argument
    add("--draft-tokens", type=positive, default=DRAFT_TOKENS, help="tokens drafted in a row")
    add("--max-tokens", type=positive, default=512, help="most tokens of an answer")
    add("--rounds", type=positive, default=2, help="how often both ways take turns")
    add("--context", type=positive, default=4096, help="tokens of context")
    add("--gpu-layers", type=whole_number, default=0, help="layers on the GPU")
    add("--llama-cpp", type=Path, help="llama.cpp directory (default: $LLAMA_CPP, else the built one)")
    return parser.parse_args(argv)


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
        **{key: getattr(args, key) for key in ("draft_tokens", "max_tokens", "rounds")},
        "questions": len(questions),
        "questions_sha256": question_set_digest(questions),
        "llama_cpp": tools.version(),
        "models": [measure(args, tools, name, gguf, questions) for name, gguf in args.gguf],
    }
    write_record(args.output.with_suffix(".json"), results, DraftResults)
    with replace_when_done(args.output) as partial:  # last: it is the file that make looks for
        partial.write_text(f"# What the draft model {args.draft.name} gains\n\n{draft_table(results)}\n")
    print(f"{args.output}: {len(args.gguf)} models over {len(questions)} questions")
    check_same(results)


if __name__ == "__main__":
    die_with_parent()
    run(main)
