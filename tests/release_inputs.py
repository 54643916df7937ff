"""What a release is made from, made with the real tools; evaluations of it; a release that tests share."""

import csv
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import build_imatrix
import build_release
import compare_scores
import expert_drop
import quantize_gguf
import render_calibration
from choice import drop_map
from conftest import DEMO, REPO
from files.safe_files import sha256_file, write_record
from losses.quality_conclusions import quant_kind
from losses.quality_record import QUALITY_NAME, Quality
from quants.quant_record import read_quant_record, record_path
from release.manifest import MANIFEST, STANDARD, Manifest, file_entries
from scoring.eval_protocol import Protocol
from scoring.score_records import SUMMARY_NAME, Summary, figures

QUESTIONS = [DEMO / "eval_questions.csv", DEMO / "calibration_questions.csv"]
SIDECARS = [
    *("--template", *sorted((REPO / "modelfiles").glob("*.template"))),
    *("--params", REPO / "modelfiles/gemma4-card.params.json"),
]
NAME, BASE = "gemma-4-demo-112e", "google/gemma-4-26B-A4B-it"
KEPT, EXPERTS, LAYERS = 112, 128, 3
STANDARD_QUANTS = ("F16", "Q8_0", "Q6_K_L", "Q6_K", "Q4_K_M")
QUANTS = (*STANDARD_QUANTS, "CD-Q4_K_M")
CALIBRATION_QUESTIONS = 20  # about 1,200 tokens; llama-imatrix needs 1,024
PATCH = {"prefill": "The answer is (", "n_predict": 10, "temperature": 0}
DOMINATED = {
    "Q6_K": {"by": "Q4_K_M", "difference": 0.01, "difference_error": 0.001, "significant": True},
    "Q8_0": {"by": "Q6_K", "difference": 0.01, "difference_error": 0.1, "significant": False},
}


def first_ids(path: Path, count: int) -> list[str]:
    """Return the Record IDs of the first questions of a file."""
    with open(path, newline="", encoding="utf-8") as file:
        return [row["Record ID"] for _, row in zip(range(count), csv.DictReader(file))]


def call(main, *arguments: object) -> None:
    """Call a command's main with arguments of any type: a process would import all of its libraries again."""
    main([str(argument) for argument in arguments])


def write_map(path: Path, questions: Path) -> None:
    """Write a drop map that keeps the first experts of every layer, chosen on the first six questions."""
    layer = {"keep": list(range(KEPT)), "drop": list(range(KEPT, EXPERTS))}
    content = {
        "criterion": "coverage",
        "worst_first": False,
        "protect_top": 16,
        "experts": EXPERTS,
        "keep_count": KEPT,
        "drop_count": EXPERTS - KEPT,
        "questions": 6,
        "question_ids": first_ids(questions, 6),
        "stats_sha256": "0" * 64,
        "layers": {str(number): layer for number in range(LAYERS)},
    }
    drop_map.write_map(path, content)


