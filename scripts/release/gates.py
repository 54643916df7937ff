"""What must hold of a release folder before it is public, one function a gate; check_release.py runs them in this order.

A gate returns what it looked at and every deviation, one line each: PATH: expected X, found Y. An InputError raised within
is a deviation, too.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

from choice.drop_map import METADATA_NAME
from files.safe_files import InputError, read_json, sha256_file
from ggufs.gguf_header import read_header
from losses.quality_record import QUALITY_NAME
from quants.recipes import RECIPES
from release.card_tables import sample_sentences
from release.front_matter import check_front_matter
from release.made_texts import CARD, made_texts
from release.names import clashes, is_standard
from release.order import exceptions, must_exceed
from release.published_texts import Published, machine_names, question_runs, quoted_questions, secrets, texts_of
from release.release_files import (
    CHECKPOINT,
    DIGITS,
    MANIFEST,
    STANDARD,
    folder_differences,
    listed_paths,
    read_evidence,
    tensors_of,
)
from scoring.score_records import SCORES_NAME

SHOWN = 80  # characters of a line
MADE = (CARD, MANIFEST, "params", "Modelfile")


@dataclass
class Outcome:
    """What a gate looked at, in words; what does not hold; what is out of order but named; whether it applies at all."""

    looked_at: str
    deviations: list[str] = field(default_factory=list)
    named: list[str] = field(default_factory=list)
    applies: bool = True


@dataclass
class Checked:
    """A release under the gates: its folder and manifest, and what it was made from (paths by kind and name)."""

    folder: Path
    manifest: dict
    sources: dict[str, dict[str, Path]]

    @property
    def kind(self) -> str:
        """What the folder holds, as its manifest says."""
        return self.manifest["kind"]

    @cached_property
    def texts(self) -> list[Published]:
        """Every text that would be public, the manifest included."""
        return [text for name in listed_paths(self.folder) for text in texts_of(self.folder / name, name)]

    def evidence(self, name: str) -> dict | None:
        """Return the JSON of a file of the folder, None when the folder has none."""
        return read_evidence(self.folder / name, name) if (self.folder / name).exists() else None

    def first_part(self, record: dict) -> Path:
        """Return the file of a record, of a split one the first part."""
        return self.folder / record["files"][0]


def files(checked: Checked) -> Outcome:
    """Every file is in the manifest, with its size and sha256, and the other way round."""
    outcome = Outcome(f"{len(checked.manifest['files'])} files, their sizes and sha256")
    if checked.manifest["repository"] != checked.folder.resolve().name:
        outcome.deviations.append(
            f"{checked.folder / MANIFEST}: expected the manifest of {checked.folder.resolve().name}, found that of "
            f"{checked.manifest['repository']}"
        )
    outcome.deviations += map(str, folder_differences(checked.folder, checked.manifest))
    return outcome


def build(checked: Checked) -> Outcome:
    """The manifest's records and every copied file are those of the build that the folder was made from; nothing else is there."""
    held, copies = checked.manifest["records"], checked.sources["copies"]
    outcome = Outcome(f"{len(held)} records and {len(copies)} copied files of this build")
    own = {name: read_json(path) for name, path in checked.sources["records"].items()}
    theirs = {
        name: {key: value for key, value in record.items() if key != "files"}
        for name, record in checked.manifest["records"].items()
    }
    for name in sorted(own.keys() | theirs.keys()):
        if own.get(name) != theirs.get(name):
            digest = [str((side.get(name) or {}).get("sha256", "none"))[:DIGITS] for side in (own, theirs)]
            outcome.deviations.append(
                f"{checked.folder / MANIFEST}: expected this build's record of {name} (sha256 {digest[0]}), found another "
                f"(sha256 {digest[1]}); it is of another build"
            )
    for name, path in copies.items():
        place = checked.folder / name
        if not path.is_file() or not place.is_file():
            outcome.deviations.append(
                f"{place if path.is_file() else path}: expected a file, found nothing; run `make release`"
            )
        elif sha256_file(path) != sha256_file(place):
            outcome.deviations.append(
                f"{place}: expected the bytes of this build's {path.name}, found others; run `make release`"
            )
    known = {
        *copies,
        *MADE,
        *(part for record in held.values() for part in record["files"]),
        *(read_json(checked.folder / METADATA_NAME)["shards"]),
    }
    outcome.deviations += [
        f"{checked.folder / name}: expected a file that build_release.py puts there, found another"
        for name in sorted(set(listed_paths(checked.folder)) - known)
    ]
    return outcome


