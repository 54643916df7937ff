#!/usr/bin/env python3
"""Measure what an evaluation would save that stops early: two anytime-valid tests of paired answers, simulated.

Inputs:  none; with --summaries the summaries of two runs, whose questions are asked in random orders.
Output:  a JSON of rows and a table on stdout.
Example: .venv/bin/python bench/bench_sequential.py --output build/bench/sequential.json

Two models answer the same questions in an order that is fixed before. After each question a test looks at how many the
second model has lost and won so far. Both tests are bets, and whoever bets against the truth multiplies his stake by 20
in at most 5 of 100 runs, however often one looks (Ville's inequality):

- *equality*: bets on the discordant questions, whose sides are a coin toss where the models are equal, mixed over all
  chances alike (Ramdas et al., 2023, https://arxiv.org/abs/2210.01948). It also stops when no answers to the questions
  that are left could decide.
- *margin*: bets on whether the whole run will have lost MARGIN or more. The questions are drawn from a set of known
  size, without replacement: so what is still to come is known the better, the more have been asked (Waudby-Smith and
  Ramdas, 2024, https://arxiv.org/abs/2010.09686). It says nothing of other questions than these.
"""

import argparse
import sys
from functools import lru_cache
from math import ceil, lgamma, log
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from files.display import markdown_table
from files.option_types import command_parser, positive
from files.safe_files import run
from files.written_records import write_json
from scoring.comparison import right_by_question
from scoring.paired_statistics import mcnemar
from scoring.score_records import read_summary

import numpy as np

ERROR = 0.05
QUESTIONS = 198
MARGIN = 0.05  # a twentieth of the questions: 10 of 198
STAKE = 0.5  # share of the capital per point of a question: about the best where a tenth of the answers differ
# What the card's two scores, 162 and 159 of 198, leave open is assumed: 10 questions lost and 7 won.
WON_SHARE = 7 / QUESTIONS
DIFFERENCES = (0.0, 3 / QUESTIONS, 0.02, 0.05, 0.10, 0.20)
DIFFERENT, UNDECIDABLE = "different", "undecidable"


def log_bets(lost: int, won: int) -> float:
    """Return the log of the martingale: how much better bets mixed over all chances fit than a coin toss does."""
    return lgamma(lost + 1) + lgamma(won + 1) - lgamma(lost + won + 2) + (lost + won) * log(2)


@lru_cache(None)
def equality(asked: int, lost: int, won: int, questions: int) -> str | None:
    """Return what the test of equality says after so many questions, None to go on."""
    if log_bets(lost, won) >= -log(ERROR):
        return DIFFERENT
    left = questions - asked  # more questions of one side alone are the most that could still be found
    best = max(log_bets(lost + left, won), log_bets(lost, won + left))
    return UNDECIDABLE if best < -log(ERROR) else None


