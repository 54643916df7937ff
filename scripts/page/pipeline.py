"""The last part of the report: the steps of a build, what each made, and the digests of that. And what a table is."""

from dataclasses import dataclass, field

from files.safe_files import gib
from page.records import Records

Digests = list[tuple[str, str | None]]  # what it is the digest of, sha256 or None where no record holds one


@dataclass(frozen=True)
class Table:
    """A table: caption, heads, rows of texts; the first column heads its row, columns in `words` are not numbers.

    key: its name in the page and of its downloads. links: for each row the mark in a chart that belongs to it, "" for
    none. data: rows of the downloads, exact figures; without any they are the texts. choice: the column by whose values
    a reader may choose rows.
    """

    key: str
    caption: str
    heads: list[str]
    rows: list[list[str]]
    words: tuple[int, ...] = (0,)
    folded: bool = False
    links: list[str] = field(default_factory=list)
    data: list[dict] = field(default_factory=list)
    choice: int | None = None

    def downloads(self) -> list[dict]:
        """Return the rows of the downloads, one object each."""
        return self.data or [dict(zip(self.heads, row)) for row in self.rows]

    def choices(self) -> list[str]:
        """Return the values by which rows may be chosen, in the order of the table."""
        return [] if self.choice is None else list(dict.fromkeys(row[self.choice] for row in self.rows))


@dataclass(frozen=True)
class Step:
    """A step of the pipeline: what it made, the digests of that, or the command that makes it."""

    name: str
    made: str = ""
    digests: list[tuple[str, str]] = field(default_factory=list)
    command: str | None = None


def step_of(name: str, found: bool, command: str, made: str, digests: Digests) -> Step:
    """Return a step of the pipeline, or the command that makes it; digests that no record holds are left out."""
    if not found:
        return Step(name, command=command)
    return Step(name, made, [(what, sha256) for what, sha256 in digests if sha256])


def checkpoint_steps(records: Records) -> list[Step]:
    """Return the steps up to the pruned checkpoint."""
    chosen, metadata = records.drop_map, records.metadata
    analysed: Digests = [
        ("full checkpoint", chosen.get("weights_sha256")),
        ("questions", chosen.get("questions_sha256")),
        ("expert_stats.safetensors", records.stats_sha256),
    ]
    sets = f"{chosen.get('questions')} questions, {chosen.get('experts')} experts per layer"
    kept = f"{chosen.get('keep_count')} of {chosen.get('experts')} experts per layer, by {chosen.get('criterion')}"
    if "keep_count" not in chosen:  # a plain map where nothing was analysed
        kept = f"by {chosen.get('criterion')}"
    shards = metadata.get("shards", {})
    return [
        step_of("Analyse", bool(records.stats_sha256), "make analyze", sets, analysed),
        step_of("Choose", bool(chosen), "make analyze", kept, [("drop_map.json", records.drop_map_sha256)]),
        step_of("Drop", bool(metadata), "make drop", f"shards: {len(shards)}", list(shards.items())),
    ]


def gguf_steps(records: Records) -> list[Step]:
    """Return the steps from the pruned checkpoint to its quants."""
    f16, imatrix = records.f16, records.imatrix_record
    calibrated: Digests = [
        ("calibration text", imatrix.get("calibration_sha256")),
        ("imatrix.gguf", imatrix.get("sha256")),
    ]
    built: Digests = [(quant["type"], quant["sha256"]) for quant in records.quants.values()]
    converted = f"F16 GGUF, {gib(f16.get('bytes', 0))} GiB"
    return [
        step_of("Convert", bool(f16), "make quants", converted, [("F16.gguf", f16.get("sha256"))]),
        step_of("Imatrix", bool(imatrix), "make imatrix", "tokens and squares of each expert's inputs", calibrated),
        step_of("Quantise", bool(built), "make quants", f"{len(built)} quants", built),
    ]


def measuring_steps(records: Records) -> list[Step]:
    """Return the steps that measure: quality of the quants, scores of two models."""
    quality, runs = records.quality, records.summaries
    measured = f"{len(quality.get('files', []))} files, {quality.get('chats')} chats"
    scored = f"{runs[0]['questions']} questions, {len(runs)} models" if runs else ""
    answered: Digests = [("protocol", runs[0]["protocol_sha256"] if runs else None)]
    answered += [(run["name"], run["gguf_sha256"]) for run in runs]
    return [
        step_of("Measure quality", bool(quality), "make quality", measured, [("quality.json", records.quality_sha256)]),
        step_of("Evaluate", bool(runs), "make eval", scored, answered),
    ]


def pipeline(records: Records) -> list[Step]:
    """Return the steps of the build in their order."""
    return [*checkpoint_steps(records), *gguf_steps(records), *measuring_steps(records)]


def all_digests(steps: list[Step]) -> Table:
    """Return every digest of the pipeline in full."""
    rows = [[each.name, what, sha256] for each in steps for what, sha256 in each.digests]
    return Table("digests", "All digests (sha256)", ["step", "of", "sha256"], rows, words=(0, 1, 2), folded=True)
