"""What the evaluations show: the headline, the protocol, every variant in one table, and the patch step."""

from cards.card_sections import KINDS_IN_WORDS, Release, base_link, bullets, pictures_of, section
from cards.card_tables import in_sample_note, sample_sentences
from choice.drop_map import criterion_of
from files.display import markdown_table, plural
from files.safe_files import GB, in_unit
from release.manifest import CHECKPOINT, DIGITS
from scoring.eval_protocol import BY_DIGEST
from scoring.machines import machine_in_words
from scoring.score_tables import pass_table, score_cell, seeds_sentence, verdict
from scoring.task_tables import seeds_in_words

ALL_EXPERTS = "none (all experts)"
NOT_RECORDED = "not recorded"
# The values of the protocol in the words of the model card, in its order; those that are not here follow by their name.
PROTOCOL_WORDS = {
    "task": "Task of lm-evaluation-harness",
    "filter": "How answers are read",
    "context": "Context (tokens)",
    "reasoning_format": "Reasoning format",
    "reasoning_budget": "Reasoning budget (tokens)",
    "max_gen_toks": "Most tokens of an answer",
    "temperature": "Temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "dry_multiplier": "DRY multiplier",
    "seed": "Seed",
    "choice_order_seed": "Seed of the order of choices",
    "concurrency": "Requests at once",
    "attempts": "Attempts, where the server fails",
    "no_prompt_cache": "Prompt cache off",
    "gpu_layers": "Layers on the GPU, if there is one",
    "model": "Backend of lm-evaluation-harness",
    "tokenizer": "Tokenizer (the base model's)",
    "llama_cpp": "llama.cpp",
    "lm_eval": "lm-evaluation-harness",
}
PATCHED = (
    'Invalid answers were asked for again with the thought closed and the answer begun ("patched"), for every model '
    "alike. Guessing gets one in four of those right."
)
STRICT = (
    "p: exact McNemar test. Strict: a finished answer that commits to one letter, A to D. Points, lost and won "
    "questions are against the first model."
)
NOT_PATCHED = "Invalid answers count as wrong. Nothing was patched."


def count_in_words(count: int) -> str:
    """Return a number of parameters in three digits, such as 22.4B or 9.98M."""
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= unit:
            return f"{count / unit:.3g}{letter}"
    return str(count)


def scored_type(row: dict) -> str:
    """Return the type of the file that a row of scores is of, by its name."""
    return str(row["gguf"]).removesuffix(".gguf").removeprefix(f"{row['name']}-")


def best_score(row: dict) -> str:
    """Return a model's score, after the patch step if there was one, with its interval."""
    low, high = row["interval"]
    kind = "raw" if row["patched_correct"] is None else "patched"
    return f"{score_cell(row, kind)} ({low:.1%} to {high:.1%})"


def score_rows(release: Release) -> list[list[str]]:
    """Return the rows of the headline that an evaluation gives, [] without one."""
    scores, row = release.scores, release.row
    if not scores or not row:
        return []
    first = scores["rows"][0]
    quant, reference = scored_type(row), first if first is not row else None
    found = []
    sizes = [entry["bytes"].get(quant) if entry else None for entry in (reference, row)]
    if all(sizes):
        found.append([f"{quant} file", *(f"{in_unit(size or 0, GB)} GB" for size in sizes)])
    of_reference = best_score(reference) if reference else "not scored"
    asked = plural(len(scores["question_ids"]), "question")
    return [*found, [f"Score as {quant}, {asked} (95% interval)", of_reference, best_score(row)]]


def licence_in_words(release: Release) -> str:
    """Return the licence as code, as the words are the base's, and what of the base's card is not shown."""
    terms = release.licence
    link = f" (`{terms['license_link']}`)" if "license_link" in terms else ""
    unsaid = (release.inputs.get("licence") or {}).get("left_out")
    note = f" The base's card has a `{unsaid.replace(' and ', '` and a `')}` that is left out here." if unsaid else ""
    return f"Licence: `{terms.get('license_name') or terms['license']}`{link}.{note}"


