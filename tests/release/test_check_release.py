"""The gates on real release folders: all that holds is said to hold, and each kind of damage fails its own gate in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import build_release
import check_release
from conftest import DEMO, REPO
from files.safe_files import InputError, sha256_file
from release.gates import GATES
from release.names import clashes
from release.order import exceptions, must_exceed, size_exceptions
from release.release_files import read_manifest, sources_path
from release.running_gates import smallest
from release_inputs import NAME, first_ids, write_quality, write_scores

QUESTIONS = [DEMO / "eval_questions.csv", DEMO / "calibration_questions.csv"]
QUANTS = ("F16", "Q8_0", "Q6_K_L", "Q6_K", "Q4_K_M")
DOMINATED = {
    "Q6_K": {"by": "Q4_K_M", "difference": 0.01, "difference_error": 0.001, "told_apart": True},
    "Q8_0": {"by": "Q6_K", "difference": 0.01, "difference_error": 0.1, "told_apart": False},
}


@pytest.fixture(scope="module")
def release(pruned_demo, tmp_path_factory) -> Path:
    """A release of the demo's standard files with scores and quality."""
    folder = tmp_path_factory.mktemp("release")
    scores = write_scores(pruned_demo, folder, first_ids(QUESTIONS[1], 4))  # the questions that chose the experts
    quality = write_quality(pruned_demo, folder, {"F16": 0.0, "Q8_0": 0.001, "Q6_K": 0.02, "Q4_K_M": 0.01}, DOMINATED)
    arguments = [
        "--name",
        NAME,
        "--base",
        "google/gemma-4-26B-A4B-it",
        "--license",
        "gemma",
        "--gguf",
        *(pruned_demo / f"{NAME}-{quant}.gguf" for quant in QUANTS),
        "--metadata",
        pruned_demo / "checkpoint/expert_drop_metadata.json",
        "--template",
        REPO / "modelfiles/gemma4.template",
        "--params",
        REPO / "modelfiles/gemma4.params.json",
        "--scores",
        scores,
        "--quality",
        quality,
        "--questions",
        *QUESTIONS,
        "--output",
        folder / f"{NAME}-GGUF",
    ]
    build_release.main([str(part) for part in arguments])
    return folder / f"{NAME}-GGUF"


@pytest.fixture
def copy(release, tmp_path) -> Path:
    """A copy of the release that a test may damage; what it was made from is found from there, too."""
    shutil.copytree(release, tmp_path / "place" / release.name)
    relative = json.loads(sources_path(release).read_text())
    sources = {
        kind: {name: str((release.parent / path).resolve()) for name, path in paths.items()}
        for kind, paths in relative.items()
    }
    sources_path(tmp_path / "place" / release.name).write_text(json.dumps(sources))
    return tmp_path / "place" / release.name


def checked(folder: Path) -> check_release.Checked:
    return check_release.Checked(folder, read_manifest(folder), check_release.read_sources(folder))


def failing(folder: Path, *names: str) -> dict[str, list[str]]:
    """Return the deviations of the gates that need no server, by name; names: only these."""
    outcomes = {
        name: check_release.outcome_of(gate, checked(folder))
        for name, gate in GATES.items()
        if not names or name in names
    }
    return {name: outcome.deviations for name, outcome in outcomes.items() if outcome.deviations}