def made(checked: Checked) -> Outcome:
    """Card, params and Modelfile are what the folder's records, headers and evidence give, to the letter."""
    texts = made_texts(checked.folder, checked.manifest, checked.sources["params"].get("params"))
    outcome = Outcome(f"{', '.join(texts)}, made again from the records")
    for name, text in texts.items():
        found = (
            (checked.folder / name).read_bytes().decode("utf-8", "replace") if (checked.folder / name).is_file() else ""
        )
        if found != text:
            pairs = zip_longest(text.splitlines(keepends=True), found.splitlines(keepends=True), fillvalue="")
            line, wanted, there = next((number, *pair) for number, pair in enumerate(pairs, 1) if pair[0] != pair[1])
            outcome.deviations.append(
                f"{checked.folder / name}: expected {wanted[:SHOWN]!r} in line {line}, as its records give it, found "
                f"{there[:SHOWN]!r}; run `make release`"
            )
    return outcome


def record_deviations(checked: Checked, record: dict) -> list[str]:
    """Return how a GGUF file differs from its record: files, sha256, experts, weights, tensors per type."""
    first, entry = checked.first_part(record), checked.manifest["files"][record["files"][0]]
    tensors = tensors_of(first)
    if {path.name for path, _ in tensors.values()} != set(record["files"]):
        raise InputError(
            first,
            f"the parts {', '.join(record['files'])}",
            ", ".join(sorted({path.name for path, _ in tensors.values()})),
        )
    header = read_header(first)
    types, wanted = Counter(tensor.kind.name for _, tensor in tensors.values()), Counter()
    for kind, count in record["tensors_per_type"].items():
        wanted[kind.split("<")[0]] += count
    weights = sum(math.prod(tensor.dims) for _, tensor in tensors.values())
    experts = header.value(f"{header.value('general.architecture')}.expert_count") or 0
    pairs = [
        ("experts", record["experts"], experts),
        ("weights", record["parameters"], weights),
        ("tensors per type", dict(wanted), dict(types)),
    ]
    if len(record["files"]) == 1:
        pairs += [(what, record[what], entry[what]) for what in ("sha256", "bytes")]
    return [
        f"{first}: expected {what} {expected}, as its record says, found {found}"
        for what, expected, found in pairs
        if expected != found
    ]


def records(checked: Checked) -> Outcome:
    """Every GGUF file has a record and is what that says; the shards of a checkpoint are those of its metadata."""
    held = checked.manifest["records"]
    outcome = Outcome(f"{len(held)} GGUF files against their records: sha256, experts, weights, tensors per type")
    if checked.kind == CHECKPOINT:
        shards = read_evidence(checked.folder / METADATA_NAME, METADATA_NAME)["shards"]
        outcome.looked_at = f"{len(shards)} shards against {METADATA_NAME}: sha256"
        found = {
            name: entry["sha256"] for name, entry in checked.manifest["files"].items() if name.endswith(".safetensors")
        }
        if found != shards:
            outcome.deviations.append(
                f"{checked.folder / METADATA_NAME}: expected the digests of {', '.join(sorted(found))}, found others"
            )
        return outcome
    known = {part for record in held.values() for part in record["files"]}
    outcome.deviations += [
        f"{checked.folder / name}: expected a record in {MANIFEST}, found none"
        for name in sorted(checked.manifest["files"])
        if name.endswith(".gguf") and name not in known
    ]
    if not held:
        outcome.deviations.append(f"{checked.folder / MANIFEST}: expected records of GGUF files, found none")
    for record in held.values():
        try:
            outcome.deviations += record_deviations(checked, record)
        except InputError as error:
            outcome.deviations.append(str(error))
    return outcome


