"""Compared files of the full and the pruned model: one recipe for each type, whatever the recipe follows from."""

from pathlib import Path
from types import SimpleNamespace

from gates import compared
from gates.compared import line_breaks, one_recipe_breaks, one_type_breaks, picture_breaks
from losses.quality_record import QUALITY_NAME

import pytest

AUTO = {
    "type": "AUTO-12",
    "base": "Q4_K_M",
    "imatrix_sha256": "1" * 64,
    "arguments": ["--tensor-type", "a=q4_K"],
    "padded": {"down": [704, 768]},
    "auto_padding": True,
    "auto_measured_on": {"questions_sha256": "2" * 64, "chats": 12},
}
CD = {"type": "CD-Q4_K_M", "base": "Q4_K_M", "imatrix_sha256": "1" * 64, "arguments": [], "cd_stats_sha256": "4" * 64}
PAD = {"type": "PAD-IQ3_XXS", "base": "IQ3_XXS", "imatrix_sha256": "1" * 64, "arguments": [], "padded": {"x": [1, 2]}}


@pytest.mark.parametrize(
    ("own", "changes", "words"),
    [
        (AUTO, {}, ""),
        # Of each model's own sensitivities.
        (AUTO, {"arguments": ["--tensor-type", "a=q2_K"], "padded": {}, "base": "Q5_K_M"}, ""),
        (AUTO, {"auto_measured_on": {"questions_sha256": "2" * 64, "chats": 2}}, "AUTO-12 files made by one recipe:"),
        (AUTO, {"auto_measured_on": {"questions_sha256": "3" * 64, "chats": 12}}, "AUTO-12 files made by one recipe:"),
        (AUTO, {"auto_padding": False}, "AUTO-12 files made by one recipe:"),
        (AUTO, {"imatrix_sha256": None}, "AUTO-12 files made with an imatrix:"),
        (CD, {}, ""),
        (CD, {"cd_stats_sha256": "5" * 64}, "CD-Q4_K_M files made by one recipe:"),
        (PAD, {}, ""),
        (PAD, {"padded": {"x": [1, 3]}}, "PAD-IQ3_XXS files made by one recipe:"),
        (PAD, {"type": "Q4_K_M", "padded": {}}, ""),
    ],
)
def test_files_of_one_type_are_of_one_recipe(own, changes, words):
    both = [(Path("own.gguf.json"), own), (Path("full.gguf.json"), {**own, **changes})]
    found = [str(error) for error in one_recipe_breaks(both)]
    assert len(found) == 1 and words in found[0] and found[0].startswith("full") if words else not found, found


IMATRIX, OTHER = {"imatrix_sha256": "1" * 64}, {"imatrix_sha256": None}
LINE = {"type": "Q4_K_M", "base": "Q4_K_M", "sha256": "4" * 64, "source_sha256": "f" * 64}
JUDGED = {"type": "CD-Q4_K_M", "base": "Q3_K_M", "sha256": "5" * 64, "source_sha256": "f" * 64}


@pytest.mark.parametrize(
    ("line", "judged", "words"),
    [
        (LINE | IMATRIX, JUDGED | IMATRIX, ""),
        (LINE | OTHER, JUDGED | OTHER, ""),
        (LINE | OTHER, JUDGED | IMATRIX, "a file made with the imatrix 111111111111, as those that"),
        (LINE | IMATRIX, JUDGED | OTHER, "a file made without an imatrix, as those"),
        (LINE | {"imatrix_sha256": "2" * 64}, JUDGED | IMATRIX, "found with the imatrix 222222222222"),
        (LINE | OTHER | {"base": "F16"}, JUDGED | IMATRIX, ""),  # it has no types that an imatrix could choose
        (LINE | OTHER | {"sha256": "6" * 64}, JUDGED | IMATRIX, ""),  # not measured
        (LINE | IMATRIX, JUDGED | OTHER | {"source_sha256": "5" * 64}, ""),  # an AUTO file with room for all of F16
    ],
)
def test_a_verdict_is_beside_files_that_were_made_alike(monkeypatch, line, judged, words):
    files = {"files": [{"sha256": "4" * 64}, {"sha256": "5" * 64}]}
    monkeypatch.setattr(compared, "read_record", lambda path, kind: files)
    lineage = SimpleNamespace(sources={"copies": {QUALITY_NAME: Path("quality.json")}})
    found = list(map(str, line_breaks(lineage, [(Path("line.json"), line), (Path("judged.json"), judged)])))
    assert len(found) == 1 and words in found[0] and found[0].startswith("line") if words else not found, found


