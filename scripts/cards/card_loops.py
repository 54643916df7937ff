"""The card's section on loops and tool calls, from loops.json alone."""

from cards.card_sections import Release, section
from loops.loop_results import LOOPS_NAME, loops_tables


def loops_section(release: Release) -> str:
    """Return how often answers run away, repeat a call, or are malformed or empty; "" where it was not measured."""
    if release.loops is None:
        return ""
    return section("Loops and tool calls", loops_tables(release.loops), f"All numbers are in `{LOOPS_NAME}`.")
