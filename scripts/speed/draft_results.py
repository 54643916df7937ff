"""draft.json: what a draft model gains, written by measure_draft.py; and the same in words and as a table."""

import operator
from typing import Annotated, ClassVar, Self

from files.display import markdown_table, plural
from files.input_errors import InputError
from files.json_records import Count, Fields, ModelName, Positive, Record, Sha256, require
from scoring.machines import Hardware, machine_sentence
from scoring.paired_statistics import mean_and_error
from speed.round_speeds import Speed, factor_in_words, mean_speed, where_in_words

import numpy as np
from pydantic import Field, model_validator

DRAFT_NAME = "draft.json"
ANSWER_TOKENS = 512  # most of an answer, as make measures
DRAFT_HEADS = [
    "File",
    "Drafted tokens accepted",
    "Tokens per pass",
    "Tokens/s without",
    "Tokens/s with",
    "Times as fast",
]


class Answers(Fields):
    """One model's greedy answers: of each question the tokens, and how many were drafted and accepted.

    speeds, speeds_without: tokens per second in each round, with and without the draft model.
    """

    name: ModelName
    gguf: str
    gguf_sha256: Sha256
    source_sha256: Sha256  # of the F16 file that it was made from
    same: list[bool]  # whether the text with the draft model is the one without
    tokens: list[Count]
    drafted: list[Count]
    accepted: list[Count]
    speeds: list[Speed]
    speeds_without: list[Speed]

    @model_validator(mode="after")
    def within_the_drafts(self) -> Self:
        """Refuse more accepted tokens than were drafted, and a share of no tokens at all."""
        counted = len(self.drafted) == len(self.accepted) and all(map(operator.le, self.accepted, self.drafted))
        require(counted and sum(self.drafted) > 0, "drafted tokens, and at most these accepted")
        return self


class DraftResults(Record):
    """What was measured: the file, the settings, the full and the pruned model."""

    what: ClassVar[str] = "the record of measure_draft.py"
    current: ClassVar[int] = 2
    again: ClassVar[str] = "run `make draft REPLACE=draft`"
    file: str
    type: str
    bytes: Positive
    parameters: Positive
    sha256: Sha256
    draft_tokens: Positive
    max_tokens: Positive
    context: Count
    gpu_layers: int
    rounds: Positive
    questions: Annotated[int, Field(ge=2)]  # an error needs two
    questions_sha256: Sha256
    question_file_sha256: Sha256 | None = None  # of the whole file; older records have none
    llama_cpp: str
    tools_sha256: Sha256 | None = None  # of the build of llama.cpp; older records have none
    hardware: Hardware | None = None  # what the answers were timed on; older records do not say
    models: Annotated[list[Answers], Field(min_length=1)]

    @model_validator(mode="after")
    def every_question_and_round(self) -> Self:
        """Refuse a model without an answer to every question, or without a speed of every round."""
        for model in self.models:
            answered = {len(model.same), len(model.tokens), len(model.drafted), len(model.accepted)}
            require(answered == {self.questions}, "an answer of each model to every question")
            require({len(model.speeds), len(model.speeds_without)} == {self.rounds}, "speeds of every round")
        return self


def acceptance(answers: dict) -> tuple[float, float]:
    """Return the share of drafted tokens that stayed, and its standard error over questions."""
    return mean_and_error(np.array(answers["accepted"], float), np.array(answers["drafted"], float))


def tokens_per_pass(answers: dict) -> float:
    """Return how many tokens a pass of the target gives: one, and those of its draft that stayed."""
    tokens, accepted = sum(answers["tokens"]), sum(answers["accepted"])
    return tokens / max(1, tokens - accepted)


def draft_rows(results: dict) -> list[list[str]]:
    """Return a row of DRAFT_HEADS for each model, ± one standard error."""
    rows = []
    for answers in results["models"]:
        share, error = acceptance(answers)
        rows.append(
            [
                answers["gguf"].removesuffix(".gguf"),  # with its type: one of another is not as fast
                f"{100 * share:.1f}% ± {100 * error:.1f}",
                f"{tokens_per_pass(answers):.2f}",
                mean_speed(answers["speeds_without"]),
                mean_speed(answers["speeds"]),
                factor_in_words(answers["speeds"], answers["speeds_without"]),
            ]
        )
    return rows


def same_text(results: dict) -> str:
    """Return how many greedy answers are the same with and without the draft model, in words."""
    same = [sum(answers["same"]) for answers in results["models"]]
    if all(count == results["questions"] for count in same):
        return f"All {len(same) * results['questions']} greedy answers are the same with and without it."
    counts = ", ".join(f"{n} of {results['questions']} ({a['name']})" for n, a in zip(same, results["models"]))
    return f"Greedy answers that are the same with and without it: {counts}."


def draft_words(results: dict, evaluated: bool = False) -> str:
    """Return whether the answers are the same, and how it was measured; evaluated: on questions that were scored."""
    whose = " of the evaluation" * evaluated
    asked = (
        f"Measured on {plural(results['questions'], 'question')}{whose}, greedily, at most "
        f"{results['max_tokens']} tokens of each answer, {plural(results['draft_tokens'], 'token')} drafted in a row, "
        f"{where_in_words(results)}. "
        f"Both ways took turns, {plural(results['rounds'], 'round')}. ± is one standard error: of the acceptance over "
        "questions, of the speed over rounds. Tokens per pass does not depend on the machine, tokens per second does."
    )
    return f"{same_text(results)} {asked}{machine_sentence(results)}"


def draft_table(results: dict, evaluated: bool = False) -> str:
    """Return the table of all models, and how it was measured (`draft_words`)."""
    return f"{markdown_table(DRAFT_HEADS, draft_rows(results))}\n\n{draft_words(results, evaluated)}"


def check_same_answers(results: dict) -> None:
    """Raise InputError unless every greedy answer is the same with and without the draft model."""
    for answers in results["models"]:
        if not all(answers["same"]):
            others = answers["same"].count(False)
            expected = f"the same greedy answers of {answers['gguf']} with and without {results['file']}"
            advice = "llama.cpp may round a pass of several tokens otherwise; leave DRAFT out"
            raise InputError(DRAFT_NAME, expected, f"{others} others of {results['questions']}", advice)
