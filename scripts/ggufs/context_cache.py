"""Bytes that llama.cpp keeps of a context (its KV cache), from a GGUF header, for Gemma 4.

Formula: llama.cpp src/llama-kv-cache-iswa.cpp and src/models/gemma4.cpp, with the defaults F16, one sequence (-np 1), 512
tokens a micro-batch. Layers of full attention have a cell per token, those of a sliding window no more than window and
micro-batch together; both are padded. A test compares with what llama-server says. Other families: not known here.
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
    if header.architecture != "gemma4":
        return None
    values = {
        key: header.value(f"gemma4.{key}")
        for key in (
            "block_count",
            "attention.sliding_window",
            "attention.key_length",
            "attention.value_length",
            "attention.key_length_swa",
            "attention.value_length_swa",
        )
    }
    sliding = header.array("gemma4.attention.sliding_window_pattern")
    heads = header.array("gemma4.attention.head_count_kv") or [header.value("gemma4.attention.head_count_kv")] * (
        values["block_count"] or 0
    )
    if (
        None in (*values.values(), sliding, *heads)
        or len(sliding) < values["block_count"]
        or len(heads) < values["block_count"]
    ):
        return None
    own = values["block_count"] - (header.value("gemma4.attention.shared_kv_layers") or 0)
    whole, total = padded(context), 0
    window = padded(min(whole, values["attention.sliding_window"] + MICRO_BATCH_TOKENS))
    for layer in range(own):
        end = "_swa" if sliding[layer] else ""
        width = values[f"attention.key_length{end}"] + values[f"attention.value_length{end}"]
        total += (window if sliding[layer] else whole) * heads[layer] * width * CACHE_BYTES
    return total
