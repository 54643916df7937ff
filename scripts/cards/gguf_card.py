"""The card of a repository of GGUF files (its README.md), made from records of this build."""

from cards.card_active_experts import active_experts_section
from cards.card_credits import credits_section
from cards.card_draft import draft_section
from cards.card_findings import findings_section
from cards.card_loops import loops_section
from cards.card_reproduce import calibration_text, reproduce_section
from cards.card_results import headline, results_section
from cards.card_run import run_ggufs_section, server_flags
from cards.card_sections import TAGS, Release, bullets, limits_section, method_section, pictures_of, section
from cards.card_tables import (
    FREE_GIB,
    choice_table,
    fallbacks_in_words,
    file_table,
    largest_first,
    memory_table,
    padding_in_words,
    predicted_kld,
    tiers_in_words,
    types_in_words,
)
from cards.card_tasks import tasks_section
from cards.front_matter import front_matter
from cards.sight_card import sight_parts
from choice.drop_map import OWN_MAP, criterion_of
from files.display import code, in_words, plural
from files.safe_files import gib
from losses.quality_record import chats_in_words, measured
from release.make_settings import ESTIMATED
from release.manifest import CHECKPOINT, DYNAMIC
from release.order import exceptions
from scoring.score_tables import IF_THE_MAP_IS_RIGHT


def kld_text(release: Release) -> str:
    """Return what the KLD of the tables is; "" where no file was measured."""
    quality = release.quality
    if not quality or not measured(release.records, quality):
        return ""
    tokens = quality["tokens"][quality["score"]]
    given = criterion_of(release.metadata["method"]) == OWN_MAP and quality.get("choice_known", True)
    proviso = f", {IF_THE_MAP_IS_RIGHT}" * given
    return (
        "KLD is the mean KL divergence in nats per token, ± one standard error over chats. It was measured on "
        f"{tokens} tokens of {chats_in_words(quality)}{proviso}. "
        "Quantisation KLD compares a file with the pruned model at F16, total KLD with the full model at F16. All "
        "numbers are in `quality.json`."
    )


def word_text(release: Release) -> str:
    """Return where the words of quality come from."""
    found = measured(release.records, release.quality)
    by_loss = "by its measured quantisation loss (KLD)"
    by_size = "by its bits per weight, since this release holds no loss of it"
    if not found:
        return f"The word of quality is given to each file {by_size}."
    if len(found) == len(release.records):
        return f"The word of quality is given to each file {by_loss}."
    return f"The word of quality is given to a file {by_loss}; where it says (by size), {by_size}."


def choice_section(release: Release) -> str:
    """Return which file to take: by memory, and a word of quality for every file."""
    caches = ", ".join(f"{gib(count)} GiB for {tokens:,} tokens" for tokens, count in release.caches.items())
    sight = {name: record["bytes"] for name, record in release.mmproj.items()}
    by_memory = memory_table(release.records, release.caches, release.quality, sight) if release.caches else ""
    seen = ", the file for pictures that is fetched with it," if sight else ""
    fits = (
        "The largest file that fits is named, unless it was measured: then the one of the least measured loss among "
        f"those that fit. Sizes are of the file{seen} and its context cache together (F16, one sequence: "
        f"{caches}), computed from the GGUF header. A file fits if the memory holds it, the shortest of these "
        f"contexts, and {FREE_GIB} GiB for llama.cpp's compute buffers and everything else, which were not measured."
    )
    return section(
        "Which file to take",
        by_memory,
        fits if release.caches else "",
        choice_table(release.records, release.quality),
        word_text(release),
    )


def estimate_text(release: Release) -> str:
    """Return whose chats chose the types of AUTO files; "" for none."""
    files = release.inputs.get("roles", {}).get(ESTIMATED, [])
    if not files:
        return ""
    return f"The loss was estimated on the first chats of {in_words([*map(code, files)])}. "


