"""A checkpoint's own card (README.md), a person's text whose front matter the converter to GGUF reads, too."""

from pathlib import Path

from files.input_errors import RECORD_MIB, InputError, check_bounded

CARD = "README.md"  # names the licence; a release has a card of its own


def check_no_references(card: Path) -> None:
    """Raise InputError for a card that is too long, or whose front matter names parts of itself again.

    Eleven lines of such names stand for more values than a memory holds, and no reader has a limit.
    """
    check_bounded(card, RECORD_MIB)
    import yaml  # here: most commands read no card

    front = card.read_text(encoding="utf-8-sig", errors="replace").split("---", 2)[1:2]
    try:
        again = any(isinstance(event, yaml.AliasEvent) for text in front for event in yaml.parse(text))
    except (yaml.YAMLError, RecursionError):  # then no other reader gets further
        return
    if again:
        raise InputError(card, "front matter without references (*name)", "one")