def reseal(folder: Path, **changes: object) -> None:
    """Write the manifest anew after a change, as who edits a folder with care would."""
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    for name in manifest["files"]:
        manifest["files"][name] = {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_all_that_holds_is_said_line_by_line(release, script):
    done = script("check_release.py", release)
    verdicts = {
        line[7:].split(":")[0]: line[:5] for line in done.stdout.splitlines() if line[:5] in ("holds", "FAILS", "n/a  ")
    }
    assert list(verdicts) == [*GATES, "sidecars", "template", "answer"]
    assert set(verdicts.values()) == {"holds"}, done.stdout
    assert (
        "named: Q6_K costs more than Q4_K_M, which is no larger, beyond the error, by quantisation and total loss."
        in done.stdout
    )
    assert "Q8_0 costs" not in done.stdout and "**In-sample:** 4 of the 4" in done.stdout
    assert 'loaded by llama-server, which answers "' in done.stdout
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == f"{release}: all of 13 checks hold, 0 do not apply"


def test_a_split_file_and_a_checkpoint_pass_the_gates(pruned_demo, tmp_path):
    metadata = pruned_demo / "checkpoint/expert_drop_metadata.json"
    common = ["--name", NAME, "--base", "google/gemma-4-26B-A4B-it", "--metadata", metadata, "--questions", *QUESTIONS]
    build_release.main(
        [
            str(part)
            for part in (
                *common,
                "--gguf",
                pruned_demo / f"{NAME}-CD-Q4_K_M.gguf",
                "--kind",
                "dynamic",
                "--template",
                REPO / "modelfiles/gemma4.template",
                "--params",
                REPO / "modelfiles/gemma4.params.json",
                "--max-file-bytes",
                3_000_000,
                "--output",
                tmp_path / "parts",
            )
        ]
    )
    build_release.main(
        [
            str(part)
            for part in (*common, "--kind", "checkpoint", "--checkpoint", metadata.parent, "--output", tmp_path / NAME)
        ]
    )
    assert not failing(tmp_path / "parts") and not failing(tmp_path / NAME)
    check_release.main([str(tmp_path / NAME)])
    (tmp_path / NAME / "config.json").write_text("{}")
    assert list(failing(tmp_path / NAME)) == ["files", "build"]
    part = sorted((tmp_path / "parts").glob("*-00002-of-*.gguf"))[0]
    part.unlink()
    assert {"files", "records"} <= failing(tmp_path / "parts").keys()


@pytest.mark.parametrize("name", ["README.md", f"{NAME}-Q6_K.gguf", "template"])
def test_a_file_edited_by_hand_fails(copy, name):
    with open(copy / name, "r+b") as file:
        file.seek(-2, 2)
        file.write(b"!")
    assert failing(copy, "files")["files"] == [
        line for line in failing(copy, "files")["files"] if line.startswith(f"{copy / name}: expected sha256")
    ]
    assert len(failing(copy, "files")["files"]) == 1


def test_files_too_many_or_too_few_fail(copy, script, refused):
    (copy / "notes.txt").write_text("x")
    (copy / "params").unlink()
    state = copy / ".cache/huggingface/upload"
    state.mkdir(parents=True)
    (state / "x.metadata").write_text("what an upload keeps is not published")
    assert [line.split(": expected")[0] for line in failing(copy, "files")["files"]] == [
        str(copy / "notes.txt"),
        str(copy / "params"),
    ]
    done = script("check_release.py", copy)
    refused(done, copy, "all of 13 checks to hold", "4 that fail: files, build, made, sidecars")
    assert "FAILS  files:" in done.stdout and "holds  template:" in done.stdout
    (copy / "link").symlink_to(copy / "template")
    assert "a symbolic link" in failing(copy, "files")["files"][0]


def test_a_manifest_of_another_build_fails(copy, script, refused):
    manifest = read_manifest(copy)
    record = manifest["records"][f"{NAME}-Q6_K.gguf"]
    reseal(copy, records={**manifest["records"], f"{NAME}-Q6_K.gguf": {**record, "source_sha256": "1" * 64}})
    assert "it is of another build" in failing(copy)["build"][0] and f"{NAME}-Q6_K.gguf" in failing(copy)["build"][0]
    reseal(copy, records=manifest["records"], repository="other-GGUF")
    assert failing(copy, "files") == {
        "files": [f"{copy / 'manifest.json'}: expected the manifest of {copy.name}, found that of other-GGUF"]
    }
    reseal(copy, repository=copy.name)
    (copy / "expert_drop_metadata.json").write_text((copy / "expert_drop_metadata.json").read_text() + " ")
    reseal(copy)
    assert list(failing(copy)) == ["build"]
    sources_path(copy).write_text(json.dumps({"records": []}))
    refused(script("check_release.py", copy), sources_path(copy), "'records'")
    sources_path(copy).unlink()
    refused(script("check_release.py", copy), sources_path(copy), "found nothing")


@pytest.mark.parametrize(
    "name, old, new, gate",
    [
        ("README.md", "1/4 = 25.00%", "4/4 = 100.00%", "made"),
        ("README.md", "license: gemma", "license: mit", "made"),
        ("scores.json", '"raw_correct": 1', '"raw_correct": 3', "build"),
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
        ("{}", "with 'name'"),
        ({"kind": "other"}, "a kind among"),
        ({"files": {"../x": {"bytes": 1, "sha256": "0"}}}, "every entry of 'files'"),
        ({"files": {"x": {"bytes": 1, "sha256": "0"}}}, "every entry of 'files'"),
        ({"records": {"x": {"bytes": 1, "sha256": "0" * 64}}}, "a record of each quant"),
    ],
)
def test_a_manifest_that_is_none_ends_in_one_line(copy, script, refused, content, words):
    path = copy / "manifest.json"
    path.write_text(content if isinstance(content, str) else json.dumps(json.loads(path.read_text()) | content))
    refused(script("check_release.py", copy), path, words)


def test_a_folder_that_is_none_ends_in_one_line(script, refused, tmp_path):
    refused(script("check_release.py", tmp_path / "nothing"), tmp_path / "nothing", "a release folder")
    refused(script("check_release.py", tmp_path), "manifest.json", "found nothing")


def test_types_other_than_the_records_fail(copy):
    shutil.copyfile(copy / f"{NAME}-Q4_K_M.gguf", copy / f"{NAME}-Q6_K.gguf.new")
    (copy / f"{NAME}-Q6_K.gguf.new").replace(copy / f"{NAME}-Q6_K.gguf")
    reseal(copy)
    lines = failing(copy, "records")["records"]
    assert [line.split("expected ")[1].split(" ")[0] for line in lines] == ["tensors", "sha256", "bytes"]
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


def test_order_by_hand(copy):
    records = {
        name: {"type": name, "bytes": size, "sha256": name}
        for name, size in (
            ("Q8_0", 90),
            ("Q6_K_L", 70),
            ("Q6_K", 71),
            ("Q4_K_S", 40),
            ("Q4_1", 45),
            ("Q3_K_XL", 35),
            ("Q3_K_L", 34),
        )
    }
    assert must_exceed(records) == [("Q6_K_L", "Q6_K", False), ("Q3_K_XL", "Q3_K_L", True)]
    assert size_exceptions(records) == [
        "Q6_K is larger than Q6_K_L, the name before it.",
        "Q4_1 is larger than Q4_K_S, the name before it.",
    ]
    found = {
        "conclusions": {"quantisation": {"dominated": DOMINATED}, "total": {"dominated": {}}},
        "files": [{"sha256": name, "label": name} for name in ("Q8_0", "Q6_K")],
    }
    assert exceptions(records, found)[2:] == [
        "Q6_K costs more than Q4_K_M (not in this repository), which is no larger, beyond the error, by quantisation loss."
    ]
    manifest = read_manifest(copy)
    manifest["records"][f"{NAME}-Q6_K_L.gguf"]["bytes"] = 1
    reseal(copy, records=manifest["records"])
    assert any("expected Q6_K_L to be larger than Q6_K" in line for line in failing(copy, "order")["order"])


@pytest.mark.parametrize(
    "gate, words", [("order", "Q6_K costs more than Q4_K_M"), ("in-sample", "**In-sample:** 4 of the 4")]
)
def test_what_the_card_must_say_it_must_say(copy, gate, words):
    card = (copy / "README.md").read_text()
    assert words in card and not failing(copy, gate)
    (copy / "README.md").write_text(card.replace(words, "all is well"))
    reseal(copy)
    assert words in failing(copy)[gate][0] and set(failing(copy)) == {gate, "made"}


def test_another_models_in_sample_score_must_be_labelled_too(copy):
    scores = json.loads((copy / "scores.json").read_text())
    scores["rows"][0]["in_sample"] = {"chosen_on": 4, "scored_and_chosen_on": 3}
    (copy / "scores.json").write_text(json.dumps(scores))
    assert (
        "3 of the 4 scored questions also chose the experts of gemma-4-demo."
        in failing(copy, "in-sample")["in-sample"][0]
    )


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
    import csv

    with open(QUESTIONS[0], newline="") as file:
        row = max(csv.DictReader(file), key=lambda row: len(row["Question"]))
    with open(copy / "template", "a") as file:
        file.write(text or row["Question"])
    reseal(copy)
    lines = failing(copy)[gate]
    assert len(lines) == 1 and lines[0].startswith("template: expected no") and "aB3" not in lines[0]
    assert list(failing(copy)) == ["build", gate] and (text or "found that of demo" in lines[0])


def test_without_questions_the_release_is_not_said_to_hold(copy):
    def outcome_with(questions: dict[str, Path]) -> check_release.Outcome:
        return check_release.outcome_of(
            GATES["questions"], check_release.Checked(copy, read_manifest(copy), {"questions": questions})
        )

    assert "expected question files to compare with" in outcome_with({}).deviations[0]
    outcome = outcome_with({"0": copy / "gone.csv"})
    assert "gone.csv: expected a question file" in outcome.deviations[0]


def running(folder: Path, name: str) -> list[str]:
    gates = check_release.running_gates(check_release.find_llama_cpp(None), 0)
    return check_release.outcome_of(gates[name], checked(folder)).deviations


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda folder: (folder / "params").unlink(), "params: expected Ollama's params, found nothing"),
        (lambda folder: (folder / "Modelfile").unlink(), "Modelfile: expected Ollama's Modelfile, found nothing"),
        (
            lambda folder: (folder / "params").write_text(
                (folder / "params").read_text().replace("<turn|>", "<turn_over>")
            ),
            "<turn_over>",
        ),
        (
            lambda folder: (folder / "params").write_text((folder / "params").read_text().replace("4096", "8192")),
            "8192",
        ),
        (
            lambda folder: (folder / "Modelfile").write_text("FROM ./gone.gguf\nRENDERER gemma4\nPARSER gemma4\n"),
            "found gone.gguf",
        ),
        (
            lambda folder: (folder / "Modelfile").write_text(f"FROM ./{NAME}-Q8_0.gguf\nRENDERER gemma4\n"),
            "'PARSER gemma4'",
        ),
    ],
)
def test_sidecars_are_checked(copy, damage: Callable[[Path], object], words):
    assert running(copy, "sidecars") == []
    damage(copy)
    assert len(running(copy, "sidecars")) == 1 and words in running(copy, "sidecars")[0]


