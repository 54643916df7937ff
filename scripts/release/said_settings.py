"""The settings of make in a manifest, which the card's command to reproduce prints.

A reader takes them for what was done. So each setting of make is one of three: RECORDED, which is published as the
records of the release have it, and not at all where they say nothing of it; NAMED, a place or a name, which claims
nothing and is published in a safe form; LEFT_OUT, which no record bears out, and which is never published.
"""

import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

from choice.drop_map import OWN_MAP, criterion_of
from choice.drop_metadata import METADATA_NAME
from choice.expert_stats import read_stats
from files.json_records import read_record
from files.option_types import VERSION_FILE
from loops.loop_results import LOOPS_NAME
from losses.quality_record import QUALITY_NAME
from quants.quant_record import COPIED
from quants.recipes import RECIPES, TARGET_SIZE, target_bytes
from quants.target_sizes import Sensitivity
from release.make_settings import ASKED, CHOSE, PROTOCOL_SETTINGS, calibration_setting
from release.manifest import CHECKPOINT
from release.names import NAME, is_base
from release.question_roles import check_role
from release.sources import find_evidence
from scoring.score_records import SCORES_NAME, in_a_row
from speed.active_experts import ACTIVE_NAME
from speed.draft_results import DRAFT_NAME

Sources = Mapping[str, Mapping[str, Path]]
SETTINGS_FILE = VERSION_FILE.parent / "make" / "settings.mk"
PROJECT_DATA = "data/demo"  # the project's own: the only folder whose name is published

RECORDED = {
    # The metadata of the drop, and the statistics.
    *("KEEP", "CRITERION", "PROTECT_TOP", "DOMAINS", "RECONSTRUCTION", "ALLOW_EMPTY_REASONING", "FOLD"),
    *("CALIBRATION", "NO_IMATRIX", "MMPROJ", "SENSITIVITY_CHATS", "OLLAMA_PARAMS"),
    *("CD_RULE", "CD_RECIPE", "CD_CUTS", "CD_TIERS", "CD_SCOPE", "CD_PROTECT"),  # the records of CD files
    *("EVAL_QUANT", "SAMPLES", "SCORED", "GPU_LAYERS", *PROTOCOL_SETTINGS),
    *("QUALITY_CHATS", "QUALITY_SCORE", "LOOP_QUANTS", "LOOP_SEEDS", "LOOP_TOKENS"),
    *("DRAFT_TYPE", "DRAFT_TOKENS", "DRAFT_QUESTIONS"),
}
OF_HUB = ("MODEL", "DRAFT")
TYPE = "|".join([*map(re.escape, RECIPES), TARGET_SIZE.pattern, "all"])
PLACE = re.compile(rf"({PROJECT_DATA}/)?{NAME.pattern}")
NAMED = {
    "RUN": NAME,
    "MODEL": re.compile(rf"({NAME.pattern}/)?{NAME.pattern}"),  # a Hub id, or a place
    CHOSE: PLACE,
    ASKED: PLACE,
    "DROP_MAP": PLACE,
    "DRAFT": re.compile(rf"(({NAME.pattern}|{PROJECT_DATA})/)?{NAME.pattern}|"),  # emptied: none
    "QUANTS": re.compile(rf"({TYPE})( ({TYPE}))*"),
}
LEFT_OUT = {
    # How and where it ran: of no account for what comes out.
    *("FROM", "BUILD", "REPLACE", "HOST_PATIENCE", "LOW_DISK", "V", "YES", "STREAM_LAYERS", "SPILL", "RANKS"),
    *("LOCAL_SERVERS", "SERVERS", "KEEP_F16", "RECOMPUTE_FULL", "RELEASE", "REPO", "UPLOAD", "SEALS", "SEAL_KEY"),
    *("LLAMA_CPP", "CMAKE_ARGS", "MOE_TOOLS_CACHE", "LAYERS", "KILLS", "FAULTS", "KILL_SEED", "N", "MUTATE_SEED"),
    # Names of the manifest's own, of which the card takes those that the command needs.
    *("NAME", "PRUNED_NAME", "VARIANT", "EVAL_NAME", "BASE", "LICENSE", "OWNER", "QUANTIZED_BY"),
    # What no record of a release says, or a sentence of the card says better.
    *("MIN_EXPERT_TOKENS", "SHAPE", "BACKEND", "TASK", "TASK_DATA", "TASK_EXAMPLES", "TASK_QUANTS"),
    *("FOLDS", "HELDOUT_QUANT", "RUNS", "COMPARE_IMATRIX", "COMPARE_KEEP", "COMPARE_SEEDS", "DOMAIN_COLUMN"),
    *("OTHER_MAPS", "ACTIVE_EXPERTS", "ACTIVE_SCORED"),
}


