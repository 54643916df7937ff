"""Losses of a release: whose files they are of, on which chats, and quality.json made again from the stored results.

Somebody who rewrites the stored results themselves is not seen.
"""

from pathlib import Path

from chats.chat_sequences import MAX_TOKENS
from chats.questions import QUESTION_SEED, count_without_reasoning, load_questions, question_set_digest
from chats.texts_again import texts_digest
from choice.drop_metadata import METADATA_NAME, read_metadata
from files.input_errors import InputError, read_words
from files.json_records import read_json, read_record
from files.seals import INPUTS_NAME
from gates.lineage import Breaks, Lineage, breaks_of
from gates.made_again import TEXTS, first_difference, known_quants, made_again
from losses.chat_masks import Chats, unseen_questions
from losses.quality_conclusions import Measured, quality_conclusions
from losses.quality_record import QUALITY_NAME, Quality
from losses.stored_results import measured_again, results_folder
from release.manifest import DIGITS

# A build whose losses make takes for finished is measured again only when told; the stored logits spare most of it.
MEASURE = "run `make quality REPLACE=quality`"


UNMADE = ("inputs", "left_out", "no_reasoning", "score", "question_file_sha256")


def quality_again(lineage: Lineage, quality: dict) -> tuple[list[Measured], Chats]:
    """Return the losses of the files of quality.json by the stored results, in its order, and the chats."""
    known = known_quants(lineage)
    records = [known[entry["sha256"]][1] for entry in quality["files"]]
    return measured_again(lineage.origin("logits"), quality["inputs"], quality["score"], records)


def chat_breaks(lineage: Lineage, path: Path, quality: dict) -> Breaks:
    """The measured chats are the first unseen ones of a question file, and so many were left out."""
    inputs, text = quality["inputs"], read_words(lineage.origin("calibration"))
    kept = read_json(results_folder(lineage.origin("logits"), "results", inputs) / INPUTS_NAME)
    if difference := first_difference(kept, inputs):
        expected, other = difference.split(", found ", 1)
        return [InputError(path, f"inputs: {expected}", other, MEASURE)]
    chose = set(read_metadata(lineage.metadata_path)["method"].get("question_ids") or [])
    for source in lineage.sources["questions"].values():
        questions = load_questions(source, QUESTION_SEED)
        unseen = unseen_questions(questions, text, chose)
        if question_set_digest(unseen[: quality["chats"]]) == inputs["questions_sha256"]:
            # Once the questions are known to be the build's, which tokens they are is a matter of the tokenizer.
            chats = unseen[: quality["chats"]]
            texts = texts_digest(lineage.metadata_path.parent, chats, inputs["max_tokens"])
            pairs: list[tuple[str, object, object]] = [
                ("chats left out:", len(questions) - len(unseen), quality["left_out"]),
                # As make measures: of chats that are cut shorter the card does not speak.
                ("chats of so many tokens at most:", MAX_TOKENS, inputs["max_tokens"]),
                ("chats without a reasoning:", count_without_reasoning(chats), quality.get("no_reasoning", 0)),
                (TEXTS, texts, inputs.get("texts_sha256")),
            ]
            return breaks_of(path, pairs, MEASURE)
    expected = f"the first {quality['chats']} chats of the build's questions that it has not seen"
    return [InputError(path, expected, "others", MEASURE)]


def quality_breaks(lineage: Lineage) -> Breaks:
    """Return every way in which quality.json is not what the stored results of this build's files give."""
    path = lineage.sources["copies"][QUALITY_NAME]
    quality, known = read_record(path, Quality), known_quants(lineage)
    f16_sha256 = lineage.f16_sha256
    of_f16 = [("losses of the F16 file", f16_sha256, quality["inputs"].get("pruned_sha256"))]
    of_f16.append(("losses against the F16 file", lineage.full["sha256"], quality["inputs"].get("full_sha256")))
    found = breaks_of(path, of_f16, MEASURE)
    for entry in quality["files"]:
        _, record = known.get(entry["sha256"], ("", {}))
        if record.get("source_sha256") != f16_sha256:
            found.append(
                InputError(path, f"losses of this build's {entry['label']}", entry["sha256"][:DIGITS], MEASURE)
            )
    if found:
        return found
    measured, chats = quality_again(lineage, quality)
    longest = sum(int(count) + 1 >= quality["inputs"]["max_tokens"] for count in chats.counts["all"])
    again = {
        # Looked at elsewhere (chats, read_breaks); older measurements do not say which file they read.
        **{key: quality[key] for key in UNMADE if key in quality},
        "cut": min(quality["cut"], longest),  # a chat that just fits is not cut
        "chats": len(chats.counts["all"]),
        "tokens": {name: int(counts.sum()) for name, counts in chats.counts.items()},
        "choice_known": bool(read_metadata(lineage.sources["copies"][METADATA_NAME])["method"].get("question_ids")),
        "conclusions": quality_conclusions(measured, chats.counts[quality["score"]]),
        "files": [entry.described() for entry in measured],
    }
    found = made_again(path, "the losses of the stored results", again, quality, MEASURE)
    return found + chat_breaks(lineage, path, quality)
