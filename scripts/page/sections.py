"""The report's sections on files, scores and questions, and what a section is made of.

A section whose records are missing says so and names the command that makes them. Nothing is filled in.
"""

from dataclasses import dataclass, field

from files.display import GREEN, GREY, SKY, VERMILION, plural, with_error
from files.input_errors import InputError
from files.safe_files import gib
from losses.quality_record import LOSSES, chats_in_words
from page.charts import Interval, interval_figure, loss_figure, to_json
from page.grids import Grid, Mark, Measure, grid_figure
from page.pipeline import Table
from page.records import Records
from scoring.score_records import by_record_id, final_letter, finally_correct
from scoring.score_tables import SCORE_HEADS, sample_labels, score_cells, seeds_sentence, verdict

import numpy as np

OUTCOMES = {"both right": SKY, "lost": VERMILION, "won": GREEN, "both wrong": GREY}
OUTCOME_MARKS = {"lost": ("dash", "−"), "won": ("cross", "+")}
DIFFERENCES = {"lost": "−1", "won": "+1"}
QUESTION_COLUMNS = 33


@dataclass(frozen=True)
class Chart:
    """A figure as JSON, its title and, where it is a grid, what the page needs to let a user walk over its cells.

    table: key of the table whose rows belong to the chart's marks, "" for none.
    """

    item: dict
    title: str
    note: str = ""
    grid: Grid | None = None
    legend: list[tuple[str, str, str]] = field(default_factory=list)  # shape, colour, text
    table: str = ""


@dataclass(frozen=True)
class Section:
    """A section: title, paragraphs, charts and tables; or the command that makes the records that it waits for.

    terms: entries of the glossary that a reader of the section may look up.
    """

    key: str
    title: str
    paragraphs: list[str] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    command: str | None = None
    waits_for: str = ""
    terms: tuple[str, ...] = ()


def number(value: float) -> str:
    """Return six digits of a number, without an exponent where it is large."""
    return f"{value:.6g}" if value < 1e6 else f"{value:.0f}"


def grid_chart(grid: Grid, title: str, table: str = "") -> Chart:
    """Return a grid as a chart."""
    return Chart(to_json(grid_figure(grid)), title, grid=grid, table=table)


def kld_cell(entry: dict, loss: str) -> str:
    """Return a file's mean KLD and its error."""
    return with_error(*entry["losses"][loss]["kld"])


def loss_legend(files: list[dict], loss: str) -> list[tuple[str, str, str]]:
    """Return what the marks of a chart of losses mean."""
    kinds = {entry["kind"] for entry in files}
    marks = [("circle", "standard", "standard"), ("diamond", "contrib", "ContribDynamic")]
    marks += [("triangle", "target", "target size"), ("square", "padded", "padded")]
    shown = [mark for mark in marks if mark[2] in kinds]
    shown.append(("line", "standard", "line of the standard quants"))
    return [*shown, ("dots", "ink", "pruning alone")] if loss == "total" else shown


def drawn(entry: dict, loss: str) -> bool:
    """Tell whether a file has a place in the chart of a loss: 0 has none on a log axis."""
    return entry["losses"][loss]["kld"][0] > 0


def loss_charts(quality: dict) -> list[Chart]:
    """Return a chart of size against each loss; none of a loss that no file has."""
    charts = []
    for loss in LOSSES:
        files = []
        for entry in quality["files"]:
            if drawn(entry, loss):
                size, value = gib(entry["bytes"]), kld_cell(entry, loss)
                sentence = f"{entry['label']} ({entry['kind']}), {size} GiB: {loss} loss {value} nats per token"
                files.append(entry | {"sentence": sentence})
        if files:
            figure = loss_figure(files, quality["conclusions"][loss]["line"], loss)
            note = "Whiskers: ± one standard error over chats. Names that do not fit are in the table."
            legend = loss_legend(files, loss)
            charts.append(Chart(to_json(figure), f"{loss.capitalize()} loss", note, legend=legend, table="files"))
    return charts


def against_no_larger(by: dict | None) -> str:
    """Return how a file compares with the best of those that are no larger; by: its entry of `dominated`."""
    if by is None:
        return "none has less loss"
    # The mean alone may lie below by chance: only a significant difference dominates.
    return f"dominated by {by['by']}" if by["significant"] else f"no significant difference from {by['by']}"


def file_figures(entry: dict, found: dict) -> dict:
    """Return the exact figures of a file, for the downloads; found: the conclusions by total loss."""
    by = found["dominated"].get(entry["label"])
    figures = {key: entry[key] for key in ("label", "kind", "bytes", "bits_per_weight", "sha256")}
    for loss in LOSSES:
        figures |= dict(zip((f"{loss}_kld", f"{loss}_kld_error"), entry["losses"][loss]["kld"]))
    return figures | {
        "against_standard": found["verdicts"].get(entry["label"], {}).get("verdict"),
        "less_loss_in_no_more_bytes": by and by["by"],
        "significant": by and by["significant"],
    }


