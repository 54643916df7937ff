"""Multiple-choice questions in GPQA's columns, and their frozen order of choices.

Columns and prompt: GPQA (Rein et al., 2023, https://arxiv.org/abs/2311.12022) and the task gpqa_diamond_cot_zeroshot
of lm-evaluation-harness 0.4.13. lm-eval shuffles the choices with the global random state, in an order that depends
on its cache; here the order is drawn once per seed and stored by Record ID.
"""

import csv
import hashlib
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from chats.question_words import Words, known_by, shows_nothing
from files.input_errors import LINES_MIB, RECORD_MIB, STEERING, InputError, check_bounded, read_lines, shown
from files.json_records import parse_json

COLUMNS = ("Record ID", "Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
GPQA_DATASET, GPQA_FILE = "Idavidrein/gpqa", "gpqa_diamond.csv"  # on the Hub, gated
EXPLANATION = "Explanation"
DOMAIN = "High-level domain"
LETTERS = "ABCD"
ID_CHARACTERS = 200
MOST_QUESTIONS = 250_000  # of a file: a short row of it takes ten times its bytes in memory
BATCH_ROWS = 16  # of a Parquet file, read at once
POINTER_BYTES = 8  # what a list of Python takes for any value, none included
QUESTION_SEED = 42  # default seed of the order of choices
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Question:
    """One question: id, text, four choices in frozen order, the index of the right one, and the reasoning."""

    record_id: str
    text: str
    choices: tuple[str, ...]
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
        """The hex sha256 of prompt, reasoning and letter, joined by a character that no text holds."""
        return hashlib.sha256("\x1f".join((self.prompt, self.explanation, self.letter)).encode()).hexdigest()

    @property
    def words(self) -> tuple["Words | str", ...]:
        """What the text and the right choice are known by: a copy under another id is equal."""
        return tuple(map(known_by, (self.text, self.choices[self.answer])))


def clean_choice(text: str) -> str:
    """Clean a choice as lm-eval's GPQA task does: outer blanks, WikiHow's ' [title]', double blanks."""
    return text.strip().replace(" [title]", ". ").replace("  ", " ")


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV, Parquet or JSONL file of questions; raise InputError when that fails or a column is missing."""
    rows = read_questions_of(path, COLUMNS)
    return [{column: "" if value is None else str(value) for column, value in row.items()} for row in rows]


def read_questions_of(path: Path, columns: tuple[str, ...], lists: bool = False) -> list[dict]:
    """Read a file of questions in some task's columns, their values as they are; raise InputError as `read_rows`.

    lists: whether a column may hold them.
    """
    readers = {".csv": _read_csv, ".parquet": _read_parquet, ".jsonl": _read_jsonl}
    if not path.is_file():
        raise InputError(path, "a question file (.csv, .parquet or .jsonl)", "nothing")
    if path.suffix not in readers:
        raise InputError(path, "a question file (.csv, .parquet or .jsonl)", f"the suffix {path.suffix!r}")
    try:
        rows = readers[path.suffix](path)
    # Of json, unicode, csv and pyarrow alike; a Parquet date can be one that Python has not, or of no time zone.
    except (ValueError, csv.Error, RecursionError, OSError, OverflowError, LookupError) as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(path, f"questions in {path.suffix[1:]} form", reason) from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(path, "rows of questions", "none" if not rows else "other values")
    for number, row in enumerate(rows, start=1):
        missing = [column for column in columns if column not in row]
        if missing:
            found = f"columns {', '.join(map(repr, row))}"[:300]
            raise InputError(path, f"the column {missing[0]!r} in question {number}", found)
        # Of a CSV: a list of the cells beyond the last column, which has no name. A comma that should stand in quotes
        # shifts the rest.
        cells = (value for column, value in row.items() if isinstance(value, list | dict) and not (lists and column))
        if odd := next(filter(None, cells), None):
            raise InputError(path, f"one value per column in question {number}", shown(odd))
        # Parquet has columns of bytes beside those of texts; Python would show them as b'...'.
        if (bare := next((value for value in row.values() if isinstance(value, bytes)), None)) is not None:
            raise InputError(path, f"texts and numbers in question {number}", f"bytes, {shown(bare)}")
        if any(isinstance(value, float) and not math.isfinite(value) for value in row.values()):  # an empty cell there
            raise InputError(path, f"texts and numbers in question {number}", "a number that is none (nan)")
    return rows


def _check_columns(names: Sequence[str]) -> None:
    """Raise ValueError for two columns of one name, of which the last would count. Those without a name may be many."""
    if twice := next((name for name, count in Counter(names).items() if name and count > 1), None):
        raise ValueError(f"the column {shown(twice)} twice")


def _read_csv(path: Path) -> list[dict]:
    check_bounded(path, LINES_MIB)
    with open(path, newline="", encoding="utf-8-sig") as file:  # Excel begins a UTF-8 file with a byte-order mark
        rows = csv.DictReader(file)
        _check_columns(rows.fieldnames or [])
        return _bounded(path, rows)


def _read_jsonl(path: Path) -> list[dict]:
    check_bounded(path, LINES_MIB)
    # Not splitlines: it also splits at U+2028 and others, which JSON allows inside a text.
    with open(path, encoding="utf-8") as file:
        return _bounded(path, (parse_json(line) for line in file if line.strip()))


def _read_parquet(path: Path) -> list[dict]:
    import pyarrow.parquet  # slow to import, and few question files are Parquet

    check_bounded(path, LINES_MIB)
    rows: list[dict] = []
    size = 0
    try:
        # Rows of one value take next to no room in a file: what a table of them takes is known only as it is read.
        file = pyarrow.parquet.ParquetFile(path)
        _check_columns(file.schema_arrow.names)
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            if (size := size + sum(map(_bytes_of, batch.columns))) > LINES_MIB << 20:
                raise InputError(path, f"at most {LINES_MIB} MiB of questions", "more")
            rows += _bounded(path, batch.to_pylist(), len(rows))
    except pyarrow.ArrowException as error:
        raise ValueError(str(error)) from error
    return rows


def _bytes_of(column: Any) -> int:
    """Return what a column (pyarrow.Array) takes in Python at least: a dictionary holds one text for many rows."""
    import pyarrow.compute

    kind, room = column.type, POINTER_BYTES * len(column)
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind):
        return room + _bytes_of(column.flatten())
    if pyarrow.types.is_struct(kind):
        return room + sum(map(_bytes_of, column.flatten()))
    if not pyarrow.types.is_dictionary(kind):
        # Of what else can hold others (maps, runs) it is not counted how often it does.
        return room + column.nbytes * (len(column) if kind.num_fields else 1)
    if any(is_kind(kind.value_type) for is_kind in (pyarrow.types.is_string, pyarrow.types.is_large_string)):
        lengths = pyarrow.compute.binary_length(column.dictionary)
        return room + (pyarrow.compute.sum(lengths.take(column.indices)).as_py() or 0)
    return room + column.dictionary.nbytes * len(column)


def _bounded(path: Path, rows: Iterable[dict], before: int = 0) -> list[dict]:
    """Return rows as a list; raise InputError when they are, with those before, more than MOST_QUESTIONS."""
    found = list(islice(rows, MOST_QUESTIONS - before + 1))
    if before + len(found) > MOST_QUESTIONS:
        raise InputError(path, f"at most {MOST_QUESTIONS} questions", "more")
    return found


def load_questions(path: Path, seed: int) -> list[Question]:
    """Return the questions of a file in file order, choices shuffled by `seed`.

    The order is that of `random.seed(seed)` followed by one `random.shuffle([incorrect 1, 2, 3, correct])` per row.
    Raises InputError on an empty field, on two equal choices and on a Record ID that occurs twice.
    """
    generator = random.Random(seed)
    questions: list[Question] = []
    seen: set[str] = set()
    for number, row in enumerate(read_rows(path), start=1):
        _check_text(path, number, row)
        if row["Record ID"] in seen:
            raise InputError(path, "every Record ID once", f"{row['Record ID']!r} twice")
        seen.add(row["Record ID"])
        correct = clean_choice(row["Correct Answer"])
        choices = [clean_choice(row[f"Incorrect Answer {i}"]) for i in (1, 2, 3)] + [correct]
        if len(set(choices)) < len(choices):  # else two letters could be right
            wanted = f"four different choices in question {number} ({row['Record ID']})"
            raise InputError(path, wanted, "a choice twice")
        generator.shuffle(choices)
        explanation = "" if shows_nothing(row.get(EXPLANATION, "")) else row[EXPLANATION].strip()
        questions.append(
            Question(row["Record ID"], row["Question"], tuple(choices), choices.index(correct), explanation)
        )
    return questions


def _check_text(path: Path, number: int, row: dict[str, str]) -> None:
    # JSON can spell half of a surrogate pair. No such text can be written as UTF-8, so it is refused while its
    # place is known.
    if any(map(SURROGATE.search, row.values())):
        raise InputError(path, f"text in question {number}", "a lone surrogate, which is half a character")
    for column in COLUMNS:
        if shows_nothing(row[column]):
            raise InputError(path, f"a value of {column!r} in question {number}", "an empty field")
    for column in (*COLUMNS, EXPLANATION, DOMAIN):
        if control := STEERING.search(row.get(column, "")):
            raise InputError(path, f"no control character in {column!r} of question {number}", repr(control[0]))
    check_record_id(path, number, row["Record ID"])


def check_record_id(path: Path, number: int, name: str) -> None:
    """Raise InputError when a Record ID cannot be printed: it stands in cards and pages."""
    if not name.isprintable() or len(name) > ID_CHARACTERS:
        raise InputError(
            path, f"a Record ID in one line, of at most {ID_CHARACTERS}, in question {number}", shown(name)
        )


def count_without_reasoning(questions: list[Question]) -> int:
    """Return how many questions have no reasoning: their chats are little more than the answer's letter."""
    return sum(not question.explanation for question in questions)


def check_reasonings(path: Path, questions: list[Question]) -> None:
    """Raise InputError when none of a file's questions has a reasoning."""
    if not any(question.explanation for question in questions):
        columns = list(read_rows(path)[0])
        others = f"columns {', '.join(map(repr, columns))}"[:300]
        raise InputError(
            path,
            f"reasonings in the column {EXPLANATION!r} of {len(questions)} questions",
            "none but empty ones" if EXPLANATION in columns else others,
            "the model would read answers alone; if you mean it, --allow-empty-reasoning, "
            "with make ALLOW_EMPTY_REASONING=yes",
        )


def read_domains(path: Path) -> dict[str, str]:
    """Return the domain of each question by Record ID, blanks as underscores; "" where the file names none.

    Raises InputError when one cannot be printed: it is a label in records, tables and pictures.
    """
    return {record_id: "_".join(name.split()) for record_id, name in read_labels(path, DOMAIN).items()}


def read_labels(path: Path, column: str) -> dict[str, str]:
    """Return what a column names for each question by Record ID, a blank between words; "" where it names nothing.

    Raises InputError when one cannot be printed.
    """
    labels = {row["Record ID"]: " ".join(row.get(column, "").split()) for row in read_rows(path)}
    if odd := next((name for name in labels.values() if not name.isprintable()), None):
        raise InputError(path, f"domains that can be printed in {column!r}", shown(odd))
    return labels


def read_ids(path: Path) -> set[str]:
    """Return the Record IDs that a question file holds, or that a text file lists, one per line."""
    if path.suffix in (".csv", ".parquet", ".jsonl"):
        return {row["Record ID"] for row in read_rows(path)}
    if not path.is_file():
        raise InputError(path, "a question file or a list of Record IDs", "nothing")
    try:
        ids = {line.decode("utf-8-sig").strip() for line in read_lines(path, RECORD_MIB)} - {""}
    except ValueError as error:
        raise InputError(path, "Record IDs, one per line", str(error)) from error
    if not ids:
        raise InputError(path, "Record IDs, one per line", "none")
    return ids


def question_set_digest(questions: list[Question]) -> str:
    """Return the hex sha256 over ids and digests of all questions, in order."""
    return hashlib.sha256("\n".join(f"{q.record_id} {q.digest}" for q in questions).encode()).hexdigest()
