"""Damaged and hostile inputs: some mutations with a fixed seed, and those that once failed."""

import json
import shutil
from collections import Counter
from pathlib import Path

from conftest import REPO
from mutations.artefacts import add_to
from mutations.campaign import draw_cases, verdicts
from mutations.harness import FAILURES, REFUSED, SAME, Case, Workshop
from mutations.table import COMMANDS

import pytest

SEED, CASES = 17, 280  # shared by all commands; those that take seconds are left out here
KEPT = REPO / "tests/mutations/cases.jsonl"


@pytest.fixture(scope="module")
def workshop(pruned_demo, tmp_path_factory) -> Workshop:
    """The artefacts, with the pruned model that other tests share."""
    folder = Path(tmp_path_factory.mktemp("mutations"))
    shutil.copytree(pruned_demo, folder / "artefacts/pruned")
    add_to(folder / "artefacts", slow=False)
    return Workshop(folder / "artefacts", folder / "case")


def test_mutated_inputs_are_refused_in_one_line_or_harmless(workshop):
    failures: list[str] = []
    counts: Counter[str] = Counter()
    for command in (command for command in COMMANDS if command.quick):
        cases = draw_cases(command, workshop.artefacts, CASES, SEED)
        for case, verdict, words in verdicts(command, cases, workshop):
            counts[verdict] += 1
            if verdict in FAILURES:
                failures.append(f"{verdict}: {case}: {words}")
    assert not failures, "\n".join(failures)
    assert counts[REFUSED] > counts.total() / 4 and counts.total() > 150  # the mutations do reach something


def test_what_once_failed_is_refused_or_changes_nothing(workshop):
    known = {command.title: command for command in COMMANDS}
    cases = [Case(**json.loads(line)) for line in KEPT.read_text().splitlines()]
    for title in {case.command for case in cases}:
        found = list(verdicts(known[title], [case for case in cases if case.command == title], workshop))
        assert {verdict for _, verdict, _ in found} <= {REFUSED, SAME}, found
