"""The report's section on loops and tool calls: how often the answers of each file fail, and against the full model."""

from loops.loop_results import (
    LOOP_HEADS,
    PAIR_HEADS,
    file_label,
    loop_cells,
    loops_in_words,
    pair_cells,
    pairs_in_words,
    rate_text,
    shown_pairs,
)
from page.charts import Interval, interval_figure, to_json
from page.pipeline import Table
from page.records import Records
from page.sections import Chart, Section


def failure_chart(results: dict) -> Chart:
    """Return the rate of any failure of each file, with its 95% interval."""
    lines = []
    for row in results["rows"]:
        rate, name = row["rates"]["any failure"], file_label(row["gguf"])
        low, high = (100 * limit for limit in rate["interval"])
        text = f"{name}: any failure {rate_text(rate)}, 95% interval"
        lines.append(Interval(name, 100 * rate["count"] / max(1, rate["answers"]), low, high, text, name))
    figure = interval_figure("loop-intervals", lines, "per cent of answers", (0, 100))
    return Chart(to_json(figure), "Any failure, with 95% intervals", table="loops")


def loops_part(records: Records) -> Section:
    """Return how often answers run away, repeat a call, or are malformed or empty."""
    title, results = "Loops and tool calls", records.loops
    if not results:
        return Section("loops", title, command="make loops", waits_for="loops.json")
    rows = results["rows"]
    figures = [{key: row[key] for key in ("gguf", "gguf_sha256", "calls", "tokens")} | row["rates"] for row in rows]
    names = [file_label(row["gguf"]) for row in rows]
    # Cells with intervals in brackets are words: they are no numbers by which a table could be sorted.
    words = tuple(range(len(LOOP_HEADS)))
    rates = Table(
        "loops", "Answers that fail", LOOP_HEADS, list(map(loop_cells, rows)), words, links=names, data=figures
    )
    against = f"Against {names[0]}, prompt by prompt"
    pairs = [pair_cells(pair) for pair in shown_pairs(results)]
    tables = [rates, Table("loop-pairs", against, PAIR_HEADS, pairs, (0, 1, 4), data=results["pairs"])]
    return Section("loops", title, [loops_in_words(results), pairs_in_words(results)], [failure_chart(results)], tables)
