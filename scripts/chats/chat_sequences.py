"""Questions as chats: the text that a model's own template makes of one, and the token ids that a model reads.

The analysis, the imatrix's calibration text and every measurement of loss read the same chats, so they are made here.
"""

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chats.questions import Question
from chats.template_sandbox import TemplateFailure, render_chat
from files.input_errors import InputError
from files.json_records import sha256_json
from files.silence import in_a_library

if TYPE_CHECKING:  # importing transformers takes seconds, and only the caller's tokenizer needs it
    from transformers import PreTrainedTokenizerBase

MOST_IDS = 1 << 31  # their digest is over int32
MAX_TOKENS = 4096  # of a teacher-forced chat, as the model card has it


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


def sequences_digest(sequences: list[Sequence]) -> str:
    """Return the hex sha256 over all token ids and starts, as measurements of loss record it (`texts_sha256`)."""
    # The same ids can have another start: the prompt alone can be other tokens than the prompt within its chat.
    return sha256_json([[sequence.digest, sequence.start] for sequence in sequences])


def chat_prompt(tokenizer: "PreTrainedTokenizerBase", question: Question) -> str:
    """Render a question by the model's own chat template, with thinking on and the answer turn opened.

    Raises InputError when the template fails.
    """
    try:
        chat = [{"role": "user", "content": question.prompt}]
        return render_chat(tokenizer, chat, add_generation_prompt=True, enable_thinking=True)
    except TemplateFailure as error:
        what = f"question {question.record_id}"
        raise InputError(what, "a chat template that renders it", str(error)) from error


def chat_answer(tokenizer: "PreTrainedTokenizerBase", question: Question) -> str:
    """Return what a model that is right would write after `chat_prompt`: its reasoning, then the letter.

    The reasoning goes where the model was trained to think: Gemma 4's thought channel, a <think> block, or plain text.
    """
    answer = f"The answer is ({question.letter})."
    thought, template = question.explanation, str(tokenizer.chat_template)
    if "<|channel>" in template:
        # Gemma 4 opens and closes the channel even when it has nothing to think; then there is no line between.
        channel = f"<|channel>thought\n{thought}\n<channel|>" if thought else "<|channel>thought\n<channel|>"
        return f"{channel}{answer}<turn|>"
    end = tokenizer.eos_token or ""
    if "<think>" in template:
        # Some templates write <think> at the end of the prompt. Twice would be text that the model never saw.
        opened = chat_prompt(tokenizer, question).rstrip().endswith("<think>")
        opening = "" if opened else "<think>\n"
        return f"{opening}{thought}\n</think>\n\n{answer}{end}"
    return f"{thought}\n{answer}{end}".lstrip()


def token_ids(tokenizer: "PreTrainedTokenizerBase", text: str, what: object) -> list[int]:
    """Return the ids of a text whose special tokens are written out; raise InputError when the tokenizer fails.

    what: whose text it is, in the message.
    """
    with in_a_library(what, "a text that the tokenizer reads"):  # not verbose: a long text has a line of ours
        ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if max(ids, default=0) >= MOST_IDS:
        raise InputError(what, f"token ids below {MOST_IDS}", str(max(ids)))
    return ids


def teacher_forced_sequence(
    tokenizer: "PreTrainedTokenizerBase", question: Question, max_tokens: int, counted: str
) -> Sequence:
    """Return chat prompt, reasoning and answer as ids, cut after `max_tokens`; `counted` is "all" or "answer".

    Raises InputError when nothing of the reasoning or answer is left after the cut.
    """
    prompt, answer = chat_prompt(tokenizer, question), chat_answer(tokenizer, question)
    # The template has written the special tokens already; the tokenizer would add a second <bos>.
    what = f"question {question.record_id}"
    ids, alone = token_ids(tokenizer, prompt + answer, what), token_ids(tokenizer, prompt, what)
    # A token may span the end of the prompt. The answer then starts with that token, where the two first differ.
    start = next((i for i, (a, b) in enumerate(zip(ids, alone)) if a != b), min(len(ids), len(alone)))
    if start >= min(len(ids), max_tokens):
        raise InputError(
            what, f"reasoning and answer within {max_tokens} tokens", f"a prompt of {start}", "raise --max-tokens"
        )
    return Sequence(ids[:max_tokens], start if counted == "answer" else 0, len(ids) > max_tokens)
