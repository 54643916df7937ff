#!/usr/bin/env python3
"""Measure what lm-eval and the recording proxy cost beside bare requests to the same llama-server, and what NP=4 gains.

Inputs:  a GGUF file, its tokenizer, questions in GPQA's columns.
Output:  a JSON of rows (bench_table.py) and a table on stdout.
Example: .venv/bin/python bench/bench_eval.py --gguf build/gemma-4-demo/full/f16/gemma-4-demo-F16.gguf \\
             --tokenizer data/demo/model --questions data/demo/eval_questions.csv --output build/bench/eval.json

For one and for four requests at once: one server; lm-eval's run over the proxy, then the same requests again, bare and
in the same order; in the next turn the bare ones first. The clock runs from the first request to the last answer.
lm-eval's start and end (imports, its index of all tasks, its files) do not grow with the answers and are a row of their
own. On a loaded machine two runs differ by more than the limit. So there is the same ratio within one run, too: over
the time that its requests took between proxy and server.
"""

import argparse
import asyncio
import shutil
import statistics
import sys
import time
from pathlib import Path

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import ask_questions
import freeze_questions
from files.option_types import command_parser
from files.safe_files import remove, run
from files.written_records import write_json
from llama.llama_server import LlamaServer, authorization, server_command
from llama.llama_tools import find_llama_cpp
from scoring.answer_proxy import AnswerProxy
from scoring.answer_record import read_answers
from scoring.eval_protocol import Protocol
from scoring.lm_eval_samples import read_frozen
from scoring.server_pool import AskedServer, ServerPool

from bench_table import row, table

OVERHEAD_LIMIT, GAIN_LIMIT = 1.05, 1.5
CONCURRENT = 4


async def bare(server: LlamaServer, bodies: list[dict], concurrency: int) -> float:
    """Send requests to the server itself, `concurrency` at once; return the seconds."""
    places, limits = asyncio.Semaphore(concurrency), aiohttp.ClientTimeout(total=None)
    way, key = aiohttp.UnixConnector(server.socket, limit=0), authorization(server.key)
    async with aiohttp.ClientSession(timeout=limits, headers=key, connector=way) as session:

        async def ask(body: dict) -> None:
            async with places, session.post(f"{server.url}/v1/chat/completions", json=body) as reply:
                reply.raise_for_status()
                await reply.read()

        start = time.perf_counter()
        await asyncio.gather(*map(ask, bodies))
        return time.perf_counter() - start


def ours(args: argparse.Namespace, server: LlamaServer, protocol: Protocol) -> tuple[float, float, float]:
    """Run lm-eval over the proxy.

    Returns the seconds from the first request to the last answer, of all the rest, and the sum of the requests' own,
    from the proxy to the server and back.
    """
    for left in (ask_questions.ANSWERS, ask_questions.LM_EVAL):
        remove(args.run / left)
    start = time.perf_counter()
    pool = ServerPool([AskedServer("local 1", own=server)], protocol.concurrency, protocol.timeout_seconds)
    asyncio.run(ask_questions.evaluate(args, protocol, pool, read_frozen(args.run / "task")))
    whole = time.perf_counter() - start
    answers = read_answers(args.run / ask_questions.ANSWERS).values()
    asked = max(a.asked_at + a.seconds for a in answers) - min(a.asked_at for a in answers)
    return asked, whole - asked, sum(a.seconds for a in answers)


def measure(args: argparse.Namespace, concurrency: int) -> dict[str, list[float]]:
    """Return the seconds of every turn: ours, bare, lm-eval's start and end, and the server's own time within ours."""
    protocol = Protocol(context=2048, reasoning_budget=1024, max_gen_toks=1024, concurrency=concurrency)
    command = server_command(find_llama_cpp(None).tool("llama-server"), args.gguf, args.name, 0, protocol.server_flags)
    times: dict[str, list[float]] = {"ours": [], "bare": [], "rest": [], "server": []}
    bodies: list[dict] = []
    send = AnswerProxy.send

    async def remember(proxy: AnswerProxy, server: AskedServer, body: dict) -> dict:
        bodies.append(body)
        return await send(proxy, server, body)

    AnswerProxy.send = remember  # from outside: the proxy itself has no use for the requests after their answers
    with LlamaServer(command, args.gguf, args.run / "server.log") as server:
        ours(args, server, protocol)  # off the clock: gives the requests, warms the caches
        asked = list(bodies)
        for turn in range(args.repeat):
            for name in ("bare", "ours") if turn % 2 else ("ours", "bare"):
                if name == "bare":
                    times["bare"].append(asyncio.run(bare(server, asked, concurrency)))
                else:
                    for key, seconds in zip(("ours", "rest", "server"), ours(args, server, protocol)):
                        times[key].append(seconds)
            print({key: round(values[-1], 2) for key, values in times.items()}, concurrency, file=sys.stderr)
    AnswerProxy.send = send
    return times


def rows_of(times: dict[int, dict[str, list[float]]]) -> list[dict]:
    """Return the table's rows from the seconds of every turn, by requests at once."""
    middle = {n: {name: statistics.median(values) for name, values in turns.items()} for n, turns in times.items()}
    alone, together = middle[1], middle[CONCURRENT]
    rows = [
        row(
            f"requests, {n} at once: lm-eval and the proxy / bare",
            ratio(turns["ours"], turns["bare"]),
            "x",
            OVERHEAD_LIMIT,
        )
        for n, turns in times.items()
    ]
    within = ratio(times[1]["ours"], times[1]["server"])
    rows.append(row("one run, 1 at once: requests / the server's own time", within, "x", OVERHEAD_LIMIT))
    for key, name in (("ours", "lm-eval and the proxy"), ("bare", "bare requests")):
        gain = alone[key] / together[key]
        rows.append(row(f"seconds, 1 at once / {CONCURRENT}, {name}", gain, "x", GAIN_LIMIT, at_least=True))
    rows.append(row("bare requests, 1 at once", alone["bare"], "s"))
    rows.append(row("lm-eval's start and end", alone["rest"], "s"))
    return rows


def ratio(above: list[float], below: list[float]) -> float:
    """Return the median of the ratios of runs taken in turn."""
    return statistics.median(a / b for a, b in zip(above, below))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--gguf", type=Path, required=True, help="GGUF file")
    add("--tokenizer", required=True, help="its tokenizer's directory")
    add("--questions", type=Path, required=True, help="questions in GPQA's columns")
    add("--output", type=Path, required=True, help="JSON file to write")
    add = parser.add_argument_group("how it is measured").add_argument
    add("--repeat", type=int, default=3, help="turns")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    args.name, args.run = "bench", args.output.parent.resolve() / "eval"
    shutil.rmtree(args.run, ignore_errors=True)
    freeze_questions.main(["--questions", str(args.questions), "--output", str(args.run / "task")])
    times = {concurrency: measure(args, concurrency) for concurrency in (1, CONCURRENT)}
    rows = rows_of(times)
    write_json(args.output, {"rows": rows, "seconds": times})
    print(table(rows))


if __name__ == "__main__":
    run(main)
