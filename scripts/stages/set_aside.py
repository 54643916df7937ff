"""What REPLACE takes away: it lies in a hidden folder beside its stage's settings until the step has made it anew.

make (`set_aside` in make/checks.mk) moves it there before the step. A step that is refused gives it back.
"""

from pathlib import Path

from files.safe_files import remove

SETTINGS = "*.txt"  # of a stage: written before the step, so they say nothing of whether it made something


def put_back(aside: Path) -> bool:
    """Move everything of a folder back to where it lay; tell whether. Not where the step has made some of it anew."""
    if aside.is_symlink():  # what lies there is not from here
        return False
    outputs = [path for path in aside.glob("*") if not path.match(SETTINGS)]
    if not outputs or any((aside.parent / path.name).exists() for path in outputs):
        return False
    # The settings come last: those of what is not there yet would be refused, or taken over.
    for path in [*outputs, *aside.glob(SETTINGS)]:
        path.replace(aside.parent / path.name)
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
