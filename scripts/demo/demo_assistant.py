"""The demo's assistant: a draft model of Gemma 4's own form, which reads the demo model's keys, values and states.

It has no keys and values of its own. At each place it is given the token there, as the demo model embeds it, and the
demo model's last state before it, and looks at the demo model's keys and values: of its last sliding and of its last
full layer. From the second drafted token on, its own state stands in for the demo model's.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from demo.demo_model import GLOBAL_HEAD_DIM, GLOBAL_KV_HEADS, HEAD_DIM, HIDDEN_SIZE, KV_HEADS
from demo.demo_tokenizer import MAX_POSITIONS
from files.safe_files import directory_when_done

import torch
import transformers

ASSISTANT_LAYERS = ["sliding_attention", "full_attention"]  # llama.cpp takes no assistant without a sliding layer
ASSISTANT_WIDTH, ASSISTANT_DENSE = 64, 256
ASSISTANT_HEADS = 4  # a multiple of both numbers of key heads
DRAFTED_TOKENS = 2  # that it learns to draft in a row
COPIED = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")  # the tokens are the target's


def assistant_config(target: dict) -> transformers.Gemma4AssistantConfig:
    """Return the shape of an assistant; target: config.json of the demo model, whose keys and values it reads."""
    text: dict[str, Any] = {
        "vocab_size": target["vocab_size"],
        "vocab_size_per_layer_input": 0,
        "hidden_size_per_layer_input": 0,
        "hidden_size": ASSISTANT_WIDTH,
        "intermediate_size": ASSISTANT_DENSE,
        "num_hidden_layers": len(ASSISTANT_LAYERS),
        "num_kv_shared_layers": len(ASSISTANT_LAYERS),
        "layer_types": ASSISTANT_LAYERS,
        "num_attention_heads": ASSISTANT_HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "global_head_dim": GLOBAL_HEAD_DIM,
        "num_global_key_value_heads": GLOBAL_KV_HEADS,
        "attention_k_eq_v": True,
        "sliding_window": target["sliding_window"],
        "max_position_embeddings": MAX_POSITIONS,
        "rope_parameters": target["rope_parameters"],
        "enable_moe_block": False,
        "use_double_wide_mlp": False,
        "tie_word_embeddings": True,
        **{key: target[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
    }
    return transformers.Gemma4AssistantConfig(
        text_config=transformers.Gemma4TextConfig(**text), backbone_hidden_size=HIDDEN_SIZE
    )


def initialise_assistant(model: transformers.Gemma4AssistantForCausalLM) -> None:
    """Set starting weights by the width of each matrix; query norms as those of the demo model start."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        elif "q_norm" in name:
            torch.nn.init.constant_(parameter, len(parameter) ** -0.25)


def earlier_places(length: int) -> torch.Tensor:
    """Return a mask [1, 1, length - 1, length]: place r, from 1 on, sees the places before it and not itself.

    The token at r was chosen, and the target has no keys of it yet.
    """
    places = torch.arange(1, length).unsqueeze(1)
    return torch.zeros(length - 1, length).masked_fill(torch.arange(length) >= places, float("-inf"))[None, None]


def drafts(
    assistant: transformers.Gemma4AssistantForCausalLM, target: transformers.Gemma4ForCausalLM, ids: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield, for each drafted token, the states of the assistant [B, P, W] and of the target [B, P, H] that give it.

    ids: [B, S]. Of the n-th drafted token P counts the places n to S - 1; states are those behind the last norm.
    Sliding windows are not looked at: the demo's texts are shorter than one.
    """
    with torch.no_grad():
        seen = target.model(input_ids=ids, use_cache=False, return_shared_kv_states=True)
        embedded = target.model.embed_tokens(ids)
        shared = {kind: tuple(part.detach() for part in pair) for kind, pair in seen.shared_kv_states.items()}
    length = ids.shape[1]
    mask, places = earlier_places(length), torch.arange(1, length).unsqueeze(0)
    states = seen.last_hidden_state[:, :-1]
    for step in range(DRAFTED_TOKENS):
        here = length - 1 - step  # places whose token `step` places on is known
        joined = torch.cat([embedded[:, 1 + step :], states[:, :here]], dim=-1)
        output = assistant.model(
            inputs_embeds=assistant.pre_projection(joined),
            attention_mask=dict.fromkeys(("full_attention", "sliding_attention"), mask[:, :, :here]),
            position_ids=places[:, :here],
            shared_kv_states=dict(shared),
            use_cache=False,
            output_hidden_states=True,  # transformers 5.24 would else slice inputs per layer, which there are none of
        ).last_hidden_state
        yield output, seen.last_hidden_state[:, 1 + step :]
        states = assistant.post_projection(output)


def write_assistant(model: transformers.Gemma4AssistantForCausalLM, target: Path, directory: Path) -> None:
    """Write the checkpoint directory atomically, as published assistants are; the model is bf16 from then on."""
    with directory_when_done(directory, "config.json") as partial:
        model.bfloat16().save_pretrained(partial)
        config = json.loads((partial / "config.json").read_text())
        config["text_config"].pop("per_layer_config", None)
        config["text_config"] |= {
            "vocab_size": model.vocab_size,
            "global_head_dim": GLOBAL_HEAD_DIM,
            "num_global_key_value_heads": GLOBAL_KV_HEADS,
        }
        (partial / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        for name in COPIED:
            shutil.copyfile(target / name, partial / name)
