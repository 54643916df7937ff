"""Whether a draft model fits its target, by their GGUF headers. Gemma 4's assistants read the target's own cache.

Source: src/models/gemma4-assistant.cpp and create_memory in src/llama-model.cpp of the pinned llama.cpp. An assistant
is given the target's state and the embedding of the last token. Its sliding layers read keys and values of the target's
last layer but one, its full layers those of the target's last layer.
"""

from files.input_errors import InputError
from ggufs.gguf_header import GgufHeader

ASSISTANT = "-assistant"  # behind the architecture of the target
SLIDING, FULL = "sliding", "full"
Geometry = tuple[object, object]  # heads of keys, values per head


def per_layer(header: GgufHeader, key: str, layers: int) -> list:
    """Return a value of every layer: an array, or one value for all."""
    name = f"{header.architecture}.{key}"
    return header.array(name) or [header.value(name)] * layers


def kinds_of(header: GgufHeader) -> list[str]:
    """Return the kind of every layer of a Gemma 4."""
    layers = int(header.value(f"{header.architecture}.block_count") or 0)
    pattern = per_layer(header, "attention.sliding_window_pattern", layers)
    return [SLIDING if slides else FULL for slides in pattern]


def caches_by_kind(header: GgufHeader) -> dict[str, Geometry]:
    """Return the shape of the cache of the last layer of each kind: heads of keys, and values per head."""
    kinds = kinds_of(header)
    heads = per_layer(header, "attention.head_count_kv", len(kinds))
    found: dict[str, Geometry] = {}
    for kind, count in zip(kinds, heads):
        ending = "_swa" if kind == SLIDING else ""
        found[kind] = (count, header.value(f"{header.architecture}.attention.key_length{ending}"))
    return found


def first_other_token(draft: GgufHeader, target: GgufHeader) -> str:
    """Return where two vocabularies differ, in words; "" where they are the same."""
    mine, theirs = (header.array("tokenizer.ggml.tokens") or [] for header in (draft, target))
    if len(mine) != len(theirs):
        return f"{len(mine)} tokens for {len(theirs)}"
    return next((f"token {n}: {a!r} for {b!r}" for n, (a, b) in enumerate(zip(mine, theirs)) if a != b), "")


def check_reachable(target: GgufHeader) -> None:
    """Raise InputError unless llama.cpp gives an assistant the layers of the target that it was made for.

    Of a target with one sliding layer llama.cpp takes that one, wherever it lies: it looks for the last layer but one
    among the sliding layers, and where that is not among them it takes the first.
    """
    kinds = kinds_of(target)
    if kinds[-1:] != [FULL]:
        raise InputError(target.path, "a last layer with full attention, which a draft model reads", "another")
    if kinds[-2:-1] != [SLIDING] and kinds.count(SLIDING) != 1:
        raise InputError(target.path, "a sliding layer before the last, which a draft model reads", "another")


def check_fits(draft: GgufHeader, target: GgufHeader, named: object) -> None:
    """Raise InputError unless an assistant fits: architecture, vocabulary, size of the states, shape of the caches.

    named: the draft model, in messages.
    """
    if draft.architecture != target.architecture + ASSISTANT:
        raise InputError(named, f"a model of the architecture {target.architecture}{ASSISTANT}", draft.architecture)
    check_reachable(target)
    whose, width = target.path.name, target.value(f"{target.architecture}.embedding_length")
    own = draft.value(f"{draft.architecture}.embedding_length_out")
    if own != width:
        raise InputError(named, f"states of {width} values, as {whose} has", str(own), "it is of another model")
    if other := first_other_token(draft, target):
        raise InputError(named, f"the vocabulary of {whose}", other, "it is of another model")
    theirs = caches_by_kind(target)
    for kind, shape in caches_by_kind(draft).items():
        if theirs.get(kind) != shape:
            expected = "no such layer" if kind not in theirs else "{} heads of {} values".format(*theirs[kind])
            found = "{} heads of {} values".format(*shape)
            raise InputError(named, f"keys of {kind} layers as {whose} has them, {expected}", found)
