"""Names of a checkpoint's small files, which a pruned one gets as they are: tokenizer, templates, settings, licence.

Known names alone: whatever else lies beside a model's weights (evaluations, pictures, code) would be published as if it
were of the pruned one.
"""

import re

from checkpoints.card_text import CARD
from files.tokenizer_names import TEMPLATES_NAME, TOKENIZER_PARTS

SMALL_FILES = (
    *(CARD, *TOKENIZER_PARTS),
    *("chat_template.json", "generation_config.json", "tekken.json", "video_preprocessor_config.json"),
)
TEMPLATE = re.compile(rf"{TEMPLATES_NAME}/[\w.-]+\.jinja")
# As gpt-oss, DeepSeek and Llama call theirs: LICENSE, LICENSE-MODEL, USAGE_POLICY, USE_POLICY.md.
LICENCE_TEXT = re.compile(r"(?:LICEN[CS]E|NOTICE|COPYING|USAGE_POLICY|USE_POLICY)(?:-[A-Z]+)?(?:\.txt|\.md)?")


def is_small_file(name: str) -> bool:
    """Tell whether a pruned checkpoint gets the full model's file of that path, relative to its folder."""
    return name in SMALL_FILES or bool(TEMPLATE.fullmatch(name) or LICENCE_TEXT.fullmatch(name))
