"""A release that sees: its gates pass, damage fails them, llama.cpp's own programs answer about a picture."""

import json
import shutil
import subprocess
from pathlib import Path

import build_release
import check_release
import convert_to_gguf
import quantize_gguf
from calls import call
from cards.front_matter import check_front_matter
from cards.sight_card import fetched_in_words
from checkpoints.checkpoint import read_config
from conftest import DEMO
from files.input_errors import sha256_file
from files.seals import MARKER
from gates.running_gates import smallest
from gates.sight_gate import picture_gate, picture_png, sight_gate
from ggufs.mmproj import mmproj_name
from ggufs.sibling_choice import draft_pick, mmproj_pick, type_number
from makers.made_up_evidence import QUESTIONS
from makers.multimodal_twin import write_twin
from makers.pruned_models import NAME
from makers.release_copies import change_json, checked
from makers.release_inputs import SIDECARS, release_arguments
from makers.seeing_model import TYPES, make_mmproj_of, seeing_model
from quants.quant_record import record_path
from release.manifest import MANIFEST, STANDARD

import pytest


@pytest.fixture(scope="module")
def seeing(tmp_path_factory) -> Path:
    return seeing_model(tmp_path_factory)


@pytest.fixture(scope="module")
def release(seeing, tmp_path_factory) -> Path:
    """A release of the pruned twin's Q4_K_M with its files for pictures."""
    folder = tmp_path_factory.mktemp("release") / f"{NAME}-GGUF"
    (folder.parent / MARKER).touch()
    model = folder.with_name(f"{NAME}-Q4_K_M.gguf")
    call(quantize_gguf.main, "--input", seeing / "F16.gguf", "--type", "Q4_K_M", "--output", model)
    call(build_release.main, *twin_arguments(seeing, model, folder))
    return folder


def twin_arguments(seeing: Path, model: Path, output: Path, others: dict[str, Path] | None = None) -> list[object]:
    """Return the arguments of build_release.py for a quant of the pruned twin and its files for pictures.

    others: by name, files in the place of these.
    """
    names = [mmproj_name(NAME, kind) for kind in TYPES]
    pictures = [word for name in names for word in ("--mmproj", (others or {}).get(name, seeing / name))]
    made_of = ["--metadata", seeing / "pruned/expert_drop_metadata.json", "--map", seeing / "plain.json"]
    made_of += ["--source", seeing / "twin", "--f16", seeing / "F16.gguf.json", "--questions", *QUESTIONS]
    named = ["--name", NAME, "--base", "gemma-4-demo-twin", "--output", output]
    return ["--gguf", model, *named, *made_of, *pictures, *SIDECARS]


@pytest.fixture(scope="module")
def another(tmp_path_factory) -> Path:
    """Another random tower that fits in width, converted under this model's name."""
    folder = tmp_path_factory.mktemp("another")
    make_mmproj_of(write_twin(DEMO / "model", folder / "twin", seed=1), folder / mmproj_name(NAME, "F16"), "F16")
    return folder / mmproj_name(NAME, "F16")


def test_a_file_for_pictures_of_another_model_is_refused(seeing, release, another, pruned_demo, tmp_path, refusal):
    """The card says that it is the base model's own tower."""
    path, output = another, tmp_path / "out"
    model = release.with_name(f"{NAME}-Q4_K_M.gguf")
    arguments = twin_arguments(seeing, model, output, {path.name: path})
    refusal(build_release.main, arguments, record_path(path), "expected a file of this checkpoint's towers, sha256")
    of_text = release_arguments(pruned_demo, output, "--mmproj", path, quants=("Q4_K_M",))
    refusal(build_release.main, of_text, record_path(path), "expected no file for pictures of a text-only model")
    assert not output.exists()


def test_a_release_with_the_tower_of_another_model_fails(copied, another):
    found = checked(copied)
    found.sources["copies"][another.name] = another
    assert any("this checkpoint's towers" in line for line in sight_gate(found).deviations)


