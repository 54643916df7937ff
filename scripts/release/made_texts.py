"""The texts of a release that are made from its other files: card, params and Modelfile.

build_release.py writes them, and check_release.py makes them again and compares: a number that no record of the folder has
cannot stand in its card.
"""

import json
from pathlib import Path

from choice.drop_map import METADATA_NAME
from files.safe_files import read_json
from ggufs.context_cache import cache_bytes, context_length
from ggufs.gguf_header import GgufHeader, read_header
from losses.quality_record import QUALITY_NAME
from ollama.ollama_files import modelfile, ollama_params
from release.card_tables import CONTEXTS
from release.checkpoint_card import checkpoint_card
from release.gguf_card import PICTURES, Release, card
from release.release_files import CHECKPOINT, read_evidence
from scoring.score_records import SCORES_NAME

CARD = "README.md"


def caches_of(header: GgufHeader) -> dict[int, int]:
    """Return the bytes of the context cache for some contexts up to the model's longest, {} where they are not known."""
    longest = context_length(header) or 0
    contexts = [tokens for tokens in CONTEXTS if tokens <= longest] or [longest]
    return {tokens: count for tokens in contexts if tokens and (count := cache_bytes(header, tokens)) is not None}


def release_of(folder: Path, manifest: dict) -> Release:
    """Return what the card of a folder is made of; manifest: without need of its `files`.

    Raises InputError when metadata are missing, or when they, scores or quality are not that.
    """
    scores, quality = (
        read_evidence(folder / name, name) if (folder / name).exists() else None for name in (SCORES_NAME, QUALITY_NAME)
    )
    records = manifest["records"]
    caches = caches_of(read_header(folder / next(iter(records.values()))["files"][0])) if records else {}
    return Release(
        manifest["name"],
        manifest["repository"],
        manifest["kind"],
        manifest["base"],
        manifest["license"],
        manifest["quantized_by"],
        records,
        read_evidence(folder / METADATA_NAME, METADATA_NAME),
        scores,
        quality,
        [name for name in PICTURES if (folder / name).exists()],
        caches,
        manifest["sibling"],
    )


def ollama_texts(folder: Path, records: dict[str, dict], params: Path) -> dict[str, str]:
    """Return params, num_ctx lowered where the model's context is smaller, and a Modelfile.

    The Modelfile is one of the largest quant, in parts or F16 only where there is no other; params: their source.
    """
    values = ollama_params(params, folder / next(iter(records.values()))["files"][0])
    best = max(
        records.values(), key=lambda record: (len(record["files"]) == 1, record["type"] != "F16", record["bytes"])
    )
    return {"params": json.dumps(values, indent=2) + "\n", "Modelfile": modelfile(best["files"][0], values)}


def made_texts(folder: Path, manifest: dict, params: Path | None) -> dict[str, str]:
    """Return the texts of a release by file name, from its files and its manifest's other fields; params: their source."""
    release = release_of(folder, manifest)
    if manifest["kind"] == CHECKPOINT:
        sizes = {path.name: path.stat().st_size for path in folder.glob("*.safetensors")}
        return {CARD: checkpoint_card(release, sizes, read_json(folder / "config.json"))}
    return {**ollama_texts(folder, release.records, params), CARD: card(release)}
