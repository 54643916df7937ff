"""Whether the files that a release's numbers rest on are as this project's commands wrote them (files/seals.py).

The other gates hold files against each other, and a build that was rewritten throughout agrees with itself. A seal
needs a key that is not in the build folder. Not asked for one: what is the user's own (question files, calibration
text, the full model's checkpoint), whose digests are in sealed records, and the project's own files.
"""

from collections.abc import Iterator
from pathlib import Path

from choice.drop_metadata import METADATA_NAME
from files.json_records import is_file_record, read_json, read_record
from files.known_digests import sha256_now
from files.sealed_lines import line_seals
from files.seals import (
    ANY,
    BY_RECORD,
    INPUTS_NAME,
    LEDGER,
    LINK_ADVICE,
    MARKER,
    Commands,
    Seal,
    Seals,
    as_written,
    build_folder,
    key_path,
    own_key,
    sealing,
    seals_over,
)
from findings.findings_record import FINDINGS_NAME
from gates.checked import Checked, Outcome
from loops.loop_answers import ANSWERS_NAME, SUBJECT, answers_folder
from loops.loop_results import LOOPS_NAME, LoopResults
from losses.quality_record import QUALITY_NAME, Quality
from losses.stored_results import results_folder
from quants.draft_record import is_draft
from release.manifest import MANIFEST
from release.sources import SOURCES_ENDING, sources_path
from release.task_files import TASK_COPY, task_copies, task_sources
from scoring.run_files import ANSWERS, LM_EVAL, PATCHED, RUN, TASK_FOLDER, read_run, subjects_of
from scoring.score_records import SCORES_NAME, SUMMARY_NAME
from speed.active_experts import ACTIVE_NAME
from speed.draft_results import DRAFT_NAME

Origin = tuple[str, Commands]  # the stage of make that writes a file, for messages, and the command that does

# By name in FOLDER.sources.json. A map that was given is copied by a command of ours. Statistics may be an imatrix.
ORIGINS: dict[str, Origin] = {
    "map": ("choice", ("generate_drop_map", "copy_drop_map")),
    "statistics": ("statistics", ("teacher_force_analysis", "build_imatrix")),
    "model": ("model", ("fetch_model",)),
    "f16": ("choice", ("convert_to_gguf",)),
    "full f16": ("model", ("convert_to_gguf",)),
    "imatrix": ("imatrix", ("build_imatrix",)),
    "full imatrix": ("imatrix", ("build_imatrix",)),
    "sensitivity": ("auto", ("measure_sensitivity",)),
    "findings measured": ("findings", ("measure_findings",)),
}
COPIES: dict[str, Origin] = {
    METADATA_NAME: ("choice", ("expert_drop",)),
    SCORES_NAME: ("eval", ("compare_scores",)),
    QUALITY_NAME: ("quality", ("measure_quality",)),
    LOOPS_NAME: ("loops", ("measure_loops",)),
    FINDINGS_NAME: ("findings", ("measure_findings",)),
    DRAFT_NAME: ("draft", ("measure_draft",)),
    ACTIVE_NAME: ("draft", ("measure_active_experts",)),
}
OF_RUN = {SUMMARY_NAME: "summarize_scores", RUN: "ask_questions", PATCHED: "patch_answers"}
OF_RUN |= {LM_EVAL: "ask_questions", TASK_FOLDER: "freeze_questions", ANSWERS: "ask_questions"}
QUANTS: Origin = ("quants", ("quantize_gguf",))
RELEASE: Origin = ("release", ("build_release",))  # no stage that REPLACE knows
NOT_OURS = ("template",)  # a copy of a file of the project


def origin_of_copy(name: str, path: Path) -> Origin:
    """Return who writes a file that a release has a copy of; name: in the release."""
    if name in COPIES:
        return COPIES[name]
    if TASK_COPY.fullmatch(name):
        return "tasks", COPIES[SCORES_NAME][1]
    if path.suffix == BY_RECORD:
        return ("draft", ("build_draft",)) if is_draft(path) else ("quants", ("convert_to_gguf",))
    # A picture is drawn again; the others are small files of the checkpoint.
    return ("", ANY) if path.suffix == ".png" else ("choice", ("expert_drop",))


def named_files(checked: Checked) -> Iterator[tuple[Path, Origin]]:
    """Yield each file that the release names as a source, and who writes it."""
    yield checked.folder / MANIFEST, RELEASE
    yield sources_path(as_written(checked.folder)), RELEASE
    for kind in ("records", "quants"):
        yield from ((path, QUANTS) for path in checked.sources[kind].values())
    for name, path in checked.sources["copies"].items():
        # By its name in the release: under another one a file would be asked for no seal, or for another's.
        if name not in NOT_OURS and not name.endswith(".safetensors"):
            yield path, origin_of_copy(name, path)
    for name, path in checked.sources["origins"].items():
        if name in ORIGINS:
            yield path, ORIGINS[name]