def settings_of_make() -> set[str]:
    """Return the names of make's settings."""
    text = SETTINGS_FILE.read_text(encoding="utf-8")
    return set(re.findall(r"^([A-Z][A-Z0-9_]*) \??=", text, re.MULTILINE))


def plain_place(value: str) -> str:
    """Return a path as it may be published: without its folders, unless it is the project's own."""
    path = Path(value)
    return value if str(path.parent) == PROJECT_DATA else path.name


def fold_of(method: dict, ids: list[str]) -> str | None:
    """Return the fold that a choice held out, as I/K; None where it is none, or not known. ids: of the statistics."""
    held = {*method.get("held_out_question_ids", [])}
    places = [place for place, record_id in enumerate(ids) if record_id in held]
    if len(places) < 2 or {*ids} - held != {*method.get("question_ids", [])}:
        return None
    folds = places[1] - places[0]
    every = places == [*range(places[0], len(ids), folds)] and places[0] < folds
    return f"{places[0] + 1}/{folds}" if every else None


def chosen_values(metadata: dict, statistics: Path | None) -> dict[str, object]:
    """Return settings of make as the metadata of a drop, and the statistics that it was chosen from, have them."""
    method, said = metadata["method"], {"KEEP": metadata["keep_count"]}
    if criterion_of(method) == OWN_MAP:  # what would have chosen is of no account
        return said
    said |= {"CRITERION": criterion_of(method), "PROTECT_TOP": method.get("protect_top")}
    if method.get("held_out_question_ids") and statistics and statistics.suffix == ".safetensors":
        said["FOLD"] = fold_of(method, [question["id"] for question in read_stats(statistics)[1]["questions"]])
    said["RECONSTRUCTION"] = (method.get("reconstruction") or {}).get("objective")
    words = [f"{one['name']}:{one['weight']:g}:{one['floor']:g}" for one in method.get("domains", [])]
    if words and all(NAME.fullmatch(one["name"]) for one in method["domains"]):
        said["DOMAINS"] = " ".join(words)
    asked = len(method.get("question_ids", []))
    if asked and (method.get("analysis") or {}).get("empty_reasonings") == asked:
        said["ALLOW_EMPTY_REASONING"] = "yes"
    return said


def shares(cuts: list[float]) -> str:
    """Return the cuts of a CD recipe as make takes them."""
    parts = [Fraction(cut).limit_denominator(10_000) for cut in cuts]
    return ",".join(str(part) if float(part) == cut else repr(cut) for part, cut in zip(parts, cuts))


def quantised_values(manifest: dict, sources: Sources) -> dict[str, object]:
    """Return settings of make as the records of a release's files have them."""
    records, said = list(manifest["records"].values()), dict[str, object]()
    if manifest["kind"] == CHECKPOINT:
        return said
    plain = [r["type"] for r in records if r["imatrix_sha256"] is None and r["base"] not in COPIED]
    said["NO_IMATRIX"] = " ".join(plain) or None
    said["MMPROJ"] = " ".join(record["type"] for record in manifest.get("mmproj", {}).values())
    for record in records:
        for name in ("CD_RULE", "CD_RECIPE", "CD_TIERS", "CD_SCOPE", "CD_PROTECT"):
            said[name] = record.get(name.lower()) or said.get(name)
        if record.get("cd_cuts"):
            said["CD_CUTS"] = shares(record["cd_cuts"])
    sensitivity = sources["origins"].get("sensitivity")
    if sensitivity and any(target_bytes(record["type"]) for record in records):
        said["SENSITIVITY_CHATS"] = read_record(sensitivity, Sensitivity)["inputs"].get("chats")
    if params := sources["params"].get("params"):
        words = re.fullmatch(r"gemma4-([a-z]+)\.params\.json", params.name)
        said["OLLAMA_PARAMS"] = words[1] if words else None
    return said


