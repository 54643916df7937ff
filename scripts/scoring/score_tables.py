"""The comparison of evaluations in words and tables; the figures are those of scores.json."""

from files.display import markdown_table, plural
from files.safe_files import gib

SIGNIFICANT_P = 0.05  # as the 95% intervals
NOT_KNOWN = "**Not known whether in-sample:**"
# What a map that was given says against itself is taken as it is. What it says for itself, its owner says.
GIVEN_MAP = "own map"  # OWN_MAP of choice/drop_map.py, beside which a test holds it
# A map that was given names its questions by Record IDs, and nothing here knows their words.
IF_THE_MAP_IS_RIGHT = "if the map that was given is right, and its questions have the Record IDs that they have here"
HELD_OUT, HELD_OUT_BY_THE_MAP = "Held out:", f"Held out, {IF_THE_MAP_IS_RIGHT}:"
SCORE_HEADS = ["Raw score", "Strict A-D", "Patched score", "95% interval", "Invalid (right by chance)", "Change"]


def score_cell(row: dict, kind: str) -> str:
    """Return "right/asked = share" of one kind of score, or a dash where there is none."""
    right = row[f"{kind}_correct"]
    return "-" if right is None else f"{right}/{row['questions']} = {right / row['questions']:.2%}"


def invalid_cell(row: dict) -> str:
    """Return the invalid answers, by class, and what guessing them would have added."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in row["invalid_classes"].items())
    return f"{row['invalid']}{f': {kinds}' if kinds else ''} ({row['expected_by_chance']:.1f})"


def score_cells(row: dict, reference: dict) -> list[str]:
    """Return a model's cells under SCORE_HEADS; `reference`: the first row, which has no change."""
    low, high = row["interval"]
    change = "reference" if row is reference else f"{row['points_vs_reference']:+.2f} points"
    scores = [score_cell(row, kind) for kind in ("raw", "strict", "patched")]
    return [*scores, f"{low:.1%} to {high:.1%}", invalid_cell(row), change]


def score_table(rows: list[dict]) -> str:
    """Return the model card's table: scores, and the size of each quant in GiB, the largest type first."""
    largest: dict[str, int] = {}
    for row in rows:
        for kind, size in row["bytes"].items():
            largest[kind] = max(size, largest.get(kind, 0))
    # From large to small as in the card; equal sizes by name, so that equal inputs give equal bytes.
    kinds = sorted(largest, key=lambda kind: (-largest[kind], kind))
    cells = []
    for row in rows:
        sizes = [gib(row["bytes"][kind]) if kind in row["bytes"] else "-" for kind in kinds]
        cells.append([row["name"], str(row["experts"]), *sizes, *score_cells(row, rows[0])])
    return markdown_table(["Model", "Experts", *(f"{kind} GiB" for kind in kinds), *SCORE_HEADS], cells)


def seeds_sentence(rows: list[dict]) -> str:
    """Return what several seeds mean for the table; "" for one."""
    seeds = ", ".join(map(str, rows[0]["seeds"]))
    if len(rows[0]["seeds"]) == 1:
        return ""
    return f"Scores are sums over the seeds {seeds}; intervals and tests are by question."


def pass_table(rows: list[dict]) -> str:
    """Return pass@k of models with several seeds; "" for one."""
    if not rows[0].get("pass_at"):
        return ""
    cells = [[row["name"], *(f"{share:.2%}" for share in row["pass_at"].values())] for row in rows]
    return markdown_table(["Model", *(f"pass@{k}" for k in rows[0]["pass_at"])], cells)


def verdict(pair: dict) -> str:
    """Return what one pair of models shows, in plain words."""
    low, high = (100 * limit for limit in pair["difference_interval"])
    seeds = f", {pair['seeds']} seeds each" if pair["seeds"] > 1 else ""
    likely = f"{100 * pair['smallest_likely']:.1f} points"
    text = (
        f"{pair['model']} against {pair['reference']}: {plural(pair['lost'], 'question')} lost, {pair['won']} won; "
        f"difference {100 * pair['difference']:+.2f} points (95% interval {low:+.1f} to {high:+.1f}), "
        f"exact McNemar p = {pair['mcnemar_p']:.2g}, {plural(pair['questions'], 'question')}{seeds}: "
        f"{'a' if pair['mcnemar_p'] < SIGNIFICANT_P else 'no'} detectable difference"
    )
    if pair["smallest_shown"] is None:
        return (
            f"{text}; the two differ on too few questions for any difference to show, and a true one would have to be "
            f"{likely} to be found 8 times in 10."
        )
    return (
        f"{text}; this set could have shown {100 * pair['smallest_shown']:.1f} points or more, and finds a true "
        f"difference of {likely} 8 times in 10."
    )


def sample_label(row: dict, experts: int) -> str | None:
    """Return the label of a model whose experts were chosen, or None for one that has the reference's `experts`."""
    known, name = row["in_sample"], row["name"]
    if known is None and row["experts"] >= experts:
        return None
    if known is None:
        return f"{NOT_KNOWN} {name} has fewer experts than the reference, and nothing shows what chose them."
    if known["scored_and_chosen_on"] is None:
        return f"{NOT_KNOWN} the drop map of {name} does not say which questions chose the experts."
    asked = row["questions"] // len(row["seeds"])  # a row's counts are sums over its seeds
    if known["scored_and_chosen_on"]:
        both = f"{known['scored_and_chosen_on']} of the {asked} scored questions"
        return f"**In-sample:** {both} also chose the experts of {name}."
    given = (row.get("drop_map") or {}).get("criterion") == GIVEN_MAP
    none = f"none of the {asked} scored questions chose the experts of {name}."
    return f"{HELD_OUT_BY_THE_MAP if given else HELD_OUT} {none}"


def sample_labels(rows: list[dict], experts: int = 0) -> list[str]:
    """Return the labels of all models whose experts were chosen; experts: of the full model, where that is known."""
    most = max([experts, *(row["experts"] for row in rows[:1])])  # else the first row is the full model's
    return [label for row in rows if (label := sample_label(row, most))]


def scores_page(result: dict) -> str:
    """Return the whole page."""
    rows = result["rows"]
    verdicts = [verdict(pair) for pair in result["pairs"]]
    parts = [score_table(rows), seeds_sentence(rows), pass_table(rows), *verdicts, *sample_labels(rows)]
    return "\n\n".join(part for part in parts if part) + "\n"
