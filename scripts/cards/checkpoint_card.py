"""The card of the pruned checkpoint's repository (safetensors), made from records of this build."""

from cards.card_credits import credits_section
from cards.card_findings import findings_section
from cards.card_reproduce import calibration_text, reproduce_section
from cards.card_results import headline, results_section
from cards.card_run import run_checkpoint_section
from cards.card_sections import TAGS, Release, limits_section, method_section, section
from cards.card_tasks import tasks_section
from cards.front_matter import front_matter
from cards.sight_card import CAN
from checkpoints.moe_families import text_config
from checkpoints.towers import configured_towers
from files.display import markdown_table
from files.safe_files import GB, gib, in_unit
from release.manifest import DYNAMIC, STANDARD

# Keys of a config, and their words: what a reader compares with the base model's card.
ARCHITECTURE = {
    "num_hidden_layers": "Layers",
    "hidden_size": "Hidden size",
    "moe_intermediate_size": "Width of an expert",
    "intermediate_size": "Width of the dense part",
    "head_dim": "Width of a head",
    "global_head_dim": "Width of a head, global attention",
    "sliding_window": "Sliding window (tokens)",
    "max_position_embeddings": "Longest context (tokens)",
    "vocab_size": "Vocabulary",
}


def files_section(sizes: dict[str, int], metadata: dict) -> str:
    """Return the table of shards; sizes: bytes by file name."""
    rows = [
        [name, in_unit(sizes[name], GB), gib(sizes[name]), f"`{digest}`"] for name, digest in metadata["shards"].items()
    ]
    total = sum(sizes[name] for name in metadata["shards"])
    return section(
        "Which file to take",
        f"All of them: {in_unit(total, GB)} GB ({gib(total)} GiB) of weights, in the base model's own types.",
        markdown_table(["Shard", "GB", "GiB", "sha256"], rows),
        "Config, tokenizer and chat template are the base model's, with the new number of experts.",
    )


def architecture_section(config: dict) -> str:
    """Return the architecture, which is the base model's but for the experts."""
    text = text_config(config)
    words = ARCHITECTURE | ({} if "moe_intermediate_size" in text else {"intermediate_size": "Width of an expert"})
    rows = [[words[key], f"{text[key]:,}"] for key in ARCHITECTURE if isinstance(text.get(key), int)]
    unchanged = "Unchanged from the base model, but for the number of experts per layer."
    return section("Architecture", unchanged, markdown_table(["What", "Value"], rows)) if rows else ""


def tower_section(release: Release, config: dict) -> str:
    """Return what a checkpoint with towers holds beside the language model; "" for a text-only one."""
    towers = configured_towers(config)
    if not towers:
        return ""
    name = release.repository
    senses = " and ".join(CAN[tower] for tower in towers)
    kept = (
        f"The checkpoint also holds what the base model takes in {senses} with, byte for byte. The parameters above "
        "count it. Those of the GGUF repositories do not: there it is a file of its own, `mmproj-*.gguf`. The program "
        "above asks in words alone."
    )
    command = f"python llama.cpp/convert_hf_to_gguf.py {name} --mmproj --outtype f16 --outfile mmproj-{name}-F16.gguf"
    return section("Beside the language model", kept, f"To convert it, too:\n\n```sh\n{command}\n```")


def where_quants_are(release: Release) -> str:
    """Return where the quants are, and what is known of the text that the scored one was made with."""
    links = [release.link(release.siblings[kind]) for kind in (STANDARD, DYNAMIC) if kind in release.siblings]
    where = f"The quants are in {' and '.join(links)}, with their sizes." if links else ""
    return section("Quants", where, calibration_text(release) if release.scores else "")


def checkpoint_card(release: Release, sizes: dict[str, int], config: dict) -> str:
    """Return the card of a pruned checkpoint; sizes: bytes of each shard; config: its config.json."""
    sees = bool(config.get("vision_config"))
    head = front_matter(release.kind, release.base, release.licence, release.quantized_by, TAGS, sees=sees)
    parts = [
        f"{head}\n# {release.repository}",
        headline(release),
        files_section(sizes, release.metadata),
        run_checkpoint_section(release),
        tower_section(release, config),
        method_section(release),
        findings_section(release.findings),
        architecture_section(config),
        results_section(release),
        tasks_section(release),
        where_quants_are(release),
        limits_section(release),
        reproduce_section(release),
        credits_section(release),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
