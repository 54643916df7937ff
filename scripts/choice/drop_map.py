"""The drop map: which experts of each layer stay and which go.

JSON: `experts`, `keep_count`, `top_k`, `criterion`, `protect_top`, the questions that chose, digests of what it was
made from, `bootstrap`, and `layers`: {"0": {"keep": [...], "drop": [...], "score": [...], "margin": ...,
"expected_overlap": ..., "coin_toss": [...]}, ...}, ids sorted, one entry per layer with experts. The plain
{"0": [dropped ids], ...} of other tools is read, too.

A map that a user brings (copy_drop_map.py) has `criterion` "own map" and `own_map`: the sha256 of the user's file and
the criterion that the file names, if any. It has no scores, and `question_ids` only if the user's file has them.

expert_drop_metadata.json (`DropMetadata`): how a pruned checkpoint was made. `method` is the map without its layers.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from files.safe_files import SHOWN_CHARACTERS, InputError, Record, read_json, read_record, sha256_file

METADATA_NAME = "expert_drop_metadata.json"
OWN_MAP = "own map"  # the criterion of a map that was given, not chosen here
LAYER_NUMBER = re.compile(r"0|[1-9][0-9]{0,5}")  # one spelling per number: "01" beside "1" would be one layer twice
ANOTHER_MODEL = "is it the map of another model?"
SHOWN_DIGITS = 12  # of a digest


class DropMetadata(Record):
    """What expert_drop.py records in a pruned checkpoint: digests of its source, sha256 by shard, ids by layer."""

    what: ClassVar[str] = METADATA_NAME
    method: dict
    experts: int
    keep_count: int
    drop_map_sha256: str
    source: dict[str, str]
    shards: dict[str, str]
    layers: dict[str, dict[str, list[int]]]


def read_metadata(path: Path) -> dict:
    """Read expert_drop_metadata.json; raise InputError when it is missing or is no such record."""
    return read_record(path, DropMetadata)


@dataclass(frozen=True)
class Shape:
    """A model's experts per layer, experts per token, and the numbers of the layers that have experts."""

    experts: int
    top_k: int
    layers: tuple[int, ...]


@dataclass(frozen=True)
class DropMap:
    """Kept and dropped expert ids by layer, the file's digest, and the rest of the file."""

    keep: dict[int, list[int]]
    drop: dict[int, list[int]]
    sha256: str
    details: dict

    @property
    def keep_count(self) -> int:
        """Experts that stay in every layer."""
        return len(next(iter(self.keep.values())))

    @property
    def experts(self) -> int:
        """Experts of every layer before the drop."""
        return self.keep_count + len(next(iter(self.drop.values())))


def check_keep_count(path: object, keep_count: int, experts: int, top_k: int) -> None:
    """Raise InputError when fewer experts than the router chooses per token would be kept, or none would be dropped."""
    if not top_k <= keep_count < experts:
        wanted = f"a number of kept experts from {top_k} (experts per token) to {experts - 1} (of {experts} experts)"
        raise InputError(path, wanted, str(keep_count))


def criterion_of(method: dict) -> str:
    """Return what chose the experts; method: a map without its layers. Our own maps always name their criterion."""
    return str(method.get("criterion") or OWN_MAP)


def question_ids_of(path: Path, method: dict) -> list[str]:
    """Return the Record IDs of the questions that chose the experts, [] where a map does not name them.

    Raises InputError when they are no list of texts: one text would be taken for as many ids as it has letters.
    """
    ids = method.get("question_ids") or []
    if not isinstance(ids, list) or not all(isinstance(record_id, str) for record_id in ids):
        raise InputError(path, "a list of Record IDs as question_ids", repr(ids)[:SHOWN_CHARACTERS])
    return ids


def read_question_ids(path: Path) -> list[str]:
    """Return the questions that chose the experts from a drop map or expert_drop_metadata.json, [] if it names none.

    Raises InputError for a file that is neither: it would say that nothing is known.
    """
    content = read_json(path)
    # The metadata hold under "method" what a drop map holds at the top.
    ids = question_ids_of(path, content.get("method", content))
    if not ids:
        read_layers(path)
    return ids


def rows_that_chose(path: Path, method: dict, stats: Path, stats_sha256: str, ids: list[str]) -> list[int]:
    """Return the rows of a statistics file whose questions chose the experts of a map; all rows where none did.

    ids: of the file's questions. A map that names no stats_sha256 was not chosen from statistics. Raises InputError
    when it was chosen from others.
    """
    named = method.get("stats_sha256")
    if named not in (None, stats_sha256):
        raise InputError(path, f"a map chosen from {stats}", "one of other statistics", "run make analyze")
    # A fold chose by some of the questions, so only those count.
    chose = set(question_ids_of(path, method)) if named else set()
    return [row for row, record_id in enumerate(ids) if not chose or record_id in chose]


