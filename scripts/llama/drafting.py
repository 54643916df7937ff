"""Speculative decoding by llama-server: its flags, and what an answer says of it."""

from pathlib import Path

# What Gemma 4's assistants are served with. A third token is accepted less often, and costs a pass all the same.
DRAFT_TOKENS = 2


def draft_flags(draft: Path | str, tokens: int) -> list[str]:
    """Return llama-server's flags for a draft model that reads the target's cache; tokens: drafted in a row."""
    return ["--model-draft", str(draft), "--spec-type", "draft-mtp", "--spec-draft-n-max", str(tokens)]


def drafted_and_accepted(timings: dict) -> tuple[int, int]:
    """Return how many tokens of an answer were drafted, and how many of these stayed; 0, 0 without a draft model."""
    return int(timings.get("draft_n", 0)), int(timings.get("draft_n_accepted", 0))
