"""Multiple-choice questions in GPQA's columns, their frozen order of choices, and their chat form.

Columns and prompt: GPQA (Rein et al., 2023, https://arxiv.org/abs/2311.12022) and the task gpqa_diamond_cot_zeroshot
of lm-evaluation-harness 0.4.13. lm-eval shuffles the choices with the global random state, in an order that depends
on its cache; here the order is drawn once per seed and stored by Record ID.
"""

import csv
import hashlib
import json
import random
import struct
from dataclasses import dataclass
from pathlib import Path

from files.safe_files import InputError

COLUMNS = ("Record ID", "Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
EXPLANATION = "Explanation"
LETTERS = "ABCD"
MAX_TOKENS = 4096  # of a teacher-forced chat, as the model card has it
QUESTION_SEED = 42  # of the order of choices, where nothing else is said


@dataclass(frozen=True)
class Question:
    """One question: id, text, four choices in frozen order, the index of the right one, and the reasoning."""

    record_id: str
    text: str
    choices: tuple[str, str, str, str]
    answer: int
    explanation: str

    @property
    def letter(self) -> str:
        """The letter of the right choice."""
        return LETTERS[self.answer]

    @property
    def prompt(self) -> str:
        """The user message of gpqa_diamond_cot_zeroshot."""
        lines = "\n".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, self.choices))
        return f"What is the correct answer to this question:{self.text}\nChoices:\n{lines}\nLet's think step by step: "

    @property
    def digest(self) -> str:
        """The hex sha256 of prompt, reasoning and letter."""
        return hashlib.sha256("\x1f".join((self.prompt, self.explanation, self.letter)).encode()).hexdigest()


