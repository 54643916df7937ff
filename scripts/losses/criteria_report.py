"""What the divergences of compare_criteria.py show: means, errors, ranks, a Markdown page and a picture.

Results are by keep count and label ("coverage", ..., "random:1", ..., "worst first"). Each holds `per_question`:
columns of counts and sums with a value per question. `add_comparisons` adds the means of METRICS with their standard
errors.
"""

from pathlib import Path
from typing import ClassVar

from files.display import BLUE, GREY, VERMILION, digits, markdown_table, percent_with_error, with_error
from files.json_records import Fields, Record, Sha256
from files.pictures import WIDTH_INCHES, plt, save_picture
from losses.quality_record import SIGNIFICANT_ERRORS
from scoring.paired_statistics import mean_and_error

import numpy as np

DEFAULT, CONTROL, RANDOM = "coverage", "worst first", "random:"
# A mean per token by name: (column of sums, column of counts).
METRICS = {
    "kld": ("kld", "tokens"),
    "reply_kld": ("reply_kld", "reply_tokens"),
    "same_top": ("same_top", "tokens"),
    "reply_same_top": ("reply_same_top", "reply_tokens"),
}
DIVERGENCES = {"kld": "all tokens", "reply_kld": "replies alone"}  # the METRICS that choices are ranked by
COLORS = {"named": BLUE, "default": "black", "random": GREY, "control": VERMILION}

Results = dict[int, dict[str, dict]]


class PerQuestion(Fields):
    """Columns with a value per question: counts of predicted tokens, and sums over them."""

    tokens: list[int]
    kld: list[float]
    same_top: list[int]
    reply_tokens: list[int]
    reply_kld: list[float]
    reply_same_top: list[int]


class ChoiceResult(Fields):
    """What one choice of experts costs; `add_comparisons` adds its means."""

    criterion: str
    worst_first: bool
    protect_top: int
    drop_map_sha256: Sha256
    pruned_sha256: Sha256
    per_question: PerQuestion


class Criteria(Record):
    """The JSON file of compare_criteria.py; keep: results by keep count and label; domains: of every chat."""

    what: ClassVar[str] = "a comparison of compare_criteria.py"
    inputs: dict
    truncated: int
    seeds: int
    domains: list[str] = []
    conclusions: dict
    keep: dict[str, dict[str, ChoiceResult]]


def named(entries: dict[str, dict]) -> list[str]:
    """Return the labels of the criteria: all but the random choices and the control."""
    return [label for label in entries if label != CONTROL and not label.startswith(RANDOM)]


def column(entry: dict, name: str) -> np.ndarray:
    """Return a column of one result, [questions] fp64."""
    return np.array(entry["per_question"][name], np.float64)


def add_comparisons(results: Results) -> None:
    """Add to every result its means with errors, and how far they lie above the best criterion of its keep count.

    `METRIC_above_best` has an error of its own, smaller than those of the two means: both models read the same
    questions, so the difference is taken question by question.
    """
    for entries in results.values():
        for entry in entries.values():
            for metric, (sums, counts) in METRICS.items():
                entry[metric], entry[f"{metric}_error"] = mean_and_error(column(entry, sums), column(entry, counts))
        for metric in DIVERGENCES:
            sums, counts = METRICS[metric]
            # The best is a criterion, never a lucky random choice: one cannot know beforehand which seed is lucky.
            best = entries[min(named(entries), key=lambda label: entries[label][metric])]
            for entry in entries.values():
                above = mean_and_error(column(entry, sums) - column(best, sums), column(entry, counts))
                entry[f"{metric}_above_best"], entry[f"{metric}_above_best_error"] = above


