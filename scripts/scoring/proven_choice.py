"""What chose the experts of a scored file, as far as commands of this project prove it.

Scored file -> its record -> record of its F16 file -> expert_drop_metadata.json of the checkpoint -> drop map ->
statistics: each names the digest of the one before it, and the command that writes it has sealed it. A map that
somebody wrote proves nothing: what chose the experts is then not known, which the label of the scores says.
"""

from pathlib import Path

from checkpoints.checkpoint import source_digest
from choice.drop_metadata import METADATA_NAME, read_metadata
from files.input_errors import InputError, sha256_file
from files.json_records import is_file_record, read_json
from files.seals import BY_RECORD
from files.written_by import NotProvenError, check_written_by
from ggufs.imatrix import read_imatrix_record

RECORD_ENDING = f"{BY_RECORD}.json"
STATISTICS_ENDINGS = (".safetensors", BY_RECORD)  # a map can be chosen from an imatrix
OF_FILES, OF_MAPS = ("quantize_gguf", "convert_to_gguf"), ("generate_drop_map", "copy_drop_map")
OF_STATISTICS = ("teacher_force_analysis", "build_imatrix")
DIGITS = 12


def source_digests(proofs: list[Path]) -> list[tuple[str, str]]:
    """Return digest and source of each GGUF file whose record is among the proofs."""
    found = []
    for path in proofs:
        if path.name.endswith(RECORD_ENDING):
            record = read_json(path)
            if not is_file_record(record):
                raise InputError(path, "a record of a GGUF file", "another")
            check_written_by(path, OF_FILES)
            found.append((record["sha256"], str(record.get("source_sha256"))))
    return [pair for pair in found if pair[0] != pair[1]]  # an F16 quant is its source


def outputs_of(path: Path, metadata: dict) -> set[str]:
    """Return the digests of what a drop wrote, by its metadata: those of GGUF files, or that of the checkpoint."""
    if path.name == METADATA_NAME:
        return {source_digest(path.parent, metadata["shards"])}
    return set(metadata["shards"].values())


def check_choice(path: Path, metadata: dict, proofs: list[Path]) -> None:
    """Raise NotProvenError unless the map of a drop is among the proofs, and what it was chosen from, if it was."""
    others = [place for place in proofs if place.suffix == ".json" and not place.name.endswith(RECORD_ENDING)]
    chosen_by = next((place for place in others if sha256_file(place) == metadata["drop_map_sha256"]), None)
    if chosen_by is None:
        raise NotProvenError(path, f"the drop map with sha256 {metadata['drop_map_sha256'][:DIGITS]}", "none")
    check_written_by(chosen_by, OF_MAPS)
    if "own_map" in metadata["method"]:
        return
    digests = {metadata["method"].get(key) for key in ("stats_sha256", "imatrix_sha256")}
    statistics = [place for place in proofs if place.suffix in STATISTICS_ENDINGS]
    source = next((place for place in statistics if sha256_file(place) in digests), None)
    if source is None:
        raise NotProvenError(chosen_by, "the statistics that it was chosen from", "none")
    if source.suffix == BY_RECORD:  # it has no seal of its own: the one of its record, which must name it
        read_imatrix_record(source)
        source = Path(f"{source}.json")
    check_written_by(source, OF_STATISTICS)


def proven_choice(sha256: str, proofs: list[Path]) -> Path:
    """Return the metadata of the drop that a scored file came from; raise NotProvenError where a link is missing.

    sha256: of the file, or of the checkpoint; proofs: the metadata, the map, the statistics, records of GGUF files.
    """
    sources = source_digests(proofs)
    digests = [sha256]
    for _ in sources:  # from the quant to the F16 file to the checkpoint
        digests += [source for made, source in sources if made == digests[-1]][:1]
    for path in proofs:
        if path.name.endswith(METADATA_NAME):
            metadata = read_metadata(path)
            if outputs_of(path, metadata) & {*digests}:
                check_written_by(path, ("expert_drop",))
                check_choice(path, metadata, proofs)
                return path
    raise NotProvenError("what was scored", f"the {METADATA_NAME} of the drop that it came from", "none")
