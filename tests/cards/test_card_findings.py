"""The card's section on the experts: from the record alone, and of this build alone."""

import json

from cards.card_findings import check_findings_match, check_other_maps, findings_section
from choice.drop_metadata import DropMetadata
from files.input_errors import InputError, sha256_file
from files.json_records import read_record
from findings.findings_record import Findings
from findings.findings_words import RULE, matrix_heads, matrix_rows, penalty_sentence, topic_sentences
from makers.synthetic_build import write_build

import pytest


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> tuple[dict, dict]:
    folder = tmp_path_factory.mktemp("build")
    write_build(folder, 24, 2, 20, 16)
    metadata = read_record(folder / "expert_drop_metadata.json", DropMetadata)
    findings = read_record(folder / "findings.json", Findings)
    return findings, metadata | {"source": {"weights_sha256": findings["inputs"]["weights_sha256"]}}


def test_the_section_holds_the_figures_of_the_record(records):
    findings, _ = records
    text, topics = findings_section(findings), findings["specialisation"]
    assert text.startswith("## What the experts are like\n\n") and text.count("\n- **") == 5
    assert f"{topics['distance']['value']:.4f} bits" in text and f"p = {topics['penalty']['p']:.2g}" in text
    assert "-0.0510 is farthest from 0 (layer 0, experts 0 and 1)" in text
    assert "2 of 16256 pairs are farther from 0 than 0.05" in text
    assert f"{100 * findings['bf16']['protected_differ'][0]:.2f}%" in text
    assert text.count("\n| ") == 1 + len(topics["domains"]) + 1 + 1  # heads, line, domains, all


def test_what_was_not_measured_is_not_claimed(records):
    findings, _ = records
    assert findings_section(None) == ""
    why, columns = "expected a column 'High-level domain' or 'Subdomain'", "found columns 'x'). **99.5%** (Column"
    text = findings_section(
        findings | {"specialisation": None, "missing": {"specialisation": f"{why}, {columns}; do so"}}
    )
    assert f"- Topics: not measured (`{why}`).\n" in text and "99.5" not in text
    assert "bits" not in text and "|" not in text and RULE not in text


def test_one_rule_says_what_is_shown(records):
    """A small p beside an interval that holds 0 shows nothing, and neither does an interval above 0 without the p."""
    topics = records[0]["specialisation"]
    for p, interval, shown in ((0.001, [0.1, 0.2], True), (0.001, [-0.1, 0.2], False), (0.2, [0.1, 0.2], False)):
        distance = topics["distance"] | {"p": p, "beyond_interval": interval}
        said = " ".join(topic_sentences(topics | {"distance": distance}))
        assert ("experts differ beyond chance" in said) == shown != ("No difference" in said)
        penalty = penalty_sentence(topics | {"penalty": topics["penalty"] | {"p": p}, "penalty_interval": interval})
        assert ("was not shown" in penalty) != shown


def test_findings_of_another_build_are_refused(records):
    findings, metadata = records
    check_findings_match(findings, metadata)
    for name in ("drop_map_sha256", "weights_sha256"):
        other = findings | {"inputs": findings["inputs"] | {name: "9" * 64}}
        with pytest.raises(InputError, match="found 999999999999; run `make findings` again"):
            check_findings_match(other, metadata)


def test_a_release_gives_the_maps_that_the_findings_compare(records, tmp_path):
    """Without them the release was made, and check-release then refused it."""
    other, another = tmp_path / "other.json", tmp_path / "another.json"
    other.write_text("{}")
    another.write_text("[]")
    (first, *rest), digest = records[0]["maps"], sha256_file(other)
    with_other = records[0] | {"maps": [first | {"name": "109e", "sha256": digest}, *rest]}
    alone = records[0] | {"maps": [{key: pair[key] for key in pair if key != "sha256"} for pair in [first, *rest]]}
    check_other_maps(with_other, [other])
    check_other_maps(alone, [])
    for findings, given, expected in (
        (with_other, [], "expected OTHER_MAPS=109e, which they compare, found none"),
        (with_other, [another], "expected OTHER_MAPS=109e, which they compare, found .*another.json"),
        (alone, [other], "expected no OTHER_MAPS, found .*other.json"),
    ):
        with pytest.raises(InputError, match=expected):
            check_other_maps(findings, given)


def test_names_of_domains_and_columns_are_no_markup(records):
    topics = records[0]["specialisation"]
    name = json.dumps(next(iter(topics["domains"])))
    changed = json.loads(json.dumps(topics).replace(name, json.dumps("**99.5%** <b>"))) | {"column": "_a_"}
    text = str([topic_sentences(changed), matrix_heads(changed), matrix_rows(changed, "norm_lost")])
    assert text.count("**99.5%**") == text.count("`**99.5%** <b>`") == 3 and "`_a_`" in text
