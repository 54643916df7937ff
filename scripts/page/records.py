"""The records of one build that the report is made from, each read where it is there, and checked against the others.

A record that was not made is None or empty; the report then says so. One of another build raises InputError.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from choice.drop_map import Shape, criterion_of, read_drop_map, read_map, rows_that_chose
from choice.drop_metadata import read_metadata
from choice.expert_stats import SHOWN_TOP, protected, read_stats
from files.input_errors import InputError, sha256_file, shown
from files.json_records import read_record
from findings.findings_record import Findings
from ggufs.imatrix import Imatrix, ImatrixRecord, read_imatrix
from loops.loop_results import LoopResults
from losses.quality_record import Quality
from quants.quant_record import ConversionRecord, MmprojRecord, QuantRecord
from scoring.score_records import SCORES_NAME, Scores, read_summary
from speed.active_experts import ActiveExperts
from speed.draft_results import DraftResults

import numpy as np

DIGITS = 12  # of a digest, in messages
# What a row of scores.json has of the one run that it is made from, and the name of it there.
SHARED_WITH_A_RUN = {"experts": "experts", "strict_correct": "strict_correct", "invalid": "invalid_total"}


@dataclass(frozen=True)
class Experts:
    """The statistics of every expert, summed over the questions that chose; arrays [layers, experts].

    over: which questions those are, in words; all of the statistics where the map was not chosen from them.
    weighted_norm: routing weight times norm of the output, fp64; tokens: int64; coverage: questions in which the expert
    is among the `top` of its layer, int64; dropped: bool.
    """

    layers: list[int]
    questions: int
    over: str
    top: int
    weighted_norm: np.ndarray
    tokens: np.ndarray
    coverage: np.ndarray
    dropped: np.ndarray


@dataclass(frozen=True)
class Records:
    """Everything that was found of one build."""

    name: str
    experts: Experts | None = None
    stats_sha256: str | None = None
    drop_map: dict = field(default_factory=dict)
    drop_map_sha256: str | None = None
    metadata: dict = field(default_factory=dict)
    f16: dict = field(default_factory=dict)
    imatrix: Imatrix | None = None
    imatrix_record: dict = field(default_factory=dict)
    quants: dict[str, dict] = field(default_factory=dict)  # by file name
    quality: dict = field(default_factory=dict)
    quality_sha256: str | None = None
    scores: dict = field(default_factory=dict)
    summaries: list[dict] = field(default_factory=list)
    full_f16: dict = field(default_factory=dict)
    analysis: dict = field(default_factory=dict)  # metadata of the statistics file
    findings: dict = field(default_factory=dict)
    mmproj: dict[str, dict] = field(default_factory=dict)  # by file name
    draft: dict = field(default_factory=dict)
    active: dict = field(default_factory=dict)
    loops: dict = field(default_factory=dict)
    tasks: dict[str, dict] = field(default_factory=dict)  # scores of further tasks, by the name of their folder
    samples: list[list[dict]] = field(default_factory=list)  # all summaries of each model, by seed


def check_same(path: Path | str | None, what: str, expected: str | None, found: str | None, advice: str) -> None:
    """Raise InputError when a record names another digest than the file it was made from has; None: not known."""
    if expected is not None and found is not None and expected != found:
        raise InputError(path, f"{what} {expected[:DIGITS]} of this build", found[:DIGITS], advice)


def read_experts(stats: Path, drop_map: Path) -> tuple[Experts, dict, str]:
    """Return the statistics of every expert, the drop map, and the sha256 of the statistics file.

    What a user's map does not record of counts and origin is added to it. Raises InputError when the map does not fit
    the statistics, or was chosen from others.
    """
    arrays, metadata = read_stats(stats)
    sha256, ids = sha256_file(stats), [question["id"] for question in metadata["questions"]]
    layers, experts = arrays["layer_numbers"].tolist(), arrays["token_count"].shape[2]
    found = read_drop_map(drop_map, Shape(experts, metadata["top_k"], tuple(layers)))
    rows = rows_that_chose(drop_map, found.details, stats, sha256, ids)
    chose = found.details.get("stats_sha256") and found.details.get("question_ids")
    dropped = np.zeros((len(layers), experts), bool)
    for row, layer in enumerate(layers):
        dropped[row, found.drop[layer]] = True
    norms, top = arrays["weighted_norm_sum"][rows], found.details.get("protect_top") or min(SHOWN_TOP, experts)
    known = {key: metadata[key] for key in ("questions_sha256", "weights_sha256")}
    counts = {"questions": len(rows), "experts": experts, "keep_count": found.keep_count}
    return (
        Experts(
            layers,
            len(rows),
            f"the {len(rows)} questions that chose the experts" if chose else f"all {len(rows)} questions analysed",
            top,
            norms.sum(axis=0),
            arrays["token_count"][rows].sum(axis=0),
            protected(norms, top).sum(axis=0),
            dropped,
        ),
        known | read_map(drop_map) | counts | {"criterion": criterion_of(found.details)},
        sha256,
    )


def read_map_alone(path: Path) -> dict:
    """Return a drop map where nothing was analysed; what a user's plain map does not record is left out."""
    content = read_map(path)
    return content | {"criterion": criterion_of(content)}


