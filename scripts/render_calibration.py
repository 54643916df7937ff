#!/usr/bin/env python3
"""Render questions, reasonings and answers as chat text: the default calibration text of the imatrix.

Inputs:  a checkpoint directory (its tokenizer's chat template); questions in GPQA's columns.
Output:  a text file with special tokens as text, for `llama-imatrix --parse-special`; beside it, FILE.json: its digest
         and that of the question file.
Example: .venv/bin/python scripts/render_calibration.py --model data/demo/model \\
             --questions data/demo/calibration_questions.csv --output build/try/calibration.txt
"""

import argparse
import hashlib
from pathlib import Path

from chats.chat_sequences import token_ids
from chats.chat_tokenizer import load_tokenizer
from chats.questions import QUESTION_SEED, load_questions
from chats.rendered_text import RenderedText
from chats.texts_again import calibration_chats, joined_chats
from files.input_errors import sha256_file
from files.option_types import command_parser, named_path
from files.safe_files import check_apart, run, write_whole
from files.written_records import write_record


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--model", type=Path, required=True, help="checkpoint directory with the tokenizer")
    add("--questions", type=Path, required=True, help="questions in GPQA's columns")
    add("--output", type=named_path, required=True, help="text file to write")
    add = parser.add_argument_group("how questions are shown").add_argument
    add("--seed", type=int, default=QUESTION_SEED, help="seed of the order of choices")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    record = Path(f"{args.output}.json")
    check_apart([args.questions], [args.output, record])
    tokenizer = load_tokenizer(args.model)
    questions = load_questions(args.questions, args.seed)
    chats = calibration_chats(tokenizer, questions)
    # llama-imatrix refuses a text of fewer than two chunks; here one sees how much there is before any model is loaded.
    tokens = sum(len(token_ids(tokenizer, chat, args.model)) for chat in chats)
    text = joined_chats(chats).encode()
    known = {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    # The record comes first: a kill between the two leaves an older text, of which it does not speak.
    write_record(record, {**known, "question_file_sha256": sha256_file(args.questions)}, RenderedText)
    write_whole(args.output, text)
    print(f"{args.output}: {len(chats)} chats, {tokens} tokens")


if __name__ == "__main__":
    run(main)
