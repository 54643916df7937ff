"""Random bf16 checkpoints on disk, written shard by shard: for measurements of speed, memory and size."""

import json
import math
import struct
from pathlib import Path

from checkpoints.checkpoint import INDEX_NAME  # every benchmark puts scripts/ on the path before it comes here
from files.written_records import write_json

import numpy as np

INIT_STD = 0.02
NOISE_VALUES = 1 << 24
Shapes = dict[str, tuple[int, ...]]


def bf16_noise(seed: int) -> np.ndarray:
    """Return NOISE_VALUES normal values of standard deviation INIT_STD as the bits of bf16 (cut, not rounded).

    A layer has 700 million values. Repeating these is faster than drawing all of them, and measures the same.
    """
    values = np.random.default_rng(seed).standard_normal(NOISE_VALUES, np.float32) * np.float32(INIT_STD)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def write_shard(path: Path, shapes: Shapes, noise: np.ndarray) -> None:
    """Write tensors of these shapes as one safetensors file: ones for norms and scales, repeated noise for the rest."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for number, shape in enumerate(shapes.values()):
            left = math.prod(shape)
            if len(shape) == 1:
                file.write(np.full(left, 0x3F80, np.uint16).tobytes())  # 1.0
                continue
            start = (number * 7919 + len(path.name)) % 4096  # so that no two tensors are equal
            while left:
                piece = noise[start : start + left]
                file.write(piece.data)
                left, start = left - len(piece), 0


def write_index(directory: Path, shards: dict[str, Shapes]) -> None:
    """Write the index of a checkpoint of these shards."""
    total = sum(2 * math.prod(shape) for tensors in shards.values() for shape in tensors.values())
    weight_map = {name: shard for shard, tensors in shards.items() for name in tensors}
    write_json(directory / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weight_map})
