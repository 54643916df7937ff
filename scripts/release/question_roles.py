"""What each question file of a release was for, by the records: which chose the experts, and which was asked.

A file that a command names had a part in what is published, or is no more than a name beside it. The parts have the
names of settings of make: QUESTIONS chose the experts; EVAL_QUESTIONS was scored, or measured where nothing was scored;
QUALITY_CHATS are of a file on which losses or speeds were measured, SENSITIVITY_CHATS of one by which the types of AUTO
files were chosen, CD_RULE of the one whose statistics ranked layers, CALIBRATION of the one in the calibration text,
DOMAIN_COLUMN of the one that findings are of, DROP_MAP of the one whose statistics are drawn beside a map of one's own.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from chats.chat_tokenizer import load_tokenizer
from chats.questions import QUESTION_SEED, load_questions, question_set_digest, read_ids
from chats.rendered_text import is_named_after, rendered_from
from chats.texts_again import calibration_chats, joined_chats
from choice.drop_metadata import METADATA_NAME
from choice.expert_stats import analysed_ids, stats_metadata
from files.input_errors import read_whole, sha256_file
from files.json_records import read_record
from findings.findings_record import FINDINGS_NAME
from losses.quality_record import QUALITY_NAME
from release.make_settings import (
    ASKED,
    CHOSE,
    COUNTED,
    DOMAIN_FILE,
    DRAWN,
    ESTIMATED,
    FOUND,
    MEASURED,
    TEXT,
    question_setting,
)
from release.seen_ids import estimated_on, is_file_of, method_of, quality_chats, ranked_ids
from release.used_quants import SourcePaths, used_quants
from scoring.eval_protocol import recorded_protocol
from scoring.eval_tasks import task_of
from scoring.frozen_questions import documents_of
from scoring.lm_eval_samples import read_frozen
from scoring.run_files import RUN, TASK_FOLDER, read_run
from speed.active_experts import ACTIVE_NAME, ActiveExperts
from speed.draft_results import DRAFT_NAME, DraftResults


def was_asked(run: Path, questions: Path) -> bool:
    """Tell whether a run was asked the questions of a file: by their words, for other words can have the same ids."""
    record = read_run(run)
    if not is_file_of(record, questions):
        return False
    protocol = recorded_protocol(run / RUN, record["protocol"])
    documents = documents_of(questions, task_of(protocol.task), protocol.choice_order_seed)
    return documents == read_frozen(run / TASK_FOLDER)


def asked_by_any(summaries: Iterable[Path], questions: Path) -> bool:
    """Tell whether one of some runs, by their summaries, was asked the questions of a file."""
    return any(was_asked(summary.parent, questions) for summary in summaries)


def chose(method: dict, statistics: Path | None, questions: Path) -> bool:
    """Tell whether the statistics that a map was chosen from are of a file's questions: same ids, words and order."""
    if not is_read_by(statistics, questions):
        return False
    ids = {*method.get("question_ids", []), *method.get("held_out_question_ids", [])}
    seed = stats_metadata(statistics).get("seed", QUESTION_SEED)
    found = [question for question in load_questions(questions, seed) if question.record_id in ids]
    return bool(found) and question_set_digest(found) == method.get("questions_sha256")


def is_read_by(statistics: Path | None, questions: Path) -> bool:
    """Tell whether statistics may be of a file as it is now."""
    return is_file_of(stats_metadata(statistics), questions)


def unused(method: dict, questions: Path) -> int:
    """Return how many questions of a file had no part in a choice, held out ones aside."""
    ids = {*method.get("question_ids", []), *method.get("held_out_question_ids", [])}
    return len(read_ids(questions) - ids)


def unused_questions(sources: SourcePaths, names: Mapping[str, Path], roles: Mapping[str, list[str]]) -> dict[str, int]:
    """Return how many questions of the file that chose did not choose, and of the one that ranks layers did not rank.

    Of several such files the one with the fewest; 0 without one. names, roles: as of `roles_of`.
    """
    method, ranked = method_of(sources), {*ranked_ids(sources)}
    choosing = [unused(method, names[name]) for name in roles.get(CHOSE, [])]
    ranking = [len(read_ids(names[name]) - ranked) for name in roles.get(COUNTED, [])]
    return {CHOSE: min(choosing, default=0), COUNTED: min(ranking, default=0)}


def counted(sources: SourcePaths, questions: Path) -> bool:
    """Tell whether the statistics of a release, which rank the layers of CD files, are of a file's questions."""
    statistics = sources["origins"].get("statistics")
    metadata, ids = stats_metadata(statistics), analysed_ids(statistics)
    found = [one for one in load_questions(questions, metadata.get("seed", QUESTION_SEED)) if one.record_id in ids]
    same = bool(ids) and question_set_digest(found) == metadata["questions_sha256"]
    return same and is_read_by(statistics, questions)


def is_analysed(statistics: Path | None, questions: Path) -> bool:
    """Tell whether a file has questions of some statistics; by ids, which are one question each in a release."""
    return bool(read_ids(questions) & analysed_ids(statistics))


