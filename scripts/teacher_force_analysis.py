#!/usr/bin/env python3
"""Measure what each expert contributes when the full model is teacher-forced through question, reasoning and answer.

Inputs:  a checkpoint directory of any mixture-of-experts family behind transformers' experts interface; questions in
         GPQA's columns.
Output:  a statistics file (schema: expert_stats.py): per question, layer and expert the number of routed tokens, the
         sums of routing weights, of output norms ||f||_2 and of weighted norms w ||f||_2. Norms are taken per token
         in fp32 and summed in fp64; w is the routing weight as the model applies it.
Use:     scripts/teacher_force_analysis.py --model DIR --questions FILE --output STATS [--stream-layers]
         torchrun --nproc-per-node 4 scripts/teacher_force_analysis.py ...       the questions split over 4 processes

By default the whole model is in memory. With --stream-layers only one layer is: all questions pass layer 0, then layer
1, and so on; the statistics file is the same, byte for byte. Either way what is finished is kept in OUTPUT.state (or in
--spill), and the same command goes on from there after a kill.

Method: the model card's teacher-forced analysis; saliency of this kind: REAP, https://arxiv.org/abs/2510.13999.
"""

import argparse
import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from tqdm import tqdm

from analysis.analysis_state import HIDDEN, AnalysisState
from analysis.decoder import (
    RUN_DTYPES,
    LayerStream,
    build_empty,
    check_complete,
    check_unquantised,
    decoder_of,
    load_resident,
    stored_dtype,
)
from analysis.expert_observer import ExpertObserver, expert_modules
from analysis.ranks import Ranks, join_ranks
from chats.chat_tokenizer import load_tokenizer
from chats.questions import MAX_TOKENS, Question, Sequence, load_questions, question_set_digest, teacher_forced_sequence
from checkpoints.checkpoint import TensorRange, file_versions, read_checkpoint, read_config, weights_digest
from choice.drop_map import check_keep_count
from choice.expert_stats import EXPERT_SUMS, LAYER_SUMS, check_finite, summary_lines, top_k_of, write_stats
from files.option_types import fraction, positive
from files.safe_files import InputError, require_disk_space, run, sha256_file

STATE_SLACK_BYTES = 64 << 20


