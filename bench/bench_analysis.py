#!/usr/bin/env python3
"""Measure the teacher-forced analysis against its limits, on layers of the 26B's sizes.

Inputs:  checkpoints of generate_checkpoint.py with 2, 4 and 6 layers.
Output:  a table, and the same figures as JSON: ratios of runs taken in turn (medians), peak memory of whole processes.
Example: .venv/bin/python bench/bench_analysis.py --checkpoints build/bench/checkpoints \\
             --output build/bench/analysis.json

Observed / plain: seconds of one forward pass with the observer over one without, both through grouped_mm, on the same
tokens. Recomputed / plain: the way the model card describes, where each routed expert runs a second time for its norm.
Streamed / resident: seconds of the script's main, reading the checkpoint included, with and without --stream-layers.
Peak memory is the process's largest resident set, libraries included (VmHWM: ru_maxrss begins with the parent's).
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import transformers

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "scripts"))

from analysis.decoder import load_resident
from analysis.expert_observer import ExpertObserver, expert_modules
from analysis.model_parts import decoder_of
from checkpoints.checkpoint import read_checkpoint
from files.input_errors import sha256_file
from files.option_types import command_parser
from files.safe_files import GIB, run
from files.written_records import write_json

from bench_table import end_on_broken_limit, row, table

TOKENS = 512
QUESTIONS = 8
LONG_TOKENS, LONG_QUESTIONS = 4096, 4
OBSERVED_LIMIT, STREAMED_LIMIT = 1.10, 1.25
LAYER_FACTOR, MEMORY_SLACK_BYTES = 1.3, GIB  # a layer and what is read ahead; Python, torch and the tokenizer
HIDDEN_BYTES = 2816 * 2  # of one token's hidden state in bf16
CHILD = (
    "import re, sys, time; sys.path.insert(0, sys.argv[1]); import teacher_force_analysis as t; "
    "start = time.monotonic(); t.main(sys.argv[2:]); seconds = time.monotonic() - start; "
    "print('MEASURED', seconds, int(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1]) * 1024)"
)


def write_questions(path: Path, count: int, source: Path, thoughts: int = 80) -> None:
    """Write `count` of the demo's questions, each with the reasoning of many.

    80 thoughts are well over TOKENS, 900 over LONG_TOKENS, so that every chat is cut to the same length.
    """
    with open(source, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # not through a link
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for number in range(count):
            chosen = (rows[(number + i) % len(rows)]["Explanation"] for i in range(thoughts))
            writer.writerow(rows[number] | {"Explanation": " ".join(chosen)})


def analyse(model: Path, questions: Path, output: Path, *options: str, tokens: int = TOKENS) -> dict[str, float]:
    """Run the analysis in a process of its own; return seconds of its main and peak bytes of the process."""
    command = [
        sys.executable,
        "-c",
        CHILD,
        str(REPO / "scripts"),
        "--model",
        str(model),
        "--questions",
        str(questions),
        "--output",
        str(output),
        "--max-tokens",
        str(tokens),
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {' '.join(command[4:])}: expected a finished run, found: {done.stderr.splitlines()[-1]}")
    _, seconds, peak = done.stdout.splitlines()[-1].split()
    return {"seconds": float(seconds), "peak_bytes": float(peak)}


def recompute_hook(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    """Run each routed expert once more for its norm, expert by expert, as the model card describes."""
    hidden, index, weights = inputs
    for expert in index.unique().tolist():
        token, position = torch.where(index == expert)
        gate, up = torch.nn.functional.linear(hidden[token], module.gate_up_proj[expert]).chunk(2, dim=-1)
        output = torch.nn.functional.linear(module.act_fn(gate) * up, module.down_proj[expert])
        (output.float().norm(dim=-1).double() * weights[token, position].double()).sum().item()


@torch.inference_mode()
def forward_seconds(checkpoint: Path, repeats: int) -> dict[str, list[float]]:
    """Time plain, observed and recomputing forward passes in turn, on one random text of TOKENS tokens."""
    model = load_resident(checkpoint, torch.bfloat16, "eager", None)
    decoder = decoder_of(model)[1]
    ids = torch.randint(5, model.config.vocab_size, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    observer = ExpertObserver(model)
    seconds: dict[str, list[float]] = {"plain": [], "observed": [], "recomputed": []}
    for turn in range(
        repeats + 1
    ):  # the first turn warms up and is not counted; in turn, so that all meet the same load
        for kind, values in seconds.items():
            model.set_experts_implementation("observed_experts" if kind == "observed" else "grouped_mm")
            hooks = [
                module.register_forward_pre_hook(recompute_hook)
                for module in expert_modules(model).values()
                if kind == "recomputed"
            ]
            start = time.perf_counter()
            observer.begin([(0, TOKENS)], TOKENS)
            decoder(input_ids=ids, use_cache=False)
            if turn:
                values.append(time.perf_counter() - start)
            for hook in hooks:
                hook.remove()
    return seconds


def ratio(above: list[float], below: list[float]) -> float:
    """Return the median of the ratios of runs taken in turn."""
    return statistics.median(a / b for a, b in zip(above, below))


def layer_bytes(checkpoint: Path) -> int:
    """Return the size of a checkpoint's largest layer."""
    sizes: dict[str, int] = {}
    for name, tensor in read_checkpoint(checkpoint).items():
        if ".layers." in name:
            layer = name.split(".layers.")[1].split(".")[0]
            sizes[layer] = sizes.get(layer, 0) + tensor.size
    return max(sizes.values())


