#!/usr/bin/env python3
"""Measure what pruning and each quant cost on held-out chats: KL divergence, same top token, next token's probability.

Inputs:  the F16 GGUF of the full model and of the pruned one; quants of the pruned one with their records (FILE.json);
         the full checkpoint's tokenizer and chat template; questions in GPQA's columns; the calibration text and the
         questions that chose the experts, whose chats are left out: a question file, or the drop map that names them.
Output:  TABLE.md and beside it the same name as .json (every number, digests, versions) and .png (size against loss).
Example: .venv/bin/python scripts/measure_quality.py --full build/gemma-4-demo/full/f16/gemma-4-demo-F16.gguf \\
             --pruned build/gemma-4-demo/109e/f16/gemma-4-demo-109e-F16.gguf \\
             --gguf build/gemma-4-demo/109e/gguf/gemma-4-demo-109e-Q6_K.gguf \\
             --model data/demo/model --questions data/demo/eval_questions.csv --limit 16 \\
             --calibration build/gemma-4-demo/full/statistics/calibration_questions/calibration_questions.txt \\
             --chose data/demo/calibration_questions.csv --cache build/try/quality-cache --output build/try/quality.md

Three losses per file: pruning (pruned F16 against full F16), quantisation (quant against pruned F16), total (quant
against full F16). Chats are teacher-forced, with special tokens as tokens. The tokens of the replies count, or all
(--score). Statistics: losses/kld_statistics.py.

Both F16 models run once. Their logits stay in the cache, 4 bytes per token and vocabulary entry, and so do each file's
results, by its digest. So a killed run continues, and a further quant costs its own pass alone.
"""

import argparse
import importlib.metadata
from contextlib import ExitStack
from pathlib import Path

from chats.chat_sequences import teacher_forced_sequence
from chats.chat_tokenizer import load_tokenizer
from chats.questions import (
    QUESTION_SEED,
    Question,
    count_without_reasoning,
    load_questions,
    question_set_digest,
    read_ids,
)
from choice.drop_map import question_ids_of
from choice.drop_metadata import read_method
from files.input_errors import InputError, read_words, sha256_file
from files.known_digests import known_sha256
from files.option_types import command_parser, output_file
from files.run_state import RunState
from files.safe_files import check_apart, gib, replace_when_done, require_disk_space, run
from files.written_records import write_record
from llama.bindings import bindings_version
from llama.llama_tools import LlamaCpp, find_llama_cpp
from losses.chat_masks import Arrays, Chats, chats_of, unseen_questions
from losses.quality_conclusions import Measured, quality_conclusions
from losses.quality_page import quality_page
from losses.quality_picture import draw_quality
from losses.quality_record import Quality, no_reasoning_in_words
from losses.scored_chats import add_chat_arguments, against
from losses.stored_logits import StoredLogits, missing_texts, open_model, progress, stored_bytes
from losses.stored_results import (
    PRUNING_NAME,
    kept,
    measured_of,
    quant_labels,
    results_folder,
    results_path,
    write_chats,
)
from quants.quant_record import read_held_gguf

DIGITS = 12  # of a digest, in messages


def read_quant_of(path: Path, source_sha256: str) -> dict:
    """Return a quant's record; raise InputError unless it belongs to this file, and the file to the pruned model."""
    record = read_held_gguf(path)  # whose bytes are read: an edited file must not get the results of another
    if record["source_sha256"] != source_sha256:
        raise InputError(
            path,
            f"a quant of the model with sha256 {source_sha256[:DIGITS]}",
            f"one of {record['source_sha256'][:DIGITS]}",
            "build it again",
        )
    return record