def scored_runs(checked: Checked) -> Iterator[tuple[Path, str]]:
    """Yield the folder of each evaluation, of further tasks too, and the stage that writes it."""
    yield from ((summary.parent, "eval") for summary in checked.sources["runs"].values())
    for name in task_copies(checked.sources["copies"]):
        yield from ((summary.parent, "tasks") for summary in task_sources(checked.sources, name)["run"])


def measured_files(checked: Checked) -> Iterator[tuple[Path, Origin]]:
    """Yield each file of the evaluations, of the stored results and of the answers to the prompts of loops."""
    for run, stage in scored_runs(checked):
        names = [SUMMARY_NAME, RUN, *([PATCHED] if (run / PATCHED).exists() else [])]
        yield from ((run / name, (stage, (OF_RUN[name],))) for name in names)
        for name in (LM_EVAL, TASK_FOLDER):
            files = [path for path in sorted((run / name).rglob("*")) if path.is_file()]
            yield from ((path, (stage, (OF_RUN[name],))) for path in files)
    copies, origins = checked.sources["copies"], checked.sources["origins"]
    if QUALITY_NAME in copies and "logits" in origins:
        inputs = read_record(copies[QUALITY_NAME], Quality)["inputs"]
        results = results_folder(origins["logits"], "results", inputs)
        yield from ((path, COPIES[QUALITY_NAME]) for path in sorted(results.iterdir()) if path.is_file())
    yield from ((place / INPUTS_NAME, COPIES[LOOPS_NAME]) for place in loop_folders(checked))


def loop_folders(checked: Checked) -> list[Path]:
    """Return the folders with the recorded answers of loops.json."""
    copies, origins = checked.sources["copies"], checked.sources["origins"]
    if LOOPS_NAME not in copies or "loop answers" not in origins:
        return []
    results = read_record(copies[LOOPS_NAME], LoopResults)
    rows = results["rows"]
    return [answers_folder(origins["loop answers"], results["inputs"], row["gguf_sha256"])[0] for row in rows]


def line_records(checked: Checked) -> Iterator[tuple[Path, list[str], Origin]]:
    """Yield each record that is sealed line by line, what its seals are bound to, and who writes it."""
    for run, stage in scored_runs(checked):
        yield run / ANSWERS, subjects_of(read_run(run)), (stage, (OF_RUN[ANSWERS],))
    for folder in loop_folders(checked):
        yield folder / ANSWERS_NAME, [SUBJECT], COPIES[LOOPS_NAME]


def is_recorded(path: Path) -> bool:
    """Tell whether the record FILE.json, whose seal stands for that of a file, is one of these very bytes.

    A file that has gone, as LOW_DISK=yes removes them, has its record alone.
    """
    record = Path(f"{path}.json")
    if not path.is_file() or not record.is_file():
        return True
    known = read_json(record)
    return is_file_record(known) and known["sha256"] == sha256_now(path)


def judged(checked: Checked) -> list[tuple[str, Path, str, Seal | None]]:
    """Return place in words, path, stage and seal of everything the release rests on; None: in no build folder."""
    found: list[tuple[str, Path, str, Seal | None]] = []
    for path, (stage, commands) in dict([*named_files(checked), *measured_files(checked)]).items():
        of_record = path.suffix == BY_RECORD
        if of_record and not is_recorded(path):
            found.append((str(path), path, stage, Seal.BROKEN))
            continue
        path = Path(f"{path}.json") if of_record else path
        seal = None
        if seals := seals_over(path):
            seal = Seal.NONE
            if path.is_file():
                if (stage, commands) == RELEASE:
                    ending = f"/{MANIFEST}" if path.name == MANIFEST else SOURCES_ENDING
                    seal = seals.of_renamed(path, commands[0], ending)
                else:
                    seal = seals.of_file(path, commands)
        found.append((str(path), path, stage, seal))
    for path, subjects, (stage, commands) in line_records(checked):
        if (seals := seals_over(path)) is None:
            found.append((str(path), path, stage, None))
            continue
        count, broken = line_seals(seals, path, subjects, commands)
        number, seal = broken or (count, Seal.VALID)
        found += [(f"{path}, line {line}", path, stage, Seal.VALID) for line in range(1, number)]
        found += [(f"{path}, line {number}", path, stage, seal)] if count else []
    return found


def strange_folder(root: Path) -> str:
    """Return what to say of a build folder in which this machine's key has sealed nothing."""
    found = "those of another key or of an older version" if Seals(root).foreign else "none"
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
    by = "" if key_path() == own_key() else f", by the key {key_path()}"
    outcome = Outcome(f"{len(found)} files and recorded answers, as this project's commands wrote them{by}")
    outcome.deviations = [strange_folder(root) for root in sorted(strange)]
    for place, path, stage, seal in found:
        again = f"make it again (REPLACE={stage})" if stage else "remove it and make it again"
        if stage == RELEASE[0]:
            again = "remove the release folder and run `make release`"
        again = LINK_ADVICE if seal == Seal.LINKED else again
        if seal is None:
            outcome.deviations.append(f"{place}: expected a file in a build folder ({MARKER}), found none around it")
        elif seal != Seal.VALID and build_folder(path) not in strange:
            outcome.deviations.append(f"{place}: expected what this project wrote, found {seal.value}; {again}")
    return outcome
