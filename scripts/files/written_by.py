"""Which command of ours wrote a file that proves something: its seal tells (files/seals.py)."""

from pathlib import Path

from files.input_errors import InputError
from files.seals import Commands, Seal, build_folder, sealing, seals_over


class NotProvenError(InputError):
    """What was to be proven is not: a file of ours is missing, or none of our commands wrote it as it is."""


def check_written_by(path: Path, commands: Commands) -> None:
    """Raise NotProvenError unless one of these commands of ours has written a file as it is, by its seal."""
    if not sealing():
        return
    seals = seals_over(path)
    seal = seals.of_file(path, commands) if seals else None
    if seal != Seal.VALID:
        found = seal.value if seal else "one in no build folder"
        raise NotProvenError(path, f"what {' or '.join(commands)} wrote", found)


def check_copied_from(path: Path, commands: Commands, output: Path) -> None:
    """Raise NotProvenError where a record that the one of `output` repeats was edited: its seal would vouch for that.

    Outside of a build folder the output's record gets no seal, so nothing is asked.
    """
    if build_folder(output):
        check_written_by(path, commands)
