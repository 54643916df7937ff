"""Bytes that llama.cpp keeps of a context (its KV cache), from a GGUF header, for Gemma 4.

Formula: llama.cpp src/llama-kv-cache-iswa.cpp and src/models/gemma4.cpp, with the defaults F16, one sequence (-np 1),
512 tokens per micro-batch. Layers of full attention have a cell per token; those of a sliding window have no more than
window and micro-batch together. Both numbers are padded. A test compares with what llama-server prints.
"""

from ggufs.gguf_header import GgufHeader

CELLS_PADDED_TO = 256
MICRO_BATCH_TOKENS = 512
CACHE_BYTES = 2  # F16


def padded(tokens: int) -> int:
    """Return a number of cells as llama.cpp allocates them."""
    return -(-tokens // CELLS_PADDED_TO) * CELLS_PADDED_TO


def context_length(header: GgufHeader) -> int | None:
    """Return the longest context that the model was trained for, in tokens; None when the header does not say."""
    return header.value(f"{header.architecture}.context_length")


def cache_bytes(header: GgufHeader, context: int) -> int | None:
    """Return the bytes of the KV cache for a context of so many tokens; None where they are not known exactly."""
    # Other families have other caches, and a release must not show a number that is only nearly right.
    if header.architecture != "gemma4":
        return None
    layers, window = header.value("gemma4.block_count"), header.value("gemma4.attention.sliding_window")
    # Layers of full attention have wider keys and values than those of a sliding window.
    full, short = _cell_width(header, ""), _cell_width(header, "_swa")
    sliding = header.array("gemma4.attention.sliding_window_pattern")
    if layers is None or window is None or full is None or short is None or sliding is None:
        return None
    # A single number stands for all layers.
    heads = header.array("gemma4.attention.head_count_kv") or [header.value("gemma4.attention.head_count_kv")] * layers
    if None in heads or len(sliding) < layers or len(heads) < layers:
        return None
    # The last layers may share the keys and values of earlier ones and then have no cache.
    own = layers - (header.value("gemma4.attention.shared_kv_layers") or 0)
    cells = padded(context)
    window_cells = padded(min(cells, window + MICRO_BATCH_TOKENS))
    values = sum(heads[layer] * (window_cells * short if sliding[layer] else cells * full) for layer in range(own))
    return values * CACHE_BYTES


def _cell_width(header: GgufHeader, ending: str) -> int | None:
    """Return the values of one head's key and value in a cell; None when the header does not say."""
    key = header.value(f"gemma4.attention.key_length{ending}")
    value = header.value(f"gemma4.attention.value_length{ending}")
    return None if key is None or value is None else key + value
