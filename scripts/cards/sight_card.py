"""What a card says of a release that sees: its files for pictures, and how to run them."""

from files.display import markdown_table
from files.safe_files import gib
from ggufs.sibling_choice import mmproj_pick

CONTEXT_TOKENS = 8192  # a picture takes 70 to 1120 of them
CAN = {"vision": "pictures", "audio": "sound"}


def fetched_in_words(mmproj: list[str], models: list[str]) -> str:
    """Return which file for pictures `-hf` fetches with which of a release's models."""
    picks: dict[str, list[str]] = {}
    for model in models:
        picks.setdefault(mmproj_pick(mmproj, model) or mmproj[0], []).append(model)
    most = max(picks, key=lambda name: len(picks[name]))
    others = [f"`{name}` for {', '.join(taken)}" for name, taken in picks.items() if name != most]
    return ", ".join([*others, f"`{most}` for {'all others' if others else 'every file of this repository'}"])


def sight_parts(mmproj: dict[str, dict], model: str, models: list[str], longest: int | None) -> list[str]:
    """Return a section on the files for pictures, title first: the table, and how they are used.

    mmproj: their records by name; model: the file that commands are shown for; models: all files of the release;
    longest: the model's context, if known.
    """
    rows = [
        [f"`{name}`", gib(record["bytes"]), " and ".join(CAN[tower] for tower in record["towers"])]
        for name, record in mmproj.items()
    ]
    taken = mmproj_pick(list(mmproj), model) or next(iter(mmproj))
    context = min(CONTEXT_TOKENS, longest or CONTEXT_TOKENS)
    lines = [
        "```",
        f"llama-server -m {model} --mmproj {taken} -c {context} -ngl 99",
        f"llama-mtmd-cli -m {model} --mmproj {taken} --jinja --image picture.png -p 'What is in this picture?'",
        "```",
    ]
    added = any("clip.use_gelu" in record["added"] for record in mmproj.values())
    return [
        "Asking about pictures",
        "The model sees with a second file. It is the base model's own tower: dropping experts leaves it as it is.",
        markdown_table(["File", "GiB", "for"], rows, last_words=1),
        "\n".join(lines),
        f"With `-hf` llama.cpp fetches the file itself: {fetched_in_words(list(mmproj), models)}. Ollama takes it from "
        "the repository, or from a second `FROM` line of a Modelfile.",
        "The header key `clip.use_gelu` is set. Without it llama.cpp computes an approximation that the model was not "
        "trained with."
        if added
        else "",
    ]
