"""Whether the files that a release's numbers rest on are as this project's commands wrote them (files/seals.py).

The other gates hold files against each other, and a build that was rewritten throughout agrees with itself. A seal
needs a key that is not in the build folder. Not asked for one: what is the user's own (question files, calibration
text, the full model's checkpoint), whose digests are in sealed records, and the project's own files.
"""

from collections.abc import Iterator
from pathlib import Path

from choice.drop_metadata import METADATA_NAME
from files.json_records import read_record
from files.run_state import INPUTS_NAME
from files.seals import BY_RECORD, LEDGER, MARKER, Seal, Seals, build_folder, key_path, line_seals, sealing, seals_over
from findings.findings_record import FINDINGS_NAME
from gates.checked import Checked, Outcome
from loops.loop_answers import ANSWERS_NAME, SUBJECT, answers_folder
from loops.loop_results import LOOPS_NAME, LoopResults
from losses.quality_record import QUALITY_NAME, Quality
from losses.stored_results import results_folder
from quants.draft_record import is_draft
from release.manifest import MANIFEST
from release.sources import TASK_COPY, sources_path, task_copies, task_sources
from scoring.run_files import ANSWERS, LM_EVAL, PATCHED, RUN, TASK_FOLDER, read_run, subject_of
from scoring.score_records import SCORES_NAME, SUMMARY_NAME
from speed.active_experts import ACTIVE_NAME
from speed.draft_results import DRAFT_NAME

# By name in FOLDER.sources.json: the stage of make that writes it. Of the others a message names none. The map may be
# one that was given; its digest is in the metadata.
ORIGINS = {"statistics": "statistics", "f16": "choice", "full f16": "model", "imatrix": "imatrix"}
ORIGINS |= {"sensitivity": "auto", "findings measured": "findings"}
COPIES = {METADATA_NAME: "choice", SCORES_NAME: "eval", QUALITY_NAME: "quality", LOOPS_NAME: "loops"}
COPIES |= {FINDINGS_NAME: "findings", DRAFT_NAME: "draft"}
NOT_OURS = ("template",)  # a copy of a file of the project
RELEASE = "release"  # no stage that REPLACE knows


def stage_of_copy(path: Path) -> str:
    """Return the stage that writes a file that is no record of ours: of a checkpoint, or beside the quants."""
    if path.suffix == BY_RECORD:
        return "draft" if is_draft(path) else "quants"
    return "" if path.suffix == ".png" or path.name == ACTIVE_NAME else "choice"


def named_files(checked: Checked) -> Iterator[tuple[Path, str]]:
    """Yield each file that the release names as a source, and the stage that writes it."""
    yield checked.folder / MANIFEST, RELEASE
    yield sources_path(checked.folder.resolve()), RELEASE
    for kind in ("records", "quants"):
        yield from ((path, "quants") for path in checked.sources[kind].values())
    for name, path in checked.sources["copies"].items():
        if name not in NOT_OURS and path.suffix != ".safetensors":
            yield path, COPIES.get(name) or ("tasks" if TASK_COPY.fullmatch(name) else stage_of_copy(path))
    for name, path in checked.sources["origins"].items():
        if name in ORIGINS:
            yield path, ORIGINS[name]


def scored_runs(checked: Checked) -> Iterator[tuple[Path, str]]:
    """Yield the folder of each evaluation, of further tasks too, and the stage that writes it."""
    yield from ((summary.parent, "eval") for summary in checked.sources["runs"].values())
    for name in task_copies(checked.sources["copies"]):
        yield from ((summary.parent, "tasks") for summary in task_sources(checked.sources, name)["run"])