def clean_choice(text: str) -> str:
    """Clean a choice as lm-eval's GPQA task does: outer blanks, WikiHow's ' [title]', double blanks."""
    return text.strip().replace(" [title]", ". ").replace("  ", " ")


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV, Parquet or JSONL file of questions; raise InputError on a missing file or column, or other content."""
    readers = {".csv": _read_csv, ".parquet": _read_parquet, ".jsonl": _read_jsonl}
    if not path.is_file():
        raise InputError(path, "a question file (.csv, .parquet or .jsonl)", "nothing")
    if path.suffix not in readers:
        raise InputError(path, "a question file (.csv, .parquet or .jsonl)", f"the suffix {path.suffix!r}")
    try:
        rows = readers[path.suffix](path)
    except (ValueError, csv.Error, RecursionError, OSError) as error:  # of json, unicode, csv and pyarrow alike
        reason = str(error).splitlines()[0][:200]
        raise InputError(path, f"questions in {path.suffix[1:]} form", reason) from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(path, "rows of questions", "none" if not rows else "other values")
    for number, row in enumerate(rows, start=1):
        missing = [column for column in COLUMNS if column not in row]
        if missing:
            raise InputError(
                path, f"the column {missing[0]!r} in question {number}", f"columns {', '.join(map(repr, row))}"[:300]
            )
    return [{column: "" if value is None else str(value) for column, value in row.items()} for row in rows]


def _read_csv(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def _read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def _read_parquet(path: Path) -> list[dict]:
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise ValueError(str(error)) from error


def load_questions(path: Path, seed: int) -> list[Question]:
    """Return the questions of a file in file order, choices shuffled by `seed`.

    The order is that of `random.seed(seed)` followed by one `random.shuffle([incorrect 1, 2, 3, correct])` per row.
    Raises InputError on empty fields and on a Record ID that occurs twice.
    """
    generator = random.Random(seed)
    questions: list[Question] = []
    seen: set[str] = set()
    for number, row in enumerate(read_rows(path), start=1):
        if any("\ud800" <= character <= "\udfff" for value in row.values() for character in value):
            raise InputError(path, f"text in question {number}", "a lone surrogate, which is half a character")
        for column in COLUMNS:
            if not row[column].strip():
                raise InputError(path, f"a value of {column!r} in question {number}", "an empty field")
        if row["Record ID"] in seen:
            raise InputError(path, "every Record ID once", f"{row['Record ID']!r} twice")
        seen.add(row["Record ID"])
        correct = clean_choice(row["Correct Answer"])
        choices = [clean_choice(row[f"Incorrect Answer {i}"]) for i in (1, 2, 3)] + [correct]
        if len(set(choices)) < len(choices):
            raise InputError(
                path, f"four different choices in question {number} ({row['Record ID']})", "a choice twice"
            )
        generator.shuffle(choices)
        questions.append(
            Question(
                row["Record ID"],
                row["Question"],
                tuple(choices),
                choices.index(correct),
                row.get(EXPLANATION, "").strip(),
            )
        )
    return questions


def read_ids(path: Path) -> set[str]:
    """Return the Record IDs that a question file holds, or that a text file lists, one a line."""
    if path.suffix in (".csv", ".parquet", ".jsonl"):
        return {row["Record ID"] for row in read_rows(path)}
    if not path.is_file():
        raise InputError(path, "a question file or a list of Record IDs", "nothing")
    try:
        ids = {line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()}
    except ValueError as error:
        raise InputError(path, "Record IDs, one a line", str(error)) from error
    if not ids:
        raise InputError(path, "Record IDs, one a line", "none")
    return ids


def question_set_digest(questions: list[Question]) -> str:
    """Return the hex sha256 over ids and digests of all questions, in order."""
    return hashlib.sha256("\n".join(f"{q.record_id} {q.digest}" for q in questions).encode()).hexdigest()


def chat_prompt(tokenizer, question: Question) -> str:
    """Render a question as the model's own chat template does, with thinking on and the answer turn opened.

    Raises InputError when the template fails on it.
    """
    try:
        return tokenizer.apply_chat_template(
            [{"role": "user", "content": question.prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=True,
        )
    except Exception as error:  # a template is a program: it can fail in any way
        raise InputError(
            f"question {question.record_id}",
            "a chat template that renders it",
            f"{type(error).__name__}: {' '.join(str(error).split())}"[:200],
        ) from error


def chat_answer(tokenizer, question: Question) -> str:
    """Return what a right model would write after `chat_prompt`: its reasoning, then the letter.

    The reasoning goes where the template's family thinks: Gemma 4's thought channel, a <think> block, else plain text.
    """
    answer = f"The answer is ({question.letter})."
    thought, template = question.explanation, tokenizer.chat_template
    if "<|channel>" in template:
        return (
            f"<|channel>thought\n{thought}\n<channel|>" if thought else "<|channel>thought\n<channel|>"
        ) + f"{answer}<turn|>"
    end = tokenizer.eos_token or ""
    if "<think>" in template:
        opened = chat_prompt(tokenizer, question).rstrip().endswith("<think>")  # some templates open it themselves
        return f"{'' if opened else f'<think>{chr(10)}'}{thought}\n</think>\n\n{answer}{end}"
    return f"{thought}\n{answer}{end}".lstrip()


@dataclass(frozen=True)
class Sequence:
    """One question as the model reads it: token ids (cut), the first token that counts, whether it was cut."""

    ids: list[int]
    start: int
    truncated: bool

    @property
    def digest(self) -> str:
        """The hex sha256 of the ids as little-endian int32."""
        return hashlib.sha256(struct.pack(f"<{len(self.ids)}i", *self.ids)).hexdigest()


def teacher_forced_sequence(tokenizer, question: Question, max_tokens: int, counted: str) -> Sequence:
    """Return chat prompt + reasoning + answer as ids, cut after `max_tokens`; `counted` is "all" or "answer".

    Raises InputError when nothing of the reasoning or answer is left after the cut.
    """
    prompt, answer = chat_prompt(tokenizer, question), chat_answer(tokenizer, question)
    ids = tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]
    alone = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    start = next((i for i, (a, b) in enumerate(zip(ids, alone)) if a != b), min(len(ids), len(alone)))
    if start >= min(len(ids), max_tokens):
        raise InputError(
            f"question {question.record_id}",
            f"reasoning and answer within {max_tokens} tokens",
            f"a prompt of {start}",
            "raise --max-tokens",
        )
    return Sequence(ids[:max_tokens], start if counted == "answer" else 0, len(ids) > max_tokens)
