#!/usr/bin/env python3
"""Measure what each expert contributes when the full model is teacher-forced through question, reasoning and answer.

Inputs:  a checkpoint directory of any mixture-of-experts family behind transformers' experts interface; questions in
         GPQA's columns. Their reasoning is the column Explanation; a file that has none anywhere is refused.
Output:  a statistics file (schema: choice/expert_stats.py): per question, layer and expert the number of routed tokens,
         the sums of routing weights, of output norms ||f||_2 and of weighted norms w ||f||_2. Norms are taken per token
         in fp32 and summed in fp64; w is the routing weight as the model applies it.
Example: .venv/bin/python scripts/teacher_force_analysis.py --model data/demo/model \\
             --questions data/demo/calibration_questions.csv --output build/try/expert_stats.safetensors

By default the whole model is in memory. With --stream-layers only one layer is: all questions pass layer 0, then layer
1, and so on; the statistics file is the same, byte for byte. Either way what is finished is kept in OUTPUT.state (or in
--spill), and the same command goes on from there after a kill.

With --reconstruction the same pass keeps what reaches the experts for some tokens, and each layer's experts are then
dropped one after the other, each time the one whose loss changes the layer's output least once the router takes the
next-best (choice/elimination.py). The order goes into the statistics, for the criterion of that name.

Method: the model card's teacher-forced analysis; saliency of this kind: REAP, https://arxiv.org/abs/2510.13999.
"""

import argparse
import hashlib
import os
from functools import partial
from pathlib import Path

from analysis.analysis_state import open_state, state_directory
from analysis.batches import Batch, batches_of
from analysis.decoder import build_empty, check_complete, load_resident
from analysis.expert_observer import ExpertObserver, expert_modules
from analysis.layer_stream import LayerStream
from analysis.mapped_weights import shrinking_told
from analysis.model_checks import RUN_DTYPES, check_routing, check_sequences, check_unquantised, stored_dtype
from analysis.passes import analyze_batches
from analysis.ranks import Ranks, shared_out
from analysis.reconstruction import eliminate_layers
from analysis.sampled_tokens import SAMPLED, SampleObserver, TokenSample, draw_tokens, router_modules
from chats.chat_sequences import MAX_TOKENS, Sequence, teacher_forced_sequence
from chats.chat_tokenizer import load_tokenizer
from chats.questions import EXPLANATION, QUESTION_SEED, Question, check_reasonings, load_questions, question_set_digest
from checkpoints.checkpoint import (
    TensorRange,
    hold_checkpoint,
    read_checkpoint,
    read_config,
    source_digest,
    weights_digest,
)
from choice.domains import members_digests, read_members
from choice.expert_stats import check_finite, summary_lines, top_k_of, write_stats
from choice.stats_record import EXPERT_SUMS, LAYER_SUMS, REASONING_BY, RECONSTRUCTION_SEED, RECONSTRUCTION_TOKENS
from files.input_errors import InputError, sha256_file
from files.option_types import command_parser, fraction, named_path, positive
from files.safe_files import check_apart, require_disk_space, run

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

SHOWN_IDS = 5


def analysis_inputs(
    args: argparse.Namespace,
    config: dict,
    tensors: dict[str, TensorRange],
    model: PreTrainedModel,
    questions: list[Question],
    sequences: list[Sequence],
    chat_template: str,
    device: str,
) -> dict:
    """Return everything that the statistics depend on: their metadata, and the identity of a state."""
    described = []
    for question, sequence in zip(questions, sequences):
        described.append(
            {
                "id": question.record_id,
                "sha256": question.digest,
                "tokens": len(sequence.ids),
                "truncated": sequence.truncated,
                "empty_reasoning": not question.explanation,
                # Beside the question's digest: a changed chat template or tokenizer gives other ids for the same text.
                "token_ids_sha256": sequence.digest,
            }
        )
    return {
        "questions": described,
        "questions_sha256": question_set_digest(questions),
        "question_file_sha256": sha256_file(args.questions),
        "config_sha256": sha256_file(args.model / "config.json"),
        "weights_sha256": weights_digest(tensors),
        "model_type": config.get("model_type"),
        "reasoning": f"column {EXPLANATION}, {REASONING_BY[args.reasoning_by]}",
        "chat_template_sha256": hashlib.sha256(chat_template.encode()).hexdigest(),
        "seed": args.seed,
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": args.attention,
        "max_tokens": args.max_tokens,
        "counted_tokens": args.tokens,
        # Padding, the device and the libraries change the order of sums, hence the last bits. Streaming does not.
        "batch_size": args.batch_size,
        "device": device,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        **reconstruction_inputs(args, [question.record_id for question in questions]),
    }


