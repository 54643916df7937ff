"""Releases of the pruned demo: the arguments of build_release.py, and one that tests share."""

from pathlib import Path

import build_release
from calls import call, made_once
from conftest import DEMO, REPO
from files.seals import MARKER
from files.written_records import write_record
from makers.made_up_evidence import QUESTIONS, write_quality, write_scores
from makers.pruned_models import BASE, NAME, STANDARD_QUANTS, first_ids
from quants.quant_record import record_path
from release.manifest import MANIFEST, STANDARD, Manifest, file_entries

SIDECARS = [
    *("--template", *sorted((REPO / "modelfiles").glob("*.template"))),
    *("--params", REPO / "modelfiles/gemma4-card.params.json"),
]
LICENCE = "gemma"
DOMINATED = {
    "Q6_K": {"by": "Q4_K_M", "difference": 0.01, "difference_error": 0.001, "significant": True},
    "Q8_0": {"by": "Q6_K", "difference": 0.01, "difference_error": 0.1, "significant": False},
}


def origins_of(pruned: Path, more: tuple[object, ...]) -> list[object]:
    """Return the arguments of build_release.py that name what its numbers come from; more: the others."""
    origins = {
        "map": "map.json",
        "f16": "F16.gguf.json",
        "full-f16": "full-F16.gguf.json",
        "imatrix-record": "imatrix.gguf.json",
        "full-imatrix": "full-imatrix.gguf.json",
        "calibration": "text.txt",
    }
    found: list[object] = ["--source", DEMO / "model"]
    found += [part for name, path in origins.items() for part in (f"--{name}", pruned / path)]
    if (pruned / "statistics.safetensors").exists():
        found += ["--statistics", pruned / "statistics.safetensors"]
    given = {str(part): more[i + 1] for i, part in enumerate(more[:-1]) if part in ("--scores", "--quality")}
    questions: list[object] = [*QUESTIONS]
    if scores := given.get("--scores"):
        folder = Path(str(scores)).parent
        found += ["--runs", folder / "run-full/summary.json", folder / "run-pruned/summary.json"]
        found += ["--quants", folder / "gemma-4-demo-Q6_K.gguf.json", record_path(pruned / f"{NAME}-Q6_K.gguf")]
        questions.append(folder / "scored.csv")
    if quality := given.get("--quality"):
        found += ["--logits", Path(str(quality)).parent / "logits"]
    return [*found, "--license", LICENCE, "--questions", *questions]


def release_arguments(
    pruned: Path, output: Path, *more: object, quants: tuple[str, ...] = STANDARD_QUANTS, base: str = BASE
) -> list[object]:
    """Return the arguments of build_release.py for a folder of GGUF files."""
    files = [pruned / f"{NAME}-{quant}.gguf" for quant in quants]
    metadata = pruned / "checkpoint/expert_drop_metadata.json"
    named = ["--name", NAME, "--base", base, "--metadata", metadata, "--output", output]
    return ["--gguf", *files, *named, *SIDECARS, *origins_of(pruned, more), *more]


def build(pruned: Path, output: Path, *more: object, **options) -> str:
    """Build a release of GGUF files; return its card."""
    call(build_release.main, *release_arguments(pruned, output, *more, **options))
    return (output / "README.md").read_text()


def shared_release(pruned: Path) -> Path:
    """Return a release of the demo's standard quants with scores and quality, built once: copy it to change it."""
    folder = pruned.with_name(f"{pruned.name}-release")
    with made_once(folder) as needed:
        if needed:
            folder.mkdir(exist_ok=True)
            (folder / MARKER).touch()
            build_with_evidence(pruned, folder)
    return folder / f"{NAME}-GGUF"


def build_with_evidence(pruned: Path, folder: Path) -> None:
    """Build the shared release in a folder, beside its scores and quality."""
    scores = write_scores(pruned, folder, first_ids(QUESTIONS[1], 4))  # the questions that chose the experts
    quality = write_quality(pruned, folder, {"Q8_0": 0.001, "Q6_K": 0.02, "Q4_K_M": 0.01})
    more = ["--scores", scores, "--quality", quality, "--pictures", scores.with_suffix(".png")]
    # Without F16: it is a third of the bytes that every gate of every test would read.
    build(pruned, folder / f"{NAME}-GGUF", *more, quants=STANDARD_QUANTS[1:])


def write_manifest(folder: Path, name: str = "tiny-12e") -> None:
    """Write a manifest of every file of a folder, which has no records of quants."""
    (folder / MANIFEST).unlink(missing_ok=True)
    texts = dict.fromkeys(("owner", "license", "quantized_by", "project_version"), "")
    head = {"name": name, "repository": f"{name}-GGUF", "kind": STANDARD, "base": "tiny", **texts}
    head |= {"siblings": {}, "settings": {}, "inputs": {"questions": {}, "calibration": None}}
    write_record(folder / MANIFEST, {**head, "records": {}, "files": file_entries(folder)}, Manifest)