def names(checked: Checked) -> Outcome:
    """No label fetches another file than meant (release_names.py)."""
    quants = {part: record["type"] for record in checked.manifest["records"].values() for part in record["files"]}
    others = tuple(checked.manifest["files"].keys() - quants.keys())
    outcome = Outcome(
        f"labels of {len(checked.manifest['records'])} files by the rules of llama.cpp, Hub and Ollama, a listing",
        applies=checked.kind != CHECKPOINT,
    )
    outcome.deviations = [f"{checked.folder}: {line}" for line in clashes(quants, others, tuple(RECIPES))]
    outcome.deviations += [
        f"{checked.folder / part}: expected a type of a {checked.kind} release, found {quant}"
        for part, quant in quants.items()
        if is_standard(quant) != (checked.kind == STANDARD)
    ]
    return outcome


def order(checked: Checked) -> Outcome:
    """XL > L; quants fall in size and, beyond the error, rise in KLD, or are named in the card."""
    held, quality = checked.manifest["records"], checked.evidence(QUALITY_NAME)
    pairs = must_exceed(held)
    outcome = Outcome(
        f"{len(pairs)} quants that must exceed another; sizes in the order of names; KLD "
        + ("by size" if quality else "was not measured"),
        applies=checked.kind != CHECKPOINT,
    )
    outcome.deviations = [
        f"{checked.folder}: expected {name} to be larger than {other}, found it no larger"
        for name, other, holds in pairs
        if not holds
    ]
    text = (checked.folder / "README.md").read_text(encoding="utf-8")
    for sentence in exceptions(held, quality):
        outcome.named.append(sentence)
        if sentence not in text:
            outcome.deviations.append(f"{checked.folder / 'README.md'}: expected the words {sentence!r}, found no such")
    return outcome


def labels(checked: Checked) -> Outcome:
    """A score on questions that chose the experts, or may have, is labelled so in the card."""
    scores = checked.evidence(SCORES_NAME)
    if scores is None:
        return Outcome("the release has no scores", applies=False)
    wanted = sample_sentences(
        scores, read_evidence(checked.folder / METADATA_NAME, METADATA_NAME), checked.manifest["name"]
    )
    text = (checked.folder / "README.md").read_text(encoding="utf-8")
    return Outcome(
        f"the label of the scores: {wanted[0]}",
        [
            f"{checked.folder / 'README.md'}: expected the words {words!r}, found no such"
            for words in wanted
            if words not in text
        ],
    )


def card_gate(checked: Checked) -> Outcome:
    """The front matter is one that huggingface_hub reads, and every GGUF file is in the card."""
    path = checked.folder / "README.md"
    outcome = Outcome("front matter of the card, read by huggingface_hub, and its list of files")
    if not path.is_file():
        raise InputError(path, "the card", "nothing")
    text = path.read_text(encoding="utf-8")
    data = check_front_matter(path, checked.kind)
    for key, missing in (
        ("license", "licence: none was given"),
        ("base_model", "base model on the Hub: the base is a local one"),
    ):
        if key not in data and missing not in text:
            outcome.deviations.append(
                f"{path}: expected {key} in the front matter, or that it is missing, found neither"
            )
    outcome.deviations += [
        f"{path}: expected {record['files'][0]} in the card, found it missing"
        for record in checked.manifest["records"].values()
        if record["files"][0] not in text
    ]
    return outcome


def private(checked: Checked) -> Outcome:
    """No token, path, private host or name of this machine in anything that is published, GGUF headers included."""
    found, unsearched = machine_names(checked.folder)
    left_out = f"; not searched for, a plain word: {', '.join(unsearched)}" if unsearched else ""
    return Outcome(f"tokens, paths, hosts in {len(checked.texts)} texts{left_out}", secrets(checked.texts, found))


def question_texts(checked: Checked) -> Outcome:
    """No text of the build's questions in anything that is published."""
    paths = list(checked.sources["questions"].values())
    if not paths:
        return Outcome(
            "text of questions",
            [f"{checked.folder}: expected question files to compare with (--questions), found none"],
        )
    known, compared, short = question_runs(paths)
    return Outcome(
        f"{compared} texts of {len(paths)} question files in {len(checked.texts)} texts ({short} texts are too short to be "
        "told)",
        quoted_questions(checked.texts, known),
    )


GATES: dict[str, Callable[[Checked], Outcome]] = {
    "files": files,
    "build": build,
    "records": records,
    "made": made,
    "names": names,
    "order": order,
    "in-sample": labels,
    "card": card_gate,
    "private": private,
    "questions": question_texts,
}