@contextmanager
def made_once(folder: Path) -> Iterator[bool]:
    """Hold a lock on a folder; yield whether it is still to be made. It counts as made when this ends without error."""
    done = folder.with_name(f"{folder.name}.done")
    with open(folder.with_name(f"{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not done.exists()
        done.touch()


def build_pruned_demo(script, demo: Path, folder: Path) -> Path:
    """Prune, convert and quantise the demo in a folder; return it, or the one that workers of pytest-xdist share."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parents[1] / "pruned-demo"  # beside the temporary folders of all workers
    with made_once(folder) as needed:
        if needed:
            folder.mkdir(exist_ok=True)
            prune_and_quantise(script, demo, folder)
    return folder


def prune_and_quantise(script, demo: Path, folder: Path) -> None:
    """Fill a folder: drop map, checkpoint, F16.gguf, imatrix and quants with their records."""
    questions, few = demo / "calibration_questions.csv", folder / "few.csv"
    few.write_text("".join(questions.read_text().splitlines(keepends=True)[: 1 + CALIBRATION_QUESTIONS]))
    write_map(folder / "map.json", questions)
    f16, imatrix, text, checkpoint = (folder / name for name in ("F16.gguf", "imatrix.gguf", "text.txt", "checkpoint"))
    call(expert_drop.main, "--source", demo / "model", "--drop-map", folder / "map.json", "--output", checkpoint)
    # A process: llama.cpp's converter is one in any case.
    done = script("convert_to_gguf.py", "--model", checkpoint, "--name", NAME, "--output", f16)
    assert done.returncode == 0, done.stderr
    call(render_calibration.main, "--model", demo / "model", "--questions", few, "--output", text)
    call(build_imatrix.main, "--model", f16, "--calibration", text, "--output", imatrix)
    for quant in QUANTS:
        more: list[object] = [] if quant == "F16" else ["--imatrix", imatrix]
        more += ["--cd-tiers", "0/1/2"] if quant.startswith("CD-") else []
        output = folder / f"{NAME}-{quant}.gguf"
        call(quantize_gguf.main, "--input", f16, *more, "--type", quant, "--output", output)


def answer_rows(ids: list[str], marks: str, patch: dict | None) -> list[dict]:
    """Return rows of answers: "1" right, "0" wrong, "p" empty and right after the patch, "e" empty for good."""
    rows = []
    for i, (record_id, mark) in enumerate(zip(ids, marks, strict=True)):
        row = {
            "record_id": record_id,
            "order": [0, 1, 2, 3],
            "prompt_sha256": f"{i}",
            "target": "A",
            "class": "empty" if mark in "pe" else "answered",
            "correct": mark == "1",
            "strict_correct": mark == "1",
            "completion_tokens": 1,
        }
        rows.append(row | ({"patched_correct": mark == "p"} if mark in "pe" and patch else {}))
    return rows


def write_summary(folder: Path, name: str, gguf: Path, rows: list[dict], patch: dict | None, experts: int) -> Path:
    """Write the summary of a run into a folder of its own; return the folder."""
    content = {
        "name": name,
        "gguf": gguf.name,
        "gguf_sha256": sha256_file(gguf),
        "gguf_bytes": gguf.stat().st_size,
        "experts": experts,
        "protocol_sha256": "0" * 64,
        "protocol": vars(Protocol()),
        "in_sample": None,
        **figures(rows, patch),
    }
    write_record(folder / name / SUMMARY_NAME, content, Summary)
    return folder / name


def write_scores(pruned: Path, folder: Path, ids: list[str], patch: dict | None = PATCH) -> Path:
    """Compare two made-up evaluations with compare_scores.py; return its JSON."""
    f16, quant = pruned / "F16.gguf", pruned / f"{NAME}-Q6_K.gguf"
    runs = [
        write_summary(folder, "gemma-4-demo", f16, answer_rows(ids, "1110", patch), patch, EXPERTS),
        write_summary(folder, NAME, quant, answer_rows(ids, "10pe", patch), patch, KEPT),
    ]
    call(compare_scores.main, "--runs", *runs, "--output", folder / "scores.md")
    return folder / "scores.json"


def write_quality(pruned: Path, folder: Path, klds: dict[str, float], dominated: dict | None = None) -> Path:
    """Write a quality.json of made-up losses of the built files."""
    files = []
    for quant, kld in klds.items():
        record = read_quant_record(pruned / f"{NAME}-{quant}.gguf")
        same = {key: record[key] for key in ("bytes", "bits_per_weight", "sha256")}
        losses = {loss: {"kld": [kld, kld / 10]} for loss in ("pruning", "quantisation", "total")}
        files.append({"label": quant, "kind": quant_kind(quant), **same, "losses": losses})
    found = {"line": [], "verdicts": {}, "dominated": dominated or {}, "scopes": None}
    content = {
        "inputs": {"pruned_sha256": sha256_file(pruned / "F16.gguf")},
        "chats": 4,
        "left_out": 0,
        "score": "reply",
        "tokens": {"reply": 40, "all": 90},
        "cut": 0,
        "files": files,
        "conclusions": {"total": found, "quantisation": found},
    }
    write_record(folder / QUALITY_NAME, content, Quality)
    return folder / QUALITY_NAME


def release_arguments(
    pruned: Path, output: Path, *more: object, quants: tuple[str, ...] = STANDARD_QUANTS, base: str = BASE
) -> list[object]:
    """Return the arguments of build_release.py for a folder of GGUF files."""
    files = [pruned / f"{NAME}-{quant}.gguf" for quant in quants]
    metadata = pruned / "checkpoint/expert_drop_metadata.json"
    named = ["--name", NAME, "--base", base, "--metadata", metadata, "--output", output]
    return ["--gguf", *files, *named, *SIDECARS, *more]


def build(pruned: Path, output: Path, *more: object, **options) -> str:
    """Build a release of GGUF files; return its card."""
    call(build_release.main, *release_arguments(pruned, output, *more, **options))
    return (output / "README.md").read_text()


def shared_release(pruned: Path) -> Path:
    """Return a release of the demo's standard quants with scores and quality, built once: copy it to change it."""
    folder = pruned.with_name(f"{pruned.name}-release")
    with made_once(folder) as needed:
        if needed:
            build_with_evidence(pruned, folder)
    return folder / f"{NAME}-GGUF"


def build_with_evidence(pruned: Path, folder: Path) -> None:
    """Build the shared release in a folder, beside its scores and quality."""
    scores = write_scores(pruned, folder, first_ids(QUESTIONS[1], 4))  # the questions that chose the experts
    quality = write_quality(pruned, folder, {"Q8_0": 0.001, "Q6_K": 0.02, "Q4_K_M": 0.01}, DOMINATED)
    more = ["--license", "gemma", "--scores", scores, "--quality", quality, "--questions", *QUESTIONS]
    # Without F16: it is a third of the bytes that every gate of every test would read.
    build(pruned, folder / f"{NAME}-GGUF", *more, quants=STANDARD_QUANTS[1:])


def write_manifest(folder: Path, name: str = "tiny-12e") -> None:
    """Write a manifest of every file of a folder, which has no records of quants."""
    (folder / MANIFEST).unlink(missing_ok=True)
    texts = dict.fromkeys(("owner", "license", "quantized_by", "project_version"), "")
    head = {"name": name, "repository": f"{name}-GGUF", "kind": STANDARD, "base": "tiny", **texts}
    head |= {"siblings": {}, "settings": {}, "inputs": {"questions": {}, "calibration": None}}
    write_record(folder / MANIFEST, {**head, "records": {}, "files": file_entries(folder)}, Manifest)


def change_json(path: Path, **values: object) -> None:
    """Change some values of a JSON object."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def copy_of_quants(pruned: Path, folder: Path, *quants: str) -> Path:
    """Copy quants with their records, the F16 model and the metadata, which a test may damage; return the folder."""
    names = ["F16.gguf", "checkpoint/expert_drop_metadata.json"]
    for quant in quants:
        gguf = Path(f"{NAME}-{quant}.gguf")
        names += [str(gguf), str(record_path(gguf))]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((pruned / name).read_bytes())
    return folder
