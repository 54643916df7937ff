"""The card of the pruned checkpoint's repository (safetensors), made from records of this build."""

from files.display import markdown_table
from files.safe_files import gib, in_unit
from release.card_tables import GB
from release.front_matter import front_matter
from release.gguf_card import (
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


def shards_section(sizes: dict[str, int], metadata: dict) -> str:
    """Return the table of shards; sizes: bytes by file name."""
    rows = [
        [name, in_unit(sizes[name], GB), gib(sizes[name]), f"`{digest}`"] for name, digest in metadata["shards"].items()
    ]
    return section(
        "Files",
        markdown_table(["Shard", "GB", "GiB", "sha256"], rows),
        "`expert_drop_metadata.json` holds kept and dropped experts per "
        "layer; config, tokenizer and chat template are the base model's, with the new expert count.",
    )


def use_section(repository: str, attention: str) -> str:
    """Return how transformers loads it."""
    return section(
        "How to use",
        f"""```
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("USER/{repository}", dtype="auto", device_map="auto"{attention})
tokenizer = AutoTokenizer.from_pretrained("USER/{repository}")
chat = [{{"role": "user", "content": "What is rust?"}}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True).to(model.device)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=512)[0][inputs["input_ids"].shape[1]:]))
```""",
        "The router has fewer rows and is else unchanged: dropping an expert equals masking its logit.",
    )


def checkpoint_card(release: Release, sizes: dict[str, int], config: dict) -> str:
    """Return the card of a pruned checkpoint; sizes: bytes of each shard; config: its config.json."""
    text = config.get("text_config", config)
    # Flash attention has no heads of more than 256.
    attention = ', attn_implementation="eager"' if (text.get("global_head_dim") or 0) > 256 else ""
    head = front_matter(release.kind, release.base, release.license, release.quantized_by, TAGS)
    title = (
        f"{head}\n# {release.repository}\n\n{release.base} with {release.metadata['keep_count']} of {release.metadata['experts']} experts "
        "per layer, as safetensors. Nothing was trained."
    )
    parts = [
        title,
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