def headline(release: Release) -> str:
    """Return what the model is: parameters and experts before and after, size, score and its label, licence."""
    facts, metadata = release.facts, release.metadata
    less = 1 - facts.parameters / facts.parameters_before
    before, after = count_in_words(facts.parameters_before), count_in_words(facts.parameters)
    rows = [
        ["Parameters", before, f"{after} (-{less:.1%})"],
        ["GB at 16 bits", *(in_unit(2 * count, GB) for count in (facts.parameters_before, facts.parameters))],
        ["Experts per layer", str(metadata["experts"]), str(metadata["keep_count"])],
        *([["Experts per token", str(facts.top_k), str(facts.top_k)]] if facts.top_k else []),
        *score_rows(release),
    ]
    licence = licence_in_words(release)
    if release.scores and release.row:
        label = in_sample_note(release.scores, metadata)
    else:
        label = f"This release holds no score{', but of further tasks' if release.tasks else ''}."
    where = [
        f"{release.link(name)}: {KINDS_IN_WORDS[kind]}"
        for kind, name in release.siblings.items()
        if kind != release.kind
    ]
    form = "as safetensors" if release.kind == CHECKPOINT else f"as {KINDS_IN_WORDS[release.kind]}"
    return "\n\n".join(
        part
        for part in (
            f"{base_link(release.base)} with {metadata['keep_count']} of {metadata['experts']} experts per layer, "
            f"{form}. Nothing was trained.",
            markdown_table(["", release.base.rsplit("/", 1)[-1], "this model"], rows),
            f"{label} {licence}",
            f"Repositories of the same model:\n\n{bullets(where)}" if where else "",
        )
        if part
    )


def hardware_rows(rows: list[dict]) -> list[list[str]]:
    """Return what the models of scores.json ran on, in one row where it is the same for all."""
    found = {row["name"]: "; then ".join(map(machine_in_words, row.get("hardware", []))) for row in rows}
    if len(set(found.values())) == 1:
        return [["Hardware", next(iter(found.values())) or NOT_RECORDED]]
    return [[f"Hardware, {name}", words or NOT_RECORDED] for name, words in found.items()]


def protocol_table(protocol: dict, models: list[dict]) -> str:
    """Return the locked protocol, a value per row, and the hardware; models: rows of scores.json."""
    names = [*(name for name in PROTOCOL_WORDS if name in protocol), *(protocol.keys() - PROTOCOL_WORDS.keys())]
    ordered = sorted(names, key=lambda name: (list(PROTOCOL_WORDS).index(name) if name in PROTOCOL_WORDS else 99, name))
    rows = []
    for name in ordered:
        value = "yes" if protocol[name] is True else str(protocol[name])
        if name in ("seed", "choice_order_seed") and len(seeds := models[0]["seeds"]) > 1:
            value = seeds_in_words(seeds)
        what = PROTOCOL_WORDS.get(name, name.replace("_", " ").capitalize())
        if name == "tokenizer" and not value.startswith(BY_DIGEST):
            what = "Tokenizer, by its name on the Hub"  # whose files it was, the record does not say
        rows.append([what, value])
    return markdown_table(["Protocol", "Value"], rows + hardware_rows(models), left=2)


def map_of(row: dict, release: Release) -> str:
    """Return what chose the experts of a row, with the first digits of its drop map."""
    if row["name"] == release.name:
        return f"{criterion_of(release.metadata['method'])}, `{release.metadata['drop_map_sha256'][:DIGITS]}`"
    if known := row.get("drop_map"):
        return f"{known['criterion']}, `{known['sha256'][:DIGITS]}`"
    # The first row is the full model's, or the released one's own; of any other nothing shows how many it once had.
    first = bool(release.scores) and row["name"] == (release.scores or {})["rows"][0]["name"]
    full = first and row["experts"] >= release.metadata["experts"] and row["in_sample"] is None
    return ALL_EXPERTS if full else NOT_RECORDED


def pair_with_first(row: dict, scores: dict) -> dict | None:
    """Return how a model compares with the first one, None for the first itself."""
    first = scores["rows"][0]
    pairs = [pair for pair in scores["pairs"] if (pair["reference"], pair["model"]) == (first["name"], row["name"])]
    return pairs[0] if pairs and row is not first else None


