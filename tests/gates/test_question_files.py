"""The question files of a release: the same question elsewhere, and files that had no part in what is published."""

from chats.questions import QUESTION_SEED, load_questions, question_set_digest
from files.json_records import write_record
from files.safe_files import InputError
from findings.findings_record import FINDINGS_NAME
from gates.remade_gates import findings_gate
from gates.seen_questions import renamed_breaks
from made_up_evidence import QUESTIONS
from quants.quant_record import QuantRecord
from release.make_settings import ESTIMATED
from release.question_roles import roles_of, seen_ids
from synthetic_build import quant_record, write_build

import pytest


def test_a_question_that_chose_the_experts_is_known_under_another_id(build):
    """Ids alone would make its score look held out."""
    scored = build.evidence / "scored.csv"
    header, first, *others = scored.read_text().splitlines(keepends=True)
    record_id = first.split(",")[0]
    build.write(scored, "".join([header, first.replace(record_id, "another").upper(), *others]))
    found = build.failing("lineage")
    assert len(found) == 1 and f"the id {record_id} of a question" in found[0] and "ANOTHER" in found[0]


def test_a_question_of_a_further_task_is_known_under_another_id(build, tmp_path):
    header, *others = QUESTIONS[0].read_text().splitlines(keepends=True)
    (tmp_path / "main.csv").write_text("".join([header, *(f"other-{line}" for line in others[:3])]))
    chosen = {line.split(",")[0] for line in others[:2]}
    files = [*build.checked.lineage.sources["questions"].values(), tmp_path / "main.csv"]
    found = renamed_breaks(files, [chosen])
    assert not renamed_breaks(files, [set(), set()])
    assert len(found) == 2 and all("main.csv" in str(error) and "again as other-" in str(error) for error in found)


def test_a_question_that_chose_is_known_under_the_id_of_one_that_was_held_out(tmp_path):
    """Both ids are among those of the statistics; only one of the questions counts as held out."""
    header, first, second, *_ = QUESTIONS[0].read_text().splitlines(keepends=True)
    one, two = (line.split(",")[0] for line in (first, second))
    swapped = tmp_path / "swapped.csv"
    swapped.write_text(header + first.replace(one, two))
    (error,) = renamed_breaks([QUESTIONS[0], swapped], [{one}, {one, two}])
    assert f"swapped.csv: expected the id {one} of a question" in str(error) and f"again as {two}" in str(error)


def test_another_question_under_the_id_of_one_that_chose_is_not_it(tmp_path):
    """Files that number their questions have the same ids; by ids alone the score would count as in-sample."""
    header, first, second, *_ = QUESTIONS[0].read_text().splitlines(keepends=True)
    one, two = (line.split(",")[0] for line in (first, second))
    clash = tmp_path / "clash.csv"
    clash.write_text(header + first.replace(one, two).replace("?", " indeed?"))
    (error,) = renamed_breaks([QUESTIONS[0], clash], [{two}])
    assert f"clash.csv: expected under the id {two}, which chose" in str(error) and QUESTIONS[0].name in str(error)
    assert not renamed_breaks([QUESTIONS[0], clash], [{"another"}])


@pytest.mark.parametrize("kind, files", [("AUTO-0.1", ["calibration_questions.csv"]), ("Q6_K", None)])
def test_the_chats_of_auto_files_are_of_a_known_file(tmp_path, kind, files):
    """A file of a fixed type has not seen them, whatever lies beside it."""
    questions = {path.name: path for path in QUESTIONS}
    chats = load_questions(questions["calibration_questions.csv"], QUESTION_SEED)[:3]
    quant = quant_record("Q6_K", 10**9, 109, "2" * 64, "3" * 64)
    measured_on = {"chats": 3, "questions_sha256": question_set_digest(chats)} if kind != "Q6_K" else None
    write_record(tmp_path / "a.gguf.json", quant | {"type": kind, "auto_measured_on": measured_on}, QuantRecord)
    sources = {"records": {"a.gguf": tmp_path / "a.gguf.json"}, "copies": {}, "runs": {}}
    sources["origins"] = {}
    assert roles_of(sources, questions).get(ESTIMATED) == files
    assert seen_ids(sources | {"questions": questions})[2] == ({one.record_id for one in chats} if files else set())


def test_findings_are_of_a_question_file_of_the_build(build, tmp_path):
    """No digest of a question holds its domain."""
    (tmp_path / "page").mkdir()
    write_build(tmp_path / "page", 6, 3, 20, 18)
    labels = tmp_path / "labels.csv"
    labels.write_text(QUESTIONS[0].read_text().replace("Physics", "Biology"))
    checked = build.checked
    checked.sources["copies"][FINDINGS_NAME] = tmp_path / "page/findings.json"
    checked.sources["origins"] |= {"findings measured": labels, "findings questions": labels}
    with pytest.raises(InputError, match="labels.csv: expected .*with its domains, found another file"):
        findings_gate(checked)
    checked.sources["origins"]["findings questions"] = QUESTIONS[1]
    with pytest.raises(InputError, match="findings.json: expected shuffles 999, found 9; run `make findings"):
        findings_gate(checked)
