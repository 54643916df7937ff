"""The page of measure_quality.py: tables of every file's losses, and the conclusions in words."""

from files.display import markdown_table, percent_with_error, with_error
from files.safe_files import gib
from losses.kld_statistics import PERCENT
from losses.quality_conclusions import Measured
from losses.quality_record import BETTER, LOSSES, NO_DIFFERENCE, SIGNIFICANT_ERRORS, SMALLER, WORSE, chats_in_words

import numpy as np

COLUMNS = {
    "kld": "mean KLD",
    "kld_median": "median",
    "kld_99": "99%",
    "kld_99.9": "99.9%",
    "same_top": "same top",
    "rms_delta_p": "RMS Δp",
    "kld_all_tokens": "mean KLD, prompts included",
}
IN_WORDS = {  # one word in capitals: what a reader who skims the page must not miss
    BETTER: "is better than the standard quants of its size",
    WORSE: "is WORSE than the standard quants of its size",
    NO_DIFFERENCE: "shows no significant difference from the standard quants of its size",
}


def measure_cell(measure: str, pair: list[float]) -> str:
    """Return the value and error of one of COLUMNS as a table shows them."""
    if measure == "same_top":
        return percent_with_error(*pair)
    return with_error(*pair)


def verdict_sentence(entry: Measured, found: dict) -> str:
    """Return in words how one file compares with the standard quants; found: its verdict of `conclusion_of_loss`."""
    difference = with_error(found["difference"], found["difference_error"])
    sign = "" if difference.startswith("-") else "+"
    # The line is a blend of two files that nobody can download; the nearest file is what a user would take instead.
    larger = PERCENT * (found["nearest_bytes"] / entry.size - 1)
    nearest = (
        f"Against the standard quant nearest in size, {found['nearest']} ({larger:+.1f}%): {sign}{difference} nats."
    )
    if found["verdict"] == SMALLER:
        return f"**{entry.label}**, {gib(entry.size)} GiB: no standard quant is as small. {nearest}"
    # d exp(x) = exp(x) dx: the error of the ratio from that of its logarithm.
    ratio, error = np.exp(found["log_ratio"]), np.exp(found["log_ratio"]) * found["log_ratio_error"]
    return (
        f"**{entry.label}**, {gib(entry.size)} GiB, {IN_WORDS[found['verdict']]}: {ratio:.2f} ± {error:.2f} times the "
        f"line's KLD there ({' to '.join(found['between'])}). {nearest}"
    )


def scope_lines(scope: dict) -> list[str]:
    """Return how ContribDynamic's scopes compare, as Markdown; scope: what `scopes` returned."""
    values = {**scope["all_minus_experts"], "mean": scope["mean"]}
    rows = [[label, f"{value:+.3f} ± {error:.3f}"] for label, (value, error) in values.items()]
    significant = abs(scope["mean"][0]) > SIGNIFICANT_ERRORS * scope["mean"][1]
    return [
        "",
        "ContribDynamic's scopes, each file at its own size:",
        "",
        markdown_table(["type", "log(KLD / line), all minus experts"], rows),
        "",
        f"On average `{scope['better']}` costs less{'' if significant else ', but not significantly'}.",
    ]


def comparison_lines(loss: str, found: dict, measured: list[Measured]) -> list[str]:
    """Return how the files compare with the standard quants by one loss, as Markdown."""
    by_label = {entry.label: entry for entry in measured}
    verdicts = [f"- {verdict_sentence(by_label[label], verdict)}" for label, verdict in found["verdicts"].items()]
    lines = ["", f"### By {loss} loss", "", f"The line: {', '.join(found['line'])}.", ""]
    return [*lines, *(verdicts or ["No other files."]), *(scope_lines(found["scopes"]) if found["scopes"] else [])]


