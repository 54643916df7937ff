"""What must be true of a release folder before it is public, one function per gate.

check_release.py runs the gates in order. A gate returns what it looked at and a line for every deviation: PATH:
expected X, found Y. An InputError raised by a gate is a deviation, too. Here are those that look at the folder and
its records. Those that make something again are in remade_gates.py and written_again.py, those that start a program in
running_gates.py, speed_gate.py and sight_gate.py; the rest have a file each.
"""

import re
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path

from cards.card_tables import sample_sentences
from cards.front_matter import check_front_matter
from cards.made_texts import made_texts
from checkpoints.licence import CARD
from choice.drop_metadata import METADATA_NAME
from files.input_errors import InputError, read_whole, sha256_file
from files.json_records import Record, read_record
from gates.checked import Checked, Outcome
from gates.forbidden_texts import machine_names, question_runs, quoted_questions, secrets
from gates.shards_gate import shard_breaks
from ggufs.gguf_header import split_paths
from losses.quality_record import QUALITY_NAME
from quants.draft_record import is_draft
from quants.quant_record import QuantRecord
from quants.recipes import RECIPES
from release.gguf_facts import facts_of
from release.gguf_parts import check_parts, tensors_of
from release.input_facts import input_facts, task_files
from release.manifest import (
    BUILD_AGAIN,
    CHECKPOINT,
    DIGITS,
    MANIFEST,
    STANDARD,
    Manifest,
    PlacedQuant,
    folder_differences,
    listed_paths,
)
from release.names import PLACEHOLDER_OWNER, clashes, is_hub_id, is_standard
from release.order import exceptions, must_exceed
from release.said_settings import said_differences
from release.sources import find_evidence, foreign_copies, read_evidence
from scoring.score_records import SCORES_NAME

MOST_PART_BYTES = 50_000_000_000  # the Hub's limit of one file
SHOWN_LETTERS = 80  # of a line that differs
MADE = (CARD, MANIFEST, "params", "Modelfile")


def files_gate(checked: Checked) -> Outcome:
    """Every file is in the manifest with its size and sha256, and every file of the manifest is there.

    The card names the manifest's repository, and no GGUF file is of another model. The folder may have any name.
    """
    outcome = Outcome(f"{len(checked.manifest['files'])} files, their sizes and sha256, and whose they are")
    outcome.deviations = owner_differences(checked)
    outcome.deviations += map(str, folder_differences(checked.folder, checked.manifest))
    return outcome


def owner_differences(checked: Checked) -> list[str]:
    """Return a line for each name in the card, or of a GGUF file, that is not of the manifest's repository or model."""
    card, begin = checked.folder / CARD, f"{checked.manifest['name']}-"
    repository, text = checked.manifest["repository"], checked.card if card.is_file() else ""
    owner, base = checked.manifest["owner"] or PLACEHOLDER_OWNER, checked.manifest["base"]
    named = {*re.findall(r"^# (.+)$", text, re.MULTILINE)[:1], *re.findall(rf"\b{re.escape(owner)}/([\w.-]*\w)", text)}
    # hf.co/USER/REPO:FILE may explain how Ollama reads any of them, and the base may have the same owner.
    known = {repository, *checked.manifest["siblings"].values(), "REPO", base.removeprefix(f"{owner}/")}
    found = [
        f"{card}: expected the repository {repository}, as {MANIFEST} says, found {other}"
        for other in sorted(named - known)
    ]
    return found + [
        f"{checked.folder / part}: expected a name that begins with {begin}, as {MANIFEST} says, found another"
        for part in checked.types
        if not Path(part).name.startswith(begin)
    ]


def record_differences(checked: Checked) -> list[str]:
    """Return a line for each quant whose record in the manifest is not the build's."""
    own = {name: read_record(path, QuantRecord) for name, path in checked.sources["records"].items()}
    theirs, found = {}, []
    for name, record in checked.records.items():
        theirs[name] = {key: value for key, value in record.items() if key != "files"}  # the manifest's own addition
    for name in sorted(own.keys() | theirs.keys()):
        if own.get(name) != theirs.get(name):
            mine, other = (str(side.get(name, {}).get("sha256", "none"))[:DIGITS] for side in (own, theirs))
            found.append(
                f"{checked.folder / MANIFEST}: expected this build's record of {name} (sha256 {mine}), found another "
                f"(sha256 {other}); it is of another build"
            )
    return found


