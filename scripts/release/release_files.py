"""A release folder as it lies on the disk: kinds, manifest, what it was made from, and files split by llama.cpp's own tool.

manifest.json: name (of the model), repository (the folder's own name), kind, base, license, quantized_by, sibling (the
repository of the CD-* and AUTO-* files), `records` (of each quant: its record as quantize_gguf.py wrote it, and `files`, the
parts it lies in) and `files` (bytes and sha256 of every file but itself). Beside the folder, never published:
FOLDER.sources.json, what it was made from, as paths relative to it, which check_release.py compares with: `records`,
`copies` (by their names in the folder), `params` and `questions`.
"""

import os
import re
from pathlib import Path

from choice.drop_map import METADATA_NAME, DropMetadata
from files.byte_ranges import Run, same_bytes
from files.safe_files import (
    InputError,
    check_record,
    check_replaceable,
    directory_when_done,
    read_json,
    read_record,
    require_disk_space,
    sha256_file,
    write_json,
)
from ggufs.gguf_header import TensorInfo, read_header, split_paths
from llama.llama_tools import LlamaCpp, run_tool
from losses.quality_record import QUALITY_NAME, Quality
from quants.quant_record import QuantRecord
from scoring.score_records import SCORES_NAME, Scores

MANIFEST = "manifest.json"
STANDARD, DYNAMIC, CHECKPOINT = "standard", "dynamic", "checkpoint"
KINDS = (STANDARD, DYNAMIC, CHECKPOINT)
SIDECARS = ("template", "params", "Modelfile")
# What a release may hold of the build's records, and who owns each.
EVIDENCE = {METADATA_NAME: DropMetadata, SCORES_NAME: Scores, QUALITY_NAME: Quality}
UPLOAD_STATE = ".cache/huggingface"
SHA256, DIGITS = re.compile(r"[0-9a-f]{64}"), 12  # of a digest in hex, and how many of them messages show
SPLIT_RECORD = "split.json"
SPLIT_UNIT_BYTES = 1_000_000  # llama-gguf-split's M
SOURCE_FIELDS = {"records": dict, "copies": dict, "params": dict, "questions": dict}
FIELDS = {
    "name": str,
    "repository": str,
    "kind": str,
    "base": str,
    "license": str,
    "quantized_by": str,
    "sibling": str,
    "records": dict,
    "files": dict,
}


def check_fields(path: Path, content: dict, fields: dict[str, object], what: str) -> dict:
    """Return a JSON object; raise InputError when a field is missing or of another type."""
    for key, kind in fields.items():
        if not isinstance(content.get(key), kind):
            raise InputError(path, f"{what} with {key!r}", repr(content.get(key))[:60])
    return content


def read_evidence(path: Path, name: str) -> dict:
    """Return metadata, scores or quality (`name`: under which name a release holds it); raise InputError when it is not that."""
    return read_record(path, EVIDENCE[name])


