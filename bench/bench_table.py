"""The table that every benchmark prints, and its end: an error when a limit is broken."""

import sys
from pathlib import Path

from files.display import markdown_table  # every benchmark puts scripts/ on the path before it comes here


def row(name: str, value: float, unit: str, limit: float | None = None, at_least: bool = False) -> dict:
    """Return one line of the table; the limit is the largest allowed value, or the smallest."""
    holds = None
    if limit is not None:
        holds = value >= limit if at_least else value <= limit
    return {"measure": name, "value": value, "unit": unit, "limit": limit, "holds": holds}


def table(rows: list[dict]) -> str:
    """Return rows of measure, value, unit, limit (or None) and holds (None without a limit) as Markdown."""
    cells = []
    for entry in rows:
        limit = "" if entry["limit"] is None else f"{entry['limit']:.2f} {entry['unit']}"
        holds = {None: "", True: "yes", False: "NO"}[entry["holds"]]
        cells.append([entry["measure"], f"{entry['value']:.2f} {entry['unit']}", limit, holds])
    return markdown_table(["measure", "value", "limit", "holds"], cells, last_words=1)


def end_on_broken_limit(output: Path, rows: list[dict]) -> None:
    """Exit with an error when a row breaks its limit; the figures lie in `output` by then."""
    broken = [entry["measure"] for entry in rows if entry["holds"] is False]
    if broken:
        sys.exit(f"error: {output}: expected every limit to hold, found it broken: {', '.join(broken)}")