@dataclass(frozen=True)
class Batch:
    """Questions that run together: number of the first, and their sequences."""

    first: int
    sequences: list[Sequence]

    @property
    def tokens(self) -> int:
        return sum(len(sequence.ids) for sequence in self.sequences)

    @property
    def longest(self) -> int:
        return max(len(sequence.ids) for sequence in self.sequences)

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return ids [questions, longest], padded on the right, and the mask of real tokens (None if all are)."""
        ids = torch.zeros(len(self.sequences), self.longest, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(self.sequences):
            ids[row, : len(sequence.ids)] = torch.tensor(sequence.ids)
            mask[row, : len(sequence.ids)] = 1
        return ids, None if mask.all() else mask


def batches_of(sequences: list[Sequence], size: int) -> list[Batch]:
    """Return the questions in file order, `size` at a time."""
    return [Batch(first, sequences[first : first + size]) for first in range(0, len(sequences), size)]


def begin(observer: ExpertObserver, batch: Batch) -> None:
    """Tell the observer which tokens of a batch count."""
    observer.begin([(sequence.start, len(sequence.ids)) for sequence in batch.sequences], batch.longest)


def report_resumed(
    state: AnalysisState, done: dict[int, int], batches: list[Batch], layers: int, progress: tqdm
) -> None:
    """Say what an earlier run has finished, and set the progress bar there; `done` holds layers by first question."""
    if any(done.values()):
        counts = [done.get(batch.first, 0) for batch in batches for _ in batch.sequences]
        progress.write(
            f"{state.directory}: going on; {counts.count(layers)} of {len(counts)} questions are done"
            + ("" if min(counts) == layers else f", the least one has {min(counts)} of {layers} layers"),
            file=sys.stdout,
        )
        progress.update(sum(batch.tokens * done.get(batch.first, 0) / layers for batch in batches))
        progress.initial = progress.n  # the rate is this run's


@torch.inference_mode()
def analyze_resident(model: torch.nn.Module, batches: list[Batch], state: AnalysisState, progress: tqdm) -> None:
    """Run every batch through the whole model."""
    decoder = decoder_of(model)[1]
    device = decoder.get_input_embeddings().weight.device
    if device.type == "meta":  # offloaded by device_map: its hook brings the ids to where it computes
        device = torch.device("cpu")
    observer = ExpertObserver(model)
    layers = len(decoder.layers)
    found = {batch.first: state.load(batch.first, with_hidden=False) for batch in batches}
    done = {first: layers for first, batch_state in found.items() if batch_state and batch_state[1] == layers}
    report_resumed(state, done, batches, layers, progress)
    for batch in batches:
        if batch.first not in done:
            ids, mask = batch.tensors()
            begin(observer, batch)
            decoder(input_ids=ids.to(device), attention_mask=None if mask is None else mask.to(device), use_cache=False)
            state.save(batch.first, observer.take(list(observer.layers)), layers)
            progress.update(batch.tokens)


@torch.inference_mode()
def analyze_streamed(
    stream: LayerStream, batches: list[Batch], state: AnalysisState, spill: bool, progress: tqdm
) -> None:
    """Run all batches through layer 0, then layer 1, ...; with `spill` hidden states are only on the disk."""
    observer = ExpertObserver(stream.model)
    layers = len(stream.layers)
    done, held = embed_batches(stream, observer, batches, state, spill)
    report_resumed(state, done, batches, layers, progress)
    left = [layer for layer in range(layers) if any(count <= layer for count in done.values())]
    for layer, following in zip(left, left[1:] + [None]):
        stream.load_layer(layer, following)
        for batch in batches:
            if done[batch.first] != layer:
                continue
            sums, _, stored = state.reload(batch.first, with_hidden=spill)
            hidden = stored if spill else held.pop(batch.first)
            begin(observer, batch)
            hidden = stream.run_layer(layer, hidden, batch.tensors()[1])
            new = observer.take([layer])
            last = layer + 1 == layers
            state.save(
                batch.first, {name: sums[name] + new[name] for name in sums}, layer + 1, None if last else hidden
            )
            done[batch.first] = layer + 1
            if not spill and not last:
                held[batch.first] = hidden
            progress.update(min(batch.tokens / layers, progress.total - progress.n))
        stream.free_layer(layer)


def embed_batches(
    stream: LayerStream, observer: ExpertObserver, batches: list[Batch], state: AnalysisState, spill: bool
) -> tuple[dict[int, int], dict[int, torch.Tensor]]:
    """Return the layers done and the hidden states of every batch, by first question; embed those without a state."""
    done, held = {}, {}
    for batch in batches:
        if found := state.load(batch.first, with_hidden=not spill):
            done[batch.first] = found[1]
            if found[2] is not None:
                held[batch.first] = stream.hold(found[2])
    missing = [batch for batch in batches if batch.first not in done]
    if missing:
        stream.load_embedding()
    for batch in missing:
        hidden = stream.embed(*batch.tensors())
        begin(observer, batch)
        state.save(batch.first, observer.take([]), 0, hidden)
        done[batch.first] = 0
        if not spill:
            held[batch.first] = hidden
    stream.free_embedding()
    return done, held


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="checkpoint directory of the full model")
    parser.add_argument(
        "--questions", type=Path, required=True, help="questions in GPQA's columns (csv, parquet, jsonl)"
    )
    parser.add_argument("--output", type=Path, required=True, help="statistics file to write (safetensors)")
    parser.add_argument("--seed", type=int, default=42, help="seed of the order of choices (default 42)")
    parser.add_argument("--limit", type=positive, help="take only the first N questions")
    parser.add_argument("--tokens", choices=("all", "answer"), default="all", help="tokens that count (default all)")
    parser.add_argument("--batch-size", type=positive, default=1, help="questions that run together (default 1)")
    parser.add_argument("--max-tokens", type=positive, default=MAX_TOKENS, help="cut inputs after this many tokens")
    parser.add_argument("--stream-layers", action="store_true", help="hold one layer of the model in memory, not all")
    parser.add_argument(
        "--spill", type=Path, metavar="DIR", help="with --stream-layers: hold hidden states in DIR only"
    )
    parser.add_argument(
        "--allow-nonfinite",
        type=fraction,
        default=0.0,
        metavar="FRACTION",
        help="largest share of a layer's tokens that may be non-finite (default 0)",
    )
    parser.add_argument("--check-keep", type=int, metavar="N", help="refuse at once if N experts cannot be kept later")
    parser.add_argument(
        "--dtype", choices=("auto", *RUN_DTYPES), default="auto", help="dtype to compute in (default: as stored)"
    )
    parser.add_argument("--attention", default="eager", help="attention implementation (default eager: head_dim 512)")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if there is one"
    )
    args = parser.parse_args(argv)
    if args.spill and not args.stream_layers:
        parser.error("--spill: expected --stream-layers with it")
    return args


def check_output(args: argparse.Namespace) -> None:
    """Raise InputError when the output could not be written after the analysis."""
    if args.output.is_dir():
        raise InputError(args.output, "a file to write", "a directory")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(args.output.parent, os.W_OK):
        raise InputError(args.output.parent, "a directory that can be written to", "one that cannot")


def top_k_in(config: transformers.PretrainedConfig) -> int:
    """Return the experts per token that a config names under one of the names families use; 1 when it has none."""
    text = config.get_text_config()
    return next(
        (
            getattr(text, key)
            for key in ("num_experts_per_tok", "top_k_experts", "moe_topk")
            if isinstance(getattr(text, key, None), int)
        ),
        1,
    )


def check_routing(args: argparse.Namespace, config: transformers.PretrainedConfig, experts: int) -> None:
    """Raise InputError when a token cannot have its experts, KEEP experts are too few, or padding would be routed."""
    path, top_k, text = args.model / "config.json", top_k_in(config), config.get_text_config()
    if not 0 < top_k <= experts:
        raise InputError(path, f"1 to {experts} experts a token, as many as there are", str(top_k))
    if args.check_keep is not None:
        check_keep_count("KEEP", args.check_keep, experts, top_k)
    if args.batch_size > 1 and getattr(text, "index_topk", None):
        raise InputError(
            path,
            "attention that ignores padding, for --batch-size above 1",
            "index_topk: positions are ranked, padded ones too",
            "analyse it with --batch-size 1",
        )


def check_sequences(directory: Path, text_config, sequences: list[Sequence]) -> None:
    """Raise InputError when an id has no row in the embedding, or an input is longer than the model's context."""
    largest = max(max(sequence.ids) for sequence in sequences)
    if largest >= text_config.vocab_size:
        raise InputError(
            directory,
            f"token ids below the embedding's {text_config.vocab_size} rows",
            str(largest),
            "is the tokenizer of another model?",
        )
    longest, context = max(len(s.ids) for s in sequences), getattr(text_config, "max_position_embeddings", None)
    if context and longest > context:
        raise InputError(
            directory, f"inputs of at most {context} tokens, the model's context", str(longest), "lower --max-tokens"
        )


