"""Small question files for other tasks of lm-eval, in their columns, made of the demo's facts.

The demo has learned one form of question, GPQA's. It can answer gpqa_main, whose questions are of its training. Those
in the forms of GSM8K and MMLU-Pro it has never seen, and of the instructions of IFEval it understands none: it follows
those that its one form of answer happens to follow.
"""

import random
from collections.abc import Callable
from pathlib import Path

from chats.questions import LETTERS
from demo.demo_corpus import SPLIT_SEED, DemoQuestion, csv_row, draw_wrong, render_user
from files.safe_files import write_csv
from files.written_records import write_lines

QUESTIONS, SHOTS = 40, 5
OPERATIONS = ("multiply", "divide", "add")
SUBJECT = "chemistry"
# Words of an instruction, its name and its values; the demo's answer is always "The answer is (X)."
INSTRUCTIONS: list[tuple[str, str, dict]] = [
    ("Use no comma.", "punctuation:no_comma", {}),
    ("Use less than 10 words.", "length_constraints:number_words", {"num_words": 10, "relation": "less than"}),
    ("Use at least 20 words.", "length_constraints:number_words", {"num_words": 20, "relation": "at least"}),
    ("Write the word answer.", "keywords:existence", {"keywords": ["answer"]}),
    ("Do not write (A).", "keywords:forbidden_words", {"forbidden_words": ["A"]}),
    ("Put everything in double quotes.", "startend:quotation", {}),
    ("End with the words: That is all.", "startend:end_checker", {"end_phrase": "That is all."}),
]


def gsm8k_row(question: DemoQuestion, _: random.Random) -> dict:
    """Return a calculation in GSM8K's columns."""
    return {"question": question.text, "answer": f"{question.explanation}.\n#### {question.answer}"}


def mmlu_pro_row(question: DemoQuestion, rng: random.Random) -> dict:
    """Return a fact in MMLU-Pro's columns, with four options."""
    options = [question.answer, *draw_wrong(question, rng)]
    rng.shuffle(options)
    letter = LETTERS[options.index(question.answer)]
    reasoning = f"A: Let's think step by step. {question.explanation}. The answer is ({letter})."
    own = {"question": question.text, "options": options, "answer": letter, "answer_index": LETTERS.index(letter)}
    return own | {"cot_content": reasoning, "category": SUBJECT}


def ifeval_row(question: DemoQuestion, rng: random.Random) -> dict:
    """Return a question of the demo's own form with one or two instructions, in IFEval's columns."""
    choices = [question.answer, *draw_wrong(question, rng)]
    rng.shuffle(choices)
    drawn = rng.sample(INSTRUCTIONS, rng.choice((1, 2)))
    words = " ".join(text for text, *_ in drawn)
    names = {"instruction_id_list": [name for _, name, _ in drawn], "kwargs": [values for *_, values in drawn]}
    return {"key": 0, "prompt": f"{words}\n{render_user(question.text, choices)}", **names}


def drawn_rows(
    questions: list[DemoQuestion], row: Callable[[DemoQuestion, random.Random], dict], count: int, what: str
) -> list[dict]:
    """Return rows of some of the questions; what: for a generator of its own, so that no file depends on another."""
    rng = random.Random(f"{SPLIT_SEED}/{what}")
    return [row(question, rng) for question in rng.sample(questions, count)]


def write_task_questions(training: list[DemoQuestion], folder: Path) -> None:
    """Write the files of four tasks, made of questions that the demo was trained on."""
    sums = [question for question in training if question.group in OPERATIONS]
    facts = [question for question in training if question.group not in OPERATIONS]
    of_subject = [question for question in facts if question.domain.lower() == SUBJECT]
    both = drawn_rows(of_subject, mmlu_pro_row, QUESTIONS + SHOTS, "mmlu_pro")
    write_csv(folder / "gpqa_main.csv", drawn_rows(facts, csv_row, QUESTIONS, "gpqa_main"))
    write_lines(folder / "gsm8k.jsonl", drawn_rows(sums, gsm8k_row, QUESTIONS, "gsm8k"))
    write_lines(folder / "mmlu_pro.jsonl", both[:QUESTIONS])
    write_lines(folder / "mmlu_pro_examples.jsonl", both[QUESTIONS:])
    rows = drawn_rows(facts, ifeval_row, QUESTIONS, "ifeval")
    write_lines(folder / "ifeval.jsonl", [one | {"key": number} for number, one in enumerate(rows)])
