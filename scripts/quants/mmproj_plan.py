"""The size of a file for pictures before it is made: llama.cpp's converter writes its header, and no data.

A checkpoint gives the size to the byte. A config alone has no processor config and no generation config, whose numbers
go into the header, too: then a stand-in checkpoint is made of it, and a real file is larger by a few hundred bytes.
Names and shapes of Gemma 4's tower: transformers, src/transformers/models/gemma4; a test compares them.
"""

import json
import math
import struct
from collections.abc import Iterable
from pathlib import Path

from checkpoints.checkpoint import read_checkpoint
from checkpoints.moe_families import text_config
from checkpoints.towers import AUDIO, configured_towers, towers_of
from files.input_errors import InputError
from ggufs.companions import MMPROJ
from ggufs.gguf_header import read_header
from ggufs.mmproj import true_gelu_bytes
from llama.llama_tools import LlamaCpp, convert_header_only
from quants.mmproj_conversion import added_keys

MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
NORMS = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
LIMITS = ("input_min", "input_max", "output_min", "output_max")
# Every published Gemma 4 has these: pixels from 0 to 1.
STAND_IN_PROCESSOR = {"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]}
BF16_BYTES = 2


def vision_shapes(vision: dict, width: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of a Gemma 4 vision tower, by name; width: of the language model."""
    hidden, wide, patch = vision["hidden_size"], vision["intermediate_size"], vision.get("patch_size", 16)
    head, places = vision["head_dim"], vision.get("position_embedding_size", 10240)
    queries = vision["num_attention_heads"] * head
    keys = vision["num_key_value_heads"] * head
    sizes = [(queries, hidden), (keys, hidden), (keys, hidden), (hidden, queries), (wide, hidden), (wide, hidden)]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_vision.embedding_projection.weight": (width, hidden),
        "model.vision_tower.patch_embedder.input_proj.weight": (hidden, 3 * patch**2),
        "model.vision_tower.patch_embedder.position_embedding_table": (2, places, hidden),
    }
    if vision.get("standardize"):
        shapes |= {f"model.vision_tower.{name}": (hidden,) for name in ("std_bias", "std_scale")}
    for layer in range(vision["num_hidden_layers"]):
        start = f"model.vision_tower.encoder.layers.{layer}."
        for name, size in zip(MATRICES, [*sizes, (hidden, wide)], strict=True):
            part = f"{start}{'self_attn' if name[1:] == '_proj' else 'mlp'}.{name}."
            shapes[f"{part}linear.weight"] = size
            if vision.get("use_clipped_linears"):
                shapes |= {f"{part}{limit}": () for limit in LIMITS}
        shapes |= {f"{start}self_attn.{name}.weight": (head,) for name in ("q_norm", "k_norm")}
        shapes |= {f"{start}{name}.weight": (hidden,) for name in NORMS}
    return shapes


def write_stand_in(source: Path, config: dict, folder: Path) -> Path:
    """Write a checkpoint of a config's towers with a hole in place of their bytes; return its directory.

    Raises InputError when the config lacks a number, or has an audio tower, whose shapes are not known here.
    """
    vision, width = config.get("vision_config") or {}, text_config(config)["hidden_size"]
    if AUDIO in configured_towers(config):
        raise InputError(source, "no audio_config, of which alone no size can be told", "one", "plan by the checkpoint")
    try:
        shapes = vision_shapes(vision, width)
    except KeyError as error:
        raise InputError(source, f"{error} in vision_config", "none") from error
    header, end = {}, 0
    for name, shape in shapes.items():
        size = BF16_BYTES * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    folder.mkdir()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    described = {**config, "architectures": ["Gemma4ForConditionalGeneration"], "text_config": text_config(config)}
    (folder / "config.json").write_text(json.dumps(described))
    (folder / "preprocessor_config.json").write_text(json.dumps(STAND_IN_PROCESSOR))
    return folder


def planned_bytes(model: Path, config: dict, name: str, kind: str, llama_cpp: LlamaCpp, output: Path) -> int:
    """Return the size of a checkpoint's file for pictures of a type; output: where its header may be written."""
    convert_header_only(llama_cpp, model, name, output, kind.lower(), "--mmproj")
    return true_gelu_bytes(read_header(output)) if added_keys(config) else output.stat().st_size


def plan_mmproj(
    source: Path, config: dict, name: str, kinds: Iterable[str], llama_cpp: LlamaCpp, work: Path
) -> list[dict]:
    """Return name and bytes of each file for pictures, [] for a text-only model.

    source: a checkpoint directory, or else the file that the config is from; work: an empty directory.
    """
    whole = source.is_dir() and any(source.glob("*.safetensors"))
    towers = towers_of(source, config, read_checkpoint(source)) if whole else configured_towers(config)
    if not towers:
        return []
    model = source if whole else write_stand_in(source, config, work / "stand-in")
    rows = []
    for kind in kinds:
        size = planned_bytes(model, config, name, kind, llama_cpp, work / f"{MMPROJ}{kind}.gguf")
        rows.append({"name": f"{MMPROJ}{kind}", "bytes": size})
    return rows
