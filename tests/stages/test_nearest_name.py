"""What make proposes for a misspelt name; run as make runs it, with Python alone."""

import subprocess
import sys

from conftest import REPO
from quants.recipes import RECIPES

import pytest

TARGETS = ["plan", "doctor", "analyze", "drop", "quants", "eval", "release", "report", "compare", "status", "clean"]
SETTINGS = ["RUN", "MODEL", "KEEP", "QUESTIONS", "CALIBRATION", "QUANTS", "EVAL_QUANT", "HELDOUT_QUANT", "REPLACE"]
RUNS = ["demo", "gemma-4-26b-a4b-109e"]


def nearest(word: str, *known: str) -> str:
    """Return what the command prints, started by a Python without packages."""
    command = [sys.executable, "-E", "-s", "-S", REPO / "make/nearest_name.py", word, *known]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "word, known, meant",
    [
        ("QUANT", SETTINGS, "QUANTS"),
        ("keep", SETTINGS, "KEEP"),
        ("HELDOUT_QUANTS", SETTINGS, "HELDOUT_QUANT"),
        ("analyse", TARGETS, "analyze"),
        ("analysis", TARGETS, "analyze"),
        ("quantize", TARGETS, "quants"),
        ("evaluate", TARGETS, "eval"),
        ("relaese", TARGETS, "release"),
        ("26b", RUNS, ""),
        ("gemma", RUNS, "gemma-4-26b-a4b-109e"),
        ("demos", RUNS, "demo"),
        ("xyzzy", TARGETS, ""),
        ("evaluate", ["drop"], ""),  # an alias of a name that is not known here
        ("QUANT", [], ""),
    ],
)
def test_the_nearest_known_name_or_nothing(word, known, meant):
    assert nearest(word, *known) == (f"{meant}\n" if meant else "")


def test_a_quant_that_is_none_is_answered_with_one_of_its_kind():
    assert nearest("Q9_K", *RECIPES).strip() in ("Q2_K", "Q6_K")
    assert nearest("q4_k_m", *RECIPES) == "Q4_K_M\n"
