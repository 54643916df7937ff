"""The question files of a release: the same question elsewhere, and files that had no part in what is published."""

import json

from chats.questions import QUESTION_SEED, Question, load_questions, question_set_digest
from choice.expert_stats import read_stats
from files.input_errors import InputError, sha256_file
from files.json_records import read_json
from files.written_records import write_record
from findings.findings_record import FINDINGS_NAME
from gates.lineage import analysed_breaks
from gates.remade_gates import findings_gate
from gates.seen_questions import read_breaks, seen_breaks
from losses.quality_record import QUALITY_NAME
from makers.made_up_evidence import QUESTIONS
from makers.synthetic_build import quant_record, write_build
from quants.quant_record import QuantRecord
from release.make_settings import ESTIMATED
from release.question_roles import roles_of
from release.seen_ids import seen_ids

import pytest


def test_a_question_that_chose_the_experts_is_known_under_another_id(build):
    """Ids alone would make its score look held out."""
    scored = build.evidence / "scored.csv"
    header, first, *others = scored.read_text().splitlines(keepends=True)
    record_id = first.split(",")[0]
    build.write(scored, "".join([header, first.replace(record_id, "another").upper(), *others]))
    found = build.failing("lineage")
    assert f"the id {record_id} of a question" in found[0] and "ANOTHER" in found[0]
    assert all("the question file that it is of, as it was" in line for line in found[1:])  # of each run


def test_a_question_of_a_further_task_is_known_under_another_id(build, tmp_path):
    header, *others = QUESTIONS[0].read_text().splitlines(keepends=True)
    (tmp_path / "main.csv").write_text("".join([header, *(f"other-{line}" for line in others[:3])]))
    chosen = {line.split(",")[0] for line in others[:2]}
    files = [*build.checked.lineage.sources["questions"].values(), tmp_path / "main.csv"]
    found = seen_breaks(files, [chosen])
    assert not seen_breaks(files, [set(), set()])
    assert len(found) == 2 and all("main.csv" in str(error) and "again as other-" in str(error) for error in found)


def asked(*changes: tuple[str, str]) -> str:
    """Return a question file of the first demo question, with other letters in its line."""
    header, first, *_ = QUESTIONS[0].read_text().splitlines(keepends=True)
    for change in changes:
        assert change[0] in first
        first = first.replace(*change)
    return header + first


def first_question() -> Question:
    return load_questions(QUESTIONS[0], QUESTION_SEED)[0]


def test_a_question_has_one_label_under_two_ids(tmp_path):
    """Both ids can be among those of the statistics; only one of the questions counts as held out."""
    one = first_question()
    other = tmp_path / "other.csv"
    other.write_text(asked((one.record_id, "other")))
    (error,) = seen_breaks([QUESTIONS[0], other], [{one.record_id}, {one.record_id, "other"}])
    assert f"other.csv: expected the id {one.record_id} of a question" in str(error) and "again as other" in str(error)
    assert not seen_breaks([QUESTIONS[0], other], [{one.record_id, "other"}])  # no label tells the two apart


def test_an_id_is_one_question(tmp_path):
    """Files that number their questions have the same ids, and share by these what a card says of them."""
    one = first_question()
    clash = tmp_path / "clash.csv"
    clash.write_text(asked((one.text, f"Or else {one.text}")))
    (error,) = seen_breaks([QUESTIONS[0], clash], [set()])
    assert f"clash.csv: expected under the id {one.record_id} the question that it has in {QUESTIONS[0].name}" in str(
        error
    )


HELD_OUT = {first_question().record_id, "other"}  # of the statistics, as the question that chose


@pytest.mark.parametrize(("seen", "wrong"), [([{"other"}], True), ([{"other"}, HELD_OUT], True), ([set()], False)])
@pytest.mark.parametrize("place", ["reasoning", "question"])
def test_a_question_in_one_that_chose_is_not_held_out(tmp_path, seen, wrong, place):
    """The model was teacher-forced through it, right answer and all."""
    one = first_question()
    told = tmp_path / "told.csv"
    asks = "Which?" if place == "reasoning" else f"Known: {one.text} So which?"
    said = f"Well. {one.text} So." if place == "reasoning" else "So."
    told.write_text(asked((one.record_id, "other"), (one.text, asks), (one.explanation, said)))
    found = seen_breaks([QUESTIONS[0], told], seen)
    assert [one.record_id in str(error) and "in none of those" in str(error) for error in found] == [True] * wrong


def test_a_reasoning_counts_in_whichever_file_it_stands(tmp_path):
    """A domain's file can have the rows that chose without what was read in them."""
    one = first_question()
    told, plain = tmp_path / "told.csv", tmp_path / "plain.csv"
    told.write_text(asked((one.record_id, "other"), (one.text, "Which?"), (one.explanation, f"Well. {one.text} So.")))
    plain.write_text(asked((one.record_id, "other"), (one.text, "Which?"), (one.explanation, "So.")))
    for files in ([told, plain], [plain, told]):
        assert len(seen_breaks([QUESTIONS[0], *files], [{"other"}])) == 1


def test_the_file_of_a_measurement_is_as_it_was_read(build, tmp_path):
    checked, measured = build.checked, tmp_path / QUALITY_NAME
    place = checked.sources["questions"]["0"]
    for digest, count in ((sha256_file(place), 0), ("0" * 64, 1), (None, 1)):  # None: of an older version
        content = read_json(build.evidence / QUALITY_NAME) | {"question_file_sha256": digest}
        measured.write_text(json.dumps(content))
        checked.sources["copies"][QUALITY_NAME] = measured
        assert len(read_breaks(checked.sources)) == count


def test_the_file_that_was_asked_is_as_it_was_read(build):
    """A column that no question has, such as a reasoning, is not in the frozen ones."""
    assert not read_breaks(build.checked.sources)
    build.change(build.own / "run.json", lambda run: run.update(question_file_sha256="0" * 64))
    (error,) = read_breaks(build.checked.sources)
    assert "run.json: expected the question file that it is of, as it was, sha256" in str(error)
    build.change(build.own / "run.json", lambda run: run.pop("question_file_sha256"))
    (error,) = read_breaks(build.checked.sources)  # a run of an older version: an exchanged file would look asked
    assert "run.json: expected the sha256 of the question file that it is of, as it was, found none" in str(error)


def test_the_file_that_chose_is_as_it_was_read(build, tmp_path):
    """Rows that were added since are none that a run left out."""
    read = read_stats(build.pruned / "statistics.safetensors")[1]["question_file_sha256"]
    lineage = build.checked.lineage
    questions = lineage.sources["questions"]
    name, place = next((name, path) for name, path in questions.items() if sha256_file(path) == read)
    questions[name] = tmp_path / place.name
    questions[name].write_text(place.read_text() + "one-more,What else?,a,b,c,d,So.,Physics,Physics\n")
    (error,) = analysed_breaks(lineage, {})
    assert "expected the question file as it is, sha256" in str(error)


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
