"""A release under the gates: what a gate is given, and what it returns."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from cards.model_facts import is_for_ollama
from checkpoints.licence import CARD
from files.input_errors import check_bounded
from gates.lineage import Lineage
from release.manifest import listed_paths
from release.published_texts import Published, texts_of

# Of a server that a gate starts: one short question at a time.
SERVER_FLAGS = ["-c", "2048", "-np", "1", "--reasoning-format", "deepseek", "--reasoning-budget", "64"]


@dataclass
class Outcome:
    """What a gate looked at, in words; what is wrong; what is out of order, but allowed; whether the gate applies."""

    looked_at: str
    deviations: list[str] = field(default_factory=list)
    exceptions: list[str] = field(default_factory=list)
    applies: bool = True


@dataclass
class Checked:
    """A release under the gates: its folder and manifest, and what it was made from (paths by kind and name)."""

    folder: Path
    manifest: dict
    sources: dict[str, dict[str, Path]]

    @property
    def kind(self) -> str:
        """What the folder holds, as its manifest says."""
        return self.manifest["kind"]

    @property
    def records(self) -> dict[str, dict]:
        """The record of each quant, as the manifest has it."""
        return self.manifest["records"]

    @property
    def for_ollama(self) -> bool:
        """Whether the folder has GGUF files of the family that Ollama's files are made for."""
        records = list(self.records.values())
        return bool(records) and is_for_ollama(self.first_part(records[0]))

    @property
    def lineage(self) -> Lineage:
        """What ties the release to its build."""
        files = {name: self.first_part(record) for name, record in self.records.items()}
        return Lineage(self.manifest["name"], self.records, files, self.sources)

    @property
    def types(self) -> dict[str, str]:
        """The type of every GGUF file, parts included, by file name."""
        return {part: record["type"] for record in self.records.values() for part in record["files"]}

    @property
    def card(self) -> str:
        """The text of the card."""
        check_bounded(self.folder / CARD)
        return (self.folder / CARD).read_text(encoding="utf-8")

    @cached_property
    def texts(self) -> list[Published]:
        """Every text that would be public, the manifest included."""
        return [text for name in listed_paths(self.folder) for text in texts_of(self.folder / name, name)]

    def first_part(self, record: dict) -> Path:
        """Return the file of a record, of a split one the first part."""
        return self.folder / record["files"][0]
