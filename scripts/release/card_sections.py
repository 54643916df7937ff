"""The sections that the cards of GGUF files and of checkpoints share, made from records of this build.

Card format: the Hub's model cards, https://huggingface.co/docs/hub/model-cards. What was not measured is left out of
the tables and listed under "Missing from this card"; nothing is filled in.
"""

from dataclasses import dataclass, field

from choice.drop_map import OWN_MAP, criterion_of
from files.display import markdown_table
from release.card_tables import card_scores, digest_table, sample_sentences
from release.front_matter import is_hub_id
from release.manifest import CHECKPOINT
from release.order import measured
from scoring.score_tables import verdict

# In the order of the pipeline, which is that of the card. A picture that is not in here is refused by build_release.py:
# it would lie in the folder without a word on what it shows.
PICTURES = {
    "experts-heatmap.png": "What each expert of each layer contributes",
    "experts-coverage.png": "Coverage of kept and dropped experts",
    "experts-layers.png": "Contribution by layer",
    "imatrix-coverage.png": "Calibration tokens per expert",
    "quality.png": "Size against KL divergence",
    "scores.png": "Scores and paired differences with 95% intervals",
}
TAGS = ["moe", "expert-pruning"]
# Settings of make by the keys of the protocol that they set.
PROTOCOL_SETTINGS = {
    "CTX": "context",
    "REASONING_BUDGET": "reasoning_budget",
    "MAX_GEN_TOKS": "max_gen_toks",
    "SEED": "seed",
    "NP": "concurrency",
}
NO_LICENCE = "licence: none was given"
HOW_CHOSEN = (
    "The full model is teacher-forced through question, reasoning and answer. Experts are ranked by the norms of their "
    "outputs, weighted by the router. The experts ranked last are dropped."
)
HOW_COUNTED = (
    "Experts are ranked by the calibration tokens that reach them, as an importance matrix counts them. The experts "
    "ranked last are dropped."
)
HOW_GIVEN = "The experts to drop were given as a drop map."
LOCAL_BASE = "base model on the Hub: the base model is a local one"


