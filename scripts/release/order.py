"""Which files of a release are out of order: larger than one with a higher-ranking name, or worse than a smaller one.

Names rank as in RECIPES of quants/recipes.py, which is the model card's order. KLD: quality.json of measure_quality.py,
whose `dominated` names, for each loss, the files that another one of no more bytes beats, and whether that is
significant (paired by chat).
"""

from losses.quality_record import LOSSES, measured
from quants.recipes import RECIPES


def must_exceed(records: dict[str, dict]) -> list[tuple[str, str, bool]]:
    """Return each (quant, quant that it must exceed in size, whether it does) among the records' types."""
    sizes = {record["type"]: record["bytes"] for record in records.values()}
    return [
        (name, recipe.larger_than, sizes[name] > sizes[recipe.larger_than])
        for name, recipe in RECIPES.items()
        if name in sizes and recipe.larger_than in sizes
    ]


def size_exceptions(records: dict[str, dict]) -> list[str]:
    """Return a sentence for each quant that is larger than the one whose name ranks just above it."""
    sizes = {record["type"]: record["bytes"] for record in records.values()}
    order = [name for name in RECIPES if name in sizes]
    return [
        f"{later} is larger than {earlier}, although its name ranks lower."
        for earlier, later in zip(order, order[1:])
        if sizes[later] >= sizes[earlier]
    ]


def kld_exceptions(records: dict[str, dict], quality: dict | None) -> list[str]:
    """Return a sentence for each file with a significantly higher KLD than one of no more bytes, and by which losses.

    The other file may be any that was measured; the sentence says where it is not one of these.
    """
    if not quality:
        return []
    found: dict[tuple[str, str], list[str]] = {}
    here = {record["type"] for record in records.values()}
    for entry in measured(records, quality).values():
        for loss in reversed(LOSSES):  # quantisation first: the choice of a file changes no other loss
            by = quality["conclusions"][loss]["dominated"].get(entry["label"])
            if by and by["significant"]:
                found.setdefault((entry["label"], by["by"]), []).append(loss)
    return [
        f"{label} has a significantly higher {' and '.join(losses)} KLD than {other}"
        f"{'' if other in here else ' (not in this repository)'}, which is no larger."
        for (label, other), losses in found.items()
    ]


def exceptions(records: dict[str, dict], quality: dict | None) -> list[str]:
    """Return all exceptions to the order, as a card lists them."""
    return size_exceptions(records) + kld_exceptions(records, quality)
