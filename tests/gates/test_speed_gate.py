"""A release with a draft model and with what fewer experts cost: card, Modelfile, and each kind of damage."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import build_draft
import build_release
import measure_active_experts
import measure_draft
from calls import call
from chats.questions import QUESTION_SEED, load_questions, question_set_digest
from chats.texts_again import texts_digest
from check_release import outcome_of
from conftest import DEMO
from files.input_errors import InputError, sha256_file
from gates.gates import build_gate, records_gate
from gates.lineage import Lineage
from gates.made_again import known_quants
from gates.remade_gates import draw_pictures_again
from gates.running_gates import QUESTION, smallest
from gates.speed_gate import (
    active_asked_breaks,
    asked_breaks,
    measured_file_breaks,
    protocol_breaks,
    speed_gate,
    speed_gates,
)
from makers.damaged_build import Build
from makers.pruned_models import NAME, copy_of_quants
from makers.release_copies import checked
from makers.release_inputs import build, release_arguments
from release.sources import read_evidence
from speed.draft_results import draft_words

import pytest

DRAFT = f"mtp-{NAME}-Q8_0.gguf"
ASKED = ["--questions", DEMO / "eval_questions.csv", "--rounds", 1]


@pytest.fixture(scope="module")
def measured(pruned_demo, tmp_path_factory) -> Path:
    """A folder with the draft model of the pruned demo, draft.json, and active-experts.json and .png."""
    folder = tmp_path_factory.mktemp("speed")
    # Copies: a release that another worker builds meanwhile links the shared files, and a touch ends a measurement.
    copies = copy_of_quants(pruned_demo, tmp_path_factory.mktemp("measured"), "Q8_0")
    model = copies / f"{NAME}-Q8_0.gguf"
    built = ["--model", DEMO / "assistant", "--target", copies / "F16.gguf", "--name", NAME]
    call(build_draft.main, *built, "--output", folder / DRAFT)
    draft = ["--draft", folder / DRAFT, "--gguf", f"{NAME}={model}", "--limit", 2, "--output", folder / "draft.md"]
    call(measure_draft.main, *draft, *ASKED)
    active = ["--name", NAME, "--gguf", model, "--model", DEMO / "model", "--limit", 2, "--answers", 2, "--counts", 5]
    call(measure_active_experts.main, *active, *ASKED, "--cache", folder, "--output", folder / "active-experts.md")
    return folder


def arguments(measured: Path) -> list[object]:
    drafted = ["--draft", measured / DRAFT, "--draft-results", measured / "draft.json"]
    return [
        *drafted,
        "--active-experts",
        measured / "active-experts.json",
        "--pictures",
        measured / "active-experts.png",
    ]


@pytest.fixture
def release(pruned_demo, measured, tmp_path) -> Path:
    build(pruned_demo, tmp_path / f"{NAME}-GGUF", *arguments(measured), quants=("Q8_0",))
    return tmp_path / f"{NAME}-GGUF"


def test_a_release_holds_its_draft_model_and_says_what_it_gains(release, measured, tools, tmp_path):
    card = (release / "README.md").read_text()
    command = f"-m {NAME}-Q8_0.gguf --model-draft {DRAFT} \\\n    --spec-type draft-mtp --spec-draft-n-max 2"
    assert f"{command} \\\n    -c " in card and "-ngl 99" in card.partition(command)[2].splitlines()[1]
    assert "All 2 greedy answers are the same" in card and "--override-kv gemma4.expert_used_count=int:5" in card
    assert f"DRAFT ./{DRAFT}\n" in (release / "Modelfile").read_text() and f"'DRAFT ./{DRAFT}'" in card
    found = checked(release)
    assert speed_gate(found).applies and not speed_gate(found).deviations and not records_gate(found).deviations
    outcome = speed_gates(smallest, QUESTION, tools, 0)["drafted"](found)
    assert not outcome.deviations and "drafted tokens accepted" in outcome.looked_at
    draw_pictures_again(found, ["active-experts.png"], tmp_path)
    assert sha256_file(tmp_path / "active-experts.png") == sha256_file(release / "active-experts.png")


def test_a_card_names_the_assistant_of_the_draft_model_and_no_other(pruned_demo, measured, tmp_path, refusal):
    mine, other = (Path(shutil.copytree(DEMO / "assistant", tmp_path / name)) for name in ("mine", "me-other"))
    (other / "config.json").write_text((other / "config.json").read_text() + " ")

    def drafted(given: str, place: Path, number: int) -> list[object]:
        more = [*arguments(measured), "--settings", f"DRAFT={given}", "--assistant", place]
        return release_arguments(pruned_demo, tmp_path / str(number), *more, quants=("Q8_0",))

    of_mine = [(f"{mine}", "mine"), ("data/demo/assistant", "data/demo/assistant"), ("me/other", "DIRECTORY")]
    for number, (given, said) in enumerate([*of_mine, ("data/demo/mine", "mine"), ("google/mine", "mine")]):
        call(build_release.main, *drafted(given, mine, number))
        assert f"DRAFT={said} " in (tmp_path / str(number) / "README.md").read_text()
    words = ("me-other: expected the assistant of the draft model, digest", "make the draft model of this one")
    refusal(build_release.main, drafted("data/demo/assistant", other, 9), *words)
    file = tmp_path / "google-gemma-assistant"
    file.write_text("")
    refusal(build_release.main, drafted(str(file), file, 9), "gemma-assistant: expected the assistant", "found a file")
    found = checked(tmp_path / "0")
    found.manifest["settings"]["DRAFT"] = "me/other"
    assert any("expected the DRAFT that the draft model was made of" in line for line in build_gate(found).deviations)


def test_a_changed_or_missing_draft_model_fails_its_gate(release):
    (release / DRAFT).unlink()
    shutil.copyfile(release / f"{NAME}-Q8_0.gguf", release / DRAFT)
    with pytest.raises(Exception, match="expected a model of the architecture gemma4-assistant, found gemma4"):
        speed_gate(checked(release))
    (release / "draft.json").unlink()
    assert "expected one draft model and its draft.json, found" in speed_gate(checked(release)).deviations[0]


def of_models(**changes: object) -> Callable[[dict], object]:
    return lambda content: content["models"][0].update(changes)


def of_one_more_expert(content: dict) -> None:
    content.update(own=9)
    content["rows"][0].update(experts=9)


def of_other_questions(field: str) -> Callable[[dict], object]:
    return lambda content: content.update({field: "4" * 64})


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("draft.json", lambda content: None, ""),
        ("draft.json", lambda content: content.update(parameters=1), "weights of the draft model:"),
        ("draft.json", lambda content: content.update(bytes=1), "bytes of the draft model:"),
        ("draft.json", lambda content: content.update(type="Q4_0"), "the type of the draft model:"),
        ("draft.json", lambda content: content.update(questions_sha256="4" * 64), "the first 2 questions of"),
        ("draft.json", lambda content: content.update(max_tokens=1), "answers of at most 1 tokens"),
        ("draft.json", of_models(gguf_sha256="4" * 64), "the speed of a file named no file with a record"),
        ("draft.json", of_models(gguf="other.gguf"), "the speed of a file named"),
        ("draft.json", of_models(name="gemma-4-26B-A4B-it"), f"a model named {NAME}, found gemma-4-26B-A4B-it"),
        ("draft.json", of_models(accepted=[10**6] * 2), "drafted tokens, and at most these accepted"),
        ("draft.json", of_models(drafted=[10**6] * 2), "possible counts"),
        ("draft.json", of_models(speeds=[9.0] * 7), "speeds of every round"),
        ("active-experts.json", lambda content: content.update(gguf_sha256="4" * 64), "no file with a record"),
        ("active-experts.json", lambda content: content.update(own=9), "rows from the model's own number of experts"),
        ("active-experts.json", of_one_more_expert, "the model's own active experts: 8, found 9"),
        ("active-experts.json", lambda content: content.update(rounds=9), "speeds of every round"),
        ("active-experts.json", of_other_questions("questions_sha256"), "the first 2 questions of a question file"),
        ("active-experts.json", of_other_questions("chats_sha256"), "the first 2 chats and"),
        ("active-experts.json", lambda content: content.update(no_reasoning=1), "without a reasoning: 0, found 1"),
        ("active-experts.json", of_other_questions("texts_sha256"), "chats by the checkpoint's tokenizer"),
    ],
)
def test_speeds_are_of_known_files_and_numbers_are_possible(release, name, damage, words):
    content = json.loads((release / name).read_text())
    damage(content)
    (release / name).write_text(json.dumps(content))
    found = outcome_of(speed_gate, checked(release)).deviations
    assert any(words in line for line in found) if words else not found, found


def test_the_speed_of_another_build_s_file_is_not_the_base_s(pruned_demo, tmp_path):
    """Its record is sealed, too, and --quants may name it: under no name has it a place in this release."""
    lineage = Build(pruned_demo, tmp_path).checked.lineage
    own, full = lineage.records[f"{NAME}-Q6_K.gguf"], lineage.full
    record = tmp_path / "other-Q6_K.gguf.json"
    record.write_text(json.dumps({"version": 1, **own, "sha256": "7" * 64, "source_sha256": "8" * 64}))
    lineage.sources["quants"]["other"] = record
    other = {"gguf": "other-Q6_K.gguf", "gguf_sha256": "7" * 64, "source_sha256": "8" * 64}
    mine = {"gguf": f"{NAME}-Q6_K.gguf", "gguf_sha256": own["sha256"], "source_sha256": own["source_sha256"]}
    for entry, name in ((other, full["name"]), (other, "other"), (mine, full["name"])):
        (error,) = measured_file_breaks("draft.json", lineage, [{**entry, "name": name}], "")
        assert f"a model named {NAME}" in str(error) and f"found {name}" in str(error)
    assert not measured_file_breaks("draft.json", lineage, [{**mine, "name": NAME}], "")


def test_a_measured_file_of_a_published_name_is_the_published_file(pruned_demo, tmp_path):
    """A card names files, so another one of the same name would pass for it."""
    lineage = Build(pruned_demo, tmp_path).checked.lineage
    for number, name in enumerate((f"{NAME}-Q6_K.gguf", f"{NAME}-Q5_K_M.gguf", f"{NAME}-Q5_K_M.gguf")):
        record = tmp_path / str(number) / f"{name}.json"
        record.parent.mkdir()
        content = {"version": 1, **lineage.records[f"{NAME}-Q6_K.gguf"], "sha256": f"{number}" * 64}
        record.write_text(json.dumps(content))
        lineage.sources["quants"]["other"] = record
        if number == 1:  # not of this folder, and the only one of its name
            assert known_quants(lineage)["1" * 64][0] == name
            lineage.sources["quants"]["first"] = record
            continue
        with pytest.raises(InputError, match=f"expected one file named {name} in a release and its measurements"):
            known_quants(lineage)


def test_speeds_without_a_file_that_they_are_of_are_refused(release):
    found = checked(release)
    found.manifest["records"] = {}
    assert "expected no speeds without GGUF files" in speed_gate(found).deviations[0]


OF_EVALUATION = "the first 2 questions of the evaluation"


def with_lookalike(lineage: Lineage, folder: Path) -> dict[str, Path]:
    """Give a build a file of the scored ids with other words, and one that it does not know; return all by name."""
    files = {path.name: path for path in lineage.sources["questions"].values()}
    alike, others = folder / "alike.csv", folder / "others.csv"
    alike.write_text(files["scored.csv"].read_text().replace("?", " indeed?"))
    head, _, *lines = (DEMO / "eval_questions.csv").read_text().splitlines(keepends=True)
    others.write_text("".join([head, *lines]))
    lineage.sources["questions"]["alike"] = alike
    return files | {"alike.csv": alike, "others.csv": others}


@pytest.mark.parametrize(
    ("asked", "right", "words"),
    [
        ("scored.csv", [True], ""),
        ("eval_questions.csv", None, ""),
        ("eval_questions.csv", [True], f"{OF_EVALUATION}'s question file, found others"),
        ("alike.csv", [True], f"{OF_EVALUATION}'s question file, found others"),
        ("others.csv", None, "the first 2 questions of a question file of the build, found others"),
    ],
)
def test_right_answers_are_to_the_questions_of_the_evaluation(pruned_demo, tmp_path, asked, right, words):
    lineage = Build(pruned_demo, tmp_path).checked.lineage
    files = with_lookalike(lineage, tmp_path)
    questions = load_questions(files[asked], QUESTION_SEED)[:2]
    digests = dict.fromkeys(("chats_sha256", "questions_sha256"), question_set_digest(questions))
    digests["texts_sha256"] = texts_digest(DEMO / "model", questions)
    results = {"chats": 2, "questions": 2, "chat_max_tokens": 4096, **digests, "rows": [{"right": right}]}
    found = [str(error) for error in active_asked_breaks(results, lineage)]
    assert any(words in line for line in found) if words else not found, found
    if not words:
        cut = list(map(str, active_asked_breaks(results | {"chat_max_tokens": 60}, lineage)))
        assert "chats of so many tokens at most: 4096, found 60" in cut[0]
    if right and not words:  # the label of the scores is theirs, too
        lineage.sources["runs"].clear()
        assert "right answers beside scores, whose label they need" in str(active_asked_breaks(results, lineage)[0])


@pytest.mark.parametrize(("asked", "scored_too"), [("scored.csv", True), ("alike.csv", False)])
def test_a_draft_model_s_gain_is_on_the_questions_of_the_evaluation(pruned_demo, tmp_path, asked, scored_too):
    """By their words: a file with the same Record IDs can ask anything."""
    lineage = Build(pruned_demo, tmp_path).checked.lineage
    digest = question_set_digest(load_questions(with_lookalike(lineage, tmp_path)[asked], QUESTION_SEED)[:2])
    results = {"questions": 2, "questions_sha256": digest, "max_tokens": 1, "models": [{"tokens": [1, 1]}]}
    found = [str(error) for error in asked_breaks(results, lineage)]
    assert not found if scored_too else f"{OF_EVALUATION}: True, found False" in found[0]
    lineage.sources["runs"].clear()
    assert not asked_breaks(results, lineage)


def test_only_a_card_with_scores_says_that_the_questions_are_the_evaluation_s(release, measured):
    results, words = read_evidence(measured / "draft.json", "draft.json"), "2 questions of the evaluation"
    assert words in draft_words(results, evaluated=True) and words not in (release / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("draft.json", {}, ""),
        ("draft.json", {"context": 4096}, "the evaluation's context: 32768, found 4096"),
        ("draft.json", {"gpu_layers": 0}, "the evaluation's gpu_layers: 99, found 0"),
        ("active-experts.json", {"rows": [{"right": None}], "max_tokens": 256}, ""),
        ("active-experts.json", {"rows": [{"right": [True]}], "max_tokens": 24576}, ""),
        (
            "active-experts.json",
            {"rows": [{"right": [True]}], "max_tokens": 256},
            "the evaluation's max_gen_toks: 24576",
        ),
        (
            "active-experts.json",
            {"rows": [{"right": [True]}], "max_tokens": 24576, "gguf_sha256": "0" * 64},
            "right answers of a file that was scored: True, found False",
        ),
        ("active-experts.json", {"reasoning_budget": -1}, "the evaluation's reasoning_budget: 16384, found -1"),
    ],
)
def test_what_stands_beside_scores_ran_by_their_protocol(pruned_demo, tmp_path, name, changes, words):
    lineage = Build(pruned_demo, tmp_path).checked.lineage
    budget = {} if name == "draft.json" else {"reasoning_budget": 16384}
    scored = read_evidence(lineage.sources["copies"]["scores.json"], "scores.json")["rows"][-1]["gguf_sha256"]
    results = {"context": 32768, "gpu_layers": 99, "gguf_sha256": scored, **budget, **changes}
    found = [str(error) for error in protocol_breaks(name, results, lineage, "")]
    assert len(found) == 1 and words in found[0] if words else not found, found
    lineage.sources["copies"].pop("scores.json")
    assert not protocol_breaks(name, results, lineage, "")


def test_an_older_record_of_active_experts_is_to_be_made_again(measured, tmp_path):
    content = json.loads((measured / "active-experts.json").read_text())
    (tmp_path / "old.json").write_text(json.dumps({**content, "version": 1}))
    with pytest.raises(InputError, match="version 3, found version 1; run `make active-experts REPLACE=draft`"):
        read_evidence(tmp_path / "old.json", "active-experts.json")


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("draft.json", '"source_sha256": "', '"source_sha256": "0', "expected a file of this build"),
        ("active-experts.json", '"source_sha256": "', '"source_sha256": "0', "expected a file of this build"),
        ("draft.json", '"same": [\n        true', '"same": [\n        false', "expected the same greedy answers"),
    ],
)
def test_what_is_of_another_build_or_changes_an_answer_is_refused(
    pruned_demo, measured, tmp_path, refusal, name, old, new, words
):
    folder = tmp_path / "measured"
    shutil.copytree(measured, folder)
    text = (folder / name).read_text()
    at = text.index(old) + len(old)
    end = at + 64 if "sha256" in old else at
    (folder / name).write_text(text[: at - len(old)] + new + text[at : end - (end > at)] + text[end:])
    assert json.loads((folder / name).read_text())
    asked = release_arguments(pruned_demo, tmp_path / "out-GGUF", *arguments(folder), quants=("Q8_0",))
    refusal(build_release.main, asked, words)
    assert not (tmp_path / "out-GGUF").exists()
