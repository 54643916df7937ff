"""The drop map: which experts of each layer stay and which go.

JSON (`DropMapRecord`): `version`, `experts`, `keep_count`, `drop_count`, `top_k`, `criterion`, `protect_top`, the
questions that chose, digests of what it was made from, `bootstrap`, `domains`, and `layers`: {"0": {"keep": [...],
"drop": [...], "score": [...], "margin": ..., "expected_overlap": ..., "coin_toss": [...]}, ...}, ids sorted, one entry
per layer with experts.

Maps of other tools are read, too. They have no version: the plain {"0": [dropped ids], ...}, or one with "layers" and
any of the other fields beside it, each checked where it is there.

A map that a user brings (copy_drop_map.py) has `criterion` "own map" and `own_map`: the sha256 of the user's file and
the criterion that the file names, if any. It has no scores and no `analysis`, and `question_ids`
only if the user's file has them.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from choice.stats_record import Reconstruction
from files.input_errors import SHOWN_CHARACTERS, InputError, sha256_file, shown
from files.json_records import Count, Fields, Positive, Record, Share, check_fields, check_record, read_json

from pydantic import Field

METADATA_NAME = "expert_drop_metadata.json"  # of a pruned checkpoint, which holds its map (choice/drop_metadata.py)
OWN_MAP = "own map"  # the criterion of a map that was given, not chosen here
LAYER_NUMBER = re.compile(r"0|[1-9][0-9]{0,5}")  # one spelling per number: "01" beside "1" would be one layer twice
ANOTHER_MODEL = "is it the map of another model?"
MAKE_AGAIN = "choose again: make analyze"
SHOWN_DIGITS = 12  # of a digest
ROUNDING = 1e-9  # of a mean, taken in another order


class Bootstrap(Fields):
    """How sure the choice is, over all layers; see `stability` of choice/ranking.py."""

    resamples: Positive
    seed: Count
    coin_toss: Count
    expected_overlap: Share


class Analysis(Fields):
    """How the statistics were taken by which a map was chosen; None: not known.

    empty_reasonings, cut_questions: of the questions that chose, those without a reasoning and those cut after
    cut_tokens; reasoning: the column that was read, and whose words they are.
    """

    empty_reasonings: int | None = None
    cut_questions: int | None = None
    cut_tokens: int | None = None
    counted_tokens: str | None = None
    reasoning: str | None = None
    chat_template_sha256: str | None = None
    dtype: str | None = None
    attention: str | None = None


class OwnMap(Fields):
    """The user's file that a map was copied from, and the criterion that it names."""

    sha256: str
    criterion: str = ""
    protect_top: int | None = None  # of an older version's copies; nothing shows that it is so


class DomainCoverage(Fields):
    """A domain of the questions that chose; see choice/domains.py. least_coverage: over the layers, with its layer.

    file_sha256: of the question file that names the domain, where one does; older maps have none.
    """

    name: str
    weight: Annotated[float, Field(ge=0)]
    floor: Share
    questions: Count
    least_coverage: Annotated[float, Field(ge=0, le=1 + ROUNDING)]
    least_coverage_layer: Count
    file_sha256: str | None = None


class MapDetails(Fields):
    """What a map may say beside its layers. Every field may be missing: maps of other tools have few of them.

    top_k: experts per token; questions: number of `question_ids`, those that chose; analysis: see `Analysis`;
    reconstruction: of which tokens, where that is the criterion. calibration: the text whose tokens an imatrix counted.
    """

    criterion: str = OWN_MAP
    worst_first: bool = False
    protect_top: int = 0
    experts: int = 0
    keep_count: int = 0
    drop_count: int = 0
    top_k: int = 0
    questions: int = 0
    question_ids: list[str] = []
    held_out_question_ids: list[str] = []
    questions_sha256: str = ""
    stats_sha256: str = ""
    config_sha256: str = ""
    weights_sha256: str = ""
    source_sha256: str = ""
    imatrix_sha256: str = ""
    calibration: str = ""
    calibration_sha256: str = ""
    analysis: Analysis | None = None
    bootstrap: Bootstrap | None = None
    domains: list[DomainCoverage] = []
    reconstruction: Reconstruction | None = None
    own_map: OwnMap = OwnMap(sha256="")


class LayerEntry(Fields):
    """One layer of a map of ours; see `layer_entry` and `stability` of choice/ranking.py."""

    keep: list[Count]
    drop: list[Count]
    score: list[float] = []
    margin: float | None = None
    expected_overlap: Share = 0
    coin_toss: list[Count] = []


class DropMapRecord(Record, MapDetails):
    """A map that generate_drop_map.py or copy_drop_map.py wrote."""

    what: ClassVar[str] = "a drop map"
    current: ClassVar[int] = 2
    criterion: str
    experts: Positive
    keep_count: Positive
    drop_count: Count
    layers: dict[str, LayerEntry]


class ChosenMap(DropMapRecord):
    """One of generate_drop_map.py."""

    worst_first: bool
    protect_top: int


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
    return method.get("criterion") or OWN_MAP


