"""The settings of make as the records of a release hold them, whether somebody gave them or they were the defaults.

Two records that hold other values of one setting are not of one command, and are refused.
"""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

from checkpoints.checkpoint import read_config
from checkpoints.towers import configured_towers
from choice.drop_map import OWN_MAP, criterion_of
from choice.drop_metadata import METADATA_NAME
from choice.expert_stats import stats_metadata
from files.display import exactly
from files.input_errors import InputError
from files.json_records import read_record
from findings.findings_record import FINDINGS_NAME
from loops.loop_results import LOOPS_NAME
from losses.quality_record import QUALITY_NAME, measured_chats
from ollama.own_files import name_of_params
from quants.recipes import target_bytes
from quants.sensitivity_record import Sensitivity
from release.given_places import (
    ASSISTANT_PLACE,
    MODEL_PLACE,
    OWN_MAP_PLACE,
    check_assistant_given,
    check_hub_ids,
    name_of_map,
)
from release.make_settings import PROTOCOL_SETTINGS, calibration_setting, fold_of, takes_domain
from release.manifest import CHECKPOINT
from release.sources import find_evidence
from release.used_quants import SourcePaths, evaluated_types, types_with, types_without, used_quants
from scoring.score_records import SCORES_NAME, in_a_row
from speed.active_experts import ACTIVE_NAME
from speed.draft_results import DRAFT_NAME

Values = dict[str, object]  # None: the record says nothing of it
OF_CD = ("CD_RULE", "CD_RECIPE", "CD_TIERS", "CD_SCOPE", "CD_PROTECT")
ONE_COMMAND = "measure or make it again by the settings of the rest"


def chosen_values(metadata: dict, statistics: Path | None, own_map: Path | None) -> Values:
    """Return settings of make as the metadata of a drop, and the statistics that it was chosen from, have them.

    own_map: the map that was given, where the experts were dropped by one.
    """
    method, said, known = metadata["method"], Values(KEEP=metadata["keep_count"]), stats_metadata(statistics)
    analysed = known.get("questions", [])
    if analysed and all(question.get("empty_reasoning") for question in analysed):
        said["ALLOW_EMPTY_REASONING"] = "yes"
    if criterion_of(method) == OWN_MAP:  # what would have chosen is of no account
        return said | {"DROP_MAP": name_of_map(method, own_map)}
    said |= {"CRITERION": criterion_of(method), "PROTECT_TOP": method.get("protect_top")}
    if method.get("held_out_question_ids") and analysed:
        said["FOLD"] = fold_of(method, [question["id"] for question in analysed])
    # The statistics have it, whatever criterion chose.
    of_analysis = known.get("reconstruction") or method.get("reconstruction") or {}
    said["RECONSTRUCTION"] = of_analysis.get("objective")
    words = [f"{d['name']}:{exactly(d['weight'])}:{exactly(d['floor'])}" for d in method.get("domains", [])]
    if words and all(takes_domain(one["name"]) for one in method["domains"]):
        said["DOMAINS"] = " ".join(words)
    return said


def shares(cuts: list[float]) -> str:
    """Return the cuts of a CD recipe as make takes them."""
    parts = [Fraction(cut).limit_denominator(10_000) for cut in cuts]
    return ",".join(str(part) if float(part) == cut else repr(cut) for part, cut in zip(parts, cuts))


def recipe_values(record: dict) -> Values:
    """Return settings of make as the record of one quant has them."""
    if not record.get("cd_scope"):
        return {}
    said: Values = {name: record.get(name.lower()) for name in OF_CD}
    # One that was not given is said, too: a second file of other tiers is not made by the same command.
    return said | {"CD_TIERS": said["CD_TIERS"] or "", "CD_CUTS": shares(record.get("cd_cuts") or [])}


def quantised_values(manifest: dict, sources: SourcePaths) -> Values:
    """Return settings of make that choose and make the files of a release, beside those of one file alone."""
    used = [record for _, record in used_quants(sources)]
    plain = types_without(used) - types_with(used)  # of one made both ways the manifest's `by_hand` speaks
    said = Values(NO_IMATRIX=" ".join(sorted(plain)) or None)
    if manifest["kind"] == CHECKPOINT:
        return said
    types = " ".join(record["type"] for record in manifest.get("mmproj", {}).values())
    sees = configured_towers(read_config(sources["copies"][METADATA_NAME].parent))
    said["MMPROJ"] = types if types or sees else None  # of a model that sees make adds files for pictures by itself
    sensitivity = sources["origins"].get("sensitivity")
    if sensitivity and any(target_bytes(record["type"]) for record in used):
        said["SENSITIVITY_CHATS"] = read_record(sensitivity, Sensitivity)["inputs"].get("chats")
    if params := sources["params"].get("params"):
        said["OLLAMA_PARAMS"] = name_of_params(params)
    return said


