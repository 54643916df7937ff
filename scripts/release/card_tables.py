"""The tables of a card: files, memory, scores, digests. Every number comes from a record; None or a dash where there is none."""

from files.display import markdown_table, with_error
from files.safe_files import GIB, gib, in_unit
from losses.quality_conclusions import BETTER, NO_DIFFERENCE, SMALLER, WORSE
from release.order import measured
from scoring.score_tables import SCORE_HEADS, sample_labels, score_cells

GB = 10**9
MEMORY_GIB = (2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128)
FREE_GIB = 1
CONTEXTS = (8192, 32768, 131072)
VERDICTS = {
    BETTER: "better than the standard quants of its size",
    WORSE: "worse than the standard quants of its size",
    NO_DIFFERENCE: "no significant difference from the standard quants of its size",
    SMALLER: "no standard quant is as small",
}


def kld(entry: dict | None, loss: str) -> str:
    """Return a mean KLD and its error, or that it was not measured."""
    return "not measured" if entry is None else with_error(*entry["losses"][loss]["kld"])


def note(record: dict, entry: dict | None, quality: dict | None) -> str:
    """Return a file's note: its recipe's, its place against the standard files where measured, its parts."""
    parts = [record["note"]]
    if entry and (found := quality["conclusions"]["quantisation"]["verdicts"].get(entry["label"])):
        parts.append(f"quantisation loss {VERDICTS[found['verdict']]}")
    if len(record["files"]) > 1:
        parts.append(f"in {len(record['files'])} parts")
    return "; ".join(parts)


def file_table(records: dict[str, dict], quality: dict | None) -> str:
    """Return the table of files: type, GB and GiB, bits per weight, KLD where any was measured, note; the largest first."""
    entries, rows = measured(records, quality), []
    losses = ("quantisation", "total") if entries else ()
    for name, record in sorted(records.items(), key=lambda item: (-item[1]["bytes"], item[0])):
        entry = entries.get(name)
        rows.append(
            [
                record["files"][0],
                record["type"],
                note(record, entry, quality),
                in_unit(record["bytes"], GB),
                gib(record["bytes"]),
                f"{record['bits_per_weight']:.2f}",
                *(kld(entry, loss) for loss in losses),
            ]
        )
    return markdown_table(
        ["File", "Type", "Note", "GB", "GiB", "Bits per weight", *(f"KLD, {loss}" for loss in losses)], rows, left=3
    )


def memory_table(records: dict[str, dict], caches: dict[int, int]) -> str:
    """Return which is the largest file that a memory holds with the shortest of the contexts; caches: tokens to bytes."""
    context = min(caches)
    rows: list[list[str]] = []
    by_size = sorted(records.values(), key=lambda record: record["bytes"])
    for memory in MEMORY_GIB:
        fits = [record for record in by_size if record["bytes"] + caches[context] <= (memory - FREE_GIB) * GIB]
        if fits and (not rows or rows[-1][1] != fits[-1]["files"][0]):
            rows.append(
                [
                    f"{memory} GiB or more",
                    fits[-1]["files"][0],
                    *(gib(fits[-1]["bytes"] + cache) for cache in caches.values()),
                ]
            )
    return markdown_table(
        ["Memory", "Largest file that fits", *(f"GiB with {tokens:,} tokens" for tokens in caches)], rows, left=2
    )


def card_scores(scores: dict) -> str:
    """Return the table of scores of a card; the quants' sizes stand in its table of files."""
    rows = scores["rows"]
    return markdown_table(
        ["Model", "Experts", *SCORE_HEADS],
        [[row["name"], str(row["experts"]), *score_cells(row, rows[0])] for row in rows],
    )


def in_sample_note(scores: dict, metadata: dict) -> str:
    """Return one sentence on whether the experts were chosen on the questions that the score is taken on."""
    chosen, scored = set(metadata["method"].get("question_ids") or []), set(scores["question_ids"])
    if not chosen:
        return "**Not known whether in-sample:** the drop map does not say which questions it was made from."
    if chosen & scored:
        return f"**In-sample:** {len(chosen & scored)} of the {len(scored)} scored questions also chose the experts."
    return f"The experts were chosen on {len(chosen)} other questions; none of the {len(scored)} scored ones is among them."


def sample_sentences(scores: dict, metadata: dict, name: str) -> list[str]:
    """Return the label of the scores of the model `name`, by its metadata, and of every other one, as compare_scores.py says it."""
    known = bool(metadata["method"].get("question_ids"))
    return [
        in_sample_note(scores, metadata),
        *sample_labels([row for row in scores["rows"] if not (known and row["name"] == name)]),
    ]


def digest_table(digests: dict[str, str | None]) -> str:
    """Return the table of digests; those that no record of this build has are left out."""
    return markdown_table(
        ["What", "sha256"], [[what, f"`{digest}`"] for what, digest in digests.items() if digest], left=2
    )