def reconstruction_inputs(args: argparse.Namespace, ids: list[str]) -> dict:
    """Return what the order by reconstruction depends on beside the analysis's inputs; {} where none is asked for."""
    if args.reconstruction is None:
        return {}
    domains, rows = read_members(args.domains, args.domain_questions, ids)
    digests = members_digests(ids, rows)
    made = {"objective": args.reconstruction, "tokens": args.reconstruction_tokens, "seed": RECONSTRUCTION_SEED}
    weights = [{"name": d.name, "weight": d.weight, "questions_sha256": digests[d.name]} for d in domains]
    return {"reconstruction": made | ({"domains": weights} if weights else {})}


def sample_of(args: argparse.Namespace, questions: list[Question], sequences: list[Sequence]) -> TokenSample:
    """Draw the tokens for the order by reconstruction."""
    tokenizer = load_tokenizer(args.model)
    replies = [teacher_forced_sequence(tokenizer, q, args.max_tokens, "answer").start for q in questions]
    spans = [(sequence.start, len(sequence.ids)) for sequence in sequences]
    domains, rows = read_members(args.domains, args.domain_questions, [question.record_id for question in questions])
    factors = np.ones(len(questions))
    for domain in domains:
        own = rows[domain.name]
        factors[own] = domain.weight / sum(end - start for start, end in (spans[row] for row in own))
    share = {"all": None, "reply": 1.0}.get(args.reconstruction, args.reconstruction)
    share = None if share is None else float(share)
    return draw_tokens(spans, replies, share, args.reconstruction_tokens, factors, RECONSTRUCTION_SEED)


def device_map_of(device: str, ranks: Ranks) -> object:
    """Return where a whole model goes: all GPUs for one process, its own GPU for one of several, else the CPU."""
    if device == "cpu":
        return None
    return "auto" if ranks.world == 1 else {"": ranks.rank}


def check_output(output: Path) -> None:
    """Raise InputError when the output could not be written after the analysis."""
    if output.is_dir():
        raise InputError(output, "a file to write", "a directory")
    output.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(output.parent, os.W_OK):
        raise InputError(output.parent, "a directory that can be written to", "one that cannot")


def build_checked(args: argparse.Namespace, config: dict, tensors: dict[str, TensorRange]) -> PreTrainedModel:
    """Build the model without weights; raise InputError when the checkpoint cannot be analysed with these options."""
    check_unquantised(args.model, config, tensors)
    dtype = RUN_DTYPES.get(args.dtype) or stored_dtype(args.model, config, tensors)
    model = build_empty(args.model, dtype, args.attention)
    fewest = min(module.num_experts for module in expert_modules(model).values())
    check_routing(args.model, model.config.get_text_config(), fewest, args.check_keep, args.batch_size)
    check_complete(model, args.model, tensors)
    return model


def read_sequences(
    args: argparse.Namespace, model: PreTrainedModel, questions: list[Question]
) -> tuple[list[Sequence], str]:
    """Return the questions' token ids and the chat template; raise InputError when the model cannot take them."""
    tokenizer = load_tokenizer(args.model)
    sequences = [teacher_forced_sequence(tokenizer, q, args.max_tokens, args.tokens) for q in questions]
    check_sequences(args.model, model.config.get_text_config(), sequences)
    return sequences, str(tokenizer.chat_template)