def test_a_judged_file_without_an_imatrix_lets_no_other_pass(monkeypatch):
    files = {"files": [{"sha256": digit * 64} for digit in "457"]}
    monkeypatch.setattr(compared, "read_record", lambda path, kind: files)
    lineage = SimpleNamespace(sources={"copies": {QUALITY_NAME: Path("quality.json")}})
    judged = [JUDGED | OTHER, JUDGED | IMATRIX | {"type": "AUTO-12", "sha256": "7" * 64}]
    found = line_breaks(lineage, [(Path(f"{one['type']}.json"), one) for one in (LINE | OTHER, *judged)])
    assert ["a file made with the imatrix 111111111111" in str(error) for error in found] == [True]


@pytest.mark.parametrize(
    ("own", "words"), [("Q6_K", ""), ("Q4_K_M", "a Q6_K file of this model beside that of the full")]
)
def test_a_further_task_compares_files_of_one_type(monkeypatch, own, words):
    quants = [{"sha256": "4" * 64, "type": "Q6_K", "source_sha256": "f"}]
    quants.append({"sha256": "5" * 64, "type": own, "source_sha256": "p"})
    rows = {"rows": [{"gguf_sha256": "4" * 64}, {"gguf_sha256": "5" * 64}]}
    monkeypatch.setattr(compared, "read_record", lambda path, kind: rows)
    copies = {"scores-gsm8k.json": Path("scores-gsm8k.json")}
    lineage = SimpleNamespace(sources={"copies": copies}, records={}, full={"sha256": "f"})
    found = list(map(str, one_type_breaks(lineage, [(Path("a.json"), quant) for quant in quants])))
    assert len(found) == 1 and words in found[0] if words else not found, found


def test_a_picture_of_an_imatrix_is_of_one_that_made_a_file(monkeypatch):
    lineage = SimpleNamespace(sources={"copies": {"imatrix-coverage.png": Path("imatrix-coverage.png")}})
    for made, count in ((True, 0), (False, 1)):
        monkeypatch.setattr(compared, "by_imatrix", lambda sources, made=made: made)
        assert len(picture_breaks(lineage)) == count


def test_an_older_auto_file_is_made_again_before_it_is_compared():
    old = {key: value for key, value in AUTO.items() if not key.startswith("auto_")}
    found = [str(error) for error in one_recipe_breaks([(Path("own.gguf.json"), old), (Path("full.gguf.json"), old)])]
    assert len(found) == 2 and all(
        "sensitivities were measured on, found none; quantise it again" in one for one in found
    )


@pytest.mark.parametrize(("made_by", "wrong"), [("7" * 64, False), ("8" * 64, True)])
def test_a_file_of_a_measurement_has_the_imatrix_of_its_build(monkeypatch, made_by, wrong):
    """Its types are on the card's command, which makes them by the imatrix of the card."""
    quant = {"type": "Q5_K_M", "base": "Q5_K_M", "sha256": "4" * 64, "source_sha256": "1" * 64, "arguments": []}
    imatrix = {"sha256": "7" * 64, "model_sha256": "1" * 64, "context": 512}
    records = {"a.json": quant | {"imatrix_sha256": made_by, "calibration_sha256": None}, "imatrix.json": imatrix}
    monkeypatch.setattr(compared, "read_record", lambda path, kind: records[path.name])
    monkeypatch.setattr(compared, "measured_digests", lambda copies: ["4" * 64])
    monkeypatch.setattr(compared, "text_breaks", lambda lineage, quants: [])
    sources = {
        "quants": {"a": Path("a.json")},
        "records": {},
        "copies": {},
        "origins": {"imatrix": Path("imatrix.json")},
    }
    found = compared.compared_breaks(
        SimpleNamespace(sources=sources, f16_sha256="1" * 64, knows_full=False, records={})
    )
    assert ["an imatrix of its own model, with a record" in str(error) for error in found] == [True] * wrong


@pytest.mark.parametrize(("kind", "wrong"), [("Q4_K_M", True), ("Q5_K_M", False)])
def test_a_measured_file_of_a_published_type_is_the_published_one(kind, wrong):
    """Under another name it could be made otherwise; a table or a picture names the type alone."""
    published = {"type": "Q4_K_M", "sha256": "4" * 64, "source_sha256": "1" * 64}
    used = [(Path("a.json"), published), (Path("b.json"), published | {"type": kind, "sha256": "5" * 64})]
    lineage = SimpleNamespace(sources={}, f16_sha256="1" * 64, records={"m-Q4_K_M.gguf": published})
    found = list(map(str, compared.one_file_breaks(lineage, used)))
    assert ["m-Q4_K_M.gguf, the published Q4_K_M file, to be the measured" in line for line in found] == [True] * wrong
