#!/usr/bin/env python3
"""Measure on a trained model with ragged widths what padding is worth: loss against size, standard, padded, and AUTO.

Inputs:  data/demo; the ragged demo is trained from it unless it is there (demo/ragged_demo.py).
Output:  WORK/quality.md, .json and .png (measure_quality.py), and on stdout each AUTO file against the one of the same
         size that may not pad: difference of the quantisation loss, paired by chat.
Example: .venv/bin/python bench/bench_ragged.py --work build/ragged

Finished steps are not done again. A type of AUTO that ends with a 0 (AUTO-0.0050) stands for the file without padding.
"""

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from files.display import markdown_table, with_error
from files.json_records import read_json
from files.option_types import command_parser, positive
from files.safe_files import GIB, gib, run
from losses.kld_statistics import per_chat
from losses.stored_results import read_arrays, read_chats, results_folder, results_path
from scoring.paired_statistics import mean_and_error

REPO = Path(__file__).resolve().parents[1]
DEMO = REPO / "data/demo"
STANDARD = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XXS")
PADDED = ("PAD-IQ3_XXS", "PAD-IQ2_M", "PAD-IQ2_S", "PAD-IQ2_XXS")
TARGETS = (0.2, 0.24, 0.28, 0.35, 0.45)  # sizes of AUTO files, shares of the F16 file's


def step(command: str, **options: object) -> None:
    """Run a command of scripts/ with one thread's priority of the caller; its failure ends the bench."""
    flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", *listed(value))]
    script = [sys.executable, str(REPO / f"scripts/{command}.py"), *map(str, flags)]
    subprocess.run(script, check=True, stdout=sys.stderr)


def listed(value: object) -> list[object]:
    """Return an option's values: none of a switch, several of a list."""
    return [] if value is True else list(value) if isinstance(value, list) else [value]


def model_files(work: Path, steps: int) -> tuple[Path, Path, Path]:
    """Train, convert, and measure imatrix and sensitivities; return F16, imatrix and sensitivities."""
    model, f16, text = work / "model", work / "ragged-F16.gguf", work / "text.txt"
    if not (model / "config.json").is_file():
        start = {"start": DEMO / "model", "drill_steps": 0, "question_steps": steps, "batch": 16}
        template = DEMO / "chat_template.jinja"
        step("train_demo_model", facts=DEMO / "facts.json", chat_template=template, **start, threads=1, output=work)
    step("convert_to_gguf", model=model, name="gemma-4-ragged", output=f16)
    if not text.is_file():
        step("render_calibration", model=model, questions=DEMO / "calibration_questions.csv", output=text)
    step("build_imatrix", model=f16, calibration=text, output=work / "imatrix.gguf")
    return f16, work / "imatrix.gguf", work / "sensitivity.json"


def quants_of(f16: Path, imatrix: Path, sensitivity: Path) -> list[Path]:
    """Build every quant; return their paths."""
    sizes = [f"{share * f16.stat().st_size / GIB:.4f}".rstrip("0") for share in TARGETS]
    named = [(name, {}) for name in (*STANDARD, *PADDED)]
    named += [(f"AUTO-{size}", {"sensitivity": sensitivity}) for size in sizes]
    named += [(f"AUTO-{size}0", {"sensitivity": sensitivity, "no_padding": True}) for size in sizes]
    paths = []
    for name, more in named:
        path = f16.with_name(f"ragged-{name}.gguf")
        step("quantize_gguf", input=f16, imatrix=imatrix, type=name, threads=1, output=path, **more)
        paths.append(path)
    return paths


def auto_rows(quality: dict, cache: Path) -> list[list[str]]:
    """Return a row for each size: the losses of AUTO without padding and with it, and their difference by chat."""
    entries = {entry["label"]: entry for entry in quality["files"]}
    folder = results_folder(cache, "results", quality["inputs"])
    chats, rows = read_chats(folder), []
    counts, mask = chats.counts["reply"], chats.masks["reply"]
    for label, entry in entries.items():
        if label.startswith("AUTO-") and (plain := entries.get(f"{label}0")):
            both = [with_error(*each["losses"]["quantisation"]["kld"]) for each in (plain, entry)]
            before, then = (read_arrays(results_path(folder, each["sha256"]))["pruned_kld"] for each in (plain, entry))
            paired = with_error(*mean_and_error(per_chat((then - before)[mask], counts), counts))
            rows.append([label, gib(plain["bytes"]), gib(entry["bytes"]), *both, paired])
    return rows


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("measurement").add_argument
    add("--work", type=Path, required=True, help="directory for model, files and results; they stay")
    add("--steps", type=positive, default=120, help="training steps")
    add("--sensitivity-chats", type=positive, default=24, help="chats that AUTO goes by")
    add("--chats", type=positive, default=48, help="chats that are measured")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    f16, imatrix, sensitivity = model_files(args.work, args.steps)
    common = {"model": args.work / "model", "threads": 1}
    calibration = DEMO / "calibration_questions.csv"
    few = {"questions": calibration, "limit": args.sensitivity_chats}
    step("measure_sensitivity", input=f16, imatrix=imatrix, output=sensitivity, **common, **few)
    paths = quants_of(f16, imatrix, sensitivity)
    scored = {"questions": DEMO / "eval_questions.csv", "limit": args.chats, "calibration": args.work / "text.txt"}
    places = {"cache": args.work / "logits", "output": args.work / "quality.md"}
    step("measure_quality", full=f16, pruned=f16, gguf=paths, chose=calibration, **common, **scored, **places)
    heads = ["size", "GiB without padding", "GiB", "loss without padding, nats per token", "loss", "difference"]
    print(markdown_table(heads, auto_rows(read_json(args.work / "quality.json"), args.work / "logits")))


if __name__ == "__main__":
    run(main)
