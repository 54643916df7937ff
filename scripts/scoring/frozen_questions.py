"""The documents of lm-eval's task: the questions of a file, their choices in the order of a seed.

freeze_questions.py writes them. check_release.py makes them again, to know that a run was asked these questions.
"""

from pathlib import Path

from chats.question_words import Words
from chats.questions import Question, check_record_id, clean_choice, load_questions, read_questions_of, read_rows
from files.input_errors import InputError
from scoring.eval_tasks import EvalTask
from scoring.ifeval import whole_rows

SHOT = "cot_content"  # the column of a few shot's reasoning
GPQA_ORDER = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3", "Correct Answer")


def frozen_row(question: Question, row: dict[str, str]) -> dict:
    """Return the document that the task's templates read, from a question and its row in the question file."""
    choices = {f"choice{i}": choice for i, choice in enumerate(question.choices, start=1)}
    unshuffled = [clean_choice(row[column]) for column in GPQA_ORDER]
    return {
        "Record ID": question.record_id,
        "Question": question.text,
        **choices,
        "choices": list(question.choices),
        "order": [unshuffled.index(choice) for choice in question.choices],
        "answer": f"({question.letter})",
        "prompt": question.prompt,
    }


def frozen_documents(path: Path, seed: int) -> list[dict]:
    """Return the documents of a question file in its order; raise InputError when it is none, or asks one twice."""
    questions = load_questions(path, seed)
    first: dict[tuple[Words | str, ...], str] = {}
    for question in questions:  # a score counts questions: one in two spellings would be two
        other = first.setdefault(question.words, question.record_id)
        if other != question.record_id:
            raise InputError(path, "every question once", f"{question.record_id} in the words of {other}")
    return [frozen_row(question, row) for question, row in zip(questions, read_rows(path))]


def documents_of(path: Path, task: EvalTask, seed: int) -> list[dict]:
    """Return the documents of a task from a file of its questions; seed: of the order of GPQA's choices."""
    return frozen_documents(path, seed) if task.is_gpqa else other_documents(path, task)


def other_documents(path: Path, task: EvalTask, shots: bool = False) -> list[dict]:
    """Return the documents of a task that is none of GPQA's: the file's rows, with their ids, prompts and targets.

    shots: whether the rows are few shots, which have a reasoning. A row without an id in the column Record ID is known
    by its number. Raises InputError on a row that is no question.
    """
    documents: list[dict] = []
    for number, row in enumerate(read_questions_of(path, task.columns + (SHOT,) * shots, lists=True), start=1):
        own = {column: row[column] for column in task.columns}
        task.check(path, number, own)
        if task.keeps(row):
            record_id = str(row.get("Record ID") or f"question {number}")
            check_record_id(path, number, record_id)
            # lm-eval's loader wants the same columns in questions and shots.
            shot = {SHOT: str(row[SHOT]) if shots else ""} if task.examples else {}
            asked = {"prompt": task.prompt(row), "target": task.target(row[task.answer])}
            documents.append({"Record ID": record_id, **own, **shot, **asked})
    if len({document["Record ID"] for document in documents}) < max(1, len(documents)):
        raise InputError(path, "questions of the task, every Record ID once", "one twice" if documents else "none")
    return whole_rows(documents) if task.is_ifeval else documents
