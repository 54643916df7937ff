"""active-experts.json: what fewer experts per token cost and gain; the same as a table and in words.

Written by measure_active_experts.py. Every row is the same file, run with another number of active experts.
"""

import math
from typing import Annotated, ClassVar, Self

from files.display import markdown_table, percent_with_error, plural, with_error
from files.json_records import Count, Fields, ModelName, Positive, Record, Sha256, require
from losses.quality_record import no_reasoning_in_words
from scoring.machines import Hardware, machine_sentence
from speed.round_speeds import Speed, factor_in_words, mean_speed, where_in_words

from pydantic import Field, model_validator

ACTIVE_NAME = "active-experts.json"
ACTIVE_PICTURE = "active-experts.png"
SPEED_QUESTIONS, SPEED_TOKENS = 8, 256  # most answers, and tokens of one, that are only timed, as make measures
LEAST_SHARE = 5 / 8  # of the model's own number of experts: as far as the sweep goes
WithError = Annotated[list[Annotated[float, Field(ge=0, lt=1e9)]], Field(min_length=2, max_length=2)]


class ActiveRow(Fields):
    """One number of active experts: losses with their standard errors, tokens per second in each round, right answers.

    kld, same_top: against the same file with all its active experts. right: None where nothing was scored.
    """

    experts: Positive
    kld: WithError
    same_top: WithError
    speeds: list[Speed]
    right: list[bool] | None


class ActiveExperts(Record):
    """What was measured: the file, its own number of active experts, how, and a row for each number.

    chats_sha256, texts_sha256: of the chats of the loss, their questions and their token ids; chat_max_tokens: where
    these were cut; questions_sha256: of the questions that were answered; reasoning_budget: tokens of their thoughts.
    """

    what: ClassVar[str] = "the record of measure_active_experts.py"
    current: ClassVar[int] = 3
    again: ClassVar[str] = "run `make active-experts REPLACE=draft`"
    name: ModelName
    gguf: str
    gguf_sha256: Sha256
    source_sha256: Sha256  # of the F16 file that it was made from
    key: str
    own: Positive
    chats: Positive
    chat_tokens: Count
    chat_max_tokens: Positive
    no_reasoning: Count = 0  # chats whose question has none; older records do not say
    chats_sha256: Sha256
    texts_sha256: Sha256
    questions: Positive
    questions_sha256: Sha256
    question_file_sha256: Sha256 | None = None  # of the whole file; older records have none
    max_tokens: Positive
    reasoning_budget: int
    context: Count
    gpu_layers: int
    rounds: Positive
    llama_cpp: str
    tools_sha256: Sha256 | None = None  # of the build of llama.cpp; older records have none
    hardware: Hardware | None = None  # what the answers were timed on; older records do not say
    rows: Annotated[list[ActiveRow], Field(min_length=1)]

    @model_validator(mode="after")
    def rows_from_the_own_number(self) -> Self:
        """Refuse rows that do not begin with the model's own number, and ones of other rounds or questions."""
        require(self.rows[0].experts == self.own, "rows from the model's own number of experts")
        for row in self.rows:
            require(len(row.speeds) == self.rounds, "speeds of every round")
            require((row.right is None) == (self.rows[0].right is None), "right answers of all rows or of none")
            require(row.right is None or len(row.right) == self.questions, "right answers to every question")
        return self


def counts_to_try(own: int) -> list[int]:
    """Return the numbers of active experts of the sweep, from the model's own down to about 5/8 of it."""
    least = max(1, min(own - 1, math.ceil(LEAST_SHARE * own)))
    return list(range(own, least - 1, -1))


def score_in_words(row: dict) -> str:
    """Return how many questions were answered right."""
    right = sum(row["right"])
    asked = len(row["right"])
    return f"{right}/{asked} = {100 * right / asked:.2f}%"


def active_heads(results: dict) -> list[str]:
    """Return the heads of the table; a score only where one was measured."""
    heads = ["Active experts", "KLD", "Same top token", "Tokens/s", "Times as fast"]
    return [*heads, *(["Right"] if results["rows"][0]["right"] is not None else [])]


def active_rows(results: dict) -> list[list[str]]:
    """Return a row for each number of active experts, ± one standard error."""
    shown, own = [], results["rows"][0]
    for row in results["rows"]:
        cells = [str(row["experts"])]
        if row is own:
            cells += ["0 (reference)", "100%", mean_speed(row["speeds"]), "1"]
        else:
            cells += [with_error(*row["kld"]), percent_with_error(*row["same_top"])]
            cells += [mean_speed(row["speeds"]), factor_in_words(row["speeds"], own["speeds"])]
        shown.append([*cells, *([score_in_words(row)] if row["right"] is not None else [])])
    return shown


def active_words(results: dict) -> str:
    """Return how the table was measured."""
    scored = ""
    if results["rows"][0]["right"] is not None:
        scored = " Right answers are greedy ones, not the evaluation's; a cut answer without a letter is wrong."
    return (
        f"All rows are `{results['gguf']}`. KLD (nats per token, ± one standard error) is against the same file with "
        f"its own {results['own']} active experts, over {results['chat_tokens']} tokens of "
        f"{plural(results['chats'], 'chat')}{no_reasoning_in_words(results)}. Speed: greedy answers to "
        f"{plural(results['questions'], 'question')} of "
        f"at most {results['max_tokens']} tokens, all numbers in turn, {plural(results['rounds'], 'round')}, "
        f"{where_in_words(results)}, ± one standard error over rounds.{machine_sentence(results)}{scored}"
    )


def active_table(results: dict) -> str:
    """Return the table, and how it was measured."""
    return f"{markdown_table(active_heads(results), active_rows(results), left=0)}\n\n{active_words(results)}"
