"""The tables of a card, every number from a record, and quants in words.

A word of quality for each file, types by tier, types that rows did not fit, what fits which memory, and whose questions
chose the experts.
"""

import re

from choice.drop_map import OWN_MAP, criterion_of
from files.display import code, markdown_table, plural, with_error
from files.safe_files import GB, GIB, gib, in_unit
from ggufs.sibling_choice import mmproj_pick
from losses.quality_record import BETTER, NO_DIFFERENCE, SMALLER, WORSE, measured
from quants.recipes import RECIPES
from scoring.score_tables import HELD_OUT, HELD_OUT_BY_THE_MAP, NOT_KNOWN, sample_labels

MEMORY_GIB = (2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128)  # graphics cards and computers as sold
FREE_GIB = 1
CONTEXTS = (8192, 32768, 131072)
VERDICTS = {
    BETTER: "better than the standard quants of its size",
    WORSE: "worse than the standard quants of its size",
    NO_DIFFERENCE: "no significant difference from the standard quants of its size",
    SMALLER: "no standard quant that was measured is as small",
}
# The word of a file is the first whose limit it reaches: quantisation KLD (nats per token, at most), where that was
# measured, else bits per weight (at least). The two were set side by side on the quants of Gemma 4 as the model card
# names them: Q8_0 is near-lossless, Q6_K very high, Q5_K_M high, Q4_K_M good, Q3_K_M fair, 2 bits low.
WORDS_BY_KLD = (
    ("exact", 0.0),
    ("near-lossless", 0.003),
    ("very high", 0.01),
    ("high", 0.03),
    ("good", 0.08),
    ("fair", 0.2),
    ("low", 0.5),
)
WORDS_BY_BITS = (
    ("exact", 16.0),
    ("near-lossless", 8.0),
    ("very high", 6.5),
    ("high", 5.3),
    ("good", 4.3),
    ("fair", 3.7),
    ("low", 2.6),
)
LEAST_WORD = "very low"
PLAIN = "standard"
PREDICTION = re.compile(r",? expected KLD (\S+) nats per token")  # in the note of an AUTO file
TIER_PATTERN = re.compile(r"\^?blk\\\.\(([\d|]+)\)")
EDGE_FLAGS = {"--token-embedding-type": "embedding", "--output-tensor-type": "output"}


def quantisation_kld(entry: dict | None) -> float | None:
    """Return the mean quantisation KLD of a file's entry in quality.json, None where it was not measured."""
    return None if entry is None else entry["losses"]["quantisation"]["kld"][0]


def unpadded_share(record: dict) -> float:
    """Return the least share of a padded file's MLPs that is no zero; 1 of other files.

    The zeros count as bytes and not as weights, so size and bits per weight say too much of such a file.
    """
    return min((now / then for now, then in record.get("padded", {}).values()), default=1.0)


def quality_word(record: dict, entry: dict | None) -> str:
    """Return a file's quality in a word, by its measured loss, or with "by size" where there is none."""
    if (kld := quantisation_kld(entry)) is not None:
        return next((word for word, most in WORDS_BY_KLD if kld <= most), LEAST_WORD)
    bits = record["bits_per_weight"] * unpadded_share(record)
    return f"{next((word for word, least in WORDS_BY_BITS if bits >= least), LEAST_WORD)} (by size)"


def predicted_kld(record: dict) -> str | None:
    """Return the loss that was expected when an AUTO file's types were picked, None for other files."""
    match = PREDICTION.search(record["note"])
    return match[1] if match else None


def measured_kld(entry: dict | None, loss: str) -> str:
    """Return a mean KLD and its error, or that it was not measured."""
    return "none here" if entry is None else with_error(*entry["losses"][loss]["kld"])


