"""What chose the experts of a scored file: proven link by link and seal by seal, or not known."""

import json
import shutil
from pathlib import Path

import expert_drop
import generate_drop_map
import pad_gguf
import quantize_gguf
import summarize_scores
from calls import call
from choice.drop_map import OWN_MAP
from choice.drop_metadata import METADATA_NAME
from files.input_errors import InputError, sha256_file
from files.json_records import read_json, read_record
from files.seals import LEDGER
from files.written_by import NotProvenError
from files.written_records import write_json
from gates.checked import Checked
from gates.variants import choice_of_other
from makers.damaged_build import link_to_copy
from makers.made_up_evidence import QUESTIONS, write_questions, write_run
from makers.pruned_models import NAME, first_ids
from makers.release_inputs import shared_release
from quants.quant_record import record_path
from release.manifest import read_manifest
from release.sources import read_sources
from scoring.proven_choice import check_choice, proven_choice
from scoring.score_records import Summary, read_summary
from scoring.score_tables import NOT_KNOWN, sample_label, sample_labels

import pytest

METADATA = f"checkpoint/{METADATA_NAME}"
PROOFS = ("F16.gguf.json", METADATA, "map.json", "statistics.safetensors", f"{NAME}-Q6_K.gguf.json")


@pytest.fixture
def folder(pruned_demo, tmp_path) -> Path:
    """A copy of the pruned demo's build in which files may be exchanged."""
    place = Path(shutil.copytree(pruned_demo, tmp_path / "build", copy_function=link_to_copy))
    (place / LEDGER).unlink()
    shutil.copy(pruned_demo / LEDGER, place)
    return place


def proofs_of(folder: Path, *without: str) -> list[Path]:
    return [folder / name for name in PROOFS if name not in without]


def digest_of(folder: Path) -> str:
    return read_json(folder / PROOFS[-1])["sha256"]


def test_quant_f16_checkpoint_map_and_statistics_prove_a_choice(pruned_demo, folder):
    assert proven_choice(digest_of(folder), proofs_of(folder)) == folder / METADATA
    f16 = read_json(folder / "F16.gguf.json")["sha256"]
    assert proven_choice(f16, [*proofs_of(folder), record_path(folder / f"{NAME}-F16.gguf")]) == folder / METADATA
    checkpoint = read_json(folder / "F16.gguf.json")["source_sha256"]  # as another server serves it
    assert proven_choice(checkpoint, proofs_of(folder, "F16.gguf.json", PROOFS[-1])) == folder / METADATA
    full = read_json(folder / "full-F16.gguf.json")["sha256"]
    with pytest.raises(NotProvenError, match="of the drop that it came from, found none"):
        proven_choice(full, [*proofs_of(folder), folder / "full-F16.gguf.json"])


@pytest.mark.parametrize(
    "missing, words",
    [
        ("F16.gguf.json", "of the drop that it came from, found none"),
        (METADATA, "of the drop that it came from, found none"),
        ("map.json", "expected the drop map with sha256"),
        ("statistics.safetensors", "expected the statistics that it was chosen from"),
        (PROOFS[-1], "of the drop that it came from, found none"),
    ],
)
def test_a_missing_link_proves_nothing_and_one_edited_neither(folder, missing, words):
    with pytest.raises(NotProvenError, match=words):
        proven_choice(digest_of(folder), proofs_of(folder, missing))
    place = folder / missing
    content = place.read_bytes()
    place.unlink()
    place.write_bytes(content.replace(b"coverage", b"coverAGE").replace(b'"version": ', b'"version":  '))
    if place.read_bytes() != content:
        with pytest.raises(NotProvenError):
            proven_choice(digest_of(folder), proofs_of(folder))


def test_a_map_by_hand_that_goes_through_the_drop_is_no_choice_of_ours(folder, tmp_path):
    """The drop is an honest one, and its metadata are sealed: but what the map says of itself, nobody has chosen."""
    content = read_json(folder / "map.json")
    content |= {"question_ids": ["x", "y"], "questions": 2, "criterion": "reap"}
    content.pop("bootstrap", None)
    write_json(folder / "mine.json", content)
    pruned = folder / "pruned.gguf"
    for name in ("mine.json", "map.json"):
        call(expert_drop.main, "--source", folder / "full-F16.gguf", "--drop-map", folder / name, "--output", pruned)
        call(
            expert_drop.main,
            "--source",
            folder / "full-F16.gguf",
            "--drop-map",
            folder / name,
            "--output",
            pruned,
            "--verify",
        )
        proofs = [folder / f"pruned.{METADATA_NAME}", folder / name, folder / "statistics.safetensors"]
        if name == "map.json":
            assert proven_choice(sha256_file(pruned), proofs) == proofs[0]
            continue
        # generate_drop_map has not written it
        with pytest.raises(NotProvenError, match="mine.json: expected what generate_drop_map or copy_drop_map wrote"):
            proven_choice(sha256_file(pruned), proofs)


