"""What a release was made from: the build's records that it holds copies of, and the list of sources beside the folder.

FOLDER.sources.json (`Sources`, written by build_release.py) lies beside the folder and is never published:
check_release.py compares a release with the build by it. Paths are relative to the file, by name: `records` of the
quants, `copies` by their names in the folder, `params` of Ollama, `questions`, `origins` (map, statistics, f16 and
imatrix records, calibration text, logits), `runs` (the summaries that the scores compare), `quants` (records of the
files that were scored or measured), `tasks` (of each further task its runs, questions and few shots, as KIND NAME),
`variants` (what proves how the experts of other pruned models in the scores were chosen).
"""

import os
from pathlib import Path
from typing import ClassVar

from checkpoints.checkpoint import INDEX_NAME
from checkpoints.small_names import is_small_file
from choice.drop_metadata import METADATA_NAME, DropMetadata
from files.input_errors import InputError
from files.json_records import Record, read_record
from files.seals import as_written, build_folder
from files.written_records import write_record
from findings.findings_record import FINDINGS_NAME, Findings
from loops.loop_results import LOOPS_NAME, LoopResults
from losses.quality_record import QUALITY_NAME, Quality
from release.manifest import BUILD_AGAIN
from release.task_files import TASK_COPY, task_copies
from scoring.score_records import SCORES_NAME, Scores
from speed.active_experts import ACTIVE_NAME, ActiveExperts
from speed.draft_results import DRAFT_NAME, DraftResults

SOURCES_ENDING = ".sources.json"
# The build's records that a release may hold, by their names in it; each one's owner refuses what is not one.
EVIDENCE: dict[str, type[Record]] = {
    METADATA_NAME: DropMetadata,
    SCORES_NAME: Scores,
    QUALITY_NAME: Quality,
    FINDINGS_NAME: Findings,
    DRAFT_NAME: DraftResults,
    ACTIVE_NAME: ActiveExperts,
    LOOPS_NAME: LoopResults,
}


class Sources(Record):
    """Paths by kind and name."""

    what: ClassVar[str] = "what the release was made from"
    records: dict[str, str]
    copies: dict[str, str]
    params: dict[str, str]
    questions: dict[str, str]
    origins: dict[str, str]
    runs: dict[str, str]
    quants: dict[str, str]
    tasks: dict[str, str] = {}
    variants: dict[str, str] = {}


KINDS_OF_SOURCES = tuple(name for name in Sources.model_fields if name != "version")


def find_tasks(folder: Path) -> dict[str, dict]:
    """Return the scores of further tasks of a release folder, by the names of the tasks' folders."""
    copies = task_copies({path.name: path for path in folder.iterdir()})
    return {name: read_record(path, Scores) for name, path in copies.items()}


def read_evidence(path: Path, name: str) -> dict:
    """Return metadata, scores or quality; name: which, by its name in a release. Raises InputError for another file."""
    return read_record(path, EVIDENCE[name])


def find_evidence(folder: Path, name: str) -> dict | None:
    """Return metadata, scores, quality or findings of a release folder, None where it has none of that name."""
    return read_evidence(folder / name, name) if (folder / name).exists() else None


def sources_path(folder: Path) -> Path:
    """Return the path of the list of a release's sources."""
    return folder.with_name(f"{folder.name}{SOURCES_ENDING}")


def write_sources(folder: Path, sources: dict[str, dict[str, Path]]) -> None:
    """Write the sources of a release, paths by kind and name."""
    place = sources_path(folder)
    listed: dict[str, dict[str, str]] = {}
    for kind, paths in sources.items():
        listed[kind] = {name: path_from(place, path) for name, path in paths.items()}
    write_record(place, listed, Sources)


def path_from(place: Path, path: Path) -> str:
    """Return a path relative to the folder of the list, so that a build can be moved or mounted elsewhere.

    In the build folder it is the path as it is written: a link on its way must stay to be seen. The build folder may be
    reached by a link itself, so what lies outside is found from where it really is.
    """
    if (root := build_folder(place)) and as_written(path).is_relative_to(root):
        return os.path.relpath(as_written(path), as_written(place).parent)
    return os.path.relpath(path.resolve(), place.parent.resolve())


def place_from(place: Path, path: str) -> Path:
    """Return the path that `path_from` gave."""
    found = as_written(place.parent / path)
    return found if (root := build_folder(place)) and found.is_relative_to(root) else place.parent.resolve() / path


def read_sources(folder: Path) -> dict[str, dict[str, Path]]:
    """Return the sources of a release, paths by kind and name; raise InputError when they are not listed beside it."""
    place = sources_path(as_written(folder))
    if not place.is_file():
        raise InputError(place, Sources.what, "nothing", BUILD_AGAIN)
    content = read_record(place, Sources)
    found = {}
    for kind in KINDS_OF_SOURCES:
        found[kind] = {name: place_from(place, path) for name, path in content.get(kind, {}).items()}
    return found


def foreign_copies(copies: dict[str, Path], named: set[str], of_checkpoint: bool) -> set[str]:
    """Return the names of copies that no release has, for a list of sources can be edited; named: others that it may.

    of_checkpoint: the folder has the small files of the build's checkpoint, which are held against the full model's.
    """
    known, place = {*EVIDENCE, "template", *named}, copies[METADATA_NAME].parent
    known |= {name for name in copies if TASK_COPY.fullmatch(name)}
    if of_checkpoint:
        small = {name for name in copies if is_small_file(name) or name in ("config.json", INDEX_NAME)}
        known |= {name for name in small if copies[name].resolve() == (place / name).resolve()}
    return copies.keys() - known
