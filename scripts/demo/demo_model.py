"""The demo model: its shape, its starting weights, and its files in the form of published Gemma 4 checkpoints."""

import json
import shutil
from pathlib import Path
from typing import Any

from demo.demo_tokenizer import MAX_POSITIONS, SPECIAL_TOKENS, tokenizer_settings
from files.safe_files import directory_when_done

import tokenizers
import torch
import transformers

LAYER_TYPES = ["sliding_attention", "full_attention", "full_attention"]  # both kinds; Gemma 4's last layer is full
HIDDEN_SIZE = 256
HEAD_DIM, GLOBAL_HEAD_DIM = 32, 64
KV_HEADS, GLOBAL_KV_HEADS = 4, 2
LOGIT_CAP = 30.0
# 128 experts, top-8, as the 26B has. 32 fits ggml's small blocks but not its blocks of 256, as the 26B's 704 does.
DENSE_WIDTH, EXPERT_WIDTH, EXPERTS, TOP_K = 128, 32, 128, 8
# The licence of a release is taken from its base's card, so the demo has one.
CARD_TEXT = """---
license: cc0-1.0
---

# The demo model

A small mixture of experts with Gemma 4's text architecture, made from scratch for this project. Use it as you like.
"""


def demo_config(vocab_size: int) -> transformers.Gemma4TextConfig:
    """Return the shape of the demo model; the vocabulary decides the rest."""
    settings: dict[str, Any] = {
        "vocab_size": vocab_size,
        "vocab_size_per_layer_input": vocab_size,
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": DENSE_WIDTH,
        "num_hidden_layers": len(LAYER_TYPES),
        "layer_types": LAYER_TYPES,
        "num_attention_heads": 8,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "global_head_dim": GLOBAL_HEAD_DIM,
        "num_global_key_value_heads": GLOBAL_KV_HEADS,
        "attention_k_eq_v": True,
        "sliding_window": 256,
        "max_position_embeddings": MAX_POSITIONS,
        "hidden_size_per_layer_input": 0,
        "final_logit_softcapping": LOGIT_CAP,
        "enable_moe_block": True,
        "num_experts": EXPERTS,
        "top_k_experts": TOP_K,
        "moe_intermediate_size": EXPERT_WIDTH,
        "tie_word_embeddings": True,
        "bos_token_id": SPECIAL_TOKENS.index("<bos>"),
        "eos_token_id": SPECIAL_TOKENS.index("<eos>"),
        "pad_token_id": SPECIAL_TOKENS.index("<pad>"),
    }
    return transformers.Gemma4TextConfig(**settings)  # a dict: the class takes the two global_ sizes, but declares none


def initialise(model: transformers.Gemma4ForCausalLM) -> None:
    """Set starting weights for Gemma 4's attention, whose logits are not divided by sqrt(head_dim).

    Query and key norms start at head_dim**-0.25, so that logits have unit variance. Above the first layer queries start
    equal to keys, so that a token attends to its like. Tokens enter with RMS 1 and sublayers with a quarter of it, so
    that a token can still be recognised after all layers.
    """
    for name, parameter in model.named_parameters():
        if "experts." in name or "proj.weight" in name:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        elif "embed_tokens" in name:
            torch.nn.init.normal_(parameter, std=HIDDEN_SIZE**-0.5)
        elif "q_norm" in name or "k_norm" in name:
            torch.nn.init.constant_(parameter, len(parameter) ** -0.25)
        elif name.endswith(("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")):
            torch.nn.init.constant_(parameter, 0.25)
        elif name.endswith(("post_feedforward_layernorm_1.weight", "post_feedforward_layernorm_2.weight")):
            torch.nn.init.constant_(parameter, 0.5)
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.router.proj.weight, std=1.0)
    for layer in model.model.layers[1:]:
        attention = layer.self_attn
        keys = attention.k_proj.weight.view(-1, attention.head_dim, HIDDEN_SIZE)
        repeats = attention.q_proj.weight.shape[0] // attention.k_proj.weight.shape[0]
        attention.q_proj.weight.data.copy_(keys.repeat_interleave(repeats, 0).reshape(-1, HIDDEN_SIZE))


def published_config(config: dict, vocab_size: int) -> dict:
    """Return config.json in the form of published Gemma 4 checkpoints.

    transformers writes the two global_ sizes as overrides per layer; published ones have them by name.
    """
    plain = {key: value for key, value in config.items() if key not in ("per_layer_config", "experts_implementation")}
    return plain | {
        "architectures": ["Gemma4ForCausalLM"],
        "dtype": "bfloat16",
        "vocab_size": vocab_size,
        "global_head_dim": GLOBAL_HEAD_DIM,
        "num_global_key_value_heads": GLOBAL_KV_HEADS,
    }


def write_model(
    model: transformers.Gemma4ForCausalLM, tokenizer: tokenizers.Tokenizer, chat_template: Path, directory: Path
) -> None:
    """Write the checkpoint directory atomically; the model is bf16 from then on."""
    with directory_when_done(directory, "config.json") as partial:
        model.bfloat16().save_pretrained(partial)
        config = published_config(json.loads((partial / "config.json").read_text()), tokenizer.get_vocab_size())
        generation = {
            "bos_token_id": config["bos_token_id"],
            "pad_token_id": config["pad_token_id"],
            "eos_token_id": [
                SPECIAL_TOKENS.index("<eos>"),
                SPECIAL_TOKENS.index("<turn|>"),
            ],  # a turn's end ends a reply
            "do_sample": True,
            "temperature": 1.0,
            "top_k": 64,
            "top_p": 0.95,
        }
        for name, content in (
            ("config.json", config),
            ("generation_config.json", generation),
            ("tokenizer_config.json", tokenizer_settings()),
        ):
            (partial / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
        tokenizer.save(str(partial / "tokenizer.json"))
        shutil.copyfile(chat_template, partial / "chat_template.jinja")
        (partial / "README.md").write_text(CARD_TEXT, encoding="utf-8")
