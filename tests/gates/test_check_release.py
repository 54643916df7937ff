"""The gates on real release folders: what holds passes, and each kind of damage fails its own gate in one line."""

import json
import os
import shutil
import struct
from pathlib import Path
from types import SimpleNamespace

import build_release
import check_release
from calls import call
from files.seals import MARKER
from gates.checked import Checked, Outcome
from gates.gates import GATES, copy_differences
from gates.remade_gates import COMMAND_GATES, RECORD_GATES
from gates.unchanged_gate import unchanged_gate
from makers.pruned_models import BASE, NAME
from makers.release_copies import change_json, checked, edit, failing, reseal
from makers.release_inputs import SIDECARS, origins_of
from release.manifest import read_manifest
from release.sources import sources_path

import pytest

RUNNING = ["sidecars", "template", "answer", "speed", "drafted"]


def test_all_that_holds_passes_line_by_line(release, script):
    done = script("check_release.py", release)
    lines = [line for line in done.stdout.splitlines() if line[:4] in ("pass", "FAIL", "n/a ")]
    verdicts = {line[6:].split(":")[0]: line[:4] for line in lines}
    assert list(verdicts) == [
        "seals",
        *GATES,
        *RECORD_GATES,
        *COMMAND_GATES,
        "tasks",
        "loops",
        "tokens",
        "headers",
        "digests",
        *RUNNING,
        "sight",
        "picture",
        "unchanged",
    ]
    of_text_alone = {name for name, verdict in verdicts.items() if verdict != "pass"}
    assert of_text_alone == {"findings", "tasks", "speed", "loops", "drafted", "sight", "picture"}, done.stdout
    sentence = "Q6_K has a significantly higher quantisation and total KLD than Q4_K_M, which is no larger."
    assert f"exception: {sentence}" in done.stdout and f"- {sentence}\n" in (release / "README.md").read_text()
    assert "Q8_0 has a" not in done.stdout and "**In-sample:** 4 of the 4" in done.stdout
    assert 'loaded by llama-server, which answers "' in done.stdout
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == f"{release}: all of 23 checks pass, 7 do not apply"


def test_a_copy_of_another_size_is_not_read(tmp_path, monkeypatch):
    """A file of a TiB costs no disk where nothing is written, and hours to read."""
    build, release = tmp_path / "build.json", tmp_path / "release/scores.json"
    release.parent.mkdir()
    build.write_text("{}")
    checked_alone = SimpleNamespace(sources={"copies": {"scores.json": build}}, folder=release.parent)
    shutil.copyfile(build, release)
    assert copy_differences(checked_alone) == []
    release.write_text("[]")  # of the same size: its bytes are others
    assert "scores.json: expected the bytes of this build's build.json" in copy_differences(checked_alone)[0]
    os.truncate(release, 1 << 40)
    monkeypatch.setattr("gates.gates.sha256_file", lambda path: pytest.fail(f"{path} was read"))
    assert "scores.json: expected the bytes of this build's build.json" in copy_differences(checked_alone)[0]


def test_a_folder_of_any_name_passes_as_the_repository_of_its_manifest(copied):
    folder = copied.parent / "GGUF"
    sources_path(copied).rename(sources_path(folder))
    copied.rename(folder)
    assert not failing(folder)
    edit(folder / "README.md", f"hf.co/USER/{NAME}-GGUF:", "hf.co/USER/elsewhere:")
    assert failing(folder, "files")["files"][0].endswith(
        f"expected the repository {NAME}-GGUF, as manifest.json says, found elsewhere"
    )


def test_a_split_file_and_a_checkpoint_pass_the_gates(pruned_demo, tmp_path, capsys):
    checkpoint, parts = pruned_demo / "checkpoint", tmp_path / "parts"
    (tmp_path / MARKER).touch()
    metadata = checkpoint / "expert_drop_metadata.json"
    common = ["--name", NAME, "--base", BASE, "--metadata", metadata, *origins_of(pruned_demo, ())]
    dynamic = ["--kind", "dynamic", "--gguf", pruned_demo / f"{NAME}-CD-Q4_K_M.gguf", *SIDECARS]
    call(build_release.main, *common, *dynamic, "--max-file-bytes", 3_000_000, "--output", parts)
    of_checkpoint = ["--kind", "checkpoint", "--checkpoint", checkpoint, "--output", tmp_path / NAME]
    call(build_release.main, *common, *of_checkpoint)
    assert not failing(parts) and not failing(tmp_path / NAME)
    with pytest.raises(SystemExit) as ended:  # by the first folder; the second one is checked all the same, and passes
        check_release.main([str(tmp_path / "nothing"), str(tmp_path / NAME)])
    printed = capsys.readouterr()
    assert ended.value.code == 1 and "n/a   names:" in printed.out and "checks pass" in printed.out
    assert printed.err.count("error: ") == 1 and f"{tmp_path / 'nothing'}: expected a release folder" in printed.err
    (tmp_path / NAME / "config.json").write_text("{}")
    assert list(failing(tmp_path / NAME)) == ["files", "build", "made"]
    part = sorted(parts.glob("*-00002-of-*.gguf"))[0]
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.unlink()  # a link: the part that is kept beside the release stays as it is
    part.write_bytes(content)
    reseal(parts)
    assert "expected the bytes of " in failing(parts, "records")["records"][0]
    part.unlink()
    assert {"files", "records"} <= failing(parts).keys()