def shown_name(row: dict, name: str) -> str:
    """Return a model's name; name: of the released one."""
    return f"**{row['name']}** (this)" if row["name"] == name else str(row["name"])


def variants_table(scores: dict, name: str) -> str:
    """Return every variant's score, and the paired test against the first one; name: of the released model."""
    rows, main = [], "patched" if scores["patched"] else "raw"
    for row in scores["rows"]:
        low, high = row["interval"]
        change = ["reference", "-"]
        if pair := pair_with_first(row, scores):
            least, most = (100 * limit for limit in pair["difference_interval"])
            change = [f"{100 * pair['difference']:+.2f} ({least:+.1f} to {most:+.1f})", f"{pair['mcnemar_p']:.2g}"]
        rows.append([shown_name(row, name), f"{score_cell(row, main)} ({low:.1%} to {high:.1%})", *change])
    heads = ["Model", f"{main.capitalize()} score (95% interval)", "Points (95% interval)", "p"]
    return markdown_table(heads, rows)


def counts_table(release: Release, scores: dict) -> str:
    """Return every variant's map and experts, and the questions it got right by the other ways of counting."""
    rows, others = [], ("raw", "strict") if scores["patched"] else ("strict",)
    for row in scores["rows"]:
        pair = pair_with_first(row, scores)
        counts = [str(row[f"{kind}_correct"]) for kind in others]
        made = [shown_name(row, release.name), map_of(row, release), str(row["experts"])]
        rows.append([*made, *counts, *([str(pair["lost"]), str(pair["won"])] if pair else ["-", "-"])])
    heads = ["Model", "Drop map", "Experts", *(kind.capitalize() for kind in others), "Lost", "Won"]
    return markdown_table(heads, rows, left=2)


def patch_table(scores: dict) -> str:
    """Return the invalid answers of every model by class, and what the patch step added to its score; "" without any.

    That can be less than nothing: a truncated answer may hold the right letter, which lm-eval counts.
    """
    classes = sorted({kind for row in scores["rows"] for kind in row["invalid_classes"]})
    if not classes:
        return ""
    rows = []
    for row in scores["rows"]:
        gained = "-" if row["patched_correct"] is None else f"{row['patched_correct'] - row['raw_correct']:+d}"
        counts = [str(row["invalid_classes"].get(kind, 0)) for kind in classes]
        rows.append([row["name"], str(row["invalid"]), *counts, gained, f"{row['expected_by_chance']:+.1f}"])
    heads = ["Model", "Invalid answers", *(f"of these {kind}" for kind in classes)]
    return markdown_table([*heads, "Right answers that the patch step added", "Guessing would have added"], rows)


def results_section(release: Release) -> str:
    """Return the results, "" where there was no evaluation."""
    if not (scores := release.scores):
        return ""
    nothing = "No answer of any model was invalid, so the patch step had nothing to do." if scores["patched"] else ""
    patch = patch_table(scores) or nothing
    pairs = [pair for pair in scores["pairs"] if release.name in (pair["reference"], pair["model"])]
    return section(
        "Results",
        f"Evaluated: {scores['evaluated']}. The questions have GPQA's form. All models ran under one locked protocol, "
        "and differences are paired by question (exact McNemar test). All numbers are in `scores.json`.",
        protocol_table(scores["protocol"], scores["rows"]),
        "Scores of every model, and the paired test of each against the first:",
        variants_table(scores, release.name),
        "How they were made, and how they were counted:",
        counts_table(release, scores),
        STRICT,
        *map(verdict, pairs or scores["pairs"]),
        "\n\n".join(sample_sentences(scores, release.metadata, release.name)),
        seeds_sentence(scores["rows"]),
        pass_table(scores["rows"]),
        f"{PATCHED if scores['patched'] else NOT_PATCHED} {patch if not patch.startswith('|') else ''}".strip(),
        patch if patch.startswith("|") else "",
        pictures_of(release, "scores.png"),
    )
