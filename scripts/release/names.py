"""Which file a label such as Q4_K_M fetches from a repository, by the rules of each reader, and where labels clash.

llama.cpp (common/download.cpp of the pinned source): `-hf USER/REPO:TAG` takes the first file, in the order of the
listing, in whose path the regular expression TAG[.-] is found, in any case. Without a tag it takes Q4_K_M, then Q8_0,
then the first model.

Hub, for Ollama (https://huggingface.co/docs/hub/ollama): TAG is a quant label, in any case, or a full file name.
Without a tag it takes Q4_K_M, then a 4-bit file, then the first. The server is not public, so two readings are checked:
the label is the last one in the name, with UD- before it but with nothing else (parseGGUFQuantLabel of
@huggingface/gguf), or it is the end of the name.

Listing: what a person or a glob such as *Q4_K_M* takes first from the files sorted by name.

All of them take `NAME-CD-Q4_K_M.gguf` for `NAME-Q4_K_M.gguf` beside it, llama.cpp even from a subfolder. So the files
whose types are chosen per layer (CD-*, AUTO-*) or whose MLPs are padded (PAD-*) have a repository of their own.
"""

import re
from collections.abc import Callable

from ggufs.gguf_header import PART_ENDING

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

OWN_REPOSITORY = ("CD-", "AUTO-", "PAD-")
NOT_A_MODEL = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")  # llama.cpp's -hf skips these
LABEL = re.compile(r"(?:UD-)?(?:I?Q\d+_[A-Z0-9]+(?:_[A-Z0-9]+)*|TQ\d_\d|MXFP4(?:_[A-Z]+)?|NVFP4|BF16|F16|F32)")
# Stands for the owner of the repositories in commands until OWNER or REPO=OWNER/NAME says who it is.
PLACEHOLDER_OWNER = "USER"
# What stands in the sentences and commands of a card as it is. More letters could make another sentence of it.
NAME = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]*")
HUB_ID = re.compile(f"{NAME.pattern}/{NAME.pattern}")
PLAIN_NAME = "a plain name (letters, digits, dots, dashes, underscores)"
BASE_NAME = f"a Hub id OWNER/NAME or {PLAIN_NAME}"
TAKES_OVER = "preset.ini"  # llama.cpp fetches it in place of a model where a repository has one
Rule = Callable[[list[str], str | None], str | None]


def is_hub_id(base: str) -> bool:
    """Tell whether a name can be one of the Hub's, OWNER/NAME."""
    try:
        validate_repo_id(base)
    except HFValidationError:
        return False
    return HUB_ID.fullmatch(base) is not None  # validate_repo_id takes a bare name, too, and a line end after it


def is_plain(name: str) -> bool:
    """Tell whether a name can stand in a card's sentences and commands as it is."""
    return NAME.fullmatch(name) is not None


def is_base(base: str) -> bool:
    """Tell whether a card can name that base model: a Hub id OWNER/NAME, or a plain name."""
    return is_hub_id(base) or is_plain(base)


def has_placeholder(text: str) -> bool:
    """Tell whether a text names a repository of the placeholder owner, so that its commands run for nobody."""
    return re.search(rf"\b{PLACEHOLDER_OWNER}/", text) is not None


def is_standard(quant: str) -> bool:
    """Tell whether a quant is one of llama.cpp's own, so that others rely on its name as a label."""
    return not quant.startswith(OWN_REPOSITORY)


def first_parts(paths: list[str]) -> list[str]:
    """Return the GGUF files among paths, of a split one only its first part, in their order."""
    return [
        path
        for path in paths
        if path.lower().endswith(".gguf") and (not (part := PART_ENDING.search(path)) or part[1] == "00001")
    ]


def stem(path: str) -> str:
    """Return a file's name without folder, ending and part number."""
    return PART_ENDING.sub(".gguf", path.rsplit("/", 1)[-1])[: -len(".gguf")]


def hub_label(path: str) -> str | None:
    """Return the label that the Hub reads from a file's name, upper case; None where it finds none."""
    labels = LABEL.findall(stem(path).upper())
    return labels[-1] if labels else None


