"""The settings of make in a manifest, which the card's command to reproduce prints.

A reader takes them for what was done. So each setting of make is one of three: RECORDED, which is published as the
records of the release have it, given or not, and not at all where they say nothing of it; NAMED, a place or a name,
which claims nothing and is published in a safe form; LEFT_OUT, which no record bears out, and which is never published.
"""

import re
from pathlib import Path

from files.input_errors import sha256_file
from files.option_types import VERSION_FILE
from quants.recipes import RECIPES, TARGET_SIZE
from release.given_places import draft_place
from release.make_settings import ASKED, CHOSE, PROTOCOL_SETTINGS, question_setting
from release.names import NAME, is_base
from release.question_roles import check_role
from release.recorded_settings import OF_CD, recorded_values
from release.used_quants import SourcePaths

SETTINGS_FILE = VERSION_FILE.parent / "make" / "settings.mk"
PROJECT_DATA = "data/demo"  # the project's own: the only folder whose name is published
OWN_QUESTIONS = {f"{PROJECT_DATA}/{part}_questions.csv" for part in ("calibration", "eval")}

RECORDED = {
    # The metadata of the drop, and the statistics.
    *("KEEP", "CRITERION", "PROTECT_TOP", "DOMAINS", "RECONSTRUCTION", "ALLOW_EMPTY_REASONING", "FOLD", "DROP_MAP"),
    *("CALIBRATION", "NO_IMATRIX", "MMPROJ", "SENSITIVITY_CHATS", "OLLAMA_PARAMS", "CD_CUTS", *OF_CD),
    *("EVAL_QUANT", "SAMPLES", "SCORED", *PROTOCOL_SETTINGS),
    *("QUALITY_CHATS", "QUALITY_SCORE", "LOOP_QUANTS", "LOOP_SEEDS", "LOOP_TOKENS", "DOMAIN_COLUMN", "OTHER_MAPS"),
    *("DRAFT_TYPE", "DRAFT_TOKENS", "DRAFT_QUESTIONS", "ACTIVE_EXPERTS", "ACTIVE_SCORED"),
}
OF_HUB = ("MODEL", "DRAFT")
EMPTIED = ("DRAFT", "MMPROJ")  # what the command falls back to, and an empty setting takes away
TYPE = "|".join([*map(re.escape, RECIPES), TARGET_SIZE.pattern, "all"])
PLACE = re.compile(rf"({PROJECT_DATA}/)?{NAME.pattern}")
NAMED = {
    "RUN": NAME,
    "MODEL": re.compile(rf"{NAME.pattern}/{NAME.pattern}"),  # a Hub id: a local one is known by its digests
    CHOSE: PLACE,
    ASKED: PLACE,
    "DRAFT": re.compile(rf"(({NAME.pattern}|{PROJECT_DATA})/)?{NAME.pattern}|"),  # emptied: none
    "QUANTS": re.compile(rf"({TYPE})( ({TYPE}))*"),
}
LEFT_OUT = {
    # How and where it ran: of no account for what comes out.
    *("FROM", "BUILD", "REPLACE", "HOST_PATIENCE", "LOW_DISK", "V", "YES", "STREAM_LAYERS", "SPILL", "RANKS"),
    *("LOCAL_SERVERS", "SERVERS", "KEEP_F16", "RECOMPUTE_FULL", "RELEASE", "REPO", "UPLOAD", "SEALS", "SEAL_KEY"),
    *(
        "LLAMA_CPP",
        "CMAKE_ARGS",
        "GPU_LAYERS",
        "MOE_TOOLS_CACHE",
        "LAYERS",
        "KILLS",
        "FAULTS",
        "KILL_SEED",
        "N",
        "MUTATE_SEED",
    ),
    # Names of the manifest's own, of which the card takes those that the command needs.
    *("NAME", "PRUNED_NAME", "VARIANT", "EVAL_NAME", "BASE", "LICENSE", "OWNER", "QUANTIZED_BY"),
    # What no record of a release says, or a sentence of the card says better.
    *("MIN_EXPERT_TOKENS", "SHAPE", "BACKEND", "TASK", "TASK_DATA", "TASK_EXAMPLES", "TASK_QUANTS"),
    *("FOLDS", "HELDOUT_QUANT", "RUNS", "COMPARE_IMATRIX", "COMPARE_KEEP", "COMPARE_SEEDS"),
}