def test_a_release_that_sees_passes_and_answers_about_a_picture(release, capsys):
    call(check_release.main, release)
    shown = capsys.readouterr().out
    assert "pass  sight: 2 files for pictures" in shown
    assert f"with {mmproj_name(NAME, 'Q8_0')} loaded by llama-server, which says of a picture" in shown
    assert check_front_matter(release / "README.md", STANDARD)["pipeline_tag"] == "image-text-to-text"
    assert f"--mmproj {mmproj_name(NAME, 'Q8_0')}" in (release / "README.md").read_text()


def test_llama_mtmd_cli_answers_about_a_picture(release, tools, tmp_path):
    (tmp_path / "picture.png").write_bytes(picture_png())
    files = ["-m", release / f"{NAME}-Q4_K_M.gguf", "--mmproj", release / mmproj_name(NAME, "F16")]
    asked = [
        "--image",
        tmp_path / "picture.png",
        "-p",
        "What is in this picture?",
        "--jinja",
        "-n",
        "16",
        "--temp",
        "0",
    ]
    command = [tools.tool("llama-mtmd-cli"), *files, *asked, "-c", "2048"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() and "encoding" in done.stderr


def test_a_release_of_text_alone_needs_nothing(pruned_demo, tmp_path, tools):
    folder = tmp_path / f"{NAME}-GGUF"
    call(build_release.main, *release_arguments(pruned_demo, folder, quants=("Q4_K_M",)))
    assert not sight_gate(checked(folder)).applies and not picture_gate(checked(folder), smallest, tools, 0).applies
    assert check_front_matter(folder / "README.md", STANDARD)["pipeline_tag"] == "text-generation"
    assert "mmproj" not in (folder / MANIFEST).read_text()


def change_record(folder: Path, name: str, **values: object) -> None:
    """Change some values of the manifest's record of a file for pictures."""
    records = json.loads((folder / MANIFEST).read_text())["mmproj"]
    change_json(folder / MANIFEST, mmproj={**records, name: records[name] | values})


def test_a_file_of_another_model_is_found(copied):
    name = mmproj_name(NAME, "F16")
    change_record(copied, name, projection_width=2816)
    (line,) = [line for line in sight_gate(checked(copied)).deviations if "embeddings as wide" in line]
    assert line.endswith(f"expected embeddings as wide as those of {NAME}-Q4_K_M.gguf 256, found 2816")


def test_a_file_without_a_record_and_a_record_without_a_file_are_found(copied):
    records = json.loads((copied / MANIFEST).read_text())["mmproj"]
    name = mmproj_name(NAME, "F16")
    change_json(copied / MANIFEST, mmproj={other: record for other, record in records.items() if other != name})
    assert f"{copied / name}: expected a file and its record, found no record" in sight_gate(checked(copied)).deviations
    change_json(copied / MANIFEST, mmproj=records | {"mmproj-other.gguf": records[name]})
    assert any("mmproj-other.gguf: expected a file" in line for line in sight_gate(checked(copied)).deviations)


def test_other_bytes_than_the_record_s_are_found(copied):
    name = mmproj_name(NAME, "Q8_0")
    path = copied / name
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.unlink()  # it is a link to the build's
    path.write_bytes(data)
    files = json.loads((copied / MANIFEST).read_text())["files"]
    change_json(copied / MANIFEST, files=files | {name: {"bytes": len(data), "sha256": sha256_file(path)}})
    assert any("expected sha256" in line for line in sight_gate(checked(copied)).deviations)


def test_a_file_that_is_not_of_its_record_is_not_released(seeing, release, tmp_path, refusal):
    path = tmp_path / mmproj_name(NAME, "F16")
    path.write_bytes((seeing / path.name).read_bytes()[:-1])
    shutil.copy(record_path(seeing / path.name), record_path(path))
    model = release.with_name(f"{NAME}-Q4_K_M.gguf")
    arguments = twin_arguments(seeing, model, tmp_path / "out", {path.name: path})
    refusal(build_release.main, arguments, path, "expected the file of its record")


def test_a_checkpoint_that_sees_has_the_tag_of_pictures(seeing, tmp_path):
    assert read_config(seeing / "pruned")["vision_config"]
    folder = tmp_path / NAME
    metadata = ["--metadata", seeing / "pruned/expert_drop_metadata.json"]
    named = ["--kind", "checkpoint", "--name", NAME, "--base", "gemma-4-demo-twin"]
    f16 = tmp_path / "F16.gguf"
    call(convert_to_gguf.main, "--model", seeing / "pruned", "--name", NAME, "--output", f16)
    named += ["--map", seeing / "plain.json", "--f16", record_path(f16), "--source", seeing / "twin"]
    call(build_release.main, *named, "--checkpoint", seeing / "pruned", *metadata, "--output", folder)
    assert check_front_matter(folder / "README.md", "checkpoint")["pipeline_tag"] == "image-text-to-text"
    card = (folder / "README.md").read_text()
    assert "\nlicense: cc0-1.0\n" in card  # of the base's own card
    # Its count of parameters is not that of the GGUF repositories.
    assert "takes in pictures with, byte for byte. The parameters above count it." in card


@pytest.mark.parametrize(
    "path, number",
    [("m-Q4_K_M.gguf", 4), ("mmproj-m-F16.gguf", 16), ("m-IQ3_XXS-00001-of-00002.gguf", 3), ("m.gguf", 0)],
)
def test_the_number_of_a_type(path, number):
    assert type_number(path) == number


def test_the_card_names_the_file_for_pictures_that_hf_takes():
    models = ["m-F16.gguf", "m-Q8_0.gguf", "m-Q4_K_M.gguf"]
    both = ["mmproj-m-F16.gguf", "mmproj-m-Q8_0.gguf"]
    assert fetched_in_words(both, models) == "`mmproj-m-F16.gguf` for m-F16.gguf, `mmproj-m-Q8_0.gguf` for all others"
    assert fetched_in_words(both[:1], models) == "`mmproj-m-F16.gguf` for every file of this repository"


def test_the_file_for_pictures_that_hf_takes_is_the_nearest_by_type_and_folder():
    both = ["mmproj-m-F16.gguf", "mmproj-m-Q8_0.gguf"]
    for model in ("m-Q4_K_M.gguf", "m-Q8_0.gguf", "m-IQ2_XS.gguf", "m-CD-Q6_K.gguf"):
        assert mmproj_pick([*both, model], model) == "mmproj-m-Q8_0.gguf"
    assert mmproj_pick(both, "m-F16.gguf") == mmproj_pick(both, "m-BF16.gguf") == "mmproj-m-F16.gguf"
    assert mmproj_pick(["a/mmproj-F16.gguf", "mmproj-Q8_0.gguf"], "a/m-Q4_K_M.gguf") == "a/mmproj-F16.gguf"
    assert mmproj_pick(["b/mmproj-F16.gguf"], "a/m-Q4_K_M.gguf") is None
    assert mmproj_pick(["m-Q4_K_M.gguf"], "m-Q4_K_M.gguf") is None


def test_the_draft_model_that_hf_takes_is_the_one_with_the_tag_else_the_nearest():
    listed = ["m-Q4_K_M.gguf", "mtp-m-F16.gguf", "mtp-m-Q4_0.gguf", "mtp-m-Q8_0.gguf", "mmproj-m-Q8_0.gguf"]
    for tag, picked in (("", "Q4_0"), ("q8_0", "Q8_0"), ("Q4_K_M", "Q4_0"), ("F16", "F16"), ("IQ3_XS", "Q4_0")):
        assert draft_pick(listed, "m-Q4_K_M.gguf", tag) == f"mtp-m-{picked}.gguf", tag
    assert draft_pick(["mmproj-m-F16.gguf", "m-F16.gguf"], "m-F16.gguf", "") is None
