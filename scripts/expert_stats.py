"""The statistics file: what the analysis writes and every choice of experts reads.

One safetensors file. Arrays [questions, layers, experts]: token_count (int64); fp64: routing_weight_sum, norm_sum,
norm_sq_sum, weighted_norm_sum, weighted_norm_sq_sum, norm_max. Arrays [questions, layers]: tokens, nonfinite_tokens,
skipped_tokens (int64), moe_output_norm_sum (fp64). `layer_numbers` [layers] int64 names the model's layers.
Its metadata has one key, "expert_stats", with a JSON object: `questions` (per question id, digest, tokens, truncated),
`config_sha256`, `weights_sha256`, `questions_sha256`, `experts`, `top_k`, dtype, attention, max_tokens, versions.
No time, host or path is recorded, so equal inputs give equal bytes.
"""

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from expert_observer import EXPERT_SUMS, LAYER_SUMS
from safe_files import InputError, replace_when_done

METADATA_KEY = "expert_stats"


def write_stats(path: Path, arrays: dict[str, np.ndarray], metadata: dict) -> None:
    """Write a statistics file atomically."""
    with replace_when_done(path) as partial:
        try:
            save_file(arrays, partial, {METADATA_KEY: json.dumps(metadata, sort_keys=True)})
        except SafetensorError as error:
            raise InputError(path, "a place to write the statistics to", str(error)) from error


def read_stats(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Return the arrays and the metadata of a statistics file; raise InputError when it is not one."""
    if not path.is_file():
        raise InputError(path, "a statistics file of teacher_force_analysis.py", "nothing")
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise InputError(path, "a statistics file of teacher_force_analysis.py", str(error)) from error
    if text is None:
        raise InputError(path, f"the metadata key {METADATA_KEY!r}", "none")
    missing = [name for name in (*EXPERT_SUMS, *LAYER_SUMS, "layer_numbers") if name not in arrays]
    if missing:
        raise InputError(path, f"the array {missing[0]}", f"arrays {', '.join(sorted(arrays))}")
    return arrays, json.loads(text)