def settings_of_make() -> set[str]:
    """Return the names of make's settings."""
    text = SETTINGS_FILE.read_text(encoding="utf-8")
    return set(re.findall(r"^([A-Z][A-Z0-9_]*) \??=", text, re.MULTILINE))


def plain_place(value: str) -> str:
    """Return a path as it may be published: without its folders, unless it is the project's own."""
    path = Path(value)
    return value if str(path.parent) == PROJECT_DATA else path.name


def published_place(name: str, value: str, sources: SourcePaths) -> str | None:
    """Return a place or a name that was given as it may be published, None where it is not that of the release."""
    if name == "DRAFT" and value:
        return draft_place(value, sources)
    return value if name in OF_HUB and is_base(value) else plain_place(value)


def is_own(place: str, digests: dict[str, str]) -> bool:
    """Tell whether a question file of a release is the project's own at a place; digests: sha256 by file name."""
    own = VERSION_FILE.parent / place
    # By its name, too: what somebody lays beside them lies in no other copy of the project.
    return place in OWN_QUESTIONS and own.is_file() and sha256_file(own) == digests.get(own.name)


def recorded_settings(folder: Path, manifest: dict, sources: SourcePaths) -> dict[str, str]:
    """Return the settings that a manifest publishes: all that records hold, and of the given ones places and names."""
    said = recorded_values(folder, manifest, sources)
    kept: dict[str, str] = {}
    for setting in (CHOSE, ASKED):
        if files := question_setting(setting, manifest["inputs"].get("roles") or {}):
            kept[setting] = files[0]
    for name, value in manifest["settings"].items():
        if name in NAMED and (place := published_place(name, value, sources)) is not None:
            if name not in kept or not named_wrongly(name, place, manifest, said):
                kept[name] = place
    kept = {name: value for name, value in kept.items() if not named_wrongly(name, value, manifest, said)}
    return kept | {name: value for name, value in said.items() if name not in kept and (value or name in EMPTIED)}


def named_wrongly(name: str, value: str, manifest: dict, said: dict[str, str]) -> str | None:
    """Return what is expected of a place or a name, None where it is that, or is none of them; said: by the records."""
    if name not in NAMED:
        return None
    if name in (CHOSE, ASKED):  # a file of the release, whatever its name: the card has that as it is
        folder = str(Path(value).parent)
        wrong = check_role(name, value, manifest["inputs"].get("roles") or {})
        ours = folder == "." or folder == PROJECT_DATA and is_own(value, manifest["inputs"].get("questions") or {})
        return wrong or (None if ours else f"{name} without a folder")
    if not NAMED[name].fullmatch(value):
        return f"{name} to be a plain name"
    no_record = {"DRAFT": "DRAFT_TYPE" not in said, "QUANTS": not manifest["records"]}
    if name == "DRAFT" and not value and "DRAFT_TYPE" in said:
        return "the DRAFT that the draft model was made of"
    return f"no {name}, of which the release has no record" if value and no_record.get(name) else None


def said_differences(folder: Path, manifest: dict, sources: SourcePaths) -> list[tuple[str, str]]:
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
        elif name == "DRAFT" and value and draft_place(value, sources) != value:
            found.append(("the DRAFT that the draft model was made of", value))
        elif name not in NAMED and (name not in RECORDED or name not in said):
            found.append((f"no {name}, of which the release has no record", value))
        elif name not in NAMED and value != said[name]:
            found.append((f"{name} {said[name]}, as the records say", value))
    wanted = recorded_settings(folder, manifest, sources)
    absent = wanted.keys() - manifest["settings"].keys()
    return found + [(f"{name} {wanted[name]}, as the records say", "none") for name in sorted(absent)]