@dataclass(frozen=True)
class Release:
    """What a card is made of.

    records: by file, with `files`, its parts. caches: bytes of the context cache by tokens.
    mmproj: records of the files for pictures, by file.
    """

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
    mmproj: dict[str, dict] = field(default_factory=dict)
    sibling: str = ""

    @property
    def example(self) -> dict:
        """The record that commands are shown for: Q4_K_M's, else that of the middle one by size."""
        # Most people want the file that llama.cpp takes by default; in a folder without it, neither the largest nor the
        # smallest is a good first try.
        ordered = sorted(self.records.values(), key=lambda record: record["bytes"])
        return next((record for record in ordered if record["type"] == "Q4_K_M"), ordered[len(ordered) // 2])

    @property
    def experts_kept(self) -> str:
        """How many experts were kept, in words."""
        return f"{self.metadata['keep_count']} of {self.metadata['experts']} experts per layer"


def section(title: str, *parts: str) -> str:
    """Return a section of a card without its empty parts; "" when all are empty."""
    body = [part for part in parts if part]
    return "\n\n".join([f"## {title}", *body]) if body else ""


def scores_section(release: Release) -> str:
    """Return the scores, "" where there was no evaluation."""
    if not (scores := release.scores):
        return ""
    patched = (
        'Invalid answers were asked for again with the thought closed and the answer begun ("patched"). Guessing gets '
        "one in four of those right."
    )
    return section(
        "Scores",
        f"Evaluated: {scores['evaluated']}. The questions have GPQA's form. All models ran under the same locked "
        "protocol. All numbers are in `scores.json`.",
        card_scores(scores),
        patched if scores["patched"] else "Invalid answers count as wrong. Nothing was patched.",
        *map(verdict, scores["pairs"]),
        *sample_sentences(scores, release.metadata, release.name),
    )


def method_rows(metadata: dict) -> list[list[str]]:
    """Return what is known of the choice of experts, a name and a value per row."""
    method, absent = metadata["method"], "not recorded"
    rows = [
        ["Experts kept per layer", f"{metadata['keep_count']} of {metadata['experts']}"],
        ["Layers", str(len(metadata["layers"]))],
        ["Criterion", criterion_of(method)],
        ["Experts protected per question and layer", str(method.get("protect_top", absent))],
        ["Questions that chose the experts", str(method.get("questions", absent))],
    ]
    if held_out := method.get("held_out_question_ids"):
        rows.append(["Questions held out of the choice", str(len(held_out))])
    return rows


def how_chosen(method: dict) -> str:
    """Return how the experts were chosen, in sentences."""
    if criterion_of(method) == OWN_MAP:
        # Quoted and not stated: nothing here has checked what somebody wrote into their map.
        said = str(method.get("own_map", {}).get("criterion", ""))
        return f"{HOW_GIVEN} {f'It names the criterion {said}.' if said else 'How they were chosen is not known.'}"
    return HOW_COUNTED if "imatrix_sha256" in method else HOW_CHOSEN


def method_section(release: Release, *more: str) -> str:
    """Return how the experts were chosen, and more paragraphs on how files were made of that."""
    return section(
        "Method",
        f"{how_chosen(release.metadata['method'])} The others are copied byte for byte, and nothing is trained. "
        "`expert_drop_metadata.json` lists kept and dropped experts of each layer.",
        markdown_table(["What", "Value"], method_rows(release.metadata), left=2),
        *more,
    )


def pictures_section(release: Release) -> str:
    """Return the pictures of this build."""
    return section("Pictures", *(f"![{PICTURES[name]}]({name})" for name in PICTURES if name in release.pictures))


def make_command(release: Release) -> str:
    """Return the command that makes this release again."""
    method = release.metadata["method"]
    variables = {
        "MODEL": release.base if is_hub_id(release.base) else "DIRECTORY",
        "NAME": release.base.rsplit("/", 1)[-1],
        "PRUNED_NAME": release.name,
        "KEEP": release.metadata["keep_count"],
    }
    # DIRECTORY, MAP.json and I/K stand for what only its owner has; the digests below tell whether it is the right one.
    if criterion_of(method) == OWN_MAP:
        variables["DROP_MAP"] = "MAP.json"
    else:
        variables |= {"CRITERION": criterion_of(method), "PROTECT_TOP": method.get("protect_top", "...")}
    if method.get("held_out_question_ids"):
        variables["FOLD"] = "I/K"
    if release.scores:  # the run's own, which need not be those of the run that the command falls back to
        protocol = release.scores["protocol"]
        variables |= {name: protocol[key] for name, key in PROTOCOL_SETTINGS.items() if key in protocol}
    if release.records:
        variables["QUANTS"] = f'"{" ".join(record["type"] for record in release.records.values())}"'
    return " ".join(["make release", *(f"{name}={value}" for name, value in variables.items())])


def input_digests(release: Release) -> dict[str, str | None]:
    """Return the sha256 of what the release was made from, None where it is not recorded."""
    metadata, method = release.metadata, release.metadata["method"]
    found = {
        "Base checkpoint, weights": metadata["source"].get("weights_sha256"),
        "Base checkpoint, config": metadata["source"].get("config_sha256"),
        "Questions that chose the experts": method.get("questions_sha256"),
        "Statistics": method.get("stats_sha256"),
        "Drop map, as it was given": method.get("own_map", {}).get("sha256"),
        "Drop map": metadata["drop_map_sha256"],
        **{f"Pruned checkpoint, {name}": digest for name, digest in metadata["shards"].items()},
    }
    of_quants = {
        "F16 GGUF": "source_sha256",
        "Importance matrix": "imatrix_sha256",
        "Calibration text": "calibration_sha256",
    }
    for what, key in of_quants.items():
        digests = [record[key] for record in release.records.values() if record[key]]
        if digests:  # the same for all quants of a release
            found[what] = digests[-1]
    return found


def reproduce_section(release: Release) -> str:
    """Return the command and the digests of what went in."""
    return section(
        "How to reproduce",
        f"```\n{make_command(release)}\n```",
        "The inputs have the digests below. Set QUESTIONS and CALIBRATION if the questions or the calibration text are "
        "not the defaults.",
        digest_table(input_digests(release)),
        "The pruned checkpoint comes out the same, bit for bit. Quants can differ in their last bits between compilers "
        "and processors.",
    )


def missing_section(release: Release) -> str:
    """Return what this build does not know."""
    found, checkpoint = measured(release.records, release.quality), release.kind == CHECKPOINT
    chose = release.metadata["method"].get("question_ids")
    unmeasured = [record["type"] for name, record in release.records.items() if name not in found]
    # A checkpoint's card shows what is known of its experts; the other pictures are of quants.
    pictures = [name for name in PICTURES if not checkpoint or "experts" in name]
    absent = [
        ("scores: no evaluation belongs to this build", not release.scores),
        ("patched score: the evaluation was not patched", release.scores and not release.scores["patched"]),
        ("questions that chose the experts: the drop map does not name them", not chose),
        (f"KLD of {', '.join(unmeasured)}: not measured", unmeasured),
        ("context cache: not known exactly for this architecture", release.records and not release.caches),
        (NO_LICENCE, not release.license),
        (LOCAL_BASE, not is_hub_id(release.base)),
        ("quantized_by: no name was given", not checkpoint and not release.quantized_by),
        *((f"picture {name}", name not in release.pictures) for name in pictures),
    ]
    return section("Missing from this card", "\n".join(f"- {what}" for what, holds in absent if holds))


def licence_section(release: Release) -> str:
    """Return which terms the weights are under."""
    return section("Licence", f"The weights are derived from {release.base} and are under its licence terms.")
