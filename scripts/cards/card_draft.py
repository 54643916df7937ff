"""The card's section on the draft model, from draft.json alone."""

from cards.card_sections import Release, section
from speed.draft_results import DRAFT_NAME, draft_table


def draft_section(release: Release, serving: str) -> str:
    """Return how a file is run with the draft model, and what that gains; "" for a release without one.

    serving: the flags with which the card runs a file without it.
    """
    results = release.draft
    if results is None:
        return ""
    file, model, repository = results["file"], release.example["files"][0], release.hub_id(release.repository)
    flags = f"--spec-type draft-mtp --spec-draft-n-max {results['draft_tokens']} \\\n    {serving}"
    how = (
        f"`{file}` ({results['parameters']:,} weights, {results['type']}) guesses the next tokens, and the model keeps "
        "those that it would have written itself. It reads the model's own context cache, and goes with every file of "
        "this repository. With `-hf` llama.cpp fetches it, too:\n\n"
        f"```sh\nllama-server -hf {repository} --hf-file {model} \\\n    {flags}\n```\n\n"
        f"From the disk:\n\n```sh\nllama-server -m {model} --model-draft {file} \\\n    {flags}\n```"
    )
    numbers = f"Every answer's numbers are in `{DRAFT_NAME}`."
    return section("Faster with a draft model", how, draft_table(results, evaluated=bool(release.scores)), numbers)
