"""Settings of make by what the records of a release have in their place."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

V5, V5_NAME = "v5", "calibration_datav5.txt"  # the word of CALIBRATION, and the text that it stands for
DOMAIN = re.compile(r"[^\s:;&|<>(){}\[\]*?`\"\\%#'$]+")  # a name that make takes as one word
# What a question file was for, by a setting of make that says so.
CHOSE, ASKED, MEASURED, ESTIMATED = "QUESTIONS", "EVAL_QUESTIONS", "QUALITY_CHATS", "SENSITIVITY_CHATS"
COUNTED, TEXT, DOMAIN_FILE, FOUND, DRAWN = "CD_RULE", "CALIBRATION", "DOMAINS", "DOMAIN_COLUMN", "DROP_MAP"
USES = {
    CHOSE: "whose questions chose the experts",
    COUNTED: "over whose questions statistics ranked the layers of CD files",
    DRAWN: "over whose questions statistics stand in the pictures of the experts",
    DOMAIN_FILE: "which names the questions of a domain of the choice",
    FOUND: "by whose domains the findings were measured",
    TEXT: "whose chats the importance matrix was measured on",
    ASKED: "whose questions were asked",
    MEASURED: "on the first of whose questions losses or speeds were measured",
    ESTIMATED: "by chats of the first of whose questions the types of AUTO files were chosen",
}
# Settings of make by the keys of the protocol that they set.
PROTOCOL_SETTINGS = {
    "CTX": "context",
    "REASONING_BUDGET": "reasoning_budget",
    "MAX_GEN_TOKS": "max_gen_toks",
    "SEED": "seed",
    "NP": "concurrency",
}


def takes_domain(name: str) -> bool:
    """Tell whether DOMAINS of make can name a domain."""
    return bool(DOMAIN.fullmatch(name))


def fold_of(method: dict, ids: list[str]) -> str | None:
    """Return the fold that a choice held out, as I/K; None where it is none, or not known. ids: of the statistics."""
    held = {*method.get("held_out_question_ids", [])}
    places = [place for place, record_id in enumerate(ids) if record_id in held]
    if not places or {*ids} - held != {*method.get("question_ids", [])}:
        return None
    folds = places[1] - places[0] if len(places) > 1 else len(ids)
    every = places == [*range(places[0], len(ids), folds)] and places[0] < folds
    return f"{places[0] + 1}/{folds}" if every else None


def question_setting(setting: str, roles: Mapping[str, list[str]]) -> list[str]:
    """Return the names of the question files that a setting of make can have given; roles: names by part."""
    # Where the experts were not chosen by questions, QUESTIONS gives statistics, text of the imatrix, and findings.
    parts = (CHOSE, COUNTED, DRAWN, TEXT, FOUND) if setting == CHOSE else (setting,)
    return next((roles[part] for part in parts if roles.get(part)), [])


def calibration_setting(inputs: dict[str, Any]) -> str:
    """Return what CALIBRATION of make stands for the text of the imatrix; "" for QUESTIONS as chats, the default.

    By the imatrix record: which name make gives to a question file's chats, and what a command of ours has fetched.
    """
    name, roles = (inputs.get("calibration") or {}).get("calibration", ""), inputs.get("roles") or {}
    of_questions = {*question_setting(CHOSE, roles)} & {*roles.get(TEXT, [])}
    if name in {f"{Path(file).stem}.txt" for file in of_questions}:
        return ""
    if name == V5_NAME and name in inputs.get("fetched", {}):
        return V5
    return f"./{V5}" if name == V5 else name
