"""A release folder and its manifest: what the folder holds, and where a folder differs from its manifest.

manifest.json (`Manifest`, written by build_release.py): `name` of the model, `owner` of the repositories on the Hub,
`repository` (its name there, without the owner; the folder may have any name), `kind`, `base`, `license` (and what the
base calls it: `license_name`, `license_link`), `quantized_by`, `siblings` (the other repositories of the release, by
kind), `inputs` (input_facts.py), `settings` (of make, those that the bytes depend on), `project_version`, `records`
(each quant's record, with the `files` that it lies in) and `files` (bytes and sha256 of every file but the manifest).
"""

import re
from pathlib import Path
from typing import ClassVar, Self

from files.input_errors import InputError, sha256_file, shown
from files.json_records import Record, check_record, read_json, require
from quants.quant_record import QuantRecord
from release.names import BASE_NAME, PLAIN_NAME, is_base, is_plain

from pydantic import model_validator

MANIFEST = "manifest.json"
STANDARD, DYNAMIC, CHECKPOINT = "standard", "dynamic", "checkpoint"
KINDS = (STANDARD, DYNAMIC, CHECKPOINT)
UPLOAD_STATE = ".cache/huggingface"
SHA256, DIGITS = re.compile(r"[0-9a-f]{64}"), 12  # of a digest in hex, and how many of them messages show
BUILD_AGAIN, EDITED = "run `make release`", "was it edited? run `make release`"


class PlacedQuant(QuantRecord):
    """A quant of a release: its record and the names of the files that it lies in, the first part first."""

    what: ClassVar[str] = "a record of each quant"
    files: list[str]


class Manifest(Record):
    """What build_release.py writes; texts that were not given are empty."""

    what: ClassVar[str] = "a release's manifest"
    name: str
    owner: str
    repository: str
    kind: str
    base: str
    license: str
    license_name: str = ""
    license_link: str = ""
    quantized_by: str
    siblings: dict[str, str]
    inputs: dict[str, dict | list[str] | None]
    settings: dict[str, str]
    project_version: str
    records: dict[str, dict]
    mmproj: dict[str, dict] = {}  # the record of each file for pictures (quants/quant_record.py)
    files: dict[str, dict]

    @model_validator(mode="after")
    def _names_are_plain(self) -> Self:
        require(is_base(self.base), f"{BASE_NAME} under 'base'")
        placed = [record.get("files") for record in self.records.values()]
        files = [name for names in placed if isinstance(names, list) for name in names]  # PlacedQuant refuses others
        by = [self.quantized_by] if self.quantized_by else []
        for name in (self.name, self.repository, *by, *self.records, *files, *self.mmproj):
            require(is_plain(str(name)), f"{PLAIN_NAME} in place of {shown(name)}")
        return self


def check_entries(path: Path, part: str, entries: dict[str, dict]) -> None:
    """Raise InputError unless every name lies in the folder and every entry has bytes and sha256.

    A manifest can come from anywhere: a name such as ../key would publish a file from outside of the folder.
    """
    for name, entry in entries.items():
        inside = not name.startswith("/") and not {"", ".", ".."} & set(name.split("/")) and name != MANIFEST
        whole = type(entry.get("bytes")) is int and SHA256.fullmatch(str(entry.get("sha256")))
        if not (inside and whole):
            raise InputError(path, f"bytes and sha256 of every entry of {part!r}", f"{name!r}: {entry!r}"[:120])


def read_manifest(folder: Path) -> dict:
    """Return a release's manifest; raise InputError when it is missing or is not one."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise InputError(folder, "a release folder", "nothing" if not folder.exists() else "a file", BUILD_AGAIN)
    manifest = check_record(path, read_json(path), Manifest)
    if manifest["kind"] not in KINDS:
        raise InputError(path, f"a kind among {', '.join(KINDS)}", shown(manifest["kind"]))
    for part in ("records", "files"):
        check_entries(path, part, manifest[part])
    for record in manifest["records"].values():
        check_record(path, record, PlacedQuant)
        if not record["files"] or not set(record["files"]) <= manifest["files"].keys():
            raise InputError(path, "the files of every record among its files", shown(record["files"]))
    return manifest


def listed_paths(folder: Path) -> list[str]:
    """Return the paths of all files of a folder, relative to it, sorted.

    The state that huggingface_hub keeps in a folder while it uploads is not published and not listed. Raises InputError
    for a link, which leads out of the folder.
    """
    found = []
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise InputError(path, "a file", "a symbolic link")
        if path.is_file() and not path.relative_to(folder).is_relative_to(UPLOAD_STATE):
            found.append(path.relative_to(folder).as_posix())
    return sorted(found)


def file_entries(folder: Path) -> dict[str, dict]:
    """Return bytes and sha256 of every file of a folder that has no manifest yet."""
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
        for name in listed_paths(folder)
    }


def entry_difference(path: Path, entry: dict) -> InputError | None:
    """Return how a file differs from its entry in the manifest, None where it does not."""
    # The size comes first: a file of tens of gigabytes that was cut short need not be read to be refused.
    if (size := path.stat().st_size) != entry["bytes"]:
        return InputError(path, f"{entry['bytes']} bytes, as {MANIFEST} says", f"{size}", EDITED)
    if (digest := sha256_file(path)) != entry["sha256"]:
        return InputError(path, f"sha256 {entry['sha256'][:DIGITS]}, as {MANIFEST} says", digest[:DIGITS], EDITED)
    return None


def check_sizes(folder: Path, manifest: dict) -> None:
    """Raise InputError unless a folder has the files of its manifest, of the sizes there; no file is read."""
    there = {name: (folder / name).stat().st_size for name in listed_paths(folder) if name != MANIFEST}
    expected = {name: entry["bytes"] for name, entry in manifest["files"].items()}
    for name in sorted(there.keys() | expected.keys()):
        if there.get(name) != expected.get(name):
            wanted, found = (
                f"{size} bytes" if size is not None else "none" for size in (expected.get(name), there.get(name))
            )
            raise InputError(folder / name, f"{wanted}, as {MANIFEST} says", found, EDITED)


def folder_differences(folder: Path, manifest: dict) -> list[InputError]:
    """Return where a folder differs from its manifest, file by file; read every file once.

    Raises InputError for a link.
    """
    expected, there, found = manifest["files"], set(listed_paths(folder)) - {MANIFEST}, []
    for name in sorted(there | expected.keys()):
        path = folder / name
        if name not in expected:
            found.append(InputError(path, f"only files that {MANIFEST} lists", "one that it does not"))
        elif name not in there:
            found.append(
                InputError(path, f"{expected[name]['bytes']} bytes, as {MANIFEST} says", "nothing", BUILD_AGAIN)
            )
        elif difference := entry_difference(path, expected[name]):
            found.append(difference)
    return found
