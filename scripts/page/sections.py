"""What each section of the report says, from the records of a build; one whose records are missing names their command."""

from dataclasses import dataclass, field

import numpy as np

from files.display import DROPPED, GREEN, GREY, KEPT, SKY, VERMILION, with_error
from files.safe_files import InputError, gib
from losses.quality_record import LOSSES
from page.charts import Grid, Measure, grid_figure, loss_figure, score_figure, to_json
from page.records import Experts, Records
from scoring.score_records import final_letter, finally_correct
from scoring.score_tables import SCORE_HEADS, sample_labels, score_cells, verdict

OUTCOMES = {"both right": SKY, "lost": VERMILION, "won": GREEN, "both wrong": GREY}
OUTCOME_MARKS = {"lost": "dash", "won": "cross"}
QUESTION_COLUMNS, OPEN_ROWS = 33, 12


@dataclass(frozen=True)
class Table:
    """A table: caption, heads, rows of texts; the first column heads its row, the columns in `words` are not numbers."""

    caption: str
    heads: list[str]
    rows: list[list[str]]
    words: tuple[int, ...] = (0,)
    folded: bool = False


@dataclass(frozen=True)
class Chart:
    """A figure as JSON, its name in words and, where it is a grid, what the page needs to let a user walk over it."""

    item: dict
    title: str
    note: str = ""
    grid: Grid | None = None
    legend: list[tuple[str, str, str]] = field(default_factory=list)  # mark, class in the page, text


@dataclass(frozen=True)
class Section:
    """A section: title, paragraphs, charts, tables; `command` makes the records that it waits for."""

    key: str
    title: str
    paragraphs: list[str] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    command: str | None = None
    waits_for: str = ""


@dataclass(frozen=True)
class Step:
    """A step of the pipeline: what it made, the digests of that, or the command that makes it."""

    name: str
    made: str = ""
    digests: list[tuple[str, str]] = field(default_factory=list)
    command: str | None = None


def number(value: float) -> str:
    """Return six digits of a number, without an exponent where it is large."""
    return f"{value:.6g}" if value < 1e6 else f"{value:.0f}"


def step_of(name: str, found: bool, command: str, made: str, digests: list[tuple[str, str | None]]) -> Step:
    """Return a step of the pipeline, or the command that makes it; digests that no record holds are left out."""
    return (
        Step(name, made, [(what, sha256) for what, sha256 in digests if sha256])
        if found
        else Step(name, command=command)
    )


def pipeline(records: Records) -> list[Step]:
    """Return the steps of the build in their order."""
    chosen, metadata, runs, f16 = records.drop_map, records.metadata, records.summaries, records.f16
    sets = f"{chosen.get('questions')} questions, {chosen.get('experts')} experts a layer"
    kept = f"{chosen.get('keep_count')} of {chosen.get('experts')} experts a layer, by {chosen.get('criterion')}"
    scored = f"{runs[0]['questions']} questions, {len(runs)} models" if runs else ""
    return [
        step_of(
            "Analyse",
            bool(chosen),
            "make analyze",
            sets,
            [
                ("full checkpoint", chosen.get("weights_sha256")),
                ("questions", chosen.get("questions_sha256")),
                ("expert_stats.safetensors", records.stats_sha256),
            ],
        ),
        step_of("Choose", bool(chosen), "make analyze", kept, [("drop_map.json", records.drop_map_sha256)]),
        step_of(
            "Drop",
            bool(metadata),
            "make drop",
            f"shards: {len(metadata.get('shards', {}))}",
            list(metadata.get("shards", {}).items()),
        ),
        step_of(
            "Convert",
            bool(f16),
            "make quants",
            f"F16 GGUF, {gib(f16.get('bytes', 0))} GiB",
            [("F16.gguf", f16.get("sha256"))],
        ),
        step_of(
            "Imatrix",
            bool(records.imatrix_record),
            "make imatrix",
            "tokens and squares of each expert",
            [
                ("calibration text", records.imatrix_record.get("calibration_sha256")),
                ("imatrix.gguf", records.imatrix_record.get("sha256")),
            ],
        ),
        step_of(
            "Quantise",
            bool(records.quants),
            "make quants",
            f"{len(records.quants)} quants",
            [(quant["type"], quant["sha256"]) for quant in records.quants.values()],
        ),
        step_of(
            "Measure quality",
            bool(records.quality),
            "make quality",
            f"{len(records.quality.get('files', []))} files, {records.quality.get('chats')} chats",
            [("quality.json", records.quality_sha256)],
        ),
        step_of(
            "Evaluate",
            bool(runs),
            "make eval",
            scored,
            [("protocol", runs[0]["protocol_sha256"] if runs else None)]
            + [(run["name"], run["gguf_sha256"]) for run in runs],
        ),
    ]