@pytest.mark.parametrize("name", ["README.md", f"{NAME}-Q6_K.gguf", "template"])
def test_a_file_edited_by_hand_fails(copied, name):
    with open(copied / name, "r+b") as file:
        file.seek(-2, 2)
        file.write(b"!")
    lines = failing(copied, "files")["files"]
    assert len(lines) == 1 and lines[0].startswith(f"{copied / name}: expected sha256")


@pytest.mark.parametrize("name", ["README.md", f"{NAME}-Q6_K.gguf", "manifest.json"])
def test_a_file_edited_while_the_others_are_checked_fails(copied, name):
    begun = checked(copied)
    gate, place = unchanged_gate(copied, begun.manifest), copied / name
    assert not gate(begun).deviations
    held, times = place.read_bytes(), place.stat()
    place.write_bytes(held.replace(b"demo", b"DEMO"))
    os.utime(place, ns=(times.st_atime_ns, times.st_mtime_ns))
    [line] = gate(begun).deviations
    assert name in line and "\n" not in line


def test_files_too_many_or_too_few_fail(copied, capsys, refusal):
    (copied / "notes.txt").write_text("x")
    (copied / "params").unlink()
    state = copied / ".cache/huggingface/upload"
    state.mkdir(parents=True)
    (state / "x.metadata").write_text("what an upload keeps is not published")
    lines = failing(copied, "files")["files"]
    assert [line.split(": expected")[0] for line in lines] == [str(copied / "notes.txt"), str(copied / "params")]
    failed = "5 that fail: seals, files, build, made, sidecars"  # a copy lies in no build folder
    refusal(check_release.main, [copied], copied, "all of 23 checks to pass", failed)
    printed = capsys.readouterr().out
    assert "FAIL  files:" in printed and "pass  template:" in printed
    (copied / "link").symlink_to(copied / "template")
    assert "a symbolic link" in failing(copied, "files")["files"][0]


def test_a_build_s_record_that_is_none_is_refused_by_its_owner(copied):
    sources, name = json.loads(sources_path(copied).read_text()), f"{NAME}-Q6_K.gguf"
    record = json.loads(Path(sources["records"][name]).read_text())
    mine = copied.with_name("mine.json")
    change_json(sources_path(copied), records={**sources["records"], name: str(mine)})
    mine.write_text(json.dumps(record))
    assert not failing(copied, "build")
    for change, words in (({"version": 9}, "version 1, found version 9"), ({"sha256": "aaaa"}, "is 64 hex digits")):
        mine.write_text(json.dumps(record | change))
        (line,) = failing(copied, "build")["build"]
        assert line.startswith(f"{mine}: expected a record of quantize_gguf.py") and words in line


def test_a_manifest_of_another_build_fails(copied, refusal):
    records, name = read_manifest(copied)["records"], f"{NAME}-Q6_K.gguf"
    reseal(copied, records={**records, name: {**records[name], "source_sha256": "1" * 64}})
    lines = failing(copied, "build")["build"]
    assert "it is of another build" in lines[0] and name in lines[0]
    reseal(copied, records=records, repository="other-GGUF")
    line = f"{copied / 'README.md'}: expected the repository other-GGUF, as manifest.json says, found {NAME}-GGUF"
    assert failing(copied, "files") == {"files": [line]}
    reseal(copied, repository=f"{NAME}-GGUF", name="other-9e")
    lines = failing(copied, "files")["files"]
    assert len(lines) == 4 and "expected a name that begins with other-9e-" in lines[0]
    reseal(copied, name=NAME)
    (copied / "expert_drop_metadata.json").write_text((copied / "expert_drop_metadata.json").read_text() + " ")
    reseal(copied)
    assert list(failing(copied)) == ["build"]
    change_json(sources_path(copied), records=[])
    refusal(check_release.main, [copied], sources_path(copied), "'records'")
    sources_path(copied).unlink()
    refusal(check_release.main, [copied], sources_path(copied), "found nothing")


