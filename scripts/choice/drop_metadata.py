"""expert_drop_metadata.json (`DropMetadata`): how a pruned checkpoint was made.

`method` is the map without its version and its layers, `methodology` a summary of it for people. Beside a pruned GGUF
file it is NAME.expert_drop_metadata.json without `source`, and `shards` are the GGUF files.
"""

from pathlib import Path
from typing import ClassVar, Self

from choice.drop_map import METADATA_NAME, OWN_MAP, Analysis, DropMap, MapDetails, details_of, question_ids_of, read_map
from files.input_errors import InputError
from files.json_records import Positive, Record, Sha256, read_json, read_record, require

from pydantic import model_validator

DROP_AGAIN = "drop again: make drop"


class Methodology(Analysis):
    """How the experts were chosen, as far as the map says; not_known: the names of the fields that are None."""

    chosen_by: str = OWN_MAP
    criterion: str | None = None
    protect_top: int | None = None
    questions: int | None = None
    not_known: list[str] = []


class DropMetadata(Record):
    """What expert_drop.py records in a pruned checkpoint: digests of its source, sha256 by shard, ids by layer.

    source: config_sha256, weights_sha256 and source_sha256 (`weights_digest`, `source_digest` of checkpoints/), and
    card_sha256, of README.md, "" where there was none. shard_bytes: where others than make's were asked for.
    small_files: sha256 of config, index and what came from the full model as it was, by path in the folder.
    """

    what: ClassVar[str] = METADATA_NAME
    current: ClassVar[int] = 2
    method: MapDetails
    methodology: Methodology = Methodology()
    experts: Positive
    keep_count: Positive
    drop_map_sha256: Sha256
    source: dict[str, str]
    shards: dict[str, Sha256]
    shard_bytes: Positive | None = None
    small_files: dict[str, Sha256] = {}
    layers: dict[str, dict[str, list[int]]]

    @model_validator(mode="after")
    def whole_layers(self) -> Self:
        """Refuse layers in which an expert is missing or comes twice, or another number of experts is kept."""
        require(self.keep_count <= self.experts, "keep_count at most experts")
        for name, ids in self.layers.items():
            # Both lists are recorded though one follows from the other: a damaged list then shows.
            both = sorted(ids.get("keep", []) + ids.get("drop", []))
            require(both == list(range(self.experts)), f"layers.{name} of every expert once")
            require(len(ids.get("keep", [])) == self.keep_count, f"layers.{name} that keep keep_count experts")
        return self


def check_full(checkpoint: Path) -> None:
    """Raise InputError when experts were dropped from a checkpoint before: its scores would look held out that are not.

    What chose then is not among the questions that choose now.
    """
    if (found := checkpoint / METADATA_NAME).exists():
        raise InputError(found, "a model from which no experts were dropped", "its metadata", "prune the full model")


def read_metadata(path: Path) -> dict:
    """Read expert_drop_metadata.json; raise InputError when it is missing or is no such record.

    Its name is part of it: expert_drop.py copies other files of a model as they are, and seals them all the same.
    """
    if not path.name.endswith(METADATA_NAME):  # of a GGUF file it is NAME.expert_drop_metadata.json
        raise InputError(path, f"a file named {METADATA_NAME}", "another name")
    return read_record(path, DropMetadata, DROP_AGAIN)


def read_method(path: Path) -> dict:
    """Return what chose the experts, a map without its layers, from a drop map or an expert_drop_metadata.json."""
    if "method" in read_json(path):
        return read_metadata(path)["method"]
    return details_of(read_map(path))


def methodology_of(method: dict) -> dict:
    """Return how the experts were chosen, as `Methodology` has it; method: a map without its layers."""
    own, analysis = method.get("own_map", {}), method.get("analysis") or {}
    found = {
        "criterion": own.get("criterion") or (method.get("criterion") if "own_map" not in method else None),
        "protect_top": None if "own_map" in method else method.get("protect_top"),
        "questions": len(question_ids_of(method)) or None,
        **{name: analysis.get(name) for name in Analysis.model_fields},
    }
    chosen_by = "statistics of the full model" if "stats_sha256" in method else "an imatrix's token counts"
    if "own_map" in method or not {"stats_sha256", "imatrix_sha256"} & method.keys():
        chosen_by = OWN_MAP
    return {"chosen_by": chosen_by, **found, "not_known": [name for name, value in found.items() if value is None]}


def metadata_of(
    drop_map: DropMap, source: dict[str, str], shards: dict[str, str], small: dict[str, str] | None = None
) -> dict:
    """Return what expert_drop_metadata.json records; source: digests of the full model; the rest: sha256 by file."""
    return {
        "method": drop_map.details,
        "methodology": methodology_of(drop_map.details),
        "experts": drop_map.experts,
        "keep_count": drop_map.keep_count,
        "drop_map_sha256": drop_map.sha256,
        "source": source,
        "shards": shards,
        "small_files": small or {},
        "layers": {str(i): {"keep": drop_map.keep[i], "drop": drop_map.drop[i]} for i in drop_map.keep},
    }
