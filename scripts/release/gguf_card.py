"""The card of a release (its README.md), made from records of this build. Card format: the Hub's model cards.

What was not measured is left out of the tables and named under "Missing from this card"; nothing is filled in.
"""

from dataclasses import dataclass, field

from files.display import markdown_table
from files.safe_files import gib
from ollama.ollama_files import ollama_note, wrap_commands
from release.card_tables import FREE_GIB, card_scores, digest_table, file_table, memory_table, sample_sentences
from release.front_matter import front_matter, is_hub_id
from release.order import exceptions, measured
from scoring.score_tables import verdict

PICTURES = {
    "experts-heatmap.png": "What each expert of each layer contributes",
    "experts-coverage.png": "Coverage of kept and dropped experts",
    "experts-layers.png": "Contribution by layer",
    "imatrix-coverage.png": "Calibration tokens per expert",
    "quality.png": "Size against KL divergence",
    "scores.png": "Scores and paired differences with 95% intervals",
}
TAGS = ["moe", "expert-pruning"]
BUDGET_TOKENS = 16384  # of thought, the reference card's; a context must hold it and the answer
TERMS = "(for Gemma models: https://ai.google.dev/gemma/terms)"


@dataclass(frozen=True)
class Release:
    """What a card is made of. records: by file, with `files`, its parts; caches: bytes of the context cache by tokens."""

    name: str
    repository: str
    kind: str
    base: str
    license: str
    quantized_by: str
    records: dict[str, dict]
    metadata: dict
    scores: dict | None = None
    quality: dict | None = None
    pictures: list[str] = field(default_factory=list)
    caches: dict[int, int] = field(default_factory=dict)
    sibling: str = ""

    @property
    def example(self) -> dict:
        """The record that commands are shown for: Q4_K_M's, else that of the middle one by size."""
        ordered = sorted(self.records.values(), key=lambda record: record["bytes"])
        return next((record for record in ordered if record["type"] == "Q4_K_M"), ordered[len(ordered) // 2])


def section(title: str, *parts: str) -> str:
    """Return a section of a card, its empty parts left out; "" when all are."""
    body = [part for part in parts if part]
    return "\n\n".join([f"## {title}", *body]) if body else ""


def files_section(release: Release) -> str:
    """Return the table of files and what is to be said of it."""
    with_imatrix = [record for record in release.records.values() if record.get("imatrix_sha256")]
    versions = sorted({record["llama_cpp"] for record in release.records.values()})
    about = (
        f"{len(with_imatrix)} of {len(release.records)} were made with an importance matrix. Quantised by llama.cpp "
        f"({'; '.join(versions)}). sha256 of every file: `manifest.json`."
    )
    if quality := release.quality if measured(release.records, release.quality) else None:
        tokens = quality["tokens"][quality["score"]]
        about += (
            f"\n\nKLD: mean KL divergence in nats a token over {tokens} tokens of {quality['chats']} chats that neither calibration nor the "
            "choice of experts has seen, ± one standard error over chats. Quantisation: against the pruned model at F16; total: against "
            f"the full model at F16. Every number: `quality.json`."
        )
    named = exceptions(release.records, release.quality)
    listed = "Out of order:\n\n" + "\n".join(f"- {sentence}" for sentence in named) if named else ""
    return section("Files", file_table(release.records, release.quality), about, listed)


def memory_section(release: Release) -> str:
    """Return which file fits which memory; "" where the context cache is not known exactly."""
    if not release.caches:
        return ""
    caches = ", ".join(f"{gib(count)} GiB for {tokens:,} tokens" for tokens, count in release.caches.items())
    return section(
        "Which file for which memory",
        memory_table(release.records, release.caches),
        f"File and context cache together (F16, one sequence: {caches}), by arithmetic on the header. A file fits if there is "
        f"room for the shortest of these contexts and {FREE_GIB} GiB for llama.cpp's compute buffers and all else, which were not "
        "measured.",
    )


def scores_section(release: Release) -> str:
    """Return the scores, "" where there was no evaluation."""
    if not (scores := release.scores):
        return ""
    patch = (
        'Invalid answers are re-run with the thought closed and the answer begun ("patched"); chance alone gets one in four of those '
        "right."
        if scores["patched"]
        else "Invalid answers count as wrong; nothing was patched."
    )
    return section(
        "Scores",
        f"Questions in GPQA's form, one locked protocol for all models, {scores['evaluated']}. Every number: `scores.json`.",
        card_scores(scores),
        patch,
        *map(verdict, scores["pairs"]),
        *sample_sentences(scores, release.metadata, release.name),
    )


def method_section(release: Release) -> str:
    """Return how the experts were chosen, and how ContribDynamic and AUTO files are typed."""
    method, absent = release.metadata["method"], "not recorded"
    rows = [
        ["Experts kept per layer", f"{release.metadata['keep_count']} of {release.metadata['experts']}"],
        ["Layers", str(len(release.metadata["layers"]))],
        ["Criterion", str(method.get("criterion", absent))],
        ["Experts protected per question and layer", str(method.get("protect_top", absent))],
        ["Questions that chose", str(method.get("questions", absent))],
    ]
    if held_out := method.get("held_out_question_ids"):
        rows.append(["Questions held out of the choice", str(len(held_out))])
    dynamic = (
        "ContribDynamic files (CD-*) give the layers whose experts contribute most the higher types, AUTO files the layers and roles "
        "where it costs least for a target size. They have a repository of their own, so that no label such as `:Q4_K_M` fetches one "
        "of them for the standard file of that name. What llama-quantize was told of each file is in "
        "`manifest.json` (`arguments`)."
        if release.kind == "dynamic"
        else ""
    )
    return section(
        "Method",
        "Experts are ranked while the full model is teacher-forced through question, reasoning and answer: norms of their "
        "outputs, weighted by the router. Those ranked last are dropped; the kept ones are copied byte for byte, and nothing is "
        "trained. The choice per layer is in `expert_drop_metadata.json`.",
        markdown_table(["What", "Value"], rows, left=2),
        dynamic,
    )


def pictures_section(release: Release) -> str:
    """Return the pictures of this build."""
    return section("Pictures", *(f"![{PICTURES[name]}]({name})" for name in PICTURES if name in release.pictures))


def ollama_text(release: Release, record: dict) -> str:
    """Return how Ollama runs a file of this repository. The one place of a card that speaks of Ollama."""
    if len(record["files"]) > 1:
        return "Ollama does not take files in parts; join them with `llama-gguf-split --merge`."
    whole = [
        other["files"][0]
        for other in sorted(release.records.values(), key=lambda other: -other["bytes"])
        if len(other["files"]) == 1
    ]
    commands = wrap_commands(release.name, whole, {}, f"USER/{release.repository}")
    return (
        f"```\nollama run hf.co/USER/{release.repository}:{record['files'][0]}\n```\n\n{ollama_note()}\n\n"
        f"<details><summary>Wrap commands, one pair per file</summary>\n\n```\n{commands}```\n\n</details>"
    )


def run_section(release: Release) -> str:
    """Return how to run a file with llama.cpp and with Ollama."""
    record = release.example
    first = record["files"][0]
    context = min(
        [tokens for tokens in release.caches if tokens > BUDGET_TOKENS],
        default=max(release.caches, default=2 * BUDGET_TOKENS),
    )
    serve = f"-c {context} -ngl 99 --reasoning-format deepseek --reasoning-budget {min(BUDGET_TOKENS, context // 2)}"
    text = "\n".join(
        [
            "```",
            f"llama-server -m {first} {serve}",
            f"llama-server -hf USER/{release.repository} --hf-file {first} {serve}",
            "```",
        ]
    )
    sibling = f"Files typed layer by layer (CD-*, AUTO-*) are in {release.sibling}." if release.sibling else ""
    return section("How to run", text, ollama_text(release, record), sibling)


def reproduce_section(release: Release) -> str:
    """Return the command and the digests of what went in."""
    method, source = release.metadata["method"], release.metadata.get("source", {})
    shards = {f"Pruned checkpoint, {name}": digest for name, digest in release.metadata["shards"].items()}
    digests = {
        "Base checkpoint, weights": source.get("weights_sha256"),
        "Base checkpoint, config": source.get("config_sha256"),
        "Questions that chose the experts": method.get("questions_sha256"),
        "Statistics": method.get("stats_sha256"),
        "Drop map": release.metadata.get("drop_map_sha256"),
        **shards,
    }
    for what, key in (
        ("F16 GGUF", "source_sha256"),
        ("Importance matrix", "imatrix_sha256"),
        ("Calibration text", "calibration_sha256"),
    ):
        digests |= {what: record[key] for record in release.records.values() if record.get(key)}
    quants = f' QUANTS="{" ".join(record["type"] for record in release.records.values())}"' if release.records else ""
    model = release.base if is_hub_id(release.base) else "DIRECTORY"
    fold = " FOLD=I/K" if method.get("held_out_question_ids") else ""
    command = (
        f"make release MODEL={model} PRUNED_NAME={release.name} KEEP={release.metadata['keep_count']} "
        f"CRITERION={method.get('criterion', '...')} PROTECT_TOP={method.get('protect_top', '...')}{fold}{quants}"
    )
    return section(
        "How to reproduce",
        f"```\n{command}\n```",
        "with the inputs of these digests (QUESTIONS and CALIBRATION name other "
        "questions and calibration text than the defaults):",
        digest_table(digests),
        "The pruned checkpoint comes out the same bit for bit; quants can differ in their last bits between compilers and processors.",
    )


def missing_section(release: Release) -> str:
    """Return what this build does not know."""
    measured_names = measured(release.records, release.quality)
    unmeasured = [record["type"] for name, record in release.records.items() if name not in measured_names]
    absent = [
        ("scores: no evaluation belongs to this build", not release.scores),
        ("patched score: the evaluation was not patched", release.scores and not release.scores["patched"]),
        (f"KLD of {', '.join(unmeasured)}: not measured", bool(unmeasured)),
        ("context cache: not known exactly for this architecture", release.records and not release.caches),
        ("licence: none was given", not release.license),
        ("base model on the Hub: the base is a local one", not is_hub_id(release.base)),
        ("quantized_by: no name was given", release.kind != "checkpoint" and not release.quantized_by),
        *(
            (f"picture {name}", name not in release.pictures)
            for name in PICTURES
            if release.kind != "checkpoint" or "experts" in name
        ),
    ]
    return section("Missing from this card", "\n".join(f"- {what}" for what, holds in absent if holds))


def licence_section(release: Release) -> str:
    """Return whose terms the weights carry."""
    return section("Licence", f"The weights are a derivative of {release.base} and carry its licence terms {TERMS}.")


def card(release: Release) -> str:
    """Return the card of a repository of GGUF files."""
    tags = [
        *TAGS,
        "gguf",
        *(["imatrix"] if any(record.get("imatrix_sha256") for record in release.records.values()) else []),
    ]
    head = front_matter(release.kind, release.base, release.license, release.quantized_by, tags)
    what = (
        "typed layer by layer (ContribDynamic, AUTO)" if release.kind == "dynamic" else "in llama.cpp's standard types"
    )
    title = (
        f"{head}\n# {release.repository}\n\n{release.base} with {release.metadata['keep_count']} of {release.metadata['experts']} experts "
        f"per layer, as GGUF files {what}."
    )
    parts = [
        title,
        files_section(release),
        memory_section(release),
        scores_section(release),
        method_section(release),
        pictures_section(release),
        run_section(release),
        reproduce_section(release),
        missing_section(release),
        licence_section(release),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
