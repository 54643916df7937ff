"""A build that a test may damage: its release and all that the release was made from."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import check_release
from calls import as_command
from checkpoints.checkpoint import source_digest
from choice.drop_map import details_of
from files.input_errors import sha256_file
from files.json_records import read_json
from files.safe_files import link_or_copy
from files.seals import LEDGER, seal_file
from gates.checked import Checked
from gates.gates import GATES
from gates.remade_gates import COMMAND_GATES, RECORD_GATES
from gates.seals_gate import seals_gate
from gates.written_again import digests_gate
from makers.pruned_models import NAME
from makers.release_inputs import shared_release
from release.manifest import read_manifest
from release.sources import KINDS_OF_SOURCES, read_sources, sources_path

EVERY_GATE = {"seals": seals_gate, **GATES, **RECORD_GATES, **COMMAND_GATES, "digests": digests_gate}


COPIES = tempfile.TemporaryDirectory()


def link_to_copy(source: str, target: str) -> None:
    """Link to this worker's own copy of a file: a link to the file itself would touch it under another's command."""
    state = os.stat(source)
    known = f"{source} {state.st_ino} {state.st_size} {state.st_mtime_ns}"
    copy = Path(COPIES.name, sha256(known.encode()).hexdigest())
    if not copy.exists():
        shutil.copy2(source, copy)
    link_or_copy(copy, Path(target))


class Build:
    """A build that a test may damage: its release and all that the release was made from. Files are hard links.

    So a damage writes a new file in the old one's place.
    """

    def __init__(self, pruned: Path, place: Path) -> None:
        made = shared_release(pruned).parent
        self.pruned, self.evidence = place / pruned.name, place / made.name
        for source, target in ((pruned, self.pruned), (made, self.evidence)):
            shutil.copytree(source, target, copy_function=link_to_copy)
            self.write(target / LEDGER, (source / LEDGER).read_text())  # it is appended to, and the link's would be
        self.release = self.evidence / f"{NAME}-GGUF"
        self.full, self.own = self.evidence / "run-full", self.evidence / "run-pruned"
        self.map, self.f16 = self.pruned / "map.json", self.pruned / "F16.gguf.json"
        self.metadata = self.pruned / "checkpoint/expert_drop_metadata.json"
        sources, listed = read_sources(made / self.release.name), {}
        for kind in KINDS_OF_SOURCES:
            listed[kind] = {name: str(self.here(path.resolve())) for name, path in sources[kind].items()}
        place = sources_path(self.release)
        self.write(place, json.dumps({"version": 1, **listed}))
        with as_command("build_release"):
            seal_file(place, place)

    def here(self, path: Path) -> Path:
        """Return where a path of the shared build lies in this one; the project's own files stay where they are."""
        for tree in (self.pruned, self.evidence):
            if tree.name in path.parts:
                return tree.joinpath(*path.parts[path.parts.index(tree.name) + 1 :])
        return path

    def write(self, path: Path, text: str) -> None:
        """Write a text in a file's place."""
        path.unlink()
        path.write_text(text, encoding="utf-8")

    def change(self, path: Path, change: Callable[[dict], object]) -> None:
        """Change a JSON file."""
        content = read_json(path)
        change(content)
        self.write(path, json.dumps(content, indent=2) + "\n")

    def change_lines(self, path: Path, change: Callable[[dict], object]) -> None:
        """Change every line of a JSONL file; a line for which `change` returns False goes."""
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        self.write(path, "".join(json.dumps(row) + "\n" for row in rows if change(row) is not False))

    @property
    def checked(self) -> Checked:
        """The release under the gates."""
        return Checked(self.release, read_manifest(self.release), read_sources(self.release))

    def failing(self, name: str) -> list[str]:
        """Return the deviations of one gate."""
        return check_release.outcome_of(EVERY_GATE[name], self.checked).deviations


def of_map(build: Build, change: Callable[[dict], object]) -> None:
    """Change the map, and all that follows from it: metadata and the record of the F16 file."""
    build.change(build.map, change)
    content = read_json(build.map)

    def follow(metadata: dict) -> None:
        metadata.update(method=details_of(content), drop_map_sha256=sha256_file(build.map))
        for number, layer in content["layers"].items():
            metadata["layers"][number] = {key: layer[key] for key in ("keep", "drop")}

    of_metadata(build, follow)


def of_metadata(build: Build, change: Callable[[dict], object]) -> None:
    """Change the metadata and the digest of the checkpoint that holds them."""
    build.change(build.metadata, change)
    digest = source_digest(build.metadata.parent)
    build.change(build.f16, lambda record: record.update(source_sha256=digest))


def as_own_map(content: dict) -> None:
    """Make a map one that a user gave, with another expert in it."""
    for key in ("stats_sha256", "questions_sha256"):
        del content[key]
    content.update(criterion="own map", own_map={"sha256": "0" * 64, "criterion": "magic"})
    layer = content["layers"]["1"]
    layer["keep"], layer["drop"] = sorted({*layer["keep"], 112} - {0}), sorted({*layer["drop"], 0} - {112})
