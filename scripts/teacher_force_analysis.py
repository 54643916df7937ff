#!/usr/bin/env python3
"""Measure what each expert contributes when the full model is teacher-forced through question, reasoning and answer.

Inputs:  a checkpoint directory; questions in GPQA's columns.
Output:  a statistics file (schema: expert_stats.py): per question, layer and expert the number of routed tokens, the
         sums of routing weights, of output norms ||f||_2 and of weighted norms w ||f||_2. Norms are taken per token
         in fp32 and summed in fp64; w is the routing weight as the model applies it.
Use:     scripts/teacher_force_analysis.py --model DIR --questions FILE --output STATS

Method: the model card's teacher-forced analysis; saliency of this kind: REAP, https://arxiv.org/abs/2510.13999.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import transformers
from tqdm import tqdm

from chat_tokenizer import load_tokenizer
from checkpoint import read_checkpoint, read_config, weights_digest
from drop_map import check_keep_count
from expert_observer import ExpertObserver
from expert_stats import write_stats
from moe_families import family_of, shape_of
from questions import Question, chat_answer, chat_prompt, load_questions, question_set_digest
from safe_files import InputError, require_disk_space, run, sha256_file

MAX_TOKENS = 4096
DTYPES = {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def teacher_forced_ids(tokenizer, question: Question) -> list[int]:
    """Return the token ids of chat prompt + reasoning + answer."""
    text = chat_prompt(tokenizer, question) + chat_answer(tokenizer, question)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def summary_lines(arrays: dict[str, np.ndarray]) -> Iterator[str]:
    """Yield a table, one line a layer: tokens, busiest and idlest expert, unused experts, non-finite tokens."""
    yield "layer   tokens  busiest          idlest           unused  non-finite"
    counts = arrays["token_count"].sum(axis=0)
    for row, layer in enumerate(arrays["layer_numbers"]):
        busiest, idlest = int(counts[row].argmax()), int(counts[row].argmin())
        yield (f"{layer:5d} {arrays['tokens'][:, row].sum():8d}  {busiest:4d} ({counts[row, busiest]:8d})  "
               f"{idlest:4d} ({counts[row, idlest]:8d})  {int((counts[row] == 0).sum()):6d}  "
               f"{arrays['nonfinite_tokens'][:, row].sum():10d}")


def check_finite(model: Path, arrays: dict[str, np.ndarray]) -> None:
    """Raise InputError when a hidden state or an expert output was not finite."""
    bad = arrays["nonfinite_tokens"] + arrays["skipped_tokens"]
    if bad.any():
        layers = arrays["layer_numbers"][bad.sum(axis=0) > 0].tolist()
        raise InputError(model, "finite expert inputs and outputs",
                         f"{int(bad.sum())} non-finite token states, first in layer {layers[0]}",
                         "no statistics were written; try --dtype float32")


def load_model(directory: Path, dtype: str, attention: str) -> torch.nn.Module:
    """Load a checkpoint with transformers; raise InputError when a weight is missing from it."""
    placement = {"device_map": "auto"} if torch.cuda.is_available() else {}
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=DTYPES[dtype], attn_implementation=attention, output_loading_info=True, **placement)
    for kind in ("missing_keys", "mismatched_keys"):
        if report[kind]:
            raise InputError(directory, f"every weight of {type(model).__name__}", f"{kind}: {sorted(report[kind])[0]}")
    return model.eval()


@torch.inference_mode()
def analyze(model: torch.nn.Module, token_ids: list[list[int]]) -> dict[str, np.ndarray]:
    """Run every question through the model; return the arrays of the statistics file, first axis = questions."""
    observer = ExpertObserver(model)
    collected: list[dict[str, np.ndarray]] = []
    with tqdm(total=sum(map(len, token_ids)), unit="tok", desc="teacher-forced") as progress:
        for ids in token_ids:
            model(input_ids=torch.tensor([ids], device=model.device), use_cache=False, logits_to_keep=1)
            collected.append(observer.take())
            progress.update(len(ids))
    arrays = {name: np.stack([sums[name] for sums in collected]) for name in collected[0]}
    return arrays | {"layer_numbers": np.array(list(observer.layers), np.int64)}


def positive(text: str) -> int:
    """Parse a whole number above zero."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text!r}")
    return int(text)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="checkpoint directory of the full model")
    parser.add_argument("--questions", type=Path, required=True, help="questions in GPQA's columns (csv, parquet, jsonl)")
    parser.add_argument("--output", type=Path, required=True, help="statistics file to write (safetensors)")
    parser.add_argument("--seed", type=int, default=42, help="seed of the order of choices (default 42)")
    parser.add_argument("--limit", type=positive, help="take only the first N questions")
    parser.add_argument("--check-keep", type=int, metavar="N", help="refuse at once if N experts cannot be kept later")
    parser.add_argument("--max-tokens", type=positive, default=MAX_TOKENS, help="cut inputs after this many tokens")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="dtype to compute in (default: as stored)")
    parser.add_argument("--attention", default="eager", help="attention implementation (default eager: head_dim 512)")
    return parser.parse_args(argv)


def check_before(args: argparse.Namespace, config: dict) -> None:
    """Raise InputError for what would else be refused only after the analysis."""
    if args.output.is_dir():
        raise InputError(args.output, "a file to write", "a directory")
    if args.check_keep is not None:
        shape = shape_of(args.model, family_of(args.model, config), config)
        check_keep_count("KEEP", args.check_keep, shape.experts, shape.top_k)


def check_token_ids(directory: Path, model: torch.nn.Module, token_ids: list[list[int]]) -> None:
    """Raise InputError when the tokenizer gives an id that the embedding has no row for."""
    rows, largest = model.get_input_embeddings().weight.shape[0], max(map(max, token_ids))
    if largest >= rows:
        raise InputError(directory, f"token ids below the embedding's {rows} rows", str(largest))


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    config = read_config(args.model)
    check_before(args, config)
    tensors = read_checkpoint(args.model)
    questions = load_questions(args.questions, args.seed)[: args.limit]
    tokenizer = load_tokenizer(args.model)
    full_ids = [teacher_forced_ids(tokenizer, question) for question in questions]
    token_ids = [ids[: args.max_tokens] for ids in full_ids]
    model = load_model(args.model, args.dtype, args.attention)
    check_token_ids(args.model, model, token_ids)
    arrays = analyze(model, token_ids)
    print("\n".join(summary_lines(arrays)))
    check_finite(args.model, arrays)
    require_disk_space(args.output.parent, sum(array.nbytes for array in arrays.values()))
    write_stats(args.output, arrays, {
        "questions": [{"id": q.record_id, "sha256": q.digest, "tokens": len(ids), "truncated": len(full) > len(ids)}
                      for q, ids, full in zip(questions, token_ids, full_ids)],
        "questions_sha256": question_set_digest(questions), "config_sha256": sha256_file(args.model / "config.json"),
        "weights_sha256": weights_digest(tensors), "model_type": config.get("model_type"),
        "experts": int(arrays["token_count"].shape[2]),
        "top_k": int(arrays["token_count"][0, 0].sum() // arrays["tokens"][0, 0]),  # every token is routed to k experts
        "seed": args.seed, "dtype": str(model.dtype).removeprefix("torch."), "attention": args.attention,
        "max_tokens": args.max_tokens, "torch": torch.__version__, "transformers": transformers.__version__})
    print(f"{args.output}: {len(questions)} questions, {sum(map(len, token_ids))} tokens, "
          f"{sum(len(a) > len(b) for a, b in zip(full_ids, token_ids))} truncated")


if __name__ == "__main__":
    run(main)
