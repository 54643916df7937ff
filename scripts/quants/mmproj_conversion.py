"""Converting the towers of a checkpoint to a file for pictures, with llama.cpp's converter, and checking what came out.

Checked: every tower of the checkpoint is in the file, with as many weights, and projects to the model's width; what
llama.cpp takes for granted about Gemma 4's tower (tools/mtmd/clip.cpp) holds for this one.
"""

import math
import os
from pathlib import Path

from checkpoints.checkpoint import TensorRange, read_files
from checkpoints.moe_families import text_config
from checkpoints.towers import VISION, tower_tensors, towers_digest, towers_of
from files.input_errors import InputError, sha256_file
from files.json_records import sha256_json
from files.safe_files import gib, partial_file, remove, replace_when_done
from files.written_records import write_record
from ggufs.gguf_header import GgufHeader, read_header
from ggufs.mmproj import TRUE_GELU, projection_widths, types_of, write_with_true_gelu
from llama.llama_tools import LlamaCpp, converter_command, run_tool
from quants.quant_record import MmprojRecord, is_made_of, record_path

TRUE_GELUS = ("gelu_pytorch_tanh", "gelu_new", "gelu")
# Not in the header: llama.cpp has these numbers in its source, for every Gemma 4.
TAKEN_FOR_GRANTED = {"pooling_kernel_size": 3, "rms_norm_eps": 1e-6}


def tower_source_digest(model: Path, towers_sha256: str) -> str:
    """Return the hex sha256 over what a file for pictures is made of: towers, and all that lies beside the weights.

    The converter reads files there by names of its own, such as that of another tool's quantisation.
    """
    files = {name: sha256_file(path) for name, path in read_files(model) if path.suffix != ".safetensors"}
    return sha256_json({**files, "towers": towers_sha256})


def check_vision(path: Path, vision: dict) -> None:
    """Raise InputError when llama.cpp would compute another tower than the config at `path` describes."""
    for key, value in TAKEN_FOR_GRANTED.items():
        if vision.get(key, value) != value:
            raise InputError(path, f"{key} {value} in vision_config, as llama.cpp computes it", repr(vision[key]))


def added_keys(config: dict) -> list[str]:
    """Return the header keys that the converter leaves out and a checkpoint of this config needs."""
    activation = (config.get("vision_config") or {}).get("hidden_activation", TRUE_GELUS[0])
    return [TRUE_GELU] if activation in TRUE_GELUS else []


def check_mmproj(named: Path, header: GgufHeader, towers: list[str], width: int, weights: int) -> None:
    """Raise InputError unless a file has these towers, that width and so many weights; named: it, in messages."""
    found = projection_widths(header)
    if found != dict.fromkeys(towers, width):
        raise InputError(named, f"{' and '.join(towers)} projected to {width} values, as the checkpoint's", str(found))
    count = sum(math.prod(tensor.dims) for tensor in header.tensors)
    if count != weights:
        raise InputError(named, f"the checkpoint's {weights} weights of {' and '.join(towers)}", str(count))


def convert_towers(
    model: Path, config: dict, tensors: dict[str, TensorRange], content: dict, output: Path, llama_cpp: LlamaCpp
) -> dict:
    """Write the file and check it; return what its record says beside `content`."""
    width = text_config(config)["hidden_size"]
    weights = sum(math.prod(tensor.shape) for tensor in tower_tensors(tensors).values())
    with replace_when_done(output) as partial:
        converted = partial_file(partial)
        remove(converted)  # of a run that was killed
        try:
            kind = content["type"].lower()
            command = converter_command(llama_cpp, model, content["name"], converted, kind, "--mmproj")
            run_tool(command, cwd=Path.cwd(), what="convert the towers", step=r"Writing:\s+(\d+)%")
            if content["added"]:
                write_with_true_gelu(read_header(converted), partial)
            else:
                os.replace(converted, partial)
        finally:
            remove(converted)
        header = read_header(partial)
        check_mmproj(output, header, content["towers"], width, weights)
        found = {"projection_width": width, "parameters": weights, "tensors_per_type": types_of(header)}
        record = content | found | {"bytes": partial.stat().st_size, "sha256": sha256_file(partial)}
        write_record(record_path(output), record, MmprojRecord)  # before the output, which make looks for
        return record


def make_mmproj(
    model: Path, config: dict, tensors: dict[str, TensorRange], name: str, kind: str, output: Path, llama_cpp: LlamaCpp
) -> str:
    """Convert the towers of a checkpoint, unless that was done or it has none; return a line that says so.

    kind: F16, BF16, F32 or Q8_0. Raises InputError when the file would not see what the checkpoint does.
    """
    towers = towers_of(model, config, tensors)
    if not towers:
        return f"{model}: text only, so no file for pictures"
    if VISION in towers:
        check_vision(model / "config.json", config["vision_config"])
    digest = towers_digest(tensors)
    content: dict = {
        "name": name,
        "type": kind,
        "towers": towers,
        "added": added_keys(config),
        "towers_sha256": digest,
        "source_sha256": tower_source_digest(model, digest),
        "llama_cpp": llama_cpp.version(),
    }
    if is_made_of(output, content, MmprojRecord):
        for path in (output, record_path(output)):
            os.utime(path)  # for make, which goes by time; the record stays the newer one
        return f"{output}: converted already"
    content = convert_towers(model, config, tensors, content, output, llama_cpp)
    return f"{output}: {kind}, {' and '.join(towers)}, {gib(content['bytes'])} GiB"
