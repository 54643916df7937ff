"""The documents of lm-eval's task: the questions of a file, their choices in the order of a seed.

freeze_questions.py writes them. check_release.py makes them again, to know that a run was asked these questions.
"""

from pathlib import Path

from chats.questions import Question, clean_choice, load_questions, read_rows

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
    """Return the documents of a question file in its order; raise InputError when it is none."""
    return [frozen_row(question, row) for question, row in zip(load_questions(path, seed), read_rows(path))]
