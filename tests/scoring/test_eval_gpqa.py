"""Evaluation: frozen questions, letters, and a real run of llama-server and lm-eval with the patch step."""

import csv
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
from lm_eval.filters.extraction import MultiChoiceRegexFilter

import freeze_questions
import patch_answers
import summarize_scores
from chats.questions import COLUMNS, load_questions, read_rows
from conftest import REPO
from files.safe_files import InputError
from patch_answers import closed_thought, completion_letter
from scoring.answer_record import (
    Answer,
    append_answer,
    flexible_letter,
    kind_of,
    letter_of,
    read_answers,
    strict_letter,
)
from scoring.eval_protocol import Protocol
from scoring.lm_eval_samples import read_frozen, read_samples
from tiny_models import EXPERTS


def test_the_order_of_choices_is_that_of_random_shuffle_by_seed(few_questions):
    rows = read_rows(few_questions)
    random.seed(42)
    for row, question in zip(rows, load_questions(few_questions, 42)):
        choices = [
            row["Incorrect Answer 1"],
            row["Incorrect Answer 2"],
            row["Incorrect Answer 3"],
            row["Correct Answer"],
        ]
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


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.csv", b"\xff\xfe\x00bad"),
        ("a.jsonl", b"{not json"),
        ("a.jsonl", b"[1, 2]\n"),
        ("a.parquet", b"PAR1 no"),
        ("a.csv", b""),
        ("a.txt", b"text"),
        ("a.csv", b"Record ID,Question\n1,2\n"),
    ],
)
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


def test_the_protocol_is_the_cards_and_every_value_is_in_its_digest():
    protocol = Protocol()
    flags = " ".join(protocol.server_flags)
    assert (
        "-c 32768 -np 1 -ngl 99 --reasoning-format deepseek --reasoning-budget 16384" in flags
        and "--no-cache-prompt" in flags
    )
    assert protocol.gen_kwargs == "temperature=1.0,top_p=0.95,top_k=64,seed=42,dry_multiplier=0.5,max_gen_toks=24576"
    assert protocol.choice_order_seed == 42 and protocol.timeout_seconds > 24576 / 10  # fits ten tokens a second
    assert "-c 131072 -np 4" in " ".join(replace(protocol, concurrency=4).server_flags)
    others = [
        replace(protocol, **{key: value + 1 if isinstance(value, (int, float)) else f"{value}x"})
        for key, value in asdict(protocol).items()
    ]
    assert len({other.digest for other in [protocol, *others]}) == len(others) + 1


@pytest.mark.parametrize(
    "text, flexible, strict",
    [
        ("The answer is (B).", "B", "B"),
        ("So (B), which is (S)-limonene", None, "B"),
        ("The answer is (C), the (E)-isomer.", None, "C"),
        ("**B**", None, "B"),
        ("The answer is **(A)**", "A", "A"),
        (r"\boxed{D}", None, "D"),
        (r"\boxed{\text{C}}", None, "C"),
        ("(A) is wrong. The answer is (B), as (A) was.", "A", "B"),
        ("It is (D)-glucose, hence (A)", "A", "A"),
        ("**C) copper**", None, "C"),
        ("It is a Tin-can.", "B", None),
        ("a tin can", "C", None),
        ("COPPER II", "A", None),
        ("Final answer: B", "B", "B"),
        ("A thing that says nothing", None, None),
        ("", None, None),
        ("**Answer: B**", "B", "B"),
        ("ANSWER: D", "D", "D"),
        ("The answer is `B`, not tin", "B", "B"),
        (r"The answer is \(B\)", None, "B"),
        ("The answer is $C$.", None, "C"),
        (r"The answer is \textbf{(A)}", "A", "A"),
        ("The correct answer is option D.", None, "D"),
        ("B.", None, "B"),
        ("The answer is _B_", None, "B"),
        ("Answer: A-level tin", "B", None),
        ("answer: Because", "B", None),
        ("The correct answer is D-glucose", None, None),
    ],
)
def test_letters_by_lm_evals_filter_and_by_the_strict_rule(text, flexible, strict):
    choices = ["Copper (II)", "tin", "tin can", "lead"]
    assert flexible_letter(text, choices) == flexible
    lm_eval = MultiChoiceRegexFilter(r"(\([A-Z]\))", group_select=-1, ignore_case=True, ignore_punctuation=True)
    assert letter_of(lm_eval.apply([[text]], [{"choices": choices}])[0][0]) == flexible
    assert strict_letter(text, "stop") == strict and strict_letter(text, "length") is None


