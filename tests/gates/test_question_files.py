"""The question files of a release: the same question elsewhere, and files that had no part in what is published."""

from pathlib import Path

from damaged_build import Build
from files.safe_files import InputError
from findings.findings_record import FINDINGS_NAME
from gates.lineage import renamed_breaks
from gates.remade_gates import findings_gate
from release_inputs import QUESTIONS
from synthetic_build import write_build

import pytest


@pytest.fixture
def build(pruned_demo: Path, tmp_path: Path) -> Build:
    return Build(pruned_demo, tmp_path)


def test_a_question_that_chose_the_experts_is_known_under_another_id(build):
    """Ids alone would make its score look held out."""
    scored = build.evidence / "scored.csv"
    header, first, *others = scored.read_text().splitlines(keepends=True)
    record_id = first.split(",")[0]
    build.write(scored, "".join([header, first.replace(record_id, "another").upper(), *others]))
    found = build.failing("lineage")
    assert len(found) == 1 and f"the id {record_id} of a question" in found[0] and "ANOTHER" in found[0]


def test_a_question_of_a_further_task_is_known_under_another_id(build, tmp_path):
    header, *others = QUESTIONS[0].read_text().splitlines(keepends=True)
    (tmp_path / "main.csv").write_text("".join([header, *(f"other-{line}" for line in others[:3])]))
    chosen = {line.split(",")[0] for line in others[:2]}
    found = renamed_breaks(build.checked.lineage, chosen, [tmp_path / "main.csv"])
    assert len(found) == 2 and all("main.csv" in str(error) and "again as other-" in str(error) for error in found)


def test_findings_are_of_a_question_file_of_the_build(build, tmp_path):
    """No digest of a question holds its domain."""
    (tmp_path / "page").mkdir()
    write_build(tmp_path / "page", 6, 3, 20, 18)
    labels = tmp_path / "labels.csv"
    labels.write_text(QUESTIONS[0].read_text().replace("Physics", "Biology"))
    checked = build.checked
    checked.sources["copies"][FINDINGS_NAME] = tmp_path / "page/findings.json"
    checked.sources["origins"] |= {"findings measured": labels, "findings questions": labels}
    with pytest.raises(InputError, match="labels.csv: expected .*with its domains, found another file"):
        findings_gate(checked)