def conclusion_at(entries: dict[str, dict], metric: str) -> dict:
    """Return the conclusions at one keep count by one of DIVERGENCES; rank 1 has the smallest divergence."""
    order = sorted(entries, key=lambda label: entries[label][metric])
    criteria = [label for label in order if label in named(entries)]
    randoms = [label for label in order if label.startswith(RANDOM)]
    alike = [
        label
        for label in criteria[1:]
        if entries[label][f"{metric}_above_best"] <= SIGNIFICANT_ERRORS * entries[label][f"{metric}_above_best_error"]
    ]
    return {
        "order": order,
        "best": criteria[0],
        "not_significantly_worse": alike,
        "criteria": len(criteria),
        "default_rank": criteria.index(DEFAULT) + 1,
        "random_choices": len(randoms),
        "random_worse_than_default": sum(entries[label][metric] > entries[DEFAULT][metric] for label in randoms),
        "random_better_than_best": sum(entries[label][metric] < entries[criteria[0]][metric] for label in randoms),
        "control_last": all(entries[label][metric] < entries[CONTROL][metric] for label in entries if label != CONTROL),
    }


def criteria_conclusions(results: Results) -> dict:
    """Return `conclusion_at` by keep count and divergence, and whether the control cost most at every keep count."""
    found = {}
    for keep, entries in results.items():
        found[str(keep)] = {metric: conclusion_at(entries, metric) for metric in DIVERGENCES}
    # Over all tokens: the replies are a small part of them, and a single chat can turn the order there.
    return {"control_last": all(by_metric["kld"]["control_last"] for by_metric in found.values()), "keep": found}


def sentence(keep: str, metric: str, found: dict, entries: dict[str, dict]) -> str:
    """Return one conclusion in words."""
    best, alike = found["best"], found["not_significantly_worse"]
    value, error = digits(entries[best][metric], entries[best][f"{metric}_error"])
    text = f"**{keep} experts kept, {DIVERGENCES[metric]}:** {best} costs least of the {found['criteria']} criteria "
    text += f"({value} ± {error}); "
    if alike:
        text += f"no significant difference from it: {', '.join(alike)}. "
    else:
        text += "every other one costs significantly more. "
    text += f"The default, {DEFAULT}, is number {found['default_rank']} of {found['criteria']}"
    if DEFAULT != best:
        text += f" and {'not ' if DEFAULT in alike else ''}significantly worse than {best}"
    text += f"; it costs less than {found['random_worse_than_default']} of {found['random_choices']} random choices. "
    if found["random_better_than_best"]:
        text += f"{found['random_better_than_best']} of the random choices cost less than {best}. "
    if found["control_last"]:
        return f"{text}The control, {CONTROL}, costs most of all {len(entries)} choices."
    return f"{text}**The control, {CONTROL}, does NOT cost most: {found['order'][-1]} costs more.**"


def criteria_introduction(inputs: dict, results: Results) -> str:
    """Return what was measured, over how many tokens, and whether the chats are independent of the choice."""
    entry = next(iter(next(iter(results.values())).values()))  # any: all choices are measured over the same tokens
    tokens, reply = (sum(entry["per_question"][name]) for name in ("tokens", "reply_tokens"))
    chats, chose, inside = len(inputs["question_ids"]), inputs["questions_that_chose"], inputs["in_sample"]
    sample = f"None of the chats is among the {chose} questions that chose the experts."
    if inside:
        sample = f"In-sample: {inside} of the {chats} chats are among the {chose} questions that chose the experts."
    return (
        f"KL divergence from the full model in nats per token over {chats} chats: {tokens} predicted tokens, {reply} "
        "of them in replies. ± one standard error over chats. Same top: share of positions with the same most likely "
        f"token. {CONTROL}: the control, which drops the experts that {DEFAULT} ranks best. {sample}"
    )


def criteria_table(entries: dict[str, dict]) -> str:
    """Return the table of one keep count, the cheapest choice over all tokens first."""
    rows = []
    for label, entry in sorted(entries.items(), key=lambda item: item[1]["kld"]):
        rows.append([f"{label} (default)" if label == DEFAULT else label])
        rows[-1] += [with_error(entry[metric], entry[f"{metric}_error"]) for metric in DIVERGENCES]
        for metric in ("same_top", "reply_same_top"):
            rows[-1].append(percent_with_error(entry[metric], entry[f"{metric}_error"]))
    heads = ["choice", "KLD, all tokens", "KLD, replies", "same top, all tokens", "same top, replies"]
    return markdown_table(heads, rows)


