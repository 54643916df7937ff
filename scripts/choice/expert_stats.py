"""The statistics file: what the analysis writes and every choice of experts reads.

One safetensors file. Arrays [questions, layers, experts]: token_count (int64); fp64: routing_weight_sum, norm_sum,
norm_sq_sum, weighted_norm_sum, weighted_norm_sq_sum, norm_max. Arrays [questions, layers]: tokens, nonfinite_tokens,
skipped_tokens (int64), moe_output_norm_sum (fp64). `layer_numbers` [layers] int64: the model's numbers of these layers.
With an order by reconstruction, [layers, experts]: elimination_rank (int64), how many experts went before each, and
elimination_error (fp64), the layer's error once it is gone (choice/elimination.py).

Its metadata has one key, "expert_stats", with a JSON object (`StatsRecord`): `version`, `questions` (of each its id,
digest, tokens, truncated, empty_reasoning, digest of the token ids), `reasoning` (the column that was read, and whose
words they are), `chat_template_sha256`, `config_sha256`, `weights_sha256`, `source_sha256` (of all bytes of the
checkpoint, `source_digest` of checkpoints/), `questions_sha256`, `question_file_sha256`, `experts`, `top_k`, `dtype`,
`attention`, `max_tokens`, `counted_tokens` (all or answer), `batch_size`, `device`, `seed`, the versions of `torch` and
`transformers`, and `reconstruction`, of which tokens an order was made. No time, host or path is recorded, so equal
inputs give equal bytes.

The counted tokens are tokens + skipped_tokens. The hidden state of skipped_tokens was not finite before the layer.
nonfinite_tokens are those of `tokens` where an expert's output, its norm, a routing weight or the sum of the outputs is
not finite. Of such a token the finite experts are in the sums; the other experts and its moe_output_norm are not.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from choice.stats_record import COUNTS, ELIMINATION, EXPERT_SUMS, LAYER_SUMS, MEASURE_AGAIN, METADATA_KEY, StatsRecord
from files.input_errors import InputError, reason_of
from files.json_records import check_record, parse_json
from files.safe_files import replace_when_done

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

SHOWN_TOP = 16  # of coverage, where a drop map protects no experts; the model card's number


def write_stats(path: Path, arrays: dict[str, np.ndarray], metadata: dict) -> None:
    """Write a statistics file atomically."""
    metadata = {"version": StatsRecord.current, **metadata}
    with replace_when_done(path) as partial:
        # One key: safetensors writes several in an order that changes from run to run, and the bytes with it.
        partial.write_bytes(save(arrays, {METADATA_KEY: json.dumps(metadata, sort_keys=True)}))


def read_stats(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Return the arrays and the metadata of a statistics file; raise InputError when it is not one.

    All that readers use is checked here: a damaged array would change the choice of experts and nobody would see it.
    """
    if not path.is_file():
        raise InputError(path, "a statistics file of teacher_force_analysis.py", "nothing")
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, TypeError, ValueError) as error:  # the last two: numpy has no such type or shape
        raise InputError(path, "a statistics file of teacher_force_analysis.py", reason_of(error)) from error
    if text is None:
        raise InputError(path, f"the metadata key {METADATA_KEY!r}", "none")
    check_arrays(path, arrays)
    check_elimination(path, arrays)
    try:
        metadata = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise InputError(path, "metadata in JSON", reason_of(error)) from error
    if not isinstance(metadata, dict):
        raise InputError(path, "metadata with the questions", type(metadata).__name__)
    check_record(path, metadata, StatsRecord, MEASURE_AGAIN)
    ids = [question["id"] for question in metadata["questions"]]
    if len(ids) != len(arrays["tokens"]) or len(set(ids)) < len(ids):
        raise InputError(path, f"ids of {len(arrays['tokens'])} questions, each once", f"{len(set(ids))} ids")
    check_routed(path, arrays, metadata)
    return arrays, metadata


def stats_metadata(path: Path | None) -> dict:
    """Return the metadata of a statistics file; {} where there is none, or where an imatrix ranks in its place."""
    return read_stats(path)[1] if path and path.suffix == ".safetensors" else {}


