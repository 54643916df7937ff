"""The comparison of evaluations in words and tables; the figures are those of scores.json."""

from files.display import markdown_table, plural
from files.safe_files import gib


def score(row: dict, kind: str) -> str:
    """Return "right/asked = share" of one kind of score, or a dash."""
    right = row[f"{kind}_correct"]
    return "-" if right is None else f"{right}/{row['questions']} = {right / row['questions']:.2%}"


def invalid(row: dict) -> str:
    """Return the invalid answers, by class, and what guessing them would have added."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in row["invalid_classes"].items())
    return f"{row['invalid']}{f': {kinds}' if kinds else ''} ({row['expected_by_chance']:.1f})"


SCORE_HEADS = ["Raw score", "Strict A-D", "Patched score", "95% interval", "Invalid (right by chance)", "Change"]


def score_cells(row: dict, reference: dict) -> list[str]:
    """Return a model's cells under SCORE_HEADS; `reference`: the first row, which has no change."""
    low, high = row["interval"]
    change = "reference" if row is reference else f"{row['points_vs_reference']:+.2f} points"
    return [
        *(score(row, kind) for kind in ("raw", "strict", "patched")),
        f"{low:.1%} to {high:.1%}",
        invalid(row),
        change,
    ]


def score_table(rows: list[dict]) -> str:
    """Return the model card's table: scores, and the size of each quant in GiB, the largest first."""
    kinds = sorted(
        {kind for row in rows for kind in row["bytes"]},
        key=lambda kind: -max(row["bytes"].get(kind, 0) for row in rows),
    )
    heads = ["Model", "Experts", *(f"{kind} GiB" for kind in kinds), *SCORE_HEADS]
    cells = [
        [
            row["name"],
            str(row["experts"]),
            *(gib(row["bytes"][kind]) if kind in row["bytes"] else "-" for kind in kinds),
            *score_cells(row, rows[0]),
        ]
        for row in rows
    ]
    return markdown_table(heads, cells)


def seeds_sentence(rows: list[dict]) -> str:
    """Return what several seeds mean for the table; "" for one."""
    seeds = rows[0]["seeds"]
    return (
        f"Scores are sums over the seeds {', '.join(map(str, seeds))}; intervals and tests are by question."
        if len(seeds) > 1
        else ""
    )


def verdict(pair: dict) -> str:
    """Return what one pair of models shows, in plain words."""
    low, high = pair["difference_interval"]
    seeds = f", {pair['seeds']} seeds each" if pair["seeds"] > 1 else ""
    text = (
        f"{pair['model']} against {pair['reference']}: {plural(pair['lost'], 'question')} lost, {pair['won']} won; difference "
        f"{100 * pair['difference']:+.2f} points (95% interval {100 * low:+.1f} to {100 * high:+.1f}), exact McNemar p = "
        f"{pair['mcnemar_p']:.2g}, {plural(pair['questions'], 'question')}{seeds}: "
    )
    text += "a detectable difference" if pair["mcnemar_p"] < 0.05 else "no detectable difference"
    if pair["smallest_shown"] is None:
        return (
            f"{text}; the two differ on too few questions for any difference to show, and a true one would have to be "
            f"{100 * pair['smallest_likely']:.1f} points to be found 8 times in 10."
        )
    return (
        f"{text}; this set could have shown {100 * pair['smallest_shown']:.1f} points or more, and finds a true difference "
        f"of {100 * pair['smallest_likely']:.1f} points 8 times in 10."
    )


def sample_label(row: dict, experts: int) -> str | None:
    """Return the label of a model whose experts were chosen, or None for one that has the reference's `experts`."""
    known = row["in_sample"]
    if known is None:
        return (
            None
            if row["experts"] >= experts
            else (
                f"**Perhaps in-sample:** {row['name']} has fewer experts than the reference, and its run names no questions that chose "
                f"them (CHOSEN_BY)."
            )
        )
    asked = row["questions"] // len(row["seeds"])
    if known["scored_and_chosen_on"]:
        return f"**In-sample:** {known['scored_and_chosen_on']} of the {asked} scored questions also chose the experts of {row['name']}."
    return f"Held out: none of the {asked} scored questions chose the experts of {row['name']}."


def sample_labels(rows: list[dict]) -> list[str]:
    """Return the labels of all models whose experts were chosen, the first row being the reference."""
    return [label for row in rows if (label := sample_label(row, rows[0]["experts"]))]


def scores_page(result: dict) -> str:
    """Return the whole page."""
    rows = result["rows"]
    parts = [
        score_table(rows),
        seeds_sentence(rows),
        *(verdict(pair) for pair in result["pairs"]),
        *sample_labels(rows),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
