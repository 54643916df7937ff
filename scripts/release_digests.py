"""A release folder by its manifest: every file listed, nothing else, each of the listed size and sha256."""

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from safe_files import InputError, read_json, sha256_file

MANIFEST = "manifest.json"
OLLAMA_FILES = ("template", "params", "Modelfile")  # where there is a GGUF file


@dataclass(frozen=True)
class Listed:
    """What the manifest says of a file: bytes and sha256 (hex)."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Release:
    """A release folder: model name, files by path relative to the folder (without the manifest), sha256 of the manifest."""

    folder: Path
    name: str
    files: dict[str, Listed]
    digest: str


def check_repo(repo: str) -> None:
    """Raise InputError unless `repo` can be the name of a repository on the Hub, USER/NAME."""
    try:
        validate_repo_id(repo)
        whole = repo.count("/") == 1
    except HFValidationError:
        whole = False
    if not whole:
        raise InputError("REPO", "a repository on the Hub, USER/NAME (letters, digits, dots, dashes)", repr(repo)[:100])


def listed(path: Path, name: str, entry: object) -> Listed:
    """Return a manifest's entry; raise InputError when it leads out of the folder or is not bytes and sha256."""
    inside = not Path(name).is_absolute() and not {"..", "."} & set(name.split("/")) and name != MANIFEST
    if not (inside and isinstance(entry, dict) and type(entry.get("bytes")) is int
            and re.fullmatch(r"[0-9a-f]{64}", str(entry.get("sha256")))):
        raise InputError(path, "bytes and sha256 for each path in the folder", f"{name!r}: {entry!r}"[:120])
    return Listed(entry["bytes"], entry["sha256"])


def read_release(folder: Path) -> Release:
    """Read a release's manifest; raise InputError when the folder or the manifest is missing or is none."""
    if not folder.is_dir():
        raise InputError(folder, "a release folder", "nothing" if not folder.exists() else "a file", "run `make release`")
    path = folder / MANIFEST
    manifest = read_json(path)
    if not isinstance(manifest.get("name"), str) or not isinstance(manifest.get("files"), dict) or not manifest["files"]:
        raise InputError(path, "a release's manifest with name and files", "another JSON object")
    files = {name: listed(path, name, entry) for name, entry in manifest["files"].items()}
    return Release(folder, manifest["name"], files, sha256_file(path))


def check_release(release: Release, name: str = "") -> None:
    """Raise InputError when a folder is not the one of its manifest, or (with `name`) of another model.

    Every file is read once for its sha256.
    """
    manifest = release.folder / MANIFEST
    if name and release.name != name:
        raise InputError(manifest, f"the manifest of {name}", f"that of {release.name}")
    needed = ["README.md", *(OLLAMA_FILES if any(path.endswith(".gguf") for path in release.files) else ())]
    for path in needed:
        if path not in release.files or not (release.folder / path).is_file():
            raise InputError(release.folder / path, f"the release's {path}", "nothing", "run `make release`")
    there = {str(path.relative_to(release.folder)) for path in release.folder.rglob("*") if path.is_symlink() or not path.is_dir()}
    if extra := sorted(there - release.files.keys() - {MANIFEST}):
        raise InputError(release.folder / extra[0], "only files that the manifest lists", "one that it does not")
    for path, entry in release.files.items():
        place = release.folder / path
        if place.is_symlink() or not place.is_file():
            raise InputError(place, "a file that the manifest lists", "a link" if place.is_symlink() else "nothing")
        if place.stat().st_size != entry.bytes:
            raise InputError(place, f"the manifest's {entry.bytes} bytes", f"{place.stat().st_size}", "run `make release`")
        if (found := sha256_file(place)) != entry.sha256:
            raise InputError(place, f"the manifest's sha256 {entry.sha256[:12]}", found[:12], "run `make release`")
