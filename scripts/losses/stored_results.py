"""The results that measure_quality.py keeps: each file's losses per token, and what quality.json makes of them.

CACHE/results-DIGEST holds one folder per set of inputs: pruning.npz, chats.npz (tokens per chat) and an npz for each
quant by its digest. check_release.py reads them again: so a published loss is that of a recorded measurement.
"""

import errno
import io
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from files.input_errors import InputError, reason_of
from files.run_state import SHOWN_DIGITS, results_folder
from files.safe_files import write_whole
from files.seals import is_kept
from losses.chat_masks import Arrays, Chats, masks_of
from losses.kld_statistics import MEASURES, per_chat, summary
from losses.quality_conclusions import EXPERTS_ONLY, NO_IMATRIX, Measured, quant_kind
from scoring.paired_statistics import mean_and_error

import numpy as np

PRUNING_NAME, CHATS_NAME = "pruning.npz", "chats.npz"
SCORED = ("reply", "all")


def results_path(folder: Path, sha256: str) -> Path:
    """Return where the results of one quant are kept."""
    return folder / f"{sha256[:SHOWN_DIGITS]}.npz"


def write_chats(folder: Path, counts: Arrays) -> None:
    """Write the tokens of each chat by what counts, [chats] int64; those of an earlier run are the same."""
    if is_kept(folder / CHATS_NAME):
        return
    write_arrays(folder / CHATS_NAME, counts)


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write a file of arrays, which fit in memory, atomically."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_whole(path, content.getvalue())


def read_arrays(path: Path) -> Arrays:
    """Return the arrays of a file of results; raise InputError when it is none."""
    if not path.is_file():
        raise InputError(path, "results of an earlier run", "nothing", "run `make quality REPLACE=quality`")
    try:
        with np.load(path) as stored:
            return dict(stored)
    except Exception as error:  # all kinds: numpy reads a header by Python's own parser, and zipfile unpacks by others
        # EINVAL: a place that no file has.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise InputError(path, "results of an earlier run", reason_of(error), "remove it") from error


def read_chats(folder: Path) -> Chats:
    """Return the chats of stored results, without their texts."""
    counts = read_arrays(folder / CHATS_NAME)
    if set(counts) != set(SCORED) or any(counts[name].ndim != 1 for name in SCORED):
        raise InputError(folder / CHATS_NAME, "tokens per chat of the reply and of all", ", ".join(counts)[:200])
    if any(values.dtype != np.int64 or not values.size or values.min() < 1 for values in counts.values()):
        raise InputError(folder / CHATS_NAME, "chats of one token and more (int64)", "others")
    if len(counts["all"]) != len(counts["reply"]) or (counts["reply"] > counts["all"]).any():
        raise InputError(folder / CHATS_NAME, "replies within their chats", "longer ones")
    return Chats([], masks_of(counts), counts, None)


def read_results(path: Path, references: Iterable[str], tokens: int) -> Arrays:
    """Return the arrays of a file, REFERENCE_MEASURE each [tokens]; raise InputError when it holds something else."""
    arrays = read_arrays(path)
    for name in (f"{reference}_{measure}" for reference in references for measure in MEASURES):
        values = arrays.get(name)
        numbers = values is not None and values.dtype == np.float64 and values.shape == (tokens,)
        if not (numbers and np.isfinite(arrays[name]).all()):
            raise InputError(path, f"{name} of {tokens} tokens, all finite", "none or others", "remove it")
    return arrays


def kept(path: Path, compute: Callable[[], Arrays], references: Iterable[str], tokens: int) -> Arrays:
    """Return the arrays in a file, REFERENCE_MEASURE each [tokens]; compute and write them first when there is no file.

    Raises InputError when the file holds something else.
    """
    if not is_kept(path):
        write_arrays(path, compute())
    # Read back also when just written, so that a run that continues computes with the same bytes.
    return read_results(path, references, tokens)


def losses(arrays: Arrays, pruning: Arrays, chats: Chats, score: str) -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """Return the summary of each of the three losses, and their KLD summed over each chat [chats]."""
    parts = {"pruning": (pruning, "full"), "quantisation": (arrays, "pruned"), "total": (arrays, "full")}
    found: dict[str, dict] = {}
    sums: dict[str, np.ndarray] = {}
    mask, counts = chats.masks[score], chats.counts[score]
    for loss, (source, name) in parts.items():
        found[loss] = summary({measure: source[f"{name}_{measure}"][mask] for measure in MEASURES}, counts)
        # Prompts included, whatever counts: the page shows this beside the mean that counts.
        every = per_chat(source[f"{name}_kld"], chats.counts["all"])
        found[loss]["kld_all_tokens"] = list(mean_and_error(every, chats.counts["all"]))
        sums[loss] = per_chat(source[f"{name}_kld"][mask], counts)
    return found, sums


def quant_labels(records: Iterable[dict]) -> list[str]:
    """Return the names of quants in tables: the type, and the scope where that is the experts alone.

    Of two with one name, that without an imatrix says so. Alone it does not: the release knows its file by the type.
    """
    names = [
        (record["type"] + (EXPERTS_ONLY if record.get("cd_scope") == "experts" else ""), record) for record in records
    ]
    counts = Counter(name for name, _ in names)
    return [
        name + (NO_IMATRIX if counts[name] > 1 and record["imatrix_sha256"] is None else "") for name, record in names
    ]


def measured_of(label: str, record: dict, arrays: Arrays, pruning: Arrays, chats: Chats, score: str) -> Measured:
    """Return what one quant costs, by its record and its results; label: its name in tables."""
    found, sums = losses(arrays, pruning, chats, score)
    return Measured(
        label, quant_kind(record["type"]), record["bytes"], record["bits_per_weight"], record["sha256"], sums, found
    )


def measured_again(cache: Path, inputs: dict, score: str, records: list[dict]) -> tuple[list[Measured], Chats]:
    """Return what the quants of these records cost by the stored results, and the chats."""
    folder = results_folder(cache, "results", inputs)
    chats = read_chats(folder)
    tokens = int(chats.counts["all"].sum())
    pruning = read_results(folder / PRUNING_NAME, ["full"], tokens)
    found = []
    for label, record in zip(quant_labels(records), records):
        arrays = read_results(results_path(folder, record["sha256"]), ["full", "pruned"], tokens)
        found.append(measured_of(label, record, arrays, pruning, chats, score))
    return found, chats