def score_values(scores: dict) -> Values:
    """Return settings of make as the scores have them."""
    protocol, row = scores["protocol"], scores["rows"][0]
    said: Values = {name: protocol.get(key) for name, key in PROTOCOL_SETTINGS.items()}
    said |= {"SCORED": "yes", "SAMPLES": len(row["seeds"]) if in_a_row(row["seeds"]) else None}
    return said | {"EVAL_QUANT": row["gguf"].removeprefix(f"{row['name']}-").removesuffix(".gguf")}


def loop_values(loops: dict, name: str) -> Values:
    """Return settings of make as the record of loops has them; name: of the released model."""
    inputs, begin = loops["inputs"], f"{name}-"
    # The full model's row comes first; its name may begin with that of the pruned one.
    own = [row["gguf"] for row in loops["rows"][1:] if row["gguf"].startswith(begin)]
    said = Values(LOOP_TOKENS=inputs["max_tokens"], LOOP_SEEDS=loops["seeds"])
    said |= {"CTX": inputs["context"], "SEED": inputs["seed"]}
    return said | {"LOOP_QUANTS": " ".join(gguf.removeprefix(begin).removesuffix(".gguf") for gguf in own)}


def draft_values(draft: dict | None) -> Values:
    """Return settings of make as the record of a draft model has them; None: there is none."""
    if draft is None:
        return Values(DRAFT="")
    said = Values(DRAFT_TYPE=draft["type"], CTX=draft["context"])
    return said | {"DRAFT_TOKENS": draft["draft_tokens"], "DRAFT_QUESTIONS": draft["questions"]}


def active_values(active: dict) -> Values:
    """Return settings of make as the record of fewer active experts has them."""
    scored = any(row["right"] is not None for row in active["rows"])
    said = Values(ACTIVE_EXPERTS=" ".join(str(row["experts"]) for row in active["rows"]))
    said |= {"ACTIVE_SCORED": "yes" if scored else None, "MAX_GEN_TOKS": active["max_tokens"] if scored else None}
    said |= {"QUALITY_CHATS": active["chats"]}
    budget = active["reasoning_budget"]
    said |= {"REASONING_BUDGET": budget if budget >= 0 else None}  # make gives one
    return said | {"CTX": active["context"]}


def records_of(folder: Path, manifest: dict, sources: SourcePaths) -> Iterable[tuple[object, Values]]:
    """Yield each record of a release and the settings that it holds; sources: paths by kind and name."""
    if metadata := find_evidence(folder, METADATA_NAME):
        origins = sources["origins"]
        yield METADATA_NAME, chosen_values(metadata, origins.get("statistics"), origins.get(OWN_MAP_PLACE))
    yield "the files of the release", quantised_values(manifest, sources)
    for path, record in used_quants(sources):
        yield path, recipe_values(record)
    if scores := find_evidence(folder, SCORES_NAME):
        yield SCORES_NAME, score_values(scores)
    else:
        types = [kind for kinds in evaluated_types(sources["copies"]).values() for kind in sorted(kinds)]
        yield SCORES_NAME, {"SCORED": "no", "EVAL_QUANT": next(iter(types), None)}
    if loops := find_evidence(folder, LOOPS_NAME):
        yield LOOPS_NAME, loop_values(loops, manifest["name"])
    if findings := find_evidence(folder, FINDINGS_NAME):
        maps = [path.name for name, path in sources["origins"].items() if name.startswith("findings map-")]
        column = (findings.get("specialisation") or {}).get("column")
        yield FINDINGS_NAME, {"DOMAIN_COLUMN": column, "OTHER_MAPS": " ".join(maps) or None}
    check_hub_ids(manifest["settings"], origins.get(MODEL_PLACE), origins.get(ASSISTANT_PLACE))
    active, quality = find_evidence(folder, ACTIVE_NAME), find_evidence(folder, QUALITY_NAME)
    if manifest["kind"] != CHECKPOINT:
        check_assistant_given(sources)
        yield DRAFT_NAME, draft_values(find_evidence(folder, DRAFT_NAME))
        # Of all chats that may be taken, losses leave out what the calibration text holds, so these may be fewer.
        yield ACTIVE_NAME, {**(active_values(active) if active else {}), **({"QUALITY_CHATS": None} if quality else {})}
    if quality:
        yield QUALITY_NAME, {"QUALITY_CHATS": measured_chats(quality, active), "QUALITY_SCORE": quality["score"]}
    yield "the calibration text", {"CALIBRATION": calibration_setting(manifest["inputs"]) or None}


def recorded_values(folder: Path, manifest: dict, sources: SourcePaths) -> dict[str, str]:
    """Return the settings of make that the records of a release hold; sources: paths by kind and name.

    Raises InputError for two values of one setting.
    """
    said: dict[str, str] = {}
    for record, values in records_of(folder, manifest, sources):
        for name, value in values.items():
            if value is not None and said.setdefault(name, str(value)) != str(value):
                expected = f"{name} to be {said[name] or 'empty'}, as in the other records of the release"
                raise InputError(record, expected, str(value) or "none", ONE_COMMAND)
    return said
