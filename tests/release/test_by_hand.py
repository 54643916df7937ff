"""What a card says was not done by its command, and settings that two records hold otherwise."""

from pathlib import Path

from cards.card_reproduce import by_hand_text, reproduce_section
from cards.made_texts import release_of
from choice.drop_map import OWN_MAP
from files.input_errors import InputError, sha256_file
from losses.quality_record import measured_chats
from makers.made_up_evidence import QUESTIONS
from makers.release_inputs import shared_release
from release import by_hand, recorded_settings
from release.make_settings import CHOSE, COUNTED
from release.manifest import read_manifest
from release.recorded_settings import active_values, draft_values, loop_values, recipe_values, recorded_values

import pytest

BY_MAKE = {"criterion": "coverage", "analysis": {"counted_tokens": "all", "cut_tokens": 4096, "attention": "eager"}}


@pytest.mark.parametrize(
    ("method", "unused", "words"),
    [
        ({}, 0, []),
        ({"worst_first": True}, 0, ["the experts that rank best were dropped (`--worst-first`)"]),
        ({"imatrix_sha256": "1" * 64}, 0, ["an imatrix chose the experts (`--imatrix`)"]),
        ({}, 3, ["3 questions of the file did not choose (`--questions-in` or `--limit`)"]),
        ({"domains": [{"name": "Bio+Chem"}]}, 0, []),
        ({"domains": [{"name": "two words"}]}, 0, ["domains were weighted whose names make does not take"]),
        ({"domains": [{"name": "a&b"}]}, 0, ["domains were weighted whose names make does not take"]),
        ({"question_ids": ["a", "b"], "worst_first": False}, 0, ["the bootstrap of the choice drew 0 times"]),
        ({"question_ids": ["a", "b"], "criterion": "random:1"}, 0, []),
        ({"bootstrap": {"resamples": 2, "seed": 42}}, 0, ["the bootstrap of the choice drew 2 times"]),
        ({"bootstrap": {"resamples": 200, "seed": 5}}, 0, ["the bootstrap of the choice drew by seed 5"]),
        ({"analysis": {"counted_tokens": "answer", "cut_tokens": 70, "attention": "sdpa", "dtype": "float16"}}, 0, 4),
        ({"criterion": OWN_MAP, "analysis": {"cut_tokens": 70}}, 9, []),  # make takes it as it is
    ],
)
def test_what_make_does_otherwise_in_a_choice_is_said(demo_model, monkeypatch, method, unused, words):
    monkeypatch.setattr(by_hand, "read_metadata", lambda path: {"method": {**BY_MAKE, **method}})
    sources = {"records": {}, "quants": {}, "origins": {}}
    sources["copies"] = {"expert_drop_metadata.json": demo_model / "expert_drop_metadata.json"}
    found = by_hand.choice_by_hand(sources, {CHOSE: unused, COUNTED: 2})
    assert len(found) == words if isinstance(words, int) else found == words


@pytest.mark.parametrize("criterion", ["coverage", OWN_MAP])
def test_shards_of_another_size_are_said(demo_model, monkeypatch, criterion):
    """The digests of the checkpoint, by which a reader tells whether the same came out, are those of its shards."""
    metadata = {"method": {**BY_MAKE, "criterion": criterion}, "shard_bytes": 6_000_000}
    monkeypatch.setattr(by_hand, "read_metadata", lambda path: metadata)
    sources = {"records": {}, "quants": {}, "origins": {}}
    sources["copies"] = {"expert_drop_metadata.json": demo_model / "expert_drop_metadata.json"}
    (found,) = by_hand.choice_by_hand(sources, {CHOSE: 0, COUNTED: 0})
    assert found == "the checkpoint was written in shards of at most 6000000 bytes (`--shard-bytes`)"


@pytest.mark.parametrize(("held", "said"), [(["q1", "q3"], False), (["q1", "q2"], True)])
def test_questions_that_no_fold_holds_out_are_said(demo_model, monkeypatch, held, said):
    ids = ["q1", "q2", "q3", "q4"]
    method = {"held_out_question_ids": held, "question_ids": [one for one in ids if one not in held]}
    method["bootstrap"] = {"resamples": 200, "seed": 42}
    monkeypatch.setattr(by_hand, "read_metadata", lambda path: {"method": BY_MAKE | method})
    monkeypatch.setattr(by_hand, "stats_metadata", lambda path: {"questions": [{"id": one} for one in ids]})
    sources = {"origins": {}, "copies": {"expert_drop_metadata.json": demo_model / "expert_drop_metadata.json"}}
    found = by_hand.choice_by_hand(sources, {CHOSE: 0, COUNTED: 0})
    assert found == ["2 questions of the statistics did not choose (`--questions-in`)"] * said


def test_statistics_of_fewer_questions_than_their_file_are_said_of_an_own_map(demo_model, monkeypatch):
    monkeypatch.setattr(by_hand, "read_metadata", lambda path: {"method": {**BY_MAKE, "criterion": OWN_MAP}})
    monkeypatch.setattr(by_hand, "used_quants", lambda sources: [(Path("a"), {"cd_rule": "weighted-norm"})])
    sources = {"origins": {}, "copies": {"expert_drop_metadata.json": demo_model / "expert_drop_metadata.json"}}
    found = by_hand.choice_by_hand(sources, {CHOSE: 0, COUNTED: 6})
    assert found == ["6 questions of the file did not rank layers (`--limit`)"]


