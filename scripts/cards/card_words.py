"""What no card may hold: markup and links that come from a record, a question file or a model, and not from us.

A card is published under the user's name. Names of domains, methods and files come from elsewhere, and each of them
could bring a tag, or a link that looks like a sentence of ours.
"""

import re

from files.display import TAG_BEGIN
from files.input_errors import InputError, shown

OWN_TAGS = ("<details>", "</details>", "<summary>", "</summary>")
TAG = re.compile(TAG_BEGIN.pattern + r"[^>\n]*>?", re.MULTILINE)
LINK = re.compile(r"\]\s*\(([^)\n]*)")
OWN_TARGET = re.compile(r"https://huggingface\.co/[\w./-]+|[\w.-]+")  # the Hub, or a file of the folder
REFERENCE = re.compile(r"^ {0,3}\[[^\]\n]+\]:.*", re.MULTILINE)  # a link's target, away from its words


def check_card_words(name: str, text: str) -> str:
    """Return a card's text; raise InputError when it has a tag, or a link to anywhere, that no part of ours writes.

    Code is not left out: a stray backtick in a name would turn text into code for one reader and not for another.
    """
    tags = [tag for tag in TAG.findall(text) if tag not in OWN_TAGS]
    links = [f"]({target}" for target in LINK.findall(text) if not OWN_TARGET.fullmatch(target)]
    if foreign := [*tags, *links, *REFERENCE.findall(text)]:
        advice = "rename what has it: a domain, a file, a method of the drop map"
        raise InputError(name, "a card without foreign tags and links", shown(foreign[0]), advice)
    return text