def question_ids_of(method: dict) -> list[str]:
    """Return the Record IDs of the questions that chose the experts, [] where a map does not name them."""
    return method.get("question_ids", [])


def is_by_chance(method: dict) -> bool:
    """Tell whether chance alone chose the experts, as a control, and no question had a part in it."""
    return criterion_of(method).startswith("random") and not method.get("protect_top")


def rows_that_chose(path: Path, method: dict, stats: Path, stats_sha256: str, ids: list[str]) -> list[int]:
    """Return the rows of a statistics file whose questions chose the experts of a map; all rows where none did.

    ids: of the file's questions. A map that names no stats_sha256 was not chosen from statistics. Raises InputError
    when it was chosen from others, or names a question that they do not have.
    """
    named = method.get("stats_sha256")
    if named is None:
        return list(range(len(ids)))
    if named != stats_sha256:
        raise InputError(path, f"a map chosen from {stats}", "one of other statistics", "run make analyze")
    # A fold chose by some of the questions, so only those count.
    chose = set(question_ids_of(method))
    if unknown := sorted(chose - set(ids)):
        found = f"{len(unknown)} others, such as {unknown[0]!r}"[:SHOWN_CHARACTERS]
        raise InputError(path, f"question_ids of the questions of {stats}", found, MAKE_AGAIN)
    return [row for row, record_id in enumerate(ids) if record_id in chose]


def check_digests(path: Path, drop_map: DropMap, source: Path, digests: dict[str, str], advice: str) -> None:
    """Raise InputError when a digest that the map records is not that of `source`; digests: by their keys in a map."""
    for key, actual in digests.items():
        if key in drop_map.details and drop_map.details[key] != actual:
            others = ", or of other files beside its weights" * (key == "source_sha256")
            raise InputError(
                path,
                f"the map of {source} ({key} {actual[:SHOWN_DIGITS]})",
                f"that of another model{others} ({drop_map.details[key][:SHOWN_DIGITS]})",
                advice,
            )


def details_of(content: dict) -> dict:
    """Return what a map says beside its layers, its version left out."""
    return {key: value for key, value in content.items() if key not in ("version", "layers")}


def dropped_ids(content: dict) -> dict[int, list[int]]:
    """Return the dropped ids by layer, in the order of the layers; content: from `read_map`."""
    layers = content["layers"]
    return {number: layers[str(number)]["drop"] for number in sorted(map(int, layers))}


def read_map(path: Path) -> dict:
    """Return the content of a map in our form; of another tool's map only what it says, its layers as {"drop": ids}.

    Raises InputError when it is no map or contradicts itself. It is not held against any model.
    """
    content = read_json(path)
    if "version" not in content:
        content = _in_our_form(path, content)
    check_map(path, content)
    return content


def checked_map(path: Path, content: dict) -> dict:
    """Return a map to be written to a path, its version first; raise InputError if `read_map` would refuse it."""
    content = {"version": DropMapRecord.current, **content}
    check_map(path, content)
    return content


def _in_our_form(path: Path, content: dict) -> dict:
    """Return the map of another tool with its layers under "layers"; raise InputError when it has none."""
    layers = content.get("layers", content)
    if not isinstance(layers, dict) or not layers:
        raise InputError(path, "an object of layers keyed by number", shown(layers))
    entries = {number: entry if isinstance(entry, dict) else {"drop": entry} for number, entry in layers.items()}
    return (content if "layers" in content else {}) | {"layers": entries}


def check_map(path: Path, content: dict) -> None:
    """Raise InputError when a field of a map is of another type, or when fields contradict each other."""
    if "version" in content:
        check_record(path, content, DropMapRecord if "own_map" in content else ChosenMap, MAKE_AGAIN)
    else:
        check_fields(path, content, MapDetails, DropMapRecord.what, "correct it or leave it out")
    if not content["layers"] or not all(map(LAYER_NUMBER.fullmatch, content["layers"])):
        raise InputError(path, "an object of layers keyed by number", shown(content["layers"]))
    for number, entry in content["layers"].items():
        _check_layer(path, number, entry, content)
    _check_origin(path, content)
    if not 0 <= (top := content.get("protect_top", 0)) <= content.get("experts", top):
        raise InputError(path, f"protect_top from 0 to {content.get('experts', 'all')}", str(top), MAKE_AGAIN)
    if "version" in content:
        _check_totals(path, content)
        for number, entry in content["layers"].items():
            if rule := _broken_by_scores(entry):
                raise InputError(path, f"{rule} in layer {number}", "others", MAKE_AGAIN)


def _check_origin(path: Path, content: dict) -> None:
    """Raise InputError when a map does not say what chose its experts, or says it twice and differently."""
    ids = question_ids_of(content)
    if "stats_sha256" in content and not ids:
        # Without them pictures and page would be drawn over questions that did not choose.
        raise InputError(path, "question_ids beside stats_sha256, the questions that chose", "none", MAKE_AGAIN)
    if ids and content.get("questions", len(ids)) != len(ids):
        raise InputError(path, f"{content['questions']} question_ids, as questions says", str(len(ids)), MAKE_AGAIN)
    ours = "version" in content and "own_map" not in content
    if ours and not {"stats_sha256", "imatrix_sha256"} & content.keys():
        raise InputError(path, "stats_sha256 or imatrix_sha256, what the map was chosen from", "none", MAKE_AGAIN)


