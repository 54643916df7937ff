"""GGUF files with a header and a hole where the data would be: enough for `llama-quantize --dry-run`, no room on disk.

Such a file is made from a config alone (Gemma 4), from a checkpoint (any family that llama.cpp's converter knows: it
runs, tokenizer included, but writes no data), or from the header of another GGUF, with fewer experts. Names and shapes
of Gemma 4: llama.cpp src/models/gemma4.cpp and conversion/gemma.py; a test compares with the converter.
"""

from pathlib import Path

from checkpoints.checkpoint import check_no_code
from checkpoints.moe_families import GEMMA4, text_config
from files.input_errors import InputError, shown
from ggufs.gguf_drop import key_value_bytes
from ggufs.gguf_header import (
    EXPERT_TENSOR,
    GgufHeader,
    TensorPlan,
    empty_header,
    key_value,
    read_header,
    split_paths,
    write_header_only,
)
from llama.llama_tools import LlamaCpp, convert_header_only

from gguf import GGMLQuantizationType

F16, F32 = GGMLQuantizationType.F16, GGMLQuantizationType.F32
# GGUF key: config key
GEMMA4_NUMBERS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.sliding_window": "sliding_window",
    "attention.key_length": "global_head_dim",
    "attention.value_length": "global_head_dim",
    "attention.key_length_swa": "head_dim",
    "attention.value_length_swa": "head_dim",
    "expert_count": "num_experts",
    "expert_used_count": "top_k_experts",
    "expert_feed_forward_length": "moe_intermediate_size",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
GEMMA4_NORMS = (
    "attn_norm",
    "post_attention_norm",
    "ffn_norm",
    "post_ffw_norm",
    "post_ffw_norm_1",
    "post_ffw_norm_2",
    "pre_ffw_norm_2",
)