def merged(parts: dict[int, dict[str, np.ndarray]], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return arrays of all batches in file order."""
    return {name: np.concatenate([parts[first][name] for first in sorted(parts)]) for name in names}


def finish(
    args: argparse.Namespace,
    inputs: dict,
    parts: dict[int, dict[str, np.ndarray]],
    order: dict[str, np.ndarray],
    layers: list[int],
    state: Path,
) -> None:
    """Merge the batches, print the summary, check that all is finite, and write the statistics with the `order`."""
    arrays = merged(parts, (*EXPERT_SUMS, *LAYER_SUMS)) | order
    arrays["layer_numbers"] = np.array(layers, np.int64)
    print("\n".join(summary_lines(arrays)))
    check_finite(args.model, arrays, args.allow_nonfinite, state)
    require_disk_space(args.output.parent, sum(array.nbytes for array in arrays.values()))
    experts, top_k = int(arrays["token_count"].shape[2]), top_k_of(arrays)
    write_stats(args.output, arrays, inputs | {"experts": experts, "top_k": top_k})
    questions = inputs["questions"]
    truncated = [question["id"] for question in questions if question["truncated"]]
    empty = sum(question["empty_reasoning"] for question in questions)
    print(
        f"{args.output}: {len(questions)} questions, {empty} of them with an empty reasoning, "
        f"{sum(question['tokens'] for question in questions)} tokens, {len(truncated)} cut at "
        f"{args.max_tokens} tokens{': ' if truncated else ''}{', '.join(truncated[:SHOWN_IDS])}"
    )


def analyze(
    args: argparse.Namespace,
    tensors: dict[str, TensorRange],
    model: PreTrainedModel,
    batches: list[Batch],
    inputs: dict,
    sample: TokenSample | None,
    device: str,
    ranks: Ranks,
) -> None:
    """Bring this process's share of the batches through the model; the first process then writes the statistics."""
    place = torch.device(device, ranks.rank) if device == "cuda" else torch.device(device)
    if device == "cuda":
        torch.cuda.set_device(place)
    # Before the state, which a family that cannot be streamed must not leave behind. The whole model is loaded after
    # it: minutes of loading would come before the refusal of a state that is in use.
    stream = LayerStream(args.model, tensors, model, place) if args.stream_layers else None
    directory = state_directory(args.output, args.spill)
    # All bytes of the checkpoint, which takes a minute: the state of a damaged one is none of this.
    inputs |= {"source_sha256": source_digest(args.model)}
    identity = inputs | ({"sample": sample.digest} if sample else {})
    spilled = args.spill is not None
    state = open_state(directory, identity, ranks, batches, model, args.stream_layers, sample, spilled)
    with state, shrinking_told(args.model):
        runner = stream or load_resident(args.model, model.dtype, args.attention, device_map_of(device, ranks))
        observe = partial(SampleObserver, sample=sample) if sample else ExpertObserver
        analyze_batches(runner, ranks.mine(batches), state, spilled, ranks.rank > 0, observe)
        if ranks.rank > 0:
            return
        ranks.finish()
        parts = {batch.first: state.reload(batch.first, with_hidden=False)[0] for batch in batches}
        order = {}
        if sample:
            order = eliminate_layers(runner, merged(parts, SAMPLED), sample.weights, directory)
        finish(args, inputs, parts, order, list(expert_modules(model)), directory)
        state.discard()


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--model", type=Path, required=True, help="checkpoint directory of the full model")
    add("--questions", type=Path, required=True, help="questions in GPQA's columns (csv, parquet, jsonl)")
    add("--output", type=named_path, required=True, help="statistics file to write (safetensors)")
    add = parser.add_argument_group("what is measured").add_argument
    add("--seed", type=int, default=QUESTION_SEED, help="seed of the order of choices")
    add("--limit", type=positive, help="take only the first N questions")
    add("--tokens", choices=("all", "answer"), default="all", help="tokens that count")
    add("--max-tokens", type=positive, default=MAX_TOKENS, help="cut inputs after this many tokens")
    add("--allow-empty-reasoning", action="store_true", help="take questions of which none has a reasoning")
    whose = "whose reasoning the questions hold: a reference's or this model's own; it is only recorded"
    add("--reasoning-by", choices=REASONING_BY, default="reference", help=whose)
    share = "largest share of a layer's tokens that may be non-finite"
    add("--allow-nonfinite", type=fraction, default=0.0, metavar="FRACTION", help=share)
    add("--check-keep", type=int, metavar="N", help="refuse at once if N experts cannot be kept later")
    add_reconstruction_options(parser)
    add = parser.add_argument_group("how the model runs").add_argument
    add("--batch-size", type=positive, default=1, help="questions that run together")
    add("--stream-layers", action="store_true", help="hold one layer of the model in memory, not all")
    add("--spill", type=Path, metavar="DIR", help="with --stream-layers: hold hidden states in DIR only")
    dtypes = ("auto", *RUN_DTYPES)
    add("--dtype", choices=dtypes, default="auto", help="dtype to compute in; auto: as stored")
    # Gemma 4's full layers have 512 values per head; flash attention takes at most 256.
    add("--attention", default="eager", help="attention implementation")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    share = "split the questions over N processes of this machine; with GPUs, each has one"
    add("--processes", type=positive, default=1, metavar="N", help=share)
    add("--rank", type=positive, default=0, help=argparse.SUPPRESS)  # of a process that another one has started
    args = parser.parse_args(argv)
    if args.spill and not args.stream_layers:
        parser.error("--spill: expected --stream-layers with it")
    if bool(args.domains) != bool(args.domain_questions) or (args.domains and not args.reconstruction):
        parser.error("--domains: expected --reconstruction and --domain-questions beside it")
    return args


def objective(text: str) -> str:
    """Parse all, reply, or the share of the replies."""
    if text in ("all", "reply"):
        return text
    try:
        share = fraction(text)
    except argparse.ArgumentTypeError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"expected all, reply or a share of the replies such as 0.5, found {text!r}")
    return f"{share:g}"


