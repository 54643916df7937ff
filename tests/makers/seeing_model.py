"""A multimodal twin of the demo, pruned, with its files for pictures: made once for all tests and workers."""

import json
from pathlib import Path

import convert_to_gguf
import copy_drop_map
import expert_drop
from calls import call, made_once
from choice.drop_map import dropped_ids, read_map
from conftest import DEMO
from files.seals import MARKER
from ggufs.mmproj import mmproj_name
from makers.multimodal_twin import write_twin
from makers.pruned_models import NAME, choose_first
from makers.shared_ggufs import shared_folder

TYPES = ("F16", "Q8_0")


def seeing_model(factory) -> Path:
    """A folder with twin/, pruned/ (the experts of `pruned_demo`, whose name it has), F16.gguf, and its mmprojs."""
    folder = shared_folder(factory, "seeing-model")
    with made_once(folder) as needed:
        if needed:
            folder.mkdir(exist_ok=True)
            (folder / MARKER).touch()
            twin = write_twin(DEMO / "model", folder / "twin")
            choose_first(folder, DEMO / "calibration_questions.csv")
            # A plain map names no weights: those of the twin have other names than the demo's.
            plain = {str(layer): ids for layer, ids in dropped_ids(read_map(folder / "map.json")).items()}
            (folder / "mine.json").write_text(json.dumps(plain))
            own = ["--map", folder / "mine.json", "--output", folder / "plain.json"]
            call(copy_drop_map.main, "--model", twin, *own)
            call(expert_drop.main, "--source", twin, "--drop-map", folder / "plain.json", "--output", folder / "pruned")
            for kind in TYPES:
                make_mmproj_of(folder / "pruned", folder / mmproj_name(NAME, kind), kind)
            f16 = folder / "F16.gguf"
            call(convert_to_gguf.main, "--model", folder / "pruned", "--name", NAME, "--output", f16)
    return folder


def make_mmproj_of(checkpoint: Path, output: Path, kind: str) -> None:
    """Convert a checkpoint's towers, or do nothing where it has none."""
    named = ["--name", NAME, "--outtype", kind, "--output", output]
    call(convert_to_gguf.main, "--mmproj", "--model", checkpoint, *named)
