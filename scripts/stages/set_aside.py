"""What REPLACE takes away: it lies in a hidden folder beside its stage's settings until the step has made it anew.

make (`set_aside` in make/checks.mk) moves it there before the step. A step that is refused gives it back.
"""

from pathlib import Path

from files.safe_files import remove

SETTINGS = "*.txt"  # of a stage: written before the step, so they say nothing of whether it made something
# What an evaluation writes before its first answer.
BEGINNINGS = ("begun.json", "run.json", "task", "server.log", "lm_eval.log")


def is_result(path: Path) -> bool:
    """Tell whether something lies there that a step has made, and not only what it begins with."""
    if not path.exists() or path.name in BEGINNINGS:
        return False
    return any(path.iterdir()) if path.is_dir() else path.stat().st_size > 0


def put_back(aside: Path) -> bool:
    """Move everything of a folder back to where it lay; tell whether. Not where the step has made some of it anew."""
    if aside.is_symlink():  # what lies there is not from here
        return False
    outputs = [path for path in aside.glob("*") if not path.match(SETTINGS)]
    if not outputs or any(is_result(aside.parent / path.name) for path in outputs):
        return False
    # The settings come last: those of what is not there yet would be refused, or taken over.
    for path in [*outputs, *aside.glob(SETTINGS)]:
        place = aside.parent / path.name
        if place.is_dir() or place.is_file() and path.is_dir():
            remove(place)
        path.replace(place)
    remove(aside)
    return True


def settle(asides: list[Path], made: bool, refused: bool) -> list[Path]:
    """Forget what was set aside, as the step has made it anew; or put it back, as the step was refused.

    Returns the folders that were put back. After a kill nothing is done: the step goes on without REPLACE.
    """
    if made:
        for aside in asides:
            remove(aside)
    return [aside.parent for aside in asides if put_back(aside)] if refused else []
