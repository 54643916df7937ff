"""The card of a release (its README.md), made from records of this build. Card format: the Hub's model cards."""

from safe_files import GIB


def file_table(files: list[dict]) -> str:
    """Return the table of GGUF files: quant, size in GB (10^9) and GiB (2^30), bits per weight, note."""
    lines = ["| File | Quant | GB | GiB | Bits per weight | Note |", "| --- | --- | ---: | ---: | ---: | --- |"]
    for file in sorted(files, key=lambda file: -file["bytes"]):
        lines.append(f"| {file['file']} | {file['type']} | {file['bytes'] / 1e9:.3f} | {file['bytes'] / GIB:.3f} | "
                     f"{file['bits_per_weight']:.2f} | {file['note']} |")
    return "\n".join(lines)


def score_table(scores: dict) -> str:
    """Return the table of scores and one sentence per comparison."""
    lines = ["| Model | Experts | Raw | Patched | 95% interval | Invalid |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for row in scores["rows"]:
        low, high = row["patched_interval"]
        lines.append(f"| {row['name']} | {row['experts']} | {row['raw_correct']}/{row['questions']} ({row['raw']:.2%}) | "
                     f"{row['patched_correct']}/{row['questions']} ({row['patched']:.2%}) | {low:.1%} to {high:.1%} | "
                     f"{row['invalid']} |")
    for row in scores["rows"][1:]:
        lines.append(f"\n{row['points_vs_reference']:+.2f} points against the reference: {row['lost']} questions lost, "
                     f"{row['won']} won, exact McNemar p = {row['mcnemar_p']:.2g}.")
    return "\n".join(lines)


def in_sample_note(scores: dict, metadata: dict) -> str:
    """Return one sentence on whether the experts were chosen on the questions that the score is taken on."""
    chosen = set(metadata["method"].get("question_ids", []))
    if not chosen:
        return "The drop map does not say which questions it was made from."
    scored = set(scores["question_ids"])
    if chosen & scored:
        return (f"**In-sample:** {len(chosen & scored)} of the {len(scored)} scored questions also chose the experts.")
    return f"The experts were chosen on {len(chosen)} other questions; none of the {len(scored)} scored ones is among them."


def card(name: str, base: str, files: list[dict], scores: dict, metadata: dict, context: int) -> str:
    """Return the card: front matter, files, scores, method, how to run (with `context` tokens at most), licence."""
    example = next((file for file in files if file["type"] == "Q4_K_M"), files[0])
    method = metadata["method"]
    with_imatrix = [file for file in files if file["imatrix_sha256"]]
    # A local base has no Hub id and no licence known here.
    origin = f"license: gemma\nbase_model: {base}\nbase_model_relation: quantized\n" if "/" in base else ""
    return f"""---
{origin}library_name: gguf
pipeline_tag: text-generation
tags: [moe, expert-pruning, gguf, imatrix]
---

# {name}

{base} with {metadata['keep_count']} of {metadata['experts']} experts per layer, as GGUF files.

## Files

{file_table(files)}

{len(with_imatrix)} of {len(files)} were made with an importance matrix. Quantised by llama.cpp ({files[0]['llama_cpp']}).

## Scores

GPQA-format questions, one locked protocol for both models, {scores['evaluated']}.

{score_table(scores)}

Invalid answers are re-run with the thought closed and the answer begun ("patched"); chance alone gets one in four of
those right. {in_sample_note(scores, metadata)}

## Method

Experts are ranked by the routing-weighted norm of their outputs while the full model is teacher-forced through
question, reasoning and answer. Criterion: {method.get('criterion', 'not recorded')}, top {method.get('protect_top', 'not recorded')} per question
and layer, over {method.get('questions', 'an unrecorded number of')} questions. The choice per layer is in `expert_drop_metadata.json`.

## How to run

```
llama-server -m {example['file']} -c {min(8192, context)} -ngl 99 --reasoning-format deepseek --reasoning-budget 16384
```

With Ollama, tool calls are parsed into structured fields only with its Gemma 4 renderer and parser, which a pull from
the Hub does not set: `ollama create {name.lower()} -f Modelfile` in this folder does.

## Licence

The weights are a derivative of {base} and carry its licence terms (for Gemma models: https://ai.google.dev/gemma/terms).
"""
