"""The card's section on what the experts are like, from findings.json alone; whether that record is of this build."""

from pathlib import Path

from files.display import code, markdown_table
from files.input_errors import InputError, sha256_file
from findings.findings_record import FINDINGS_NAME
from findings.findings_words import (
    RULE,
    bf16_sentences,
    map_sentence,
    matrix_heads,
    matrix_rows,
    output_sentence,
    penalty_sentence,
    topic_sentences,
    weight_sentences,
)

NOT_SAID = "the record does not say why"
DIGITS = 12  # of a digest, in messages


def check_findings_match(findings: dict, metadata: dict) -> None:
    """Raise InputError unless the findings are of the model and the drop map that a release's metadata name.

    findings: the record findings.json; metadata: expert_drop_metadata.json.
    """
    pairs = {
        "drop map": (metadata["drop_map_sha256"], findings["inputs"]["drop_map_sha256"]),
        "weights": (metadata["source"].get("weights_sha256"), findings["inputs"]["weights_sha256"]),
    }
    for what, (expected, found) in pairs.items():
        if expected != found:
            wanted = f"findings by the {what} with sha256 {str(expected)[:DIGITS]}"
            raise InputError(FINDINGS_NAME, wanted, str(found)[:DIGITS], "run `make findings` again")


def check_other_maps(findings: dict, given: list[Path]) -> None:
    """Raise InputError unless the maps that are given are those that the findings compare with the run's own."""
    compared = {pair["sha256"]: pair["name"] for pair in findings["maps"] if pair.get("sha256")}
    digests = {sha256_file(path): str(path) for path in given}
    if compared.keys() != digests.keys():
        wanted = f"OTHER_MAPS={' '.join(compared.values())}, which they compare" if compared else "no OTHER_MAPS"
        advice = "give those, or run `make findings REPLACE=findings` first"
        raise InputError(FINDINGS_NAME, wanted, " ".join(digests.values()) or "none", advice)


def findings_section(findings: dict | None) -> str:
    """Return the section as Markdown, "" where nothing was measured; findings: the record findings.json."""
    if findings is None:
        return ""
    topics, inputs = findings.get("specialisation"), findings["inputs"]
    # Why, without the advice, which is for who runs the project, and without what was found: the names of columns are
    # anybody's words.
    reason = findings["missing"].get("specialisation", NOT_SAID).split(";")[0].split(", found")[0]
    lines = [f"- Topics: not measured ({code(reason)})."]
    if topics:
        lines = [f"- **Topics.** {' '.join(topic_sentences(topics))} {penalty_sentence(topics)}"]
    lines += [
        f"- **Weights.** {' '.join(weight_sentences(findings['weights']))}",
        f"- **Outputs.** {output_sentence(findings['outputs'])}",
        f"- **Norms in bf16.** {' '.join(bf16_sentences(findings['bf16']))}",
        f"- **Other criteria.** {map_sentence(findings['maps'])}",
    ]
    shuffled = f", and for chance over {inputs['shuffles']} shuffles of the domains" if topics else ""
    parts = [
        "## What the experts are like",
        f"Measured on the full model and {inputs['questions']} questions by `make findings`; intervals cover 95%, over "
        f"questions drawn anew {inputs['resamples']} times{shuffled}. "
        f"{f'{RULE} ' if topics else ''}All numbers are in `{FINDINGS_NAME}`.",
        "\n".join(lines),
    ]
    if topics:
        parts += [
            f"What a domain loses of its weighted norm when {topics['keep_count']} experts are kept by the questions "
            "of another:",
            markdown_table(matrix_heads(topics), matrix_rows(topics, "norm_lost")),
        ]
    return "\n\n".join(parts)