def analysed_ids(path: Path | None) -> set[str]:
    """Return the Record IDs of the questions of a statistics file; see `stats_metadata`."""
    return {question["id"] for question in stats_metadata(path).get("questions", [])}


def check_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Raise InputError when an array is missing, its shape does not fit the others, or a value can be no such sum."""
    missing = [name for name in (*EXPERT_SUMS, *LAYER_SUMS, "layer_numbers") if name not in arrays]
    if missing:
        raise InputError(path, f"the array {missing[0]}", f"arrays {', '.join(sorted(arrays))}"[:200])
    shape = arrays["token_count"].shape
    if len(shape) != 3 or 0 in shape:
        raise InputError(path, "token_count [questions, layers, experts]", f"shape {list(shape)}")
    expected = dict.fromkeys(EXPERT_SUMS, shape) | dict.fromkeys(LAYER_SUMS, shape[:2]) | {"layer_numbers": shape[1:2]}
    for name, wanted in expected.items():
        if arrays[name].shape != wanted:
            raise InputError(path, f"{name} of shape {list(wanted)}", f"{list(arrays[name].shape)}")
        if (
            name in (*COUNTS, "layer_numbers") and arrays[name].dtype != np.int64
        ):  # half a token would change a choice, and be believed
            raise InputError(path, f"whole numbers (int64) in {name}", str(arrays[name].dtype), MEASURE_AGAIN)
        # Counts and norms are not negative. Routing weights can be: Gemma 4 scales them by a learned factor per expert.
        signed = name == "routing_weight_sum"
        if not np.isfinite(arrays[name]).all() or (not signed and (arrays[name] < 0).any()):
            raise InputError(path, f"finite sums in {name}", "others")
        with np.errstate(over="ignore"):  # of all questions together: a choice adds them up
            if not np.isfinite(arrays[name].sum(axis=0)).all():
                raise InputError(path, f"finite sums in {name}", "ones that are infinite over all questions")
    used = arrays["weighted_norm_sum"].any(axis=(0, 2))  # by layer; a token goes through some expert of each
    if not used.all():
        layer = arrays["layer_numbers"][~used][0]
        raise InputError(path, "an expert in every layer whose outputs were counted", f"none in layer {layer}")
    if len(set(arrays["layer_numbers"].tolist())) < shape[1]:
        raise InputError(path, "every layer once in layer_numbers", "one twice")


def check_routed(path: Path, arrays: dict[str, np.ndarray], metadata: dict) -> None:
    """Raise InputError unless every counted token of a question went through top_k experts of each layer, each once.

    Of tokens whose outputs are not all finite, fewer are counted. In every layer a question has the same tokens; all of
    them are counted, or those of the answer.
    """
    counts, tokens = arrays["token_count"], arrays["tokens"]
    entered = tokens + arrays["skipped_tokens"]
    least, most = metadata["top_k"] * (tokens - arrays["nonfinite_tokens"]), metadata["top_k"] * tokens
    routed = counts.sum(axis=2)
    # The first question is asked first: a sum of numbers beyond it could turn negative.
    if (counts > tokens[:, :, None]).any() or (routed < least).any() or (routed > most).any():
        raise InputError(path, f"a token_count of {metadata['top_k']} experts for each token", "others", MEASURE_AGAIN)
    for question, of_layers in zip(metadata["questions"], entered.tolist()):
        length = question.get("tokens") or of_layers[0]
        least_tokens = length if metadata.get("counted_tokens") == "all" else 1
        if len(set(of_layers)) > 1 or not least_tokens <= of_layers[0] <= length:
            expected = f"the {length} tokens of question {question['id']} in each layer"
            raise InputError(path, expected, ", ".join(map(str, sorted(set(of_layers)))), MEASURE_AGAIN)


def check_elimination(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Raise InputError when there is an order of elimination and it is none."""
    there = [name for name in ELIMINATION if name in arrays]
    if not there:
        return
    shape = arrays["token_count"].shape[1:]
    if len(there) < len(ELIMINATION) or any(arrays[name].shape != shape for name in ELIMINATION):
        raise InputError(path, f"{' and '.join(ELIMINATION)} of shape {list(shape)}", "others", MEASURE_AGAIN)
    rank, error = (arrays[name] for name in ELIMINATION)
    if (np.sort(rank, axis=1) != np.arange(shape[1])).any() or not np.isfinite(error).all():
        raise InputError(path, "every rank once in each layer, and finite errors", "others", MEASURE_AGAIN)


