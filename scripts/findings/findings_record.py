"""findings.json, the record of measure_findings.py: what was found about a model's experts, each with its control.

Shares lie between 0 and 1. An interval is [low, high] and covers 95%. `chance` is what the control gives: of domains
the mean over shuffled labels, of maps the mean of the hypergeometric distribution, of weights the standard deviation of
the cosine of independent vectors.
"""

from typing import ClassVar

from files.safe_files import Fields, Record, Sha256

FINDINGS_NAME = "findings.json"


class Tested(Fields):
    """A value, what chance gives, and the p of a value as large by chance."""

    value: float
    chance: float
    chance_interval: list[float]
    p: float


class Distance(Tested):
    """The Jensen-Shannon divergence of the domains in bits; beyond: without what chance gives, with its interval."""

    beyond: float
    beyond_interval: list[float]


class DomainLayer(Fields):
    """One layer: distance of the domains, p by Holm's correction over layers, share of the top experts that differ."""

    layer: int
    distance: Distance
    p_corrected: float
    top_differs: Tested


class Cell(Fields):
    """What one domain's questions lose by the map of another: [mean share, low, high] over these questions."""

    chosen_by: str
    asked: str
    norm_lost: list[float]
    protected_lost: list[float]


class Specialisation(Fields):
    """How far the domains' experts differ, and what dropping by one domain costs the others.

    domains: number of questions by name; left_out: questions without a domain, or in one that is too small; largest:
    the largest divergence that is possible, in bits; distance, top_differs: mean over the layers. penalty: what a
    domain loses more by another domain's map than by its own on questions that did not choose.
    """

    column: str
    domains: dict[str, int]
    left_out: int
    top: int
    largest: float
    distance: Distance
    top_differs: Tested
    layers: list[DomainLayer]
    criterion: str
    keep_count: int
    cells: list[Cell]
    penalty: Tested
    penalty_interval: list[float]


class WeightLayer(Fields):
    """Cosines between the experts of one layer by one matrix; size: weights of an expert.

    largest: that of the largest absolute value; pair: its experts; above: pairs whose absolute value is above 0.05.
    """

    layer: int
    matrix: str
    size: int
    pairs: int
    mean: float
    largest: float
    pair: list[int]
    above: int
    chance: float


class OutputLayer(Fields):
    """Cosines between the outputs of all experts of one layer on the same tokens.

    mean: over tokens and pairs; chosen: over pairs that the router chose for the token; largest: the pair with the
    largest mean over tokens. Each [value, low, high], by questions drawn anew. chosen is None where the router chooses
    one expert.
    """

    layer: int
    tokens: int
    mean: list[float]
    chosen: list[float] | None
    largest: list[float]
    pair: list[int]


class Bf16Layer(Fields):
    """One layer; protected_differ: share of the protected experts that change, by norms and by norms and sums."""

    layer: int
    norms: int
    nonfinite: int
    bf16_nonfinite: int
    protected_differ: list[float]
    sums_protected_differ: list[float]


class Bf16(Fields):
    """What changes when norms are taken in bf16, and when they are added up in bf16 as well.

    norms: routed outputs; nonfinite: those whose fp32 norm is not finite; bf16_nonfinite: those that bf16 alone breaks.
    dropped_differ, sums_dropped_differ: share of the dropped experts that change by coverage at keep_count.
    """

    top: int
    keep_count: int
    norms: int
    nonfinite: int
    bf16_nonfinite: int
    protected_differ: list[float]
    sums_protected_differ: list[float]
    dropped_differ: float
    sums_dropped_differ: float
    layers: list[Bf16Layer]


class Overlap(Fields):
    """How far two sets of experts differ: share of the smaller one that is not in the other, over all layers.

    p: of sets as alike by chance, drawn in each layer without regard to each other. layers: the share by layer.
    """

    sizes: list[int]
    differ: float
    chance: float
    chance_interval: list[float]
    p: float
    layers: list[float]


class MapPair(Fields):
    """Another map against the run's own; top: the best experts by the maps' own scores, where both have them."""

    name: str
    sha256: Sha256 | None = None
    keep_count: int
    dropped: Overlap
    kept: Overlap
    top: Overlap | None = None


class Findings(Record):
    """All findings of one model and one drop map.

    inputs: digests of statistics, questions, checkpoint and map, and the settings. missing: why a finding is not there,
    by name.
    """

    what: ClassVar[str] = "findings of measure_findings.py"
    inputs: dict
    experts: int
    top_k: int
    keep_count: int
    missing: dict[str, str]
    specialisation: Specialisation | None = None
    weights: list[WeightLayer]
    outputs: list[OutputLayer]
    bf16: Bf16
    maps: list[MapPair]
