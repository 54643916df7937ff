"""What went into a release beside its records: question files and the calibration text, as the manifest keeps them.

`questions`: sha256 by file name, of the second file of one name as NAME (2). `calibration`: of the imatrix record its
text's name and digest and the imatrix's; and `held`, the Record IDs of the questions whose words the calibration text
holds. `fetched`: of those files that a command of ours has fetched, by name, from where. `licence`: what the base's own
card or config names. None where they are not known. `tasks`: sha256 of the question files of each further task. The
gates make them again from the same files. The names of make's settings, and the version, must be this project's, and no
setting may say something else than a record.
"""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chats.questions import read_rows, words_of
from checkpoints.licence import licence_of
from choice.drop_map import OWN_MAP, criterion_of
from files.fetched_files import fetched_from
from files.json_records import read_record
from files.option_types import VERSION_FILE
from files.safe_files import InputError, sha256_file
from ggufs.imatrix import ImatrixRecord

SETTINGS_FILE = VERSION_FILE.parent / "make" / "settings.mk"
V5, V5_NAME = "v5", "calibration_datav5.txt"  # the word of CALIBRATION, and the text that it stands for
# Settings of make by the keys of the protocol that they set.
PROTOCOL_SETTINGS = {
    "CTX": "context",
    "REASONING_BUDGET": "reasoning_budget",
    "MAX_GEN_TOKS": "max_gen_toks",
    "SEED": "seed",
    "NP": "concurrency",
}
OF_QUESTIONS = ("QUESTIONS", "EVAL_QUESTIONS")


def project_differences(manifest: dict) -> list[tuple[str, str]]:
    """Return (expected, found) for what a manifest says of this project, and this project does not.

    A card prints the settings and the version: a name that make does not know would be a line of anybody's own.
    """
    known = set(re.findall(r"^([A-Z_]+) \??=", SETTINGS_FILE.read_text(encoding="utf-8"), re.MULTILINE))
    settings, files = manifest["settings"], manifest["inputs"].get("questions") or {}
    found = [("settings of make", name) for name in sorted(settings.keys() - known)]
    for name in OF_QUESTIONS:
        if name in settings and files and Path(settings[name]).name not in files:
            found.append((f"{name} among {', '.join(files)}", settings[name]))
    defaults = dict(re.findall(r"^([A-Z_]+) \??= *([^ #\n]*)", SETTINGS_FILE.read_text(encoding="utf-8"), re.MULTILINE))
    for name, value in settings.items():
        number = defaults.get(name, "").isdecimal() or (name.endswith("_CHATS") and value)  # QUALITY_CHATS can be empty
        if number and not value.isdecimal() or name == "RUN" and not re.fullmatch(r"[\w.-]*", value):
            found.append((f"{name} to be {'a number' if number else 'a name'}", value))
    version = VERSION_FILE.read_text(encoding="utf-8").strip()
    if manifest["project_version"] != version:
        found.append((f"project_version {version}", manifest["project_version"]))
    return found


def choice_settings(settings: dict[str, str], method: dict) -> list[tuple[str, str]]:
    """Return (expected, found) for each setting of the choice that the map contradicts; method: the map's details."""
    if criterion_of(method) == OWN_MAP:  # what would have chosen is of no account
        return []
    objective, asked = (method.get("reconstruction") or {}).get("objective"), settings.get("RECONSTRUCTION", "")
    of_map = {
        "FOLD": bool(method.get("held_out_question_ids")),
        "DOMAINS": bool(method.get("domains")),
        "DROP_MAP": False,
        "RECONSTRUCTION": objective is None or asked == objective or not {asked, objective} & {"all", "reply"},
    }
    return [
        (f"no {name} but that of the map", settings[name])
        for name, holds in of_map.items()
        if settings.get(name) and not holds
    ]


