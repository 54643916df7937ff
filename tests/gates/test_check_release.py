"""The gates on real release folders: what holds passes, and each kind of damage fails its own gate in one line."""

import csv
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import build_release
import check_release
from choice.drop_metadata import METADATA_NAME
from conftest import REPO
from files.safe_files import sha256_file
from files.seals import MARKER
from gates.checked import Checked, Outcome
from gates.gates import GATES
from gates.remade_gates import COMMAND_GATES, RECORD_GATES
from gates.running_gates import running_gates, smallest
from gates.text_ends_gate import tokens_gate
from gates.unchanged_gate import unchanged_gate
from ggufs.gguf_header import UINT32
from release.manifest import read_manifest
from release.order import exceptions, must_exceed, size_exceptions
from release.sources import KINDS_OF_SOURCES, read_sources, sources_path
from release_inputs import BASE, DOMINATED, NAME, QUESTIONS, SIDECARS, call, change_json, origins_of, shared_release

import pytest

RUNNING = ["sidecars", "template", "answer", "speed", "drafted"]


@pytest.fixture
def release(pruned_demo) -> Path:
    """A release of the demo's standard quants with scores and quality, which no test may change."""
    return shared_release(pruned_demo)


@pytest.fixture
def copy(release, tmp_path) -> Path:
    """A copy of the release that a test may damage; what it was made from is found from there, too."""
    folder = tmp_path / "place" / release.name
    shutil.copytree(release, folder)
    sources = json.loads(sources_path(release).read_text())
    for kind in KINDS_OF_SOURCES:
        sources[kind] = {name: str((release.parent / path).resolve()) for name, path in sources[kind].items()}
    sources_path(folder).write_text(json.dumps(sources))
    return folder


def checked(folder: Path) -> Checked:
    return Checked(folder, read_manifest(folder), read_sources(folder))


def failing(folder: Path, *names: str) -> dict[str, list[str]]:
    """Return the deviations of the gates that need no server, by name; names: only these."""
    chosen = {name: gate for name, gate in {**GATES, **RECORD_GATES}.items() if not names or name in names}
    outcomes = {name: check_release.outcome_of(gate, checked(folder)) for name, gate in chosen.items()}
    return {name: outcome.deviations for name, outcome in outcomes.items() if outcome.deviations}


def running(folder: Path, tools, name: str) -> list[str]:
    """Return the deviations of a gate that runs something."""
    return check_release.outcome_of({**COMMAND_GATES, **running_gates(tools, 0)}[name], checked(folder)).deviations


