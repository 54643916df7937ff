"""The chats of a measurement, made again: from its questions and a checkpoint's tokenizer and chat template.

A tokenizer or template that is edited for the time of a measurement alone gives numbers over other tokens. No other
digest shows it: question files and weights are the same.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from chats.chat_sequences import MAX_TOKENS, chat_answer, chat_prompt, sequences_digest, teacher_forced_sequence
from chats.chat_tokenizer import load_tokenizer
from chats.questions import Question

if TYPE_CHECKING:  # importing transformers takes a second
    from transformers import PreTrainedTokenizerBase


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


def analysed_digests(checkpoint: Path, questions: list[Question], max_tokens: int) -> tuple[str, dict[str, str]]:
    """Return the hex sha256 of the chat template, and by Record ID that of the token ids, as statistics hold them."""
    tokenizer = load_tokenizer(checkpoint)
    template = hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()
    return template, {q.record_id: teacher_forced_sequence(tokenizer, q, max_tokens, "all").digest for q in questions}
