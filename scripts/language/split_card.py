"""The model card of a split model: what it is, under which licence, and what the split costs."""

CARD_TEXT = """---
license: apache-2.0
---

# SmolLM2-135M-Instruct, its neurons split into experts

A test bed, not a model to use. Every MLP of SmolLM2-135M-Instruct (HuggingFaceTB, Apache-2.0, here from a GGUF file of
type Q4_1) is split into {experts} experts of {width} neurons, in the form of Mixtral. **Its experts are split
neurons.** They were never trained as experts, so what holds for them need not hold for a trained mixture of experts.

{routing}

Perplexity of {scored} held-out replies (addresses of US presidents to the Congress): {split:.2f}, and {dense:.2f} with
the dense model.
"""
ROUTED = """{active} experts are active per token. Neurons that are active on the same tokens are in one expert. Routers
and down projections were fitted in closed form on {fitting} chats."""
ALL_ACTIVE = """All experts are active with the same weight, so it equals the dense model but for rounding."""


def split_card(facts: dict[str, float]) -> str:
    """Return the card of a split model by its figures."""
    routing = ROUTED if facts["active"] < facts["experts"] else ALL_ACTIVE
    return CARD_TEXT.format(routing=routing.format(**facts), **facts)
