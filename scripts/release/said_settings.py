"""The settings of make in a manifest, which the card's command to reproduce prints, against the records of the release.

Their names, and the version, must be this project's. No setting may say something else than a record, and a number of
which the release has no record at all is not published: nothing shows that it was used.
"""

import re
from pathlib import Path

from choice.drop_map import OWN_MAP, criterion_of
from choice.drop_metadata import METADATA_NAME
from files.json_records import read_record
from files.option_types import VERSION_FILE
from loops.loop_results import LOOPS_NAME
from losses.quality_record import QUALITY_NAME
from quants.recipes import target_bytes
from quants.target_sizes import Sensitivity
from release.input_facts import PROTOCOL_SETTINGS, V5, V5_NAME
from release.sources import find_evidence
from scoring.score_records import SCORES_NAME
from speed.active_experts import ACTIVE_NAME
from speed.draft_results import DRAFT_NAME

SETTINGS_FILE = VERSION_FILE.parent / "make" / "settings.mk"
OF_QUESTIONS = ("QUESTIONS", "EVAL_QUESTIONS")
# Limits of which fewer may be there: the record's own count says as much, and only that is known.
COUNTS = ("QUALITY_CHATS", "SENSITIVITY_CHATS", "DRAFT_QUESTIONS")


def settings_of_make() -> dict[str, str]:
    """Return the settings of make, with their defaults."""
    text = SETTINGS_FILE.read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Z_]+) \??= *([^ #\n]*)", text, re.MULTILINE))


def number_settings() -> set[str]:
    """Return the names of make's settings that are numbers."""
    return {name for name, value in settings_of_make().items() if value.isdecimal()} | {*COUNTS, "KEEP", "PROTECT_TOP"}


def project_differences(manifest: dict) -> list[tuple[str, str]]:
    """Return (expected, found) for what a manifest says of this project, and this project does not.

    A card prints the settings and the version: a name that make does not know would be a line of anybody's own.
    """
    known = settings_of_make().keys()
    settings, files = manifest["settings"], manifest["inputs"].get("questions") or {}
    found = [("settings of make", name) for name in sorted(settings.keys() - known)]
    for name in OF_QUESTIONS:
        if name in settings and files and Path(settings[name]).name not in files:
            found.append((f"{name} among {', '.join(files)}", settings[name]))
    numbers = number_settings()
    for name, value in settings.items():
        number = name in numbers and (value or name not in COUNTS)  # QUALITY_CHATS can be empty
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


def measured_values(folder: Path) -> dict[str, object]:
    """Return settings of make as the measurements of a release folder have them; None: not recorded."""
    said: dict[str, object] = {}
    if active := find_evidence(folder, ACTIVE_NAME):
        said |= {"QUALITY_CHATS": active["chats"]}
    if quality := find_evidence(folder, QUALITY_NAME):
        said |= {"QUALITY_CHATS": quality["chats"], "GPU_LAYERS": quality["inputs"].get("gpu_layers")}
        said["QUALITY_SCORE"] = quality["score"]
    if draft := find_evidence(folder, DRAFT_NAME):
        said |= {"DRAFT_TYPE": draft["type"], "DRAFT_TOKENS": draft["draft_tokens"]}
        said["DRAFT_QUESTIONS"] = draft["questions"]
    if loops := find_evidence(folder, LOOPS_NAME):
        inputs = loops["inputs"]
        said |= {"LOOP_TOKENS": inputs["max_tokens"], "LOOP_SEEDS": loops["seeds"], "CTX": inputs["context"]}
        said |= {"SEED": inputs["seed"], "GPU_LAYERS": inputs["gpu_layers"]}
    if scores := find_evidence(folder, SCORES_NAME):
        protocol, row = scores["protocol"], scores["rows"][0]
        said |= {name: protocol.get(key) for name, key in {**PROTOCOL_SETTINGS, "GPU_LAYERS": "gpu_layers"}.items()}
        said |= {"SCORED": "yes", "SAMPLES": len(row["seeds"])}
        said["EVAL_QUANT"] = row["gguf"].removeprefix(f"{row['name']}-").removesuffix(".gguf")
    return said


def recorded_values(folder: Path, manifest: dict, sensitivity: Path | None) -> dict[str, set[str]]:
    """Return the settings of make that the records of a release hold, each with the values that say the same.

    sensitivity: the file that AUTO files were made from.
    """
    said = measured_values(folder)
    if metadata := find_evidence(folder, METADATA_NAME):
        said |= {"KEEP": metadata["keep_count"], "PROTECT_TOP": metadata["method"].get("protect_top")}
    if sensitivity and any(target_bytes(record["type"]) for record in manifest["records"].values()):
        said["SENSITIVITY_CHATS"] = read_record(sensitivity, Sensitivity)["inputs"].get("chats")
    found = {name: {str(value)} for name, value in said.items() if value is not None}
    if calibration := manifest["inputs"].get("calibration"):
        name = calibration["calibration"]
        found["CALIBRATION"] = {name, V5} if name == V5_NAME else {name}
    return found


def recorded_settings(folder: Path, manifest: dict, sensitivity: Path | None) -> dict[str, str]:
    """Return a manifest's settings without the numbers of what was not measured; limits as what was there."""
    numbers, said = number_settings(), recorded_values(folder, manifest, sensitivity)
    kept = {name: value for name, value in manifest["settings"].items() if name not in numbers or name in said}
    return {name: min(said[name]) if name in COUNTS else value for name, value in kept.items()}


def said_differences(folder: Path, manifest: dict, sensitivity: Path | None) -> list[tuple[str, str]]:
    """Return (expected, found) as `project_differences`, and for each setting that says something else than a record.

    The command to make a release again has these settings; a reader takes them for what was done.
    """
    settings: dict[str, str] = manifest["settings"]
    said, metadata = recorded_values(folder, manifest, sensitivity), find_evidence(folder, METADATA_NAME)
    found = project_differences(manifest)
    found += choice_settings(settings, metadata["method"] if metadata else {})
    unmeasured = settings.keys() & number_settings() - said.keys()
    found += [(f"no {name}, of which the release has no record", settings[name]) for name in sorted(unmeasured)]
    return found + [
        (f"{name} {' or '.join(sorted(values))}, as the records say", settings[name])
        for name, values in said.items()
        if (settings.get(name) or name in settings and name in COUNTS) and Path(settings[name]).name not in values
    ]
