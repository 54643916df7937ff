"""Tasks other than GPQA Diamond: lm-eval asks and scores them by its own definitions; our copy of its rules agrees."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import compare_scores
import freeze_questions
from calls import call
from conftest import DEMO, REPO
from files.input_errors import InputError, sha256_file
from files.json_records import read_json, read_record
from scoring.answer_record import read_answers
from scoring.eval_protocol import recorded_protocol
from scoring.eval_tasks import GSM8K
from scoring.lm_eval_run import request_digest
from scoring.lm_eval_samples import read_asked, read_frozen, read_shots
from scoring.run_files import read_run
from scoring.score_records import Summary

import nltk
import pytest

try:
    HAS_PUNKT = bool(nltk.data.find("tokenizers/punkt_tab"))
except LookupError:
    HAS_PUNKT = False
NAILS = "A box holds 2,400 nails. Half are used. How many are left?"
# Questions, full answers and what the server says; and what follows of it.
GSM8K_CASES = [
    ("Ann has 3 apples and buys 4. How many has she?", "3 + 4 = 7\n#### 7", "It was 3. The answer is 7.", True),
    (NAILS, "2400 / 2 = 1200.\n#### 1,200", "So $1200 are left", True),
    ("Tom runs 5 km on 6 days. How far?", "5 * 6 = 30\n#### 30", "It is 30, no, 29.", False),
    ("How many is none?", "None.\n#### 0", "I do not know", False),
    ("What is 2 - 9?", "2 - 9 = -7\n#### -7", "-7", True),
]
MMLU_CASES = [("B", "So the answer is (B).", True), ("C", "answer is C, or the answer is (D)", True)]
MMLU_CASES += [("A", "the answer is (J).", False), ("A", "The answer: (A)", False)]


def lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mmlu_row(number: int, letter: str, category: str = "computer science") -> dict:
    options = [str(number + place) for place in range(10)]
    reasoning = f"A: Let's think step by step. It is so. The answer is ({letter})."
    question = f"Which is item {number} of {category}?"
    return {
        **{"question": question, "options": options, "answer": letter},
        **{"category": category, "cot_content": reasoning},
    }


@contextmanager
def told_server(path: Path, told: dict[str, str]) -> Iterator[str]:
    path.write_text(json.dumps(told | {"": "hello"}))
    command = [sys.executable, str(REPO / "tests/servers/told_server.py"), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.fixture
def score(script, demo_model, tmp_path) -> Callable[..., dict]:
    """Score the demo's checkpoint, served by a server that says what it was told; return the summary."""

    def call(task: str, told: dict[str, str], questions: Path, **changes: object) -> dict:
        with told_server(tmp_path / "told.json", told) as url:
            values = {"TASK": task, "QUESTIONS": questions, "TOKENIZER": demo_model, "OUTPUT": tmp_path / "run"}
            done = script("eval_gpqa_v3.sh", "demo", demo_model, BACKEND="openai", SERVERS=url, **values, **changes)
        assert done.returncode == 0, done.stdout + done.stderr
        return read_record(min((tmp_path / "run").rglob("summary.json")), Summary)

    return call


def outcomes(summary: dict) -> list[bool]:
    return [answer["correct"] for answer in summary["answers"]]


def test_gsm8k_in_two_samples(score, tmp_path):
    rows = [{"question": question, "answer": answer} for question, answer, _, _ in GSM8K_CASES]
    told = {question: text for question, _, text, _ in GSM8K_CASES}
    summary = score("gsm8k_cot_zeroshot", told, lines(tmp_path / "gsm8k.jsonl", rows), SAMPLES=2)
    assert outcomes(summary) == [right for *_, right in GSM8K_CASES]
    assert summary["invalid"] == {"no letter": 1} and summary["patch_expected_by_chance"] == 0
    runs = sorted((tmp_path / "run").iterdir())
    protocols = [read_json(run / "run.json")["protocol"] for run in runs]
    assert [protocol["seed"] for protocol in protocols] == [42, 43]
    assert {protocol["task"] for protocol in protocols} == {"gsm8k_cot_zeroshot"}
    compare_scores.main(["--runs", *map(str, runs), "--output", str(tmp_path / "scores.md")])
    (row,) = read_json(tmp_path / "scores.json")["rows"]
    assert row["seeds"] == [42, 43] and row["pass_at"] == {"1": 0.6, "2": 0.6}