def copy_differences(checked: Checked) -> list[str]:
    """Return a line for each copied file that is not the build's."""
    found = []
    for name, source in checked.sources["copies"].items():
        copy = checked.folder / name
        absent = next((path for path in (source, copy) if not path.is_file()), None)
        if absent:
            found.append(f"{absent}: expected a file, found nothing; {BUILD_AGAIN}")
        elif source.stat().st_size != copy.stat().st_size or sha256_file(source) != sha256_file(copy):
            found.append(f"{copy}: expected the bytes of this build's {source.name}, found others; {BUILD_AGAIN}")
    return found


def input_differences(checked: Checked) -> list[str]:
    """Return a line for each fact about questions, calibration and project that this build's files do not give."""
    mine, theirs = input_facts(checked.sources), checked.manifest["inputs"]
    said = said_differences(checked.folder, checked.manifest, checked.sources)
    found = [(wanted, repr(other[:SHOWN_LETTERS])) for wanted, other in said]
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key):
            found.append((f"the {key} of this build under 'inputs'", "others"))
    path = checked.folder / MANIFEST
    return [f"{path}: expected {expected}, found {other}; {BUILD_AGAIN}" for expected, other in found]


def build_gate(checked: Checked) -> Outcome:
    """Records and copied files are those of the build that the folder was made from, and nothing else is there.

    The manifest alone cannot show that: whoever edits a file can write its new digest, too.
    """
    copies = checked.sources["copies"]
    outcome = Outcome(f"{len(checked.records)} records and {len(copies)} copied files of this build")
    outcome.deviations = unknown_fields(checked) + record_differences(checked) + copy_differences(checked)
    outcome.deviations += input_differences(checked)
    shards = read_evidence(checked.folder / METADATA_NAME, METADATA_NAME)["shards"]
    known = {*copies, *MADE, *checked.types, *shards}
    # The gate "pictures" refuses those that no record gives, "speed" a draft model that was not measured.
    named = {name for name in copies if name.endswith(".png") or is_draft(Path(name))}
    foreign = foreign_copies(copies, named | checked.manifest.get("mmproj", {}).keys(), checked.kind == CHECKPOINT)
    outcome.deviations += [
        f"{checked.folder / name}: expected a file that build_release.py puts there, found another"
        for name in sorted(set(listed_paths(checked.folder)) - known | foreign)
    ]
    return outcome


def first_differing_line(expected: str, found: str) -> tuple[int, str, str]:
    """Return the number of the first line in which two different texts differ, and both lines with their ends."""
    pairs = zip_longest(expected.splitlines(keepends=True), found.splitlines(keepends=True), fillvalue="")
    return next((number, *pair) for number, pair in enumerate(pairs, 1) if pair[0] != pair[1])


def made_gate(checked: Checked) -> Outcome:
    """Card, params and Modelfile are what the folder's records, headers and evidence give, to the letter."""
    texts = made_texts(checked.folder, checked.manifest, checked.sources["params"].get("params"))
    outcome = Outcome(f"{', '.join(texts)}, made again from the records")
    for name, text in texts.items():
        path = checked.folder / name
        # Decoded by hand: read_text would turn "\r\n" into "\n" and hide that edit.
        found = read_whole(path).decode("utf-8", "replace") if path.is_file() else ""
        if found != text:
            number, expected, line = first_differing_line(text, found)
            outcome.deviations.append(
                f"{path}: expected {expected[:SHOWN_LETTERS]!r} in line {number}, as its records give it, found "
                f"{line[:SHOWN_LETTERS]!r}; {BUILD_AGAIN}"
            )
    return outcome