def read_manifest(folder: Path) -> dict:
    """Return a release's manifest; raise InputError when it is missing or is not one."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise InputError(
            folder, "a release folder", "nothing" if not folder.exists() else "a file", "run `make release`"
        )
    manifest = check_fields(path, read_json(path), FIELDS, "a release's manifest")
    if manifest["kind"] not in KINDS:
        raise InputError(path, f"a kind among {', '.join(KINDS)}", repr(manifest["kind"])[:60])
    for part in ("records", "files"):
        for name, entry in manifest[part].items():
            inside = not name.startswith("/") and not {"", ".", ".."} & set(name.split("/")) and name != MANIFEST
            if not (
                inside
                and isinstance(entry, dict)
                and type(entry.get("bytes")) is int
                and SHA256.fullmatch(str(entry.get("sha256")))
            ):
                raise InputError(path, f"bytes and sha256 of every entry of {part!r}", f"{name!r}: {entry!r}"[:120])
    for record in manifest["records"].values():
        check_record(path, record, QuantRecord)
        check_fields(path, record, {"files": list}, "a record of each quant")
        if not record["files"] or not set(record["files"]) <= manifest["files"].keys():
            raise InputError(path, "the files of every record among its files", repr(record["files"])[:120])
    return manifest


def listed_paths(folder: Path) -> list[str]:
    """Return the paths of all files of a folder, relative to it; raise InputError for a link, which leads out of it.

    The state that huggingface_hub keeps in a folder while it uploads it is not published and not listed.
    """
    found = []
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise InputError(path, "a file", "a symbolic link")
        if path.is_file() and not path.relative_to(folder).is_relative_to(UPLOAD_STATE):
            found.append(path.relative_to(folder).as_posix())
    return sorted(found)


def folder_differences(folder: Path, manifest: dict) -> list[InputError]:
    """Return where a folder is not the one of its manifest, file by file; every file is read once.

    Raises InputError for a link.
    """
    expected, there, found = manifest["files"], set(listed_paths(folder)) - {MANIFEST}, []
    for name in sorted(there | expected.keys()):
        path, entry = folder / name, expected.get(name)
        if entry is None:
            found.append(InputError(path, f"only files that {MANIFEST} lists", "one that it does not"))
        elif name not in there:
            found.append(
                InputError(path, f"{entry['bytes']} bytes, as {MANIFEST} says", "nothing", "run `make release`")
            )
        elif path.stat().st_size != entry["bytes"]:
            found.append(
                InputError(
                    path,
                    f"{entry['bytes']} bytes, as {MANIFEST} says",
                    f"{path.stat().st_size}",
                    "was it edited? run `make release`",
                )
            )
        elif (digest := sha256_file(path)) != entry["sha256"]:
            found.append(
                InputError(
                    path,
                    f"sha256 {entry['sha256'][:DIGITS]}, as {MANIFEST} says",
                    digest[:DIGITS],
                    "was it edited? run `make release`",
                )
            )
    return found


def listed(folder: Path) -> dict[str, dict]:
    """Return bytes and sha256 of every file of a folder that will get a manifest."""
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
        for name in listed_paths(folder)
    }


def sources_path(folder: Path) -> Path:
    """Return the path of the file beside a release that says what it was made from."""
    return folder.with_name(f"{folder.name}.sources.json")


def write_sources(folder: Path, sources: dict[str, dict[str, Path]]) -> None:
    """Write what a release was made from (kind, name, path), as paths relative to the place of the file."""
    place = sources_path(folder)
    write_json(
        place,
        {
            kind: {name: os.path.relpath(path.resolve(), place.parent.resolve()) for name, path in paths.items()}
            for kind, paths in sources.items()
        },
    )


def read_sources(folder: Path) -> dict[str, dict[str, Path]]:
    """Return what a release was made from (kind, name, path); raise InputError where nothing beside it says so."""
    place = sources_path(folder.resolve())
    if not place.is_file():
        raise InputError(place, "what the release was made from", "nothing", "run `make release`")
    content = check_fields(place, read_json(place), SOURCE_FIELDS, "what the release was made from")
    return {kind: {name: place.parent / str(path) for name, path in content[kind].items()} for kind in SOURCE_FIELDS}


def tensors_of(first: Path) -> dict[str, tuple[Path, TensorInfo]]:
    """Return the tensors of a GGUF file, or of a split one whose first part is given, each with the file it lies in."""
    return {tensor.name: (path, tensor) for path in split_paths(first) for tensor in read_header(path).tensors}


def check_parts(whole: Path, parts: list[Path], limit: int) -> None:
    """Raise InputError unless parts hold all tensors of a file, byte for byte, each within the limit in bytes."""
    found, expected = tensors_of(parts[0]), tensors_of(whole)
    if {name: (t.dims, t.kind) for name, (_, t) in found.items()} != {
        name: (t.dims, t.kind) for name, (_, t) in expected.items()
    }:
        raise InputError(parts[0], f"the tensors of {whole.name} in its parts", "others")
    for name, (path, tensor) in found.items():
        source = expected[name][1]
        if not same_bytes(Run(whole, source.offset, source.size), path, tensor.offset):
            raise InputError(path, f"the bytes of {name} in {whole.name}", "others")
    for part in parts:
        if part.stat().st_size > limit:
            raise InputError(
                part,
                f"at most {limit} bytes",
                f"{part.stat().st_size}",
                "one tensor or the header alone may be as large",
            )


def split_command(tool: Path, whole: Path, prefix: Path, limit: int) -> list[object]:
    """Return llama-gguf-split's command line; its limit counts tensors alone, so the header's bytes are left for it."""
    header = read_header(whole)
    room = limit - min(tensor.offset for tensor in header.tensors)
    if room < SPLIT_UNIT_BYTES:
        raise InputError(
            whole,
            f"a header of at most {limit - SPLIT_UNIT_BYTES} bytes, to be split at {limit}",
            f"one of {limit - room}",
        )
    return [tool, "--split", "--split-max-size", f"{room // SPLIT_UNIT_BYTES}M", whole.resolve(), prefix.resolve()]


def split_gguf(tools: LlamaCpp, whole: Path, sha256: str, limit: int, folder: Path) -> list[Path]:
    """Return the parts of a GGUF file of at most `limit` bytes each, in a folder that keeps them for the next time.

    Raises InputError when the tool fails or a part is not what it should be.
    """
    made_from = {"sha256": sha256, "limit_bytes": limit, "llama_cpp": tools.version()}
    known = read_json(folder / SPLIT_RECORD) if (folder / SPLIT_RECORD).is_file() else {}
    if {key: known.get(key) for key in made_from} == made_from:
        parts = [folder / name for name in known["parts"]]
        if all(part.is_file() and sha256_file(part) == digest for part, digest in zip(parts, known["parts"].values())):
            return parts
    check_replaceable(folder, SPLIT_RECORD)
    require_disk_space(folder.parent, whole.stat().st_size)
    with directory_when_done(folder, SPLIT_RECORD) as partial:
        command = split_command(tools.tool("llama-gguf-split"), whole, partial / whole.stem, limit)
        run_tool(command, cwd=Path.cwd(), what=f"split {whole.name}", step=r"Writing file .*-(\d{5})-of-(\d{5})")
        parts = sorted(partial.glob("*.gguf"))
        if not parts:
            raise InputError(whole, "parts by llama-gguf-split", "none")
        check_parts(whole, parts, limit)
        write_json(partial / SPLIT_RECORD, {**made_from, "parts": {part.name: sha256_file(part) for part in parts}})
    return [folder / part.name for part in parts]
