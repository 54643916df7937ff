"""What Ollama reads beside a GGUF file: params (JSON of its options) and a Modelfile."""

import json
from pathlib import Path

from gguf_files import field, read_gguf
from safe_files import InputError, read_json


def ollama_params(path: Path, gguf: Path) -> dict:
    """Return Ollama's params, num_ctx lowered to the model's context; raise InputError on a stop it does not know."""
    params = read_json(path)
    reader = read_gguf(gguf)
    context = field(reader, f"{field(reader, 'general.architecture')}.context_length")
    params["num_ctx"] = min(params["num_ctx"], int(context))
    tokens = set(field(reader, "tokenizer.ggml.tokens"))
    for stop in params["stop"]:
        if stop not in tokens:
            raise InputError(path, f"stops that are tokens of {gguf.name}", stop)
    return params


def modelfile(gguf_name: str, params: dict) -> str:
    """Return a Modelfile that wraps one GGUF file with Ollama's Gemma 4 renderer and parser."""
    lines = [f"FROM ./{gguf_name}", "RENDERER gemma4", "PARSER gemma4"]
    for key, value in params.items():
        for item in value if isinstance(value, list) else [value]:
            lines.append(f"PARAMETER {key} {json.dumps(item)}")
    return "\n".join(lines) + "\n"
