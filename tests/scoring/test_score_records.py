"""The records of scores: no inner field may be missing or of another type where a page or a table needs it."""

import copy
import json
from collections.abc import Iterator

import show_results
from files.input_errors import InputError
from files.json_records import check_record, sha256_json
from scoring.comparison import compare
from scoring.score_records import Scores, Summary, figures, read_summary
from scoring.score_tables import scores_page

import pytest

PATCH = {"prefill": "x", "n_predict": 1, "temperature": 0}


def summary(name: str, chosen_on: int | None) -> dict:
    """A complete run of three questions, the last of them invalid and right after the patch step."""
    row = {
        "order": [0, 1, 2, 3],
        "prompt_sha256": "0" * 64,
        "target": "A",
        "strict_correct": True,
        "completion_tokens": 1,
    }
    right = row | {"class": "answered", "letter": "A", "correct": True}
    empty = row | {"class": "empty", "letter": None, "correct": False, "patched_letter": "A", "patched_correct": True}
    rows = [right | {"record_id": "q0"}, right | {"record_id": "q1"}, empty | {"record_id": "q2"}]
    return {
        "version": Summary.current,
        "name": name,
        "gguf": f"{name}.gguf",
        "gguf_sha256": sha256_json(name),
        "gguf_bytes": 1,
        "experts": 4,
        "protocol": {"seed": 42, "context": 8},
        "protocol_sha256": sha256_json({"seed": 42, "context": 8}),
        "in_sample": {"chosen_on": chosen_on, "scored_and_chosen_on": chosen_on},
        **figures(rows, PATCH),
    }


def comparison(runs: list[dict]) -> dict:
    return {"version": Scores.current, **compare([[run] for run in runs], [[] for _ in runs])}


def of_task(task: str, **row: object) -> dict:
    """A complete run of one question of another task."""
    answer = summary("m", None)["answers"][0] | {"order": [], "class": "answered", "strict_correct": True} | row
    protocol = {"seed": 42, "task": task, "filter": "flexible-extract", "lm_eval": "0.4"}
    digests = {"protocol": protocol, "protocol_sha256": sha256_json(protocol)}
    return summary("m", None) | digests | figures([answer], None)


@pytest.mark.parametrize(
    "task, row, words",
    [
        ("gsm8k_cot_zeroshot", {"chance": 0.0, "target": "1200", "letter": "$1,200."}, None),
        ("gsm8k_cot_zeroshot", {"chance": 0.0, "target": "7", "letter": None}, "correct as letter and target say"),
        ("mmlu_pro_law", {"chance": 0.1, "target": "J", "letter": "J"}, None),
        ("mmlu_pro_law", {"chance": 0.25, "target": "J", "letter": "J"}, "target one of the first 4 letters"),
        ("mmlu_pro_law", {"chance": 0.1, "target": "J", "letter": "K"}, "letter one of ABCDEFGHIJ"),
        ("mmlu_pro_law", {"chance": 0.1, "target": "J", "letter": "I"}, "correct as letter and target say"),
        ("mmlu_pro_law", {"chance": 0.1, "target": "J", "letter": "J", "order": [0, 1, 2, 3]}, "order of the choices"),
        ("mmlu_pro_law", {"order": [0, 1, 2, 3]}, "answers with a chance"),
        ("gpqa_main_cot_zeroshot", {"chance": 0.25}, "answers without a chance"),
        ("gpqa_main_cot_zeroshot", {"order": [0, 1, 2, 3], "target": "E", "letter": "E"}, "first 4 letters"),
    ],
)
def test_answers_are_those_of_their_task(tmp_path, task, row, words):
    (tmp_path / "summary.json").write_text(json.dumps(of_task(task, **row)))
    if words:
        with pytest.raises(InputError, match=words):
            read_summary(tmp_path / "summary.json")
    else:
        run = read_summary(tmp_path / "summary.json")
        check_record("scores.json", comparison([run, run | {"name": "n", "gguf": "n.gguf"}]), Scores)
        assert run["raw_correct"] == 1


