#!/usr/bin/env python3
"""Make a multimodal twin of a text-only Gemma 4 checkpoint: its weights, and a small random vision tower beside them.

Inputs:  a checkpoint directory of Gemma 4, text only, in one safetensors file, such as the demo's.
Output:  a directory in the layout of the published checkpoints (Gemma4ForConditionalGeneration): the same text weights
         under model.language_model., a tower under model.vision_tower. and model.embed_vision., its config and
         processor_config.json. Text goes through the twin exactly as through the original.
Example: .venv/bin/python tests/makers/multimodal_twin.py --source data/demo/model --output build/try/gemma-4-demo-twin
         make release RUN=demo MODEL=build/try/gemma-4-demo-twin NAME=gemma-4-demo-twin

The tower is random: what the twin says about a picture means nothing. It is there to run the pipeline with one.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma4Config, Gemma4ForConditionalGeneration, Gemma4TextConfig

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))
from generate_rehearsal import PROCESSOR  # noqa: E402

VISION = {
    "hidden_size": 128,
    "intermediate_size": 208,  # no multiple of 32, as the 26B's 4304 is none: Q8_0 leaves such rows at F16
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "patch_size": 16,
    "pooling_kernel_size": 3,
    "position_embedding_size": 256,
    "standardize": True,  # as the 26B's
    "initializer_range": 0.1,
}
AUDIO = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "output_proj_dims": 96}
COPIED = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "README.md")


def random_towers(text: dict, configs: dict, seed: int) -> dict[str, torch.Tensor]:
    """Return the tensors of random towers and their projections, bf16, by their names in a checkpoint."""
    torch.manual_seed(seed)
    # One small layer of text is enough to have transformers build the tower as it does beside any text model.
    small = {
        **text,
        "num_hidden_layers": 1,
        "layer_types": text["layer_types"][-1:],
        "num_experts": text["top_k_experts"],
    }
    model = Gemma4ForConditionalGeneration(Gemma4Config(text_config=Gemma4TextConfig(**small).to_dict(), **configs))
    found = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(("model.language_model.", "lm_head.")):
            continue
        if name.endswith("std_bias"):
            tensor = torch.randn_like(tensor)
        elif name.endswith("std_scale"):
            tensor = torch.rand_like(tensor) + 0.5
        elif name.endswith("position_embedding_table"):  # ones at first, which would tell no place from another
            tensor = 0.1 * torch.randn_like(tensor)
        elif name.endswith("norm.weight"):
            tensor = torch.rand_like(tensor) + 0.5
        found[name] = tensor.to(torch.bfloat16).contiguous()
    return found


def write_twin(source: Path, output: Path, audio: bool = False, seed: int = 0) -> Path:
    """Write the twin of a text-only checkpoint into a new directory; return it. audio: whether it hears, too."""
    configs: dict = {"vision_config": VISION, "audio_config": AUDIO if audio else None}
    text = json.loads((source / "config.json").read_text())
    weights = {
        f"model.language_model.{name.removeprefix('model.')}": tensor
        for name, tensor in load_file(source / "model.safetensors").items()
    }
    output.mkdir(parents=True)
    save_file(weights | random_towers(text, configs, seed), output / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["Gemma4ForConditionalGeneration"],
        "model_type": "gemma4",
        "dtype": "bfloat16",
        "text_config": {
            key: value for key, value in text.items() if key not in ("architectures", "transformers_version")
        },
        **configs,
        "tie_word_embeddings": True,
        **{key: text[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
    }
    for name, content in (("config.json", config), ("processor_config.json", PROCESSOR)):
        (output / name).write_text(json.dumps(content, indent=2) + "\n")
    for name in COPIED:
        if (source / name).exists():
            shutil.copyfile(source / name, output / name)
    return output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="text-only Gemma 4 checkpoint")
    parser.add_argument("--audio", action="store_true", help="give it an audio tower, too")
    parser.add_argument("--output", type=Path, required=True, help="directory to write; it must not be there")
    args = parser.parse_args()
    if args.output.exists():
        sys.exit(f"error: {args.output}: expected nothing, found something; name another directory")
    print(f"{write_twin(args.source, args.output, args.audio)}: a multimodal twin of {args.source}")


if __name__ == "__main__":
    main()