def run_all(checkpoints: Path, work: Path, repeats: int, questions: Path) -> dict[str, list[dict[str, float]]]:
    """Run the analysis in every way that is compared, in turn; return seconds and peak bytes of each run."""
    few, many, long = (work / f"questions-{name}.csv" for name in (QUESTIONS, 2 * QUESTIONS, "long"))
    write_questions(few, QUESTIONS, questions)
    write_questions(many, 2 * QUESTIONS, questions)
    write_questions(long, LONG_QUESTIONS, questions, thoughts=900)
    plan: dict[str, tuple[str, Path, list[str]]] = {
        "resident": ("4", few, []),
        "streamed": ("4", few, ["--stream-layers"]),
        "layers2": ("2", few, ["--stream-layers"]),
        "layers6": ("6", few, ["--stream-layers"]),
        "questions16": ("4", many, ["--stream-layers"]),
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in plan}
    for _ in range(repeats):
        for name, (layers, file, options) in plan.items():
            runs[name].append(analyse(checkpoints / layers, file, work / f"{name}.safetensors", *options))
    if sha256_file(work / "resident.safetensors") != sha256_file(work / "streamed.safetensors"):
        sys.exit(f"error: {work}/streamed.safetensors: expected the bytes of resident.safetensors, found others")
    runs["long"] = [analyse(checkpoints / "2", long, work / "long.safetensors", "--stream-layers", tokens=LONG_TOKENS)]
    return runs


def memory_rows(peak: dict[str, float], layer: int) -> list[dict]:
    """Return the rows of peak memory; the limit grows with the largest layer and the hidden states, not with layers."""
    rows = [row("largest layer", layer / GIB, "GiB"), row("peak, resident, 4 layers", peak["resident"] / GIB, "GiB")]
    for name, layers, count, tokens in (
        ("layers2", 2, QUESTIONS, TOKENS),
        ("streamed", 4, QUESTIONS, TOKENS),
        ("layers6", 6, QUESTIONS, TOKENS),
        ("questions16", 4, 2 * QUESTIONS, TOKENS),
        ("long", 2, LONG_QUESTIONS, LONG_TOKENS),
    ):
        limit = LAYER_FACTOR * layer + count * tokens * HIDDEN_BYTES + MEMORY_SLACK_BYTES
        what = f"peak, streamed, {layers} layers, {count} x {tokens} tokens"
        rows.append(row(what, peak[name] / GIB, "GiB", limit / GIB))
    return rows


def measure(checkpoints: Path, work: Path, repeats: int, questions: Path) -> dict:
    """Take every measurement; return the table's rows and what they were computed from."""
    seconds = forward_seconds(checkpoints / "2", 4 * repeats)
    runs = run_all(checkpoints, work, repeats, questions)
    time_of = {name: [one["seconds"] for one in values] for name, values in runs.items()}
    peaks = {name: [one["peak_bytes"] for one in values] for name, values in runs.items()}
    rows = [
        row("observed / plain forward", ratio(seconds["observed"], seconds["plain"]), "x", OBSERVED_LIMIT),
        row("recomputed / plain forward", ratio(seconds["recomputed"], seconds["plain"]), "x"),
        row("plain forward, per layer", 1000 * statistics.median(seconds["plain"]) / 2, "ms"),
        row("streamed / resident", ratio(time_of["streamed"], time_of["resident"]), "x", STREAMED_LIMIT),
        row("time, 4 / 2 layers", ratio(time_of["streamed"], time_of["layers2"]), "x"),
        row("time, 16 / 8 questions", ratio(time_of["questions16"], time_of["streamed"]), "x"),
        *memory_rows(
            {name: statistics.median(values) for name, values in peaks.items()}, layer_bytes(checkpoints / "6")
        ),
    ]
    return {
        "rows": rows,
        "tokens_per_question": TOKENS,
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "seconds": seconds | time_of,
        "peak_bytes": peaks,
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--checkpoints", type=Path, required=True, help="directory of generate_checkpoint.py")
    questions = REPO / "data/demo/calibration_questions.csv"
    strung = "questions whose reasoning is strung together (default: the demo's calibration_questions.csv)"
    add("--questions", type=Path, default=questions, help=strung)
    add("--output", type=Path, required=True, help="JSON file to write")
    add = parser.add_argument_group("how it is measured").add_argument
    add("--repeats", type=int, default=3, help="runs of each kind, in turn")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    transformers.utils.logging.disable_progress_bar()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    result = measure(args.checkpoints, args.output.parent / "analysis", args.repeats, args.questions)
    write_json(args.output, result)
    print(table(result["rows"]))
    end_on_broken_limit(args.output, result["rows"])


if __name__ == "__main__":
    run(main)
