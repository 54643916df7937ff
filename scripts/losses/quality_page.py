"""The page of measure_quality.py: tables of every file's losses, and in words what came out."""

import numpy as np

from files.display import with_error
from files.safe_files import gib
from losses.kld_statistics import PERCENT, SIGNIFICANT_ERRORS
from losses.quality_conclusions import BETTER, NO_DIFFERENCE, SMALLER, WORSE, Measured
from losses.quality_record import LOSSES

COLUMNS = {
    "kld": "mean KLD",
    "kld_median": "median",
    "kld_99": "99%",
    "kld_99.9": "99.9%",
    "same_top": "same top",
    "rms_delta_p": "RMS Δp",
    "kld_all_tokens": "mean KLD, prompts included",
}


def loss_cell(measure: str, pair: list[float]) -> str:
    """Return a value and its error as a table shows them."""
    if measure == "same_top":
        return f"{PERCENT * pair[0]:.2f}% ± {PERCENT * pair[1]:.2f}"
    return with_error(*pair)


def verdict_sentence(entry: Measured, found: dict) -> str:
    """Return what came out for one file that is no standard one, in words."""
    near = with_error(found["difference"], found["difference_error"])
    nearest = (
        f"Against the standard quant nearest in size, {found['nearest']} ({PERCENT * (found['nearest_bytes'] / entry.size - 1):+.1f}%): "
        f"{'' if near.startswith('-') else '+'}{near} nats."
    )
    if found["verdict"] == SMALLER:
        return f"**{entry.label}**, {gib(entry.size)} GiB: no standard quant is as small. {nearest}"
    ratio, error = np.exp(found["log_ratio"]), np.exp(found["log_ratio"]) * found["log_ratio_error"]
    words = {
        BETTER: "is better than the standard quants of its size",
        WORSE: "is WORSE than the standard quants of its size",
        NO_DIFFERENCE: "shows no significant difference from the standard quants of its size",
    }[found["verdict"]]
    return (
        f"**{entry.label}**, {gib(entry.size)} GiB, {words}: {ratio:.2f} ± {error:.2f} times the line's KLD there "
        f"({' to '.join(found['between'])}). {nearest}"
    )


def comparison_lines(loss: str, found: dict, measured: list[Measured]) -> list[str]:
    """Return what one loss says against the standard files, as Markdown."""
    by_label = {entry.label: entry for entry in measured}
    lines = ["", f"### By {loss} loss", "", f"The line: {', '.join(found['line'])}.", ""]
    lines += [f"- {verdict_sentence(by_label[label], verdict)}" for label, verdict in found["verdicts"].items()] or [
        "No other files."
    ]
    if not (scope := found["scopes"]):
        return lines
    rows = [
        f"| {label} | {value:+.3f} ± {error:.3f} |"
        for label, (value, error) in {**scope["all_minus_experts"], "mean": scope["mean"]}.items()
    ]
    significant = abs(scope["mean"][0]) > SIGNIFICANT_ERRORS * scope["mean"][1]
    return [
        *lines,
        "",
        "ContribDynamic's scopes, each file at its own size:",
        "",
        "| type | log(KLD / line), all minus experts |",
        "| --- | ---: |",
        *rows,
        "",
        f"On average `{scope['better']}` costs less{'' if significant else ', but not significantly'}.",
    ]


def detail_lines(loss: str, measured: list[Measured]) -> list[str]:
    """Return one loss in all its measures, as Markdown."""
    lines = [
        "",
        f"## {loss.capitalize()} loss in detail",
        "",
        f"| file | {' | '.join(COLUMNS.values())} |",
        f"| --- |{' ---: |' * len(COLUMNS)}",
    ]
    return lines + [
        f"| {entry.label} | {' | '.join(loss_cell(measure, entry.losses[loss][measure]) for measure in COLUMNS)} |"
        for entry in measured
    ]


def introduction(content: dict, pruning: dict[str, list[float]]) -> list[str]:
    """Return what was measured, and the pruning loss."""
    of_all = "" if content["score"] == "all" else f" of {content['tokens']['all']}, those of the replies"
    return [
        "# What each quant costs",
        "",
        f"KL divergence in nats a token over {content['chats']} chats that neither calibration nor the choice of experts has seen "
        f"({content['left_out']} seen ones left out): {content['tokens'][content['score']]} tokens{of_all}. ± one standard error over "
        "chats. Pruning loss: pruned F16 against full F16; quantisation loss: quant against pruned F16; total: quant against full "
        "F16. Same top: share of positions with the same most likely token. RMS Δp: of the change in the next token's "
        "probability, in percentage points.",
        "",
        "Pruning loss, the same for every file: "
        + ", ".join(f"{name} {loss_cell(measure, pruning[measure])}" for measure, name in COLUMNS.items())
        + ".",
    ]


def quality_page(content: dict, measured: list[Measured]) -> str:
    """Return the page."""
    found = content["conclusions"]
    lines = [
        *introduction(content, measured[0].losses["pruning"]),
        "",
        "| file | GiB | bits per weight | pruning loss | quantisation loss | total | dominated, by total |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for entry in measured:
        cells = [loss_cell("kld", entry.losses[loss]["kld"]) for loss in ("pruning", "quantisation", "total")]
        by = found["total"]["dominated"].get(entry.label)
        lines.append(
            f"| {entry.label} | {gib(entry.size)} | {entry.bits_per_weight:.2f} | {' | '.join(cells)} | "
            f"{'' if not by else 'by ' + by['by'] + ('' if by['significant'] else ', within the error')} |"
        )
    alone = [
        label
        for label in found["quantisation"]["dominated"]
        if found["quantisation"]["dominated"][label]["significant"]
    ]
    lines += [
        "",
        f"Dominated: another file is no larger and costs no more; within the error: by less than {SIGNIFICANT_ERRORS} standard errors, "
        f"paired by chat. By quantisation loss, beyond the error: {', '.join(alone) or 'none'}.",
        "",
        "## Against the standard quants of the same size",
        "",
        "The line: the standard quants that no standard quant dominates, joined straight over size where KLD is logarithmic. "
        f"Significant: by more than {SIGNIFICANT_ERRORS} standard errors, paired by chat.",
    ]
    parts = [comparison_lines(loss, found[loss], measured) for loss in LOSSES] + [
        detail_lines(loss, measured) for loss in LOSSES
    ]
    return "\n".join(lines + sum(parts, [])) + "\n"