def test_a_template_edited_or_gone_fails_its_gate(copy):
    (copy / "template").write_text((copy / "template").read_text().replace("<|tool>", "<|tools>"))
    assert "the Ollama template 's>declaration" in running(copy, "template")[0]
    (copy / "template").unlink()
    assert running(copy, "template") == [f"{copy / 'template'}: expected Ollama's template, found nothing"]


def test_a_file_that_does_not_load_fails(copy):
    gguf = smallest(checked(copy))
    data = gguf.read_bytes()
    gguf.unlink()
    gguf.write_bytes(data.replace(b"gemma4.block_count", b"gemma4.block_cound"))
    assert "a model that llama-server loads" in running(copy, "answer")[0]


def test_many_deviations_are_cut_and_a_broken_form_is_one_line(copy):
    outcome = check_release.Outcome("x", [f"line {i}" for i in range(25)])
    assert len(check_release.lines_of("files", outcome)) == 22 and check_release.lines_of("files", outcome)[
        -1
    ].endswith("and 5 more")
    (copy / "scores.json").write_text(
        json.dumps({**json.loads((copy / "scores.json").read_text()), "question_ids": [[]]})
    )
    assert (
        "expected files as build_release.py writes them, found TypeError" in failing(copy, "in-sample")["in-sample"][0]
    )


def test_the_rules_of_names_are_those_of_the_gate(release):
    quants = {part: record["type"] for record in read_manifest(release)["records"].values() for part in record["files"]}
    assert not clashes(quants)
    with pytest.raises(InputError):
        read_manifest(release / "template")
