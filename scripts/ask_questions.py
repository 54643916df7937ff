#!/usr/bin/env python3
"""Ask one model all frozen questions: llama-server, a recording proxy, and lm-eval's own run over it.

Inputs:  a GGUF file; the frozen questions and task of freeze_questions.py in RUN/task; the tokenizer of the unmodified
         base (directory or Hub id); the protocol's open values (eval_protocol.py).
Output:  RUN/run.json: name, digests of model, questions and protocol, and the protocol; RUN/answers.jsonl: one line per
         question as it happens (answer_record.py); RUN/lm_eval/: lm-eval's results and samples; RUN/server.log.
Use:     scripts/ask_questions.py --name NAME --gguf FILE.gguf --tokenizer DIR --run RUN

The same command goes on with the answers that RUN holds; a RUN of another model, protocol or question set is refused.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from files.safe_files import InputError, only_writer, read_json, recorded_sha256, remove, run, sha256_file, write_json
from llama.llama_server import LlamaServer, server_command
from llama.llama_tools import die_with_parent, find_llama_cpp, last_words
from scoring.answer_proxy import AnswerProxy
from scoring.answer_record import Answer, prompt_sha256, read_answers
from scoring.eval_protocol import Protocol, add_protocol_arguments, first_differing_key, protocol_of
from scoring.lm_eval_samples import TASK, read_frozen

LM_EVAL_TIMEOUT_SECONDS = 10**7  # the proxy keeps the time
RUN, ANSWERS = "run.json", "answers.jsonl"


def tokenizer_identity(tokenizer: str) -> str:
    """Return a Hub id as it is, and of a directory the digest of its tokenizer.json: paths differ between machines."""
    directory = Path(tokenizer)
    if not directory.is_dir():
        if directory.is_absolute():
            raise InputError(tokenizer, "the tokenizer's directory or Hub id", "nothing")
        return tokenizer
    if not (directory / "tokenizer.json").is_file():
        raise InputError(directory, "tokenizer.json", "none")
    return f"sha256 {sha256_file(directory / 'tokenizer.json')}"


def check_run(directory: Path, mine: dict) -> None:
    """Raise InputError when a run directory holds answers of another model, protocol or question set."""
    if not (directory / ANSWERS).exists() or not (directory / ANSWERS).stat().st_size:
        return
    if not (directory / RUN).exists():
        raise InputError(directory, f"{RUN} beside {ANSWERS}", "none", "remove the directory or give another OUTPUT")
    found = read_json(directory / RUN)
    advice = "remove the directory or give another OUTPUT"
    for key, what in (("gguf_sha256", "answers of the model"), ("questions_sha256", "answers to the questions")):
        if found.get(key) != mine[key]:
            raise InputError(
                directory, f"{what} with sha256 {mine[key][:12]}", f"those of {str(found.get(key))[:12]}", advice
            )
    if key := first_differing_key(mine["protocol"], found.get("protocol", {})):
        raise InputError(
            directory,
            f"answers under {key} {mine['protocol'].get(key)}",
            f"those under {found.get('protocol', {}).get(key)}",
            advice,
        )


def check_lm_eval_values(name: str, tokenizer: str) -> None:
    """Raise InputError on a name or tokenizer that would fall apart in lm-eval's list of key=value pairs."""
    if not re.fullmatch(r"[\w./-]+", name):
        raise InputError("NAME", "letters, digits, dots, dashes and slashes", repr(name))
    if set(tokenizer) & set(",="):
        raise InputError("TOKENIZER", "a path or Hub id without , and =", repr(tokenizer))


def is_asked(directory: Path, mine: dict, count: int) -> bool:
    """Tell whether a run holds every answer of this very model, protocol and question set, and lm-eval's results of them."""
    if not (directory / RUN).is_file() or read_json(directory / RUN) != json.loads(json.dumps(mine)):
        return False
    return len(read_answers(directory / ANSWERS)) == count and any((directory / "lm_eval").rglob("results_*.json"))


def lm_eval_command(name: str, url: str, protocol: Protocol, tokenizer: str, directory: Path) -> list[str]:
    """Return lm-eval's command line. One attempt, no cache: the proxy asks again and remembers.

    lm-eval sends one request more than the protocol has: it waits in the proxy, so that the server need not wait for it.
    """
    model = (
        f"model={name},base_url={url},num_concurrent={protocol.concurrency + 1},max_retries=1,"
        f"timeout={LM_EVAL_TIMEOUT_SECONDS},tokenizer_backend=huggingface,tokenizer={tokenizer}"
    )
    return [
        sys.executable,
        "-m",
        "lm_eval",
        "run",
        "--model",
        protocol.model,
        "--model_args",
        model,
        "--include_path",
        str(directory / "task"),
        "--tasks",
        TASK,
        "--apply_chat_template",
        "--gen_kwargs",
        protocol.gen_kwargs,
        "--seed",
        str(protocol.seed),
        "--output_path",
        str(directory / "lm_eval"),
        "--log_samples",
    ]