ROWS = [{"right": None, "experts": 8}, {"right": None, "experts": 6}]
ACTIVE = {"rows": ROWS, "chats": 4, "context": 4096, "reasoning_budget": 64, "max_tokens": 128, "questions": 6}


def test_answers_of_active_experts_are_those_that_make_asks(tmp_path, monkeypatch):
    scored = {**ACTIVE, "rows": [row | {"right": [True] * 6} for row in ROWS], "rounds": 1}
    records = {"active-experts.json": scored, "scores.json": {"question_ids": list("abcdefgh")}}
    monkeypatch.setattr(by_hand, "read_record", lambda path, kind: records[path.name])
    copies = {name: tmp_path / name for name in records}
    assert by_hand.speeds_by_hand(copies) == ["active-experts.json is of 6 answers"]
    timed = ACTIVE | {"rounds": 5, "max_tokens": 256, "reasoning_budget": -1}
    records["active-experts.json"] = timed
    of_two = ["active-experts.json is of 6 answers", "active-experts.json is of thoughts without a limit"]
    assert by_hand.speeds_by_hand({"active-experts.json": tmp_path / "active-experts.json"})[:2] == of_two
    assert active_values(timed)["REASONING_BUDGET"] is None
    few = tmp_path / "few.csv"  # all of its questions
    few.write_text("".join(QUESTIONS[1].read_text().splitlines(keepends=True)[:7]))
    records["active-experts.json"] = timed | {"question_file_sha256": sha256_file(few)}
    assert by_hand.speeds_by_hand({"active-experts.json": tmp_path / "active-experts.json"}, [few])[0] == of_two[1]
    records["quality.json"] = {"chats": 3, "left_out": 1, "score": "reply"}  # one of them was seen
    chats = [measured_chats(records["quality.json"], active) for active in (None, ACTIVE, ACTIVE | {"chats": 2})]
    assert chats == [3, 4, 3]
    del records["quality.json"]
    records["active-experts.json"] = scored | {"questions": 8}
    assert not by_hand.speeds_by_hand(copies)
    assert active_values(scored) | {"CTX": 4096, "MAX_GEN_TOKS": 128} == active_values(scored)
    assert active_values(ACTIVE)["MAX_GEN_TOKS"] is None and active_values(ACTIVE)["ACTIVE_SCORED"] is None


def test_a_card_says_what_its_command_does_not_do(pruned_demo):
    folder = shared_release(pruned_demo)
    release = release_of(folder, read_manifest(folder))
    assert release.inputs["by_hand"]["choice"][0].startswith("190 questions of the file did not choose")
    release.inputs["by_hand"] = {"files": ["quality.json was measured on `a.csv`"]}
    assert by_hand_text(release).endswith("has no setting for it: quality.json was measured on `a.csv`.")
    assert by_hand_text(release) in reproduce_section(release)
    del release.inputs["by_hand"]
    assert not by_hand_text(release)


CD = {"cd_scope": "all", "cd_recipe": "ours", "cd_rule": "weighted-norm"}
DRAFT = {"type": "Q8_0", "context": 2048, "draft_tokens": 3, "questions": 2}
LOOPS = {
    "inputs": {"max_tokens": 9, "context": 4096, "seed": 42},
    "seeds": 3,
    "rows": [{"gguf": "m-x-Q8_0.gguf"}, {"gguf": "m-Q6_K.gguf"}],
}


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (recipe_values(CD), recipe_values(CD), ""),
        (recipe_values(CD), recipe_values(CD | {"cd_tiers": "2/1/0"}), "CD_TIERS to be empty, as in the other records"),
        (recipe_values(CD | {"cd_cuts": [0.25, 0.5]}), recipe_values(CD), "CD_CUTS to be 1/4,1/2, as in the other"),
        ({"SEED": 42, "CTX": 4096}, loop_values(LOOPS, "m"), ""),
        ({"SEED": 7}, loop_values(LOOPS, "m"), "SEED to be 7, as in the other records of the release, found 42"),
        ({"CTX": 2048}, loop_values(LOOPS, "m"), "CTX to be 2048"),
        (draft_values(DRAFT), active_values(ACTIVE), "CTX to be 2048, as in the other records"),
    ],
)
def test_records_of_one_release_are_of_one_command(monkeypatch, one, other, words):
    pairs = [("a", one), ("b", other)]
    monkeypatch.setattr(recorded_settings, "records_of", lambda folder, manifest, sources: pairs)
    if words:
        with pytest.raises(InputError, match=words):
            recorded_values(Path(), {}, {})
    else:
        said = {**one, **other}
        assert recorded_values(Path(), {}, {}) == {name: str(v) for name, v in said.items() if v is not None}


def test_the_full_model_s_row_is_no_type_of_loops():
    """Its name may begin with that of the pruned model."""
    assert loop_values(LOOPS, "m")["LOOP_QUANTS"] == "Q6_K"
