"""findings.json, the record of measure_findings.py: what was found about a model's experts, each with its control.

Shares lie between 0 and 1. An interval is [low, high] and covers 95%. `chance` is what the control gives: of domains
the mean over shuffled labels, of maps the mean of the hypergeometric distribution, of weights the standard deviation of
the cosine of independent vectors.
"""

from typing import Annotated, ClassVar, Self

from files.json_records import Count, Fields, Positive, Record, Sha256, Share, require

from pydantic import Field, model_validator

FINDINGS_NAME = "findings.json"
ROUNDING = 1e-9
Cosine = Annotated[float, Field(ge=-1 - ROUNDING, le=1 + ROUNDING)]
Interval = Annotated[list[float], Field(min_length=2, max_length=2)]
WithInterval = Annotated[list[float], Field(min_length=3, max_length=3)]  # value, low, high
SHUFFLES, RESAMPLES, SEED, TOKENS_PER_QUESTION = 999, 999, 1, 2  # as make measures
BY_MAKE = {"shuffles": SHUFFLES, "resamples": RESAMPLES, "seed": SEED, "tokens_per_question": TOKENS_PER_QUESTION}
Draws = Annotated[int, Field(ge=1, le=100_000)]  # more would take hours, also for check_release.py
Pair = Annotated[list[Count], Field(min_length=2, max_length=2)]


class Tested(Fields):
    """A value, what chance gives, and the p of a value as large by chance."""

    value: float
    chance: float
    chance_interval: Interval
    p: Share

    @model_validator(mode="after")
    def in_order(self) -> Self:
        """Refuse an interval whose limits are turned."""
        require(self.chance_interval[0] <= self.chance_interval[1], "chance_interval from low to high")
        return self


class Distance(Tested):
    """The Jensen-Shannon divergence of the domains in bits; beyond: without what chance gives, with its interval."""

    beyond: float
    beyond_interval: Interval

    @model_validator(mode="after")
    def beyond_chance(self) -> Self:
        """Refuse a distance beyond chance that is not the distance less chance."""
        require(abs(self.beyond - (self.value - self.chance)) <= ROUNDING, "beyond = value - chance")
        return self


class DomainLayer(Fields):
    """One layer: distance of the domains, p by Holm's correction over layers, share of the top experts that differ."""

    layer: int
    distance: Distance
    p_corrected: Share
    top_differs: Tested


class Cell(Fields):
    """What one domain's questions lose by the map of another: [mean share, low, high] over these questions."""

    chosen_by: str
    asked: str
    norm_lost: WithInterval
    protected_lost: WithInterval


class Specialisation(Fields):
    """How far the domains' experts differ, and what dropping by one domain costs the others.

    domains: number of questions by name; left_out: questions without a domain, or in one that is too small; largest:
    the largest divergence that is possible, in bits; distance, top_differs: mean over the layers. penalty: what a
    domain loses more by another domain's map than by its own on questions that did not choose.
    """

    column: str
    domains: dict[str, Count]
    left_out: Count
    top: Positive
    largest: float
    distance: Distance
    top_differs: Tested
    layers: Annotated[list[DomainLayer], Field(min_length=1)]
    criterion: str
    keep_count: Positive
    cells: list[Cell]
    penalty: Tested
    penalty_interval: Interval


class WeightLayer(Fields):
    """Cosines between the experts of one layer by one matrix; size: weights of an expert.

    largest: that of the largest absolute value; pair: its experts; above: pairs whose absolute value is above 0.05.
    """

    layer: int
    matrix: str
    size: Positive
    pairs: Positive
    mean: Cosine
    largest: Cosine
    pair: Pair
    above: Count
    chance: Share


class OutputLayer(Fields):
    """Cosines between the outputs of all experts of one layer on the same tokens.

    mean: over tokens and pairs; chosen: over pairs that the router chose for the token; largest: the pair with the
    largest mean over tokens. Each [value, low, high], by questions drawn anew. chosen is None where the router chooses
    one expert.
    """

    layer: int
    tokens: Positive
    mean: WithInterval
    chosen: WithInterval | None
    largest: WithInterval
    pair: Pair


class Bf16Layer(Fields):
    """One layer; protected_differ: share of the protected experts that change, by norms and by norms and sums."""

    layer: int
    norms: Count
    nonfinite: Count
    bf16_nonfinite: Count
    protected_differ: WithInterval
    sums_protected_differ: WithInterval


class Bf16(Fields):
    """What changes when norms are taken in bf16, and when they are added up in bf16 as well.

    norms: routed outputs; nonfinite: those whose fp32 norm is not finite; bf16_nonfinite: those that bf16 alone breaks.
    dropped_differ, sums_dropped_differ: share of the dropped experts that change by coverage at keep_count.
    """

    top: Positive
    keep_count: Positive
    norms: Count
    nonfinite: Count
    bf16_nonfinite: Count
    protected_differ: WithInterval
    sums_protected_differ: WithInterval
    dropped_differ: Share
    sums_dropped_differ: Share
    layers: list[Bf16Layer]

    @model_validator(mode="after")
    def sums_of_layers(self) -> Self:
        """Refuse counts that are not the sums over the layers."""
        for name in ("norms", "nonfinite", "bf16_nonfinite"):
            require(
                getattr(self, name) == sum(getattr(layer, name) for layer in self.layers), f"{name} = the layers' sum"
            )
        return self


class Overlap(Fields):
    """How far two sets of experts differ: share of the smaller one that is not in the other, over all layers.

    p: of sets as alike by chance, drawn in each layer without regard to each other. layers: the share by layer.
    """

    sizes: Pair
    differ: Share
    chance: Share
    chance_interval: Interval
    p: Share
    layers: list[Share]


class MapPair(Fields):
    """Another map against the run's own; top: the best experts by the maps' own scores, where both have them."""

    name: str
    sha256: Sha256 | None = None
    keep_count: Positive
    dropped: Overlap
    kept: Overlap
    top: Overlap | None = None


class FindingsInputs(Fields):
    """Digests of what the findings are of, and the settings; questions: their number."""

    stats_sha256: Sha256
    drop_map_sha256: Sha256
    weights_sha256: Sha256
    questions: Positive
    shuffles: Draws
    resamples: Draws
    seed: Count
    tokens_per_question: Positive


class Findings(Record):
    """All findings of one model and one drop map. missing: why a finding is not there, by name."""

    what: ClassVar[str] = "findings of measure_findings.py"
    inputs: FindingsInputs
    experts: Positive
    top_k: Positive
    keep_count: Positive
    missing: dict[str, str]
    specialisation: Specialisation | None = None
    weights: Annotated[list[WeightLayer], Field(min_length=1)]
    outputs: Annotated[list[OutputLayer], Field(min_length=1)]
    bf16: Bf16
    maps: Annotated[list[MapPair], Field(min_length=1)]

    @model_validator(mode="after")
    def one_choice(self) -> Self:
        """Refuse findings on another number of kept experts than the record names, and experts that are none."""
        kept = {self.keep_count, self.bf16.keep_count}
        kept |= {self.specialisation.keep_count} if self.specialisation else set()
        require(len(kept) == 1, "keep_count the same in all parts")
        require(self.keep_count <= self.experts and self.top_k <= self.experts, "keep_count and top_k within experts")
        pairs = [layer.pair for layer in self.weights] + [layer.pair for layer in self.outputs]
        require(all(max(pair) < self.experts for pair in pairs), "pairs of experts")
        return self