def files_table(quality: dict) -> Table:
    """Return size, losses and verdict of every file."""
    found = quality["conclusions"]["total"]
    rows = [
        [
            entry["label"],
            entry["kind"],
            gib(entry["bytes"]),
            f"{entry['bits_per_weight']:.2f}",
            kld_cell(entry, "quantisation"),
            kld_cell(entry, "total"),
            found["verdicts"].get(entry["label"], {}).get("verdict", ""),
            against_no_larger(found["dominated"].get(entry["label"])),
        ]
        for entry in quality["files"]
    ]
    heads = ["file", "kind", "GiB", "bits per weight", "quantisation loss", "total loss"]
    heads += ["against the line at its size", "against files no larger"]
    links = [entry["label"] if any(drawn(entry, loss) for loss in LOSSES) else "" for entry in quality["files"]]
    data = [file_figures(entry, found) for entry in quality["files"]]
    return Table("files", "Size and loss of every file", heads, rows, (0, 1, 6, 7), links=links, data=data, choice=1)


def sizes_table(quants: dict[str, dict]) -> Table:
    """Return the size of every quant, the largest first, where no loss was measured."""
    built = sorted(quants.values(), key=lambda quant: (-quant["bytes"], quant["type"]))
    rows = [[quant["type"], gib(quant["bytes"]), f"{quant['bits_per_weight']:.2f}"] for quant in built]
    data = [{key: quant[key] for key in ("type", "bytes", "bits_per_weight", "sha256")} for quant in built]
    return Table("files", "Size of every file", ["file", "GiB", "bits per weight"], rows, data=data)


def files_part(records: Records) -> Section:
    """Return size against the total and the quantisation loss, and a table of all files."""
    title, quality = "Files: size against quality", records.quality
    if not quality:
        tables = [sizes_table(records.quants)] if records.quants else []
        return Section("quality", title, tables=tables, command="make quality", waits_for="quality.json")
    tokens = f"{quality['tokens'][quality['score']]} tokens" + ("" if quality["score"] == "all" else " of the replies")
    text = (
        f"Mean KL divergence, nats per token, over {tokens} in {chats_in_words(quality)}. "
        "Total: quant against full F16; quantisation: quant against pruned F16. A file "
        "without any loss is in the table alone. The table's last two columns go by total loss: against the line of "
        "the standard quants at the same size, and against all files that are no larger. A difference of less than "
        "two standard errors, paired by chat, is not significant."
    )
    words = (
        "quant",
        "bits per weight",
        "KLD",
        "total loss",
        "line",
        "ContribDynamic",
        "target size",
        "padded",
        "dominated",
    )
    return Section("quality", title, [text], loss_charts(quality), [files_table(quality)], terms=words)


def percent_interval(interval: list[float]) -> str:
    """Return an interval of differences in points."""
    return f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}"


def pairs_table(pairs: list[dict]) -> Table:
    """Return the paired difference of every two models."""
    rows = [
        [
            f"{pair['model']} less {pair['reference']}",
            str(pair["lost"]),
            str(pair["won"]),
            f"{100 * pair['difference']:+.2f}",
            percent_interval(pair["difference_interval"]),
            f"{pair['mcnemar_p']:.2g}",
        ]
        for pair in pairs
    ]
    heads = ["pair", "lost", "won", "difference, points", "95% interval", "McNemar p"]
    links = [row[0] for row in rows]
    return Table("pairs", "Paired differences", heads, rows, links=links, data=pairs)


def score_charts(scores: dict) -> list[Chart]:
    """Return the charts of scores and of paired differences, with their 95% intervals."""
    lines = []
    for row in scores["rows"]:
        value, (low, high) = 100 * row["score"], (100 * limit for limit in row["interval"])
        text = f"{row['name']}: {value:.2f}%, 95% interval {low:.1f}% to {high:.1f}%"
        lines.append(Interval(row["name"], value, low, high, text, row["name"]))
    figure = interval_figure("score-intervals", lines, "score, %", (0, 100))
    charts = [Chart(to_json(figure), "Scores with 95% intervals (Wilson)", table="scores")]
    pairs = []
    for pair in scores["pairs"]:
        value, (low, high) = 100 * pair["difference"], (100 * limit for limit in pair["difference_interval"])
        link = f"{pair['model']} less {pair['reference']}"
        text = f"{link}: {value:+.2f} points, 95% interval {low:+.1f} to {high:+.1f}"
        pairs.append(Interval(f"{pair['model']}\nless {pair['reference']}", value, low, high, text, link))
    if pairs:
        figure = interval_figure("pair-intervals", pairs, "difference, points", (-100, 100))
        charts.append(Chart(to_json(figure), "Paired differences with 95% intervals", table="pairs"))
    return charts


def pass_table_of(key: str, caption: str, rows: list[dict]) -> Table:
    """Return pass@k of models with several samples; rows: of scores.json."""
    shares = [[row["name"], *(f"{share:.2%}" for share in row["pass_at"].values())] for row in rows]
    return Table(key, caption, ["model", *(f"pass@{k}" for k in rows[0]["pass_at"])], shares)


