"""What the cards of GGUF files and of checkpoints share: the release they are made of, and the sections of both.

Card format: the Hub's model cards, https://huggingface.co/docs/hub/model-cards. What was not measured is left out of
the tables and listed under "Limits"; nothing is filled in. What only the owner of a release can add is not the reader's
business: cards/chores.py lists it.
"""

from dataclasses import dataclass, field

from choice.drop_map import OWN_MAP, criterion_of, is_by_chance, question_ids_of
from files.display import code, exactly, markdown_table, plural
from losses.quality_record import measured
from quants.quant_record import KLD_DECIMALS, NOTED_OWN_KLD
from release.manifest import CHECKPOINT, DYNAMIC, STANDARD
from release.names import PLACEHOLDER_OWNER, is_hub_id
from scoring.score_records import GPQA

# In the order of the pipeline, which is that of the card. A picture that is not in here is refused by build_release.py:
# it would lie in the folder without a word on what it shows.
IMATRIX_PICTURE = "imatrix-coverage.png"
PICTURES = {
    "experts-heatmap.png": "What each expert of each layer contributes",
    "experts-coverage.png": "Coverage of kept and dropped experts",
    "experts-layers.png": "Contribution by layer",
    IMATRIX_PICTURE: "Calibration tokens per expert",
    "quality.png": "Size against KL divergence",
    "active-experts.png": "Loss and speed with fewer active experts",
    "scores.png": "Scores and paired differences with 95% intervals",
}
TAGS = ["moe", "expert-pruning"]
OLLAMA_ARCHITECTURE = "gemma4"  # the one that the renderer, the parser and the template for Ollama are of
KINDS_IN_WORDS = {
    CHECKPOINT: "the pruned checkpoint (safetensors)",
    STANDARD: "GGUF files of llama.cpp's standard types",
    DYNAMIC: "GGUF files with types chosen per layer (`CD-*`, `AUTO-*`) or padded MLPs (`PAD-*`)",
}
HOW_CHOSEN = "The full model is teacher-forced through question, reasoning and answer."
# What each criterion of choice/criteria.py ranks by; a random choice ranks by nothing that was measured.
RANKED_BY = {
    "coverage": "the number of questions in whose top they are by the norms of their outputs, weighted by the router",
    "weighted-norm": "the norms of their outputs, weighted by the router and summed over all tokens",
    "reap": "the mean norm of their outputs, weighted by the router",
    "ean": "the norms of their outputs, summed over all tokens",
    "man": "the mean norm of their outputs",
    "frequency": "the number of tokens that the router sends to them",
    "gate": "the weights that the router gives them, summed over all tokens",
    "norm-plus-count": "twice the norms of their outputs, weighted by the router, and the number of their tokens",
    "reconstruction": "how late each one went when experts were dropped one after the other, each time the one whose "
    "loss changed the layer's output least once the router took the next-best",
}
HOW_COUNTED = "Experts are ranked by the calibration tokens that reach them, as an importance matrix counts them."
HOW_GIVEN = "The experts to drop were given as a drop map."
# Fields of `Methodology` whose names alone would mislead: "cut tokens 4096" reads as if so many had been cut away.
METHODOLOGY_WORDS = {
    "empty_reasonings": "Questions without a reasoning",
    "reasoning": "Reasoning, said by the releaser to be",  # nothing measures who wrote it
    "cut_questions": "Questions that were cut",
    "cut_tokens": "Longest input that is not cut (tokens)",
    "counted_tokens": "Tokens that count",
    "chat_template_sha256": "Chat template, sha256",
}
# Samplers that no protocol names but a generation_config.json may, in its words.
GENERATION_WORDS = {"min_p": "min_p", "repeat_penalty": "repetition_penalty"}
HELD_BY_CALIBRATION = "the calibration text holds the scored questions"


