"""The card of the pruned checkpoint's repository (safetensors), made from records of this build."""

from files.display import markdown_table
from files.safe_files import GB, gib, in_unit
from release.card_sections import (
    TAGS,
    Release,
    licence_section,
    method_section,
    missing_section,
    pictures_section,
    reproduce_section,
    scores_section,
    section,
)
from release.front_matter import front_matter

FLASH_ATTENTION_MOST = 256  # values per head that flash attention can do


def shards_section(sizes: dict[str, int], metadata: dict) -> str:
    """Return the table of shards; sizes: bytes by file name."""
    rows = [
        [name, in_unit(sizes[name], GB), gib(sizes[name]), f"`{digest}`"] for name, digest in metadata["shards"].items()
    ]
    return section(
        "Files",
        markdown_table(["Shard", "GB", "GiB", "sha256"], rows),
        "`expert_drop_metadata.json` lists the kept and the dropped experts of each layer. Config, tokenizer and chat "
        "template are the base model's, with the new number of experts.",
    )


def use_section(repository: str, attention: str) -> str:
    """Return how to load it with transformers; attention: an argument for from_pretrained, or ""."""
    code = f"""
from transformers import AutoModelForCausalLM, AutoTokenizer

name = "USER/{repository}"
model = AutoModelForCausalLM.from_pretrained(name, dtype="auto", device_map="auto"{attention})
tokenizer = AutoTokenizer.from_pretrained(name)
chat = [{{"role": "user", "content": "What is rust?"}}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
inputs = inputs.to(model.device)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=512)[0][inputs["input_ids"].shape[1]:]))
"""
    return section(
        "How to use",
        f"```{code}```",
        "The router has fewer rows and is otherwise unchanged. Dropping an expert is the same as masking its logit.",
    )


def checkpoint_card(release: Release, sizes: dict[str, int], config: dict) -> str:
    """Return the card of a pruned checkpoint; sizes: bytes of each shard; config: its config.json."""
    text = config.get("text_config", config)
    too_large = (text.get("global_head_dim") or 0) > FLASH_ATTENTION_MOST
    attention = ', attn_implementation="eager"' if too_large else ""
    head = front_matter(
        release.kind, release.base, release.license, release.quantized_by, TAGS, sees=bool(config.get("vision_config"))
    )
    parts = [
        f"{head}\n# {release.repository}",
        f"{release.base} with {release.experts_kept}, as safetensors. Nothing was trained.",
        shards_section(sizes, release.metadata),
        method_section(release),
        pictures_section(release),
        scores_section(release),
        use_section(release.repository, attention),
        reproduce_section(release),
        missing_section(release),
        licence_section(release),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
