"""Whose work a release rests on: the authors of its base, questions and calibration text, and the tools."""

from cards.card_sections import Release, base_link, benchmark_of, bullets, file_of_task, hub_link, section
from files.display import code
from files.fetched_files import CALIBRATION_V5_URL, GPQA_URL


def task_credit(release: Release, name: str) -> str:
    """Return whose questions a further task asked."""
    if not (dataset := benchmark_of(release, name)):
        return f"Questions: {file_of_task(release, name)}."
    link = hub_link(f"datasets/{dataset}", dataset)
    return f"Questions of {release.tasks[name]['protocol']['task']}: {link}, which are not repeated here."


def credits_section(release: Release) -> str:
    """Return whose work the release rests on, and the terms of the weights."""
    fetched = release.inputs.get("fetched") or {}
    files = sorted({name for those in release.inputs.get("roles", {}).values() for name in those})
    lines = [f"Base model: {base_link(release.base)}. The weights are derived from it and are under its licence terms."]
    # By where a file came from: its name could be anybody's.
    if any(fetched.get(name) == GPQA_URL for name in files):
        lines.append(
            "Questions: GPQA (Rein et al., 2023, https://arxiv.org/abs/2311.12022), which are not repeated here."
        )
    if others := [code(name) for name in files if fetched.get(name) != GPQA_URL]:
        lines.append(f"Questions: {', '.join(f'a file named {name}' for name in others)}.")
    lines += [task_credit(release, name) for name in release.tasks]
    if name := release.calibration.get("calibration"):
        of_v5 = fetched.get(name) == CALIBRATION_V5_URL
        origin = "calibration data v5 by bartowski," if of_v5 else "a file named"
        lines.append(f"Calibration text: {origin} {code(name)}.")
    tools = ["llama.cpp (GGUF files)"] * bool(release.records or release.scores)
    tools += ["lm-evaluation-harness (scores)"] * bool(release.scores or release.tasks)
    lines += [f"Tools: {', '.join(tools)}."] * bool(tools)
    return section("Credits", bullets(lines))