PIECES = [
    "tin",
    "Tin can",
    "+",
    "-",
    "(",
    "…",
    "İ",
    "ß",
    "10",
    "1.0",
    "A",
    "B",
    "(A)",
    "(S)",
    "\\n",
    ": ",
    ":A",
    ": (B)",
    " ",
    "**",
    "2+",
    "2-",
    "|",
    ":\\u00a0C",
]


def test_letters_are_lm_evals_for_any_choices_of_punctuation_alone_too():
    """A letter that lm-eval sees otherwise would refuse a whole run at its end."""
    draw = random.Random(5)
    choices = [["".join(draw.choices(PIECES, k=draw.randint(1, 3))) for _ in range(4)] for _ in range(3000)]
    texts = ["".join(draw.choices(PIECES, k=draw.randint(0, 7))) + draw.choice(["", *four]) for four in choices]
    lm_eval = MultiChoiceRegexFilter(r"(\([A-Z]\))", group_select=-1, ignore_case=True, ignore_punctuation=True)
    extracted = lm_eval.apply([[text] for text in texts], [{"choices": four} for four in choices])
    assert [flexible_letter(*pair) for pair in zip(texts, choices)] == [letter_of(found[0]) for found in extracted]


@pytest.mark.parametrize(
    "answer, reason, letter, kind",
    [
        ("(B)", "stop", "B", "answered"),
        (" \n", "stop", None, "empty"),
        ("(B) and", "length", "B", "truncated"),
        ("", "length", None, "truncated"),
        ("well", "stop", None, "no letter"),
    ],
)
def test_classes_of_answers(answer, reason, letter, kind):
    assert kind_of(answer, reason, letter) == kind


# Loads tasks as lm-eval does. Prints, for every state of the cache of `datasets`, how many documents there are and how many
# have a target that is not the right choice of their own prompt. argv: the tasks' folder, a JSON of right choices.
MATCH = """
import json, pathlib, sys
import datasets
from lm_eval.tasks import TaskManager
folder, rows = sys.argv[1], json.load(open(sys.argv[2]))
def count(state, name="gpqa_diamond_cot_zeroshot_frozen"):
    task = TaskManager(include_path=folder, include_defaults=False).load([name])["tasks"][name]
    asked, scored = list(task.eval_docs), list(task.eval_docs)  # lm-eval reads them once to ask and once to score
    bad = [a for a, s in zip(asked, scored) if f"{task.doc_to_target(s)} {rows[a['Record ID']]}" not in task.doc_to_text(a)]
    print(state, len(asked), len(bad))
count("cold")
count("warm")
pathlib.Path(folder, "frozen.jsonl").touch()
count("touched")
datasets.disable_caching()
count("off")
count("shuffled", "shuffled")
"""


