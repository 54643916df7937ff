"""Tiny random mixture-of-experts models, built from a config in a second."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DeepseekV3Config,
    Gemma4Config,
    Gemma4ForCausalLM,
    Gemma4ForConditionalGeneration,
    Gemma4TextConfig,
    GptOssConfig,
    LlamaConfig,
    MixtralConfig,
    OlmoeConfig,
    PreTrainedConfig,
    Qwen3MoeConfig,
)

EXPERTS, TOP_K, LAYERS, HIDDEN, WIDTH = 16, 4, 3, 64, 32
SMALL_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "position_embedding_size": 64,
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def text_config(vocab_size: int, **changes: Any) -> Gemma4TextConfig:
    """Return a Gemma 4 text config with sliding and full layers and mixture-of-experts blocks."""
    values = {
        "vocab_size": vocab_size,
        "hidden_size": HIDDEN,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        # Full layers have larger heads than sliding ones, and keys that are values, as in the 26B.
        "global_head_dim": 32,
        "num_global_key_value_heads": 2,
        "attention_k_eq_v": True,
        "enable_moe_block": True,
        "num_experts": EXPERTS,
        "top_k_experts": TOP_K,
        "moe_intermediate_size": WIDTH,
        "hidden_size_per_layer_input": 0,
        "sliding_window": 128,
        "final_logit_softcapping": 30.0,
        "max_position_embeddings": 4096,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "initializer_range": 0.1,  # the usual 0.02 would make such a small model's experts nearly alike
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    return Gemma4TextConfig(**values | changes)


def build_tiny_model(
    directory: Path, layout: str, tokenizer: Path, dtype: torch.dtype = torch.bfloat16, vocab_size: int | None = None
) -> Path:
    """Save a random model with the demo's tokenizer.

    layout: "text" (model.layers.N) or "multimodal" (model.language_model.layers.N with vision tensors beside it).
    """
    torch.manual_seed(0)
    config = text_config(vocab_size or len(AutoTokenizer.from_pretrained(tokenizer)))
    if layout == "text":
        model = Gemma4ForCausalLM(config)
    else:
        model = Gemma4ForConditionalGeneration(Gemma4Config(text_config=config.to_dict(), vision_config=SMALL_TOWER))
    for name, parameter in model.named_parameters():
        if name.endswith(("per_expert_scale", "router.scale")):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.to(dtype).save_pretrained(directory, max_shard_size="200KB")  # so that there are several shards
    if layout == "text":
        # save_pretrained writes these keys in another form, which llama.cpp's converter does not read.
        config_path = directory / "config.json"
        saved = json.loads(config_path.read_text())
        saved.pop("per_layer_config", None)
        saved |= {"global_head_dim": 32, "num_global_key_value_heads": 2}
        config_path.write_text(json.dumps(saved, indent=2))
    copy_tokenizer(tokenizer, directory)
    return directory


def copy_tokenizer(source: Path, directory: Path) -> None:
    """Copy tokenizer and chat template of a checkpoint."""
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, directory / name)


def family_config(family: str, vocab_size: int) -> PreTrainedConfig:
    """Return a tiny config of another family, with its own kind of routing and experts; "llama" has no experts."""
    common = {
        "vocab_size": vocab_size,
        "hidden_size": HIDDEN,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "initializer_range": 0.1,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    routed = {"num_experts": EXPERTS, "num_experts_per_tok": TOP_K}
    local = {"num_local_experts": EXPERTS, "num_experts_per_tok": TOP_K}
    return {
        "qwen3_moe": lambda: Qwen3MoeConfig(
            **common, **routed, head_dim=16, moe_intermediate_size=WIDTH, norm_topk_prob=True
        ),
        "olmoe": lambda: OlmoeConfig(**common, **routed),
        "mixtral": lambda: MixtralConfig(**common, **local),
        "gpt_oss": lambda: GptOssConfig(**common, **local, head_dim=16, sliding_window=32),
        "deepseek_v3": lambda: DeepseekV3Config(
            **common | {"num_key_value_heads": 4},
            n_routed_experts=EXPERTS,
            num_experts_per_tok=TOP_K,
            n_group=4,
            topk_group=2,
            moe_intermediate_size=WIDTH,
            first_k_dense_replace=1,
            q_lora_rank=32,
            kv_lora_rank=16,
            qk_rope_head_dim=8,
            qk_nope_head_dim=16,
            v_head_dim=16,
        ),
        "llama": lambda: LlamaConfig(**common),
    }[family]()


def build_family_model(directory: Path, family: str, tokenizer: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Save a random model of `family_config` with the demo's tokenizer, as that family stores its tensors."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(family_config(family, len(AutoTokenizer.from_pretrained(tokenizer))))
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "e_score_correction_bias")):
            torch.nn.init.normal_(parameter, std=0.1)
    model.to(dtype).save_pretrained(directory)
    copy_tokenizer(tokenizer, directory)
    return directory


def random_drop_map(keep: int, seed: int = 0) -> dict[str, list[int]]:
    """Return a plain {"layer": [dropped ids]} map with other experts in every layer."""
    generator = torch.Generator().manual_seed(seed)
    return {
        str(layer): sorted(torch.randperm(EXPERTS, generator=generator)[: EXPERTS - keep].tolist())
        for layer in range(LAYERS)
    }