def measured_values(folder: Path, name: str) -> dict[str, object]:
    """Return settings of make as the measurements of a release folder have them; name: of the released model."""
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
        own = [row["gguf"] for row in loops["rows"] if row["gguf"].startswith(f"{name}-")]
        said["LOOP_QUANTS"] = " ".join(gguf.removeprefix(f"{name}-").removesuffix(".gguf") for gguf in own)
    said["SCORED"] = "no"
    if scores := find_evidence(folder, SCORES_NAME):
        protocol, row = scores["protocol"], scores["rows"][0]
        said |= {name: protocol.get(key) for name, key in {**PROTOCOL_SETTINGS, "GPU_LAYERS": "gpu_layers"}.items()}
        said |= {"SCORED": "yes", "SAMPLES": len(row["seeds"]) if in_a_row(row["seeds"]) else None}
        said["EVAL_QUANT"] = row["gguf"].removeprefix(f"{row['name']}-").removesuffix(".gguf")
    return said


def recorded_values(folder: Path, manifest: dict, sources: Sources) -> dict[str, str]:
    """Return the settings of make that the records of a release hold; sources: paths by kind and name."""
    metadata = find_evidence(folder, METADATA_NAME)
    said = chosen_values(metadata, sources["origins"].get("statistics")) if metadata else {}
    said |= quantised_values(manifest, sources) | measured_values(folder, manifest["name"])
    said["CALIBRATION"] = calibration_setting(manifest["inputs"]) or None
    return {name: str(value) for name, value in said.items() if value is not None}


def recorded_settings(folder: Path, manifest: dict, sources: Sources) -> dict[str, str]:
    """Return of a manifest's settings those that may be published, with the values of the records."""
    said, kept = recorded_values(folder, manifest, sources), {}
    for name, value in manifest["settings"].items():
        if name in RECORDED and name in said:
            kept[name] = said[name]
        elif name in NAMED:
            kept[name] = value if name in OF_HUB and is_base(value) else plain_place(value)
    return {name: value for name, value in kept.items() if not named_wrongly(name, value, manifest, said)}


def named_wrongly(name: str, value: str, manifest: dict, said: dict[str, str]) -> str | None:
    """Return what is expected of a place or a name, None where it is that, or is none of them; said: by the records."""
    files = manifest["inputs"].get("questions") or {}
    if name not in NAMED:
        return None
    if not NAMED[name].fullmatch(value):
        return f"{name} to be a plain name"
    if name in (CHOSE, ASKED) and (wrong := check_role(name, value, files, manifest["inputs"].get("roles") or {})):
        return wrong
    no_record = {"DROP_MAP": "CRITERION" in said, "DRAFT": "DRAFT_TYPE" not in said, "QUANTS": not manifest["records"]}
    return f"no {name}, of which the release has no record" if value and no_record.get(name) else None


def said_differences(folder: Path, manifest: dict, sources: Sources) -> list[tuple[str, str]]:
    """Return (expected, found) for the version, and each setting, that the project or a record does not bear out."""
    known, said, found = settings_of_make(), recorded_values(folder, manifest, sources), []
    version = VERSION_FILE.read_text(encoding="utf-8").strip()
    if manifest["project_version"] != version:
        found.append((f"project_version {version}", manifest["project_version"]))
    for name, value in manifest["settings"].items():
        if name not in known:
            found.append(("settings of make", name))
        elif wrong := named_wrongly(name, value, manifest, said):
            found.append((wrong, value))
        elif name not in NAMED and (name not in RECORDED or name not in said):
            found.append((f"no {name}, of which the release has no record", value))
        elif name not in NAMED and value != said[name]:
            found.append((f"{name} {said[name]}, as the records say", value))
    return found