def test_prompt_and_target_match_whatever_the_cache_of_datasets_holds(tmp_path):
    freeze_questions.main(
        ["--questions", str(REPO / "data/demo/eval_questions.csv"), "--output", str(tmp_path / "task")]
    )
    rows = read_rows(REPO / "data/demo/eval_questions.csv")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "right.json").write_text(json.dumps({row["Record ID"]: row["Correct Answer"] for row in rows}))
    frozen = (tmp_path / f"task/{freeze_questions.TASK}.yaml").read_text()
    (tmp_path / "task/shuffled.yaml").write_text(  # the same with lm-eval's own shuffle: what freezing is there for
        frozen.replace(freeze_questions.TASK, "shuffled")
        .replace("task/frozen.jsonl", "rows.jsonl")
        .replace("process_docs: null\n", "")
    )
    done = subprocess.run(
        [sys.executable, "-c", MATCH, tmp_path / "task", tmp_path / "right.json"],
        text=True,
        capture_output=True,
        env={**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    found = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()[-5:]}
    assert found.pop("shuffled") != ["198", "0"]
    assert found == {state: ["198", "0"] for state in ("cold", "warm", "touched", "off")}


def test_the_frozen_order_is_kept_by_record_id_and_held_out_questions_keep_it(few_questions, tmp_path, refusal):
    freeze_questions.main(["--questions", str(few_questions), "--output", str(tmp_path / "all")])
    documents = read_frozen(tmp_path / "all")
    for row, document in zip(read_rows(few_questions), documents):
        unshuffled = [row[column] for column in freeze_questions.GPQA_ORDER]
        assert [unshuffled[place] for place in document["order"]] == document["choices"]
    held_out = [document["Record ID"] for document in documents[1::2]]
    (tmp_path / "map.json").write_text(json.dumps({"held_out_question_ids": held_out}))
    arguments = ["--questions", few_questions, "--output", tmp_path / "part", "--held-out-of", tmp_path / "map.json"]
    freeze_questions.main(list(map(str, arguments)))
    assert read_frozen(tmp_path / "part") == documents[1::2]
    (tmp_path / "map.json").write_text(json.dumps({"held_out_question_ids": [*held_out, "unknown"]}))
    refusal(freeze_questions.main, arguments, tmp_path / "map.json", "held-out questions")


@pytest.fixture(scope="module")
def tiny_gguf(tiny_text_model, tmp_path_factory, script):
    path = tmp_path_factory.mktemp("eval") / "tiny-F16.gguf"
    done = script("convert_to_gguf.py", "--model", tiny_text_model, "--name", "tiny", "--output", path)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def evaluate(tiny_gguf, tiny_text_model, few_questions, tmp_path_factory, script):
    """Run the evaluation of the tiny model, by default always into one directory."""
    directory = tmp_path_factory.mktemp("evaluated") / "run"

    def call(gguf=tiny_gguf, **environment):
        return directory, script(
            "eval_gpqa_v3.sh",
            "tiny",
            gguf,
            **{
                "QUESTIONS": few_questions,
                "TOKENIZER": tiny_text_model,
                "OUTPUT": directory,
                "CTX": 1024,
                "REASONING_BUDGET": 16,
                "MAX_GEN_TOKS": 48,
                **environment,
            },
        )

    return call


def test_a_random_model_is_scored_patched_and_summed_up(evaluate, few_questions, tmp_path):
    """A model that knows nothing gives invalid answers, and every one of them goes through the patch step."""
    (tmp_path / "drop_map.json").write_text(
        json.dumps({"question_ids": [read_rows(few_questions)[0]["Record ID"], "other"]})
    )
    directory, done = evaluate(CHOSEN_BY=tmp_path / "drop_map.json")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((directory / "summary.json").read_text())
    assert (
        result["questions"] == 6
        and result["experts"] == EXPERTS
        and result["in_sample"] == {"chosen_on": 2, "scored_and_chosen_on": 1}
    )
    invalid = [answer for answer in result["answers"] if answer["class"] != "answered"]
    assert invalid and len(invalid) == result["invalid_total"] == sum(result["invalid"].values())
    assert all(("patched_letter" in answer) == (answer in invalid) for answer in result["answers"])
    assert result["patch_expected_by_chance"] == sum(0.25 - answer["correct"] for answer in invalid)
    assert result["patched_correct"] == sum(
        answer.get("patched_correct", answer["correct"]) for answer in result["answers"]
    )
    questions = {question.record_id: question for question in load_questions(few_questions, 42)}
    for answer in result["answers"]:
        assert answer["target"] == questions[answer["record_id"]].letter and answer["completion_tokens"] <= 48
        assert (answer["class"] == "truncated") == (answer["completion_tokens"] == 48)
        assert questions[answer["record_id"]].text not in (directory / "summary.json").read_text()
    assert (
        result["protocol_sha256"] == Protocol(**result["protocol"]).digest
        and result["protocol_sha256"][:16] in done.stdout
    )
    for sample in read_samples(directory):
        assert (
            sample.prompt == questions[sample.record_id].prompt and sample.target == questions[sample.record_id].letter
        )


def edit_first_answer(directory, key: str, value: object) -> None:
    """Change what is recorded of the first invalid answer."""
    rows = [json.loads(line) for line in (directory / "answers.jsonl").read_text().splitlines()]
    next(row for row in rows if row["kind"] != "answered")[key] = value
    (directory / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("kind", "answered", "the class"),
        ("correct", True, "letter None"),
        ("letter", "A", ""),
        ("target", "E", "target E"),
        ("prompt_sha256", "0", "digest of its prompt"),
        ("answer", "The answer is (A).", "another text"),
        ("completion_tokens", "7", "completion_tokens '7'"),
        ("errors", None, "errors None"),
        ("record_id", "another", "recorded questions"),
    ],
)
def test_an_edited_answer_is_told(evaluate, tiny_gguf, tmp_path, refusal, key, value, words):
    directory = shutil.copytree(evaluate(gguf=tmp_path / "none.gguf")[0], tmp_path / "run")
    edit_first_answer(directory, key, value)
    refusal(summarize_scores.main, ["--run", directory, "--gguf", tiny_gguf], words)


