"""The gate `seals`: each file that a release rests on, edited; missing seals; another key; SEALS=no."""

import json
from pathlib import Path

from calls import as_command
from choice.drop_metadata import METADATA_NAME
from files.json_records import read_json
from files.seals import BINDING, LEDGER, Seal
from files.written_records import write_json
from gates.seals_gate import judged
from losses.quality_record import QUALITY_NAME
from makers.pruned_models import NAME
from release.manifest import MANIFEST
from release.sources import sources_path
from scoring.run_files import ANSWERS, PATCHED, RUN
from scoring.score_records import SCORES_NAME

import pytest

MACHINE = {"cpu": "a better one", "cores": 999, "gpus": [], "backends": []}


def edit(path: Path) -> None:
    """Change one byte in a file's place, the last one that is no white space; the old file stays as it was."""
    content = path.read_bytes()
    place = len(content.rstrip()) - 1
    path.unlink()
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])


def test_every_file_has_a_seal_and_an_edit_of_any_is_named(build):
    assert build.failing("seals") == []
    files = {path for _, path, _, _ in judged(build.checked)}
    names = {path.name for path in files}
    expected = {MANIFEST, sources_path(build.release).name, "map.json", "statistics.safetensors", "F16.gguf.json"}
    expected |= {"imatrix.gguf.json", f"{NAME}-Q6_K.gguf.json", SCORES_NAME, QUALITY_NAME, METADATA_NAME, ANSWERS}
    expected |= {"pruning.npz", "inputs.json", "frozen.jsonl", "samples.jsonl", "results.json", "summary.json"}
    assert expected | {RUN, PATCHED} <= names
    # The gate itself reads these: an edit that leaves no JSON is refused as such.
    read = {MANIFEST, sources_path(build.release).name, RUN, QUALITY_NAME}
    for path in sorted(path for path in files if path.name not in read):
        before = path.read_bytes()
        edit(path)
        found = [line for line in build.failing("seals") if "edited since it was sealed" in line]
        assert any(line.startswith(f"{path}:") or line.startswith(f"{path},") for line in found), path
        assert len(found) == 1 or path.name in BINDING, path  # what lies beside it is bound to it
        path.unlink()
        path.write_bytes(before)
    assert build.failing("seals") == []


def test_a_release_folder_may_be_renamed(build):
    renamed = build.release.rename(build.release.with_name("GGUF"))
    sources_path(build.release).rename(sources_path(renamed))
    build.release = renamed
    assert build.failing("seals") == []


@pytest.mark.parametrize("ending", [".safetensors", ".gguf"])
def test_no_ending_of_a_name_spares_a_record_its_seal(build, ending):
    """Weights have none, and a GGUF file that of its record, by whatever name a release takes a file for another."""
    losses, other = build.evidence / QUALITY_NAME, build.evidence / f"x{ending}"
    other.write_text(losses.read_text())
    with as_command("measure_quality"):
        write_json(build.evidence / f"x{ending}.json", {"version": 1, "bytes": 1, "sha256": "0" * 64})
    checked = build.checked
    checked.sources["copies"][QUALITY_NAME] = other
    assert [seal for _, path, _, seal in judged(checked) if path.name.startswith("x.")][0] in (Seal.NONE, Seal.BROKEN)


def test_a_copy_in_a_release_is_no_list_of_sources(build):
    forged = build.evidence / "X/template"
    forged.parent.mkdir()
    sources = sources_path(build.release)
    content = read_json(sources)
    content["runs"].pop("0")
    with as_command("build_release"):
        write_json(forged, content)
    build.write(sources, forged.read_text())
    assert any(str(sources) in line for line in build.failing("seals"))


@pytest.mark.parametrize("where", ["settings", "sources", "machine", "losses"])
def test_what_no_other_gate_makes_again_is_sealed(build, where):
    places = {"settings": build.release / MANIFEST, "sources": sources_path(build.release)}
    places |= {"machine": build.own / RUN, "losses": build.evidence / QUALITY_NAME}
    changes = {
        "settings": lambda content: content["settings"].update(KEEP="64", NO_IMATRIX="Q4_K_M"),
        "sources": lambda content: content["runs"].pop("0"),
        "machine": lambda content: content.update(hardware=[MACHINE]),
        "losses": lambda content: content.update(cut=1),
    }
    build.change(places[where], changes[where])
    found = build.failing("seals")
    assert any(line.startswith(str(places[where])) or str(places[where].name) in line for line in found), found


def test_an_answer_of_another_run_is_none_of_this(build):
    """Both runs answer the same questions under one protocol; only the model differs. The first answer is the same."""
    build.write(build.own / ANSWERS, (build.full / ANSWERS).read_text())
    found = build.failing("seals")
    assert len(found) == 1 and f"{build.own / ANSWERS}, line 2: expected what this project wrote" in found[0]
    assert "REPLACE=eval" in found[0]


def test_seals_of_another_key_or_none_are_one_line(build, monkeypatch, tmp_path):
    monkeypatch.setenv("SEAL_KEY", str(tmp_path / "other/seal.key"))
    found = build.failing("seals")
    assert len(found) == 2 and all("those of another key" in line and "SEALS=no" in line for line in found)
    for folder in (build.pruned, build.evidence):
        (folder / LEDGER).unlink()
    assert len(found := build.failing("seals")) == 2 and all("found none: a build" in line for line in found)
    monkeypatch.setenv("SEALS", "no")
    assert build.failing("seals") == []


def test_a_seal_cannot_be_written_without_the_key(build):
    """Whoever edits the ledger, too, only chooses the words of the refusal."""
    place = build.own / PATCHED
    edit(place)
    ledger = build.evidence / LEDGER
    lines = ledger.read_text().splitlines()
    own = next(line for line in lines if json.dumps("run-pruned/patched.json") in line)
    key, seal, name = own.split(" ", 2)
    ledger.unlink()  # it is a link
    ledger.write_text("\n".join([*lines, f"{key} {seal[::-1]} {name}"]) + "\n")
    assert Seal.BROKEN in {seal for _, path, _, seal in judged(build.checked) if path == place or path.samefile(place)}