def llama_cpp_pick(paths: list[str], tag: str | None) -> str | None:
    """Return what llama.cpp's -hf fetches of the files of a listing."""
    models = [path for path in first_parts(paths) if not any(mark in path.rsplit("/", 1)[-1] for mark in NOT_A_MODEL)]
    for wanted in [tag] if tag else ["Q4_K_M", "Q8_0"]:
        # The tag is not escaped: llama.cpp makes a regular expression of it as it is, so that a dot matches anything.
        if found := [path for path in models if re.search(f"{wanted}[.-]", path, re.IGNORECASE)]:
            return found[0]
    return models[0] if models and not tag else None


def label_pick(paths: list[str], tag: str | None) -> str | None:
    """Return what the Hub hands to Ollama if it compares a tag with the labels of the names."""
    files = first_parts(paths)
    if tag:
        return next((path for path in files if tag.upper() in (hub_label(path), path.upper())), None)
    labels = {path: hub_label(path) or "" for path in files}
    medium = [path for path in files if labels[path] == "Q4_K_M"]
    four_bit = [path for path in files if re.match(r"(UD-)?I?Q4", labels[path])]
    return next(iter(medium + four_bit + files), None)


def suffix_pick(paths: list[str], tag: str | None) -> str | None:
    """Return what the Hub hands to Ollama if it compares a tag with the ends of the names."""
    files = first_parts(paths)
    if not tag:
        return label_pick(paths, None)
    return next((path for path in files if re.search(rf"(^|[-._]){re.escape(tag)}$", stem(path), re.IGNORECASE)), None)


def listing_pick(paths: list[str], tag: str | None) -> str | None:
    """Return the first file of a listing that has the tag anywhere in its name."""
    return next((path for path in first_parts(paths) if (tag or "").upper() in path.upper()), None)


RULES: dict[str, Rule] = {
    "llama.cpp -hf": llama_cpp_pick,
    "Hub and Ollama, by label": label_pick,
    "Hub and Ollama, by ending": suffix_pick,
    "the listing": listing_pick,
}
# Which file is the first depends on the order of the listing; some sort by bytes, some without regard to case.
ORDERS: tuple[Callable[[str], tuple], ...] = (lambda path: (path,), lambda path: (path.lower(), path))


def clash(rule: str, order: list[str], quants: dict[str, str], tag: str | None, known: bool) -> str | None:
    """Return what goes wrong when one rule looks for a tag (None: the default) in an order of files, or None.

    quants: type of each file; known: whether the repository has a file of that type.
    """
    found, asked = RULES[rule](order, tag), f":{tag}" if tag else "no tag"
    # The Hub knows no label such as CD-Q4_K_M. That it finds no file then misleads nobody: the card gives full names.
    may_find_none = rule.endswith("by label") and not is_standard(tag or "")
    if known and found is None and not may_find_none:
        return f"{asked}: expected the file of that type by the rule of {rule}, found none"
    if found is None or quants[found] == tag:
        return None
    standard_there = any(map(is_standard, quants.values()))
    if known or standard_there and not is_standard(quants[found]):
        return f"{asked}: expected {f'the {tag}' if known else 'a standard file'} by the rule of {rule}, found {found}"
    return None


def clashes(quants: dict[str, str], others: tuple[str, ...] = (), labels: tuple[str, ...] = ()) -> list[str]:
    """Return every way in which a label, or none, fetches another file than meant.

    quants: type of each GGUF file of one repository by path (of a split file, of every part); others: its other files;
    labels: types of llama.cpp that may be asked for although the repository does not have them.
    """
    taken_over = f"{TAKES_OVER}: expected no such file, found one, which llama.cpp fetches in place of a model"
    found: list[str | None] = [taken_over] if TAKES_OVER in others else []
    held = dict.fromkeys(quants.values())
    for rule in RULES:
        for key in ORDERS:
            order = sorted(quants, key=key)
            for tag in [None, *held, *(label for label in labels if label not in held)]:
                found.append(clash(rule, order, quants, tag, tag in held))
    return list(dict.fromkeys(line for line in found if line))
