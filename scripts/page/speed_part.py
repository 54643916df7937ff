"""The report's sections on what goes with the quants, each where there is a record: pictures, draft, fewer experts."""

from files.safe_files import gib
from page.pipeline import Table
from page.records import Records
from page.sections import Section
from speed.active_experts import active_heads, active_rows, active_words
from speed.draft_results import DRAFT_HEADS, draft_rows, draft_words


def lower(heads: list[str]) -> list[str]:
    """Return a card's heads as the page writes them; KLD stays."""
    return [head if head.isupper() else head[0].lower() + head[1:] for head in heads]


def pictures_part(records: Records) -> Section | None:
    """Return the files for pictures, None where there is none."""
    if not records.mmproj:
        return None
    rows = [
        [name, record["type"], gib(record["bytes"]), f"{record['parameters']:,}", " and ".join(record["towers"])]
        for name, record in records.mmproj.items()
    ]
    heads = ["file", "type", "GiB", "weights", "towers"]
    data = [{key: record[key] for key in ("type", "bytes", "sha256")} for record in records.mmproj.values()]
    text = "What the model sees and hears with: the base model's own towers, which dropping experts leaves as they are."
    tables = [Table("mmproj", "By type", heads, rows, (0, 1, 4), data=data)]
    return Section("pictures", "Files for pictures", [text], tables=tables)


def draft_part(records: Records) -> Section | None:
    """Return what the draft model gains, None where that was not measured."""
    found = records.draft
    if not found:
        return None
    file = f"{found['file']}: {found['type']}, {found['parameters']:,} weights, {gib(found['bytes'])} GiB."
    tables = [Table("draft", "With and without the draft model", lower(DRAFT_HEADS), draft_rows(found), (0, 1, 5))]
    return Section("draft", "Draft model", [file, draft_words(found)], tables=tables)


def active_part(records: Records) -> Section | None:
    """Return what fewer active experts cost and gain, None where that was not measured."""
    found = records.active
    if not found:
        return None
    heads = lower(active_heads(found))
    words = tuple(range(1, len(heads)))  # cells with errors and counts are no numbers by which a table could be sorted
    tables = [Table("active", "By the number of active experts", heads, active_rows(found), words)]
    return Section("active", "Fewer active experts", [active_words(found).replace("`", "")], tables=tables)
