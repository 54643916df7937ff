"""The report's sections below the pipeline, made from the records of a build.

A section whose records are missing says so and names the command that makes them. Nothing is filled in.
"""

from dataclasses import dataclass, field

from files.display import DROPPED, GREEN, GREY, KEPT, SKY, VERMILION, with_error
from files.safe_files import InputError, gib
from losses.quality_record import LOSSES, chats_in_words
from page.charts import Grid, Measure, grid_figure, loss_figure, score_figure, to_json
from page.pipeline import Table
from page.records import Experts, Records
from scoring.score_records import final_letter, finally_correct
from scoring.score_tables import SCORE_HEADS, sample_labels, score_cells, verdict

import numpy as np

OUTCOMES = {"both right": SKY, "lost": VERMILION, "won": GREEN, "both wrong": GREY}
OUTCOME_MARKS = {"lost": "dash", "won": "cross"}
QUESTION_COLUMNS, OPEN_ROWS = 33, 12


@dataclass(frozen=True)
class Chart:
    """A figure as JSON, its title and, where it is a grid, what the page needs to let a user walk over its cells."""

    item: dict
    title: str
    note: str = ""
    grid: Grid | None = None
    legend: list[tuple[str, str, str]] = field(default_factory=list)  # mark, class in the page, text


@dataclass(frozen=True)
class Section:
    """A section: title, paragraphs, charts and tables; or the command that makes the records that it waits for."""

    key: str
    title: str
    paragraphs: list[str] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    command: str | None = None
    waits_for: str = ""


def number(value: float) -> str:
    """Return six digits of a number, without an exponent where it is large."""
    return f"{value:.6g}" if value < 1e6 else f"{value:.0f}"


def grid_chart(grid: Grid, title: str) -> Chart:
    """Return a grid as a chart."""
    return Chart(to_json(grid_figure(grid)), title, grid=grid)


def expert_texts(experts: Experts) -> list[str]:
    """Return the sentence of every expert, layer by layer."""
    texts = []
    for row, column in np.ndindex(experts.dropped.shape):
        norm = float(experts.weighted_norm[row, column])
        texts.append(
            f"Layer {experts.layers[row]}, expert {column}: "
            f"weighted norm {number(norm)}; {experts.tokens[row, column]} tokens; "
            f"coverage {experts.coverage[row, column]} of {experts.questions} questions; "
            f"{'dropped' if experts.dropped[row, column] else 'kept'}"
        )
    return texts


def expert_grid(experts: Experts) -> Grid:
    """Return layers x experts with the statistics that experts are chosen by, and which were dropped."""
    fates = {"kept": KEPT, "dropped": DROPPED}
    measures = [
        Measure("weighted_norm", "weighted norm", experts.weighted_norm, log=True),
        Measure("tokens", "tokens", experts.tokens, log=True),
        Measure("coverage", "coverage", experts.coverage),
        Measure("dropped", "kept or dropped", experts.dropped.astype(int), classes=fates),
    ]
    layers = [str(layer) for layer in experts.layers]
    marks = ["x" if dropped else "" for dropped in experts.dropped.reshape(-1)]
    columns = experts.dropped.shape[1]
    return Grid("experts", "layer", "expert", layers, columns, measures, expert_texts(experts), marks, "× dropped")


def dropped_table(experts: Experts) -> Table:
    """Return what the dropped experts contribute to each layer."""
    share = (experts.weighted_norm * experts.dropped).sum(axis=1) / experts.weighted_norm.sum(axis=1)
    rows = [
        [
            str(layer),
            number(experts.weighted_norm[row].sum()),
            str((~experts.dropped[row]).sum()),
            str(experts.dropped[row].sum()),
            f"{share[row]:.2%}",
            str((experts.tokens[row] == 0).sum()),
        ]
        for row, layer in enumerate(experts.layers)
    ]
    heads = ["layer", "weighted norm", "kept", "dropped", "share of the dropped", "never used"]
    return Table("What the dropped experts contribute, by layer", heads, rows, folded=True)


