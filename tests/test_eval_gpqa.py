"""Evaluation: frozen questions, a real run of llama-server and lm-eval with the patch step, and the statistics."""

import csv
import json
import random

import pytest
from compare_scores import compare, mcnemar, table, wilson
from lm_eval_samples import read_samples
from patch_answers import closed_thought, completion_letter
from questions import COLUMNS, load_questions, read_rows
from safe_files import InputError
from tiny_models import EXPERTS


def test_the_order_of_choices_is_that_of_random_shuffle_by_seed(few_questions):
    rows = read_rows(few_questions)
    random.seed(42)
    for row, question in zip(rows, load_questions(few_questions, 42)):
        choices = [row["Incorrect Answer 1"], row["Incorrect Answer 2"], row["Incorrect Answer 3"], row["Correct Answer"]]
        random.shuffle(choices)
        assert list(question.choices) == choices
        assert question.choices["ABCD".index(question.letter)] == row["Correct Answer"]


def test_parquet_jsonl_and_csv_give_the_same_questions(few_questions, tmp_path):
    import pandas

    frame = pandas.read_csv(few_questions, dtype=str)
    frame.to_parquet(tmp_path / "few.parquet")
    frame.to_json(tmp_path / "few.jsonl", orient="records", lines=True)
    expected = load_questions(few_questions, 42)
    assert load_questions(tmp_path / "few.parquet", 42) == load_questions(tmp_path / "few.jsonl", 42) == expected


@pytest.mark.parametrize("name, content", [
    ("a.csv", b"\xff\xfe\x00bad"), ("a.jsonl", b"{not json"), ("a.jsonl", b"[1, 2]\n"), ("a.parquet", b"PAR1 no"), ("a.csv", b""),
    ("a.txt", b"text"), ("a.csv", b"Record ID,Question\n1,2\n")])
def test_other_content_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        load_questions(tmp_path / name, 42)


@pytest.mark.parametrize("text, letter", [("B)", "B"), (" C). More", "C"), ("Because", None), ("E)", None), ("", None)])
def test_letters_of_completions(text, letter):
    assert completion_letter(text) == letter


def test_the_thought_is_closed_as_the_family_does():
    assert closed_thought("... <|channel> ...") == "<|channel>thought\n<channel|>"
    assert closed_thought("... <think> ...") == "<think>\n\n</think>\n\n"
    assert closed_thought("plain") == ""


def test_intervals_and_paired_test_give_the_known_figures():
    low, high = wilson(162, 198)
    assert (round(100 * low, 1), round(100 * high, 1)) == (75.9, 86.6)
    low, high = wilson(159, 198)
    assert (round(100 * low, 1), round(100 * high, 1)) == (74.2, 85.2)
    assert round(mcnemar(10, 7), 2) == 0.63 and mcnemar(0, 0) == 1.0


def summary(name: str, right: list[bool], seed: int = 42) -> dict:
    return {"name": name, "experts": 4, "questions": len(right), "gguf": "x.gguf", "protocol": {"seed": seed},
            "raw_correct": sum(right), "patched_correct": sum(right), "invalid_total": 0, "patch_expected_by_chance": 0.0,
            "answers": [{"record_id": str(i), "correct": ok, "prompt_hash": str(i)} for i, ok in enumerate(right)]}


def test_pairs_are_counted_by_question_and_two_protocols_are_refused():
    reference, other = summary("a", [True, True, False, False]), summary("b", [False, True, True, True])
    result = compare(reference, other)
    assert (result["lost"], result["won"]) == (1, 2)
    with pytest.raises(InputError, match="seed 42"):
        compare(reference, summary("b", [True] * 4, seed=7))
    with pytest.raises(InputError, match="questions"):
        compare(reference, summary("b", [True] * 3))


@pytest.fixture(scope="module")
def tiny_gguf(tiny_text_model, tmp_path_factory, script):
    path = tmp_path_factory.mktemp("eval") / "tiny-F16.gguf"
    done = script("convert_to_gguf.py", "--model", tiny_text_model, "--name", "tiny", "--output", path)
    assert done.returncode == 0, done.stderr
    return path


def test_a_random_model_is_scored_patched_and_summed_up(tiny_gguf, tiny_text_model, few_questions, tmp_path, script):
    """A model that knows nothing mostly gives invalid answers, so every one of them goes through the patch step."""
    done = script("eval_gpqa_v3.sh", "tiny", tiny_gguf, QUESTIONS=few_questions, TOKENIZER=tiny_text_model,
                  OUTPUT=tmp_path / "run", CTX=1024, REASONING_BUDGET=16, MAX_GEN_TOKS=48)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "run/summary.json").read_text())
    assert result["questions"] == 6 and result["experts"] == EXPERTS
    invalid = [answer for answer in result["answers"] if answer["letter"] is None]
    assert invalid and len(invalid) == result["invalid_total"] == sum(result["invalid"].values())
    assert all("patched_letter" in answer for answer in invalid)
    assert result["patch_expected_by_chance"] == len(invalid) / 4
    fixed = sum(answer.get("patched_correct", False) for answer in result["answers"])
    assert result["patched_correct"] == result["raw_correct"] + fixed
    questions = {question.record_id: question for question in load_questions(few_questions, 42)}
    for answer in result["answers"]:
        assert answer["target"] == questions[answer["record_id"]].letter
        assert questions[answer["record_id"]].text not in (tmp_path / "run/summary.json").read_text()
    assert result["protocol"]["temperature"] == 1.0 and result["protocol"]["dry_multiplier"] == 0.5
    for sample in read_samples(tmp_path / "run"):
        assert [message["content"] for message in sample.messages] == [questions[sample.record_id].prompt]
        assert sample.target == questions[sample.record_id].letter


def test_bad_input_is_refused_in_one_line(tiny_gguf, tiny_text_model, few_questions, tmp_path, script, refused):
    def evaluate(gguf=tiny_gguf, questions=few_questions):
        return script("eval_gpqa_v3.sh", "tiny", gguf, QUESTIONS=questions, TOKENIZER=tiny_text_model, OUTPUT=tmp_path / "run",
                      CTX=1024, REASONING_BUDGET=16, MAX_GEN_TOKS=48)

    refused(evaluate(gguf=tmp_path / "none.gguf"), tmp_path / "none.gguf")
    refused(evaluate(questions=tmp_path / "none.csv"), tmp_path / "none.csv")
    with open(tmp_path / "columns.csv", "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS[:-1], ["x"] * (len(COLUMNS) - 1)])
    refused(evaluate(questions=tmp_path / "columns.csv"), "Incorrect Answer 3")
    (tmp_path / "broken.gguf").write_bytes(tiny_gguf.read_bytes()[:20000])
    refused(evaluate(gguf=tmp_path / "broken.gguf"), tmp_path / "broken.gguf", "llama-server loads")
    assert not (tmp_path / "run/summary.json").exists()


def test_the_table_names_scores_sizes_and_the_verdict():
    from compare_scores import row

    reference, other = summary("full", [True] * 8 + [False] * 2), summary("pruned", [True] * 7 + [False] * 3)
    text = table([row(reference, [{"type": "Q6_K", "bytes": 2 << 30}], reference),
                  row(other, [{"type": "Q6_K", "bytes": 1 << 30}], reference)])
    assert "| full | 4 | 2.00 | 8/10 = 80.00% |" in text and "| pruned | 4 | 1.00 | 7/10 = 70.00% |" in text
    assert "-10.00 points" in text and "no detectable difference" in text
