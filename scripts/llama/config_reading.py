"""Whether llama.cpp's converter takes from a config what transformers reads of it.

The converter knows names of other families for a value, and takes the first that is there; all that transformers does
not know reaches it as it stands. So two values under two names would be two models: one analysed, one released.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from chats.without_torch import spare_torch
from checkpoints.checkpoint import read_files
from files.input_errors import InputError, shown
from ggufs.gguf_header import KeyValue, read_header
from llama.llama_tools import LlamaCpp, convert_header_only

# No fields of every config class, and yet read: of older files, by models, and of any config (which token ends a text).
READ_BESIDE = {
    *("model_type", "torch_dtype", "rope_theta", "rope_scaling"),
    *("head_dim", "global_head_dim", "num_global_key_value_heads", "per_layer_config"),
    *(f"{kind}_token_id" for kind in ("bos", "eos", "pad", "sep", "unk", "cls", "mask")),
}
ROTATIONS = {"rope_parameters", "rope_scaling"}
MOST_NAMED = 10


@cache
def of_transformers() -> tuple[Any, dict[str, Any], set[str]]:
    """Return its config classes and those of its language models, by model_type, and the keys of rotary embeddings."""
    spare_torch()
    from transformers.modeling_rope_utils import RopeParameters
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return CONFIG_MAPPING, dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES), set(RopeParameters.__annotations__)


def without_unknown(config: dict, kind: Any = None) -> dict:
    """Return a config without the keys that transformers does not know; kind: its class, else by its model_type."""
    if not is_dataclass(kind):
        classes, name = of_transformers()[0], config.get("model_type")
        kind = classes[name] if name in classes else None
    if kind is None:
        return config
    known = {field.name for field in fields(kind)} | READ_BESIDE | {*kind.attribute_map, *kind.attribute_map.values()}
    found = {key: value for key, value in config.items() if key in known}
    for key in kind.sub_configs.keys() & found.keys():
        if isinstance(found[key], dict):
            found[key] = without_unknown(found[key], kind.sub_configs[key])
    for key in ROTATIONS & found.keys():
        found[key] = known_rotation(found[key])
    return found


def known_rotation(value: Any) -> Any:
    """Return what transformers reads of rotary embeddings: of all layers, or of each kind of layer."""
    if not isinstance(value, dict):
        return value
    if of_kinds := {kind: known_rotation(part) for kind, part in value.items() if isinstance(part, dict)}:
        return of_kinds  # then what stands beside them is of no layer
    return {key: part for key, part in value.items() if key in of_transformers()[2] or key == "type"}


def unknown_keys(config: dict, known: dict) -> list[str]:
    """Return the keys that a config has beside its known part, those of its parts included."""
    found = [key for key in config if key not in known]
    for key, value in known.items():
        if isinstance(value, dict):
            found += unknown_keys(config[key], value)
    return found


def header_values(directory: Path, config: dict, tools: LlamaCpp, folder: Path) -> dict[str, KeyValue]:
    """Return what the converter writes into the header by that config, by key; raise InputError if it reads none."""
    model, output = folder / "model", folder / "header.gguf"
    model.mkdir(parents=True)
    for name, path in read_files(directory):
        (model / name).parent.mkdir(exist_ok=True)
        if name != "config.json":
            (model / name).symlink_to(path.resolve())
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    try:
        convert_header_only(tools, model, "model", output, "f16")
    except InputError as error:  # it names the folder of links
        said = str(error).partition(", found ")[2]
        raise InputError(directory, "a checkpoint that llama.cpp's converter reads", said) from error
    return {entry.key: entry for entry in read_header(output).key_values}


def is_said(key: str, values: dict[str, KeyValue], without: dict[str, KeyValue]) -> bool:
    """Tell whether a key of the header is another one by a config's unknown keys.

    A size of 0 says that there is no such part, as Qwen3-Coder's config does of shared experts.
    """
    entry, other = values.get(key), without.get(key)
    nothing = entry is not None and other is None and type(entry.value) in (int, float) and entry.value == 0
    return not nothing and (entry and entry.raw) != (other and other.raw)


def as_read(config: dict) -> dict:
    """Return a config as transformers reads it: it builds the class of the model_type, whatever architectures say."""
    known = without_unknown(config)
    for key, part in known.items():
        if key.endswith("_config") and isinstance(part, dict):  # the converter would go by what one of these names
            known[key] = {name: value for name, value in part.items() if name != "architectures" or value is None}
    built = of_transformers()[1].get(str(config.get("model_type")))
    return known | {"architectures": [built]} if built else known


def check_config_read_alike(directory: Path, config: dict, find_tools: Callable[[], LlamaCpp | None]) -> None:
    """Raise InputError where the converter writes another header by a config than by what transformers reads of it.

    find_tools: asked for where the two differ, which is seldom; without tools nothing is looked at.
    """
    if (known := as_read(config)) == config or (tools := find_tools()) is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            values = header_values(directory, config, tools, Path(folder) / "all")
        except InputError:  # it cannot be converted, which is told where it is; some only drop
            return
        without = header_values(directory, known, tools, Path(folder) / "known")
    if differing := sorted(key for key in values.keys() | without.keys() if is_said(key, values, without)):
        names = ", ".join(shown(key) for key in unknown_keys(config, known)[:MOST_NAMED])
        raise InputError(
            directory / "config.json",
            f"a config of which llama.cpp's converter takes {differing[0]} as transformers does",
            f"another value by what transformers does not read: {names or 'architectures'}",
            "remove that, or name the class that transformers builds",
        )
