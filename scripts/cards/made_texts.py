"""The texts of a release that are made from its other files: card, params and Modelfile.

build_release.py writes them. check_release.py makes them again and compares: so a card holds no number that no record
of the folder has.
"""

import json
from pathlib import Path

from cards.card_sections import PICTURES, ModelFacts, Release
from cards.card_tables import CONTEXTS
from cards.card_words import check_card_words
from cards.checkpoint_card import checkpoint_card
from cards.front_matter import LICENCE_KEYS
from cards.gguf_card import gguf_card
from cards.model_facts import checkpoint_facts, gguf_facts
from checkpoints.licence import CARD
from choice.drop_metadata import METADATA_NAME
from files.input_errors import InputError
from files.json_records import read_json
from findings.findings_record import FINDINGS_NAME
from ggufs.context_cache import cache_bytes, context_length
from ggufs.gguf_header import GgufHeader, read_header
from loops.loop_results import LOOPS_NAME
from losses.quality_record import QUALITY_NAME
from ollama.ollama_files import companions_of, fitted_params, modelfile, source_params
from release.manifest import CHECKPOINT
from release.sources import find_evidence, find_tasks, read_evidence
from scoring.score_records import SCORES_NAME
from speed.active_experts import ACTIVE_NAME
from speed.draft_results import DRAFT_NAME


def caches_of(header: GgufHeader) -> dict[int, int]:
    """Return the bytes of the context cache by tokens, up to the model's longest context; {} if they are not known."""
    longest = context_length(header) or 0
    # A model whose context is shorter than all of these has one row for the whole of it.
    contexts = [tokens for tokens in CONTEXTS if tokens <= longest] or [longest]
    return {tokens: count for tokens in contexts if tokens and (count := cache_bytes(header, tokens)) is not None}


def model_facts_of(folder: Path, records: dict[str, dict], metadata: dict) -> ModelFacts:
    """Return what the headers of a release's weights tell of its model."""
    if not records:
        return checkpoint_facts(folder, metadata["experts"])
    # Any of the files tells it: they differ in their types alone.
    return gguf_facts(folder / next(iter(records.values()))["files"][0], metadata["keep_count"], metadata["experts"])


def release_of(folder: Path, manifest: dict) -> Release:
    """Return what the card of a folder is made of; the manifest's `files` are not needed.

    Raises InputError when the metadata are missing, or when they, scores or quality are not what their names say.
    """
    records = manifest["records"]
    # The cache depends on the architecture alone, so any of the files tells it.
    caches = caches_of(read_header(folder / next(iter(records.values()))["files"][0])) if records else {}
    metadata = read_evidence(folder / METADATA_NAME, METADATA_NAME)
    return Release(
        name=manifest["name"],
        owner=manifest["owner"],
        repository=manifest["repository"],
        kind=manifest["kind"],
        base=manifest["base"],
        licence={key: manifest[key] for key in LICENCE_KEYS if manifest.get(key)},
        quantized_by=manifest["quantized_by"],
        records=records,
        metadata=metadata,
        facts=model_facts_of(folder, records, metadata),
        scores=find_evidence(folder, SCORES_NAME),
        quality=find_evidence(folder, QUALITY_NAME),
        draft=find_evidence(folder, DRAFT_NAME),
        active=find_evidence(folder, ACTIVE_NAME),
        loops=find_evidence(folder, LOOPS_NAME),
        tasks=find_tasks(folder),
        pictures=[name for name in PICTURES if (folder / name).exists()],
        caches=caches,
        findings=find_evidence(folder, FINDINGS_NAME),
        mmproj=manifest.get("mmproj", {}),
        siblings=manifest["siblings"],
        inputs=manifest["inputs"],
        settings=manifest["settings"],
        project_version=manifest["project_version"],
    )


def ollama_texts(folder: Path, release: Release, params: Path) -> dict[str, str]:
    """Return Ollama's params and a Modelfile; num_ctx is the model's context where that is smaller.

    params: the source of Ollama's params.
    The Modelfile is one of the largest quant. One in parts is taken only where there is no other: Ollama cannot read
    it. Then F16, which is twice as large as Q8_0 and hardly better.
    """
    records = release.records.values()
    values = fitted_params(params, source_params(params), folder / next(iter(records))["files"][0])
    best = max(records, key=lambda record: (len(record["files"]) == 1, record["type"] != "F16", record["bytes"]))
    beside = companions_of(sorted(path.name for path in folder.glob("*.gguf")), best["files"][0])
    whose = release.hub_id(release.repository)
    comment = (
        f"# Wraps {best['files'][0]} of https://huggingface.co/{whose}\n"
        f"# ollama create {release.name.lower()} -f Modelfile\n"
    )
    text = comment + modelfile(best["files"][0], values, *beside)
    return {"params": json.dumps(values, indent=2) + "\n", "Modelfile": text}


def made_texts(folder: Path, manifest: dict, params: Path | None) -> dict[str, str]:
    """Return the texts of a release by file name, from its files and its manifest's other fields.

    params: the source of Ollama's, which GGUF files of Gemma 4 need.
    """
    release = release_of(folder, manifest)
    if manifest["kind"] == CHECKPOINT:
        sizes = {path.name: path.stat().st_size for path in folder.glob("*.safetensors")}
        return {CARD: check_card_words(CARD, checkpoint_card(release, sizes, read_json(folder / "config.json")))}
    if not release.facts.for_ollama:  # renderer, parser and template are Gemma 4's
        return {CARD: check_card_words(CARD, gguf_card(release))}
    if params is None:
        raise InputError(folder, "the source of Ollama's params", "none")
    return {**ollama_texts(folder, release, params), CARD: check_card_words(CARD, gguf_card(release))}
