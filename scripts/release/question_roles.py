"""What each question file of a release was for, by the records: which chose the experts, and which was asked.

A file that a command names had a part in what is published, or is no more than a name beside it. By the settings of
make that give it: QUESTIONS chose the experts; EVAL_QUESTIONS was scored, or measured where nothing was scored;
QUALITY_CHATS are of a file on which losses or speeds were measured, SENSITIVITY_CHATS of one by which the types of AUTO
files were chosen.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from chats.questions import QUESTION_SEED, load_questions, question_set_digest
from choice.drop_metadata import METADATA_NAME, read_metadata
from choice.expert_stats import read_stats
from files.json_records import read_record
from losses.chat_masks import unseen_questions
from losses.quality_record import QUALITY_NAME, Quality
from quants.quant_record import QuantRecord
from quants.recipes import target_bytes
from quants.target_sizes import Sensitivity
from release.make_settings import ASKED, CHOSE, ESTIMATED, MEASURED
from scoring.eval_protocol import recorded_protocol
from scoring.eval_tasks import task_of
from scoring.frozen_questions import documents_of
from scoring.lm_eval_samples import read_frozen
from scoring.run_files import RUN, TASK_FOLDER, read_run
from speed.active_experts import ACTIVE_NAME, ActiveExperts
from speed.draft_results import DRAFT_NAME, DraftResults

Sources = Mapping[str, Mapping[str, Path]]


def was_asked(run: Path, questions: Path) -> bool:
    """Tell whether a run was asked the questions of a file: by their words, for other words can have the same ids."""
    protocol = recorded_protocol(run / RUN, read_run(run)["protocol"])
    documents = documents_of(questions, task_of(protocol.task), protocol.choice_order_seed)
    return documents == read_frozen(run / TASK_FOLDER)


def asked_by_any(summaries: Iterable[Path], questions: Path) -> bool:
    """Tell whether one of some runs, by their summaries, was asked the questions of a file."""
    return any(was_asked(summary.parent, questions) for summary in summaries)


def chose(method: dict, statistics: Path | None, questions: Path) -> bool:
    """Tell whether the statistics that a map was chosen from are of a file's questions: same ids, words and order."""
    ids = {*method.get("question_ids", []), *method.get("held_out_question_ids", [])}
    known = statistics and statistics.suffix == ".safetensors"
    seed = read_stats(statistics)[1].get("seed", QUESTION_SEED) if statistics and known else QUESTION_SEED
    found = [question for question in load_questions(questions, seed) if question.record_id in ids]
    return bool(found) and question_set_digest(found) == method.get("questions_sha256")


def was_measured(sources: Sources, method: dict, questions: Path) -> bool:
    """Tell whether losses or speeds were measured on the first questions of a file, of losses those not seen before."""
    copies, all_of_it = sources["copies"], load_questions(questions, QUESTION_SEED)
    for name, kind in ((DRAFT_NAME, DraftResults), (ACTIVE_NAME, ActiveExperts)):
        if name in copies:
            results = read_record(copies[name], kind)
            if question_set_digest(all_of_it[: results["questions"]]) == results["questions_sha256"]:
                return True
    if QUALITY_NAME not in copies or "calibration" not in sources["origins"]:
        return False
    quality = read_record(copies[QUALITY_NAME], Quality)
    text = sources["origins"]["calibration"].read_text(encoding="utf-8", errors="replace")
    unseen = unseen_questions(all_of_it, text, set(method.get("question_ids") or []))
    return question_set_digest(unseen[: quality["chats"]]) == quality["inputs"]["questions_sha256"]


def estimated(sources: Sources, questions: Path) -> bool:
    """Tell whether a release has AUTO files whose types were chosen by losses on the first chats of a file."""
    given = sources["origins"].get("sensitivity")
    types = [read_record(path, QuantRecord)["type"] for path in sources["records"].values()]
    if given is None or not any(map(target_bytes, types)):
        return False
    inputs = read_record(given, Sensitivity)["inputs"]
    first = load_questions(questions, QUESTION_SEED)[: inputs["chats"]]
    return question_set_digest(first) == inputs["questions_sha256"]


def roles_of(sources: Sources, names: Mapping[str, Path]) -> dict[str, list[str]]:
    """Return the names of a release's question files by the setting that gave them; a file of no record has no role.

    sources: paths by kind and name; names: the files by the name that the card gives them.
    """
    copies, runs = sources["copies"], sources["runs"].values()
    method = read_metadata(copies[METADATA_NAME])["method"] if METADATA_NAME in copies else {}

    def measured(path: Path) -> bool:
        return was_measured(sources, method, path)

    def asked(path: Path) -> bool:
        return asked_by_any(runs, path) if runs else measured(path)

    tests: dict[str, Callable[[Path], bool]] = {
        CHOSE: lambda path: chose(method, sources["origins"].get("statistics"), path),
        ASKED: asked,
        MEASURED: measured,
        ESTIMATED: lambda path: estimated(sources, path),
    }
    found = {role: [name for name, path in names.items() if test(path)] for role, test in tests.items()}
    return {role: those for role, those in found.items() if those}


def check_role(setting: str, value: str, files: Mapping[str, object], roles: Mapping[str, list[str]]) -> str | None:
    """Return what is expected of a setting that names a question file, None where it is that file.

    Where no record says which file it was, it is one of the build's.
    """
    those = roles.get(setting) or list(files)
    return f"{setting} among {', '.join(those)}" if those and Path(value).name not in those else None