class Progress:
    """One live line: done, right, invalid, tokens a second, time left."""

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
            smoothing=0,
            bar_format="{desc} {n_fmt}/{total_fmt}{postfix}, {remaining} left ",
        )
        self.show()

    def show(self) -> None:
        """Refresh the figures."""
        speed = self.tokens / max(time.monotonic() - self.begin, 1e-9) if self.begin else 0
        self.bar.set_postfix_str(f"{self.right} right, {self.invalid} invalid, {speed:.0f} tokens/s", refresh=False)

    def __call__(self, answer: Answer) -> None:
        """Count one more answer. The clock starts with the first question asked: lm-eval needs a while to start."""
        if self.begin is None:
            self.begin = time.monotonic() - answer.seconds
            self.bar.start_t = time.time() - answer.seconds
        self.tokens += answer.completion_tokens
        self.right, self.invalid = self.right + answer.correct, self.invalid + answer.invalid
        self.show()
        self.bar.update()


async def evaluate(args: argparse.Namespace, protocol: Protocol, server: LlamaServer, documents: list[dict]) -> None:
    """Run lm-eval over the recording proxy; raise InputError when either cannot go on."""
    by_prompt = {prompt_sha256(document["prompt"]): document for document in documents}
    progress = Progress(read_answers(args.run / ANSWERS), len(documents))
    proxy = AnswerProxy(server, protocol, by_prompt, args.run / ANSWERS, progress)
    log = args.run / "lm_eval.log"
    direct = ",".join(filter(None, (os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "127.0.0.1")))
    environment = os.environ | {
        "LMEVAL_LOG_LEVEL": "WARNING",
        "HF_DATASETS_CACHE": str(args.run / "task/datasets"),
        "no_proxy": direct,
        "NO_PROXY": direct,
    }
    async with proxy.listening() as url:
        with open(log, "wb") as output:
            process = await asyncio.create_subprocess_exec(
                *lm_eval_command(args.name, url, protocol, args.tokenizer, args.run),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                preexec_fn=die_with_parent,
                start_new_session=True,
            )
        done = asyncio.ensure_future(process.wait())
        try:
            await asyncio.wait({done, proxy.failure}, return_when=asyncio.FIRST_COMPLETED)
            if proxy.failure.done():
                raise proxy.failure.exception()
        finally:
            progress.bar.close()
            if not done.done():
                process.kill()
            await done
    if process.returncode < 0:
        raise InputError("lm-eval", "success", f"it killed by signal {-process.returncode}", "the same command goes on")
    if process.returncode != 0:
        raise InputError(
            "lm-eval",
            "success",
            f"exit code {process.returncode}: {last_words(log.read_text(errors='replace'))}",
            f"log: {log}",
        )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", required=True, help="name of the model in tables")
    parser.add_argument("--gguf", type=Path, required=True, help="GGUF file to evaluate")
    parser.add_argument("--tokenizer", required=True, help="tokenizer of the unmodified base: directory or Hub id")
    parser.add_argument("--run", type=Path, required=True, help="run directory with the frozen task")
    parser.add_argument("--port", default="0", help="port of llama-server on 127.0.0.1 (default: a free one)")
    add_protocol_arguments(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if not args.gguf.is_file():
        raise InputError(args.gguf, "a GGUF file", "nothing")
    check_lm_eval_values(args.name, args.tokenizer)
    tools = find_llama_cpp(None)
    protocol = protocol_of(args, tokenizer_identity(args.tokenizer), tools.version())
    documents = read_frozen(args.run / "task")
    mine = {
        "name": args.name,
        "gguf_sha256": recorded_sha256(args.gguf),
        "protocol_sha256": protocol.digest,
        "questions_sha256": sha256_file(args.run / "task/frozen.jsonl"),
        "protocol": asdict(protocol),
    }
    with only_writer(args.run / ANSWERS):
        check_run(args.run, mine)
        if is_asked(args.run, mine, len(documents)):
            print(f"{args.run}: all {len(documents)} questions are answered already")
            return
        for old in ("summary.json", "lm_eval"):
            remove(args.run / old)
        write_json(args.run / RUN, mine)
        print(f"{args.name}: protocol {protocol.digest[:16]}: {json.dumps(asdict(protocol))[1:-1]}", flush=True)
        command = server_command(tools.tool("llama-server"), args.gguf, args.name, args.port, protocol.server_flags)
        with LlamaServer(command, args.gguf, args.run / "server.log") as server:
            asyncio.run(evaluate(args, protocol, server, documents))
    answers = read_answers(args.run / ANSWERS).values()
    if len(answers) != len(documents):
        raise InputError(args.run / ANSWERS, f"{len(documents)} answers", str(len(answers)))
    print(
        f"{args.run}: {len(answers)} answers, {sum(a.invalid for a in answers)} invalid, server started {server.starts} times"
    )


if __name__ == "__main__":
    die_with_parent()
    run(main)
