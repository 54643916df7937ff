"""Whether llama.cpp's converter takes from a config what transformers reads of it.

The converter knows names of other families for a value, and takes the first that is there; all that transformers does
not know reaches it as it stands. So two values under two names would be two models: one analysed, one released.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from checkpoints.checkpoint import read_files
from files.input_errors import InputError, shown
from ggufs.gguf_header import KeyValue, read_header
from llama.llama_tools import LlamaCpp, convert_header_only

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

# No fields of every config class, and yet read: of older files, by models, and of any config (which token ends a text).
READ_BESIDE = {
    *("model_type", "torch_dtype", "rope_theta", "rope_scaling"),
    *("head_dim", "global_head_dim", "num_global_key_value_heads", "per_layer_config"),
    *(f"{kind}_token_id" for kind in ("bos", "eos", "pad", "sep", "unk", "cls", "mask")),
}
MOST_NAMED = 3


def without_unknown(config: dict, kind: Any = None) -> dict:
    """Return a config without the keys that transformers does not know; kind: its class, else by its model_type."""
    if not is_dataclass(kind):
        kind = CONFIG_MAPPING[config["model_type"]] if config.get("model_type") in CONFIG_MAPPING else None
    if kind is None:
        return config
    known = {field.name for field in fields(kind)} | READ_BESIDE | {*kind.attribute_map, *kind.attribute_map.values()}
    parts = kind.sub_configs
    return {
        key: without_unknown(value, parts[key]) if key in parts and isinstance(value, dict) else value
        for key, value in config.items()
        if key in known
    }


def unknown_keys(config: dict, known: dict) -> list[str]:
    """Return the keys that a config has beside its known part, those of its parts included."""
    found = [key for key in config if key not in known]
    for key, value in known.items():
        if isinstance(value, dict):
            found += unknown_keys(config[key], value)
    return found


def header_values(directory: Path, config: dict, tools: LlamaCpp, folder: Path) -> dict[str, KeyValue] | None:
    """Return what the converter writes into the header by that config, by key; None of one that it does not read."""
    model, output = folder / "model", folder / "header.gguf"
    model.mkdir(parents=True)
    for name, path in read_files(directory):
        (model / name).parent.mkdir(exist_ok=True)
        if name != "config.json":
            (model / name).symlink_to(path.resolve())
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    try:
        convert_header_only(tools, model, "model", output, "f16")
    except InputError:
        return None
    return {entry.key: entry for entry in read_header(output).key_values}


def is_said(key: str, values: dict[str, KeyValue], without: dict[str, KeyValue]) -> bool:
    """Tell whether a key of the header is another one by a config's unknown keys.

    A size of 0 says that there is no such part, as Qwen3-Coder's config does of shared experts.
    """
    entry, other = values.get(key), without.get(key)
    nothing = entry is not None and other is None and type(entry.value) in (int, float) and entry.value == 0
    return not nothing and (entry and entry.raw) != (other and other.raw)


def check_config_read_alike(directory: Path, config: dict, find_tools: Callable[[], LlamaCpp]) -> None:
    """Raise InputError for keys of which transformers knows nothing, and by which the converter writes another header.

    find_tools: asked for where there are such keys alone, which is seldom.
    """
    if (known := without_unknown(config)) == config:
        return
    with tempfile.TemporaryDirectory() as folder:
        values = header_values(directory, config, find_tools(), Path(folder) / "all")
        if values is None:  # so there will be no GGUF file
            return
        without = header_values(directory, known, find_tools(), Path(folder) / "known") or {}
    if differing := sorted(key for key in values.keys() | without.keys() if is_said(key, values, without)):
        names = ", ".join(shown(key) for key in unknown_keys(config, known)[:MOST_NAMED])
        raise InputError(
            directory / "config.json",
            f"a config of which llama.cpp's converter takes {differing[0]} as transformers does",
            f"another value by a key that transformers does not know, one of {names}",
            "remove that key",
        )