def read_imatrix_of(path: Path, experts: Experts | None) -> tuple[Imatrix, dict]:
    """Return an imatrix and its record; raise InputError when its experts are not those that the drop map keeps."""
    imatrix, record = read_imatrix(path), read_record(Path(f"{path}.json"), ImatrixRecord)
    check_same(Path(f"{path}.json"), "the imatrix", sha256_file(path), record["sha256"], "run make imatrix")
    if not (counts := imatrix.expert_counts()):
        raise InputError(path, "an imatrix of a mixture-of-experts model", "none of its weights has experts")
    kept = {layer: int(row.sum()) for layer, row in zip(experts.layers, ~experts.dropped)} if experts else {}
    if kept and {layer: row.size for layer, row in counts.items()} != kept:
        raise InputError(path, "the experts that the drop map keeps", "others", "is it the imatrix of another model?")
    return imatrix, record


def check_quality(path: Path, quality: dict, records: Records) -> None:
    """Raise InputError when quality was measured on files that are not those of this build."""
    check_same(
        path,
        "the pruned F16 GGUF",
        records.f16.get("sha256"),
        quality["inputs"].get("pruned_sha256"),
        "run make quality",
    )
    check_same(
        path,
        "the full F16 GGUF",
        records.full_f16.get("sha256"),
        quality["inputs"].get("full_sha256"),
        "run make quality",
    )
    built = {quant["type"]: quant["sha256"] for quant in records.quants.values()}
    sizes = {quant["sha256"]: (quant["bytes"], quant["bits_per_weight"]) for quant in records.quants.values()}
    for entry in quality["files"]:
        check_same(
            path, f"{entry['label']} with sha256", built.get(entry["label"]), entry["sha256"], "run make quality"
        )
        found = (entry["bytes"], entry["bits_per_weight"])
        if (size := sizes.get(entry["sha256"], found)) != found:
            raise InputError(path, f"{entry['label']} of {size[0]} bytes", f"{found[0]}", "run make quality")


def summed(runs: list[dict], count: str) -> int | None:
    """Return a count over the samples of a model, None where a run has none."""
    values = [run[count] for run in runs]
    return None if None in values else sum(values)


def check_tasks(path: Path, scores: dict, records: Records) -> None:
    """Raise InputError when a further task was scored on files that are not those of this build."""
    if "task" not in scores["protocol"]:
        raise InputError(path, "scores of a further task", "a protocol that names none", "run make eval with this TASK")
    for row in scores["rows"][1:]:
        sha256 = records.quants.get(row["gguf"], {}).get("sha256")
        check_same(path, f"{row['gguf']} with sha256", sha256, row["gguf_sha256"], "run make eval with this TASK")


