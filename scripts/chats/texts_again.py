"""The chats of a measurement, made again: from its questions and a checkpoint's tokenizer and chat template.

A tokenizer or template that is edited for the time of a measurement alone gives numbers over other tokens. No other
digest shows it: question files and weights are the same.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from chats.chat_sequences import MAX_TOKENS, chat_answer, chat_prompt, sequences_digest, teacher_forced_sequence
from chats.chat_tokenizer import load_tokenizer
from chats.questions import Question
from files.input_errors import InputError, sha256_file
from files.json_records import FileRecord, Sha256, read_record
from files.seals import Seal, advice_for, sealing, seals_over

if TYPE_CHECKING:  # importing transformers takes a second
    from transformers import PreTrainedTokenizerBase


class RenderedText(FileRecord):
    """What render_calibration.py records beside a text (FILE.json): the question file whose chats it holds."""

    what: ClassVar[str] = "the record of a text of chats"
    question_file_sha256: Sha256


def texts_digest(checkpoint: Path, questions: list[Question], max_tokens: int = MAX_TOKENS) -> str:
    """Return the `sequences_digest` of all chats, of which the answers count."""
    tokenizer = load_tokenizer(checkpoint)
    return sequences_digest([teacher_forced_sequence(tokenizer, one, max_tokens, "answer") for one in questions])


def calibration_chats(tokenizer: "PreTrainedTokenizerBase", questions: list[Question]) -> list[str]:
    """Return the chats of an imatrix's text, one per question: whole ones, since a model is asked in this form.

    Their frame is measured with them.
    """
    return [chat_prompt(tokenizer, question) + chat_answer(tokenizer, question) for question in questions]


def joined_chats(chats: list[str]) -> str:
    """Return the text of an imatrix of these chats."""
    return "\n".join(chats) + "\n"


def is_named_after(text: Path, questions: Path) -> bool:
    """Tell whether a text has the name that make gives to a question file's chats."""
    return text.name == f"{questions.stem}.txt"


def rendered_from(text: Path) -> str | None:
    """Return the sha256 of the question file whose chats were written as a text, by its sealed record.

    None where nothing shows it: chats do not have all that stands in such a file. Raises InputError where the record
    was edited: a card would change, and nobody be told why.
    """
    record = Path(f"{text}.json")
    if not record.is_file():
        return None
    seals = seals_over(record)
    seal = seals.of_file(record, ("render_calibration",)) if seals else None
    if seal == Seal.BROKEN:
        raise InputError(record, "what render_calibration wrote", seal.value, advice_for(seal))
    if sealing() and seal != Seal.VALID:
        return None
    known = read_record(record, RenderedText)
    return known["question_file_sha256"] if known["sha256"] == sha256_file(text) else None


def analysed_digests(checkpoint: Path, questions: list[Question], max_tokens: int) -> tuple[str, dict[str, str]]:
    """Return the hex sha256 of the chat template, and by Record ID that of the token ids, as statistics hold them."""
    tokenizer = load_tokenizer(checkpoint)
    template = hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()
    return template, {q.record_id: teacher_forced_sequence(tokenizer, q, max_tokens, "all").digest for q in questions}