def measure_file(
    path: Path,
    label: str,
    record: dict,
    tools: LlamaCpp,
    references: dict[str, StoredLogits],
    chats: Chats,
    pruning: Arrays,
    folder: Path,
    args: argparse.Namespace,
) -> Measured:
    """Return what one quant costs, from its file of results where there is one."""

    # The model is loaded only where its results are missing.
    def compute() -> Arrays:
        with open_model(path, tools, chats.texts, args) as model:
            return against(references, lambda number: model.chunks(chats.texts[number]), chats.texts)

    arrays = kept(results_path(folder, record["sha256"]), compute, references, int(chats.counts["all"].sum()))
    return measured_of(label, record, arrays, pruning, chats, args.score)


def plan_room(args: argparse.Namespace, folders: dict[str, Path], chats: Chats) -> None:
    """Print how much disk the logits take; raise InputError when there is no room for those still to be computed."""
    whole = missing = 0
    for name, path in (("full", args.full), ("pruned", args.pruned)):
        whole += stored_bytes(path, chats.texts)
        missing += stored_bytes(
            path, [chats.texts[number] for number in missing_texts(folders[name], name, chats.texts)]
        )
    print(
        f"logits of both F16 models over {sum(map(len, chats.texts))} tokens: {gib(whole)} GiB, {gib(missing)} GiB of "
        "them to be computed",
        flush=True,  # before hours of work, also into a log file
    )
    require_disk_space(args.cache, missing)


def read_chose(path: Path | None) -> set[str]:
    """Return the Record IDs of the questions that chose the experts, none where that is not known."""
    if path is None:
        return set()
    return set(question_ids_of(read_method(path))) if path.suffix == ".json" else read_ids(path)


def read_questions(args: argparse.Namespace, chose: set[str]) -> tuple[list[Question], int]:
    """Return the held-out questions and how many were left out; raise InputError when fewer than two are held out."""
    if not args.calibration.is_file():
        raise InputError(args.calibration, "the calibration text", "nothing")
    questions = load_questions(args.questions, QUESTION_SEED)
    left = unseen_questions(questions, read_words(args.calibration), chose)
    if len(left[: args.limit]) < 2:
        raise InputError(
            args.questions,
            "two questions or more that neither calibration nor the choice of experts has seen",
            f"{len(left[: args.limit])} of {len(questions)}",
            "give other EVAL_QUESTIONS, with Record IDs of their own",
        )
    return left[: args.limit], len(questions) - len(left)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--full", type=Path, required=True, help="F16 GGUF of the full model")
    add("--pruned", type=Path, required=True, help="F16 GGUF of the pruned model")
    add("--gguf", type=Path, nargs="+", required=True, help="quants of the pruned model")
    add("--calibration", type=Path, required=True, help="calibration text of the imatrix: its chats are left out")
    add("--chose", type=Path, help="questions that chose, or the drop map (.json) that names them: left out, too")
    add("--cache", type=Path, required=True, help="directory that keeps logits and results")
    add("--output", type=output_file, required=True, help="Markdown file to write; .json and .png go beside it")
    add_chat_arguments(parser)
    add = parser.add_argument_group("what counts").add_argument
    score = (
        "tokens that count (default reply: what the model writes; many tokens of the prompt are the same in every "
        "chat, so they are one sample and not as many as there are chats)"
    )
    add("--score", choices=("reply", "all"), default="reply", help=score)
    return parser.parse_args(argv)


def without(values: dict, key: str) -> dict:
    """Return a dict without one of its keys."""
    return {name: value for name, value in values.items() if name != key}