def experts_part(records: Records) -> Section:
    """Return the heat-map of layers x experts and a table by layer."""
    title, experts = "What each expert contributes", records.experts
    if experts is None:
        return Section("experts", title, command="make analyze", waits_for="expert_stats.safetensors and drop_map.json")
    text = (
        f"Over {experts.over}. Weighted norm: routing weight times the norm of the expert's output, summed over its "
        "tokens. Coverage: questions in which the expert is among the "
        f"{experts.top} of its layer with the largest weighted norm. Grey: zero."
    )
    chart = grid_chart(expert_grid(experts), "Layers and experts")
    return Section("experts", title, [text], [chart], [dropped_table(experts)])


def kld_cell(entry: dict, loss: str) -> str:
    """Return a file's mean KLD and its error."""
    return with_error(*entry["losses"][loss]["kld"])


def loss_legend(files: list[dict], loss: str) -> list[tuple[str, str, str]]:
    """Return what the marks of a chart of losses mean."""
    kinds = {entry["kind"] for entry in files}
    marks = [("●", "standard", "standard"), ("◆", "contrib", "ContribDynamic"), ("▲", "target", "target size")]
    shown = [mark for mark in marks if mark[2] in kinds]
    shown.append(("─", "standard", "line of the standard quants"))
    return [*shown, ("┄", "ink", "pruning alone")] if loss == "total" else shown


def loss_charts(quality: dict) -> list[Chart]:
    """Return a chart of size against each loss; none of a loss that no file has."""
    charts = []
    for loss in LOSSES:
        files = []
        for entry in quality["files"]:
            if entry["losses"][loss]["kld"][0] > 0:  # 0 has no place on a log axis
                size, value = gib(entry["bytes"]), kld_cell(entry, loss)
                sentence = f"{entry['label']} ({entry['kind']}), {size} GiB: {loss} loss {value} nats per token"
                files.append(entry | {"sentence": sentence})
        if files:
            figure = loss_figure(files, quality["conclusions"][loss]["line"], loss)
            note = "Whiskers: ± one standard error over chats. Names that do not fit are in the table."
            charts.append(Chart(to_json(figure), f"{loss.capitalize()} loss", note, legend=loss_legend(files, loss)))
    return charts


def quality_table(quality: dict) -> Table:
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
            found["dominated"].get(entry["label"], {}).get("by", ""),
        ]
        for entry in quality["files"]
    ]
    heads = ["file", "kind", "GiB", "bits per weight", "quantisation loss", "total loss"]
    heads += ["against standard quants of its size, by total", "dominated by"]
    return Table("Size and loss of every file", heads, rows, words=(0, 1, 6, 7))


def quality_part(records: Records) -> Section:
    """Return size against the total and the quantisation loss, and a table of all files."""
    title, quality = "Size against quality", records.quality
    if not quality:
        return Section("quality", title, command="make quality", waits_for="quality.json")
    tokens = f"{quality['tokens'][quality['score']]} tokens" + ("" if quality["score"] == "all" else " of the replies")
    text = (
        f"Mean KL divergence, nats per token, over {tokens} in {chats_in_words(quality)}. "
        "Total: quant against full F16; quantisation: quant against pruned F16. A file "
        "without any loss is in the table alone."
    )
    return Section("quality", title, [text], loss_charts(quality), [quality_table(quality)])


def scores_part(records: Records) -> Section:
    """Return the table of scores with intervals and invalid answers, and the verdict on each pair."""
    title, scores = "Scores", records.scores
    if not scores:
        return Section("scores", title, command="make eval", waits_for="scores.json")
    reference = scores["rows"][0]
    rows = [[row["name"], row["gguf"], str(row["experts"]), *score_cells(row, reference)] for row in scores["rows"]]
    heads = ["model", "file", "experts", *(head[0].lower() + head[1:] for head in SCORE_HEADS)]
    texts = [verdict(pair) for pair in scores["pairs"]]
    texts += [label.replace("**", "") for label in sample_labels(scores["rows"])]  # bold in Markdown; the page is HTML
    chart = Chart(to_json(score_figure(scores["rows"])), "Scores with 95% intervals (Wilson)")
    return Section("scores", title, texts, [chart], [Table("Scores of one protocol", heads, rows, words=(0, 1))])


def shown_letter(answer: dict) -> str:
    """Return the final letter of an answer, "none" without one."""
    return final_letter(answer) or "none"


def outcome(before: bool, after: bool) -> str:
    """Return what became of a question from the reference to the other model."""
    if before:
        return "both right" if after else "lost"
    return "won" if after else "both wrong"