def check_digests(path: Path, drop_map: DropMap, source: Path, digests: dict[str, str], advice: str) -> None:
    """Raise InputError when a digest that the map records is not that of `source`; digests: by their keys in a map."""
    for key, actual in digests.items():
        if key in drop_map.details and drop_map.details[key] != actual:
            raise InputError(
                path,
                f"the map of {source} ({key} {actual[:SHOWN_DIGITS]})",
                f"that of another model ({str(drop_map.details[key])[:SHOWN_DIGITS]})",
                advice,
            )


def read_layers(path: Path) -> dict[int, list[int]]:
    """Return the dropped ids of each layer of a map, not checked against any model."""
    content = read_json(path)
    layers = content.get("layers", content)
    if not isinstance(layers, dict) or not layers or not all(map(LAYER_NUMBER.fullmatch, layers)):
        raise InputError(path, "an object of layers keyed by number", repr(layers)[:SHOWN_CHARACTERS])
    dropped: dict[int, list[int]] = {}
    for number in sorted(map(int, layers)):
        entry = layers[str(number)]
        ids = entry.get("drop") if isinstance(entry, dict) else entry
        if not isinstance(ids, list) or not all(type(expert) is int for expert in ids):  # true is an int, too
            found = repr(ids)[:SHOWN_CHARACTERS]
            raise InputError(path, f"a list of dropped expert ids in layer {number}", found)
        dropped[number] = ids
    return dropped


def values_by_layer(content: dict, layers: list[int], key: str) -> list[list] | None:
    """Return a list per layer, such as `score` or `coin_toss`, from the content of a map; None where it has none."""
    entries = [content.get("layers", {}).get(str(layer)) for layer in layers]
    # A plain map has a list of ids per layer and nothing else; a map without a bootstrap knows no coin toss.
    found = [entry[key] for entry in entries if isinstance(entry, dict) and isinstance(entry.get(key), list)]
    return found if len(found) == len(layers) else None


def read_drop_map(path: Path, shape: Shape) -> DropMap:
    """Read a drop map and check it against a model's shape.

    Raises InputError when a layer is missing or too many, an id is out of range or occurs twice, keep and drop do not
    partition the experts, layers keep different numbers, or fewer experts than top-k are kept.
    """
    dropped, content = read_layers(path), read_json(path)
    if tuple(dropped) != shape.layers:
        wanted = f"the {len(shape.layers)} layers {shape.layers[0]} to {shape.layers[-1]} that have experts"
        found = f"{len(dropped)} layers, {min(dropped)} to {max(dropped)}"
        raise InputError(path, wanted, found, ANOTHER_MODEL)
    if content.get("experts", shape.experts) != shape.experts:
        wanted = f"{shape.experts} experts per layer, as the model has"
        raise InputError(path, wanted, repr(content["experts"]), ANOTHER_MODEL)
    entries = content.get("layers", {})
    keep: dict[int, list[int]] = {}
    drop: dict[int, list[int]] = {}
    first = shape.layers[0]
    for number, ids in dropped.items():
        keep[number], drop[number] = _layer(path, number, ids, entries.get(str(number)), shape.experts)
        if len(keep[number]) != len(keep[first]):  # config.json and GGUF have one expert count for all layers
            raise InputError(
                path,
                f"{len(keep[first])} kept experts in layer {number}, as in layer {first}",
                str(len(keep[number])),
                "experts must be uniform over layers",
            )
    check_keep_count(path, len(keep[first]), shape.experts, shape.top_k)
    details = {key: value for key, value in content.items() if key != "layers"} if "layers" in content else {}
    question_ids_of(path, details)  # refused here and not after the evaluation, which takes days
    return DropMap(keep, drop, sha256_file(path), details)


def _layer(path: Path, number: int, dropped: list[int], entry: object, experts: int) -> tuple[list[int], list[int]]:
    if len(set(dropped)) != len(dropped):
        raise InputError(path, f"every dropped id of layer {number} once", "an id twice")
    if dropped and not 0 <= min(dropped) <= max(dropped) < experts:
        wanted = f"ids from 0 to {experts - 1} in layer {number}"
        raise InputError(path, wanted, f"{min(dropped)} to {max(dropped)}", ANOTHER_MODEL)
    keep = sorted(set(range(experts)) - set(dropped))
    if isinstance(entry, dict) and "keep" in entry and entry["keep"] != keep:
        raise InputError(path, f"keep and drop of layer {number} to partition {experts} experts", "other ids in keep")
    return keep, sorted(dropped)