def analysis_inputs(
    args: argparse.Namespace,
    config: dict,
    tensors: dict[str, TensorRange],
    questions: list[Question],
    sequences: list[Sequence],
    dtype: torch.dtype,
    device: str,
) -> dict:
    """Return everything that the statistics depend on: their metadata, and the identity of a state."""
    return {
        "questions": [
            {
                "id": q.record_id,
                "sha256": q.digest,
                "tokens": len(s.ids),
                "truncated": s.truncated,
                "token_ids_sha256": s.digest,
            }
            for q, s in zip(questions, sequences)
        ],
        "questions_sha256": question_set_digest(questions),
        "config_sha256": sha256_file(args.model / "config.json"),
        "weights_sha256": weights_digest(tensors),
        "model_type": config.get("model_type"),
        "seed": args.seed,
        "dtype": str(dtype).removeprefix("torch."),
        "attention": args.attention,
        "max_tokens": args.max_tokens,
        "counted_tokens": args.tokens,
        "batch_size": args.batch_size,
        "device": device,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def state_directory(args: argparse.Namespace, ranks: Ranks) -> Path:
    """Return where the state of this run lies: beside the output, or in --spill, where other runs may be; one a machine."""
    name = f"{args.output.name}.state{ranks.node or ''}"
    if not args.spill:
        return args.output.parent / name
    return args.spill / f"{hashlib.sha256(str(args.output.resolve()).encode()).hexdigest()[:12]}-{name}"


def batch_arrays(batch: Batch, moe_layers: int, experts: int, dtype: torch.dtype) -> dict[str, tuple[str, list[int]]]:
    """Return what the state holds of a batch: dtypes as safetensors names them, and shapes."""
    rows = [len(batch.sequences), moe_layers]
    integers = ("token_count", "tokens", "nonfinite_tokens", "skipped_tokens")
    arrays = {
        name: ("I64" if name in integers else "F64", [*rows, experts] if name in EXPERT_SUMS else rows)
        for name in (*EXPERT_SUMS, *LAYER_SUMS)
    }
    stored = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}[dtype]
    return arrays | {HIDDEN: (stored, [len(batch.sequences), batch.longest])}


