"""loops.json: how often a model's answers run away, repeat a call, or are malformed or empty; the same as tables.

Written by measure_loops.py. The first row is the reference. A rate counts answers, its interval and the tests count
prompts: answers to one prompt with several seeds are no independent ones.
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from files.display import markdown_table, plural
from files.json_records import Count, Fields, Positive, Record, Sha256, Share, require
from scoring.paired_statistics import LEVEL, Interval

from pydantic import Field, model_validator

LOOPS_NAME = "loops.json"
# The classes of answers, which loop_classes.py defines, and its rule of the same block.
SAME_BLOCK, LENGTH, MALFORMED, SAME_CALL, EMPTY = "same block", "length", "malformed", "same call", "empty"
FINE = "fine"
Class = Literal["same block", "length", "malformed", "same call", "empty", "fine"]
ROUNDING = 1e-9
COPIES, BLOCK_CHARACTERS = 3, 200
# What is counted, and which classes it is made of.
MEASURES: dict[str, tuple[str, ...]] = {
    "any failure": (SAME_BLOCK, LENGTH, MALFORMED, SAME_CALL, EMPTY),
    "runaway": (SAME_BLOCK, LENGTH),
    "same block": (SAME_BLOCK,),
    "malformed": (MALFORMED,),
    "same call": (SAME_CALL,),
    "empty": (EMPTY,),
}
LOOP_HEADS = ["File", "Any failure", "Runaway", "Same block", "Malformed", "Same call", "Empty", "With a call"]
PAIR_HEADS = ["File", "What", "More", "Fewer", "Difference (points)", "p"]


class LoopInputs(Fields):
    """What the answers depend on beside the file (`loop_inputs` of loop_answers.py)."""

    prompts_sha256: Sha256
    sampling: dict[str, float]
    seed: int
    max_tokens: int
    context: int
    gpu_layers: int
    llama_cpp: str
    tools_sha256: Sha256 | None = None  # of the build of llama.cpp; older records have none


class Rate(Fields):
    """How many of the answers, over the prompts that can show it; interval: 95%, over prompts."""

    count: Count
    answers: Count
    interval: Interval

    @model_validator(mode="after")
    def some_of_all(self) -> Self:
        """Refuse more failures than answers, and a share outside of its interval."""
        low, high = self.interval
        require(self.count <= self.answers, "count at most answers")
        share = self.count / self.answers if self.answers else low
        require(0 <= low <= share + ROUNDING and share - ROUNDING <= high <= 1, "count / answers within interval")
        return self


class LoopRow(Fields):
    """One file. classes: [prompts][seeds]; calls: answers with a call, tool_answers: answers to prompts with tools."""

    gguf: str
    gguf_sha256: Sha256
    source_sha256: Sha256  # of the F16 file that it was made from
    classes: list[list[Class]]
    calls: Count
    tool_answers: Count
    tokens: Count
    rates: dict[str, Rate]

    @model_validator(mode="after")
    def every_measure(self) -> Self:
        """Refuse a row without a rate of each failure, or with one of another name."""
        require(set(self.rates) == set(MEASURES), f"rates of {', '.join(MEASURES)}")
        return self


class LoopPair(Fields):
    """A file against the reference. more, fewer: prompts with more or fewer such answers; difference: of rates."""

    gguf: str
    measure: str
    more: Count
    fewer: Count
    difference: Annotated[float, Field(ge=-1, le=1)]
    difference_interval: Interval
    p: Share


class LoopResults(Record):
    """What was asked, a row for each file, and pairs with the first."""

    what: ClassVar[str] = "the record of measure_loops.py"
    inputs: LoopInputs
    prompts: list[str]
    seeds: Positive
    rows: Annotated[list[LoopRow], Field(min_length=1)]
    pairs: list[LoopPair]

    @model_validator(mode="after")
    def one_set_of_prompts(self) -> Self:
        """Refuse a row without a class of every prompt and seed, and a pair of files or failures that are not there."""
        files = {row.gguf for row in self.rows}
        for row in self.rows:
            every = len(row.classes) == len(self.prompts) and {*map(len, row.classes)} <= {self.seeds}
            require(every, "a class of every prompt and seed")
        for pair in self.pairs:
            require(pair.gguf in files and pair.measure in MEASURES, "pairs of the rows' files and failures")
        return self


def file_label(gguf: str) -> str:
    """Return a file's name in tables."""
    return Path(gguf).stem