def note(record: dict, found: dict | None) -> str:
    """Return a file's note: what is special in how it is made, the verdict against the standard files, its parts.

    found: the verdict, as quality.json has it. The notes of plain types are words of quality from elsewhere, such as
    "near-lossless". On a card the word is `quality_word`'s, by what this file costs.
    """
    made = record["type"] not in RECIPES or RECIPES[record["type"]].flags or RECIPES[record["type"]].tiers
    parts = [PREDICTION.sub("", record["note"])] * bool(made)
    if found:
        # A reader must see which files were measured beside it: among few others many a file looks well.
        beside = f" ({', '.join(map(code, found['between']))})" if found.get("between") else ""
        parts.append(f"quantisation loss: {VERDICTS[found['verdict']]}{beside}")
    if len(record["files"]) > 1:
        parts.append(f"in {len(record['files'])} parts")
    return "; ".join(parts)


def largest_first(records: dict[str, dict]) -> list[tuple[str, dict]]:
    """Return names and records, the largest first; the name decides between files of one size."""
    return sorted(records.items(), key=lambda item: (-item[1]["bytes"], item[0]))


def choice_table(records: dict[str, dict], quality: dict | None) -> str:
    """Return the short table of files, each linked: quality in a word, size, and the measured quantisation loss."""
    entries = measured(records, quality)
    rows = [
        [
            f"[{record['files'][0]}]({record['files'][0]})",  # the Hub leads a relative link to the file's page
            quality_word(record, entries.get(name)),
            in_unit(record["bytes"], GB),
            gib(record["bytes"]),
            *([measured_kld(entries.get(name), "quantisation")] if entries else []),
        ]
        for name, record in largest_first(records)
    ]
    return markdown_table(["File", "Quality", "GB", "GiB", *(["KLD"] if entries else [])], rows, left=2)


def file_table(records: dict[str, dict], quality: dict | None) -> str:
    """Return the table of quants, the largest first; with columns of KLD if any file was measured."""
    entries, rows = measured(records, quality), []
    losses = ("quantisation", "total") if entries else ()
    verdicts = quality["conclusions"]["quantisation"]["verdicts"] if quality else {}
    for name, record in largest_first(records):
        entry = entries.get(name)
        found = verdicts.get(entry["label"]) if entry else None
        rows.append(
            [
                record["type"],
                quality_word(record, entry),
                note(record, found) or PLAIN,
                in_unit(record["bytes"], GB),
                f"{record['bits_per_weight']:.2f}",
                *(measured_kld(entry, loss) for loss in losses),
            ]
        )
    heads = ["Type", "Quality", "Made", "GB", "Bits per weight", *(f"KLD, {loss}" for loss in losses)]
    return markdown_table(heads, rows, left=3)


def best_that_fits(fits: list[tuple[str, dict]], entries: dict[str, dict]) -> tuple[str, dict]:
    """Return the name and record of the file to take among those that fit a memory, the largest first.

    The largest, unless that one was measured: then the one of the least measured loss, which may be smaller.
    """
    losses = {name: kld for name, _ in fits if (kld := quantisation_kld(entries.get(name))) is not None}
    if fits[0][0] not in losses:
        return fits[0]
    best = min(losses.values())
    return next(item for item in reversed(fits) if losses.get(item[0]) == best)


def memory_table(
    records: dict[str, dict], caches: dict[int, int], quality: dict | None = None, sight: dict[str, int] | None = None
) -> str:
    """Return the table of the file to take by memory.

    caches: bytes of the context cache by tokens; sight: bytes of the files for pictures, by name. One of them is
    loaded with a model that is fetched, by llama.cpp and by Ollama, so it takes its part of the memory.
    """
    context, entries, sight = min(caches), measured(records, quality), sight or {}

    def loaded(record: dict) -> int:
        return record["bytes"] + sight.get(mmproj_pick(list(sight), record["files"][0]) or "", 0)

    by_weights = sorted(largest_first(records), key=lambda item: -item[1]["bytes"] * unpadded_share(item[1]))
    rows: list[list[str]] = []
    for memory in MEMORY_GIB:
        room = (memory - FREE_GIB) * GIB - caches[context]
        fits = [item for item in by_weights if loaded(item[1]) <= room]
        if not fits:
            continue
        name, record = best_that_fits(fits, entries)
        if not rows or rows[-1][1] != record["files"][0]:  # else more memory changes nothing
            by = "measured loss" if name in entries else "size"
            sizes = [gib(loaded(record) + cache) for cache in caches.values()]
            rows.append([f"{memory} GiB or more", record["files"][0], by, *sizes])
    heads = ["Memory", "Take", "Chosen by", *(f"GiB with {tokens:,} tokens" for tokens in caches)]
    return markdown_table(heads, rows, left=3)


