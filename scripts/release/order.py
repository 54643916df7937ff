"""Where the files of a release are out of order: larger than one of higher name, or costing more than a smaller one.

Names: the order of quant_recipes.py, which is the model card's. KLD: quality.json of measure_quality.py, whose
`dominated` holds, for each loss, the files that a smaller or equal one beats, and whether beyond the error (paired by chat).
"""

from losses.quality_record import LOSSES
from quants.recipes import RECIPES


def must_exceed(records: dict[str, dict]) -> list[tuple[str, str, bool]]:
    """Return each (quant, quant it must exceed in size, whether it does) among the records' types."""
    sizes = {record["type"]: record["bytes"] for record in records.values()}
    return [
        (name, recipe.larger_than, sizes[name] > sizes[recipe.larger_than])
        for name, recipe in RECIPES.items()
        if name in sizes and recipe.larger_than in sizes
    ]


def size_exceptions(records: dict[str, dict]) -> list[str]:
    """Return a sentence for each quant that is larger than the one before it in the order of names."""
    sizes = {record["type"]: record["bytes"] for record in records.values()}
    order = [name for name in RECIPES if name in sizes]
    return [
        f"{later} is larger than {earlier}, the name before it."
        for earlier, later in zip(order, order[1:])
        if sizes[later] >= sizes[earlier]
    ]


def measured(records: dict[str, dict], quality: dict | None) -> dict[str, dict]:
    """Return the entry of quality.json of each record that has one, by record; files are told by their digests."""
    entries = {entry["sha256"]: entry for entry in (quality or {}).get("files", [])}
    return {name: entries[record["sha256"]] for name, record in records.items() if record["sha256"] in entries}


def kld_exceptions(records: dict[str, dict], quality: dict | None) -> list[str]:
    """Return a sentence for each file that costs more than one of no more bytes, beyond the error, and by which loss.

    The other one may be any file that was measured; it is said where it is not one of these.
    """
    found: dict[tuple[str, str], list[str]] = {}
    here = {record["type"] for record in records.values()}
    for entry in measured(records, quality).values():
        for loss in reversed(LOSSES):
            by = quality["conclusions"][loss]["dominated"].get(entry["label"])
            if by and by["significant"]:
                found.setdefault((entry["label"], by["by"]), []).append(loss)
    return [
        f"{label} costs more than {other}{'' if other in here else ' (not in this repository)'}, which is no larger, beyond the error, "
        f"by {' and '.join(losses)} loss."
        for (label, other), losses in found.items()
    ]


def exceptions(records: dict[str, dict], quality: dict | None) -> list[str]:
    """Return all of them, as a card names them."""
    return size_exceptions(records) + kld_exceptions(records, quality)