def answers_by_id(run: dict) -> dict[str, dict]:
    """Return a run's answers by Record ID."""
    return {answer["record_id"]: answer for answer in run["answers"]}


def outcomes(first: dict, second: dict) -> list[tuple[str, str, str]]:
    """Return Record ID, outcome and sentence of every question, by Record ID.

    Raises InputError when the two runs answered other questions.
    """
    mine, theirs = answers_by_id(first), answers_by_id(second)
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
        [OUTCOME_MARKS.get(kind, "") for _, kind, _ in found] + [""] * padding,
        "− lost, + won",
        first=1,
    )


def changed_table(found: list[tuple[str, str, str]], runs: list[dict]) -> Table:
    """Return the questions that were lost and won, with the answers of both models."""
    answers = [answers_by_id(run) for run in runs]
    rows = []
    for record_id, kind, _ in found:
        if kind in OUTCOME_MARKS:
            both = [each[record_id] for each in answers]
            letters = [f"{shown_letter(answer)} ({answer['class']})" for answer in both]
            rows.append([record_id, kind, both[0]["target"], *letters])
    heads = ["Record ID", "outcome", "right answer", *(run["name"] for run in runs)]
    return Table("Questions lost and won", heads, rows, words=(0, 1, 2, 3, 4), folded=len(rows) > OPEN_ROWS)


def questions_part(records: Records) -> Section:
    """Return which questions the second model lost and won against the first."""
    title, runs = "Question by question", records.summaries
    if not runs:
        return Section("questions", title, command="make eval", waits_for="summary.json of both models")
    first, second = runs
    found = outcomes(first, second)
    counts = [f"{sum(kind == name for _, kind, _ in found)} {name}" for name in OUTCOMES]
    text = f"{second['name']} against {first['name']}, questions by Record ID: {', '.join(counts)}."
    chart = grid_chart(question_grid(found), "Wins and losses")
    return Section("questions", title, [text], [chart], [changed_table(found, runs)])


def imatrix_texts(counts: dict[int, np.ndarray], experts: Experts | None) -> list[str]:
    """Return the sentence of every expert of the pruned model; counts: tokens [experts] by layer."""
    kept = {}
    if experts:  # the pruned model numbers its experts anew
        kept = {layer: np.nonzero(~row)[0] for layer, row in zip(experts.layers, experts.dropped)}
    texts = []
    for layer, row in counts.items():
        for place, count in enumerate(row):
            before = f" (expert {kept[layer][place]} of the full model)" if kept else ""
            texts.append(f"Layer {layer}, expert {place}{before}: {count} calibration tokens")
    return texts


def imatrix_part(records: Records) -> Section:
    """Return how many calibration tokens reached each expert of the pruned model."""
    title = "What calibration reached"
    if records.imatrix is None:
        return Section("imatrix", title, command="make imatrix", waits_for="imatrix.gguf")
    counts = dict(sorted(records.imatrix.expert_counts().items()))
    values = np.array(list(counts.values()))
    grid = Grid(
        "imatrix",
        "layer",
        "expert of the pruned model",
        [str(layer) for layer in counts],
        values.shape[1],
        [Measure("tokens", "calibration tokens", values, log=True)],
        imatrix_texts(counts, records.experts),
        ["x" if count == 0 else "" for count in values.reshape(-1)],
        "× never reached",
    )
    rows = [
        [str(layer), str(row.min()), f"{np.median(row):g}", str(row.max()), str((row == 0).sum())]
        for layer, row in counts.items()
    ]
    heads = ["layer", "least", "median", "most", "never reached"]
    text = (
        f"The calibration text never reached {int((values == 0).sum())} of {values.size} experts. For such an expert "
        "llama-quantize takes all inputs as equally important. Counts are those of ffn_down_exps; gate and up see the "
        "same tokens."
    )
    table = Table("Calibration tokens per expert, by layer", heads, rows, folded=True)
    return Section("imatrix", title, [text], [grid_chart(grid, "Calibration tokens per expert")], [table])


def sections(records: Records) -> list[Section]:
    """Return the sections below the pipeline, in the order of the page."""
    parts = (experts_part, quality_part, scores_part, questions_part, imatrix_part)
    return [part(records) for part in parts]