def _check_totals(path: Path, content: dict) -> None:
    """Raise InputError when totals of a map of ours are not those of its layers."""
    if content["keep_count"] + content["drop_count"] != content["experts"]:
        wanted = f"{content['experts'] - content['keep_count']} as drop_count, experts less keep_count"
        raise InputError(path, wanted, str(content["drop_count"]), MAKE_AGAIN)
    if sure := content.get("bootstrap"):
        entries = list(content["layers"].values())
        tosses = sum(len(entry.get("coin_toss", [])) for entry in entries)
        overlap = sum(entry.get("expected_overlap", 0) for entry in entries) / len(entries)
        same = math.isclose(sure["expected_overlap"], overlap, abs_tol=ROUNDING)
        if sure["coin_toss"] != tosses or not same:
            wanted = f"{tosses} coin tosses and an overlap of {overlap:.4f}, as the layers have"
            raise InputError(path, wanted, f"{sure['coin_toss']} and {sure['expected_overlap']:.4f}", MAKE_AGAIN)


def _broken_by_scores(entry: dict) -> str:
    """Return what a layer of a map of ours should have and has not; ids, scores and margin must fit."""
    experts, score, tosses = len(entry["keep"]) + len(entry["drop"]), entry.get("score", []), entry.get("coin_toss", [])
    if "score" in entry and len(score) != experts:
        return f"{experts} scores"
    if tosses != sorted(set(tosses)) or not all(0 <= expert < experts for expert in tosses):
        return "coin_toss of ids, each once"
    if score and entry.get("margin") is not None:
        # That of the last kept and the first dropped one; which those are depends on protection and ties, too.
        kept, dropped = ({score[expert] for expert in entry[part]} for part in ("keep", "drop"))
        if not any(one - other == entry["margin"] for one in kept for other in dropped):
            return "margin between a kept and a dropped score"
    return ""


def _check_layer(path: Path, number: str, entry: dict, content: dict) -> None:
    """Raise InputError unless a layer has ids of dropped experts, and kept ones, where named, are all the others."""
    ids, kept, experts = entry.get("drop"), entry.get("keep"), content.get("experts")
    if not isinstance(ids, list) or not all(type(expert) is int for expert in ids):  # true is an int, too
        raise InputError(path, f"a list of dropped expert ids in layer {number}", shown(ids))
    if len(set(ids)) != len(ids):
        raise InputError(path, f"every dropped id of layer {number} once", "an id twice")
    if experts is not None and ids and not 0 <= min(ids) <= max(ids) < experts:
        wanted = f"ids from 0 to {experts - 1} in layer {number}"
        raise InputError(path, wanted, f"{min(ids)} to {max(ids)}", ANOTHER_MODEL)
    if experts is None or kept is None:  # a map need not say how many there are, nor which stay
        return
    if kept != sorted(set(range(experts)) - set(ids)):
        raise InputError(path, f"keep and drop of layer {number} to partition {experts} experts", "other ids in keep")
    if len(kept) != content.get("keep_count", len(kept)):
        wanted = f"{content['keep_count']} kept experts in layer {number}, as keep_count says"
        raise InputError(path, wanted, str(len(kept)))


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
    content = read_map(path)
    dropped = dropped_ids(content)
    if tuple(dropped) != shape.layers:
        wanted = f"the {len(shape.layers)} layers {shape.layers[0]} to {shape.layers[-1]} that have experts"
        found = f"{len(dropped)} layers, {min(dropped)} to {max(dropped)}"
        raise InputError(path, wanted, found, ANOTHER_MODEL)
    if content.get("experts", shape.experts) != shape.experts:
        wanted = f"{shape.experts} experts per layer, as the model has"
        raise InputError(path, wanted, repr(content["experts"]), ANOTHER_MODEL)
    check_map(path, {"experts": shape.experts} | content)  # again: a map need not say how many experts there are
    keep = {number: sorted(set(range(shape.experts)) - set(ids)) for number, ids in dropped.items()}
    _check_uniform(path, keep)
    check_keep_count(path, len(keep[shape.layers[0]]), shape.experts, shape.top_k)
    drop = {number: sorted(ids) for number, ids in dropped.items()}
    return DropMap(keep, drop, sha256_file(path), details_of(content))


def _check_uniform(path: Path, keep: dict[int, list[int]]) -> None:
    first = next(iter(keep))
    for number, kept in keep.items():
        if len(kept) != len(keep[first]):  # config.json and GGUF have one expert count for all layers
            raise InputError(
                path,
                f"{len(keep[first])} kept experts in layer {number}, as in layer {first}",
                str(len(kept)),
                "experts must be uniform over layers",
            )