@dataclass(frozen=True)
class ModelFacts:
    """parameters, parameters_before: of the pruned and of the full model; top_k: experts per token, None: not said.

    widest_head: values of the widest attention head, longest_context: tokens; 0 where the header does not say.
    prompt: what the chat template writes of placeholders, without the first token; "" where it is not shown.
    samplers: those that the header, or generation_config.json, sets, by the names of a request's fields.
    """

    architecture: str
    parameters: int
    parameters_before: int
    top_k: int | None
    thinks: bool
    widest_head: int
    longest_context: int
    prompt: str = ""
    samplers: tuple[str, ...] = ()

    @property
    def for_ollama(self) -> bool:
        """Whether Ollama's files of this project are made for this family: template, renderer and parser are its."""
        return self.architecture == OLLAMA_ARCHITECTURE


@dataclass(frozen=True)
class Release:
    """What a card is made of.

    owner: "" while it is not known. licence: front matter's keys of it. records: by file, with `files`, its parts.
    draft, active, loops: what was measured of a draft model, of fewer active experts, and of loops and tool calls.
    tasks: scores of further tasks, by name. caches: bytes of the context cache by tokens. siblings: the other
    repositories, by kind. inputs: of release/input_facts.py. mmproj: records of the files for pictures, by file.
    """

    name: str
    owner: str
    repository: str
    kind: str
    base: str
    licence: dict[str, str]
    quantized_by: str
    records: dict[str, dict]
    metadata: dict
    facts: ModelFacts
    scores: dict | None = None
    quality: dict | None = None
    draft: dict | None = None
    active: dict | None = None
    loops: dict | None = None
    tasks: dict[str, dict] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)
    caches: dict[int, int] = field(default_factory=dict)
    findings: dict | None = None
    mmproj: dict[str, dict] = field(default_factory=dict)
    siblings: dict[str, str] = field(default_factory=dict)
    inputs: dict = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    project_version: str = ""

    @property
    def example(self) -> dict:
        """The record that commands are shown for: Q4_K_M's, else that of the middle one by size."""
        # Most people want the file that llama.cpp takes by default; in a folder without it, neither the largest nor the
        # smallest is a good first try.
        ordered = sorted(self.records.values(), key=lambda record: record["bytes"])
        return next((record for record in ordered if record["type"] == "Q4_K_M"), ordered[len(ordered) // 2])

    @property
    def row(self) -> dict | None:
        """The scores of the released model, None where it was not evaluated."""
        return next((row for row in (self.scores or {}).get("rows", []) if row["name"] == self.name), None)

    @property
    def calibration(self) -> dict:
        """What is known of the calibration text, {} where nothing is."""
        return self.inputs.get("calibration") or {}

    @property
    def held_and_scored(self) -> int | None:
        """How many of the scored questions the calibration text holds; None where that is not known."""
        held = self.calibration.get("held")
        return None if held is None or not self.scores else len({*held} & {*self.scores["question_ids"]})

    def hub_id(self, repository: str) -> str:
        """Return OWNER/REPOSITORY, with the placeholder while the owner is not known."""
        return f"{self.owner or PLACEHOLDER_OWNER}/{repository}"

    def link(self, repository: str) -> str:
        """Return a link to one of the release's repositories."""
        return hub_link(self.hub_id(repository), repository)


def hub_link(hub_id: str, words: str = "") -> str:
    """Return a link to a repository on the Hub."""
    return f"[{words or hub_id}](https://huggingface.co/{hub_id})"


def base_link(base: str) -> str:
    """Return the base model's name, as a link where it is on the Hub."""
    return hub_link(base) if is_hub_id(base) else base


def section(title: str, *parts: str) -> str:
    """Return a section of a card without its empty parts; "" when all are empty."""
    body = [part for part in parts if part]
    return "\n\n".join([f"## {title}", *body]) if body else ""


def bullets(lines: list[str]) -> str:
    """Return a list in Markdown."""
    return "\n".join(f"- {line}" for line in lines)


def method_rows(metadata: dict) -> list[list[str]]:
    """Return what is known of the choice of experts, a name and a value per row."""
    method, absent = metadata["method"], "not recorded"
    rows = [
        ["Experts kept per layer", f"{metadata['keep_count']} of {metadata['experts']}"],
        ["Layers with experts", str(len(metadata["layers"]))],
        ["Criterion", criterion_of(method)],
        ["Experts protected per question and layer", str(method.get("protect_top", absent))],
        ["Questions that chose the experts", str(method.get("questions", absent))],
    ]
    if held_out := method.get("held_out_question_ids"):
        rows.append(["Questions held out of the choice", str(len(held_out))])
    for domain in method.get("domains", []):
        weight, floor = (exactly(domain[key]) for key in ("weight", "floor"))
        met = ", to a millionth" if domain["floor"] else ""  # TOLERANCE of choice/domains.py
        what = f"weight {weight}, at least {floor} of its coverage in every layer{met}"
        rows.append([f"Domain {code(domain['name'])}", f"{plural(domain['questions'], 'question')}; {what}"])
    if drawn := method.get("bootstrap"):
        what = f"Kept experts that resampled questions keep, too (bootstrap, {drawn['resamples']} draws)"
        rows.append([what, f"{drawn['expected_overlap']:.1%}"])
    return rows + methodology_rows(metadata.get("methodology") or method.get("methodology") or {})


def methodology_rows(methodology: dict) -> list[list[str]]:
    """Return what the metadata hold of how the choice was measured, a name and a value per row."""
    # Lists are too long for a card, and what the rows above have is not said twice.
    known = ("criterion", "protect_top", "questions")
    shown = {
        key: value for key, value in methodology.items() if key not in known and not isinstance(value, dict | list)
    }
    values = {key: "not known" if value in (None, "") else str(value) for key, value in shown.items()}
    return [[METHODOLOGY_WORDS.get(key, key.replace("_", " ").capitalize()), value] for key, value in values.items()]


def dropped_in_words(method: dict) -> str:
    """Return which experts of a ranking are dropped."""
    which = "first" if method.get("worst_first") else "last"
    kept = ", but for those that a floor of a domain keeps" * any(one.get("floor") for one in method.get("domains", []))
    return f"The experts ranked {which} are dropped{kept}."


def how_chosen(method: dict) -> str:
    """Return how the experts were chosen, in sentences."""
    if criterion_of(method) == OWN_MAP:
        # Quoted and not stated: nothing here has checked what somebody wrote into their map.
        # As code, so that markup in it shows as what it is.
        said = str(method.get("own_map", {}).get("criterion", ""))
        return (
            f"{HOW_GIVEN} {f'It names the criterion {code(said)}.' if said else 'How they were chosen is not known.'}"
        )
    if "imatrix_sha256" in method:
        text = f"are those of {code(method['calibration'])}" if method.get("calibration") else "are of a text not known"
        digest = f", sha256 `{method['calibration_sha256']}`" if method.get("calibration_sha256") else ""
        return f"{HOW_COUNTED} {dropped_in_words(method)} The tokens {text}{digest}."
    by = RANKED_BY.get(criterion_of(method), "chance, as a control")
    return f"{HOW_CHOSEN} Experts are ranked by {by}. {dropped_in_words(method)}"


def pictures_of(release: Release, *names: str) -> str:
    """Return the pictures of these names that the release has."""
    return "\n\n".join(f"![{PICTURES[name]}]({name})" for name in names if name in release.pictures)


def method_section(release: Release) -> str:
    """Return what was done: how the experts were chosen, and what the metadata hold."""
    layers = plural(len(release.metadata["layers"]), "layer")
    ids = "the ids of the questions that chose, " if question_ids_of(release.metadata["method"]) else ""
    return section(
        "What was done",
        f"{how_chosen(release.metadata['method'])} The others are copied byte for byte, and nothing is trained. The "
        "router loses the rows of the dropped experts and is otherwise unchanged, which is the same as masking their "
        "logits: a token goes to the best of the experts that are left.",
        markdown_table(["What", "Value"], method_rows(release.metadata), left=2),
        "`expert_drop_metadata.json` is the drop map as it was applied: the kept and the dropped experts of each of "
        f"the {layers}, how they were chosen, {ids}and the sha256 of the base checkpoint, of the map, and of every "
        "shard of the pruned checkpoint.",
        conversion_text(release),
        pictures_of(release, *(name for name in PICTURES if name.startswith("experts-"))),
    )


def conversion_in_words(loss: dict) -> str:
    """Return what a conversion changed; loss: `against_transformers` of its record."""
    least = 10**-KLD_DECIMALS
    amount = f"{loss['kld']:.{KLD_DECIMALS}f}" if loss["kld"] >= least else f"less than {least:.{KLD_DECIMALS}f}"
    by_rounding = f"; rounding alone costs {loss['rounding']:.{KLD_DECIMALS}f} there" if loss.get("rounding") else ""
    own = f"; in its own dtype the checkpoint differs from fp32 by {loss['own_dtype']:.3f}" if loss["own_dtype"] else ""
    other = 1 - loss["tokens_alike"]
    others = f"; {other:.2%} of its tokens are others in llama.cpp" if other else ""
    return f"KL divergence {amount} nats per token over {loss['tokens']} tokens of one chat{by_rounding}{own}{others}"


def conversion_text(release: Release) -> str:
    """Return how far llama.cpp's F16 file is from the checkpoint as transformers computes it."""
    if not (loss := release.inputs.get("conversion")):
        return ""
    full = release.inputs.get("full_conversion")
    return (
        "llama.cpp's F16 file of the pruned model, which all GGUF files are made from, was held against the checkpoint "
        f"in transformers (fp32): {conversion_in_words(loss)}."
        f"{f' The same of the full model: {conversion_in_words(full)}.' if full else ''}"
    )


def conversion_limits(release: Release) -> list[str]:
    """Return that the GGUF files are another model than the checkpoint, where rounding makes them one."""
    found, models = [], {"conversion": "pruned", "full_conversion": "full"}
    for key, name in models.items():
        loss = release.inputs.get(key) or {}
        of_file = "llama.cpp's F16 file differs from the checkpoint as transformers computes it"
        noted = [of_file] if loss.get("rounding") else []
        if loss.get("own_dtype", 0) > NOTED_OWN_KLD:
            noted.append("in its own dtype the checkpoint differs from what it is in fp32")
        if noted:
            found.append(
                f"The {name} model is sensitive to rounding: {', and '.join(noted)} (What was done). Scores and losses "
                "are of GGUF files, and the checkpoint's own may be others."
            )
    return found


def score_limits(release: Release) -> list[str]:
    """Return what a reader must know of the scores."""
    scores, row = release.scores, release.row
    if not scores or not row:
        only = "This release holds scores of further tasks alone, none of the evaluation that releases have."
        return [only if release.tasks else "Not evaluated: this release holds no score."]
    files = {one["gguf"] for task in release.tasks.values() for one in task["rows"][1:]} - {row["gguf"]}
    more = f" For further tasks it holds scores of {', '.join(map(code, sorted(files)))}, too." if files else ""
    found = [f"This release holds a score of {code(row['gguf'])} alone, and none of files of other types.{more}"]
    if len(row["seeds"]) == 1:
        found.append(f"Scores are of one seed ({row['seeds'][0]}) and of {row['questions']} questions of one kind.")
    if not scores["patched"]:
        found.append("The evaluation was not patched: invalid answers count as wrong.")
    if {*question_ids_of(release.metadata["method"])} & {*scores["question_ids"]}:
        found.append("The scored questions also chose the experts, so the score may flatter the choice.")
    if release.held_and_scored:
        held = f"{HELD_BY_CALIBRATION} ({release.held_and_scored} of {len(scores['question_ids'])})"
        by_text = row["gguf"] not in release.inputs.get("plain", [])
        without = f"{held[0].upper()}{held[1:]}, but {code(row['gguf'])} was made without an importance matrix."
        found.append(f"In-sample in a second way: {held}." if by_text else without)
    elif release.held_and_scored is None and release.calibration:
        found.append("It is not known whether the calibration text holds the scored questions.")
    return found


def seen_in_other_ways(release: Release) -> list[str]:
    """Return which scored or measured questions, of further tasks too, the types of files or the imatrix have seen."""
    inputs, found = release.inputs, []
    chose, ranked = {*question_ids_of(release.metadata["method"])}, {*inputs.get("ranked", [])}
    ways = {"CD files follow from statistics over": ranked}
    ways["AUTO files were chosen by losses on chats of"] = {*inputs.get("estimated", [])}
    asked = {"scored questions": release.scores["question_ids"]} if release.scores else {}
    for name, scores in release.tasks.items():  # ids of other forms say nothing of GPQA's
        if scores["protocol"]["task"].startswith(GPQA):
            asked[f"questions of {name}"] = scores["question_ids"]
    asked["questions that losses were measured on"] = inputs.get("measured", [])
    for what, ids in asked.items():
        for how, seen in ways.items():
            # Of those that chose the label of the score speaks.
            if (both := len(seen & {*ids})) and (seen is not ranked or (seen - chose) & {*ids}):
                found.append(f"The types of {how} {both} of the {len(ids)} {what}: such a file has seen these.")
    for name, count in (inputs.get("held") or {}).items():
        if count:
            of_all = len(release.tasks[name]["question_ids"])
            found.append(f"The calibration text holds {count} of the {of_all} questions of {name}.")
    return found


def repeated_questions(release: Release) -> list[str]:
    """Return how many questions are another one again, and count twice, or stand in the few shots of their task."""
    again = "are another one again by their letters and digits, and count twice"
    part = "that chose or were scored"
    counts = {f"{code(name)} {part}": numbers for name, numbers in release.inputs.get("alike", {}).items()}
    for name, count in release.inputs.get("repeated", {}).items():
        counts[name] = [count, len(release.tasks[name]["question_ids"])]
    found = [f"{few} of the {count} questions of {name} {again}." for name, (few, count) in counts.items() if few]
    for name, count in release.inputs.get("shown", {}).items():
        if count:
            of_all = len(release.tasks[name]["question_ids"])
            found.append(f"{count} of the {of_all} questions of {name} stand in its few shots, with their answers.")
    return found


def limits_section(release: Release) -> str:
    """Return what a reader must know before relying on the model or on a number of this card."""
    found, method = measured(release.records, release.quality), release.metadata["method"]
    unmeasured = [record["type"] for name, record in release.records.items() if name not in found]
    chose = plural(len(question_ids_of(method)), "question")
    lines = (
        score_limits(release) + conversion_limits(release) + seen_in_other_ways(release) + repeated_questions(release)
    )
    if question_ids_of(method):
        by_map = "By the map that was given the" if criterion_of(method) == OWN_MAP else "The"
        lines.append(f"{by_map} experts were chosen on {chose}. On other subjects than theirs the drop may cost more.")
        if is_by_chance(method) or any(domain["weight"] == 0 for domain in method.get("domains", [])):
            lines.append("Questions that had no weight in the choice are counted among those that chose the experts.")
    else:
        lines.append("The drop map does not name the questions that chose the experts.")
    if unmeasured:
        lines.append(f"This release holds no KLD of {', '.join(unmeasured)}.")
    if release.records and not release.caches:
        lines.append("The size of the context cache is not known exactly for this architecture.")
    if release.records and release.facts.for_ollama:
        lines.append(
            "Ollama itself was not run for this card. Its template was executed by Go and writes what the model's own "
            "chat template writes."
        )
    return section("Limits", bullets(lines))


def benchmark_of(release: Release, name: str) -> str | None:
    """Return the dataset of a further task's benchmark, None where its questions are not known to be its."""
    return release.inputs.get("benchmarks", {}).get(name)


def file_of_task(release: Release, name: str) -> str:
    """Return the files of a further task by their names, and its task as a form."""
    files = " and ".join(map(code, release.inputs.get("tasks", {}).get(name, {}))) or "no known name"
    return f"a file named {files}, in the form of {release.tasks[name]['protocol']['task']}"