def measured_files(checked: Checked) -> Iterator[tuple[Path, str]]:
    """Yield each file of the evaluations, of the stored results and of the answers to the prompts of loops."""
    for run, stage in scored_runs(checked):
        names = [SUMMARY_NAME, RUN, *([PATCHED] if (run / PATCHED).exists() else [])]
        yield from ((run / name, stage) for name in names)
        for folder in (LM_EVAL, TASK_FOLDER):
            yield from ((path, stage) for path in sorted((run / folder).rglob("*")) if path.is_file())
    copies, origins = checked.sources["copies"], checked.sources["origins"]
    if QUALITY_NAME in copies and "logits" in origins:
        inputs = read_record(copies[QUALITY_NAME], Quality)["inputs"]
        results = results_folder(origins["logits"], "results", inputs)
        yield from ((path, "quality") for path in sorted(results.iterdir()) if path.is_file())
    yield from ((place / INPUTS_NAME, "loops") for place in loop_folders(checked))


def loop_folders(checked: Checked) -> list[Path]:
    """Return the folders with the recorded answers of loops.json."""
    copies, origins = checked.sources["copies"], checked.sources["origins"]
    if LOOPS_NAME not in copies or "loop answers" not in origins:
        return []
    results = read_record(copies[LOOPS_NAME], LoopResults)
    rows = results["rows"]
    return [answers_folder(origins["loop answers"], results["inputs"], row["gguf_sha256"])[0] for row in rows]


def sealed_lines(checked: Checked) -> Iterator[tuple[Path, str, str]]:
    """Yield each record that is sealed line by line, what its seals are bound to, and the stage."""
    for run, stage in scored_runs(checked):
        yield run / ANSWERS, subject_of(read_run(run)), stage
    for folder in loop_folders(checked):
        yield folder / ANSWERS_NAME, SUBJECT, "loops"


def judged(checked: Checked) -> list[tuple[str, Path, str, Seal | None]]:
    """Return place in words, path, stage and seal of everything the release rests on; None: in no build folder."""
    found: list[tuple[str, Path, str, Seal | None]] = []
    files = [*named_files(checked), *measured_files(checked)]
    of_release = (checked.folder / MANIFEST, sources_path(checked.folder.resolve()))
    for path, stage in dict(files).items():
        path = Path(f"{path}.json") if path.suffix == BY_RECORD else path
        seal = None
        if seals := seals_over(path):
            judge = seals.of_renamed if path in of_release else seals.of_file
            seal = judge(path) if path.is_file() else Seal.NONE
        found.append((str(path), path, stage, seal))
    for path, subject, stage in sealed_lines(checked):
        if (seals := seals_over(path)) is None:
            found.append((str(path), path, stage, None))
            continue
        found += [(f"{path}, line {line}", path, stage, seal) for line, seal in line_seals(seals, path, subject)]
    return found


def strange_folder(root: Path) -> str:
    """Return what to say of a build folder in which this machine's key has sealed nothing."""
    found = "those of another key" if Seals(root).places else "none"
    return (
        f"{root / LEDGER}: expected seals of the key {key_path()}, found {found}: a build of another machine, of a "
        "lost key or of an older version; give its key (SEAL_KEY=FILE), make it again, or say SEALS=no to trust it"
    )


def seals_gate(checked: Checked) -> Outcome:
    """Every file that a number of the release rests on has a valid seal."""
    if not sealing():
        return Outcome("what the numbers rest on was NOT checked for edits (SEALS=no)", applies=False)
    found = judged(checked)
    roots = {root for _, path, _, seal in found if seal and (root := build_folder(path))}
    strange = {root for root in roots if not Seals(root).own}
    outcome = Outcome(f"{len(found)} files and recorded answers, as this project's commands wrote them")
    outcome.deviations = [strange_folder(root) for root in sorted(strange)]
    for place, path, stage, seal in found:
        again = f"make it again (REPLACE={stage})" if stage else "remove it and make it again"
        if stage == RELEASE:
            again = "remove the release folder and run `make release`"
        if seal is None:
            outcome.deviations.append(f"{place}: expected a file in a build folder ({MARKER}), found none around it")
        elif seal != Seal.VALID and build_folder(path) not in strange:
            outcome.deviations.append(f"{place}: expected what this project wrote, found {seal.value}; {again}")
    return outcome