def unknown_fields(checked: Checked) -> list[str]:
    """Return a line for each field that no record of ours has: whatever it says was not measured."""
    manifest, parts = checked.manifest, checked.manifest["files"].values()
    known: list[tuple[str, dict, type[Record]]] = [(MANIFEST, manifest, Manifest)]
    known += [(name, record, PlacedQuant) for name, record in checked.records.items()]
    found = [(name, sorted(content.keys() - kind.model_fields.keys())) for name, content, kind in known]
    found += [(MANIFEST, sorted(entry.keys() - {"bytes", "sha256"})) for entry in parts]
    return [
        f"{checked.folder / MANIFEST}: expected no field {fields[0]!r} of {name}, found one"
        for name, fields in found
        if fields
    ]


def whole_of(checked: Checked, record: dict) -> Path:
    """Return the build's own file of a split quant; raise InputError when its bytes are not those of the record."""
    name = next(name for name, other in checked.records.items() if other is record)
    whole = checked.sources["records"][name].with_suffix("")
    if not whole.is_file() or sha256_file(whole) != record["sha256"]:
        raise InputError(whole, f"the whole file of sha256 {record['sha256'][:DIGITS]}", "another or none", BUILD_AGAIN)
    return whole


def record_deviations(checked: Checked, record: dict) -> list[str]:
    """Return how a GGUF file differs from its record in experts, weights, tensors per type, sha256 and size.

    Raises InputError when its parts are not those of the record.
    """
    first, entry = checked.first_part(record), checked.manifest["files"][record["files"][0]]
    parts = {path.name for path, _ in tensors_of(first).values()}
    if parts != set(record["files"]):
        raise InputError(first, f"the parts {', '.join(record['files'])}", ", ".join(sorted(parts)))
    pairs = facts_of(record, first)
    if len(record["files"]) == 1:
        pairs += [(what, record[what], entry[what]) for what in ("sha256", "bytes")]
    else:  # a record's digest is that of the whole file
        check_parts(whole_of(checked, record), split_paths(first), MOST_PART_BYTES)
    return [
        f"{first}: expected {what} {expected}, as its record says, found {found}"
        for what, expected, found in pairs
        if expected != found
    ]


def shards_outcome(checked: Checked) -> Outcome:
    """The shards of a checkpoint are those of its metadata, headers and index included."""
    digests = {name: e["sha256"] for name, e in checked.manifest["files"].items() if name.endswith(".safetensors")}
    outcome = Outcome(f"{len(digests)} shards against {METADATA_NAME}: sha256, headers, index")
    found = shard_breaks(checked.folder, digests, checked.sources["origins"].get("source"))
    outcome.deviations = [str(error) for error in found]
    return outcome


def records_gate(checked: Checked) -> Outcome:
    """Every GGUF file has a record and is what that says; the shards of a checkpoint are those of its metadata."""
    if checked.kind == CHECKPOINT:
        return shards_outcome(checked)
    outcome = Outcome(
        f"{len(checked.records)} GGUF files against their records: sha256, experts, weights, tensors per type"
    )
    ggufs = [name for name in sorted(checked.manifest["files"]) if name.endswith(".gguf")]
    outcome.deviations = [
        f"{checked.folder / name}: expected a record in {MANIFEST}, found none"
        for name in ggufs
        # speed_gate.py looks at drafts, sight_gate.py at files for pictures
        if name not in checked.types and name not in checked.manifest.get("mmproj", {}) and not is_draft(Path(name))
    ]
    if not checked.records:
        outcome.deviations.append(f"{checked.folder / MANIFEST}: expected records of GGUF files, found none")
    for record in checked.records.values():
        try:
            outcome.deviations += record_deviations(checked, record)
        except InputError as error:  # one file that cannot be read must not hide what is wrong with the others
            outcome.deviations.append(str(error))
    return outcome


def names_gate(checked: Checked) -> Outcome:
    """No label fetches another file than meant (release/names.py), and all types are of the release's kind."""
    outcome = Outcome(
        f"labels of {len(checked.records)} files by the rules of llama.cpp, Hub and Ollama, a listing",
        applies=checked.kind != CHECKPOINT,
    )
    others = tuple(checked.manifest["files"].keys() - checked.types.keys())
    outcome.deviations = [f"{checked.folder}: {line}" for line in clashes(checked.types, others, tuple(RECIPES))]
    outcome.deviations += [
        f"{checked.folder / part}: expected a type of a {checked.kind} release, found {quant}"
        for part, quant in checked.types.items()
        if is_standard(quant) != (checked.kind == STANDARD)
    ]
    return outcome


