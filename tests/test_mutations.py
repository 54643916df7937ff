"""Damaged and hostile inputs: a few hundred mutations with a fixed seed, and those that once failed."""

import json
import shutil
from collections import Counter

from conftest import DEMO
from mutations.artefacts import add_to
from mutations.campaign import draw_cases, verdicts
from mutations.harness import FAILURES, REFUSED, Case, Workshop
from mutations.table import COMMANDS

import pytest

SEED, CASES = 17, 320  # shared by all commands; those that run tools or a model are left out
KEPT = "cases.jsonl"  # beside mutations/campaign.py
NUMBERS_WITHOUT_A_SECOND_SOURCE = ("changed output",)  # see docs/reliability.md


@pytest.fixture(scope="module")
def workshop(pruned_demo, tmp_path_factory) -> Workshop:
    """The artefacts, with the pruned model that other tests share."""
    folder = tmp_path_factory.mktemp("mutations")
    shutil.copytree(pruned_demo, folder / "artefacts/pruned")
    add_to(folder / "artefacts")
    return Workshop(folder / "artefacts", folder / "case")


def test_mutated_inputs_are_refused_in_one_line_or_harmless(workshop):
    failures, counts = [], Counter()
    for command in (command for command in COMMANDS if command.quick):
        cases = draw_cases(command, workshop.artefacts, CASES, SEED)
        for case, verdict, words in verdicts(command, cases, workshop):
            counts[verdict] += 1
            if verdict in FAILURES and verdict not in NUMBERS_WITHOUT_A_SECOND_SOURCE:
                failures.append(f"{verdict}: {case}: {words}")
    assert not failures, "\n".join(failures)
    assert counts[REFUSED] > counts.total() / 4 and counts.total() > 150  # the mutations do reach something


def test_what_once_failed_is_refused(workshop):
    known = {command.title: command for command in COMMANDS}
    lines = (DEMO.parents[1] / "tests/mutations" / KEPT).read_text().splitlines()
    for case in (Case(**json.loads(line)) for line in lines):
        found = list(verdicts(known[case.command], [case], workshop))
        assert [verdict for _, verdict, _ in found] == [REFUSED], found