def open_state(
    args: argparse.Namespace, inputs: dict, ranks: Ranks, batches: list[Batch], model: torch.nn.Module
) -> AnalysisState:
    """Open the state of this run; refuse when the disk cannot hold it."""
    directory, experts, layers = state_directory(args, ranks), expert_modules(model), len(decoder_of(model)[1].layers)
    most = max(module.num_experts for module in experts.values())
    hidden_bytes = (
        sum(question["tokens"] for question in inputs["questions"])
        * model.config.get_text_config().hidden_size
        * model.dtype.itemsize
    )
    with ranks.together():
        if ranks.local == 0:
            require_disk_space(directory, STATE_SLACK_BYTES + (hidden_bytes if args.stream_layers else 0))
        return AnalysisState(
            directory,
            inputs,
            ranks.local == 0,
            layers,
            {batch.first: batch_arrays(batch, len(experts), most, model.dtype) for batch in batches},
        )


def device_map_of(device: str, ranks: Ranks) -> object:
    """Return where a whole model goes: all GPUs for one process, its own GPU for one of several, else the CPU."""
    if device == "cpu":
        return None
    return "auto" if ranks.world == 1 else {"": ranks.local}


def analyze(
    args: argparse.Namespace,
    model: torch.nn.Module | LayerStream,
    batches: list[Batch],
    state: AnalysisState,
    ranks: Ranks,
) -> None:
    """Bring this process's batches through the model, whole or streamed; the results are in the state."""
    pause_s = 0.1 if sys.stderr.isatty() else 10
    with tqdm(
        total=sum(batch.tokens for batch in batches),
        unit="tok",
        unit_scale=True,
        desc="teacher-forced",
        mininterval=pause_s,
        disable=ranks.rank > 0,
    ) as progress:
        if isinstance(model, LayerStream):
            analyze_streamed(model, batches, state, args.spill is not None, progress)
        else:
            analyze_resident(model, batches, state, progress)


def finish(
    args: argparse.Namespace,
    inputs: dict,
    parts: dict[int, dict[str, np.ndarray]],
    layers: list[int],
    state: AnalysisState,
) -> None:
    """Merge the batches in file order, print the summary, check that all is finite, and write the statistics."""
    arrays = {
        name: np.concatenate([parts[first][name] for first in sorted(parts)]) for name in (*EXPERT_SUMS, *LAYER_SUMS)
    }
    arrays["layer_numbers"] = np.array(layers, np.int64)
    print("\n".join(summary_lines(arrays)))
    check_finite(args.model, arrays, args.allow_nonfinite, state.directory)
    require_disk_space(args.output.parent, sum(array.nbytes for array in arrays.values()))
    write_stats(
        args.output, arrays, inputs | {"experts": int(arrays["token_count"].shape[2]), "top_k": top_k_of(arrays)}
    )
    truncated = [question["id"] for question in inputs["questions"] if question["truncated"]]
    print(
        f"{args.output}: {len(inputs['questions'])} questions, {sum(q['tokens'] for q in inputs['questions'])} tokens, "
        f"{len(truncated)} cut at {args.max_tokens} tokens{': ' if truncated else ''}{', '.join(truncated[:5])}"
    )


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    transformers.utils.logging.disable_progress_bar()
    config = read_config(args.model)
    check_output(args)
    tensors = read_checkpoint(args.model)
    check_unquantised(args.model, config, tensors)
    questions = load_questions(args.questions, args.seed)[: args.limit]
    model = build_empty(
        args.model, RUN_DTYPES.get(args.dtype) or stored_dtype(args.model, config, tensors), args.attention
    )
    experts = expert_modules(model)
    check_routing(args, model.config, min(module.num_experts for module in experts.values()))
    check_complete(model, args.model, tensors)
    tokenizer = load_tokenizer(args.model)
    sequences = [teacher_forced_sequence(tokenizer, q, args.max_tokens, args.tokens) for q in questions]
    check_sequences(args.model, model.config.get_text_config(), sequences)
    device = "cpu" if args.device == "cpu" or not torch.cuda.is_available() else "cuda"
    ranks = join_ranks(device)
    inputs = analysis_inputs(args, config, tensors, questions, sequences, model.dtype, device)
    batches = ranks.mine(batches_of(sequences, args.batch_size))
    place = torch.device(device, ranks.local if device == "cuda" else None)
    stream = LayerStream(args.model, tensors, model, place) if args.stream_layers else None
    with open_state(args, inputs | {"shards": file_versions(tensors)}, ranks, batches, model) as state:
        runner = stream or load_resident(args.model, model.dtype, args.attention, device_map_of(device, ranks))
        analyze(args, runner, batches, state, ranks)
        parts = ranks.gather({batch.first: state.reload(batch.first, with_hidden=False)[0] for batch in batches})
        with ranks.together():
            if parts is not None:
                finish(args, inputs, parts, list(experts), state)
        if ranks.local == 0:
            state.discard()
    ranks.leave()


if __name__ == "__main__":
    run(main)