def test_one_subject_of_mmlu_pro_with_its_shots(score, tmp_path):
    """A file of all subjects will do: lm-eval keeps those of the task, and so do we."""
    rows = [mmlu_row(number, letter) for number, (letter, *_) in enumerate(MMLU_CASES)]
    told = {row["question"]: text for row, (_, text, _) in zip(rows, MMLU_CASES)}
    questions = lines(tmp_path / "mmlu.jsonl", [mmlu_row(50, "A", "law"), *rows])
    examples = lines(tmp_path / "shots.jsonl", [mmlu_row(100 + n, "C") for n in range(5)] + [mmlu_row(7, "A", "law")])
    summary = score("mmlu_pro_computer_science", told, questions, EXAMPLES=examples)
    run, task = tmp_path / "run", tmp_path / "run/task"
    assert read_run(run)["question_file_sha256"] == sha256_file(questions)
    assert read_run(run)["examples_file_sha256"] == sha256_file(examples)
    answers, protocol = read_answers(run / "answers.jsonl"), recorded_protocol(run, read_run(run)["protocol"])
    for document in read_frozen(task):
        digest = request_digest(document, protocol, read_shots(task))
        assert digest == answers[document["Record ID"]].request_sha256
    assert outcomes(summary) == [right for *_, right in MMLU_CASES]
    assert summary["patch_expected_by_chance"] == pytest.approx(0.1) and summary["invalid"] == {"no letter": 1}


def test_gpqa_main_asks_as_diamond_does(tmp_path):
    few = tmp_path / "few.csv"
    with open(DEMO / "eval_questions.csv", newline="") as source, open(few, "w", newline="") as target:
        csv.writer(target).writerows(list(csv.reader(source))[:4])
    for task in ("gpqa_main_cot_zeroshot", "gpqa_diamond_cot_zeroshot"):
        freeze_questions.main(["--questions", str(few), "--output", str(tmp_path / task), "--task", task])
        assert "gpqa_cot_zeroshot_yaml" in Path(tmp_path / task / f"{task}_frozen.yaml").read_text().replace(
            "gpqa_main_cot_zeroshot.yaml", "_gpqa_cot_zeroshot_yaml"
        )
    assert read_frozen(tmp_path / "gpqa_main_cot_zeroshot") == read_frozen(tmp_path / "gpqa_diamond_cot_zeroshot")


def test_bad_tasks_and_rows_are_refused(tmp_path, refusal):
    good = {"question": "q", "answer": "#### 1"}
    for task, rows, words in (
        ("hellaswag", [good], ["TASK", "gsm8k_cot_zeroshot", "hellaswag"]),
        ("gsm8k", [good], ["'gsm8k'", "did you mean gsm8k_cot_zeroshot?"]),
        ("gsm8k_cot_zeroshot", [{"question": "q"}], ["the column 'answer'"]),
        ("gsm8k_cot_zeroshot", [good | {"answer": 3}], ["a text as 'answer' in question 1"]),
        ("gsm8k_cot_zeroshot", [good | {"Record ID": "x"}] * 2, ["every Record ID once"]),
        ("mmlu_pro_math", [mmlu_row(1, "A") | {"options": [1]}], ["a list of texts"]),
        ("mmlu_pro_math", [mmlu_row(1, "A") | {"options": "abc"}], ["a list of texts"]),
        ("mmlu_pro_math", [mmlu_row(1, "b")], ["a letter A to J as 'answer' in question 1", "'b'"]),
        ("mmlu_pro_math", [mmlu_row(1, "A") | {"question": " "}], ["a text as 'question'"]),
        ("gsm8k_cot_zeroshot", [good | {"Record ID": "a\nb"}], ["a Record ID in one line"]),
        ("mmlu_pro_math", [mmlu_row(1, "A", "law")], ["questions of the task", "none"]),
        ("mmlu_pro_law", [mmlu_row(1, "A", "law")], ["EXAMPLES", "few shots"]),
    ):
        arguments = ["--questions", lines(tmp_path / "rows.jsonl", rows), "--output", tmp_path / "task", "--task", task]
        refusal(freeze_questions.main, arguments, *words)


def test_numbers_as_lm_eval_reads_them():
    cases = {"1,200 or $5.": "$5.", "no": None, "3 of 12": "12", "-7": "-7"}
    assert {text: GSM8K.read(text, {}) for text in cases} == cases
    assert GSM8K.right("$1,200.", "1200") and not GSM8K.right(None, "0") and not GSM8K.right("12", "1.2")