def check_scores(path: Path, scores: dict, records: Records) -> None:
    """Raise InputError when the table of scores is not that of the summaries."""
    counts = ("raw_correct", "patched_correct", "questions")
    found = [(row["name"], *(row[count] for count in counts)) for row in scores["rows"]]
    expected = [(runs[0]["name"], *(summed(runs, count) for count in counts)) for runs in records.samples]
    if expected and found != expected:
        raise InputError(
            path, "the scores of " + " and ".join(name for name, *_ in expected), "others", "run make eval"
        )
    for row, runs in zip(scores["rows"], records.samples):
        if row["seeds"] != (seeds := [run["protocol"]["seed"] for run in runs]):
            raise InputError(path, f"the seeds {seeds} of {row['name']}", shown(row["seeds"]), "run make eval")
        for key, name in SHARED_WITH_A_RUN.items():
            value = runs[0][name] if key == "experts" else summed(runs, name)
            if row[key] != value:
                raise InputError(path, f"{key} {shown(value)} of {row['name']}", shown(row[key]), "run make eval")


def check_loops(path: Path, results: dict, records: Records) -> None:
    """Raise InputError when loops were measured on files that are not those of this build; the first is of the full."""
    for row in results["rows"][1:]:
        sha256 = records.quants.get(row["gguf"], {}).get("sha256")
        check_same(path, f"{row['gguf']} with sha256", sha256, row["gguf_sha256"], "run make loops")
        check_same(path, "a quant of the F16 GGUF", records.f16.get("sha256"), row["source_sha256"], "run make loops")
    full = records.full_f16.get("sha256")
    check_same(path, "the full F16 GGUF", full, results["rows"][0]["source_sha256"], "run make loops")


def check_together(paths: dict[str, Path], records: Records) -> None:
    """Raise InputError when a record names a file of another build."""
    # Each record names the digest of the file it was made from, so a chain of digests ties the build together.
    check_same(
        paths.get("metadata"),
        "the drop map",
        records.drop_map_sha256,
        records.metadata.get("drop_map_sha256"),
        "run make drop",
    )
    f16, imatrix = records.f16.get("sha256"), records.imatrix_record.get("sha256")
    check_same(
        paths.get("imatrix"),
        "an imatrix of the F16 GGUF",
        f16,
        records.imatrix_record.get("model_sha256"),
        "run make imatrix",
    )
    for name, quant in records.quants.items():
        check_same(Path(f"{name}.json"), "a quant of the F16 GGUF", f16, quant["source_sha256"], "run make quants")
        check_same(Path(f"{name}.json"), "a quant by the imatrix", imatrix, quant["imatrix_sha256"], "run make quants")
    for run in records.summaries:
        check_same(
            run["gguf"],
            "a score of the file with sha256",
            records.quants.get(run["gguf"], {}).get("sha256"),
            run["gguf_sha256"],
            "run make eval",
        )
    if records.quality:
        check_quality(paths["quality"], records.quality, records)
    if records.scores:
        check_scores(paths["scores"], records.scores, records)
    if records.findings and records.experts:
        shape = (records.experts.dropped.shape[1], records.drop_map["keep_count"], records.analysis["top_k"])
        names = ("experts", "keep_count", "top_k")
        if (found := tuple(records.findings[name] for name in names)) != shape:
            raise InputError(paths["findings"], f"{names} {shape}", f"{found}", "run make findings")
    for name, scores in records.tasks.items():
        check_tasks(Path(name) / SCORES_NAME, scores, records)
    if records.loops:
        check_loops(paths["loops"], records.loops, records)
    for what, sha256 in (("drop_map", records.drop_map_sha256), ("stats", records.stats_sha256)):
        found = records.findings.get("inputs", {}).get(f"{what}_sha256")
        check_same(
            paths.get("findings"), f"findings on the {what.replace('_', ' ')}", sha256, found, "run make findings"
        )