def expert_texts(experts: Experts) -> list[str]:
    """Return the sentence of every expert, in reading order."""
    rows, columns = experts.dropped.shape
    return [
        f"Layer {experts.layers[row]}, expert {column}: weighted norm {number(experts.weighted_norm[row, column])}; "
        f"{experts.tokens[row, column]} tokens; coverage {experts.coverage[row, column]} of {experts.questions} questions; "
        f"{'dropped' if experts.dropped[row, column] else 'kept'}"
        for row in range(rows)
        for column in range(columns)
    ]


def experts_part(records: Records) -> Section:
    """Return the heat-map of layers x experts and a table by layer."""
    title, experts = "What each expert contributes", records.experts
    if experts is None:
        return Section("experts", title, command="make analyze", waits_for="expert_stats.safetensors and drop_map.json")
    grid = Grid(
        "experts",
        "layer",
        "expert",
        [str(layer) for layer in experts.layers],
        experts.dropped.shape[1],
        [
            Measure("weighted_norm", "weighted norm", experts.weighted_norm, log=True),
            Measure("tokens", "tokens", experts.tokens, log=True),
            Measure("coverage", "coverage", experts.coverage),
            Measure(
                "dropped", "kept or dropped", experts.dropped.astype(int), classes={"kept": KEPT, "dropped": DROPPED}
            ),
        ],
        expert_texts(experts),
        ["x" if dropped else "" for dropped in experts.dropped.reshape(-1)],
        "× dropped",
    )
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
    return Section(
        "experts",
        title,
        [
            f"Over the {experts.questions} questions that chose the experts. Weighted norm: routing weight times the norm of the expert's "
            f"output, summed over its tokens. Coverage: questions in which the expert is among the {experts.top} of its layer with the "
            "largest weighted norm. Grey: none."
        ],
        [Chart(to_json(grid_figure(grid)), "Layers and experts", grid=grid)],
        [Table("What the dropped experts contribute, by layer", heads, rows, folded=True)],
    )


def loss_cell(entry: dict, loss: str) -> str:
    """Return a file's mean KLD and its error."""
    return with_error(*entry["losses"][loss]["kld"])


def loss_legend(files: list[dict], loss: str) -> list[tuple[str, str, str]]:
    """Return what the marks of a chart of losses mean."""
    kinds = {entry["kind"] for entry in files}
    marks = [("●", "standard", "standard"), ("◆", "contrib", "ContribDynamic"), ("▲", "target", "target size")]
    return (
        [mark for mark in marks if mark[2] in kinds]
        + [("─", "standard", "line of the standard quants")]
        + ([("┄", "ink", "pruning alone")] if loss == "total" else [])
    )


def all_digests(steps: list[Step]) -> Table:
    """Return every digest of the pipeline in full."""
    rows = [[each.name, what, sha256] for each in steps for what, sha256 in each.digests]
    return Table("All digests (sha256)", ["step", "of", "sha256"], rows, words=(0, 1, 2), folded=True)


