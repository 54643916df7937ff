"""A GGUF file served by llama-server, and the log-probabilities that it computes."""

from pathlib import Path

from ggufs.gguf_header import header_bytes, key_value, read_header
from llama.llama_server import LlamaServer, server_command

import torch

EXACT = ["-c", "512", "-np", "1", "-fa", "off", "-ctk", "f32", "-ctv", "f32"]


def serve(tools, gguf: Path, log: Path) -> LlamaServer:
    """Return a server of a short context that computes as exactly as llama.cpp can; use it as a context manager."""
    return LlamaServer(server_command(tools.tool("llama-server"), gguf, gguf.stem, 0, EXACT), gguf, log)


def next_token_logprobs(server: LlamaServer, ids: list[int], vocab: int) -> torch.Tensor:
    """Return the log-probabilities [vocab] that llama.cpp gives the token after `ids`; -inf where it lists none."""
    body = {"prompt": ids, "n_predict": 1, "n_probs": vocab, "temperature": 0, "cache_prompt": False}
    entries = server.request("/completion", body)["completion_probabilities"][0]["top_logprobs"]
    logprobs = torch.full((vocab,), -torch.inf)
    for entry in entries:
        logprobs[entry["id"]] = entry["logprob"]
    return logprobs


def with_keys(source: Path, values: dict[str, object], output: Path) -> Path:
    """Write a copy of a GGUF file with other values in its header, or with more; return its path."""
    header = read_header(source)
    pairs = [pair.raw for pair in header.key_values if pair.key not in values]
    plans = [(tensor.name, tensor.dims, tensor.kind) for tensor in header.tensors]
    with open(source, "rb") as file:
        file.seek(min(tensor.offset for tensor in header.tensors))
        more = [key_value(*value) for value in values.items()]
        output.write_bytes(header_bytes(header, [*pairs, *more], plans) + file.read())
    return output


def with_template(source: Path, template: str, output: Path, of: str = "") -> Path:
    """Write a copy of a GGUF file that holds another chat template, or one more (of ".tool_use"); return its path."""
    return with_keys(source, {f"tokenizer.chat_template{of}": template}, output)
