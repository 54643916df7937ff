"""Dropping experts inside GGUF files of the demo: the map that tests use, and running expert_drop.py."""

import subprocess
from pathlib import Path

from expert_drop import main

import numpy as np

DEMO_EXPERTS, DEMO_LAYERS, KEEP = 128, 3, 109


def demo_map(seed: int = 0) -> dict[str, list[int]]:
    """Other experts dropped in every layer, first and last ones among them."""
    generator = np.random.default_rng(seed)
    return {
        str(layer): sorted(
            {
                0,
                DEMO_EXPERTS - 1,
                *generator.permutation(range(1, DEMO_EXPERTS - 1))[: DEMO_EXPERTS - KEEP - 2].tolist(),
            }
        )
        for layer in range(DEMO_LAYERS)
    }


def drop(source: Path, drop_map: Path, output: Path, *options: object) -> Path:
    """Run expert_drop.py; return the output."""
    main(["--source", str(source), "--drop-map", str(drop_map), "--output", str(output), *map(str, options)])
    return output


def split_gguf(tools, path: Path, stem: Path) -> list[Path]:
    """Split a GGUF file by llama.cpp's own tool into parts STEM-NNNNN-of-NNNNN.gguf of 20 tensors, and return them."""
    splitter = tools.tool("llama-gguf-split")
    subprocess.run([splitter, "--split", "--split-max-tensors", "20", path, stem], check=True, capture_output=True)
    return sorted(stem.parent.glob(f"{stem.name}-*.gguf"))
