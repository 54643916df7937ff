"""The card of a repository of GGUF files (its README.md), made from records of this build."""

from files.safe_files import gib
from losses.quality_record import chats_in_words
from ollama.ollama_files import ollama_note, wrap_commands
from release.card_sections import (
    TAGS,
    Release,
    licence_section,
    method_section,
    missing_section,
    pictures_section,
    reproduce_section,
    scores_section,
    section,
)
from release.card_tables import FREE_GIB, file_table, memory_table
from release.front_matter import front_matter
from release.manifest import DYNAMIC
from release.order import exceptions, measured
from release.sight_card import sight_parts

BUDGET_TOKENS = 16384  # of thought, as in the reference card; a context must hold it and the answer


def kld_text(release: Release) -> str:
    """Return what the KLD of the table is; "" where no file was measured."""
    quality = release.quality
    if not quality or not measured(release.records, quality):
        return ""
    tokens = quality["tokens"][quality["score"]]
    return (
        "KLD is the mean KL divergence in nats per token, ± one standard error over chats. It was measured on "
        f"{tokens} tokens of {chats_in_words(quality)}. "
        "Quantisation KLD compares a file with the pruned model at F16, total KLD with the full model at F16. All "
        "numbers are in `quality.json`."
    )


def files_section(release: Release) -> str:
    """Return the table of files and what it needs to be understood."""
    with_imatrix = [record for record in release.records.values() if record["imatrix_sha256"]]
    versions = sorted({record["llama_cpp"] for record in release.records.values()})
    made = (
        f"llama.cpp ({'; '.join(versions)}) made the files, {len(with_imatrix)} of {len(release.records)} with an "
        "importance matrix. The sha256 of every file is in `manifest.json`."
    )
    found = exceptions(release.records, release.quality)
    out_of_order = "Out of order:\n\n" + "\n".join(f"- {sentence}" for sentence in found) if found else ""
    return section("Files", file_table(release.records, release.quality), made, kld_text(release), out_of_order)


def memory_section(release: Release) -> str:
    """Return which file fits which memory; "" where the context cache is not known exactly."""
    if not release.caches:
        return ""
    caches = ", ".join(f"{gib(count)} GiB for {tokens:,} tokens" for tokens, count in release.caches.items())
    return section(
        "Which file for which memory",
        memory_table(release.records, release.caches),
        f"Sizes are of the file and its context cache together (F16, one sequence: {caches}), computed from the GGUF "
        "header. A file fits if the memory holds it, the shortest of these contexts, and "
        f"{FREE_GIB} GiB for llama.cpp's compute buffers and everything else, which were not measured.",
    )


def dynamic_text(release: Release) -> str:
    """Return how the types of ContribDynamic and AUTO files are chosen; "" for standard ones."""
    if release.kind != DYNAMIC:
        return ""
    return (
        "ContribDynamic files (CD-*) use higher types in the layers whose experts contribute most. AUTO files have a "
        "target size. They use higher types in the layers and roles where that lowers the estimated loss most. Both "
        "have a repository of their own, so that a label such as `:Q4_K_M` never fetches one of them instead of the "
        "standard file. The arguments of llama-quantize are in `manifest.json` (`arguments`)."
    )


def ollama_text(release: Release, record: dict) -> str:
    """Return how Ollama runs a file of this repository. The one place of a card that is about Ollama."""
    if len(record["files"]) > 1:
        return "Ollama does not take files in parts. Join them first, with `llama-gguf-split --merge`."
    by_size = sorted(release.records.values(), key=lambda other: -other["bytes"])
    whole = [other["files"][0] for other in by_size if len(other["files"]) == 1]
    commands = wrap_commands(release.name, whole, {}, f"USER/{release.repository}")
    return (
        f"```\nollama run hf.co/USER/{release.repository}:{record['files'][0]}\n```\n\n{ollama_note()}\n\n"
        f"<details><summary>Wrap commands, one pair per file</summary>\n\n```\n{commands}```\n\n</details>"
    )


def run_section(release: Release) -> str:
    """Return how to run a file with llama.cpp and with Ollama."""
    record = release.example
    first = record["files"][0]
    # The shortest context that holds a whole thought; where none of the model's does, its longest, half for the
    # thought.
    context = min(
        [tokens for tokens in release.caches if tokens > BUDGET_TOKENS],
        default=max(release.caches, default=2 * BUDGET_TOKENS),
    )
    serve = f"-c {context} -ngl 99 --reasoning-format deepseek --reasoning-budget {min(BUDGET_TOKENS, context // 2)}"
    lines = [
        "```",
        f"llama-server -m {first} {serve}",
        f"llama-server -hf USER/{release.repository} --hf-file {first} {serve}",
        "```",
    ]
    sibling = f"Files with types chosen per layer (CD-*, AUTO-*) are in {release.sibling}." if release.sibling else ""
    return section("How to run", "\n".join(lines), ollama_text(release, record), sibling)


def gguf_card(release: Release) -> str:
    """Return the card of a repository of GGUF files."""
    with_imatrix = any(record["imatrix_sha256"] for record in release.records.values())
    tags = [*TAGS, "gguf", *(["imatrix"] if with_imatrix else [])]
    head = front_matter(
        release.kind, release.base, release.license, release.quantized_by, tags, sees=bool(release.mmproj)
    )
    types = "types chosen per layer (ContribDynamic, AUTO)" if release.kind == DYNAMIC else "llama.cpp's standard types"
    parts = [
        f"{head}\n# {release.repository}",
        f"{release.base} with {release.experts_kept}, as GGUF files with {types}.",
        files_section(release),
        memory_section(release),
        scores_section(release),
        method_section(release, dynamic_text(release)),
        pictures_section(release),
        run_section(release),
        section(*sight_parts(release.mmproj, release.example["files"][0], max(release.caches, default=None)))
        if release.mmproj
        else "",
        reproduce_section(release),
        missing_section(release),
        licence_section(release),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
