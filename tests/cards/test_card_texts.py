"""What a text of somebody's own may be on a card: one line, a plain name, or code. Whose work it is, by its origin."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import build_release
from calls import as_command
from cards.card_credits import credits_section
from cards.card_sections import Release
from cards.gguf_card import gguf_card
from cards.made_texts import release_of
from files.fetched_files import CALIBRATION_V5_URL, GPQA_URL, FetchedRecord, dataset_url
from files.input_errors import InputError, sha256_file
from files.json_records import check_record, read_json
from files.seals import MARKER
from files.written_records import write_json, write_record
from makers.release_inputs import release_arguments, shared_release
from release.input_facts import fetched_files, held_questions
from release.manifest import MANIFEST, Manifest, read_manifest
from release.names import is_base
from release.sources import EVIDENCE

import pytest

MARK = "x\n\n| Benchmark | Score |\n| --- | --- |\n| GPQA | 99.49% |"
ONE_LINE = "a | b"  # what no line end gives away


@pytest.fixture
def folder(pruned_demo) -> Path:
    return shared_release(pruned_demo)


def text_places(value: object, place: tuple = ()) -> list[tuple]:
    """Return the path to every text of a record; that of a key ends in None."""
    if isinstance(value, dict):
        inner = [found for key, part in value.items() for found in text_places(part, (*place, key))]
        return ([(*place, None)] if value else []) + inner
    if isinstance(value, list):
        return text_places(value[0], (*place, 0)) if value else []
    return [place] if isinstance(value, str) else []


def with_text(record: dict, place: tuple, text: str) -> dict:
    changed = json.loads(json.dumps(record))
    part = changed
    for key in place[:-1]:
        part = part[key]
    if place[-1] is None:
        part[text] = part.pop(next(reversed(part)))  # not the version, which comes first
    else:
        part[place[-1]] = text
    return changed


@pytest.mark.parametrize("name", [MANIFEST, *EVIDENCE])
def test_no_text_of_a_record_that_a_card_is_made_of_has_a_line_end(name, folder):
    kind = Manifest if name == MANIFEST else EVIDENCE[name]
    here = (folder / name).is_file()
    record = read_json(folder / name) if here else {"version": kind.current}
    places = text_places(record) if here else [("words",)]
    assert len(places) > 5 or not here
    for place in places:
        for text in (MARK, "x\u2028y", "x\u202ey", "x\ty"):
            with pytest.raises(InputError) as caught:
                check_record(name, with_text(record, place, text), kind)
            assert str(caught.value).startswith(
                f"{name}: expected {kind.what} without line ends and control characters"
            )
            assert "\n" not in str(caught.value)


OPTIONS = ["--base", "--name", "--owner", "--repository", "--quantized-by", "--license", "--questions"]


@pytest.mark.parametrize("option", OPTIONS)
def test_words_with_a_line_end_are_refused_by_the_option_that_gave_them(option, pruned_demo, tmp_path, refusal):
    words = tmp_path / f"{MARK}.csv" if option == "--questions" else MARK
    arguments = release_arguments(pruned_demo, tmp_path / "r", option, words, quants=("Q4_K_M",))
    refusal(build_release.main, arguments, {"--license": "LICENSE"}.get(option, option))
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("option", ["--gguf", "--mmproj", "--calibration", "--draft"])
def test_file_names_that_are_no_names_are_refused(option, pruned_demo, tmp_path, refusal):
    more = [option, tmp_path / MARK.replace("/", "")]
    more += ["--draft-results", tmp_path / "draft.json"] if option == "--draft" else []
    refusal(build_release.main, release_arguments(pruned_demo, tmp_path / "r", *more, quants=("Q4_K_M",)), option)


@pytest.mark.parametrize("option", ["--settings", "--siblings"])
def test_a_setting_is_one_line(option, pruned_demo, tmp_path, capsys):
    arguments = release_arguments(pruned_demo, tmp_path / "r", option, "DRAFT=\n```\n\nScore 99.49%\n\n```sh\n")
    with pytest.raises(SystemExit):
        build_release.main(list(map(str, arguments)))
    assert f"{option}: expected KEY=VALUE in one line, found 'DRAFT=" in capsys.readouterr().err


def test_what_a_task_was_made_from_is_named_by_its_kind(pruned_demo, tmp_path, refusal):
    arguments = release_arguments(pruned_demo, tmp_path / "r", "--task", "scores.json", "data", quants=("Q4_K_M",))
    refusal(build_release.main, arguments, "--task", "or examples=PATH after scores.json", "'data'")


def test_a_base_is_a_hub_id_or_a_plain_name():
    assert all(map(is_base, ("google/gemma-4-26B-A4B-it", "gemma-4-demo", "my_model.v2")))
    wrong = (
        "gemma-4-demo,91.4-of-100-on-GPQA",
        "a/b/c",
        "a b",
        "",
        "-x",
        "a/",
        "google/x\n",
        "m\n",
        "[x](y)",
        "ü",
        MARK,
    )
    assert not any(map(is_base, wrong))


def test_a_manifest_with_a_name_that_says_more_is_none(folder):
    manifest = read_json(folder / MANIFEST)
    first = next(iter(manifest["records"]))
    record = manifest["records"][first]
    changes: list[dict] = [{key: "99.49% on GPQA"} for key in ("base", "name", "repository", "quantized_by")]
    changes += [{"records": {"a; b.gguf": record}}, {"records": {first: record | {"files": ["$(x).gguf"]}}}]
    assert check_record(MANIFEST, manifest, Manifest)
    for change in [*changes, {"mmproj": {"`a`.gguf": {}}}]:
        with pytest.raises(InputError, match="letters, digits"):
            check_record(MANIFEST, manifest | change, Manifest)


def test_a_manifest_whose_files_are_no_list_is_refused(folder, tmp_path):
    manifest = read_json(folder / MANIFEST)
    first = next(iter(manifest["records"]))
    manifest["records"][first]["files"] = 1
    write_json(tmp_path / MANIFEST, manifest)
    with pytest.raises(InputError, match="a record of each quant whose 'files' is a valid list"):
        read_manifest(tmp_path)


@pytest.fixture
def release(folder) -> Release:
    return release_of(folder, read_manifest(folder))


def test_words_of_one_line_stand_in_a_card_as_code_or_escaped(release):
    name = "`**99.49% on gpqa** | <b>.csv"
    inputs = {**release.inputs, "questions": {name: "0" * 64}, "tasks": {"t": {name: "0" * 64}}}
    inputs["calibration"] = {**release.calibration, "calibration": name}
    scores = json.loads(json.dumps(release.scores))
    scores["rows"][0]["name"] = scores["pairs"][0]["reference"] = ONE_LINE
    settings = {"RUN": "x` **99.49%**", "DRAFT": "``` | x"}
    card = gguf_card(replace(release, inputs=inputs, scores=scores, settings=settings))
    for line in card.splitlines():
        if "99.49%" in line:
            before = line[: line.index("99.49%")].replace("\\`", "")
            assert before.count("`") % 2 == 1, line  # in code
        if line.startswith("|"):
            assert "<b>" not in line and ONE_LINE not in line.replace("\\|", "/"), line
    command = card.partition("## Reproduce")[2].partition("```sh\n")[2].partition("\n```\n")[0]
    assert "DRAFT=``` | x" in shlex.split(command.replace("\\\n", ""))


def test_credits_name_authors_only_of_what_was_fetched_from_them(release):
    names = {"questions": {"gpqa_diamond.csv": "0" * 64}, "calibration": {"calibration": "calibration_datav5.txt"}}
    known = {"gpqa_diamond.csv": GPQA_URL, "calibration_datav5.txt": CALIBRATION_V5_URL}
    # No record says that this file was used.
    assert "Questions" not in credits_section(replace(release, inputs=names | {"fetched": known}))
    names["roles"] = {"EVAL_QUESTIONS": ["gpqa_diamond.csv"]}
    said = credits_section(replace(release, inputs=names))
    assert "Rein" not in said and "bartowski" not in said
    assert "Questions: a file named `gpqa_diamond.csv`." in said
    assert "Calibration text: a file named `calibration_datav5.txt`." in said
    said = credits_section(replace(release, inputs=names | {"fetched": known}))
    assert "GPQA (Rein et al." in said and "calibration data v5 by bartowski, `calibration_datav5.txt`" in said


def test_a_file_comes_from_where_its_sealed_record_says(tmp_path):
    (tmp_path / MARKER).touch()
    path = tmp_path / "gpqa_diamond.csv"
    path.write_text("a,b\n")
    record = Path(f"{path}.json")
    said = {"url": GPQA_URL, "bytes": 4, "sha256": sha256_file(path)}
    assert not fetched_files([path])
    record.write_text(json.dumps({"version": 1, **said}))  # by hand
    assert not fetched_files([path])
    with as_command("fetch_calibration"):  # whose --url can be any
        write_record(record, said, FetchedRecord)
    assert not fetched_files([path])
    with as_command("fetch_gpqa"):
        write_record(record, said, FetchedRecord)
    assert fetched_files([path]) == {path.name: GPQA_URL}
    with as_command("fetch_task"):  # whose --dataset can be any: of GPQA Diamond it has another URL
        write_record(record, said | {"url": dataset_url("other/gpqa", None, "train")}, FetchedRecord)
    assert fetched_files([path]) == {path.name: "https://huggingface.co/datasets/other/gpqa/viewer/default/train"}
    with as_command("fetch_task"):
        write_record(record, said | {"url": "other"}, FetchedRecord)
    assert not fetched_files([path])
    with as_command("fetch_gpqa"):
        write_record(record, said, FetchedRecord)
    assert not fetched_files([path, tmp_path / "other" / path.name])  # a second file of that name
    path.write_text("a,c\n")
    assert not fetched_files([path])


def test_a_question_is_found_in_a_text_whatever_its_case_and_punctuation(tmp_path):
    path = tmp_path / "q.csv"
    columns = "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3"
    path.write_text(f"{columns}\na,How many legs ?,a,b,c,d\nb,IS it so?,a,b,c,d\nc,any leg?,a,b,c,d\n")
    assert held_questions("x how many  LEGS? is it, so!", [path]) == ["a", "b"]