def measure_files(
    args: argparse.Namespace, tools: LlamaCpp, inputs: dict, chats: Chats, records: dict[Path, dict]
) -> list[Measured]:
    """Return what every quant costs; logits and results that the cache holds are not computed again."""
    # A model's logits depend on that model alone: another drop uses the full model's again.
    depends = {"full": without(inputs, "pruned_sha256"), "pruned": without(inputs, "full_sha256"), "results": inputs}
    with ExitStack() as stack:
        folders = {}
        for name, values in depends.items():
            state = RunState(results_folder(args.cache, name, values), values, waits=True)
            folders[name] = stack.enter_context(state).directory
        plan_room(args, folders, chats)
        references = {
            name: StoredLogits(path, tools, chats.texts, folders[name], args, name)
            for name, path in (("full", args.full), ("pruned", args.pruned))
        }
        pruning = kept(
            folders["results"] / PRUNING_NAME,
            lambda: against({"full": references["full"]}, references["pruned"].chunks, chats.texts),
            ["full"],
            int(chats.counts["all"].sum()),
        )
        labels = dict(zip(records, quant_labels(records.values())))
        measured = [
            measure_file(path, labels[path], records[path], tools, references, chats, pruning, folders["results"], args)
            for path in progress(records, "quality", "file")
        ]
        write_chats(folders["results"], chats.counts)
        return measured


def check_outputs(args: argparse.Namespace) -> None:
    """Raise InputError when an output would overwrite an input, or the record of one."""
    records = [Path(f"{quant}.json") for quant in args.gguf]
    inputs = [args.full, args.pruned, args.questions, args.calibration, *args.gguf, *records]
    outputs = [args.output, *(args.output.with_suffix(suffix) for suffix in (".json", ".png"))]
    check_apart([*inputs, *([args.chose] if args.chose else [])], outputs)


def read_quants(paths: list[Path], source_sha256: str) -> dict[Path, dict]:
    """Return the record of every quant; raise InputError when two have the same label."""
    records = {path: read_quant_of(path, source_sha256) for path in dict.fromkeys(paths)}
    labels = quant_labels(records.values())
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise InputError("--gguf", "each quant once", f"{twice[0]} twice")
    return records


def described_inputs(args: argparse.Namespace, questions: list[Question], chats: Chats, llama_cpp: str) -> dict:
    """Return what the results depend on, the quants aside: digests, limits and versions."""
    return {
        "full_sha256": known_sha256(args.full),
        "pruned_sha256": known_sha256(args.pruned),
        "questions_sha256": question_set_digest(questions),
        "texts_sha256": chats.digest,
        "max_tokens": args.max_tokens,
        "gpu_layers": args.gpu_layers,
        "versions": {
            "llama_cpp": llama_cpp,
            "bindings": bindings_version(),
            "transformers": importlib.metadata.version("transformers"),
        },
    }


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_outputs(args)
    tools = find_llama_cpp(args.llama_cpp)
    chose = read_chose(args.chose)
    questions, left_out = read_questions(args, chose)
    tokenizer = load_tokenizer(args.model)
    sequences = [teacher_forced_sequence(tokenizer, question, args.max_tokens, "answer") for question in questions]
    chats = chats_of(sequences)
    inputs = described_inputs(args, questions, chats, tools.version())
    records = read_quants(args.gguf, inputs["pruned_sha256"])
    measured = sorted(measure_files(args, tools, inputs, chats, records), key=lambda entry: -entry.size)
    content = {
        "inputs": inputs,
        "chats": len(questions),
        "question_file_sha256": sha256_file(args.questions),
        "left_out": left_out,
        "choice_known": bool(chose),
        "score": args.score,
        "tokens": {name: int(counts.sum()) for name, counts in chats.counts.items()},
        "cut": sum(sequence.truncated for sequence in sequences),
        "no_reasoning": count_without_reasoning(questions),
        "conclusions": quality_conclusions(measured, chats.counts[args.score]),
        "files": [entry.described() for entry in measured],
    }
    write_record(args.output.with_suffix(".json"), content, Quality)
    draw_quality(args.pruned.stem.removesuffix("-F16"), measured, args.output.with_suffix(".png"))
    with replace_when_done(args.output) as partial:  # last: it is the file that make looks for
        partial.write_text(quality_page(content, measured), encoding="utf-8")
    print(f"{args.output}: {len(measured)} files over {len(questions)} chats{no_reasoning_in_words(content)}")


if __name__ == "__main__":
    run(main)
