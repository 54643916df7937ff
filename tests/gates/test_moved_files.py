"""The gate `seals` against files that are not edited but moved: from another command, place, build or evaluation."""

import json
import shutil
from pathlib import Path

from calls import as_command, seal_all
from files.input_errors import InputError, sha256_file
from files.json_records import read_json
from files.safe_files import directory_when_done
from files.seals import BEGUN, LEDGER, MARKER, Seal, Seals, bound_to
from files.written_records import write_json
from gates.lineage import router_rows, tensors_of
from ggufs.gguf_header import read_header, write_header_only
from losses.stored_results import PRUNING_NAME
from makers.damaged_build import Build
from makers.made_up_evidence import write_run
from makers.pruned_models import NAME
from quants.quant_record import record_path
from release.manifest import MANIFEST
from release.sources import sources_path
from scoring.machines import RAN_ALREADY
from scoring.run_files import ANSWERS, PATCHED, RUN, TASK_FOLDER, begin_run
from scoring.run_summary import summed_up
from scoring.score_records import SUMMARY_NAME

import numpy as np
import pytest

MACHINE = {"cpu": "a processor", "cores": 2, "gpus": [], "backends": ["CPU"]}
SCORED = ("gguf", "gguf_sha256", "gguf_bytes", "experts")


def forge_patch(build: Build, place: Path) -> Path:
    """Write the patch step's record with an invented answer: all are right after it."""
    content = read_json(build.own / PATCHED)
    for answer in content["answers"]:
        answer.update(letter="A", correct=True, completion="A)")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    write_json(place, content)
    return place


def add_seals(build: Build, ledger: Path) -> None:
    """Append another build folder's seals to those of this one, as an editor can."""
    own = build.evidence / LEDGER
    build.write(own, own.read_text() + ledger.read_text())


def test_a_file_that_a_command_merely_copied_is_no_record_of_another(build):
    """The small files of a model's folder are copied, and so sealed, by expert_drop.py."""
    with as_command("expert_drop"):
        forge_patch(build, build.own / PATCHED)
    found = build.failing("seals")
    assert len(found) == 1 and f"{PATCHED}: expected what this project wrote" in found[0]
    assert "one that another command wrote" in found[0] and "REPLACE=eval" in found[0]


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_a_link_to_a_sealed_file_is_refused(build, linked):
    if linked == "file":
        with as_command("patch_answers"):
            forged = forge_patch(build, build.evidence / "model/patched.json")
        (build.own / PATCHED).unlink()
        (build.own / PATCHED).symlink_to(forged)
    else:
        build.own.rename(build.evidence / "elsewhere")
        build.own.symlink_to(build.evidence / "elsewhere")
    found = build.failing("seals")
    assert found and all("found a link on the way to it" in line for line in found)
    assert any(line.startswith(f"{build.own / PATCHED}:") for line in found)


def test_a_build_folder_may_be_a_link(build, tmp_path):
    build.evidence.rename(tmp_path / "disk")
    build.evidence.symlink_to(tmp_path / "disk")
    assert build.failing("seals") == []


def test_a_build_folder_within_one_has_no_places_of_its_own(build, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / MARKER).touch()
    shutil.copy(build.own / BEGUN, other)
    with as_command("patch_answers"):
        forge_patch(build, other / PATCHED)
    (build.own / PATCHED).unlink()
    for name in (MARKER, LEDGER, PATCHED):
        shutil.copy(other / name, build.own)
    add_seals(build, other / LEDGER)
    found = build.failing("seals")
    assert len(found) == 1 and f"{PATCHED}: expected what this project wrote, found one edited" in found[0]


def test_answers_of_two_evaluations_do_not_mix(build, pruned_demo, tmp_path):
    """Same model, questions and protocol: only its random number tells an evaluation from the next one."""
    other, metadata = tmp_path / "other", build.metadata
    other.mkdir()
    (other / MARKER).touch()
    again = other / build.own.name
    own = record_path(pruned_demo / f"{NAME}-Q6_K.gguf")
    write_run(again, own, build.evidence / "scored.csv", "11pp", chosen_by=metadata)
    add_seals(build, other / LEDGER)
    lines = [(folder / ANSWERS).read_text().splitlines(keepends=True) for folder in (build.own, again)]
    build.write(build.own / ANSWERS, "".join([lines[0][0], lines[1][1], *lines[0][2:]]))
    found = build.failing("seals")
    assert len(found) == 1 and f"{ANSWERS}, line 2: expected what this project wrote" in found[0]
    # Nor does the patch step of the one go with the answers of the other; all of one evaluation are still good.
    build.write(build.own / ANSWERS, "".join(lines[0]))
    (build.own / PATCHED).unlink()
    shutil.copy(again / PATCHED, build.own)
    assert [line.partition(":")[0] for line in build.failing("seals")] == [str(build.own / PATCHED)]
    shutil.rmtree(build.own)
    shutil.copytree(again, build.own)
    assert build.failing("seals") == []


