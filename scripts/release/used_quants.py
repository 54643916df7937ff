"""The quants that a release speaks of: those that it holds, and those of its model that were scored or measured."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from files.json_records import Record, read_record
from ggufs.imatrix import ImatrixRecord
from loops.loop_results import LOOPS_NAME, LoopResults
from losses.quality_record import QUALITY_NAME, Quality
from quants.quant_record import ConversionRecord, QuantRecord, is_copy
from release.task_files import task_copies
from scoring.score_records import SCORES_NAME, Scores
from speed.active_experts import ACTIVE_NAME, ActiveExperts
from speed.draft_results import DRAFT_NAME, DraftResults

SourcePaths = Mapping[str, Mapping[str, Path]]  # what release/sources.py reads: by kind and name

# Of each record that measures files its class, and the field that lists them; None: it is of one file.
RECORDS_OF_FILES: dict[str, tuple[type[Record], str | None]] = {
    SCORES_NAME: (Scores, "rows"),
    LOOPS_NAME: (LoopResults, "rows"),
    DRAFT_NAME: (DraftResults, "models"),
    QUALITY_NAME: (Quality, "files"),
    ACTIVE_NAME: (ActiveExperts, None),
}


def measured_digests(copies: Mapping[str, Path]) -> Iterator[str]:
    """Yield the sha256 of each file that scores, losses, loops or speeds are of; copies: a release's, by name."""
    places = [(path, SCORES_NAME) for path in task_copies(copies).values()]
    places += [(copies[name], name) for name in RECORDS_OF_FILES if name in copies]
    for path, name in places:
        kind, listed = RECORDS_OF_FILES[name]
        content = read_record(path, kind)
        for row in content[listed] if listed else [content]:
            yield row["sha256"] if name == QUALITY_NAME else row["gguf_sha256"]


def used_quants(sources: SourcePaths) -> list[tuple[Path, dict]]:
    """Return the records of a release's quants, and of those of its model that it has measurements of, by their paths.

    sources: paths by kind and name.
    """
    found = [(path, read_record(path, QuantRecord)) for path in sources["records"].values()]
    measured, known = {*measured_digests(sources["copies"])}, {record["sha256"] for _, record in found}
    if "f16" not in sources["origins"]:
        return found
    f16 = read_record(sources["origins"]["f16"], ConversionRecord)["sha256"]
    for path in sources["quants"].values():
        record = read_record(path, QuantRecord)
        if record["source_sha256"] == f16 and record["sha256"] in measured - known:
            found.append((path, record))
    return found


def evaluated_types(copies: Mapping[str, Path]) -> dict[str, set[str]]:
    """Return the types of the files that scores, speeds and loops are of, which make gives by EVAL_QUANT, by record.

    Of loops the type of the full model's file: the others are of LOOP_QUANTS. By the names of the files, which end with
    the type; the model's own name is cut off.
    """
    found = {}
    for name in (SCORES_NAME, LOOPS_NAME, DRAFT_NAME, ACTIVE_NAME):
        if name in copies:
            kind, listed = RECORDS_OF_FILES[name]
            content = read_record(copies[name], kind)
            rows = content[listed] if listed else [content]
            rows = rows[:1] if name == LOOPS_NAME else rows
            found[name] = {type_of_name(row["gguf"]) for row in rows}
    return found


def type_of_name(gguf: str) -> str:
    """Return the type that a file's name ends with."""
    match = re.search(r"-((?:CD-|PAD-|AUTO-)?[A-Za-z0-9_.]+)\.gguf$", gguf)
    return match[1] if match else gguf


def types_with(records: Iterable[dict]) -> set[str]:
    """Return the types that were made with an imatrix."""
    return {record["type"] for record in records if record["imatrix_sha256"]}


def types_without(records: Iterable[dict]) -> set[str]:
    """Return the types that were made without an imatrix, but for those that are copies."""
    return {record["type"] for record in records if not record["imatrix_sha256"] and not is_copy(record)}


def by_imatrix(sources: SourcePaths) -> bool:
    """Tell whether a file of a release, or a measured one, has the imatrix: else its text had no part."""
    if "imatrix" not in sources["origins"]:
        return False
    digest = read_record(sources["origins"]["imatrix"], ImatrixRecord)["sha256"]
    return any(record["imatrix_sha256"] == digest for _, record in used_quants(sources))
