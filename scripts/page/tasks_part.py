"""The report's section on further tasks: the scores of each file, and the paired test against the full model."""

from page.charts import Interval, interval_figure, to_json
from page.pipeline import Table
from page.records import Records
from page.sections import Chart, Section, pass_table_of
from scoring.task_tables import (
    FOLLOWED_HEADS,
    TASK_HEADS,
    asked_in_words,
    followed_cells,
    protocol_in_words,
    sample_sentence,
    task_cells,
    title_of,
)


def score_chart(key: str, name: str, scores: dict) -> Chart:
    """Return the score of each file with its 95% interval."""
    lines = []
    for row in scores["rows"]:
        value, (low, high) = 100 * row["score"], (100 * limit for limit in row["interval"])
        text = f"{row['name']} on {name}: {value:.2f}%, 95% interval {low:.1f}% to {high:.1f}%"
        lines.append(Interval(row["name"], value, low, high, text, row["name"]))
    figure = interval_figure(f"{key}-intervals", lines, "score, %", (0, 100))
    return Chart(to_json(figure), f"{name}, with 95% intervals", table=key)


def power_in_words(scores: dict) -> str:
    """Return which true difference the paired test finds, "" of one file alone."""
    likely = max((pair["smallest_likely"] for pair in scores["pairs"]), default=0)
    return f"A true difference has to be {100 * likely:.1f} points to be found 8 times in 10. " if likely else ""


def task_tables(key: str, name: str, scores: dict) -> list[Table]:
    """Return the table of scores; below it pass@k of several samples, and the instructions that IFEval's follow."""
    rows = scores["rows"]
    names, words = [row["name"] for row in rows], tuple(range(len(TASK_HEADS)))
    cells = [task_cells(row, scores) for row in rows]
    tables = [Table(key, title_of(name, scores), TASK_HEADS, cells, words, links=names, data=rows)]
    if rows[0].get("pass_at"):
        tables.append(pass_table_of(f"{key}-pass", f"{name}: at least one of k samples right", rows))
    if rows[0].get("followed"):
        cells = list(map(followed_cells, rows))
        tables.append(Table(f"{key}-followed", f"{name}: by both readings", FOLLOWED_HEADS, cells, (0, 1, 2, 3, 4)))
    return tables


def tasks_part(records: Records) -> Section | None:
    """Return the scores of further tasks; None where there are none."""
    texts, charts, tables = [], [], []
    for number, (name, scores) in enumerate(records.tasks.items(), start=1):
        key = f"task-{number}"
        label = sample_sentence(scores).replace("**", "")
        protocol = protocol_in_words(scores["protocol"]).replace("`", "")
        texts.append(f"{name}: {asked_in_words(scores)} {power_in_words(scores)}{label} {protocol}")
        charts.append(score_chart(key, name, scores))
        tables += task_tables(key, name, scores)
    words = ("score", "interval", "McNemar")
    return Section("tasks", "Further tasks", texts, charts, tables, terms=words) if texts else None
