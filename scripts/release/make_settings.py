"""Settings of make by what the records of a release have in their place."""

from pathlib import Path
from typing import Any

V5, V5_NAME = "v5", "calibration_datav5.txt"  # the word of CALIBRATION, and the text that it stands for
CHOSE, ASKED, MEASURED, ESTIMATED = "QUESTIONS", "EVAL_QUESTIONS", "QUALITY_CHATS", "SENSITIVITY_CHATS"
USES = {
    CHOSE: "which chose the experts",
    ASKED: "which was asked",
    MEASURED: "on which losses or speeds were measured",
    ESTIMATED: "by whose chats the types of AUTO files were chosen",
}
# Settings of make by the keys of the protocol that they set.
PROTOCOL_SETTINGS = {
    "CTX": "context",
    "REASONING_BUDGET": "reasoning_budget",
    "MAX_GEN_TOKS": "max_gen_toks",
    "SEED": "seed",
    "NP": "concurrency",
}


def calibration_setting(inputs: dict[str, Any]) -> str:
    """Return what CALIBRATION of make stands for the text of the imatrix; "" for the questions as chats, the default.

    By the imatrix record: which name make gives to a question file's chats, and what a command of ours has fetched.
    """
    name = (inputs.get("calibration") or {}).get("calibration", "")
    if name in {f"{Path(file).stem}.txt" for file in inputs.get("questions") or {}}:
        return ""
    return V5 if name == V5_NAME and name in inputs.get("fetched", {}) else name