def ranges(numbers: list[int]) -> str:
    """Return numbers in words: "0, 3 to 5" for 0, 3, 4 and 5."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def padding_in_words(record: dict) -> str:
    """Return to what widths a file's MLPs were padded, "" of a file without padding."""
    widths = [f"{role} {now} to {then}" for role, (now, then) in record.get("padded", {}).items()]
    return f". Padded: {', '.join(widths)}" if widths else ""


def tiers_in_words(record: dict) -> str:
    """Return the types of a CD file by its tiers of layers, from the arguments of llama-quantize."""
    parts, edges = [], []
    for flag, value in zip(record["arguments"], record["arguments"][1:]):
        if flag in EDGE_FLAGS:
            edges.append(f"{EDGE_FLAGS[flag]} {value.upper()}")
        elif flag == "--tensor-type" and (match := TIER_PATTERN.match(value)):
            layers = [int(number) for number in match[1].split("|")]
            word = "layer" if len(layers) == 1 else "layers"
            parts.append(f"{value.rsplit('=', 1)[1].upper()} in {word} {ranges(layers)}")
    what = "the experts of a layer" if record.get("cd_scope") == "experts" else "attention, dense part and experts"
    of_edges = f"; {', '.join(edges)}" if edges else ""
    return f"{'; '.join(parts)} ({what}){of_edges}; what is left follows {record['base']}"


def fallbacks_in_words(record: dict) -> str:
    """Return which types a file has in place of others, "" where every row fits its type."""
    pairs = [kind.split("<") + [count] for kind, count in record["tensors_per_type"].items() if "<" in kind]
    words = [f"{plural(count, 'tensor')} {found} in place of {wanted}" for found, wanted, count in pairs]
    return ", ".join(words)


def types_in_words(record: dict) -> str:
    """Return how many tensors of a file have which type."""
    counts: dict[str, int] = {}
    for kind, count in record["tensors_per_type"].items():
        name = kind.split("<")[0]
        counts[name] = counts.get(name, 0) + count
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def in_sample_note(scores: dict, metadata: dict) -> str:
    """Return a sentence on whether the scored questions also chose the experts."""
    chosen, scored = set(metadata["method"].get("question_ids") or []), set(scores["question_ids"])
    if not chosen:
        return f"{NOT_KNOWN} the drop map does not say which questions chose the experts."
    if chosen & scored:
        return f"**In-sample:** {len(chosen & scored)} of the {len(scored)} scored questions also chose the experts."
    held = f"{len(chosen)} other questions chose the experts, and none of the {len(scored)} scored ones did."
    return f"{HELD_OUT_BY_THE_MAP if criterion_of(metadata['method']) == OWN_MAP else HELD_OUT} {held}"


def row_is_known(row: dict) -> bool:
    """Tell whether a row of scores says how many of its questions chose the experts."""
    return bool(row["in_sample"]) and row["in_sample"]["scored_and_chosen_on"] is not None


def sample_sentences(scores: dict, metadata: dict, name: str) -> list[str]:
    """Return the label of the model `name` by its metadata, and those of all others as compare_scores.py has them."""
    known = bool(metadata["method"].get("question_ids"))
    # The row of the model itself is left out unless it knows what the metadata do not: the card would say the same
    # thing twice.
    others = [row for row in scores["rows"] if row["name"] != name or not known and row_is_known(row)]
    return [in_sample_note(scores, metadata), *sample_labels(others, metadata["experts"])]


def digest_table(digests: dict[str, str | None]) -> str:
    """Return the table of digests; those that no record of this build has are left out."""
    rows = [[what, f"`{digest}`"] for what, digest in digests.items() if digest]
    return markdown_table(["What", "sha256"], rows, left=2)