def test_a_choice_from_an_imatrix_is_one_from_the_imatrix_of_its_record(folder):
    """An imatrix has no seal of its own: that of its record, which names it by its digest."""
    imatrix, chosen = folder / "imatrix.gguf", folder / "by-imatrix.json"
    arguments = ["--imatrix", imatrix, "--keep", 100, "--output", chosen]
    call(generate_drop_map.main, *arguments)
    metadata = {"drop_map_sha256": sha256_file(chosen), "method": read_json(chosen)}
    check_choice(chosen, metadata, [chosen, imatrix])
    damaged = bytearray(imatrix.read_bytes())
    damaged[-1] ^= 1
    imatrix.unlink()
    imatrix.write_bytes(damaged)
    metadata["method"]["imatrix_sha256"] = sha256_file(imatrix)
    with pytest.raises(InputError, match="expected the imatrix of its record"):
        check_choice(chosen, metadata, [chosen, imatrix])
    with pytest.raises(InputError, match="expected the imatrix of its record"):
        call(generate_drop_map.main, *arguments)


def test_a_quant_says_of_its_text_what_the_imatrix_s_own_record_says(folder):
    """Whoever writes importances by hand can write their digest into the record, too; its seal is then broken."""
    imatrix = folder / "imatrix.gguf"
    content = bytearray(imatrix.read_bytes())
    content[-4:] = bytes(4)
    for path in (imatrix, record := record_path(imatrix)):
        known = read_json(record)
        path.unlink()
    imatrix.write_bytes(content)
    record.write_text(json.dumps({**known, "sha256": sha256_file(imatrix)}))
    output = folder / f"{NAME}-Q5_K_M.gguf"
    arguments = ["--input", folder / "F16.gguf", "--imatrix", imatrix, "--type", "Q5_K_M", "--output", output]
    with pytest.raises(NotProvenError, match="expected what build_imatrix or pad_gguf wrote"):
        call(quantize_gguf.main, *arguments)
    assert not output.exists()
    padded = ["--output", folder / "padded.gguf", "--imatrix-output", folder / "padded-imatrix.gguf"]
    with pytest.raises(NotProvenError, match="expected what build_imatrix or pad_gguf wrote"):
        call(pad_gguf.main, *arguments[:4], *padded)


def test_a_summary_says_what_is_proven_and_else_that_it_is_not_known(folder, tmp_path, capsys):
    questions = write_questions(folder / "scored.csv", first_ids(QUESTIONS[1], 4))
    gguf = folder / f"{NAME}-Q6_K.gguf"
    run = write_run(folder / "run", record_path(gguf), questions, "10pe").parent
    found = {}
    for name in ("proven", "by hand"):
        if name == "by hand":
            write_json(folder / "mine.json", {"question_ids": ["x"], "criterion": "reap", "layers": {"0": [1]}})
        proofs = proofs_of(folder)[:-1] if name == "proven" else [folder / "mine.json"]
        call(summarize_scores.main, "--run", run, "--gguf", gguf, "--chosen-by", *proofs)
        found[name] = read_record(run / "summary.json", Summary)
    assert found["proven"]["in_sample"] == {"chosen_on": 6, "scored_and_chosen_on": 4}
    assert found["proven"]["drop_map"]["criterion"] == "coverage"
    assert found["by hand"]["in_sample"] is None and found["by hand"]["drop_map"] is None
    assert "found none; so it is not known what chose the experts" in capsys.readouterr().out
    label = sample_label({**found["by hand"], "seeds": [42]}, 128)
    assert label.startswith("**Not known whether in-sample:**") and "nothing shows what chose them" in label
    held = {"in_sample": {"chosen_on": 6, "scored_and_chosen_on": 0}, "seeds": [42]}
    rows = [{**found["proven"], **held, "drop_map": {"criterion": criterion}} for criterion in ("reap", OWN_MAP)]
    labels = [sample_label(row, 128) for row in rows]
    assert labels[0].startswith("Held out:") and labels[1].startswith(
        "Held out, if the map that was given is right, and"
    )


def test_the_choice_of_another_model_is_followed_again_by_the_gates(pruned_demo, folder):
    """Here this build's own model stands for another one: its records are a build's, too."""
    release = shared_release(pruned_demo)
    sources = read_sources(release)
    path = next(path for path in sources["runs"].values() if path.parent.name == "run-pruned")
    summary = read_summary(path)

    def judged(*proofs: Path) -> tuple[Path | None, str]:
        lineage = Checked(release, read_manifest(release), {**sources, "variants": dict(enumerate(proofs))}).lineage
        metadata, breaks = choice_of_other(lineage, summary, path)
        return metadata, str(*breaks[:1])

    assert judged(*proofs_of(folder)) == (folder / METADATA, "")
    metadata, found = judged(*proofs_of(folder, "statistics.safetensors"))
    assert metadata is None and "a proof of what chose the experts" in found and "--variants" in found
    unknown = {**summary, "in_sample": None, "drop_map": None}
    lineage = Checked(release, read_manifest(release), sources).lineage
    assert choice_of_other(lineage, unknown, path) == (None, [])
    # The statistics are of questions that the release does not have: their words cannot be looked at.
    few = {**sources, "questions": {}, "variants": dict(enumerate(proofs_of(folder)))}
    _, breaks = choice_of_other(Checked(release, read_manifest(release), few).lineage, summary, path)
    assert breaks


def test_a_model_between_the_released_and_the_full_one_is_not_taken_for_full():
    unknown = {"name": "other", "experts": 110, "in_sample": None, "questions": 4, "seeds": [42]}
    own = unknown | {"name": "own", "experts": 109}
    assert [NOT_KNOWN in label for label in sample_labels([own, unknown], 128)] == [True, True]
    assert not sample_labels([unknown | {"experts": 128}], 128) and not sample_labels([])
