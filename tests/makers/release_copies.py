"""Copies of a release that a test may damage, and what the gates find in them."""

import json
import shutil
from pathlib import Path

import check_release
from files.input_errors import sha256_file
from gates.checked import Checked
from gates.gates import GATES
from gates.remade_gates import RECORD_GATES
from release.manifest import read_manifest
from release.sources import read_sources, sources_path


def copy_of_release(release: Path, folder: Path) -> Path:
    """Copy a release, with its list of what it was made from, which names paths relative to itself; return the copy."""
    copy = Path(shutil.copytree(release, folder / release.name))
    sources = read_sources(release)
    listed = {kind: {name: str(path.resolve()) for name, path in paths.items()} for kind, paths in sources.items()}
    sources_path(copy).write_text(json.dumps({"version": 1, **listed}))
    return copy


def checked(folder: Path) -> Checked:
    """Return a release as the gates take it."""
    return Checked(folder, read_manifest(folder), read_sources(folder))


def failing(folder: Path, *names: str) -> dict[str, list[str]]:
    """Return the deviations of the gates that need no server, by name; names: only these."""
    chosen = {name: gate for name, gate in {**GATES, **RECORD_GATES}.items() if not names or name in names}
    outcomes = {name: check_release.outcome_of(gate, checked(folder)) for name, gate in chosen.items()}
    return {name: outcome.deviations for name, outcome in outcomes.items() if outcome.deviations}


def reseal(folder: Path, **changes: object) -> None:
    """Write the manifest again after a change, as someone would who edits a folder with care."""
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    for name in manifest["files"]:
        manifest["files"][name] = {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def edit(path: Path, old: str, new: str) -> None:
    """Put other words in the place of some, wherever these stand in a file."""
    text = path.read_text()
    assert old in text, text[:300]
    path.write_text(text.replace(old, new))


def change_json(path: Path, **values: object) -> None:
    """Change some values of a JSON object."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