@pytest.mark.parametrize("name", ["../../m.gguf", "/etc/passwd", "<b>m</b>.gguf", "m|n.gguf", ""])
def test_the_scored_file_has_a_name_without_a_place_or_marks(name):
    with pytest.raises(InputError, match="gguf"):
        check_record("summary.json", summary("m", None) | {"gguf": name}, Summary)


def test_pass_at_is_of_several_seeds_and_begins_with_the_score():
    protocols = [{"protocol": {"seed": seed}, "protocol_sha256": sha256_json({"seed": seed})} for seed in (1, 2)]
    content = {"version": Scores.current, **compare([[summary("m", None) | one for one in protocols]], [[]])}
    check_record("scores.json", content, Scores)
    for rates in ({"1": 0.5, "2": 1.0}, {"1": 1.0, "2": 0.9}, {"one": 1.0}, {"2": 1.0}):
        rows = [content["rows"][0] | {"pass_at": rates}]
        with pytest.raises(InputError, match="pass_at"):
            check_record("scores.json", content | {"rows": rows}, Scores)


@pytest.mark.parametrize("part", ["rows", "pairs"])
def test_a_count_of_questions_takes_no_memory_before_it_is_refused(part):
    content = comparison([summary("m", None), summary("n", None)])
    content[part][0]["questions"] = 1 << 40
    with pytest.raises(InputError, match="questions"):
        check_record("scores.json", content, Scores)


def damages(content: object, path: tuple = ()) -> Iterator[tuple]:
    """The path of every value inside a record."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        yield (*path, key)
        yield from damages(value, (*path, key))


def damaged(content: dict, path: tuple, *value: object) -> dict:
    """A copy with another value at a path; with none there where no value is given."""
    content = copy.deepcopy(content)
    place = content
    for key in path[:-1]:
        place = place[key]
    if value:
        place[path[-1]] = value[0]
    else:
        del place[path[-1]]
    return content


@pytest.fixture
def every_damage(tmp_path):
    """Use a record with each value taken away, and with each of another type; count what its owner refuses."""

    def check(content: dict, use) -> int:
        refused, path = 0, tmp_path / "record.json"
        for place in damages(content):
            for value in ((), ({"of": ["another", "type"]},), (None,)):
                path.write_text(json.dumps(damaged(content, place, *value)))
                try:
                    use(path)  # any other error is a defect: a field that is needed and not checked
                except InputError:
                    refused += 1
        return refused

    return check


def test_no_damage_of_scores_is_a_traceback(every_damage, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")

    def use(path) -> None:
        show_results.main(["--after", "eval", str(path)])
        scores_page(check_record(path, json.loads(path.read_text()), Scores))

    content = comparison([summary("full", None), summary("pruned", 3)])
    assert every_damage(content, use) > len(list(damages(content)))


def test_no_damage_of_a_summary_is_a_traceback(every_damage):
    first, second = summary("full", None), summary("pruned", 3)

    def use(path) -> None:
        comparison([first, read_summary(path)])

    assert every_damage(second, use) > len(list(damages(second)))


@pytest.mark.parametrize(
    "path, value, words",
    [
        (("rows",), [], "'rows'"),
        (("rows", 0, "interval"), [0.5], "'rows.0.interval'"),
        (("rows", 0, "seeds"), [], "'rows.0.seeds'"),
        (("rows", 1, "in_sample"), {"chosen_on": 3}, "'rows.1.in_sample.scored_and_chosen_on'"),
        (("pairs", 0, "mcnemar_p"), "0.5", "'pairs.0.mcnemar_p' is a valid number, found '0.5'"),
    ],
)
def test_the_owner_names_the_field_of_the_scores(path, value, words):
    content = damaged(comparison([summary("full", None), summary("pruned", 3)]), path, value)
    with pytest.raises(InputError) as caught:
        check_record("scores.json", content, Scores)
    assert words in str(caught.value) and len(str(caught.value).splitlines()) == 1