def test_patched_answers_of_another_run_count_for_nothing(evaluate, tiny_gguf, tmp_path, refusal):
    directory = shutil.copytree(evaluate(gguf=tmp_path / "none.gguf")[0], tmp_path / "run")
    arguments = ["--run", str(directory), "--gguf", str(tiny_gguf)]
    whole = json.loads((directory / "patched.json").read_text())
    claimed = [entry | {"letter": "A", "correct": True} for entry in whole["answers"]]
    other = whole | {"run": whole["run"] | {"gguf_sha256": "another"}, "answers": claimed}
    (directory / "patched.json").write_text(json.dumps(other))
    refusal(summarize_scores.main, arguments, "patched answers of this run")
    patch_answers.main(arguments)
    assert json.loads((directory / "patched.json").read_text()) == whole
    (directory / "patched.json").write_text(
        json.dumps(whole | {"answers": [*whole["answers"][1:], {"record_id": "unknown", "class": "empty"}]})
    )
    patch_answers.main(arguments)  # one is missing and one too many
    assert sorted(json.loads((directory / "patched.json").read_text())["answers"], key=str) == sorted(
        whole["answers"], key=str
    )
    summarize_scores.main(arguments)


def test_half_an_answer_never_stays(tmp_path):
    """A disk that fills up amid a line: the next answer begins a line of its own."""
    answer = Answer("r", "", "", "text", "", "stop", 1, 1, 0.0, 0.0, 1, [], "A", "A", True, "answered")
    path, limit = tmp_path / "answers.jsonl", len(json.dumps(asdict(answer))) + 20
    append_answer(path, answer)
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); sys.path.insert(0, sys.argv[2])\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "from pathlib import Path; from scoring.answer_record import *; path = Path(sys.argv[1]); append_answer(path, *read_answers(path).values())"
    )
    done = subprocess.run([sys.executable, "-c", script, path, REPO / "scripts"], text=True, capture_output=True)
    assert done.returncode != 0 and "disk" in done.stderr, done.stderr
    assert (
        list(read_answers(path).values()) == [answer]
        and path.read_bytes().endswith(b"\n")
        and path.stat().st_size < limit
    )


def test_results_of_another_model_protocol_or_question_set_are_refused(
    evaluate, tiny_gguf, few_questions, tmp_path, refused
):
    directory = evaluate(gguf=tmp_path / "none.gguf")[0]  # where the test before left its results
    answers, frozen = ((directory / name).read_text() for name in ("answers.jsonl", "task/frozen.jsonl"))
    other = tmp_path / "other.gguf"
    other.write_bytes(tiny_gguf.read_bytes() + bytes(32))
    refused(evaluate(gguf=other)[1], "answers of the model", "remove the directory")
    refused(evaluate(NP=2)[1], "concurrency 2", "under 1")
    refused(evaluate(SEED=7)[1], "answers to the questions", "by seed 7")
    (tmp_path / "fewer.csv").write_text("".join(few_questions.read_text().splitlines(keepends=True)[:6]))
    refused(evaluate(QUESTIONS=tmp_path / "fewer.csv")[1], "answers to the questions")
    assert (
        directory / "task/frozen.jsonl"
    ).read_text() == frozen  # the patch step and the summary go on with the old ones
    assert (directory / "answers.jsonl").read_text() == answers and (directory / "summary.json").exists()


def test_bad_input_is_refused_in_one_line(evaluate, tiny_gguf, tmp_path, refused):
    run = {"OUTPUT": tmp_path / "run"}
    refused(evaluate(gguf=tmp_path / "none.gguf", **run)[1], tmp_path / "none.gguf")
    refused(evaluate(QUESTIONS=tmp_path / "none.csv", **run)[1], tmp_path / "none.csv")
    with open(tmp_path / "columns.csv", "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS[:-1], ["x"] * (len(COLUMNS) - 1)])
    refused(evaluate(QUESTIONS=tmp_path / "columns.csv", **run)[1], "Incorrect Answer 3")
    with open(tmp_path / "twice.csv", "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, ["x", "q", *"abcd"], ["x", "r", *"abcd"]])
    refused(evaluate(QUESTIONS=tmp_path / "twice.csv", **run)[1], "every Record ID once", "'x' twice")
    (tmp_path / "broken.gguf").write_bytes(tiny_gguf.read_bytes()[:20000])
    refused(evaluate(gguf=tmp_path / "broken.gguf", **run)[1], tmp_path / "broken.gguf", "llama-server loads")
    refused(evaluate(CTX="many", **run)[1], "--context", "'many'")
    refused(evaluate(PORT=65536, **run)[1], "PORT", "65536")
    refused(evaluate(TOKENIZER="a,b", **run)[1], "TOKENIZER", "a,b")
    assert not (tmp_path / "run/summary.json").exists()
