"""The tables of a card: files, memory, scores, digests. Every number comes from a record."""

from files.display import markdown_table, with_error
from files.safe_files import GB, GIB, gib, in_unit
from losses.quality_conclusions import BETTER, NO_DIFFERENCE, SMALLER, WORSE
from release.order import measured
from scoring.score_tables import NOT_KNOWN, SCORE_HEADS, sample_labels, score_cells

MEMORY_GIB = (2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128)  # graphics cards and computers as sold
FREE_GIB = 1
CONTEXTS = (8192, 32768, 131072)
VERDICTS = {
    BETTER: "better than the standard quants of its size",
    WORSE: "worse than the standard quants of its size",
    NO_DIFFERENCE: "no significant difference from the standard quants of its size",
    SMALLER: "no standard quant is as small",
}


def measured_kld(entry: dict | None, loss: str) -> str:
    """Return a mean KLD and its error, or that it was not measured."""
    return "not measured" if entry is None else with_error(*entry["losses"][loss]["kld"])


def note(record: dict, verdict: str | None) -> str:
    """Return a file's note: its recipe's, the verdict on it against the standard files, its parts."""
    parts = [record["note"]]
    if verdict:
        parts.append(f"quantisation loss: {VERDICTS[verdict]}")
    if len(record["files"]) > 1:
        parts.append(f"in {len(record['files'])} parts")
    return "; ".join(parts)


def file_table(records: dict[str, dict], quality: dict | None) -> str:
    """Return the table of files, the largest first; with columns of KLD if any file was measured."""
    entries, rows = measured(records, quality), []
    losses = ("quantisation", "total") if entries else ()
    verdicts = quality["conclusions"]["quantisation"]["verdicts"] if quality else {}
    # The name decides between files of one size, so that a card is the same each time.
    for name, record in sorted(records.items(), key=lambda item: (-item[1]["bytes"], item[0])):
        entry = entries.get(name)
        found = verdicts.get(entry["label"]) if entry else None
        rows.append(
            [
                record["files"][0],
                record["type"],
                note(record, found and found["verdict"]),
                in_unit(record["bytes"], GB),
                gib(record["bytes"]),
                f"{record['bits_per_weight']:.2f}",
                *(measured_kld(entry, loss) for loss in losses),
            ]
        )
    heads = ["File", "Type", "Note", "GB", "GiB", "Bits per weight", *(f"KLD, {loss}" for loss in losses)]
    return markdown_table(heads, rows, left=3)


def memory_table(records: dict[str, dict], caches: dict[int, int]) -> str:
    """Return the table of the largest file that fits each memory; caches: bytes of the context cache by tokens."""
    context = min(caches)
    rows: list[list[str]] = []
    by_size = sorted(records.values(), key=lambda record: record["bytes"])
    for memory in MEMORY_GIB:
        fits = [record for record in by_size if record["bytes"] + caches[context] <= (memory - FREE_GIB) * GIB]
        if fits and (not rows or rows[-1][1] != fits[-1]["files"][0]):  # else more memory changes nothing
            sizes = [gib(fits[-1]["bytes"] + cache) for cache in caches.values()]
            rows.append([f"{memory} GiB or more", fits[-1]["files"][0], *sizes])
    heads = ["Memory", "Largest file that fits", *(f"GiB with {tokens:,} tokens" for tokens in caches)]
    return markdown_table(heads, rows, left=2)


def card_scores(scores: dict) -> str:
    """Return the table of scores of a card. The quants' sizes are in its table of files."""
    rows = scores["rows"]
    cells = [[row["name"], str(row["experts"]), *score_cells(row, rows[0])] for row in rows]
    return markdown_table(["Model", "Experts", *SCORE_HEADS], cells)


def in_sample_note(scores: dict, metadata: dict) -> str:
    """Return a sentence on whether the scored questions also chose the experts."""
    chosen, scored = set(metadata["method"].get("question_ids") or []), set(scores["question_ids"])
    if not chosen:
        return f"{NOT_KNOWN} the drop map does not say which questions chose the experts."
    if chosen & scored:
        return f"**In-sample:** {len(chosen & scored)} of the {len(scored)} scored questions also chose the experts."
    return f"Held out: {len(chosen)} other questions chose the experts, and none of the {len(scored)} scored ones did."


def row_is_known(row: dict) -> bool:
    """Tell whether a row of scores says how many of its questions chose the experts."""
    return bool(row["in_sample"]) and row["in_sample"]["scored_and_chosen_on"] is not None


def sample_sentences(scores: dict, metadata: dict, name: str) -> list[str]:
    """Return the label of the model `name` by its metadata, and those of all others as compare_scores.py has them."""
    known = bool(metadata["method"].get("question_ids"))
    # The row of the model itself is left out unless it knows what the metadata do not: the card would say the same
    # thing twice.
    others = [row for row in scores["rows"] if row["name"] != name or not known and row_is_known(row)]
    return [in_sample_note(scores, metadata), *sample_labels(others)]


def digest_table(digests: dict[str, str | None]) -> str:
    """Return the table of digests; those that no record of this build has are left out."""
    rows = [[what, f"`{digest}`"] for what, digest in digests.items() if digest]
    return markdown_table(["What", "sha256"], rows, left=2)