def imatrix_lines(content: dict) -> list[str]:
    """Return what the imatrix gains by each loss, as Markdown; nothing where no file was measured both ways."""
    lines = []
    for loss in LOSSES:
        rows = []
        for label, pair in content["conclusions"][loss].get("imatrix", {}).items():
            costs = "with" if pair["difference"] > 0 else "without"
            costs = f"{costs} it costs less" if pair["significant"] else "no significant difference"
            gain = with_error(pair["difference"], pair["difference_error"])
            rows.append([label, with_error(*pair["with"]), with_error(*pair["without"]), gain, costs])
        if rows:
            heads = ["quant", "with", "without", "without minus with", f"by {loss} loss"]
            lines += ["", f"### By {loss} loss", "", markdown_table(heads, rows, last_words=1)]
    if not lines:
        return []
    words = f"Mean KLD; significant: by more than {SIGNIFICANT_ERRORS} standard errors, paired by chat."
    return ["", "## With and without the imatrix", "", words, *lines]


def detail_lines(loss: str, measured: list[Measured]) -> list[str]:
    """Return one loss in all its measures, as Markdown."""
    rows = [
        [entry.label, *(measure_cell(measure, entry.losses[loss][measure]) for measure in COLUMNS)]
        for entry in measured
    ]
    return ["", f"## {loss.capitalize()} loss in detail", "", markdown_table(["file", *COLUMNS.values()], rows)]


def introduction(content: dict, pruning: dict[str, list[float]]) -> list[str]:
    """Return what was measured, and the pruning loss."""
    of_all = "" if content["score"] == "all" else f" of {content['tokens']['all']}, those of the replies"
    values = ", ".join(f"{name} {measure_cell(measure, pruning[measure])}" for measure, name in COLUMNS.items())
    return [
        "# What each quant costs",
        "",
        f"KL divergence in nats per token over {chats_in_words(content)} ({content['left_out']} seen ones left out): "
        f"{content['tokens'][content['score']]} tokens{of_all}. ± one standard error over chats. Pruning loss: pruned "
        "F16 against full F16; quantisation loss: quant against pruned F16; total: quant against full F16. Same top: "
        "share of positions with the same most likely token. RMS Δp: root mean square of the change in the next "
        "token's probability, in percentage points.",
        "",
        f"Pruning loss, the same for every file: {values}.",
    ]


def dominated_cell(by: dict | None) -> str:
    """Return which file dominates one, and whether significantly; "" for a file that none dominates."""
    if by is None:
        return ""
    return f"by {by['by']}{'' if by['significant'] else ', within the error'}"


def size_table(found: dict, measured: list[Measured]) -> str:
    """Return the table of all files with their sizes and losses; found: the conclusions by total loss."""
    heads = ["file", "GiB", "bits per weight", "pruning loss", "quantisation loss", "total", "dominated, by total"]
    rows = [
        [
            entry.label,
            gib(entry.size),
            f"{entry.bits_per_weight:.2f}",
            *(measure_cell("kld", entry.losses[loss]["kld"]) for loss in ("pruning", "quantisation", "total")),
            dominated_cell(found["dominated"].get(entry.label)),
        ]
        for entry in measured
    ]
    return markdown_table(heads, rows, last_words=1)


def quality_page(content: dict, measured: list[Measured]) -> str:
    """Return the page; content: the record Quality, measured: its files in the order of the tables."""
    found = content["conclusions"]
    dominated = found["quantisation"]["dominated"]
    significant = [label for label, by in dominated.items() if by["significant"]]
    lines = [
        *introduction(content, measured[0].losses["pruning"]),
        "",
        size_table(found["total"], measured),
        "",
        "Dominated: another file is no larger and costs no more; within the error: by less than "
        f"{SIGNIFICANT_ERRORS} standard errors, paired by chat. By quantisation loss, beyond the error: "
        f"{', '.join(significant) or 'none'}.",
        *imatrix_lines(content),
        "",
        "## Against the standard quants of the same size",
        "",
        "The line: the standard quants that no other standard quant dominates, joined by straight lines over size, "
        f"with KLD on a logarithmic scale. Significant: by more than {SIGNIFICANT_ERRORS} standard errors, paired by "
        "chat.",
    ]
    for loss in LOSSES:
        lines += comparison_lines(loss, found[loss], measured)
    for loss in LOSSES:
        lines += detail_lines(loss, measured)
    return "\n".join(lines) + "\n"
