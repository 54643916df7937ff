"""The comparison of evaluations as Markdown and as a picture; figures come from compare_scores.py."""

from pathlib import Path

from files.safe_files import replace_when_done


def gib(size: float | None) -> str:
    """Return a size in GiB with the digits that matter, or a dash for a file that was not made."""
    return "-" if size is None else f"{size:.4f}" if size < 1 else f"{size:.2f}"


def plural(count: int, word: str) -> str:
    """Return a count and its word."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def score(row: dict, kind: str) -> str:
    """Return "right/asked = share" of one kind of score, or a dash."""
    right = row[f"{kind}_correct"]
    return "-" if right is None else f"{right}/{row['questions']} = {right / row['questions']:.2%}"


def invalid(row: dict) -> str:
    """Return the invalid answers, by class, and what guessing them would have added."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in row["invalid_classes"].items())
    return f"{row['invalid']}{f': {kinds}' if kinds else ''} ({row['expected_by_chance']:.1f})"


def table(rows: list[dict], seeds: int) -> str:
    """Return the card's table."""
    types = sorted({kind for r in rows for kind in r["gib"]}, key=lambda kind: -max(r["gib"].get(kind, 0) for r in rows))
    heads = ["Model", "Experts", *(f"{kind} GiB" for kind in types), "Raw score", "Strict A-D", "Patched score", "95% interval",
             "Invalid (right by chance)", "Change"]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for r in rows:
        change = "reference" if r is rows[0] else f"{r['points_vs_reference']:+.2f} points"
        low, high = r["interval"]
        cells = [r["name"], str(r["experts"]), *(gib(r["gib"].get(kind)) for kind in types),
                 *(score(r, kind) for kind in ("raw", "strict", "patched")), f"{low:.1%} to {high:.1%}", invalid(r), change]
        lines.append("| " + " | ".join(cells) + " |")
    if seeds > 1:
        lines.append(f"\nScores are sums over the seeds {', '.join(map(str, rows[0]['seeds']))}; intervals and tests are by question.")
    return "\n".join(lines)


def verdict(pair: dict) -> str:
    """Return what one pair of models shows, in plain words."""
    low, high = pair["difference_interval"]
    seeds = f", {pair['seeds']} seeds each" if pair["seeds"] > 1 else ""
    text = (f"{pair['model']} against {pair['reference']}: {plural(pair['lost'], 'question')} lost, {pair['won']} won; difference "
            f"{100 * pair['difference']:+.2f} points (95% interval {100 * low:+.1f} to {100 * high:+.1f}), exact McNemar p = "
            f"{pair['mcnemar_p']:.2g}, {plural(pair['questions'], 'question')}{seeds}: ")
    text += "a detectable difference" if pair["mcnemar_p"] < 0.05 else "no detectable difference"
    if pair["smallest_shown"] is None:
        return (f"{text}; the two differ on too few questions for any difference to show, and a true one would have to be "
                f"{100 * pair['smallest_likely']:.1f} points to be found 8 times in 10.")
    return (f"{text}; this set could have shown {100 * pair['smallest_shown']:.1f} points or more, and finds a true difference "
            f"of {100 * pair['smallest_likely']:.1f} points 8 times in 10.")


def sample_label(row: dict, experts: int) -> str | None:
    """Return the label of a model whose experts were chosen, or None for one that has the reference's `experts`."""
    known = row["in_sample"]
    if known is None:
        return None if row["experts"] >= experts else (
            f"**Perhaps in-sample:** {row['name']} has fewer experts than the reference, and its run names no questions that chose "
            f"them (CHOSEN_BY).")
    asked = row["questions"] // len(row["seeds"])
    if known["scored_and_chosen_on"]:
        return f"**In-sample:** {known['scored_and_chosen_on']} of the {asked} scored questions also chose the experts of {row['name']}."
    return f"Held out: none of the {asked} scored questions chose the experts of {row['name']}."


def sample_labels(rows: list[dict]) -> list[str]:
    """Return the labels of all models whose experts were chosen, the first row being the reference."""
    return [label for row in rows if (label := sample_label(row, rows[0]["experts"]))]


def markdown(result: dict) -> str:
    """Return the whole page."""
    rows = result["rows"]
    return "\n\n".join([table(rows, len(rows[0]["seeds"])), *(verdict(pair) for pair in result["pairs"]), *sample_labels(rows)]) + "\n"


def plot_scores(result: dict, path: Path) -> None:
    """Draw the scores and the paired differences, in points, with their 95% intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = [[(r["name"], r["score"], r["interval"]) for r in result["rows"]],
            [(f"{p['model']}\n- {p['reference']}", p["difference"], p["difference_interval"]) for p in result["pairs"]]]
    names = ["Patched score, %" if result["patched"] else "Raw score, %", "Paired difference, points"]
    count = max(map(len, bars))
    shown = 2 if result["pairs"] else 1
    figure, axes = pyplot.subplots(1, shown, figsize=(5.5 * shown, 1.5 + 0.6 * count), layout="constrained", squeeze=False)
    for axis, entries, name in zip(axes[0], bars, names):
        for place, (label, value, (low, high)) in enumerate(entries):
            axis.plot([100 * low, 100 * high], [place, place], color="tab:blue", linewidth=2)
            axis.plot(100 * value, place, "o", color="tab:blue")
        axis.set_yticks(range(len(entries)), [label for label, *_ in entries])
        axis.set_ylim(max(len(entries), 1) - 0.5, -0.5)
        axis.set_xlabel(f"{name} (95% interval)")
    if result["pairs"]:
        axes[0][1].axvline(0, color="0.6", linewidth=1)
    with replace_when_done(path) as partial:
        figure.savefig(partial, dpi=120)
    pyplot.close(figure)