def missing_sentences(checked: Checked, sentences: list[str]) -> list[str]:
    """Return a line for each sentence that the card must have and has not."""
    path, text = checked.folder / CARD, checked.card
    return [f"{path}: expected the words {words!r}, found none" for words in sentences if words not in text]


def order_gate(checked: Checked) -> Outcome:
    """XL is larger than L; the card lists what else is out of order in size or, significantly, in KLD."""
    quality = find_evidence(checked.folder, QUALITY_NAME)
    pairs = must_exceed(checked.records)
    outcome = Outcome(
        f"{len(pairs)} quants that must be larger than another, sizes in the order of names, KLD "
        + ("by size" if quality else "was not measured"),
        exceptions=exceptions(checked.records, quality),
        applies=checked.kind != CHECKPOINT,
    )
    outcome.deviations = [
        f"{checked.folder}: expected {name} to be larger than {other}, found it no larger"
        for name, other, holds in pairs
        if not holds
    ]
    outcome.deviations += missing_sentences(checked, outcome.exceptions)
    return outcome


def in_sample_gate(checked: Checked) -> Outcome:
    """The card labels scores on questions that chose the experts, or may have."""
    scores = find_evidence(checked.folder, SCORES_NAME)
    if scores is None:
        return Outcome("the release has no scores", applies=False)
    metadata = read_evidence(checked.folder / METADATA_NAME, METADATA_NAME)
    labels = sample_sentences(scores, metadata, checked.manifest["name"])
    return Outcome(f"the label of the scores: {labels[0]}", missing_sentences(checked, labels))


def card_gate(checked: Checked) -> Outcome:
    """The front matter is one that huggingface_hub reads, and the card names every GGUF file."""
    path = checked.folder / CARD
    outcome = Outcome("front matter of the card, read by huggingface_hub, and its list of files")
    if not path.is_file():
        raise InputError(path, "the card", "nothing")
    text, data = checked.card, check_front_matter(path, checked.kind)
    given = {"license": True, "base_model": is_hub_id(checked.manifest["base"])}
    outcome.deviations = [
        f"{path}: expected {key} in the front matter, as {MANIFEST} says, found none"
        for key, wanted in given.items()
        if wanted and key not in data
    ]
    outcome.deviations += [
        f"{path}: expected {record['files'][0]} in the card, found it missing"
        for record in checked.records.values()
        if record["files"][0] not in text
    ]
    return outcome


def private_gate(checked: Checked) -> Outcome:
    """No token, path, private host or name of this machine is in anything that is published, GGUF headers included."""
    found, unsearched = machine_names(checked.folder)
    left_out = f"; not searched for, since it is a plain word: {', '.join(unsearched)}" if unsearched else ""
    return Outcome(f"tokens, paths, hosts in {len(checked.texts)} texts{left_out}", secrets(checked.texts, found))


def questions_gate(checked: Checked) -> Outcome:
    """No text of the build's questions is in anything that is published."""
    paths = list((checked.sources.get("asked") or checked.sources["questions"]).values())
    paths += [path for files in task_files(checked.sources.get("tasks", {})).values() for path in files]
    if not paths:
        # A pass would say more than is known.
        line = f"{checked.folder}: expected question files to compare with (--questions), found none"
        return Outcome("text of questions", [line])
    known, compared, short = question_runs(paths)
    looked_at = (
        f"{compared} texts of {len(paths)} question files in {len(checked.texts)} texts ({short} more are too short to "
        "recognise)"
    )
    return Outcome(looked_at, quoted_questions(checked.texts, known))


# The order of the report: what the folder holds, what it was made from, what the card must say, what must not be
# public.
GATES: dict[str, Callable[[Checked], Outcome]] = {
    "files": files_gate,
    "build": build_gate,
    "records": records_gate,
    "made": made_gate,
    "names": names_gate,
    "order": order_gate,
    "in-sample": in_sample_gate,
    "card": card_gate,
    "private": private_gate,
    "questions": questions_gate,
}
