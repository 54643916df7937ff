"""What chose the experts of the other pruned models in a release's scores: proven from their own builds, or not known.

Their metadata, maps, statistics and records of F16 files are sources of the release (`variants`), so that check-release
follows them again (scoring/proven_choice.py), and holds each map against its statistics and the question files.
"""

from dataclasses import replace
from pathlib import Path

from choice.drop_map import question_ids_of
from choice.drop_metadata import METADATA_NAME, read_metadata
from choice.expert_stats import analysed_ids
from files.input_errors import InputError, sha256_file
from files.written_by import NotProvenError
from gates.lineage import Breaks, Lineage, choice_breaks, map_breaks
from gates.seen_questions import seen_breaks
from scoring.proven_choice import STATISTICS_ENDINGS, proven_choice

GIVE = "give its metadata, drop map, statistics and the record of its F16 file by --variants"


def variant_of(lineage: Lineage, metadata: Path, proofs: list[Path]) -> Lineage:
    """Return a release's lineage with the metadata, map and statistics of another model in place of its own."""
    digest = read_metadata(metadata)["drop_map_sha256"]
    origins = {name: path for name, path in lineage.sources["origins"].items() if name != "statistics"}
    origins |= {"map": next(path for path in proofs if path.suffix == ".json" and sha256_file(path) == digest)}
    made_from = {read_metadata(metadata)["method"].get(key) for key in ("stats_sha256", "imatrix_sha256")}
    for path in proofs:
        if path.suffix in STATISTICS_ENDINGS and sha256_file(path) in made_from:
            origins["statistics"] = path
    return replace(lineage, sources={**lineage.sources, "copies": {METADATA_NAME: metadata}, "origins": origins})


def choice_of_other(lineage: Lineage, summary: dict, path: Path) -> tuple[Path | None, Breaks]:
    """Return the metadata of another model's drop, None where its choice is not known; and what is wrong with these.

    summary: of its run, which lies at `path`. What it says of the choice without a proof is refused.
    """
    proofs = [*lineage.sources.get("variants", {}).values(), *lineage.sources["quants"].values()]
    try:
        metadata = proven_choice(summary["gguf_sha256"], proofs)
    except NotProvenError as error:
        if summary["in_sample"] is None and summary.get("drop_map") is None:
            return None, []
        return None, [InputError(path, f"a proof of what chose the experts of {summary['name']}", str(error), GIVE)]
    variant = variant_of(lineage, metadata, proofs)
    analysed = analysed_ids(variant.sources["origins"].get("statistics"))
    seen = [{*question_ids_of(read_metadata(metadata)["method"])}, analysed]
    found = seen_breaks(variant.sources["questions"].values(), seen)
    return metadata, map_breaks(variant) + choice_breaks(variant) + found
