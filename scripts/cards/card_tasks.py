"""The card's section on further tasks, from their scores alone."""

from cards.card_sections import Release, section
from scoring.task_tables import task_parts, title_of


def tasks_section(release: Release) -> str:
    """Return the scores of each further task, paired with the full model's; "" where there are none."""
    parts = []
    for name, scores in release.tasks.items():
        own = [f"### {title_of(name, scores)}", *task_parts(scores), f"All numbers are in `scores-{name}.json`."]
        parts.append("\n\n".join(own))
    return section("Further tasks", *parts) if parts else ""
