"""Questions: their files, the frozen order of choices, and lm-eval's task over them."""

import csv
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import freeze_questions
from chats import questions
from chats.question_words import held_texts, known_by, words_of
from chats.questions import load_questions, read_rows
from conftest import REPO
from files.input_errors import InputError
from scoring.eval_tasks import frozen_name
from scoring.frozen_questions import GPQA_ORDER, frozen_documents
from scoring.lm_eval_samples import read_frozen

import pandas
import pyarrow
import pyarrow.parquet
import pytest


def test_the_order_of_choices_is_that_of_random_shuffle_by_seed(few_questions):
    rows = read_rows(few_questions)
    random.seed(42)
    for row, question in zip(rows, load_questions(few_questions, 42)):
        choices = [row[f"Incorrect Answer {number}"] for number in (1, 2, 3)] + [row["Correct Answer"]]
        random.shuffle(choices)
        assert list(question.choices) == choices
        assert question.choices["ABCD".index(question.letter)] == row["Correct Answer"]


def test_parquet_jsonl_and_csv_give_the_same_questions(few_questions, tmp_path):
    frame = pandas.read_csv(few_questions, dtype=str)
    frame.to_parquet(tmp_path / "few.parquet")
    frame.to_json(tmp_path / "few.jsonl", orient="records", lines=True)
    expected = load_questions(few_questions, 42)
    assert load_questions(tmp_path / "few.parquet", 42) == load_questions(tmp_path / "few.jsonl", 42) == expected
    frame.assign(Question=frame["Question"].str.encode("utf-8")).to_parquet(tmp_path / "bytes.parquet")
    with pytest.raises(InputError, match="texts and numbers in question 1, found bytes, b'"):
        load_questions(tmp_path / "bytes.parquet", 42)


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


# Loads tasks as lm-eval does. For every state of the cache of `datasets` it prints how many documents there are, and
# how many have a target that is not the right choice of their own prompt. argv: the tasks' folder, a JSON of right
# choices.
MATCH = """
import json, pathlib, sys
import datasets
from lm_eval.tasks import TaskManager
folder, rows = sys.argv[1], json.load(open(sys.argv[2]))
def count(state, name="gpqa_diamond_cot_zeroshot_frozen"):
    task = TaskManager(include_path=folder, include_defaults=False).load([name])["tasks"][name]
    asked, scored = list(task.eval_docs), list(task.eval_docs)  # lm-eval reads them once to ask and once to score
    wanted = [f"{task.doc_to_target(s)} {rows[a['Record ID']]}" for a, s in zip(asked, scored)]
    bad = [a for a, target in zip(asked, wanted) if target not in task.doc_to_text(a)]
    print(state, len(asked), len(bad))
count("cold")
count("warm")
pathlib.Path(folder, "frozen.jsonl").touch()
count("touched")
datasets.disable_caching()
count("off")
count("shuffled", "shuffled")
"""


FROZEN = frozen_name("gpqa_diamond_cot_zeroshot")


