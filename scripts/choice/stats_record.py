"""The names of the statistics' arrays and the record in their metadata; expert_stats.py says what each holds."""

from typing import ClassVar

from files.json_records import Fields, Positive, Record

REASONING_BY = {"reference": "a reference's reasoning, not the model's own", "model": "the model's own reasoning"}
METADATA_KEY = "expert_stats"
RECONSTRUCTION_TOKENS, RECONSTRUCTION_SEED = 3000, 1  # that an order by reconstruction is made from, and their draw
EXPERT_SUMS = (
    "token_count",
    "routing_weight_sum",
    "norm_sum",
    "norm_sq_sum",
    "weighted_norm_sum",
    "weighted_norm_sq_sum",
    "norm_max",
)
ELIMINATION = ("elimination_rank", "elimination_error")
LAYER_SUMS = ("tokens", "nonfinite_tokens", "skipped_tokens", "moe_output_norm_sum")
COUNTS = ("token_count", "tokens", "nonfinite_tokens", "skipped_tokens")  # of tokens, int64
MEASURE_AGAIN = "measure again: make analyze REPLACE=statistics"


class AnalysedQuestion(Fields):
    """One question. truncated: cut after max_tokens; empty_reasoning: the model read the answer without a thought."""

    id: str
    tokens: Positive | None = None
    truncated: bool = False
    empty_reasoning: bool = False


class ReconstructionDomain(Fields):
    """A domain of the questions and its weight; questions_sha256: of their ids. Older statistics have none."""

    name: str
    weight: float
    questions_sha256: str | None = None


class Reconstruction(Fields):
    """Of which tokens the order by reconstruction was made.

    objective: all, reply, or how much replies count together; tokens: of all questions, drawn by seed; domains: where
    they have weights.
    """

    objective: str
    tokens: int
    seed: int
    domains: list[ReconstructionDomain] = []


class StatsRecord(Record):
    """The metadata. What is None, a test or another writer has left out."""

    what: ClassVar[str] = "statistics of teacher_force_analysis.py"
    current: ClassVar[int] = 2
    questions: list[AnalysedQuestion]
    top_k: Positive
    questions_sha256: str
    question_file_sha256: str | None = None  # of the whole file; an older version's statistics have none
    config_sha256: str
    weights_sha256: str
    source_sha256: str | None = None
    reasoning: str | None = None
    chat_template_sha256: str | None = None
    max_tokens: int | None = None
    counted_tokens: str | None = None
    dtype: str | None = None
    attention: str | None = None
    batch_size: Positive | None = None
    reconstruction: Reconstruction | None = None
