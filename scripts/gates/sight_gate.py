"""The gates of a release that sees: its files for pictures against records and model, and an answer about a picture."""

import base64
import json
import math
import struct
import tempfile
import urllib.error
import zlib
from collections.abc import Callable
from pathlib import Path

from cards.front_matter import check_front_matter, pipeline_of
from checkpoints.checkpoint import read_checkpoint
from checkpoints.licence import CARD
from checkpoints.towers import tower_tensors, towers_digest
from choice.drop_metadata import read_metadata
from files.input_errors import InputError, sha256_file
from files.json_records import check_record, read_record
from gates.checked import Checked, Outcome
from gates.lineage import Breaks, Lineage, breaks_of
from ggufs.companions import MMPROJ
from ggufs.gguf_header import read_header
from ggufs.mmproj import mmproj_name, projection_widths, types_of
from ggufs.sibling_choice import mmproj_pick
from ggufs.vouched_keys import unvouched
from llama.llama_server import LlamaServer, server_command
from llama.llama_tools import LlamaCpp
from quants.mmproj_conversion import tower_source_digest
from quants.quant_record import MmprojRecord, record_path
from release.manifest import CHECKPOINT, MANIFEST

ANSWER_SECONDS = 1800  # a large model without a GPU is slow
CONVERT_TOWERS = "convert it again from the pruned checkpoint (`make quants REPLACE=quants`)"
SERVER_FLAGS = ["-c", "4096", "-np", "1"]
ANSWER_TOKENS, LEAST_TOKENS = 64, 70  # the picture alone is that many tokens of the prompt, or it was not looked at
SIDE_PIXELS = 144  # three soft tokens a side; llama.cpp enlarges it to its least size


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG file (https://www.w3.org/TR/png-3/#5Chunk-layout)."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def picture_png(side: int = SIDE_PIXELS) -> bytes:
    """Return a PNG file of a white disc on red."""
    rows, centre = [], (side - 1) / 2
    for y in range(side):
        inside = [math.hypot(x - centre, y - centre) < side / 3 for x in range(side)]
        rows.append(b"\0" + b"".join(b"\xff\xff\xff" if white else b"\xd0\x10\x10" for white in inside))
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def ask_about_picture(server: LlamaServer, picture: bytes) -> str:
    """Return what a model says about a picture by its own chat template; raise InputError when it says nothing.

    The text is taken as it comes: the chat route's parser answers HTTP 500 to a text that is not of the model's form,
    and whether the model sees does not hang on that.
    """
    data = base64.b64encode(picture).decode()
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "text", "text": "What is in this picture?"},
    ]
    messages = {"messages": [{"role": "user", "content": content}]}
    expected = "an answer of llama-server about a picture"
    try:
        prompt = server.request("/apply-template", messages, ANSWER_SECONDS)["prompt"]
        asked = {"prompt_string": prompt, "multimodal_data": [data]}
        body = {"prompt": asked, "n_predict": ANSWER_TOKENS, "temperature": 0}
        answer = server.request("/completion", body, ANSWER_SECONDS)
        text, tokens = answer["content"].strip(), answer["tokens_evaluated"]
    except urllib.error.HTTPError as error:
        words = error.read()[:200].decode(errors="replace")
        raise InputError(server.gguf, expected, f"HTTP {error.code}: {words}") from error
    except (OSError, ValueError, KeyError) as error:
        raise InputError(server.gguf, expected, f"{type(error).__name__}: {error}"[:200]) from error
    if not text or tokens < LEAST_TOKENS:
        raise InputError(server.gguf, expected, f"{len(text)} letters after {tokens} tokens")
    return text


def tower_breaks(lineage: Lineage) -> Breaks:
    """The files for pictures are of the towers of this build's checkpoint, which are the base's own.

    Its shards that hold towers are read whole: the digests of expert_drop_metadata.json are of the drop.
    """
    folder, copies = lineage.metadata_path.parent, lineage.sources["copies"]
    records = {name: record_path(path) for name, path in copies.items() if name.startswith(MMPROJ)}
    if not records:
        return []
    tensors = tower_tensors(read_checkpoint(folder))
    if not tensors:
        return [InputError(path, "no file for pictures of a text-only model", "one") for path in records.values()]
    digest, shards = towers_digest(tensors), read_metadata(lineage.metadata_path)["shards"]
    found: Breaks = []
    for shard in sorted({tensor.file for tensor in tensors.values()}):
        found += breaks_of(shard, [("sha256", shards.get(shard.name), sha256_file(shard))])
    made_of = tower_source_digest(folder, digest)
    for path in records.values():
        record = read_record(path, MmprojRecord)
        pairs: list[tuple[str, object, object]] = [
            ("a file of this checkpoint's towers, sha256", digest, record["towers_sha256"]),
            ("a file of this checkpoint's settings, sha256", made_of, record["source_sha256"]),
        ]
        found += breaks_of(path, pairs, CONVERT_TOWERS)
    return found


