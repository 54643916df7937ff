"""The card's section on further tasks, from their scores alone."""

from cards.card_sections import Release, benchmark_of, file_of_task, section
from scoring.task_tables import task_parts, title_of


def title_of_task(release: Release, name: str) -> str:
    """Return the heading of a further task: its benchmark's name where the questions are known to be its."""
    if benchmark_of(release, name):
        return title_of(name, release.tasks[name])
    return f"Questions of {file_of_task(release, name)}"


def tasks_section(release: Release) -> str:
    """Return the scores of each further task, paired with the full model's; "" where there are none."""
    parts = []
    for name, scores in release.tasks.items():
        numbers = f"All numbers are in `scores-{name}.json`."
        parts.append("\n\n".join([f"### {title_of_task(release, name)}", *task_parts(scores), numbers]))
    return section("Further tasks", *parts) if parts else ""
