"""The drop map's file: the owner refuses in one line what is none, for every command that reads it."""

import copy
import json
from pathlib import Path

import plot_expert_stats
import show_results
from choice.drop_map import Shape, checked_map, read_drop_map, read_map
from files.input_errors import InputError, sha256_file
from files.json_records import read_json
from files.written_records import write_json
from generate_drop_map import main as choose
from makers.synthetic_build import write_statistics
from page.records import read_experts
from scoring.run_summary import in_sample

import pytest

LAYERS, EXPERTS, KEEP = 2, 8, 5
PLAIN = {"0": [1, 2, 3], "1": [4, 5, 6]}
GONE = object()  # takes a field away


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with statistics of four questions and a map that was chosen from them; no test may change it."""
    folder = tmp_path_factory.mktemp("made")
    write_statistics(folder / "stats", 4, LAYERS, EXPERTS)
    how = ["--keep", str(KEEP), "--protect-top", "2", "--bootstrap", "9"]
    choose(["--stats", str(folder / "stats"), *how, "--output", str(folder / "map.json")])
    return folder


def changed(content: dict, keys: tuple[object, ...], value: object) -> dict:
    """A copy of a map with another value at one place."""
    content = copy.deepcopy(content)
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    if value is GONE:
        del place[keys[-1]]
    return content


DAMAGE = [
    (("version",), 99, "a drop map, version 2, found version 99"),
    (("version",), "1", "a drop map, version 2, found version '1'"),
    (("criterion",), GONE, "a drop map with the field 'criterion', found none"),
    (("criterion",), [], "'criterion' is a valid string, found []"),
    (("protect_top",), GONE, "a drop map with the field 'protect_top', found none"),
    (("protect_top",), "many", "'protect_top' is a valid integer, found 'many'"),
    (("protect_top",), 9, "protect_top from 0 to 8, found 9"),
    (("protect_top",), -1, "protect_top from 0 to 8, found -1"),
    (("question_ids",), GONE, "question_ids beside stats_sha256"),
    (("question_ids",), None, "'question_ids' is a valid list, found None"),
    (("question_ids",), ["nobody"], "4 question_ids, as questions says, found 1"),
    (("held_out_question_ids",), 5, "'held_out_question_ids' is a valid list, found 5"),
    (("stats_sha256",), GONE, "stats_sha256 or imatrix_sha256"),
    (("bootstrap",), {"resamples": 9}, "'bootstrap.seed'"),
    (("keep_count",), 4, "4 kept experts in layer 0, as keep_count says, found 5"),
    (("layers",), GONE, "a drop map with the field 'layers', found none"),
    (("layers",), None, "'layers' is a valid dictionary, found None"),
    (("layers",), [], "'layers' is a valid dictionary, found []"),
    (("layers",), {}, "an object of layers keyed by number, found {}"),
    (("layers", "0"), [1], "'layers.0' is a valid dictionary"),
    (("layers", "0", "keep"), GONE, "a drop map with the field 'layers.0.keep', found none"),
    (("layers", "0", "keep"), [0], "keep and drop of layer 0 to partition 8 experts"),
    (("layers", "0", "drop"), [True], "'layers.0.drop.0' is a valid integer, found True"),
    (("layers", "0", "drop"), [99], "ids from 0 to 7 in layer 0, found 99 to 99"),
    (("layers", "0", "score"), "best", "'layers.0.score' is a valid list, found 'best'"),
]


@pytest.mark.parametrize("keys, value, words", DAMAGE)
def test_a_damaged_map_of_ours_is_refused_in_one_line(made, tmp_path, keys, value, words):
    path, content = tmp_path / "map.json", changed(read_json(made / "map.json"), keys, value)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        read_map(path)
    assert str(caught.value).startswith(f"{path}: expected ") and words in str(caught.value)
    if value not in (99, "1") or keys != ("version",):
        with pytest.raises(InputError) as caught:
            checked_map(tmp_path / "again.json", content)
        assert words in str(caught.value) and not (tmp_path / "again.json").exists()


def test_every_command_that_reads_a_map_refuses_it(made, tmp_path, refusal):
    stats, path = made / "stats", tmp_path / "map.json"
    write_json(path, changed(read_json(made / "map.json"), ("protect_top",), "many"))
    line = "'protect_top' is a valid integer, found 'many'"
    pictures = ["--stats", stats, "--drop-map", path, "--output-prefix", tmp_path / "experts"]
    refusal(plot_expert_stats.main, pictures, path, line)
    refusal(show_results.main, ["--after", "analyze", path], path, line)
    compared = ["--stats", stats, "--keep", 4, "--protect-top", 2, "--output", tmp_path / "x.json", "--compare", path]
    refusal(choose, compared, path, line)
    for read in (lambda: in_sample([], path), lambda: read_experts(stats, path)):
        with pytest.raises(InputError, match="'protect_top' is a valid integer"):
            read()
    assert list(tmp_path.iterdir()) == [path]


def test_questions_that_the_statistics_do_not_have_are_refused(made, tmp_path, refusal):
    """Over no question every picture would be empty, and would look like a result."""
    stats, path = made / "stats", tmp_path / "map.json"
    strangers = read_json(made / "map.json") | {"questions": 1, "question_ids": ["nobody"]}
    plain = {"stats_sha256": sha256_file(stats), "question_ids": ["rec000", "nobody"], "layers": PLAIN}
    for content in (strangers, plain):
        write_json(path, content)
        arguments = ["--stats", stats, "--drop-map", path, "--output-prefix", tmp_path / "experts"]
        refusal(plot_expert_stats.main, arguments, path, "question_ids of the questions of", "such as 'nobody'")
        with pytest.raises(InputError, match="such as 'nobody'"):
            read_experts(stats, path)


@pytest.mark.parametrize(
    "more, words",
    [
        ({"protect_top": None}, "'protect_top' is a valid integer, found None; correct it or leave it out"),
        ({"protect_top": 9}, "protect_top from 0 to 8, found 9"),
        ({"question_ids": "abc"}, "'question_ids' is a valid list, found 'abc'"),
        ({"bootstrap": []}, "'bootstrap'"),
        ({"layers": []}, "an object of layers keyed by number, found []"),
        ({"layers": {"first": [1]}}, "an object of layers keyed by number"),
        ({"layers": {"0": None}}, "a list of dropped expert ids in layer 0, found None"),
    ],
)
def test_a_map_of_another_tool_may_lack_fields_but_not_have_wrong_ones(tmp_path, more, words):
    path, shape = tmp_path / "map.json", Shape(EXPERTS, 2, (0, 1))
    write_json(path, {"layers": PLAIN, "its own": 5})
    assert read_drop_map(path, shape).details == {"its own": 5}
    write_json(path, {"layers": PLAIN} | more)
    with pytest.raises(InputError) as caught:
        read_drop_map(path, shape)
    assert words in str(caught.value)


def test_the_version_is_the_first_field_and_no_part_of_what_chose(made):
    content = read_json(made / "map.json")
    assert next(iter(content.items())) == ("version", 2) and read_map(made / "map.json") == content
    details = read_drop_map(made / "map.json", Shape(EXPERTS, 2, (0, 1))).details
    assert details == {key: value for key, value in content.items() if key not in ("version", "layers")}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"version": 99}, "version 2, found version 99"),
        ({"version": None}, "version 2, found version None"),
        ({"method": 5}, "'method' is a valid dictionary"),
        ({"method": []}, "'method' is a valid dictionary"),
        ({"method": {"question_ids": 5}}, "'method.question_ids' is a valid list, found 5"),
        ({"method": {"question_ids": "abc"}}, "'method.question_ids' is a valid list, found 'abc'"),
    ],
)
def test_the_metadata_of_a_checkpoint_is_refused_by_its_owner(tmp_path, change, words):
    numbers = {"version": 2, "experts": 8, "keep_count": 5, "drop_map_sha256": "0" * 64}
    content = numbers | {"method": {"question_ids": ["a", "b"]}, "source": {}, "shards": {}, "layers": {}}
    write_json(tmp_path / "expert_drop_metadata.json", content)
    assert in_sample(["b", "c"], tmp_path / "expert_drop_metadata.json") == {"chosen_on": 2, "scored_and_chosen_on": 1}
    write_json(tmp_path / "expert_drop_metadata.json", content | change)
    with pytest.raises(InputError) as caught:
        in_sample(["b", "c"], tmp_path / "expert_drop_metadata.json")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "keys, value, words",
    [
        (("drop_count",), 4, "3 as drop_count, experts less keep_count, found 4"),
        (("bootstrap", "coin_toss"), 99, "coin tosses and an overlap of"),
        (("bootstrap", "expected_overlap"), 0.25, "coin tosses and an overlap of"),
        (("bootstrap", "expected_overlap"), 1.5, "'bootstrap.expected_overlap' is less than or equal to 1"),
        (("layers", "0", "score"), [1.0], "8 scores in layer 0"),
        (("layers", "0", "score"), [], "8 scores in layer 0"),
        (("layers", "0", "coin_toss"), [99], "an overlap of"),
        (("layers", "0", "margin"), 0.125, "margin between a kept and a dropped score in layer 0"),
    ],
)
def test_totals_and_scores_of_a_map_must_fit_its_layers(made, tmp_path, keys, value, words):
    path = tmp_path / "map.json"
    path.write_text(json.dumps(changed(read_json(made / "map.json"), keys, value)))
    with pytest.raises(InputError) as caught:
        read_map(path)
    assert words in str(caught.value)