def equality_stops(runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return after how many questions the test of equality ends each run, and whether it says "different"."""
    lost, won = (runs == -1).cumsum(axis=1), (runs == 1).cumsum(axis=1)
    asked, different = np.full(len(runs), runs.shape[1]), np.zeros(len(runs), bool)
    for number in range(len(runs)):
        for count, (losses, wins) in enumerate(zip(lost[number].tolist(), won[number].tolist()), start=1):
            if said := equality(count, losses, wins, runs.shape[1]):
                asked[number], different[number] = count, said == DIFFERENT
                break
    return asked, different


def capital(runs: np.ndarray, total: int, sign: int) -> np.ndarray:
    """Return what a stake of 1 has become after each question: [runs, questions], 0 or more.

    sign -1 bets that a whole run loses less than `total`, 1 that it loses more. What the next question loses is, by the
    other side's word and in the mean, at least (at most) what is left to lose shared by the questions that are left.
    """
    left = runs.shape[1] - np.arange(runs.shape[1])
    before = runs.cumsum(axis=1) - runs  # minus what was lost before each question
    expected = (total + before) / left
    stake = np.minimum(STAKE, 1 / (1 + np.abs(expected)))  # nobody can lose more than he has
    grown = (1 + sign * stake * (-runs - expected)).cumprod(axis=1)
    # More than is left can neither be lost nor won: the other side's word is broken.
    impossible = expected > 1 if sign < 0 else expected < -1
    return np.where(np.logical_or.accumulate(impossible, axis=1), np.inf, grown)


def first_over(capitals: np.ndarray) -> np.ndarray:
    """Return after how many questions each stake has become 1 / ERROR of it, one more than there are for never."""
    reached = capitals >= 1 / ERROR
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, capitals.shape[1] + 1)


def margin_stops(runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return after how many questions the test of the margin ends each run, and whether it says "as much".

    A run that both bets leave open is asked to its end, which decides.
    """
    most = ceil(MARGIN * runs.shape[1])
    less, as_much = first_over(capital(runs, most, -1)), first_over(capital(runs, most - 1, 1))
    asked = np.minimum(np.minimum(less, as_much), runs.shape[1])
    return asked, np.where(less == as_much, whole_loses(runs), as_much < less)


def whole_loses(runs: np.ndarray) -> np.ndarray:
    """Tell of each whole run whether it loses as much as the margin."""
    return runs.sum(axis=1) <= -ceil(MARGIN * runs.shape[1])


def figures(label: str, runs: np.ndarray) -> dict:
    """Return one row: how many questions both tests take of these runs, and what they say; runs: -1 lost, 1 won."""
    equality_asked, different = equality_stops(runs)
    margin_asked, as_much = margin_stops(runs)
    pairs = {(int((one == -1).sum()), int((one == 1).sum())) for one in runs}
    shown = {pair: mcnemar(whole_run(*pair)) <= ERROR for pair in pairs}
    return {
        "models": label,
        "discordant": float((runs != 0).sum(axis=1).mean()),
        "whole_significant": float(np.mean([shown[int((one == -1).sum()), int((one == 1).sum())] for one in runs])),
        "equality_asked": float(equality_asked.mean()),
        "equality_different": float(different.mean()),
        "margin_asked": float(margin_asked.mean()),
        "margin_as_much": float(as_much.mean()),
        "margin_wrong": float((as_much != whole_loses(runs)).mean()),
    }


def simulated(difference: float, count: int, draw: np.random.Generator) -> np.ndarray:
    """Return runs of two models whose true scores differ by so much; int [count, QUESTIONS], -1 lost, 1 won.

    17 of 198 questions are discordant for equal models; a difference comes on top.
    """
    lost = (17 / QUESTIONS) / 2 if difference == 0 else WON_SHARE + difference
    won = (17 / QUESTIONS) / 2 if difference == 0 else WON_SHARE
    return draw.choice([-1, 0, 1], size=(count, QUESTIONS), p=[lost, 1 - lost - won, won])


def in_random_orders(answers: np.ndarray, count: int, draw: np.random.Generator) -> np.ndarray:
    """Return the questions of one whole run in so many random orders."""
    return draw.permuted(np.tile(answers, (count, 1)), axis=1)


def whole_run(lost: int, won: int) -> np.ndarray:
    """Return a whole run with so many questions lost and won."""
    return np.repeat([-1, 1, 0], [lost, won, QUESTIONS - lost - won])


def page(rows: list[dict]) -> str:
    """Return the rows as a Markdown table."""
    heads = ["difference", "discordant", "whole run significant", "equality: asked", "says different"]
    heads += ["margin: asked", "says as much", "wrong"]
    cells = [
        [
            row["models"],
            f"{row['discordant']:.0f}",
            f"{row['whole_significant']:.1%}",
            f"{row['equality_asked']:.0f}",
            f"{row['equality_different']:.1%}",
            f"{row['margin_asked']:.0f}",
            f"{row['margin_as_much']:.1%}",
            f"{row['margin_wrong']:.1%}",
        ]
        for row in rows
    ]
    return markdown_table(heads, cells)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--summaries", type=Path, nargs=2, action="append", default=[], metavar="JSON", help="real runs, full first")
    add("--output", type=Path, required=True, help="JSON file to write")
    add = parser.add_argument_group("how it is measured").add_argument
    add("--runs", type=positive, default=2000, help="simulated runs of each difference")
    add("--seed", type=int, default=1, help="of the simulation")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    draw = np.random.default_rng(args.seed)
    cases = [(f"{100 * d:.1f} points", simulated(d, args.runs, draw)) for d in DIFFERENCES]
    for lost in (16, 17):  # one question less than the margin, and the margin: the hardest to tell apart
        cases.append((f"exactly {lost} lost, 7 won", in_random_orders(whole_run(lost, 7), args.runs, draw)))
    for pair in args.summaries:
        full, pruned = (read_summary(path) for path in pair)
        answers = right_by_question([pruned]) - right_by_question([full])
        label = f"{full['name']}, {pruned['name']}"
        cases.append((label, in_random_orders(answers.astype(int), args.runs, draw)))
    rows = [figures(*case) for case in cases]
    write_json(args.output, {"runs": args.runs, "seed": args.seed, "margin": MARGIN, "error": ERROR, "rows": rows})
    print(page(rows))
    errors = [rows[0]["equality_different"], *(row["margin_wrong"] for row in rows)]
    if max(errors) > ERROR:
        sys.exit(f"error: {args.output}: expected at most {ERROR:.0%} of the runs wrong, found {max(errors):.1%}")


if __name__ == "__main__":
    run(main)
