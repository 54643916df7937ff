"""The demo pruned, converted and quantised with the real tools: what a release is made from."""

import csv
import os
from pathlib import Path

import build_imatrix
import expert_drop
import generate_drop_map
import quantize_gguf
import render_calibration
from calls import as_command, call, made_once
from chats.chat_sequences import MAX_TOKENS
from chats.questions import QUESTION_SEED, load_questions, question_set_digest
from chats.texts_again import analysed_digests
from checkpoints.checkpoint import read_checkpoint, source_digest, weights_digest
from choice.expert_stats import write_stats
from choice.stats_record import EXPERT_SUMS, LAYER_SUMS
from conftest import DEMO
from files.input_errors import sha256_file
from files.seals import MARKER
from quants.quant_record import record_path

import numpy as np

NAME, BASE = "gemma-4-demo-112e", "google/gemma-4-26B-A4B-it"
KEPT, EXPERTS, LAYERS = 112, 128, 3
STANDARD_QUANTS = ("F16", "Q8_0", "Q6_K_L", "Q6_K", "Q4_K_M")
QUANTS = (*STANDARD_QUANTS, "CD-Q4_K_M")
CALIBRATION_QUESTIONS = 20  # about 1,200 tokens; llama-imatrix needs 1,024


def first_ids(path: Path, count: int) -> list[str]:
    """Return the Record IDs of the first questions of a file."""
    with open(path, newline="", encoding="utf-8") as file:
        return [row["Record ID"] for _, row in zip(range(count), csv.DictReader(file))]


def choose_first(folder: Path, questions: Path) -> None:
    """Write statistics of the first six questions and the map by them, which keeps the first experts of every layer."""
    ids, model = first_ids(questions, 6), DEMO / "model"
    shape = (len(ids), LAYERS, EXPERTS)
    falling = np.broadcast_to(np.arange(EXPERTS, 0, -1.0), shape)
    arrays: dict[str, np.ndarray] = {name: falling.copy() for name in EXPERT_SUMS}
    arrays |= {name: np.full(shape[:2], EXPERTS**2) for name in LAYER_SUMS} | {"layer_numbers": np.arange(LAYERS)}
    arrays |= {"token_count": falling.astype(np.int64), "moe_output_norm_sum": np.full(shape[:2], 9.0)}
    asked = load_questions(questions, QUESTION_SEED)[: len(ids)]
    template, tokens = analysed_digests(model, asked, MAX_TOKENS)
    metadata = {
        "questions": [
            {"id": one.record_id, "sha256": one.digest, "token_ids_sha256": tokens[one.record_id]} for one in asked
        ],
        "chat_template_sha256": template,
        "max_tokens": MAX_TOKENS,
        "top_k": 8,
        "questions_sha256": question_set_digest(asked),
        "question_file_sha256": sha256_file(questions),
        "config_sha256": sha256_file(model / "config.json"),
        "weights_sha256": weights_digest(read_checkpoint(model)),
        "source_sha256": source_digest(model),
    }
    with as_command("teacher_force_analysis"):
        write_stats(folder / "statistics.safetensors", arrays, metadata)
    named = ["--stats", folder / "statistics.safetensors", "--output", folder / "map.json"]
    call(generate_drop_map.main, *named, "--keep", KEPT)


def build_pruned_demo(script, demo: Path, folder: Path) -> Path:
    """Prune, convert and quantise the demo in a folder; return it, or the one that workers of pytest-xdist share."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parents[1] / "pruned-demo"  # beside the temporary folders of all workers
    with made_once(folder) as needed:
        if needed:
            folder.mkdir(exist_ok=True)
            (folder / MARKER).touch()
            prune_and_quantise(script, demo, folder)
    return folder


def prune_and_quantise(script, demo: Path, folder: Path) -> None:
    """Fill a folder: drop map, checkpoint, F16.gguf, imatrix and quants with their records."""
    questions, few = demo / "calibration_questions.csv", folder / "few.csv"
    few.write_text("".join(questions.read_text().splitlines(keepends=True)[: 1 + CALIBRATION_QUESTIONS]))
    choose_first(folder, questions)
    f16, imatrix, text, checkpoint = (folder / name for name in ("F16.gguf", "imatrix.gguf", "text.txt", "checkpoint"))
    call(expert_drop.main, "--source", demo / "model", "--drop-map", folder / "map.json", "--output", checkpoint)
    # Processes: llama.cpp's converter is one in any case.
    for model, name, output in ((checkpoint, NAME, f16), (demo / "model", "gemma-4-demo", folder / "full-F16.gguf")):
        done = script("convert_to_gguf.py", "--model", model, "--name", name, "--output", output)
        assert done.returncode == 0, done.stderr
    call(render_calibration.main, "--model", demo / "model", "--questions", few, "--output", text)
    for model, output in ((f16, imatrix), (folder / "full-F16.gguf", folder / "full-imatrix.gguf")):
        call(build_imatrix.main, "--model", model, "--calibration", text, "--output", output)
    for quant in QUANTS:
        more: list[object] = [] if quant == "F16" else ["--imatrix", imatrix]
        more += ["--cd-tiers", "0/1/2"] if quant.startswith("CD-") else []
        output = folder / f"{NAME}-{quant}.gguf"
        call(quantize_gguf.main, "--input", f16, *more, "--type", quant, "--output", output)


def copy_of_quants(pruned: Path, folder: Path, *quants: str) -> Path:
    """Copy quants with their records, the F16 models and the metadata, which a test may damage; return the folder."""
    names = ["F16.gguf", "F16.gguf.json", "imatrix.gguf", "imatrix.gguf.json", "map.json", "statistics.safetensors"]
    names += ["full-F16.gguf", "full-F16.gguf.json", "full-imatrix.gguf", "full-imatrix.gguf.json", "text.txt"]
    names += [f"checkpoint/{path.name}" for path in (pruned / "checkpoint").iterdir()]
    for quant in quants:
        gguf = Path(f"{NAME}-{quant}.gguf")
        names += [str(gguf), str(record_path(gguf))]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((pruned / name).read_bytes())
    return folder