def file_deviations(checked: Checked, name: str, record: dict) -> list[str]:
    """Return how a file for pictures differs from its record, from the build's, and from what the model needs.

    Raises InputError when the file or the build's record cannot be read, or are not what they should be.
    """
    path, entry = checked.folder / name, checked.manifest["files"].get(name, {})
    check_record(checked.folder / MANIFEST, record, MmprojRecord)
    own = read_record(record_path(checked.sources["copies"].get(name, path)), MmprojRecord)
    header = read_header(path)
    width = record["projection_width"]
    pairs = [
        ("name", mmproj_name(checked.manifest["name"], record["type"]), name),
        ("record", own["sha256"], record["sha256"]),
        ("sha256", record["sha256"], entry.get("sha256")),
        ("bytes", record["bytes"], entry.get("bytes")),
        ("projections", dict.fromkeys(record["towers"], width), projection_widths(header)),
        ("weights", record["parameters"], sum(math.prod(tensor.dims) for tensor in header.tensors)),
        ("tensors per type", record["tensors_per_type"], types_of(header)),
        ("the name in its header", checked.manifest["name"], header.value("general.name")),
        ("general keys that nobody vouches for", [], unvouched(header)),
    ]
    for model in checked.records.values():
        first = read_header(checked.first_part(model))
        what = f"embeddings as wide as those of {model['files'][0]}"
        pairs.append((what, first.value(f"{first.architecture}.embedding_length"), width))
    return [
        f"{path}: expected {what} {expected}, found {found}" for what, expected, found in pairs if expected != found
    ]


def choice_deviations(checked: Checked, names: list[str]) -> list[str]:
    """Return a line for each model with which llama.cpp's -hf would fetch no file for pictures of the manifest."""
    listed, found = sorted(checked.manifest["files"]), []
    for record in checked.records.values():
        picked = mmproj_pick(listed, record["files"][0])
        if picked not in names:
            line = f"{checked.folder / record['files'][0]}: expected -hf to fetch one of {', '.join(names)} with it"
            found.append(f"{line}, found {picked}")
    return found


def sight_gate(checked: Checked) -> Outcome:
    """Files for pictures are those of their records and of this build, fit every model, and are found by -hf."""
    records = checked.manifest.get("mmproj", {})
    there = [name for name in checked.manifest["files"] if "mmproj" in name and name.endswith(".gguf")]
    outcome = Outcome(f"{len(there)} files for pictures against records, model and -hf", applies=bool(there or records))
    if checked.kind == CHECKPOINT or not outcome.applies:
        return outcome
    for name in sorted({*there, *records}):
        if name not in there or name not in records:
            found = "no file" if name not in there else "no record"
            outcome.deviations.append(f"{checked.folder / name}: expected a file and its record, found {found}")
            continue
        try:
            outcome.deviations += file_deviations(checked, name, records[name])
        except InputError as error:  # one file that cannot be read must not hide what is wrong with the others
            outcome.deviations.append(str(error))
    try:
        outcome.deviations += map(str, tower_breaks(checked.lineage))
    except InputError as error:
        outcome.deviations.append(str(error))
    outcome.deviations += choice_deviations(checked, there)
    tag, wanted = check_front_matter(checked.folder / CARD, checked.kind)["pipeline_tag"], pipeline_of(bool(records))
    if tag != wanted:
        outcome.deviations.append(f"{checked.folder / CARD}: expected pipeline_tag {wanted}, found {tag}")
    return outcome


def picture_gate(checked: Checked, choose: Callable[[Checked], Path], tools: LlamaCpp, gpu_layers: int) -> Outcome:
    """llama-server loads the chosen model with the file for pictures that -hf would take, and answers about one."""
    sees = {name: record for name, record in checked.manifest.get("mmproj", {}).items() if "vision" in record["towers"]}
    if not sees:
        return Outcome("no file for pictures", applies=False)
    model = choose(checked)
    picked = mmproj_pick(sorted(sees), model.name) or ""
    flags = [*SERVER_FLAGS, "-ngl", str(gpu_layers), "--mmproj", str(checked.folder / picked)]
    command = server_command(tools.tool("llama-server"), model, "release", 0, flags)
    with tempfile.TemporaryDirectory() as folder, LlamaServer(command, model, Path(folder) / "server.log") as server:
        text = ask_about_picture(server, picture_png())
    shown = json.dumps(text[:60], ensure_ascii=False)
    return Outcome(f"{model.name} with {picked} loaded by llama-server, which says of a picture {shown}")


def sight_gates(
    choose: Callable[[Checked], Path], tools: LlamaCpp, gpu_layers: int
) -> dict[str, Callable[[Checked], Outcome]]:
    """Return the gates of this module by name; choose: the model of a release that is asked about a picture."""
    return {"sight": sight_gate, "picture": lambda checked: picture_gate(checked, choose, tools, gpu_layers)}