def protected(weighted_norm_sum: np.ndarray, top: int) -> np.ndarray:
    """Mark the `top` experts of each question and layer by weighted norm.

    weighted_norm_sum: [questions, layers, experts] fp64. Returns booleans of that shape. Ties go to the lower index; an
    expert that a question never used is not marked.
    """
    order = np.argsort(-weighted_norm_sum, axis=2, kind="stable")[:, :, :top]  # stable: the rule for ties
    marked = np.zeros(weighted_norm_sum.shape, dtype=bool)
    np.put_along_axis(marked, order, True, axis=2)
    return marked & (weighted_norm_sum > 0)


def kept_first(dropped: np.ndarray, score: np.ndarray, weighted_norm: np.ndarray) -> np.ndarray:
    """Order each layer's experts for pictures: kept ones first, then by score, total weighted norm, lower index.

    All arguments: [layers, experts]. Returns expert ids [layers, experts].
    """
    # The fate comes first, and not the protection that `rank` of ranking.py begins with: so the cut between kept and
    # dropped experts lies at one rank in all layers, whatever chose them, a map without scores included.
    experts = np.broadcast_to(np.arange(dropped.shape[1]), dropped.shape)
    return np.lexsort((experts, -weighted_norm, -score, dropped))


def top_k_of(arrays: dict[str, np.ndarray]) -> int:
    """Return the experts per token, from the counts (non-finite outputs are not counted, hence the largest ratio)."""
    tokens = np.maximum(arrays["tokens"], 1)
    return int(np.ceil((arrays["token_count"].sum(axis=2) / tokens).max()))


def summary_lines(arrays: dict[str, np.ndarray]) -> Iterator[str]:
    """Yield a table, one line per layer: tokens, busiest and idlest expert, never-used experts, non-finite tokens."""
    yield "layer    tokens  busiest            idlest             unused  non-finite  skipped"
    counts = arrays["token_count"].sum(axis=0)
    for row, layer in enumerate(arrays["layer_numbers"]):
        busiest, idlest = int(counts[row].argmax()), int(counts[row].argmin())
        yield (
            f"{layer:5d} {arrays['tokens'][:, row].sum():9d}  {busiest:4d} ({counts[row, busiest]:9d})   "
            f"{idlest:4d} ({counts[row, idlest]:9d})   {int((counts[row] == 0).sum()):6d}  "
            f"{arrays['nonfinite_tokens'][:, row].sum():10d}  {arrays['skipped_tokens'][:, row].sum():7d}"
        )


def check_finite(model: Path, arrays: dict[str, np.ndarray], allowed: float, state: Path) -> None:
    """Raise InputError when a layer has a larger share of non-finite tokens than `allowed`, or nothing finite at all.

    A token counts when its hidden state was not finite on entry (skipped) or what its experts made of it was not.
    """
    numbers = arrays["layer_numbers"]
    bad = (arrays["nonfinite_tokens"] + arrays["skipped_tokens"]).sum(axis=0)
    share = bad / np.maximum((arrays["tokens"] + arrays["skipped_tokens"]).sum(axis=0), 1)
    if (share > allowed).any():
        first, worst = int((share > allowed).argmax()), int(share.argmax())
        raise InputError(
            model,
            f"at most {allowed:g} of a layer's tokens non-finite",
            f"{int(bad.sum())} non-finite token states, first in layer {numbers[first]}; most in layer "
            f"{numbers[worst]} ({share[worst]:.2%})",
            f"no statistics were written; allow them with --allow-nonfinite, or remove {state} and try --dtype float32",
        )
    if not (ranked := arrays["weighted_norm_sum"].sum(axis=(0, 2)) > 0).all():
        raise InputError(
            model,
            "expert outputs to rank in every layer",
            f"none above zero that are finite in layer {numbers[int((~ranked).argmax())]}",
            f"remove {state} and try --dtype float32",
        )
