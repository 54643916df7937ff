"""Running expert_drop.py on tiny models: the map it gets and what it leaves."""

import hashlib
import json
from pathlib import Path

from expert_drop import main

KEEP = 11  # of 16 experts


def drop(source: Path, output: Path, drop_map: dict, *more: str) -> Path:
    """Run expert_drop.py on a map given as an object."""
    map_path = output.with_suffix(".map.json")
    map_path.write_text(json.dumps(drop_map))
    main(["--source", str(source), "--drop-map", str(map_path), "--output", str(output), *more])
    return output


def digests(directory: Path) -> dict[str, str]:
    """sha256 of every file of a directory."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}