def scores_part(records: Records) -> Section:
    """Return the table of scores with intervals and invalid answers, and the verdict on each pair."""
    title, scores = "Scores", records.scores
    if not scores:
        return Section("scores", title, command="make eval", waits_for="scores.json")
    reference, pairs = scores["rows"][0], scores["pairs"]
    rows = [[row["name"], row["gguf"], str(row["experts"]), *score_cells(row, reference)] for row in scores["rows"]]
    heads = ["model", "file", "experts", *(head[0].lower() + head[1:] for head in SCORE_HEADS)]
    texts = [verdict(pair) for pair in pairs]
    texts += [label.replace("**", "") for label in sample_labels(scores["rows"])]  # bold in Markdown; the page is HTML
    links = [row["name"] for row in scores["rows"]]
    tables = [Table("scores", "Scores of one protocol", heads, rows, (0, 1), links=links, data=scores["rows"])]
    tables += [pairs_table(pairs)] if pairs else []
    if seeds := seeds_sentence(scores["rows"]):
        texts.append(seeds)
        tables.append(pass_table_of("scores-pass", "At least one of k samples right", scores["rows"]))
    words = ("score", "in-sample", "interval", "McNemar")
    return Section("scores", title, texts, score_charts(scores), tables, terms=words)


def shown_letter(answer: dict) -> str:
    """Return the final letter of an answer, "none" without one."""
    return final_letter(answer) or "none"


def outcome(before: bool, after: bool) -> str:
    """Return what became of a question from the reference to the other model."""
    if before:
        return "both right" if after else "lost"
    return "won" if after else "both wrong"


def outcomes(first: dict, second: dict) -> list[tuple[str, str, str]]:
    """Return Record ID, outcome and sentence of every question, by Record ID.

    Raises InputError when the two runs answered other questions.
    """
    mine, theirs = by_record_id(first), by_record_id(second)
    if set(mine) != set(theirs):
        raise InputError(
            second["name"], f"the {len(mine)} questions of {first['name']}", f"{len(set(mine) ^ set(theirs))} others"
        )
    found = []
    for record_id in sorted(mine):
        before, after = mine[record_id], theirs[record_id]
        kind = outcome(finally_correct(before), finally_correct(after))
        sentence = (
            f"Question {record_id}: {kind}; right answer {before['target']}; "
            f"{first['name']} {shown_letter(before)}; {second['name']} {shown_letter(after)}"
        )
        found.append((record_id, kind, sentence))
    return found


def question_grid(found: list[tuple[str, str, str]]) -> Grid:
    """Return the questions row by row, in the colours of their outcomes; found: what `outcomes` returned."""
    names = list(OUTCOMES)
    rows = -(-len(found) // QUESTION_COLUMNS)
    padding = rows * QUESTION_COLUMNS - len(found)  # of the last row; a place without a text shows no cell
    values = np.array([names.index(kind) for _, kind, _ in found] + [0] * padding).reshape(rows, QUESTION_COLUMNS)
    return Grid(
        "questions",
        "from question",
        "questions of a row, by Record ID",
        [str(row * QUESTION_COLUMNS + 1) for row in range(rows)],
        QUESTION_COLUMNS,
        [Measure("outcome", "outcome", values, classes=OUTCOMES)],
        [text for *_, text in found] + [""] * padding,
        [
            Mark(marker, [kind == name for _, kind, _ in found], sign, name)
            for name, (marker, sign) in OUTCOME_MARKS.items()
        ],
        links=[record_id for record_id, *_ in found] + [""] * padding,
        first=1,
    )


def questions_table(found: list[tuple[str, str, str]], runs: list[dict]) -> Table:
    """Return the answers of both models to every question and their paired difference, those that differ first."""
    answers = [by_record_id(run) for run in runs]
    rows = []
    for record_id, kind, _ in sorted(found, key=lambda each: each[1] not in OUTCOME_MARKS):
        both = [each[record_id] for each in answers]
        letters = [f"{shown_letter(answer)} ({answer['class']})" for answer in both]
        rows.append([record_id, kind, DIFFERENCES.get(kind, "0"), both[0]["target"], *letters])
    heads = ["Record ID", "outcome", "difference", "right answer", *(run["name"] for run in runs)]
    links, words = [row[0] for row in rows], (0, 1, 3, 4, 5)
    caption = "Paired differences, question by question"
    return Table("questions", caption, heads, rows, words, folded=True, links=links, choice=1)


def questions_part(records: Records) -> Section:
    """Return which questions the second model lost and won against the first."""
    title, runs = "Question by question", records.summaries
    if not runs:
        return Section("questions", title, command="make eval", waits_for="summary.json of both models")
    first, second = runs
    found = outcomes(first, second)
    counts = [f"{sum(kind == name for _, kind, _ in found)} {name}" for name in OUTCOMES]
    text = (
        f"{second['name']} against {first['name']}, {plural(len(found), 'question')} by Record ID: {', '.join(counts)}."
    )
    samples = len(records.samples[0])
    text += f" Of {samples} samples of each question this is the first." if samples > 1 else ""
    chart = grid_chart(question_grid(found), "Wins and losses", "questions")
    return Section("questions", title, [text], [chart], [questions_table(found, runs)], terms=("McNemar",))