def is_text(sources: SourcePaths, questions: Path) -> bool:
    """Tell whether the calibration text has the name that make gives to a file's chats, and is written from it."""
    text = sources["origins"].get("calibration")
    if text is None or not is_named_after(text, questions) or rendered_from(text) != sha256_file(questions):
        return False
    tokenizer = load_tokenizer(sources["copies"][METADATA_NAME].parent)
    again = joined_chats(calibration_chats(tokenizer, load_questions(questions, QUESTION_SEED)))
    return read_whole(text) == again.encode()


def is_of_findings(sources: SourcePaths, questions: Path) -> bool:
    """Tell whether the findings of a release were measured by a file's domains, which no digest of a question holds."""
    given = sources["origins"].get("findings questions") if FINDINGS_NAME in sources["copies"] else None
    return given is not None and sha256_file(given) == sha256_file(questions)


def measured_on(sources: SourcePaths, method: dict, questions: Path) -> set[str]:
    """Return the records of losses or speeds that were measured on the first questions of a file.

    Of losses those that calibration and choice have not seen.
    """
    copies, all_of_it, found = sources["copies"], load_questions(questions, QUESTION_SEED), set()
    for name, kind in ((DRAFT_NAME, DraftResults), (ACTIVE_NAME, ActiveExperts)):
        if name in copies:
            results = read_record(copies[name], kind)
            same = question_set_digest(all_of_it[: results["questions"]]) == results["questions_sha256"]
            if same and is_file_of(results, questions):
                found.add(name)
    return found | ({QUALITY_NAME} if quality_chats(sources, method, questions) else set())


def roles_of(sources: SourcePaths, names: Mapping[str, Path]) -> dict[str, list[str]]:
    """Return the names of a release's question files by the setting that gave them; a file of no record has no role.

    sources: paths by kind and name; names: the files by the name that the card gives them.
    """
    runs, method = sources["runs"].values(), method_of(sources)
    domains = {domain["name"] for domain in method.get("domains", [])}
    drawn = any(name.startswith("experts-") for name in sources["copies"])
    of_cd = any(record.get("cd_rule") for _, record in used_quants(sources))

    def measured(path: Path) -> bool:
        return bool(measured_on(sources, method, path))

    tests: dict[str, Callable[[Path], bool]] = {
        CHOSE: lambda path: chose(method, sources["origins"].get("statistics"), path),
        ASKED: lambda path: asked_by_any(runs, path) if runs else measured(path),
        MEASURED: measured,
        ESTIMATED: lambda path: bool(estimated_on(sources, path)),
        COUNTED: lambda path: of_cd and counted(sources, path),
        # Where they chose, that is said already.
        DRAWN: lambda path: drawn and not method.get("stats_sha256") and counted(sources, path),
        TEXT: lambda path: is_text(sources, path),
        FOUND: lambda path: is_of_findings(sources, path),
        # By its name, as the map has it: of two files of one name neither is known to be it.
        DOMAIN_FILE: lambda path: (
            path.name in domains
            and [one.name for one in names.values()].count(path.name) == 1
            and is_analysed(sources["origins"].get("statistics"), path)
        ),
    }
    found = {role: [name for name, path in names.items() if test(path)] for role, test in tests.items()}
    if not runs and len(found[ASKED]) > 1:  # the command names one; of equals the last, as make gives EVAL_QUESTIONS
        counts = {name: len(measured_on(sources, method, names[name])) for name in found[ASKED]}
        found[ASKED] = [name for name in found[ASKED] if counts[name] == max(counts.values())][-1:]
    if len(found[CHOSE]) > 1:  # a larger file may hold the same questions: the one that chose has the fewest others
        others = {name: unused(method, names[name]) for name in found[CHOSE]}
        found[CHOSE] = [name for name in found[CHOSE] if others[name] == min(others.values())]
    return {role: those for role, those in found.items() if those}


def measured_elsewhere(
    sources: SourcePaths, names: Mapping[str, Path], roles: Mapping[str, list[str]]
) -> dict[str, str]:
    """Return of each record of losses or speeds that was not made on the asked file the file that it was made on.

    And that of sensitivities and findings which were not made on the file that make takes.
    """
    method = method_of(sources)
    found = {name: measured_on(sources, method, path) for name, path in names.items()}
    asked = max((found[name] for name in roles.get(ASKED, [])), key=len, default=set())
    other = {record: name for name in sorted(found) for record in found[name] - asked}
    # For both make takes QUESTIONS.
    for record, part in (("sensitivity.json", ESTIMATED), (FINDINGS_NAME, FOUND)):
        those = roles.get(part, [])
        if those and not {*those} & {*question_setting(CHOSE, roles)}:
            other[record] = those[0]
    return other


def check_role(setting: str, value: str, roles: Mapping[str, list[str]]) -> str | None:
    """Return what is expected of a setting that names a question file, None where it is a file of that part."""
    those = question_setting(setting, roles)
    if not those:
        return f"no {setting}, of which the release has no record"
    return f"{setting} among {', '.join(those)}" if Path(value).name not in those else None
