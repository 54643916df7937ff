#!/usr/bin/env python3
"""Print the known name that is nearest to a word which is none, most likely what was meant.

Inputs:  a word, and the known names (variables, targets, quants or runs).
Output:  one line on stdout, or nothing where no name is near. The exit code is 0 either way.
Example: python3 make/nearest_name.py analyse analyze quants eval

It needs Python alone: make calls it before there is an environment. It is no command of the pipeline, so it lies here.
"""

import difflib
import sys

LEAST_LIKENESS = 0.6  # of two names, from 0 to 1, as difflib counts it; below it a proposal would puzzle
# Words that people type for ours and that are spelt too differently to be found.
MEANINGS = {
    "analysis": "analyze",
    "prune": "drop",
    "pruning": "drop",
    "quantize": "quants",
    "quantise": "quants",
    "quantization": "quants",
    "gguf": "quants",
    "evaluate": "eval",
    "evaluation": "eval",
    "score": "eval",
    "scores": "eval",
    "benchmark": "bench",
    "check": "doctor",
    "progress": "status",
    "publish": "upload",
    "install": "setup",
    "page": "report",
    "html": "report",
    "variables": "settings",
    "config": "settings",
    "experts": "KEEP",
    "dataset": "QUESTIONS",
    "threads": "NP",
}


def nearest(word: str, known: list[str]) -> str | None:
    """Return the known name that is most like a word, None when none is like it. Case does not count."""
    by_folded = {name.casefold(): name for name in known}
    folded = word.casefold()
    for candidate in (folded, MEANINGS.get(folded, "").casefold()):
        if candidate in by_folded:
            return by_folded[candidate]
    close = difflib.get_close_matches(folded, by_folded, n=1, cutoff=LEAST_LIKENESS)
    begun = [name for name in by_folded if folded and name.startswith(folded)]  # a name cut short, such as gemma
    found = close or begun
    return by_folded[found[0]] if found else None


if __name__ == "__main__":
    if name := nearest(sys.argv[1], sys.argv[2:]):
        print(name)
