"""What is measured of a build's files: which files these are, and whether a record comes out the same again."""

import math
from pathlib import Path
from typing import Any

from files.input_errors import InputError, shown
from files.json_records import read_record
from gates.lineage import Breaks, Lineage, broken
from quants.quant_record import QuantRecord

TEXTS = "chats by the checkpoint's tokenizer and chat template, sha256"
MEASURE_PUBLISHED = "measure the file that is released"


def first_difference(expected: Any, found: Any, place: str = "") -> str | None:
    """Return "PLACE VALUE, found VALUE" of the first values that differ in two records, None where there are none.

    Floats may differ in their last bits: another numpy sums in another order.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted({*expected, *found}, key=str):
            inner = f"{place}.{key}" if place else str(key)
            if (key in expected) != (key in found):
                return f"{inner} {'present' if key in expected else 'absent'}, found the opposite"
            if difference := first_difference(expected[key], found[key], inner):
                return difference
        return None
    if isinstance(expected, (list, tuple)) and isinstance(found, (list, tuple)) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found))
        return next((line for i, pair in pairs if (line := first_difference(*pair, f"{place}[{i}]"))), None)
    if isinstance(expected, float) or isinstance(found, float):
        numbers = all(type(value) in (int, float) for value in (expected, found))
        if numbers and math.isclose(expected, found, rel_tol=1e-9, abs_tol=1e-12):
            return None
    return None if expected == found else f"{place} {shown(expected)}, found {shown(found)}"


def made_again(path: Path, what: str, again: dict, recorded: dict, advice: str) -> Breaks:
    """Return the error of a record that differs from what its sources give."""
    difference = first_difference(again, {key: value for key, value in recorded.items() if key != "version"})
    if difference is None:
        return []
    expected, found = difference.split(", found ", 1)
    return [InputError(path, f"{what}: {expected}", found, advice)]


def known_quants(lineage: Lineage) -> dict[str, tuple[str, dict]]:
    """Return file and record of the release's quants, and of those that were scored or measured, by sha256.

    Raises InputError for two files of one name: a reader would take the measured one for the published one.
    """
    known = {record["sha256"]: (name, record) for name, record in lineage.records.items()}
    named = {name: record["sha256"] for name, record in lineage.records.items()}
    for path in lineage.sources["quants"].values():
        record = read_record(path, QuantRecord)
        gguf = path.with_suffix("")
        if (other := named.setdefault(gguf.name, record["sha256"])) != record["sha256"]:
            what = f"one file named {gguf.name} in a release and its measurements, sha256"
            raise broken(path, what, other, record["sha256"], MEASURE_PUBLISHED)
        known[record["sha256"]] = (gguf.name, record)
        # The scored file need not be one of the release. Where it is still there, its size is its own.
        if gguf.is_file() and gguf.stat().st_size != record["bytes"]:
            raise broken(gguf, "bytes, as its record says:", record["bytes"], gguf.stat().st_size)
    return known
