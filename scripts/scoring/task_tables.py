"""Scores of another task than GPQA Diamond in words and tables, for its page, the report and the card."""

from files.display import markdown_table, plural
from files.json_records import sha256_json
from scoring.score_records import GPQA, IFEVAL, in_a_row
from scoring.score_tables import pass_table, sample_labels, score_cell, verdict

NO_FILTER = "none"  # of IFEval
DIGITS = 12  # of the protocol's digest
TASK_HEADS = ["File", "Right", "95% interval", "Lost", "Won", "Points (95% interval)", "p", "Invalid"]
FOLLOWED_HEADS = ["File", "Prompts, strict", "Prompts, loose", "Instructions, strict", "Instructions, loose"]


def task_of_scores(scores: dict) -> str:
    """Return the task of a comparison; that of before there were others is GPQA's."""
    return scores["protocol"].get("task", GPQA)


def share_cell(right: int, asked: int) -> str:
    """Return "right/asked = share"."""
    return f"{right}/{asked} = {right / asked:.2%}"


def task_cells(row: dict, scores: dict) -> list[str]:
    """Return a file's cells under TASK_HEADS; the paired test is against the first row."""
    low, high = row["interval"]
    change = ["-", "-", "reference", "-"]
    for pair in scores["pairs"]:
        if (pair["reference"], pair["model"]) == (scores["rows"][0]["name"], row["name"]):
            least, most = (100 * limit for limit in pair["difference_interval"])
            points = f"{100 * pair['difference']:+.2f} ({least:+.1f} to {most:+.1f})"
            change = [str(pair["lost"]), str(pair["won"]), points, f"{pair['mcnemar_p']:.2g}"]
    kinds = ", ".join(f"{count} {kind}" for kind, count in row["invalid_classes"].items())
    right = score_cell(row, "patched" if scores["patched"] else "raw")
    return [row["name"], right, f"{low:.1%} to {high:.1%}", *change, kinds or "0"]


def followed_cells(row: dict) -> list[str]:
    """Return a file's cells under FOLLOWED_HEADS, of IFEval."""
    own, prompts = row["followed"], row["questions"]
    counts = [(row["raw_correct"], prompts), (own["prompts_loose"], prompts)]
    counts += [(own["strict"], own["asked"]), (own["loose"], own["asked"])]
    return [row["name"], *(share_cell(*count) for count in counts)]


def protocol_in_words(protocol: dict) -> str:
    """Return a protocol in one sentence, with the first digits of its digest."""
    words = {
        "context": "{} tokens of context",
        "reasoning_budget": "at most {} of thought",
        "max_gen_toks": "at most {} of an answer",
        "temperature": "temperature {}",
        "top_p": "top_p {}",
        "top_k": "top_k {}",
        "dry_multiplier": "DRY {}",
        "seed": "seed {}",
    }
    values = [text.format(protocol[name]) for name, text in words.items() if name in protocol]
    task, reader = protocol.get("task", GPQA), protocol.get("filter", NO_FILTER)
    read = "checked by its own rules" if reader == NO_FILTER else f"read by its filter {reader}"
    return (
        f"Protocol `{sha256_json(protocol)[:DIGITS]}`: {task} of lm-evaluation-harness "
        f"{protocol.get('lm_eval', '')}, answers {read}; {', '.join(values)}."
    )


def seeds_in_words(seeds: list[int]) -> str:
    """Return seeds as a range where they follow one another, as make has them, else each of them."""
    return f"{seeds[0]} to {seeds[-1]}" if in_a_row(seeds) else ", ".join(map(str, seeds))


def asked_in_words(scores: dict) -> str:
    """Return how many questions were asked, and how often."""
    seeds = scores["rows"][0]["seeds"]
    each = f", {len(seeds)} samples each by the seeds {seeds_in_words(seeds)}" if len(seeds) > 1 else ""
    again = (
        " Invalid answers were asked for again, with the thought closed and the answer begun."
        if scores["patched"]
        else ""
    )
    return f"{plural(len(scores['question_ids']), 'question')}{each}.{again}"


def sample_sentence(scores: dict) -> str:
    """Return whether the questions also chose the experts, as far as that is known."""
    if task_of_scores(scores).startswith(GPQA):
        return " ".join(sample_labels(scores["rows"]))
    return "Whether these questions chose the experts was not looked at: they have other columns than those that did."


def verdicts(scores: dict) -> list[str]:
    """Return what the paired test of each file against the first one shows."""
    first = scores["rows"][0]["name"]
    return [verdict(pair) for pair in scores["pairs"] if pair["reference"] == first]


def task_parts(scores: dict) -> list[str]:
    """Return a comparison as Markdown: protocol, tables, verdicts and label."""
    rows = scores["rows"]
    followed = [followed_cells(row) for row in rows if row.get("followed")]
    parts = [
        f"{asked_in_words(scores)} {protocol_in_words(scores['protocol'])}",
        markdown_table(TASK_HEADS, [task_cells(row, scores) for row in rows]),
        markdown_table(FOLLOWED_HEADS, followed) if followed else "",
        pass_table(rows),
        *verdicts(scores),
        sample_sentence(scores),
    ]
    return [part for part in parts if part]


def title_of(name: str, scores: dict) -> str:
    """Return the heading of a task's scores; name: of their folder."""
    what = " (which instructions answers follow)" if task_of_scores(scores) == IFEVAL else ""
    return f"{name}{what}"