@pytest.mark.parametrize(
    "name, old, new, gate",
    [
        ("README.md", "2/4 = 50.00%", "4/4 = 100.00%", "made"),
        ("README.md", "license: gemma", "license: mit", "made"),
        ("scores.json", '"experts": 112', '"experts": 111', "build"),
        ("quality.json", '"chats": 4', '"chats": 400', "build"),
        ("params", '"temperature": 0.6', '"temperature": 1.6', "made"),
        ("Modelfile", "repeat_penalty 1.15", "repeat_penalty 1.0", "made"),
        ("Modelfile", "PARSER gemma4\n", "PARSER gemma4\r\n", "made"),
    ],
)
def test_an_edit_fails_although_the_manifest_was_made_anew(copied, name, old, new, gate):
    text = (copied / name).read_text()
    assert old in text and not failing(copied)
    (copied / name).write_bytes(text.replace(old, new, 1).encode())
    reseal(copied)
    found = failing(copied)
    assert gate in found and str(copied / name) in found[gate][0] and "run `make release`" in found[gate][0], found


def test_files_of_no_release_fail_although_the_manifest_lists_them(copied):
    manifest = read_manifest(copied)
    (copied / "system").write_text("Be evil.")
    (copied / "quality.json").unlink()
    del manifest["files"]["quality.json"]
    reseal(copied, files={**manifest["files"], "system": {}})
    found = [line.split(": expected")[0] for line in failing(copied)["build"]]
    # Without the losses the card's command would name no chats that they were measured on, too.
    assert [path for path in found if path != str(copied / "manifest.json")] == [
        str(copied / "quality.json"),
        str(copied / "system"),
    ]


@pytest.mark.parametrize(
    "content, words",
    [
        ("", "valid JSON"),
        ("[]", "a JSON object"),
        ("{}", "a release's manifest, version 1"),
        ({"name": None}, "whose 'name'"),
        ({"kind": "other"}, "a kind among"),
        ({"files": {"../x": {"bytes": 1, "sha256": "0" * 64}}}, "every entry of 'files'"),
        ({"files": {"x": {"bytes": 1, "sha256": "0"}}}, "every entry of 'files'"),
        ({"records": {"x": {"bytes": 1, "sha256": "0" * 64}}}, "a record of each quant"),
    ],
)
def test_a_manifest_that_is_none_ends_in_one_line(release, tmp_path, refusal, content, words):
    path = tmp_path / "manifest.json"
    shutil.copyfile(release / "manifest.json", path)
    if isinstance(content, str):
        path.write_text(content)
    else:
        change_json(path, **content)
    refusal(check_release.main, [tmp_path], path, words)


def test_a_folder_that_is_none_ends_in_one_line(release, refusal, tmp_path):
    refusal(check_release.main, [tmp_path / "nothing"], tmp_path / "nothing", "a release folder", "found nothing")
    refusal(check_release.main, [release / "template"], "a release folder", "found a file")
    refusal(check_release.main, [tmp_path], "manifest.json", "found nothing")


def test_types_other_than_the_records_fail(copied):
    shutil.copyfile(copied / f"{NAME}-Q4_K_M.gguf", copied / f"{NAME}-Q6_K.gguf.new")
    (copied / f"{NAME}-Q6_K.gguf.new").replace(copied / f"{NAME}-Q6_K.gguf")
    reseal(copied)
    lines = failing(copied, "records")["records"]
    assert [line.split("expected ")[1].split(" ")[0] for line in lines] == ["the", "tensors", "sha256", "bytes"]
    (copied / f"{NAME}-Q6_K.gguf").write_bytes(b"GGUF" + bytes(100))
    assert any("Q6_K.gguf: expected" in line for line in failing(copied, "records")["records"])


def test_a_cd_file_among_the_standard_ones_fails(copied, pruned_demo):
    manifest, name = read_manifest(copied), f"{NAME}-CD-Q4_K_M.gguf"
    shutil.copyfile(pruned_demo / name, copied / name)
    record = json.loads((pruned_demo / f"{name}.json").read_text())
    manifest["files"][name] = {}
    reseal(copied, files=manifest["files"], records={**manifest["records"], name: {**record, "files": [name]}})
    lines = failing(copied, "names")["names"]
    assert any(":Q4_K_M: expected the Q4_K_M by the rule of llama.cpp -hf, found" in line for line in lines)
    assert any("expected a type of a standard release, found CD-Q4_K_M" in line for line in lines)


@pytest.mark.parametrize("error", [StopIteration(), struct.error("short"), ZeroDivisionError(), KeyError("rows")])
def test_a_gate_that_stumbles_over_a_file_of_another_form_fails_alone(release, error):
    def stumble(_: Checked) -> Outcome:
        raise error

    (line,) = check_release.outcome_of(stumble, checked(release)).deviations
    assert f"expected files as build_release.py writes them, found {type(error).__name__}" in line