COMMA, WORDS = "punctuation:no_comma", "length_constraints:number_words"
# Prompts with their instructions and values, what the server says, and which are followed, strictly and loosely.
IFEVAL_CASES = [
    ("Say yes, without commas.", {COMMA: {}}, "yes", "1", "1"),
    ("Say more.", {COMMA: {}, WORDS: {"num_words": 3, "relation": "at least"}}, "Here:,\nthat is more", "01", "11"),
    ("Say it in quotes.", {"startend:quotation": {}}, '*"It is said"*', "0", "1"),
    ("Dis-le.", {"language:response_language": {"language": "fr"}}, "C'est ce que je voulais dire.", "1", "1"),
]


def ifeval_row(number: int, prompt: str, instructions: dict) -> dict:
    names = {"instruction_id_list": list(instructions), "kwargs": list(instructions.values())}
    return {"key": number, "prompt": prompt, **names}


def test_ifeval_by_both_readings(score, tmp_path):
    rows = [ifeval_row(number, prompt, own) for number, (prompt, own, *_) in enumerate(IFEVAL_CASES)]
    told = {prompt: text for prompt, _, text, *_ in IFEVAL_CASES}
    summary = score("ifeval", told, lines(tmp_path / "ifeval.jsonl", rows))
    found = [(answer["letter"], answer["loose"]) for answer in summary["answers"]]
    assert found == [(strict, loose) for *_, strict, loose in IFEVAL_CASES] and summary["raw_correct"] == 2
    compare_scores.main(["--runs", str(tmp_path / "run"), "--output", str(tmp_path / "scores.md")])
    (row,) = read_json(tmp_path / "scores.json")["rows"]
    assert row["followed"] == {"asked": 5, "strict": 3, "loose": 5, "prompts_loose": 4}
    run = read_run(tmp_path / "run")
    answers, protocol = read_answers(tmp_path / "run/answers.jsonl"), recorded_protocol(tmp_path, run["protocol"])
    for document in read_frozen(tmp_path / "run/task"):
        assert request_digest(document, protocol, []) == answers[document["Record ID"]].request_sha256


def test_instructions_that_cannot_be_checked_are_refused(tmp_path, refusal):
    sentences = {"length_constraints:number_sentences": {"num_sentences": 3, "relation": "at least"}}
    for instructions, words in (
        ({"be:nice": {}}, ["instructions of lm-eval's IFEval in question 1", "be:nice"]),
        ({WORDS: {"num_words": 3}}, [f"the values num_words, relation of {WORDS}", "num_words"]),
        ({WORDS: {"num_words": 3, "relation": "about"}}, [f"values that {WORDS} can have", "supported relation"]),
        ({COMMA: {"why": "so"}}, [f"the values none of {COMMA}", "why"]),
        ({WORDS: {"num_words": -3, "relation": "at least"}}, [f"a value that {WORDS} can have as num_words", "-3"]),
        ({"keywords:existence": {"keywords": "abc"}}, ["can have as keywords in question 1", "'abc'"]),
        ({"keywords:existence": {"keywords": [1]}}, ["values that keywords:existence can have"]),
        ({"keywords:existence": {"keywords": ["a", "(a+)+b"]}}, ["plain words as keywords", "(a+)+b"]),  # 2^n steps
        ({"language:response_language": {"language": "xx"}}, ["values that language:response_language can have"]),
        *([] if HAS_PUNKT else [(sentences, ["nltk", "punkt_tab", "in question 1", "nltk.downloader"])]),
    ):
        questions = lines(tmp_path / "rows.jsonl", [ifeval_row(1, "Do.", instructions)])
        arguments = ["--questions", questions, "--output", tmp_path / "task", "--task", "ifeval"]
        refusal(freeze_questions.main, arguments, *words)


@pytest.mark.parametrize("value", ["ten", None])
def test_frozen_instructions_that_no_check_takes_are_one_line(tmp_path, value):
    """Whoever edits them can write the new digest into the run's records, too."""
    questions = lines(
        tmp_path / "rows.jsonl", [ifeval_row(1, "Do.", {WORDS: {"num_words": 3, "relation": "at least"}})]
    )
    call(freeze_questions.main, "--questions", questions, "--output", tmp_path / "task", "--task", "ifeval")
    frozen = tmp_path / "task/frozen.jsonl"
    record = {"protocol": {"task": "ifeval"}, "questions_sha256": sha256_file(frozen)}
    assert len(read_asked(tmp_path, record)) == 1
    frozen.write_text(frozen.read_text().replace('"num_words": 3', f'"num_words": {json.dumps(value)}'))
    with pytest.raises(InputError, match="frozen.jsonl: expected .*value"):
        read_asked(tmp_path, record | {"questions_sha256": sha256_file(frozen)})