def quality_part(records: Records) -> Section:
    """Return size against the total and the quantisation loss, and a table of all files."""
    title, quality = "Size against quality", records.quality
    if not quality:
        return Section("quality", title, command="make quality", waits_for="quality.json")
    charts = []
    for loss in LOSSES:
        files = [
            entry
            | {
                "sentence": f"{entry['label']} ({entry['kind']}), {gib(entry['bytes'])} GiB: {loss} loss {loss_cell(entry, loss)} "
                "nats a token"
            }
            for entry in quality["files"]
            if entry["losses"][loss]["kld"][0] > 0
        ]
        if files:
            charts.append(
                Chart(
                    to_json(loss_figure(files, quality["conclusions"][loss]["line"], loss)),
                    f"{loss.capitalize()} loss",
                    "Whiskers: ± one standard error over chats. A name without room is in the table.",
                    legend=loss_legend(files, loss),
                )
            )
    found = quality["conclusions"]["total"]
    rows = [
        [
            entry["label"],
            entry["kind"],
            gib(entry["bytes"]),
            f"{entry['bits_per_weight']:.2f}",
            loss_cell(entry, "quantisation"),
            loss_cell(entry, "total"),
            found["verdicts"].get(entry["label"], {}).get("verdict", ""),
            found["dominated"].get(entry["label"], {}).get("by", ""),
        ]
        for entry in quality["files"]
    ]
    heads = [
        "file",
        "kind",
        "GiB",
        "bits per weight",
        "quantisation loss",
        "total loss",
        "against the line, by total",
        "dominated by",
    ]
    tokens = f"{quality['tokens'][quality['score']]} tokens" + ("" if quality["score"] == "all" else " of the replies")
    return Section(
        "quality",
        title,
        [
            f"Mean KL divergence, nats a token, over {tokens} in {quality['chats']} chats that neither calibration nor the choice of experts "
            "has seen. Total: quant against full F16; quantisation: quant against pruned F16. A file without any loss is in the table alone."
        ],
        charts,
        [Table("Size and loss of every file", heads, rows, words=(0, 1, 6, 7))],
    )


def scores_part(records: Records) -> Section:
    """Return the table of scores with intervals and invalid answers, and the verdict on each pair."""
    title, scores = "Scores", records.scores
    if not scores:
        return Section("scores", title, command="make eval", waits_for="scores.json")
    rows = []
    for row in scores["rows"]:
        rows.append([row["name"], row["gguf"], str(row["experts"]), *score_cells(row, scores["rows"][0])])
    heads = ["model", "file", "experts", *(head[0].lower() + head[1:] for head in SCORE_HEADS)]
    labels = [label.replace("**", "") for label in sample_labels(scores["rows"])]
    return Section(
        "scores",
        title,
        [verdict(pair) for pair in scores["pairs"]] + labels,
        [Chart(to_json(score_figure(scores["rows"])), "Scores with 95% intervals (Wilson)")],
        [Table("Scores of one protocol", heads, rows, words=(0, 1))],
    )


def shown_letter(answer: dict) -> str:
    """Return the final letter of an answer, "none" without one."""
    return final_letter(answer) or "none"


def outcome(before: bool, after: bool) -> str:
    """Return what became of a question from the reference to the other model."""
    return {(True, True): "both right", (True, False): "lost", (False, True): "won", (False, False): "both wrong"}[
        before, after
    ]


def outcomes(first: dict, second: dict) -> list[tuple[str, str, str]]:
    """Return Record ID, outcome and sentence of every question, by Record ID; InputError when the two have other questions."""
    mine, theirs = ({answer["record_id"]: answer for answer in run["answers"]} for run in (first, second))
    if set(mine) != set(theirs):
        raise InputError(
            second["name"], f"the {len(mine)} questions of {first['name']}", f"{len(set(mine) ^ set(theirs))} others"
        )
    found = []
    for record_id in sorted(mine):
        before, after = mine[record_id], theirs[record_id]
        kind = outcome(finally_correct(before), finally_correct(after))
        found.append(
            (
                record_id,
                kind,
                f"Question {record_id}: {kind}; right answer {before['target']}; {first['name']} {shown_letter(before)}; "
                f"{second['name']} {shown_letter(after)}",
            )
        )
    return found


