"""What each question file of a release was for, and what its files have seen of the scored questions."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import render_calibration
from calls import call
from cards.card_sections import limits_section
from cards.made_texts import release_of
from chats.questions import read_domains, read_ids
from chats.rendered_text import RenderedText, check_rendered
from files.input_errors import InputError, sha256_file
from files.json_records import read_record
from files.seals import MARKER
from gates.seen_questions import chats_breaks
from makers.made_up_evidence import QUESTIONS
from makers.release_inputs import shared_release
from release import input_facts, question_roles
from release.input_facts import alike_questions, counted_ids, facts_of_tasks, question_of, words_of_document
from release.make_settings import (
    ASKED,
    CHOSE,
    ESTIMATED,
    FOUND,
    TEXT,
    calibration_setting,
    question_setting,
    takes_domain,
)
from release.manifest import read_manifest
from release.question_roles import check_role, measured_elsewhere, roles_of
from release.used_quants import evaluated_types, type_of_name

import pytest


def test_the_file_that_chose_has_the_fewest_others(pruned_demo, tmp_path, monkeypatch):
    """A larger file may hold the same questions."""
    larger, smaller = QUESTIONS[1], tmp_path / "few.csv"
    smaller.write_text("".join(larger.read_text().splitlines(keepends=True)[:4]))
    ids = [line.split(",")[0] for line in smaller.read_text().splitlines()[1:]]
    monkeypatch.setattr(question_roles, "method_of", lambda sources: {"question_ids": ids})
    monkeypatch.setattr(question_roles, "chose", lambda method, statistics, path: True)
    sources = {"records": {}, "copies": {}, "origins": {}, "runs": {}}
    names = {path.name: path for path in (larger, smaller)}
    assert roles_of(sources, names)[CHOSE] == ["few.csv"]


def test_a_text_with_the_name_of_a_file_s_chats_is_these_chats(pruned_demo, tmp_path, monkeypatch):
    """Of the file as it was read, which a sealed record says: chats do not have all that stands in such a file."""
    checkpoint, questions, text = pruned_demo / "checkpoint", tmp_path / "few.csv", tmp_path / "few.txt"
    copies = {"expert_drop_metadata.json": checkpoint / "expert_drop_metadata.json"}
    (tmp_path / MARKER).touch()

    def is_text(path: Path = text) -> bool:
        return question_roles.is_text({"copies": copies, "origins": {"calibration": path}}, questions)

    def render(*more: object) -> None:
        questions.write_text("".join(QUESTIONS[1].read_text().splitlines(keepends=True)[:4]))
        call(render_calibration.main, "--model", checkpoint, "--questions", questions, "--output", text, *more)

    render("--seed", 1)
    assert not is_text()
    render()
    assert is_text() and not chats_breaks(text, [questions])
    assert not is_text(Path(shutil.copy(text, tmp_path / "other.txt")))
    content, record = questions.read_text(), Path(f"{text}.json")
    questions.write_text(content.replace("Physics", "Alchemy").replace("Biology", "Alchemy"))  # a column of no chat
    assert content != questions.read_text() and not is_text()
    (error,) = chats_breaks(text, [questions])
    assert "few.txt: expected the question file that it is of, as it was, sha256" in str(error)
    said = record.read_text()
    question_digest = read_record(record, RenderedText)["question_file_sha256"]
    record.write_text(said.replace(question_digest, sha256_file(questions)))
    with pytest.raises(
        InputError, match="few.txt.json: expected what render_calibration wrote, found one edited since"
    ):
        is_text()
    record.write_text(said)
    check_rendered(text)
    chats = text.read_text()
    text.write_text(chats[: len(chats) // 3])
    with pytest.raises(
        InputError, match="few.txt: expected the chats that render_calibration wrote, found another text"
    ):
        check_rendered(text)
    text.write_text(chats)
    record.write_text(said.replace(question_digest, sha256_file(questions)))
    monkeypatch.setenv("SEALS", "no")
    assert is_text()
    record.unlink()  # as of an older version
    assert not is_text() and not chats_breaks(text, [questions])


@pytest.mark.parametrize(
    ("inputs", "setting"),
    [
        ({"calibration": {"calibration": "a.txt"}, "roles": {CHOSE: ["a.csv"], TEXT: ["a.csv"]}}, ""),
        ({"calibration": {"calibration": "b.txt"}, "roles": {CHOSE: ["a.csv"], TEXT: ["b.csv"]}}, "b.txt"),
        ({"calibration": {"calibration": "b.txt"}, "roles": {TEXT: ["b.csv"]}}, ""),  # of an own map
        ({"calibration": {"calibration": "a.txt"}, "roles": {CHOSE: ["a.csv"]}}, "a.txt"),  # it has the name alone
        ({"calibration": {"calibration": "v5"}}, "./v5"),  # the word v5 is a download
        ({}, ""),
    ],
)
def test_the_calibration_of_a_command_is_the_text_that_was_used(inputs, setting):
    assert calibration_setting(inputs) == setting


def test_a_setting_names_a_file_of_its_part():
    assert question_setting(CHOSE, {TEXT: ["t.csv"]}) == ["t.csv"] and not question_setting(ASKED, {CHOSE: ["a"]})
    assert check_role(ASKED, "b.csv", {ASKED: ["b.csv"]}) is None
    assert "EVAL_QUESTIONS among b.csv" in (check_role(ASKED, "c.csv", {ASKED: ["b.csv"]}) or "")
    assert "no EVAL_QUESTIONS, of which" in (check_role(ASKED, "c.csv", {}) or "")
    assert takes_domain("Bio+Chem") and not any(map(takes_domain, ("a b", "a:b", "a&b", "a$b", "a(b)")))


def test_a_domain_s_file_has_questions_that_were_analysed(tmp_path, monkeypatch):
    """In any order: that an id is one question in all files of a release is asked elsewhere (seen_questions.py)."""
    header, *rows = QUESTIONS[0].read_text().splitlines(keepends=True)
    of_domain = tmp_path / "physics.csv"
    of_domain.write_text("".join([header, *rows[40:20:-1]]))
    for place, known in ((30, True), (50, False)):
        analysed = {rows[place].split(",")[0]}
        monkeypatch.setattr(question_roles, "analysed_ids", lambda path, ids=analysed: ids)
        assert question_roles.is_analysed(Path("stats.safetensors"), of_domain) == known


def test_without_an_evaluation_the_asked_file_is_the_last_that_most_was_measured_on(monkeypatch):
    on = {"a.csv": {"active-experts.json"}, "b.csv": {"quality.json"}, "c.csv": set()}
    monkeypatch.setattr(question_roles, "measured_on", lambda sources, method, path: on[path.name])
    monkeypatch.setattr(question_roles, "method_of", lambda sources: {})
    for name in ("chose", "counted", "is_text", "is_of_findings"):
        monkeypatch.setattr(question_roles, name, lambda *given: False)
    names = {name: Path(name) for name in on}
    roles = roles_of({"runs": {}, "records": {}, "copies": {}, "origins": {}}, names)
    assert roles[ASKED] == ["b.csv"] and measured_elsewhere({}, names, roles) == {"active-experts.json": "a.csv"}


def test_findings_name_the_file_whose_domains_they_are_of(tmp_path, monkeypatch):
    own, copies = tmp_path / "own.csv", {"findings.json": tmp_path / "findings.json"}
    own.write_bytes(QUESTIONS[0].read_bytes())
    sources = {"origins": {"findings questions": own}, "copies": copies, "runs": {}, "records": {}}
    assert question_roles.is_of_findings(sources, QUESTIONS[0]) and not question_roles.is_of_findings(
        sources, QUESTIONS[1]
    )
    assert not question_roles.is_of_findings(sources | {"copies": {}}, QUESTIONS[0])
    assert question_setting(CHOSE, {FOUND: ["own.csv"]}) == ["own.csv"]  # as make gives it
    monkeypatch.setattr(question_roles, "method_of", lambda sources: {})
    monkeypatch.setattr(question_roles, "measured_on", lambda sources, method, path: set())
    assert measured_elsewhere({}, {"b.csv": own}, {CHOSE: ["a.csv"], FOUND: ["b.csv"]}) == {"findings.json": "b.csv"}


def test_a_measurement_is_of_the_asked_file_or_says_its_own(monkeypatch):
    on = {"eval.csv": {"draft.json"}, "six.csv": {"quality.json"}}
    monkeypatch.setattr(question_roles, "method_of", lambda sources: {})
    monkeypatch.setattr(question_roles, "measured_on", lambda sources, method, path: on[path.name])
    names = {name: Path(name) for name in on}
    roles = {ASKED: ["eval.csv"], CHOSE: ["eval.csv"], ESTIMATED: ["six.csv"]}
    assert measured_elsewhere({}, names, roles) == {"quality.json": "six.csv", "sensitivity.json": "six.csv"}
    assert measured_elsewhere({}, names, {ASKED: ["six.csv"]}) == {"draft.json": "eval.csv"}


def test_questions_of_a_further_task_in_the_calibration_text_are_counted(tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    asked = "Janet has sixteen eggs a day and eats three of them. How many are left?"
    text.write_text(f"before {asked.upper()} after")
    frozen = [{"question": asked}, {"question": asked.replace("eggs", "hens")}, {"question": f"{asked} ..."}]
    frozen = [one | {"Record ID": str(i), "prompt": one["question"], "target": "13"} for i, one in enumerate(frozen)]
    monkeypatch.setattr(input_facts, "by_imatrix", lambda sources: True)
    monkeypatch.setattr(input_facts, "benchmarks", lambda sources: {})
    monkeypatch.setattr(input_facts, "read_frozen", lambda folder: frozen)
    sources = {"origins": {"calibration": text}, "copies": {"scores-gsm8k.json": tmp_path / "scores-gsm8k.json"}}
    sources["tasks"] = {"run gsm8k 0": tmp_path / "run/summary.json"}
    instructed = {"key": 7, "instruction_id_list": ["a:b"], "target": "11", "prompt": "Say it twice. Who is it?"}
    assert question_of(instructed) == instructed["prompt"]  # 11 stands in any text
    assert words_of_document(instructed) == words_of_document(instructed | {"target": "1"})
    one = {"question": "Which?", "options": ["a b", "c"], "answer": "A", "prompt": "x"}
    assert words_of_document(one) == words_of_document(one | {"options": ["C. 7", "ab"], "answer": "B", "prompt": "y"})
    assert words_of_document(one) != words_of_document(one | {"answer": "B"})
    worked = {"question": "Who?", "answer": "A long way to it. #### 7", "prompt": "Q: Who? A:"}
    assert question_of(worked) == "Who?"
    (tmp_path / "run/task").mkdir(parents=True)
    (tmp_path / "run/task/examples.jsonl").write_text(json.dumps({"prompt": f"Question: {asked} Answer: 13"}) + "\n")
    known = facts_of_tasks(sources, {"gsm8k": {"a.jsonl": "0" * 64}})
    assert known["shown"] == {"gsm8k": 2}
    worked = {"prompt": "Question: Who?", "cot_content": f"They ask: {asked} It is 13."}
    (tmp_path / "run/task/examples.jsonl").write_text(json.dumps(worked) + "\n")
    assert facts_of_tasks(sources, {"gsm8k": {"a.jsonl": "0" * 64}})["shown"] == {"gsm8k": 2}
    assert known["held"] == {"gsm8k": 2} and known["repeated"] == {"gsm8k": 1}


def test_a_question_that_a_file_asks_again_is_counted(tmp_path):
    header, first, second, *_ = QUESTIONS[0].read_text().splitlines(keepends=True)
    few = tmp_path / "few.csv"
    few.write_text("".join([header, first, second, f"again-{first}", f"more-{first.replace('?', '...?')}"]))
    files, ids = {"few.csv": few, "all.csv": QUESTIONS[0]}, read_ids(few)
    assert alike_questions(files, {"few.csv": ids, "all.csv": ids}) == {"few.csv": [2, 4]}
    # Those that had no part count nowhere.
    assert not alike_questions(files, {"few.csv": {one for one in ids if not one.startswith(("again", "more"))}})
    assert not alike_questions(files, {"all.csv": ids})


def test_questions_without_a_part_in_the_choice_are_not_counted(tmp_path, monkeypatch):
    header, *rows = QUESTIONS[0].read_text().splitlines(keepends=True)
    part = tmp_path / "part.csv"
    part.write_text("".join([header, *rows[:5]]))
    domains = read_domains(QUESTIONS[0])
    all_of_it, (one, *others) = {*domains}, sorted({*domains.values()})

    def counted(method: dict) -> set[str]:
        monkeypatch.setattr(input_facts, "method_of", lambda sources: {"question_ids": [*domains], **method})
        files = {"a.csv": QUESTIONS[0], "part.csv": part}
        return counted_ids({"copies": {}}, files, {CHOSE: ["a.csv"]}).get("a.csv", set())

    def weighted(*weights: tuple[str, float, float]) -> list[dict]:
        return [{"name": name, "weight": weight, "floor": floor} for name, weight, floor in weights]

    assert counted({"criterion": "coverage"}) == counted({"criterion": "random:1", "protect_top": 4}) == all_of_it
    assert not counted({"criterion": "random:1", "protect_top": 0})
    of_one = {record_id for record_id, name in domains.items() if name == one}
    assert of_one and counted({"domains": weighted((one, 0, 0), (others[0], 1, 0))}) == all_of_it - of_one
    assert counted({"domains": weighted((one, 0, 0.9), (others[0], 1, 0))}) == all_of_it  # its floor keeps experts
    assert counted({"domains": weighted(("part.csv", 0, 0), (others[0], 1, 0))}) == all_of_it - read_ids(part)


def test_what_a_file_has_seen_is_said(pruned_demo):
    folder = shared_release(pruned_demo)
    release = release_of(folder, read_manifest(folder))
    scored = release.scores["question_ids"]
    task = {
        "question_ids": ["t1", "t2", "t3"],
        "protocol": {"task": "gpqa_main_cot_zeroshot"},
        "rows": [{"gguf": "a.gguf"}, {"gguf": "b-Q4_K_M.gguf"}],
    }
    seen = {"ranked": [*scored[:2], "t1"], "held": {"gsm8k": 2}, "estimated": ["t2", "t3"]}
    seen |= {"measured": ["t1", "t4"], "repeated": {"gsm8k": 1}, "shown": {"gsm8k": 1}, "alike": {"a.csv": [3, 9]}}
    metadata = release.metadata | {"method": release.metadata["method"] | {"question_ids": scored[:1]}}
    text = limits_section(replace(release, inputs=release.inputs | seen, tasks={"gsm8k": task}, metadata=metadata))
    assert f"statistics over 2 of the {len(scored)} scored questions: such a file has seen these" in text
    assert "statistics over 1 of the 3 questions of gsm8k: such a file has seen these" in text
    assert "The calibration text holds 2 of the 3 questions of gsm8k." in text
    assert (
        "3 of the 9 questions of `a.csv` that chose or were scored are another one again by their letters and digits"
        in text
    )
    assert "1 of the 3 questions of gsm8k are another one again by their letters and digits" in text
    assert "1 of the 3 questions of gsm8k stand in its few shots, with their answers." in text
    assert "AUTO files were chosen by losses on chats of 2 of the 3 questions of gsm8k: such a file has" in text
    assert "statistics over 1 of the 2 questions that losses were measured on" in text
    assert "For further tasks it holds scores of `b-Q4_K_M.gguf`, too." in text
    task["protocol"] = {"task": "gsm8k_cot_zeroshot"}
    other = limits_section(replace(release, inputs=release.inputs | seen, tasks={"gsm8k": task}, metadata=metadata))
    assert "questions of gsm8k: such a file" not in other  # its ids are numbers of its own
    alone = limits_section(replace(release, scores=None, tasks={"gsm8k": task}))
    assert "holds scores of further tasks alone" in alone and "holds no score" not in alone


@pytest.mark.parametrize(
    ("name", "kind"),
    [("m-109e-Q6_K.gguf", "Q6_K"), ("m-CD-Q4_K_M.gguf", "CD-Q4_K_M"), ("m-AUTO-0.0063.gguf", "AUTO-0.0063")],
)
def test_a_file_s_name_ends_with_its_type(name, kind):
    assert type_of_name(name) == kind


def test_records_of_speeds_and_loops_have_the_type_of_their_files(tmp_path, monkeypatch):
    rows = {"rows": [{"gguf": "full-Q4_K_M.gguf"}, {"gguf": "own-Q2_K.gguf"}]}
    monkeypatch.setattr("release.used_quants.read_record", lambda path, kind: json.loads(path.read_text()))
    (tmp_path / "loops.json").write_text(json.dumps(rows))
    (tmp_path / "active-experts.json").write_text(json.dumps({"gguf": "own-Q6_K.gguf"}))
    copies = {name: tmp_path / name for name in ("loops.json", "active-experts.json")}
    assert evaluated_types(copies) == {"loops.json": {"Q4_K_M"}, "active-experts.json": {"Q6_K"}}
