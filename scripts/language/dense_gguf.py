"""A dense model of the Llama architecture out of a GGUF file: weights as Llama checkpoints name them, and tokenizer.

Source of the names and of the order of query and key rows: convert_hf_to_gguf.py of llama.cpp. It stores the two halves
of each head's rows interleaved, for its own form of rotary embeddings; here they are put back.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from files.input_errors import InputError, reason_of

import gguf
import numpy as np
import torch

ARCHITECTURE, PRE_TOKENIZER = "llama", "smollm"
BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
CONTROL, USER_DEFINED = 3, 4  # token types of GGUF


@dataclass(frozen=True)
class DenseModel:
    """A dense model: config.json of LlamaForCausalLM, weights in float32, tokenizer.json and its settings."""

    config: dict[str, Any]
    weights: dict[str, torch.Tensor]
    tokenizer: dict[str, Any]
    tokenizer_settings: dict[str, Any]
    chat_template: str


def checkpoint_name(name: str) -> str | None:
    """Return a GGUF tensor's name in Llama checkpoints, None for one that they do not have."""
    place = name.removesuffix(".weight")
    if place in TOP_NAMES:
        return f"{TOP_NAMES[place]}.weight"
    head, _, rest = place.removeprefix("blk.").partition(".")
    return f"model.layers.{head}.{BLOCK_NAMES[rest]}.weight" if rest in BLOCK_NAMES else None


def rows_in_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Return query or key rows [heads * size, H] with each head's two halves one behind the other."""
    size = len(weight) // heads
    return weight.reshape(heads, size // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)


def read_fields(path: Path, reader: gguf.GGUFReader) -> dict[str, Any]:
    """Return a file's header values by name; raise InputError where it is not a dense Llama with SmolLM's tokenizer."""
    fields = {name: field.contents() for name, field in reader.fields.items()}
    for name, expected in (("general.architecture", ARCHITECTURE), ("tokenizer.ggml.pre", PRE_TOKENIZER)):
        if fields.get(name) != expected:
            raise InputError(path, f"{name} = {expected}", repr(fields.get(name)))
    return fields


def dense_config(fields: dict[str, Any]) -> dict[str, Any]:
    """Return config.json of a Llama model by its header's values."""
    key = {name.removeprefix("llama."): value for name, value in fields.items() if name.startswith("llama.")}
    return {
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": key["embedding_length"],
        "intermediate_size": key["feed_forward_length"],
        "num_hidden_layers": key["block_count"],
        "num_attention_heads": key["attention.head_count"],
        "num_key_value_heads": key["attention.head_count_kv"],
        "head_dim": key["rope.dimension_count"],
        "max_position_embeddings": key["context_length"],
        "rms_norm_eps": round(key["attention.layer_norm_rms_epsilon"], 12),
        "rope_parameters": {"rope_type": "default", "rope_theta": key["rope.freq_base"]},
        "tie_word_embeddings": True,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
    }


def tokenizer_json(fields: dict[str, Any]) -> dict[str, Any]:
    """Return tokenizer.json: byte-level BPE, each digit a word of its own."""
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    digits = {"type": "Digits", "individual_digits": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = [
        {"id": number, "content": token, "special": kind == CONTROL}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for number, (token, kind) in enumerate(zip(tokens, types))
        if kind in (CONTROL, USER_DEFINED)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in fields["tokenizer.ggml.merges"]],
        },
    }


def settings_of_tokenizer(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the content of tokenizer_config.json."""
    named = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    tokens = fields["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields["llama.context_length"],
        **{f"{ours}_token": tokens[fields[f"tokenizer.ggml.{theirs}_token_id"]] for ours, theirs in named.items()},
    }


def read_weights(path: Path, reader: gguf.GGUFReader, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return all weights in float32; raise InputError when one is unknown or missing."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    weights = {}
    for tensor in reader.tensors:
        name = checkpoint_name(tensor.name)
        if name is None:
            raise InputError(path, "only tensors of a dense Llama with tied embeddings", tensor.name)
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        values = values.reshape([int(size) for size in reversed(tensor.shape)]).astype(np.float32)
        kind = name.split(".")[-2]
        weights[name] = torch.from_numpy(rows_in_halves(values, heads[kind]) if kind in heads else values.copy())
    layers = range(config["num_hidden_layers"])
    wanted = {f"model.layers.{layer}.{place}.weight" for layer in layers for place in BLOCK_NAMES.values()}
    wanted |= {f"{place}.weight" for place in TOP_NAMES.values()}
    if missing := sorted(wanted - weights.keys()):
        raise InputError(path, missing[0], "no such tensor")
    return weights


def read_dense(path: Path) -> DenseModel:
    """Read a dense model; raise InputError when the file is damaged or another architecture."""
    try:
        reader = gguf.GGUFReader(path)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise InputError(path, "a GGUF file", reason_of(error)) from error
    fields = read_fields(path, reader)
    config = dense_config(fields)
    return DenseModel(
        config,
        read_weights(path, reader, config),
        tokenizer_json(fields),
        settings_of_tokenizer(fields),
        fields["tokenizer.chat_template"],
    )