def questions_part(records: Records) -> Section:
    """Return which questions the second model lost and won against the first."""
    title, runs = "Question by question", records.summaries
    if not runs:
        return Section("questions", title, command="make eval", waits_for="summary.json of both models")
    first, second = runs
    found, names = outcomes(first, second), list(OUTCOMES)
    rows = -(-len(found) // QUESTION_COLUMNS)
    padding = rows * QUESTION_COLUMNS - len(found)
    values = np.array([names.index(kind) for _, kind, _ in found] + [0] * padding).reshape(rows, QUESTION_COLUMNS)
    starts = [str(row * QUESTION_COLUMNS + 1) for row in range(rows)]
    grid = Grid(
        "questions",
        "from question",
        "questions of a row, by Record ID",
        starts,
        QUESTION_COLUMNS,
        [Measure("outcome", "outcome", values, classes=OUTCOMES)],
        [text for *_, text in found] + [""] * padding,
        [OUTCOME_MARKS.get(kind, "") for _, kind, _ in found] + [""] * padding,
        "− lost, + won",
        first=1,
    )
    counts = {name: sum(kind == name for _, kind, _ in found) for name in names}
    answers = [{answer["record_id"]: answer for answer in run["answers"]} for run in runs]
    changed = [
        [
            record_id,
            kind,
            answers[0][record_id]["target"],
            *(f"{shown_letter(each[record_id])} ({each[record_id]['class']})" for each in answers),
        ]
        for record_id, kind, _ in found
        if kind in OUTCOME_MARKS
    ]
    return Section(
        "questions",
        title,
        [
            f"{second['name']} against {first['name']}, questions by Record ID: "
            + ", ".join(f"{count} {name}" for name, count in counts.items())
            + "."
        ],
        [Chart(to_json(grid_figure(grid)), "Wins and losses", grid=grid)],
        [
            Table(
                "Questions lost and won",
                ["Record ID", "outcome", "right answer", first["name"], second["name"]],
                changed,
                words=(0, 1, 2, 3, 4),
                folded=len(changed) > OPEN_ROWS,
            )
        ],
    )


def imatrix_part(records: Records) -> Section:
    """Return how many calibration tokens reached each expert of the pruned model."""
    title = "What calibration reached"
    if records.imatrix is None:
        return Section("imatrix", title, command="make imatrix", waits_for="imatrix.gguf")
    counts = dict(sorted(records.imatrix.expert_counts().items()))
    values, layers = np.array(list(counts.values())), list(counts)
    experts, texts = records.experts, []
    kept_by_layer = (
        {layer: np.nonzero(~row)[0] for layer, row in zip(experts.layers, experts.dropped)} if experts else {}
    )
    for layer, row in counts.items():
        kept = kept_by_layer.get(layer)
        names = [
            f"expert {place}" + (f" (expert {kept[place]} of the full model)" if experts else "")
            for place in range(row.size)
        ]
        texts += [f"Layer {layer}, {name}: {count} calibration tokens" for name, count in zip(names, row)]
    grid = Grid(
        "imatrix",
        "layer",
        "expert of the pruned model",
        [str(layer) for layer in layers],
        values.shape[1],
        [Measure("tokens", "calibration tokens", values, log=True)],
        texts,
        ["x" if count == 0 else "" for count in values.reshape(-1)],
        "× never reached",
    )
    rows = [
        [str(layer), str(row.min()), f"{np.median(row):g}", str(row.max()), str((row == 0).sum())]
        for layer, row in counts.items()
    ]
    return Section(
        "imatrix",
        title,
        [
            f"{int((values == 0).sum())} of {values.size} experts were never reached by the calibration text; llama-quantize takes all "
            "inputs of such an expert for equally important. Counts are those of ffn_down_exps; gate and up see the same tokens."
        ],
        [Chart(to_json(grid_figure(grid)), "Calibration tokens of each expert", grid=grid)],
        [
            Table(
                "Calibration tokens of an expert, by layer",
                ["layer", "least", "median", "most", "never reached"],
                rows,
                folded=True,
            )
        ],
    )


def sections(records: Records) -> list[Section]:
    """Return the sections below the pipeline, in the order of the page."""
    parts = (experts_part, quality_part, scores_part, questions_part, imatrix_part)
    return [part(records) for part in parts]