def test_prompt_and_target_match_whatever_the_cache_of_datasets_holds(tmp_path):
    questions = REPO / "data/demo/eval_questions.csv"
    freeze_questions.main(["--questions", str(questions), "--output", str(tmp_path / "task")])
    rows = read_rows(questions)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "right.json").write_text(json.dumps({row["Record ID"]: row["Correct Answer"] for row in rows}))
    frozen = (tmp_path / f"task/{FROZEN}.yaml").read_text()
    # The same with lm-eval's own shuffle, which is what freezing is there for.
    (tmp_path / "task/shuffled.yaml").write_text(
        frozen.replace(FROZEN, "shuffled")
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


def test_frozen_questions_that_are_damaged_are_others(few_questions, tmp_path, refusal):
    (tmp_path / "task").mkdir()
    (tmp_path / "answers.jsonl").write_text("{}\n")
    (tmp_path / "task/frozen.jsonl").write_bytes(b"\xff\n")
    arguments = ["--questions", few_questions, "--output", tmp_path / "task"]
    refusal(freeze_questions.main, arguments, "expected answers to the questions of")
    os.truncate(tmp_path / "task/frozen.jsonl", 6 << 30)
    refusal(freeze_questions.main, arguments, "frozen.jsonl: expected at most 1024 MiB")


def test_the_frozen_order_is_kept_by_record_id_and_held_out_questions_keep_it(few_questions, tmp_path, refusal):
    freeze_questions.main(["--questions", str(few_questions), "--output", str(tmp_path / "all")])
    documents = read_frozen(tmp_path / "all")
    for row, document in zip(read_rows(few_questions), documents):
        unshuffled = [row[column] for column in GPQA_ORDER]
        assert [unshuffled[place] for place in document["order"]] == document["choices"]
    held_out = [document["Record ID"] for document in documents[1::2]]
    (tmp_path / "map.json").write_text(json.dumps({"held_out_question_ids": held_out, "layers": {"0": [1]}}))
    arguments = ["--questions", few_questions, "--output", tmp_path / "part", "--held-out-of", tmp_path / "map.json"]
    freeze_questions.main(list(map(str, arguments)))
    assert read_frozen(tmp_path / "part") == documents[1::2]
    for ids, words in (([*held_out, "unknown"], "held-out questions"), (5, "'held_out_question_ids' is a valid list")):
        (tmp_path / "map.json").write_text(json.dumps({"held_out_question_ids": ids, "layers": {"0": [1]}}))
        refusal(freeze_questions.main, arguments, tmp_path / "map.json", words)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"Question": "a\x00b"}, "no control character in 'Question' of question 1, found '\\\\x00'"),
        ({"Explanation": "\x1b[2J"}, "no control character in 'Explanation' of question 1, found '\\\\x1b'"),
        ({"Record ID": "a\nb"}, "a Record ID in one line"),
        ({"Record ID": "x" * 201}, "a Record ID in one line, of at most 200"),
        ({"Question": ["a"]}, "one value per column in question 1"),
        ({"Question": "\ud800"}, "questions in jsonl form"),
    ],
)
def test_a_question_that_cannot_be_shown_is_refused(few_questions, tmp_path, change, words):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(read_rows(few_questions)[0] | change) + "\n")
    with pytest.raises(InputError) as caught:
        load_questions(path, 42)
    assert words.replace("\\\\", "\\") in str(caught.value)


def test_a_number_that_is_none_is_refused(few_questions, tmp_path):
    """Parquet has one for an empty cell; as a text it would be a choice named nan."""
    frame = pandas.read_csv(few_questions, dtype=str)
    frame["Incorrect Answer 1"] = [float("nan"), *range(len(frame) - 1)]
    table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    column = table.schema.get_field_index("Incorrect Answer 1")
    values = pyarrow.array(frame["Incorrect Answer 1"].tolist(), pyarrow.float64(), from_pandas=False)
    pyarrow.parquet.write_table(table.set_column(column, "Incorrect Answer 1", values), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="texts and numbers in question 1, found a number that is none"):
        load_questions(tmp_path / "a.parquet", 42)