def test_an_evaluation_cannot_take_the_number_of_another_one(build, tmp_path):
    """Exchanged while it asks, it binds nothing: its seals go by what the command itself has drawn."""
    run = build.evidence / "again"
    run.mkdir()
    with as_command("ask_questions"):
        begin_run(run)
        before = bound_to(run / ANSWERS)
        shutil.copy(build.own / BEGUN, run)
        assert bound_to(run / ANSWERS) == before != bound_to(build.own / ANSWERS)


def test_a_copy_in_a_release_folder_is_not_what_build_release_says(build):
    """Small files of a checkpoint are copied into its release: one could look like the list of sources of another."""
    copied = build.evidence / "copied"
    with as_command("build_release"), directory_when_done(copied, MANIFEST, sealed=MANIFEST) as output:
        for name in (MANIFEST, sources_path(build.release).name):
            (output / name).write_text("{}")
    seals = Seals(build.evidence)
    assert seals.of_file(copied / MANIFEST, ("build_release",)) == Seal.VALID
    assert seals.of_file(copied / sources_path(build.release).name) == Seal.NONE


def test_results_of_another_variant_are_none_of_this(build, tmp_path):
    """Its inputs.json comes with them or not: its seals are bound to it, and quality.json to the name of the folder."""
    own = next((build.evidence / "logits").glob("results-*"))
    other = tmp_path / "other/logits" / own.name
    other.mkdir(parents=True)
    (tmp_path / "other" / MARKER).touch()
    inputs = read_json(own / "inputs.json") | {"pruned_sha256": "9" * 64}
    (other / "inputs.json").write_text(json.dumps(inputs))
    with np.load(own / PRUNING_NAME) as stored:
        np.savez(other / PRUNING_NAME, **{name: values / 2 for name, values in stored.items()})
    seal_all(other, "measure_quality")
    add_seals(build, tmp_path / "other" / LEDGER)
    (own / PRUNING_NAME).unlink()
    shutil.copy(other / PRUNING_NAME, own)
    found = build.failing("seals")
    assert len(found) == 1 and found[0].startswith(f"{own / PRUNING_NAME}: ")
    (own / "inputs.json").unlink()
    shutil.copy(other / "inputs.json", own)
    assert not any(line.startswith(f"{own / PRUNING_NAME}: ") for line in build.failing("seals"))
    assert any("inputs: pruned_sha256" in line for line in build.failing("quality"))


def test_the_full_model_s_file_is_of_the_full_model_s_weights(build):
    """The routers alone do not tell: scores could be held against those of a model that was made worse."""
    place = build.pruned / "full-F16.gguf.json"
    build.change(place, lambda content: content.update(weights_sha256="8" * 64))
    assert any("weights with sha256" in line for line in build.failing("lineage"))


def test_a_file_without_routers_is_of_another_build(build):
    place = build.pruned / "F16.gguf"
    header, tensors = read_header(place), tensors_of(place)
    assert router_rows(tensors, "0") and router_rows({}, "0") == []
    kept = [(t.name, t.dims, t.kind) for t in header.tensors if "ffn_gate_inp" not in t.name]
    place.unlink()  # a link to the file of all tests
    write_header_only(header, [entry.raw for entry in header.key_values], kept, place)
    assert any("the router's rows of the" in line for line in build.failing("lineage"))


def test_answers_to_questions_that_the_run_did_not_freeze_are_none_of_it(build, tmp_path):
    run = Path(shutil.copytree(build.own, tmp_path / "run"))
    frozen, record = run / TASK_FOLDER / "frozen.jsonl", read_json(run / RUN)
    frozen.write_text("".join(frozen.read_text().splitlines(keepends=True)[1:]))
    write_json(run / RUN, record | {"questions_sha256": sha256_file(frozen)})
    scored = read_json(run / SUMMARY_NAME)
    with pytest.raises(InputError, match="frozen questions: expected the [0-9]+ recorded questions, found"):
        summed_up(run, False, build.metadata, {key: scored[key] for key in SCORED})


def test_what_answered_in_the_patch_step_is_part_of_what_answered(build):
    """A server of one's own could complete the invalid answers alone."""
    build.change(build.own / RUN, lambda content: content.update(hardware=[MACHINE], tools_sha256=["7" * 64]))
    build.change(build.own / PATCHED, lambda content: content.update(hardware=[RAN_ALREADY]))
    scored = read_json(build.own / SUMMARY_NAME)
    found = summed_up(build.own, True, build.metadata, {key: scored[key] for key in SCORED})
    assert found["hardware"] == [MACHINE, RAN_ALREADY] and found["tools_sha256"] == ["7" * 64]
    assert "hardware" not in found["patch"]  # else runs that were patched elsewhere could not be compared