def dates_of(paths: list[Path]) -> tuple[str, str]:
    """Return the days of the oldest and of the newest of some files, in UTC.

    Records hold no time, so that equal inputs give equal records: when they were written, only the file system knows.
    """
    times = sorted(path.stat().st_mtime for path in paths)
    oldest, newest = (datetime.fromtimestamp(time, UTC).date().isoformat() for time in (times[0], times[-1]))
    return oldest, newest


def check_speed(paths: dict[str, Path], records: Records) -> None:
    """Raise InputError when a draft model, or fewer experts, were measured on a file of another build."""
    f16 = records.f16.get("sha256")
    if records.draft and f16 not in {None, *(answers["source_sha256"] for answers in records.draft["models"])}:
        other = records.draft["models"][-1]["source_sha256"]
        check_same(paths["draft"], "answers of a quant of the F16 GGUF", f16, other, "run make draft REPLACE=draft")
    if records.active:
        advice = "run make active-experts REPLACE=draft"
        check_same(paths["active_experts"], "a quant of the F16 GGUF", f16, records.active["source_sha256"], advice)


def read_records(
    name: str,
    paths: dict[str, Path],
    quants: list[Path],
    summaries: list[Path],
    mmproj: list[Path] | None = None,
    tasks: list[Path] | None = None,
) -> Records:
    """Read the records of a build and check that they belong together.

    paths: stats, drop_map, metadata, f16, full_f16, imatrix, quality, scores, findings, loops, draft, active_experts,
    those that exist, stats only with drop_map; quants, mmproj: FILE.gguf.json; summaries: the summary.json of two
    models, the reference first, or none; of several samples, all of the reference come first. tasks: scores.json.
    Raises InputError for what is no such record, or one of another build.
    """
    experts, stats_sha256 = None, None
    drop_map = read_map_alone(paths["drop_map"]) if "drop_map" in paths else {}
    if "stats" in paths:
        experts, drop_map, stats_sha256 = read_experts(paths["stats"], paths["drop_map"])
    imatrix, imatrix_record = read_imatrix_of(paths["imatrix"], experts) if "imatrix" in paths else (None, {})
    quality = read_record(paths["quality"], Quality) if "quality" in paths else {}
    runs = [read_summary(path) for path in summaries]
    samples = [part for part in (runs[: len(runs) // 2], runs[len(runs) // 2 :]) if part]
    records = Records(
        name=name,
        experts=experts,
        stats_sha256=stats_sha256,
        drop_map=drop_map,
        drop_map_sha256=sha256_file(paths["drop_map"]) if drop_map else None,
        metadata=read_metadata(paths["metadata"]) if "metadata" in paths else {},
        f16=read_record(paths["f16"], ConversionRecord) if "f16" in paths else {},
        imatrix=imatrix,
        imatrix_record=imatrix_record,
        quants={path.name.removesuffix(".json"): read_record(path, QuantRecord) for path in quants},
        quality=quality,
        quality_sha256=sha256_file(paths["quality"]) if quality else None,
        scores=read_record(paths["scores"], Scores) if "scores" in paths else {},
        summaries=[part[0] for part in samples],
        full_f16=read_record(paths["full_f16"], ConversionRecord) if "full_f16" in paths else {},
        analysis=read_stats(paths["stats"])[1] if "stats" in paths else {},
        findings=read_record(paths["findings"], Findings) if "findings" in paths else {},
        mmproj={path.name.removesuffix(".json"): read_record(path, MmprojRecord) for path in mmproj or []},
        draft=read_record(paths["draft"], DraftResults) if "draft" in paths else {},
        active=read_record(paths["active_experts"], ActiveExperts) if "active_experts" in paths else {},
        loops=read_record(paths["loops"], LoopResults) if "loops" in paths else {},
        tasks={path.parent.name: read_record(path, Scores) for path in tasks or []},
        samples=samples,
    )
    check_together(paths, records)
    check_speed(paths, records)
    return records