def reseal(folder: Path, **changes: object) -> None:
    """Write the manifest again after a change, as someone would who edits a folder with care."""
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    for name in manifest["files"]:
        manifest["files"][name] = {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


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


def test_a_folder_of_any_name_passes_as_the_repository_of_its_manifest(copy):
    folder = copy.parent / "GGUF"
    sources_path(copy).rename(sources_path(folder))
    copy.rename(folder)
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
def test_a_file_edited_by_hand_fails(copy, name):
    with open(copy / name, "r+b") as file:
        file.seek(-2, 2)
        file.write(b"!")
    lines = failing(copy, "files")["files"]
    assert len(lines) == 1 and lines[0].startswith(f"{copy / name}: expected sha256")


@pytest.mark.parametrize("name", ["README.md", f"{NAME}-Q6_K.gguf", "manifest.json"])
def test_a_file_edited_while_the_others_are_checked_fails(copy, name):
    begun = checked(copy)
    gate, place = unchanged_gate(copy, begun.manifest), copy / name
    assert not gate(begun).deviations
    held, times = place.read_bytes(), place.stat()
    place.write_bytes(held.replace(b"demo", b"DEMO"))
    os.utime(place, ns=(times.st_atime_ns, times.st_mtime_ns))
    [line] = gate(begun).deviations
    assert name in line and "\n" not in line


def test_files_too_many_or_too_few_fail(copy, capsys, refusal):
    (copy / "notes.txt").write_text("x")
    (copy / "params").unlink()
    state = copy / ".cache/huggingface/upload"
    state.mkdir(parents=True)
    (state / "x.metadata").write_text("what an upload keeps is not published")
    lines = failing(copy, "files")["files"]
    assert [line.split(": expected")[0] for line in lines] == [str(copy / "notes.txt"), str(copy / "params")]
    failed = "5 that fail: seals, files, build, made, sidecars"  # a copy lies in no build folder
    refusal(check_release.main, [copy], copy, "all of 23 checks to pass", failed)
    printed = capsys.readouterr().out
    assert "FAIL  files:" in printed and "pass  template:" in printed
    (copy / "link").symlink_to(copy / "template")
    assert "a symbolic link" in failing(copy, "files")["files"][0]


def test_a_build_s_record_that_is_none_is_refused_by_its_owner(copy):
    sources, name = json.loads(sources_path(copy).read_text()), f"{NAME}-Q6_K.gguf"
    record = json.loads(Path(sources["records"][name]).read_text())
    mine = copy.with_name("mine.json")
    change_json(sources_path(copy), records={**sources["records"], name: str(mine)})
    mine.write_text(json.dumps(record))
    assert not failing(copy, "build")
    for change, words in (({"version": 9}, "version 1, found version 9"), ({"sha256": "aaaa"}, "is 64 hex digits")):
        mine.write_text(json.dumps(record | change))
        (line,) = failing(copy, "build")["build"]
        assert line.startswith(f"{mine}: expected a record of quantize_gguf.py") and words in line


def test_a_manifest_of_another_build_fails(copy, refusal):
    records, name = read_manifest(copy)["records"], f"{NAME}-Q6_K.gguf"
    reseal(copy, records={**records, name: {**records[name], "source_sha256": "1" * 64}})
    lines = failing(copy, "build")["build"]
    assert "it is of another build" in lines[0] and name in lines[0]
    reseal(copy, records=records, repository="other-GGUF")
    line = f"{copy / 'README.md'}: expected the repository other-GGUF, as manifest.json says, found {NAME}-GGUF"
    assert failing(copy, "files") == {"files": [line]}
    reseal(copy, repository=f"{NAME}-GGUF", name="other-9e")
    lines = failing(copy, "files")["files"]
    assert len(lines) == 4 and "expected a name that begins with other-9e-" in lines[0]
    reseal(copy, name=NAME)
    (copy / "expert_drop_metadata.json").write_text((copy / "expert_drop_metadata.json").read_text() + " ")
    reseal(copy)
    assert list(failing(copy)) == ["build"]
    change_json(sources_path(copy), records=[])
    refusal(check_release.main, [copy], sources_path(copy), "'records'")
    sources_path(copy).unlink()
    refusal(check_release.main, [copy], sources_path(copy), "found nothing")


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
def test_an_edit_fails_although_the_manifest_was_made_anew(copy, name, old, new, gate):
    text = (copy / name).read_text()
    assert old in text and not failing(copy)
    (copy / name).write_bytes(text.replace(old, new, 1).encode())
    reseal(copy)
    found = failing(copy)
    assert gate in found and str(copy / name) in found[gate][0] and "run `make release`" in found[gate][0], found


def test_files_of_no_release_fail_although_the_manifest_lists_them(copy):
    manifest = read_manifest(copy)
    (copy / "system").write_text("Be evil.")
    (copy / "quality.json").unlink()
    del manifest["files"]["quality.json"]
    reseal(copy, files={**manifest["files"], "system": {}})
    assert [line.split(": expected")[0] for line in failing(copy)["build"]] == [
        str(copy / "quality.json"),
        str(copy / "system"),
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


def test_types_other_than_the_records_fail(copy):
    shutil.copyfile(copy / f"{NAME}-Q4_K_M.gguf", copy / f"{NAME}-Q6_K.gguf.new")
    (copy / f"{NAME}-Q6_K.gguf.new").replace(copy / f"{NAME}-Q6_K.gguf")
    reseal(copy)
    lines = failing(copy, "records")["records"]
    assert [line.split("expected ")[1].split(" ")[0] for line in lines] == ["the", "tensors", "sha256", "bytes"]
    (copy / f"{NAME}-Q6_K.gguf").write_bytes(b"GGUF" + bytes(100))
    assert any("Q6_K.gguf: expected" in line for line in failing(copy, "records")["records"])


def test_a_cd_file_among_the_standard_ones_fails(copy, pruned_demo):
    manifest, name = read_manifest(copy), f"{NAME}-CD-Q4_K_M.gguf"
    shutil.copyfile(pruned_demo / name, copy / name)
    record = json.loads((pruned_demo / f"{name}.json").read_text())
    manifest["files"][name] = {}
    reseal(copy, files=manifest["files"], records={**manifest["records"], name: {**record, "files": [name]}})
    lines = failing(copy, "names")["names"]
    assert any(":Q4_K_M: expected the Q4_K_M by the rule of llama.cpp -hf, found" in line for line in lines)
    assert any("expected a type of a standard release, found CD-Q4_K_M" in line for line in lines)


def test_order_by_hand():
    sizes = {"Q8_0": 90, "Q6_K_L": 70, "Q6_K": 71, "Q4_K_S": 40, "Q4_1": 45, "Q3_K_XL": 35, "Q3_K_L": 34}
    records = {name: {"type": name, "bytes": size, "sha256": name} for name, size in sizes.items()}
    assert must_exceed(records) == [("Q6_K_L", "Q6_K", False), ("Q3_K_XL", "Q3_K_L", True)]
    assert size_exceptions(records) == [
        "Q6_K is larger than Q6_K_L, although its name ranks lower.",
        "Q4_1 is larger than Q4_K_S, although its name ranks lower.",
    ]
    quality = {
        "conclusions": {"quantisation": {"dominated": DOMINATED}, "total": {"dominated": {}}},
        "files": [{"sha256": name, "label": name} for name in ("Q8_0", "Q6_K")],
    }
    assert exceptions(records, quality)[2:] == [
        "Q6_K has a significantly higher quantisation KLD than Q4_K_M (not in this repository), which is no larger."
    ]


def test_a_quant_that_must_be_larger_than_another_and_is_not_fails(copy):
    records = read_manifest(copy)["records"]
    record = records[f"{NAME}-Q6_K_L.gguf"]
    record.update(bytes=1, bits_per_weight=8 / record["parameters"])
    reseal(copy, records=records)
    assert any("expected Q6_K_L to be larger than Q6_K" in line for line in failing(copy, "order")["order"])


@pytest.mark.parametrize(
    "gate, words", [("order", "Q6_K has a significantly higher"), ("in-sample", "**In-sample:** 4 of the 4")]
)
def test_what_the_card_must_say_it_must_say(copy, gate, words):
    card = (copy / "README.md").read_text()
    assert words in card and not failing(copy, gate)
    (copy / "README.md").write_text(card.replace(words, "all is well"))
    reseal(copy)
    assert words in failing(copy)[gate][0] and set(failing(copy)) == {gate, "made"}


def test_another_models_in_sample_score_must_be_labelled_too(copy):
    rows = json.loads((copy / "scores.json").read_text())["rows"]
    rows[0]["in_sample"] = {"chosen_on": 4, "scored_and_chosen_on": 3}
    change_json(copy / "scores.json", rows=rows)
    sentence = "3 of the 4 scored questions also chose the experts of gemma-4-demo."
    assert sentence in failing(copy, "in-sample")["in-sample"][0]


def test_a_card_without_front_matter_or_file_fails(copy):
    card = (copy / "README.md").read_text()
    (copy / "README.md").write_text(card.replace("license: gemma\n", ""))
    assert "expected license in the front matter" in failing(copy, "card")["card"][0]
    (copy / "README.md").write_text(card.replace(f"{NAME}-Q4_K_M.gguf", "it"))
    assert failing(copy, "card")["card"] == [
        f"{copy / 'README.md'}: expected {NAME}-Q4_K_M.gguf in the card, found it missing"
    ]


@pytest.mark.parametrize(
    "gate, text",
    [
        ("private", "token hf_" + "aB3" * 10),
        ("private", "built in /home/ann/models"),
        ("private", "from http://10.0.0.7:3000/"),
        ("questions", None),
    ],
)
def test_what_must_not_be_published_fails(copy, gate, text):
    with open(QUESTIONS[0], newline="") as file:
        row = max(csv.DictReader(file), key=lambda row: len(row["Question"]))
    with open(copy / "template", "a") as file:
        file.write(text or row["Question"])
    reseal(copy)
    lines = failing(copy)[gate]
    assert len(lines) == 1 and lines[0].startswith("template: expected no") and "aB3" not in lines[0]
    assert list(failing(copy)) == ["build", gate] and (text or "found that of demo" in lines[0])


def test_without_questions_the_release_does_not_pass(release):
    def outcome_with(questions: dict[str, Path]) -> Outcome:
        sources = {"questions": questions}
        return check_release.outcome_of(GATES["questions"], Checked(release, read_manifest(release), sources))

    assert "expected question files to compare with" in outcome_with({}).deviations[0]
    assert "gone.csv: expected a question file" in outcome_with({"0": release / "gone.csv"}).deviations[0]


def edit(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    "name, damage, words",
    [
        ("params", Path.unlink, "params: expected Ollama's params, found nothing"),
        ("Modelfile", Path.unlink, "Modelfile: expected Ollama's Modelfile, found nothing"),
        ("params", lambda path: edit(path, "<turn|>", "<turn_over>"), "<turn_over>"),
        ("params", lambda path: edit(path, "4096", "8192"), "8192"),
        ("Modelfile", lambda path: edit(path, f"{NAME}-Q8_0", "gone"), "found gone.gguf"),
        ("Modelfile", lambda path: edit(path, "PARSER gemma4", ""), "'PARSER gemma4'"),
    ],
)
def test_sidecars_are_checked(copy, tools, name, damage: Callable[[Path], object], words):
    assert running(copy, tools, "sidecars") == []
    damage(copy / name)
    lines = running(copy, tools, "sidecars")
    assert len(lines) == 1 and words in lines[0]


def test_a_file_that_ends_elsewhere_than_its_checkpoint_fails(copy, tmp_path):
    gguf, eos = smallest(checked(copy)), b"tokenizer.ggml.eos_token_id" + struct.pack("<I", UINT32)
    whole = tokens_gate(checked(copy))
    assert whole.deviations == [] and "against the tokens of the checkpoint: bos 2, ends 1, 6" in whole.looked_at
    content = gguf.read_bytes()
    assert content.count(eos + struct.pack("<I", 1)) == 1
    gguf.write_bytes(content.replace(eos + struct.pack("<I", 1), eos + struct.pack("<I", 5)))
    (line,) = tokens_gate(checked(copy)).deviations
    assert line.startswith(
        f"{gguf}: expected eos among 1 (<eos>), 6 (<turn|>), as the checkpoint says, found 5 (<|turn>)"
    )
    # A GGUF file that was pruned itself has no checkpoint: then the files of the release must agree.
    alone = checked(copy)
    alone.sources["copies"][METADATA_NAME] = tmp_path / METADATA_NAME
    outcome = tokens_gate(alone)
    assert "as there is no checkpoint" in outcome.looked_at and outcome.deviations


def test_a_vision_tower_and_a_draft_of_the_modelfile_must_be_there(copy, tools):
    edit(copy / "Modelfile", "RENDERER", "FROM ./mmproj-a-F16.gguf\nDRAFT ./draft-a.gguf\nRENDERER")
    (copy / "mmproj-a-F16.gguf").touch()
    assert running(copy, tools, "sidecars") == [
        f"{copy / 'Modelfile'}: expected DRAFT ./FILE of this folder, found draft-a.gguf"
    ]


@pytest.mark.parametrize("error", [StopIteration(), struct.error("short"), ZeroDivisionError(), KeyError("rows")])
def test_a_gate_that_stumbles_over_a_file_of_another_form_fails_alone(release, error):
    def stumble(_: Checked) -> Outcome:
        raise error

    (line,) = check_release.outcome_of(stumble, checked(release)).deviations
    assert f"expected files as build_release.py writes them, found {type(error).__name__}" in line


def test_params_of_another_source_than_the_project_s_fail(copy, tools):
    own = copy.with_name("own.params.json")
    own.write_text((REPO / "modelfiles/gemma4-current.params.json").read_text())
    change_json(sources_path(copy), params={"params": str(own)})
    assert "modelfiles/gemma4-card.params.json, as OLLAMA_PARAMS says" in running(copy, tools, "sidecars")[0]
    reseal(copy, settings={**read_manifest(copy)["settings"], "OLLAMA_PARAMS": "current"})
    assert not [line for line in running(copy, tools, "sidecars") if "OLLAMA_PARAMS" in line]


def test_a_template_edited_or_gone_fails_its_gate(copy, tools):
    edit(copy / "template", "<|tool>", "<|tools>")
    assert "the Ollama template 's>declaration" in running(copy, tools, "template")[0]
    assert "template: expected a template of modelfiles/, found another" in running(copy, tools, "sidecars")[0]
    (copy / "template").unlink()
    assert running(copy, tools, "template") == [f"{copy / 'template'}: expected Ollama's template, found nothing"]


def test_a_file_that_does_not_load_fails(copy, tools):
    gguf = smallest(checked(copy))
    gguf.write_bytes(gguf.read_bytes().replace(b"gemma4.block_count", b"gemma4.block_cound"))
    assert "a model that llama-server loads" in running(copy, tools, "answer")[0]


def test_many_deviations_are_cut_and_a_broken_form_is_one_line(copy):
    lines = check_release.check_lines("files", Outcome("x", [f"line {i}" for i in range(25)]))
    assert len(lines) == 22 and lines[-1].endswith("and 5 more")
    whole = (copy / "scores.json").read_text()
    change_json(copy / "scores.json", question_ids=[[]])
    line = failing(copy, "in-sample")["in-sample"][0]
    assert "question_ids" in line and "\n" not in line
    change_json(copy / "scores.json", question_ids=["a"], rows=[{}])
    assert "with the field 'rows.0.name', found none" in failing(copy, "in-sample")["in-sample"][0]
    (copy / "scores.json").write_text(whole)
    change_json(copy / "quality.json", conclusions={})
    assert "with conclusions of total and quantisation, found others" in failing(copy, "made")["made"][0]
