"""The page of measure_findings.py: each finding in words, with its table."""

from files.display import markdown_table
from findings.findings_words import (
    BF16_HEADS,
    MAP_HEADS,
    OUTPUT_HEADS,
    RULE,
    TOPIC_HEADS,
    WEIGHT_HEADS,
    bf16_rows,
    bf16_sentences,
    map_rows,
    map_sentence,
    matrix_heads,
    matrix_rows,
    output_rows,
    output_sentence,
    penalty_sentence,
    topic_rows,
    topic_sentences,
    weight_rows,
    weight_sentences,
)


def topic_lines(found: dict | None, missing: dict[str, str]) -> list[str]:
    """Return the section on topics, or why there is none."""
    if found is None:
        return [f"Not measured: {missing['specialisation']}"]
    left_out = f"{found['left_out']} questions have no domain, or one that is too small." if found["left_out"] else ""
    return [
        " ".join([*topic_sentences(found), left_out]).strip(),
        markdown_table(TOPIC_HEADS, topic_rows(found)),
        f"{penalty_sentence(found)} Share of the weighted norm that is lost, with its 95% interval over the questions:",
        markdown_table(matrix_heads(found), matrix_rows(found, "norm_lost")),
        f"Share of the questions' protected top {found['top']} that is dropped:",
        markdown_table(matrix_heads(found), matrix_rows(found, "protected_lost")),
    ]


def findings_page(name: str, content: dict) -> str:
    """Return the page as Markdown; content: the record's."""
    inputs = content["inputs"]
    lines = [
        f"# What the experts of {name} are like",
        f"{content['experts']} experts in each of {len(content['outputs'])} layers, {content['top_k']} per token; "
        f"{inputs['questions']} questions. Intervals cover 95%: over questions drawn anew {inputs['resamples']} times, "
        f"and for chance over {inputs['shuffles']} shuffles of the domains. {RULE}",
        "## Topics",
        *topic_lines(content["specialisation"], content["missing"]),
        "## Weights",
        " ".join(weight_sentences(content["weights"])),
        markdown_table(WEIGHT_HEADS, weight_rows(content["weights"]), left=2),
        "## Outputs on the same tokens",
        output_sentence(content["outputs"]),
        markdown_table(OUTPUT_HEADS, output_rows(content["outputs"])),
        "## Norms in bf16",
        " ".join(bf16_sentences(content["bf16"])),
        markdown_table(BF16_HEADS, bf16_rows(content["bf16"])),
        "## Other maps",
        f"{map_sentence(content['maps'])} p: of maps as alike by chance. By chance: with its 95% interval. Top: the "
        f"{content['bf16']['top']} best experts of each layer by the maps' own scores. A share is of the smaller set.",
        markdown_table(MAP_HEADS, map_rows(content["maps"])),
    ]
    return "\n\n".join(lines) + "\n"
