"""What a release is made from, made on the spot with the real tools, and evaluations of it."""

import csv
import json
from pathlib import Path

import compare_scores
from files.safe_files import sha256_file
from scoring.eval_protocol import Protocol
from scoring.score_records import figures

NAME = "gemma-4-demo-112e"
KEPT, EXPERTS, LAYERS = 112, 128, 3
QUANTS = ("F16", "Q8_0", "Q6_K_L", "Q6_K", "Q4_K_M", "CD-Q4_K_M")
PATCH = {"prefill": "The answer is (", "n_predict": 10, "temperature": 0}


def first_ids(path: Path, count: int) -> list[str]:
    """Return the Record IDs of the first questions of a file."""
    with open(path, newline="", encoding="utf-8") as file:
        return [row["Record ID"] for _, row in zip(range(count), csv.DictReader(file))]


def build_pruned_demo(script, demo: Path, folder: Path) -> Path:
    """Prune, convert and quantise the demo."""
    layers = {str(i): {"keep": list(range(KEPT)), "drop": list(range(KEPT, EXPERTS))} for i in range(LAYERS)}
    (folder / "map.json").write_text(
        json.dumps(
            {
                "experts": EXPERTS,
                "keep_count": KEPT,
                "criterion": "coverage",
                "protect_top": 16,
                "questions": 6,
                "question_ids": first_ids(demo / "calibration_questions.csv", 6),
                "layers": layers,
            }
        )
    )
    lines = (demo / "calibration_questions.csv").read_text().splitlines(keepends=True)
    (folder / "few.csv").write_text("".join(lines[:40]))
    f16, imatrix = folder / "F16.gguf", folder / "imatrix.gguf"
    commands = [
        (
            "expert_drop.py",
            "--source",
            demo / "model",
            "--drop-map",
            folder / "map.json",
            "--output",
            folder / "checkpoint",
        ),
        ("convert_to_gguf.py", "--model", folder / "checkpoint", "--name", NAME, "--output", f16),
        (
            "render_calibration.py",
            "--model",
            demo / "model",
            "--questions",
            folder / "few.csv",
            "--output",
            folder / "text.txt",
        ),
        ("build_imatrix.py", "--model", f16, "--calibration", folder / "text.txt", "--output", imatrix),
    ]
    for quant in QUANTS:
        more = () if quant == "F16" else ("--imatrix", imatrix)
        tiers = ("--cd-tiers", "0/1/2") if quant.startswith("CD-") else ()
        commands.append(
            (
                "quantize_gguf.py",
                "--input",
                f16,
                *more,
                *tiers,
                "--type",
                quant,
                "--output",
                folder / f"{NAME}-{quant}.gguf",
            )
        )
    for command in commands:
        done = script(*command)
        assert done.returncode == 0, done.stderr
    return folder


def summary(
    name: str, gguf: Path, ids: list[str], marks: str, patch: dict | None, experts: int, in_sample: dict | None = None
) -> dict:
    """Return a summary.json: per question "1" right, "0" wrong, "p" empty and right after the patch, "e" empty for good."""
    rows = []
    for i, (record_id, mark) in enumerate(zip(ids, marks, strict=True)):
        row = {
            "record_id": record_id,
            "order": [0, 1, 2, 3],
            "prompt_sha256": f"{i}",
            "class": "empty" if mark in "pe" else "answered",
            "correct": mark == "1",
            "strict_correct": mark == "1",
            "completion_tokens": 1,
        }
        rows.append(row | ({"patched_correct": mark == "p"} if mark in "pe" and patch else {}))
    return {
        "name": name,
        "gguf": gguf.name,
        "gguf_sha256": sha256_file(gguf),
        "gguf_bytes": gguf.stat().st_size,
        "experts": experts,
        "protocol_sha256": "0" * 64,
        "protocol": vars(Protocol()),
        "in_sample": in_sample,
        **figures(rows, patch),
    }


def write_scores(pruned: Path, folder: Path, ids: list[str], patch: dict | None = PATCH) -> Path:
    """Compare two made-up evaluations with compare_scores.py; return its JSON."""
    runs = []
    for name, gguf, marks, experts in (
        ("gemma-4-demo", pruned / "F16.gguf", "1110", EXPERTS),
        (NAME, pruned / f"{NAME}-Q6_K.gguf", "10pe", KEPT),
    ):
        path = folder / f"{name}.json"
        path.write_text(json.dumps(summary(name, gguf, ids, marks, patch, experts)))
        runs.append(str(path))
    compare_scores.main(["--runs", *runs, "--output", str(folder / "scores.md")])
    return folder / "scores.json"


def write_quality(pruned: Path, folder: Path, klds: dict[str, float], dominated: dict | None = None) -> Path:
    """Write a quality.json of made-up losses of the built files."""
    files = []
    for quant, kld in klds.items():
        record = json.loads((pruned / f"{NAME}-{quant}.gguf.json").read_text())
        losses = {loss: {"kld": [kld, kld / 10]} for loss in ("pruning", "quantisation", "total")}
        files.append({"label": quant, "bytes": record["bytes"], "sha256": record["sha256"], "losses": losses})
    found = {"line": [], "verdicts": {}, "dominated": dominated or {}, "scopes": None}
    path = folder / "quality.json"
    path.write_text(
        json.dumps(
            {
                "inputs": {"pruned_sha256": sha256_file(pruned / "F16.gguf")},
                "chats": 4,
                "score": "reply",
                "tokens": {"reply": 40, "all": 90},
                "files": files,
                "conclusions": {"total": found, "quantisation": found},
            }
        )
    )
    return path