def rate_text(rate: dict) -> str:
    """Return a rate in per cent with its interval."""
    low, high = (100 * limit for limit in rate["interval"])
    return f"{100 * rate['count'] / max(1, rate['answers']):.1f}% ({low:.1f} to {high:.1f})"


def loop_cells(row: dict) -> list[str]:
    """Return a row of LOOP_HEADS."""
    calls = f"{row['calls']} of {row['tool_answers']}"
    return [file_label(row["gguf"]), *(rate_text(row["rates"][measure]) for measure in MEASURES), calls]


def shown_pairs(results: dict) -> list[dict]:
    """Return the pairs worth a line: of any failure, and of those in which some prompt differs."""
    return [pair for pair in results["pairs"] if pair["measure"] == "any failure" or pair["more"] or pair["fewer"]]


def pair_cells(pair: dict) -> list[str]:
    """Return a row of PAIR_HEADS."""
    low, high = (100 * limit for limit in pair["difference_interval"])
    difference = f"{100 * pair['difference']:+.1f} ({low:+.1f} to {high:+.1f})"
    counts = [str(pair["more"]), str(pair["fewer"])]
    return [file_label(pair["gguf"]), pair["measure"], *counts, difference, f"{pair['p']:.3g}"]


def significant_pairs(results: dict, worse: bool) -> list[dict]:
    """Return the pairs of a significant difference: those with more failures than the reference, or with fewer."""
    found = [pair for pair in results["pairs"] if pair["p"] <= 1 - LEVEL]
    return [pair for pair in found if (pair["difference"] > 0) == worse]


def pairs_in_words(results: dict) -> str:
    """Return which files fail more often than the reference, in a sentence."""
    if len(results["rows"]) < 2:
        return "No other file was compared with it."
    reference = file_label(results["rows"][0]["gguf"])
    found = [f"{file_label(pair['gguf'])} ({pair['measure']})" for pair in significant_pairs(results, worse=True)]
    if not found:
        return f"No file fails significantly more often than {reference}."
    return f"Significantly more often than {reference}: {', '.join(found)}."


def loops_in_words(results: dict) -> str:
    """Return how the rates were measured, and what counts as what."""
    most, seeds = results["inputs"]["max_tokens"], plural(results["seeds"], "seed")
    return (
        f"{len(results['prompts'])} everyday prompts of our own, {seeds} each, some with tools and some after a tool "
        "has answered, through llama-server's chat endpoint with the evaluation's sampling, at most "
        f"{most} tokens of each answer and no other limit of its thought. An answer has one class, the first that "
        f"holds. Runaway: its end is the same block {COPIES} times or more over {BLOCK_CHARACTERS} characters (same "
        "block), or the limit of tokens ended it. Malformed: the server cannot read it, a marker of the chat format is "
        "left in its text, or a call does not fit its tool. Same call: a call whose response is in the chat already, "
        "of the answers to such chats. Empty: no text and no call. Rates in per cent with 95% intervals over prompts "
        "(Wilson). Whether an answer is right was not asked."
    )


def loops_tables(results: dict) -> str:
    """Return both tables and what they need to be understood."""
    parts = [markdown_table(LOOP_HEADS, [loop_cells(row) for row in results["rows"]]), loops_in_words(results)]
    if pairs := shown_pairs(results):
        reference = file_label(results["rows"][0]["gguf"])
        parts.append(
            f"Against {reference}, prompt by prompt (More, Fewer: prompts with more and with fewer such answers; exact "
            "test, McNemar's for one seed):"
        )
        parts.append(markdown_table(PAIR_HEADS, [pair_cells(pair) for pair in pairs], left=2))
    return "\n\n".join([*parts, pairs_in_words(results)])