def dynamic_text(release: Release) -> str:
    """Return how the types of ContribDynamic and AUTO files are chosen, and which; "" for standard ones."""
    if release.kind != DYNAMIC:
        return ""
    lines = []
    by_hand = any(record.get("cd_tiers") for record in release.records.values())
    where = "given by hand" if by_hand else "whose experts contribute most"
    for _, record in largest_first(release.records):
        own = tiers_in_words(record) if record["type"].startswith("CD-") else types_in_words(record)
        if (expected := predicted_kld(record)) is not None:
            own += f". Predicted when its types were picked, not measured: {expected} nats per token"
        lines.append(f"{record['type']}: {own}{padding_in_words(record)}.")
    return (
        f"ContribDynamic files (`CD-*`) use higher types in the layers {where}. AUTO files "
        "(`AUTO-*`) have a target size. They use higher types in the layers and roles where that lowers the estimated "
        f"loss most. {estimate_text(release)}In padded files (`PAD-*`, and AUTO files that say so) zeros make the MLPs "
        "wider, so that smaller types fit; no result depends on the zeros. "
        f"Their types:\n\n{bullets(lines)}\n\nThese kinds have a repository of their own, so that a label "
        "such as `:Q4_K_M` never fetches one of them instead of the standard file. The arguments of llama-quantize are "
        "in `manifest.json` (`arguments`)."
    )


def fallback_text(release: Release) -> str:
    """Return which files have other types than asked for, as rows do not fit; "" where none has."""
    lines = [
        f"{record['type']}: {words}."
        for _, record in largest_first(release.records)
        if (words := fallbacks_in_words(record))
    ]
    if not lines:
        return ""
    return (
        "Rows of some tensors are no multiple of the 256 weights that the wanted type packs together. llama.cpp gives "
        f"them another type:\n\n{bullets(lines)}"
    )


def quants_section(release: Release) -> str:
    """Return the table of quants and what it needs to be understood."""
    with_imatrix = [record for record in release.records.values() if record["imatrix_sha256"]]
    versions = sorted({record["llama_cpp"] for record in release.records.values()})
    made = (
        f"llama.cpp ({'; '.join(versions)}) made {plural(len(release.records), 'file')}, {len(with_imatrix)} with an "
        "importance matrix. The sha256 of every file is in `manifest.json`."
    )
    found = exceptions(release.records, release.quality)
    return section(
        "Quants",
        file_table(release.records, release.quality),
        kld_text(release),
        f"{made} {calibration_text(release)}".strip(),
        dynamic_text(release),
        fallback_text(release),
        f"Out of order:\n\n{bullets(found)}" if found else "",
        pictures_of(release, "quality.png", "imatrix-coverage.png"),
    )


def gguf_card(release: Release) -> str:
    """Return the card of a repository of GGUF files."""
    with_imatrix = any(record["imatrix_sha256"] for record in release.records.values())
    tags = [*TAGS, "gguf", *(["imatrix"] if with_imatrix else [])]
    # The files are quants of the pruned checkpoint. It is named where it has a place on the Hub.
    checkpoint = release.siblings.get(CHECKPOINT)
    made_of = release.hub_id(checkpoint) if checkpoint and release.owner else release.base
    sees, longest = bool(release.mmproj), max(release.caches, default=None)
    head = front_matter(release.kind, made_of, release.licence, release.quantized_by, tags, sees=sees)
    models = [record["files"][0] for _, record in largest_first(release.records)]
    sight = section(*sight_parts(release.mmproj, release.example["files"][0], models, longest)) if sees else ""
    parts = [
        f"{head}\n# {release.repository}",
        headline(release),
        choice_section(release),
        run_ggufs_section(release),
        sight,
        draft_section(release, server_flags(release)),
        method_section(release),
        findings_section(release.findings),
        results_section(release),
        tasks_section(release),
        loops_section(release),
        quants_section(release),
        active_experts_section(release, server_flags(release)),
        limits_section(release),
        reproduce_section(release),
        credits_section(release),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