def criteria_page(content: dict, results: Results) -> str:
    """Return the page: what was measured, a table per keep count, and the conclusions."""
    lines = ["# What dropping by each criterion costs", "", criteria_introduction(content["inputs"], results)]
    for keep, entries in results.items():
        lines += ["", f"## {keep} experts kept", "", criteria_table(entries)]
    lines += [
        "",
        "## Conclusions",
        "",
        f"Significant: the difference in mean KLD exceeds {SIGNIFICANT_ERRORS} standard errors, paired by chat, one "
        "pair at a time. The errors cover other chats of the kind, not other questions to choose by, and not other "
        "models.",
        "",
    ]
    for keep, by_metric in content["conclusions"]["keep"].items():
        lines += [f"- {sentence(keep, metric, found, results[int(keep)])}" for metric, found in by_metric.items()]
    return "\n".join(lines) + "\n"


def color_of(label: str) -> str:
    """Return the colour of a choice in the picture; random choices are drawn as a band."""
    return COLORS["default" if label == DEFAULT else "control" if label == CONTROL else "named"]


def draw_divergence(axes: plt.Axes, entries: dict[str, dict], metric: str) -> None:
    """Draw one keep count by one divergence: dots with one standard error, the random choices as a band."""
    # Both panels of a row in the order of all tokens, so that the eye can follow a criterion from one to the other.
    order = [
        label for label in sorted(entries, key=lambda label: -entries[label]["kld"]) if not label.startswith(RANDOM)
    ]
    randoms = [entry[metric] for label, entry in entries.items() if label.startswith(RANDOM)]
    axes.axvspan(
        min(randoms),
        max(randoms),
        color=COLORS["random"],
        alpha=0.5,
        label=f"{len(randoms)} random choices, least to most",
    )
    for place, label in enumerate(order):
        axes.errorbar(
            entries[label][metric],
            place,
            xerr=entries[label][f"{metric}_error"],
            fmt="o",
            markersize=5,
            capsize=3,
            color=color_of(label),
        )
    axes.set_yticks(range(len(order)), [f"{label} (default)" if label == DEFAULT else label for label in order])
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.grid(axis="x", which="both", linewidth=0.3)
    axes.set_axisbelow(True)


def draw_criteria(results: Results, path: Path) -> None:
    """Write the picture: a row of panels per keep count, a column per divergence; equal bytes for equal results."""
    rows = 0.6 + 0.23 * max(1 + len(named(entries)) for entries in results.values())
    figure, panels = plt.subplots(
        len(results),
        len(DIVERGENCES),
        figsize=(WIDTH_INCHES, rows * len(results) + 0.8),
        layout="constrained",
        sharex="col",
        sharey="row",
        squeeze=False,
    )
    for line, (keep, entries) in zip(panels, results.items()):
        for axes, (metric, words) in zip(line, DIVERGENCES.items()):
            draw_divergence(axes, entries, metric)
            axes.set_title(f"{keep} experts kept, {words}", fontsize=10)
    for axes, metric in zip(panels[-1], DIVERGENCES):
        least = min(
            entry[metric] - entry[f"{metric}_error"] for entries in results.values() for entry in entries.values()
        )
        # Random choices and the control cost many times what a criterion does: only a log axis shows both. But an error
        # may reach below 0, in a comparison over very few chats.
        axes.set_xscale("log" if least > 0 else "linear")
    figure.supxlabel(
        "KL divergence from the full model, nats per token (dot: mean over the chats, bar: ± 1 standard error)",
        fontsize=10,
    )
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper right", frameon=False, fontsize=9)
    save_picture(figure, path)
