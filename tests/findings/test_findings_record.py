"""findings.json: figures that no measurement gives are refused."""

import json

from files.input_errors import InputError
from files.json_records import check_record
from findings.findings_record import Findings
from makers.synthetic_build import write_build

import pytest


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> str:
    """The findings of a small build, as text."""
    folder = tmp_path_factory.mktemp("findings")
    write_build(folder, 8, 2, 16, 12)
    return (folder / "findings.json").read_text()


@pytest.mark.parametrize(
    "keys, value, words",
    [
        (("keep_count",), 11, "keep_count the same in all parts"),
        (("experts",), -1, "'experts' is greater than or equal to 1"),
        (("top_k",), 17, "keep_count and top_k within experts"),
        (("bf16", "norms"), 1, "norms = the layers' sum"),
        (("bf16", "protected_differ"), [0.5], "'bf16.protected_differ' is valid"),
        (("bf16", "dropped_differ"), 1.5, "'bf16.dropped_differ' is less than or equal to 1"),
        (("weights", 0, "pair"), [0, 99], "pairs of experts"),
        (("weights", 0, "mean"), 7.0, "'weights.0.mean' is less than or equal to 1"),
        (("specialisation", "distance", "beyond"), 9.0, "beyond = value - chance"),
        (("specialisation", "distance", "p"), -0.5, "'specialisation.distance.p' is greater than or equal to 0"),
    ],
)
def test_figures_that_cannot_be_are_refused(written, keys, value, words):
    content = json.loads(written)
    assert check_record("findings.json", content, Findings) == content
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    with pytest.raises(InputError) as caught:
        check_record("findings.json", content, Findings)
    assert words in str(caught.value)