@pytest.mark.parametrize("lists", [False, True], ids=["nulls", "dictionary"])
def test_lists_in_a_parquet_file_are_counted_with_all_that_they_hold(lists, few_questions, tmp_path, monkeypatch):
    """A kilobyte of a file could stand for gigabytes."""
    monkeypatch.setattr(questions, "LINES_MIB", 1)
    table = pyarrow.Table.from_pandas(pandas.read_csv(few_questions)[:4])
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 80, pyarrow.int32()), ["x" * 50_000])
    held = texts if lists else pyarrow.nulls(400_000)
    offsets = pyarrow.array([0, *[len(held) // 4 * number for number in (1, 2, 3)], len(held)], pyarrow.int32())
    table = table.append_column("More", pyarrow.ListArray.from_arrays(offsets, held))
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    with pytest.raises(InputError, match="a.parquet: expected at most 1 MiB of questions"):
        read_rows(tmp_path / "a.parquet")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_file_of_too_many_questions_is_refused(few_questions, tmp_path, monkeypatch, suffix):
    """A file of a few KB can hold millions."""
    monkeypatch.setattr(questions, "MOST_QUESTIONS", 40)
    frame, path = pandas.read_csv(few_questions), tmp_path / f"a.{suffix}"
    write = {
        "csv": lambda rows: rows.to_csv(path, index=False),
        "jsonl": lambda rows: rows.to_json(path, orient="records", lines=True),
        "parquet": lambda rows: rows.to_parquet(path),
    }[suffix]
    rows = pandas.concat([frame] * 41, ignore_index=True)
    write(rows[:40])
    assert len(read_rows(path)) == 40
    write(rows[:41])
    with pytest.raises(InputError, match="expected at most 40 questions, found more"):
        read_rows(path)


def test_a_parquet_file_that_grows_in_memory_is_refused(few_questions, tmp_path, monkeypatch):
    """One long text in every row is stored once."""
    monkeypatch.setattr(questions, "LINES_MIB", 8)
    row = pandas.read_csv(few_questions)[:1].assign(Question="x" * 200_000)
    pandas.concat([row] * 100).to_parquet(tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 1_000_000
    with pytest.raises(InputError, match="expected at most 8 MiB of questions"):
        read_rows(tmp_path / "a.parquet")


def test_a_dictionary_in_a_parquet_file_is_counted_as_the_texts_that_it_stands_for(
    few_questions, tmp_path, monkeypatch
):
    monkeypatch.setattr(questions, "LINES_MIB", 8)
    row = pandas.read_csv(few_questions)[:1]
    frame = pandas.concat([row.assign(Question="x" * 200_000)] * 100).astype({"Question": "category"})
    frame.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="expected at most 8 MiB of questions"):
        read_rows(tmp_path / "a.parquet")
    few = pandas.read_csv(few_questions)
    few.astype({"Subdomain": "category"}).to_parquet(tmp_path / "b.parquet")
    assert load_questions(tmp_path / "b.parquet", 42) == load_questions(few_questions, 42)


def test_a_cell_too_many_is_refused(few_questions, tmp_path):
    """A comma that should stand in quotes shifts all the cells behind it."""
    head, first, *_ = few_questions.read_text().splitlines()
    (tmp_path / "a.csv").write_text(f"{head}\n{first},more\n")
    with pytest.raises(InputError, match=r"one value per column in question 1, found \['more'\]"):
        load_questions(tmp_path / "a.csv", 42)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_two_columns_of_one_name_are_refused(few_questions, tmp_path, suffix):
    """The last would count, without a word. Those without a name, of which a sheet may have many, do not."""
    rows = [row + ["", ""] for row in csv.reader(few_questions.read_text().splitlines())]
    write_columns(tmp_path / f"a{suffix}", rows)
    assert load_questions(tmp_path / f"a{suffix}", 42) == load_questions(few_questions, 42)
    rows[0][-1] = "Question"
    write_columns(tmp_path / f"b{suffix}", rows)
    with pytest.raises(InputError, match="found the column 'Question' twice"):
        load_questions(tmp_path / f"b{suffix}", 42)


def write_columns(path: Path, rows: list[list[str]]) -> None:
    """Write a question file; rows: the names of the columns, then their values."""
    if path.suffix == ".parquet":
        columns = [pyarrow.array(column[1:]) for column in zip(*rows)]
        pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, names=rows[0]), path)
    else:
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows(rows)


SPELLINGS = ["{} _", "{}...", "\u200b{}", "_{}_", "  {}?!"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_question_in_another_spelling_has_the_same_words(few_questions, tmp_path, spelling):
    """It would count as held out, and twice in a score."""
    frame = pandas.read_csv(few_questions, dtype=str)
    other = frame.assign(Question=frame["Question"].map(spelling.format), **{"Record ID": "new" + frame["Record ID"]})
    other.to_csv(tmp_path / "other.csv", index=False)
    ours, theirs = load_questions(few_questions, 42), load_questions(tmp_path / "other.csv", 42)
    assert [one.words for one in ours] == [one.words for one in theirs]
    assert all(held_texts([one.text for one in theirs], " ".join(one.text for one in ours)))
    pandas.concat([frame, other]).to_csv(tmp_path / "both.csv", index=False)
    with pytest.raises(InputError, match="expected every question once, found new"):
        frozen_documents(tmp_path / "both.csv", 42)


@pytest.mark.parametrize(
    "sign", ["\ufe0f", "\u034f", "\u115f", "\u3164", "\u180b", "\u17b4", "\U000e0100", "\u2800", "-"]
)
def test_a_sign_within_a_word_makes_no_other_question(few_questions, tmp_path, sign):
    frame = pandas.read_csv(few_questions, dtype=str)
    within = [text[:7] + sign + text[7:] for text in frame["Question"]]
    frame.assign(Question=within).to_csv(tmp_path / "other.csv", index=False)
    ours, theirs = load_questions(few_questions, 42), load_questions(tmp_path / "other.csv", 42)
    assert [one.words for one in ours] == [one.words for one in theirs]
    assert all(held_texts([one.text for one in theirs], " ".join(one.text for one in ours)))


def test_a_question_of_signs_alone_is_known_by_these():
    assert held_texts(["∀ ∃ ⊂ ?", "∀ ∃ ⊃ ?"], "so: ∀∃  ⊂?") == [True, False]


def test_a_few_letters_are_held_as_words_alone():
    assert held_texts(["an art", "art"], "a part; an Art!") == [True, True]
    assert held_texts(["an art", "art"], "a partisan artist") == [False, False]
    sums = ["0 + 2 = ?", "Compute 4 - 2.", "Compute 4/2."]
    assert held_texts(sums, "of 02 and 4 2; compute 4 - 2") == [False, True, False]
    assert held_texts(sums, "Compute 4 / 2, and 0+2=x") == [True, False, True]
    assert held_texts(["Please tell me the result of 4 - 2."], "Please tell me the result of 4 / 2.") == [False]
    assert held_texts(["HNO3 *", "= 7"], "HNO3 or 7") == [True, True]  # a sign that stands between no numbers
    assert held_texts(["Hue of rust?"], "Hue of ru-st? reddish") == [True]  # a hyphen makes two words of one


TOLD = "Please tell me the result of 4{}2."


@pytest.mark.parametrize(
    ("known", "spellings"),
    [
        ("-", ["- -", *"− ‐ ‑ – ― ˗ ➖ -- --- ~ \u1680 -\u200b (-) \u0336 \u2800".split(" ")]),
        ("*", "× · ✕ ✖ • ** \u00d7\ufe0f".split()),
        ("/", "÷ ∕ ➗ : // ./.".split()),
        ("+", "＋ ➕ ⁺".split()),
        ("<", "≮ << ‹ ⟨".split()),
    ],
)
def test_a_sign_of_arithmetic_in_another_spelling_makes_no_other_question(known, spellings):
    """No list of spellings is whole: a sign that is not known may be any."""
    one, others = words_of(TOLD.format(known)), [sign for sign in "+-*/=<>" if sign != known]
    for sign in spellings:
        assert words_of(TOLD.format(sign)) == one and {words_of(TOLD.format(sign)), one} == {one}, sign
        assert held_texts([TOLD.format(f" {sign} ")], f"Well. {TOLD.format(known)}") == [True], sign
    assert not any(words_of(TOLD.format(sign)) == one for sign in [*others, "", " ", "0"])
    assert held_texts(list(map(TOLD.format, others)), TOLD.format(known)) == [False] * len(others)


def test_a_raised_number_in_another_spelling_makes_no_other_question():
    one = words_of("What is 10⁻³ of 2³?")
    assert one == words_of("What is 10^-3 of 2^3?") == words_of("What is 10^{-3} of 2**3?")
    assert one != words_of("What is 10^3 of 2^3?")


@pytest.mark.parametrize(
    "sign", [" ", "\u2800", "\u3164", "\u200b", "\u00ad", "\u2060", "\u034f", "\uffa0", "\U00016fe4"]
)
def test_what_nobody_sees_is_a_blank_or_nothing(sign):
    """Before a few letters it may be the blank that begins them, within a word it is nothing."""
    assert held_texts(["Is 17 a prime?"], f"Asked in the test{sign}Is 17 a prime?{sign}yes.") == [True]
    assert held_texts(["Is 17 a prime?"], f"I{sign}s 17 a pri{sign}me{sign}") == [True]
    assert held_texts(["Is 17 a prime?"], "Asked in the testis 17 a prime") == [False]
    assert known_by(f"→{sign}?") == known_by("→?")


@pytest.mark.parametrize("blank", [" ", "\u2800", "\u200b \u3164\ufe0f", ""])
def test_a_text_that_shows_nothing_is_empty(few_questions, tmp_path, blank):
    frame = pandas.read_csv(few_questions, dtype=str)
    frame.assign(Explanation=blank).to_csv(tmp_path / "blank.csv", index=False)
    assert {one.explanation for one in load_questions(tmp_path / "blank.csv", 42)} == {""}
    assert not any(map(questions.shows_nothing, ("\u0301", "々", "-", "x")))
    frame.assign(**{"Incorrect Answer 1": blank}).to_csv(tmp_path / "blank.csv", index=False)
    with pytest.raises(InputError, match="a value of 'Incorrect Answer 1' in question 1, found an empty field"):
        load_questions(tmp_path / "blank.csv", 42)


@pytest.mark.parametrize("sign", "① ⒈ ⑴ ¹ ₁ ½ Ⓐ ⓐ 🄐 ™ ℡ ℹ ª º Ⅳ ㆍ ᵃ 问 あ 가 א ا ก 5 ٥ １ 𝟏 ㎏ 𝐈".split(" "))
def test_a_few_letters_are_held_beside_what_makes_no_word_with_them(sign):
    """Python takes each of these for a letter or a digit."""
    assert held_texts(["Is 17 a prime?"], f"The test asks: {sign}Is 17 a prime{sign}? yes.") == [True]
    assert held_texts(["an art"], f"pan art{sign}, {sign}an artist") == [False]
    assert words_of(f"What is{sign}it?") == words_of(f"What is {sign} it?")


def test_letters_with_case_make_one_word_in_any_alphabet():
    for before, after in (("λ", "λ"), ("Ж", "ж"), ("þ", "ß"), ("th", "d")):
        assert held_texts(["Is 17 a prime?"], f"{before}Is 17 a prime, is 17 a prime{after}") == [False]
    assert held_texts(["Has 17 a divisor?"], "117 has 17 a divisor? Has 17 a divisor") == [True]
    assert held_texts(["Is it 7"], "is it 72, is it ٧7 or is it 7٧?") == [False]
    assert words_of("What is 10² - 5?") == words_of("What is 102 - 5?") != words_of("What is 10-2-5?")


@pytest.mark.parametrize(
    "one, other",
    [
        ("at 25 °C", "at 25 ºC"),
        ("a Thermal™ tape", "a Thermal tape"),
        ("the ∆ of it", "the Δ of it"),
        ("vitamin\u24c7", "vitamin\u00ae"),
        ("typhoid\u0345", "typhoid"),
    ],
)
def test_a_slip_of_typing_makes_no_other_question(one, other):
    assert words_of(one) == words_of(other)


def test_letters_that_are_written_in_two_ways_are_one():
    for other in ("Schro\u0308dinger\u2019s", "Schro\u034f\u0308dinger\u02bcs", "Schr\u00f6dingers"):
        assert words_of(other) == words_of("Schr\u00f6dinger's")
    assert held_texts(["na\u00efve \u00ad co\u200bsts", "STRASSE"], "Nai\u0308ve costs; the Stra\u00dfe.") == [
        True,
        True,
    ]


DATES = [(pyarrow.duration("s"), 2**62), (pyarrow.date32(), 2**31 - 1), (pyarrow.timestamp("us", "No/where"), 5)]


@pytest.mark.parametrize(("kind", "value"), DATES)
def test_a_parquet_date_that_python_has_not_is_one_line(tmp_path, kind, value):
    row = {column: pyarrow.array(["x"]) for column in questions.COLUMNS}
    whole = pyarrow.array([value], pyarrow.int32() if kind == pyarrow.date32() else pyarrow.int64())
    pyarrow.parquet.write_table(pyarrow.table(row | {"Explanation": whole.cast(kind)}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="a.parquet: expected questions in parquet form, found"):
        read_rows(tmp_path / "a.parquet")