def add_reconstruction_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the order by reconstruction."""
    add = parser.add_argument_group("order of the experts by reconstruction").add_argument
    tokens = "make it for these tokens: all, reply, or how much replies count together, such as 0.5"
    add("--reconstruction", type=objective, metavar="TOKENS", help=tokens)
    add(
        "--reconstruction-tokens",
        type=positive,
        default=RECONSTRUCTION_TOKENS,
        metavar="N",
        help="tokens of all questions",
    )
    domain = "NAME:WEIGHT: a domain of the questions, or its question file, and how much it counts"
    add("--domains", nargs="+", metavar="D", help=domain)
    add("--domain-questions", type=Path, metavar="FILE", help="question file whose column names the domains")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    transformers.utils.logging.disable_progress_bar()
    config = read_config(args.model)
    hold_checkpoint(args.model)  # before the first of it is read
    check_apart([args.model, args.questions], [args.output])
    check_output(args.output)
    tensors = read_checkpoint(args.model)
    questions = load_questions(args.questions, args.seed)[: args.limit]
    if not args.allow_empty_reasoning:
        check_reasonings(args.questions, questions)
    model = build_checked(args, config, tensors)
    sequences, chat_template = read_sequences(args, model, questions)
    device = "cpu" if args.device == "cpu" or not torch.cuda.is_available() else "cuda"
    inputs = analysis_inputs(args, config, tensors, model, questions, sequences, chat_template, device)
    sample = sample_of(args, questions, sequences) if args.reconstruction else None
    if sample:
        router_modules(model)  # a family without them is refused before hours of work
    with shared_out(args.rank, args.processes) as ranks:
        analyze(args, tensors, model, batches_of(sequences, args.batch_size), inputs, sample, device, ranks)


if __name__ == "__main__":
    run(main)
