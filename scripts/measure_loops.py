#!/usr/bin/env python3
"""Measure how often the answers of GGUF files run away, repeat a tool call, or are malformed or empty.

Inputs:  GGUF files with their records, the reference first, such as full model, pruned model and a quant of it; the
         frozen prompts (schema: loops/loop_prompts.py).
Output:  TABLE.md and beside it the same name as .json (loops/loop_results.py); ANSWERS/loops-DIGEST/answers.jsonl, a
         line per answer as it happens (loops/loop_answers.py).
Example: .venv/bin/python scripts/measure_loops.py --seeds 1 --max-tokens 64 --context 1024 --answers build/try/loops \\
             --gguf build/gemma-4-demo/full/gguf/calibration_questions/gemma-4-demo-Q6_K.gguf \\
             build/gemma-4-demo/109e/gguf/gemma-4-demo-109e-Q6_K.gguf --output build/try/loops.md

Each prompt is asked with each seed, through the chat endpoint of llama-servers of our own, with the evaluation's
sampling and no budget of thought. The classes of answers are defined in loops/loop_classes.py. A killed run goes on
with the same command and ends with the same bytes; more seeds only add answers.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

from files.command_start import die_with_parent
from files.input_errors import InputError
from files.option_types import command_parser, output_file, positive, whole_number
from files.run_state import RunState
from files.safe_files import check_apart, remove, replace_when_done, run
from files.sealed_lines import check_kept_lines
from files.written_records import write_record
from llama.llama_tools import LlamaCpp, find_llama_cpp
from loops.loop_answers import (
    ANSWERS_NAME,
    SUBJECT,
    answers_folder,
    asked_in_order,
    loop_flags,
    loop_inputs,
    read_loop_answers,
)
from loops.loop_asking import ask_missing
from loops.loop_classes import LoopAnswer
from loops.loop_prompts import LoopPrompt, LoopPrompts, read_prompts
from loops.loop_rates import loop_results, loop_row
from loops.loop_results import LoopResults, loops_tables
from quants.quant_record import read_held_gguf
from scoring.asked_servers import local_commands, local_servers
from scoring.eval_protocol import Protocol
from scoring.run_files import begin_run, is_begun, resume_run
from scoring.served_model import ServedModel
from scoring.server_pool import ServerPool

from tqdm import tqdm

PROMPTS = Path(__file__).resolve().parents[1] / "data/loop_prompts.json"


def ask_servers(
    args: argparse.Namespace,
    tools: LlamaCpp,
    gguf: Path,
    prompts: LoopPrompts,
    inputs: dict,
    missing: list[tuple[LoopPrompt, int]],
    record: Path,
) -> None:
    """Start the servers of one file and ask them what is missing in its record."""
    protocol = Protocol(context=inputs["context"], max_gen_toks=inputs["max_tokens"], llama_cpp=inputs["llama_cpp"])
    seconds, options = protocol.timeout_seconds, argparse.Namespace(**vars(args) | {"gguf": gguf, "port": "0"})
    flags = loop_flags(inputs, seconds)
    commands = local_commands(tools.tool("llama-server"), gguf.stem, options, flags, inputs["gpu_layers"] > 0)
    with (
        tempfile.TemporaryDirectory() as logs,
        local_servers(commands, gguf, Path(logs) / "server.log") as servers,
        tqdm(desc=gguf.stem, unit="answer", total=len(missing), leave=False) as bar,
    ):
        # Several must write the same numbers: on another kind of GPU the answers would be others.
        check = ServedModel(gguf, protocol).check if len(servers) > 1 else None
        pool = ServerPool(servers, 1, seconds, check)
        asyncio.run(ask_missing(pool, prompts, inputs, missing, record, lambda answer: bar.update()))


def answers_of_file(
    args: argparse.Namespace, tools: LlamaCpp, gguf: Path, sha256: str, prompts: LoopPrompts, inputs: dict
) -> list[LoopAnswer]:
    """Return all answers of one file; those that are recorded are not asked again."""
    folder, own = answers_folder(args.answers, inputs, sha256)
    asked = asked_in_order(prompts, args.seed, args.seeds)
    with RunState(folder, own, waits=True):
        if args.again:
            remove(folder / ANSWERS_NAME)
        (resume_run if is_begun(folder) else begin_run)(folder)
        check_kept_lines(folder / ANSWERS_NAME, [SUBJECT])
        answers = read_loop_answers(folder / ANSWERS_NAME, asked, cut=True)
        if len(answers) < len(asked):
            ask_servers(args, tools, gguf, prompts, inputs, asked[len(answers) :], folder / ANSWERS_NAME)
            answers = read_loop_answers(folder / ANSWERS_NAME, asked)
    return answers


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--gguf", type=Path, nargs="+", required=True, help="GGUF files with their records, the reference first")
    add("--prompts", type=Path, default=PROMPTS, help="frozen prompts (default: data/loop_prompts.json)")
    add("--answers", type=Path, required=True, help="directory that keeps the answers")
    add("--again", action="store_true", help="ask again what is recorded")
    add("--output", type=output_file, required=True, help="Markdown file to write; .json goes beside it")
    add = parser.add_argument_group("how they are asked").add_argument
    add("--seeds", type=positive, default=3, help="answers to each prompt, each with a seed of its own")
    add("--seed", type=whole_number, default=Protocol.seed, help="the first seed; the others follow it")
    add("--max-tokens", type=positive, default=8192, help="most tokens of an answer, its thought included")
    add("--context", type=positive, default=Protocol.context, help="tokens of context")
    add("--gpu-layers", type=whole_number, default=0, help="layers on the GPU, if there is one")
    add("--local-servers", default="1", metavar="COUNT", help="llama-servers that share the prompts, one per GPU")
    add("--llama-cpp", type=Path, help="llama.cpp directory (default: $LLAMA_CPP, else the built one)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    record = args.output.with_suffix(".json")
    check_apart([args.prompts, args.answers, *args.gguf], [args.output, record])
    if len({gguf.name for gguf in args.gguf}) < len(args.gguf):
        raise InputError("--gguf", "files of different names", ", ".join(gguf.name for gguf in args.gguf))
    tools, prompts = find_llama_cpp(args.llama_cpp), read_prompts(args.prompts)
    protocol = Protocol(
        seed=args.seed,
        max_gen_toks=args.max_tokens,
        context=args.context,
        gpu_layers=args.gpu_layers,
        llama_cpp=tools.version(),
    )
    inputs, rows = loop_inputs(prompts, protocol, tools.digest()), []
    quants = [read_held_gguf(gguf) for gguf in args.gguf]  # all of them before the first is asked
    for gguf, quant in zip(args.gguf, quants):
        answers = answers_of_file(args, tools, gguf, quant["sha256"], prompts, inputs)
        rows.append(loop_row(quant, gguf.name, answers, prompts))
    results = loop_results(inputs, prompts, rows)
    write_record(record, results, LoopResults)
    with replace_when_done(args.output) as partial:  # last: it is the file that make looks for
        partial.write_text(f"# Loops and tool calls\n\n{loops_tables(results)}\n")
    print(f"{args.output}: {len(prompts.prompts) * args.seeds} answers of each of {len(rows)} files")


if __name__ == "__main__":
    die_with_parent()
    run(main)