def gemma4_tensors(values: dict) -> list[TensorPlan]:
    """Return the tensors of the F16 GGUF of a Gemma 4 text config: name, dims (the slowest axis last), type."""
    hidden = values["hidden_size"]
    tensors: list[TensorPlan] = [
        ("rope_freqs.weight", (values["global_head_dim"] // 2,), F32),
        ("token_embd.weight", (hidden, values["vocab_size"]), F16),
        ("output_norm.weight", (hidden,), F32),
    ]
    for layer, kind in enumerate(values["layer_types"]):
        matrices, small = _layer_dims(values, kind == "full_attention")
        tensors += [(f"blk.{layer}.{name}.weight", dims, F16) for name, dims in matrices.items()]
        tensors += [(f"blk.{layer}.{name}", dims, F32) for name, dims in small.items()]
    return tensors


def _layer_dims(values: dict, full: bool) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Return the dims of a layer's matrices (F16) and of its small tensors (F32); full: its attention has no window."""
    hidden, dense, wide = values["hidden_size"], values["intermediate_size"], values["moe_intermediate_size"]
    experts, heads = values["num_experts"], values["num_attention_heads"]
    head = values["global_head_dim" if full else "head_dim"]
    keys = head * values["num_global_key_value_heads" if full else "num_key_value_heads"]
    matrices: dict[str, tuple[int, ...]] = {
        "attn_q": (hidden, heads * head),
        "attn_k": (hidden, keys),
        "attn_output": (heads * head, hidden),
        "ffn_gate": (hidden, dense),
        "ffn_up": (hidden, dense),
        "ffn_down": (dense, hidden),
        "ffn_gate_up_exps": (hidden, 2 * wide, experts),
        "ffn_down_exps": (wide, hidden, experts),
    }
    # Full layers of the larger models use their keys as values, too, and store one tensor for both.
    if not (full and values.get("attention_k_eq_v")):
        matrices["attn_v"] = (hidden, keys)
    small: dict[str, tuple[int, ...]] = {
        "attn_q_norm.weight": (head,),
        "attn_k_norm.weight": (head,),
        "layer_output_scale.weight": (1,),
        "ffn_gate_inp.weight": (hidden, experts),
        "ffn_gate_inp.scale": (hidden,),
        "ffn_down_exps.scale": (experts,),
    }
    return matrices, small | {f"{name}.weight": (hidden,) for name in GEMMA4_NORMS}


def check_config(source: Path, values: dict) -> None:
    """Raise InputError when a number of a Gemma 4 text config is missing or impossible, or layer_types does not fit."""
    whole = {*GEMMA4_NUMBERS.values(), "vocab_size", "num_key_value_heads"} - {"rms_norm_eps"}
    kinds = values.get("layer_types")
    if isinstance(kinds, list) and "full_attention" in kinds:
        whole.add("num_global_key_value_heads")
    for key in sorted(whole):
        # type(): True is an int, too. The bound: headers hold these numbers as uint32.
        if type(values.get(key)) is not int or not 0 < values[key] < 1 << 32:
            raise InputError(source, f"a whole number above 0 for {key}", shown(values.get(key)))
    if not isinstance(values.get("rms_norm_eps"), (int, float)):
        raise InputError(source, "a number for rms_norm_eps", shown(values.get("rms_norm_eps")))
    layers = values["num_hidden_layers"]
    if (
        not isinstance(kinds, list)
        or len(kinds) != layers
        or not {*map(str, kinds)} <= {"full_attention", "sliding_attention"}
    ):
        raise InputError(
            source, f"layer_types of {layers} layers, each full_attention or sliding_attention", shown(kinds)
        )


def from_config(source: Path, config: dict, name: str, output: Path) -> GgufHeader:
    """Write the sparse F16 GGUF of a Gemma 4 config, without a tokenizer; return its header.

    Raises InputError for another family, for a Gemma 4 without experts, and for a value that is missing or impossible.
    """
    if config.get("model_type") not in GEMMA4.model_types:
        raise InputError(
            source,
            f"the config of Gemma 4 ({', '.join(GEMMA4.model_types)})",
            repr(config.get("model_type")),
            "of other families give the whole checkpoint or a GGUF",
        )
    values = text_config(config)
    # The others of the family (E2B, E4B, 31B) are dense; those with per-layer embeddings have tensors not listed here.
    if not values.get("num_experts") or values.get("hidden_size_per_layer_input"):
        raise InputError(source, "a Gemma 4 with experts and without per-layer embeddings", "another one")
    check_config(source, values)
    sliding = [kind == "sliding_attention" for kind in values["layer_types"]]
    tensors = gemma4_tensors(values)
    heads = [values["num_key_value_heads" if short else "num_global_key_value_heads"] for short in sliding]
    pairs = {
        "general.architecture": "gemma4",
        "general.type": "model",
        "general.name": name,
        **{f"gemma4.{key}": values[field] for key, field in GEMMA4_NUMBERS.items()},
        "gemma4.embedding_length_per_layer_input": 0,
        "gemma4.attention.sliding_window_pattern": sliding,
        "gemma4.attention.head_count_kv": heads,
        "general.file_type": 1,
        "general.quantization_version": 2,
    }
    return write_header_only(empty_header(output), [key_value(*pair) for pair in pairs.items()], tensors, output)


def from_checkpoint(directory: Path, llama_cpp: LlamaCpp, name: str, output: Path, outtype: str = "f16") -> GgufHeader:
    """Let the converter write the GGUF of a checkpoint without its data; return its header."""
    check_no_code(directory)  # the converter would run it
    convert_header_only(llama_cpp, directory, name, output, outtype)
    return read_header(output)


def from_gguf(source: Path, keep: int | None, output: Path) -> GgufHeader:
    """Write the sparse copy of a GGUF file, split or not, with `keep` experts (all when None); return its header.

    Raises InputError when the file has fewer experts.
    """
    headers = [read_header(part) for part in split_paths(source)]
    first = headers[0]
    key, experts = f"{first.architecture}.expert_count", first.experts
    keep = experts if keep is None else keep
    if not 0 <= keep <= experts:
        raise InputError(source, f"{keep} experts or more", str(experts))
    tensors = [
        (tensor.name, (*tensor.dims[:-1], keep) if EXPERT_TENSOR.fullmatch(tensor.name) else tensor.dims, tensor.kind)
        for header in headers
        for tensor in header.tensors
    ]
    # The copy is one file. With the keys of a split llama.cpp would look for the other parts.
    split = {pair.raw for pair in first.key_values if pair.key.startswith("split.")}
    pairs = [raw for raw in key_value_bytes(first, {key: keep} if experts else {}) if raw not in split]
    return write_header_only(first, pairs, tensors, output)
