"""A command as the mutations call it: its arguments, and the inputs that are mutated.

In arguments IN/ is the case's copy of the artefacts and OUT/ its output folder. An input is a file below IN/; one with
a star stands for each file that fits it. What a command is about (its subjects) may change its output: other questions
give other chats. By its other inputs no number of the output may change.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Command:
    """One way to call a command; inputs are lists with blanks between.

    writes: files below IN/ that it may write, with stars; weight: its share of the cases; quick: whether `make test`
    tries it;
    refused: without a mutation, too, when all is read and written: these artefacts lack something at the end.
    """

    name: str
    arguments: str
    subjects: str = ""
    others: str = ""
    variant: str = ""
    weight: float = 1
    quick: bool = True
    writes: str = ""
    stdin: str = ""
    refused: bool = False
    seconds: int = 30

    @property
    def title(self) -> str:
        """Its name in tables."""
        return f"{self.name}, {self.variant}" if self.variant else self.name

    def inputs(self, artefacts: Path) -> list[str]:
        """Return the inputs, stars filled in."""
        found: dict[str, None] = {}
        for pattern in f"{self.subjects} {self.others}".split():
            paths = sorted(str(path.relative_to(artefacts)) for path in artefacts.glob(pattern) if path.is_file())
            assert paths, (self.title, pattern)
            found |= dict.fromkeys(paths)
        return list(found)

    def is_about(self, name: str) -> bool:
        """Tell whether the output may follow this input."""
        return any(Path(name).match(pattern) for pattern in self.subjects.split())


def slow(
    name: str,
    arguments: str,
    subjects: str,
    others: str = "",
    variant: str = "",
    weight: float = 0.2,
    seconds: int = 30,
    refused: bool = False,
) -> Command:
    """Return a command that runs tools or a model; it is tried less often."""
    return Command(name, arguments, subjects, others, variant, weight, False, refused=refused, seconds=seconds)
