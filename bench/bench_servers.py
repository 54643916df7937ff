#!/usr/bin/env python3
"""Measure what several servers gain, with servers that sleep: the pool's and lm-eval's own cost, and no model's.

Inputs:  a tokenizer, questions in GPQA's columns.
Output:  a JSON of rows (bench_table.py) and a table on stdout.
Example: .venv/bin/python bench/bench_servers.py --tokenizer data/demo/model \\
             --questions data/demo/eval_questions.csv --output build/bench/servers.json

Each server is a process that answers one request at a time, after so many seconds. lm-eval asks the same questions of
one server and of several, over the proxy. The clock runs from the first request to the last answer.
"""

import argparse
import asyncio
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import ask_questions
import freeze_questions
from files.option_types import command_parser, positive
from files.safe_files import remove, run
from files.written_records import write_json
from scoring.answer_record import read_answers
from scoring.eval_protocol import Protocol
from scoring.lm_eval_samples import read_frozen
from scoring.server_pool import AskedServer, ServerPool

from bench_table import end_on_broken_limit, row, table

LEAST_OF_LINEAR = 0.95
SLEEPING_SERVER = Path(__file__).with_name("sleeping_server.py")


def measure(args: argparse.Namespace, count: int) -> float:
    """Return the seconds that so many servers take for all questions."""
    for left in (ask_questions.ANSWERS, ask_questions.LM_EVAL):
        remove(args.run / left)
    protocol = Protocol()
    with ExitStack() as stack:
        servers = []
        for _ in range(count):
            command = [sys.executable, SLEEPING_SERVER, str(args.seconds)]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            assert process.stdout is not None  # it is a pipe
            url = process.stdout.readline().strip()
            servers.append(AskedServer(url, url))
        pool = ServerPool(servers, protocol.concurrency, protocol.timeout_seconds)
        asyncio.run(ask_questions.evaluate(args, protocol, pool, read_frozen(args.run / "task")))
    answers = read_answers(args.run / ask_questions.ANSWERS).values()
    return max(a.asked_at + a.seconds for a in answers) - min(a.asked_at for a in answers)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--tokenizer", required=True, help="a tokenizer's directory")
    add("--questions", type=Path, required=True, help="questions in GPQA's columns")
    add("--output", type=Path, required=True, help="JSON file to write")
    add = parser.add_argument_group("how it is measured").add_argument
    add("--servers", type=positive, default=8, help="servers to compare with one")
    add("--limit", type=positive, default=48, help="first so many questions")
    add("--seconds", type=float, default=2.0, help="seconds of one answer")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    args.name, args.run = "bench", args.output.parent.resolve() / "servers"
    shutil.rmtree(args.run, ignore_errors=True)
    args.run.mkdir(parents=True)
    lines = args.questions.read_text(encoding="utf-8").splitlines(keepends=True)
    (args.run / "few.csv").write_text("".join(lines[: args.limit + 1]), encoding="utf-8")
    freeze_questions.main(["--questions", str(args.run / "few.csv"), "--output", str(args.run / "task")])
    seconds = {count: measure(args, count) for count in (1, args.servers)}
    share = seconds[1] / seconds[args.servers] / args.servers
    rows = [
        row(f"speed of {args.servers} servers / {args.servers} times that of one", share, "x", LEAST_OF_LINEAR, True),
        *(row(f"{count} servers" if count > 1 else "1 server", taken, "s") for count, taken in seconds.items()),
    ]
    write_json(args.output, {"rows": rows, "seconds": {str(count): taken for count, taken in seconds.items()}})
    print(table(rows))
    end_on_broken_limit(args.output, rows)


if __name__ == "__main__":
    run(main)