def said_differences(
    manifest: dict, metadata: dict | None, scores: dict | None, quality: dict | None, loops: dict | None
) -> list[tuple[str, str]]:
    """Return (expected, found) as `project_differences`, and for each setting that says something else than a record.

    The command to make a release again has these settings; a reader takes them for what was done. The others
    are the build's records.
    """
    settings: dict[str, str] = manifest["settings"]
    said: dict[str, set[str]] = {}
    if loops:
        said |= {"LOOP_TOKENS": {str(loops["inputs"]["max_tokens"])}, "LOOP_SEEDS": {str(loops["seeds"])}}
    if calibration := manifest["inputs"].get("calibration"):
        name = calibration["calibration"]
        said["CALIBRATION"] = {name, V5} if name == V5_NAME else {name}
    if scores:
        protocol = scores["protocol"]
        said |= {
            name: {str(protocol.get(key))} for name, key in {**PROTOCOL_SETTINGS, "GPU_LAYERS": "gpu_layers"}.items()
        }
        said |= {"SCORED": {"yes"}, "SAMPLES": {str(len(scores["rows"][0]["seeds"]))}}
        scored, name = next(((row["gguf"], row["name"]) for row in scores["rows"]), ("", ""))
        said["EVAL_QUANT"] = {scored.removeprefix(f"{name}-").removesuffix(".gguf")}
    if quality:
        said["QUALITY_SCORE"] = {quality["score"]}
    found = project_differences(manifest)
    found += choice_settings(settings, metadata["method"] if metadata else {})
    return found + [
        (f"{name} {' or '.join(sorted(values))}, as the records say", settings[name])
        for name, values in said.items()
        if settings.get(name) and Path(settings[name]).name not in values
    ]


def named_digests(paths: list[Path]) -> dict[str, str]:
    """Return the sha256 of files by name; two of one name are two."""
    found: dict[str, str] = {}
    for path in paths:
        count = sum(other.name == path.name for other in paths[: paths.index(path)])
        found[f"{path.name} ({count + 1})" if count else path.name] = sha256_file(path)
    return found


def fetched_files(paths: list[Path]) -> dict[str, str]:
    """Return where files came from that a command of ours has fetched, by name; a name that stands for two is none."""
    names = [path.name for path in paths]
    return {path.name: url for path in paths if names.count(path.name) == 1 and (url := fetched_from(path))}


def held_questions(text: str, files: list[Path]) -> list[str]:
    """Return the Record IDs of the questions of some files whose text another text holds, sorted."""
    # A calibration text has no Record IDs: its questions are known by their text alone.
    where = f" {words_of(text)} "
    rows = [row for path in files for row in read_rows(path)]
    return sorted({row["Record ID"] for row in rows if f" {words_of(row['Question'])} " in where})


def calibration_facts(record: Path, text: Path | None, questions: list[Path]) -> dict[str, Any]:
    """Return what is known of the text that an imatrix was measured on; raise InputError when it is another text now.

    record: beside the imatrix. `held` is None without the text or without questions to look for.
    """
    known = read_record(record, ImatrixRecord, "run `make imatrix`")
    facts = {key: known[key] for key in ("calibration", "calibration_sha256")} | {"imatrix_sha256": known["sha256"]}
    if text is None or not questions:
        return facts | {"held": None}
    if (digest := sha256_file(text)) != known["calibration_sha256"]:
        expected = f"the text of the imatrix, sha256 {known['calibration_sha256'][:12]}"
        raise InputError(text, expected, digest[:12], "run `make imatrix REPLACE=imatrix`")
    return facts | {"held": held_questions(text.read_text(encoding="utf-8", errors="replace"), questions)}


def task_files(sources: dict[str, Path]) -> dict[str, list[Path]]:
    """Return the files of questions and few shots of each further task; sources: paths by "KIND TASK NUMBER"."""
    found: dict[str, list[Path]] = {}
    for key, path in sources.items():
        kind, name, _ = key.split(" ")
        if kind != "run":
            found.setdefault(name, []).append(path)
    return found


def input_facts(sources: dict[str, dict[str, Path]]) -> dict[str, Any]:
    """Return the facts of a release's sources (paths by kind and name): of questions, calibration and licence."""
    questions = list(sources["questions"].values())
    origins = sources["origins"]
    licence = licence_of(origins["source"]) if "source" in origins else None
    tasks = {name: named_digests(paths) for name, paths in task_files(sources.get("tasks", {})).items()}
    fetched = fetched_files(questions + [origins[name] for name in ("calibration",) if name in origins])
    return {
        **({"tasks": tasks} if tasks else {}),  # a release without any is as it was
        **({"fetched": fetched} if fetched else {}),
        "questions": named_digests(questions),
        "calibration": calibration_facts(origins["imatrix"], origins.get("calibration"), questions)
        if "imatrix" in origins
        else None,
        "licence": asdict(licence) if licence else None,
    }
