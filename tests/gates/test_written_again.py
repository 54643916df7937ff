"""What only a header or a record says is held against what the build's own tools write: each damage in one line."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import build_release
import gates.written_again
import quantize_gguf
from calls import call
from chats.questions import QUESTION_SEED, load_questions, question_set_digest
from chats.texts_again import texts_digest
from choice.drop_metadata import METADATA_NAME
from conftest import DEMO
from files.input_errors import InputError, sha256_file
from files.json_records import read_json
from gates.checked import Checked
from gates.shards_gate import shard_breaks
from gates.written_again import against_header, sensitivity_text_breaks, written_again
from ggufs.gguf_header import GgufHeader, header_bytes, key_value, read_header
from llama.llama_tools import find_llama_cpp
from makers.damaged_build import Build
from makers.pruned_models import BASE, NAME
from makers.release_inputs import SIDECARS, origins_of
from release.manifest import read_manifest
from release.sources import read_sources

import pytest

Q6_K = f"{NAME}-Q6_K.gguf"


@pytest.fixture(scope="module")
def own(pruned_demo, tmp_path_factory) -> GgufHeader:
    """The header of the demo's pruned F16 file, written again: no damage here changes the checkpoint."""
    folder = tmp_path_factory.mktemp("again")
    lineage = Build(pruned_demo, folder / "build").checked.lineage
    return written_again(lineage, find_llama_cpp(None))


def lines_of(checked: Checked, own: GgufHeader, folder: Path) -> list[str]:
    return against_header(checked, find_llama_cpp(None), own, folder).deviations


def test_a_header_is_written_once_for_all_folders_of_a_call(build, monkeypatch):
    made: list[tuple] = []
    monkeypatch.setattr(gates.written_again, "from_checkpoint", lambda *given: made.append(given))
    checkpoint, tools = build.metadata.parent, find_llama_cpp(None)
    for _ in range(2):
        written_again(build.checked.lineage, tools)
    assert [given[0] for given in made] == [checkpoint]
    build.change(checkpoint / "config.json", lambda config: config.update(edited=True))
    written_again(build.checked.lineage, tools)
    assert len(made) == 2


def of_record(path: str, **changes: object) -> Callable[[Build], None]:
    """Change a record of the pruned build, or one beside the scores."""

    def damage(build: Build) -> None:
        place = build.pruned / path
        build.change(place if place.exists() else build.evidence / path, lambda record: record.update(changes))

    return damage


def of_header(build: Build) -> None:
    """Other values, and one more, in the header of a quant: as someone would edit it who knows the format."""
    path, header = build.release / Q6_K, read_header(build.release / Q6_K)
    changes = {
        "general.size_label": "26x99B",
        "general.description": "99% on GPQA",
        "quantize.imatrix.chunks_count": 9999,
        "quantize.imatrix.dataset": "v5.txt",
        "general.quantization_version": 9,
    }
    pairs = {pair.key: pair.raw for pair in header.key_values}
    pairs |= {key: key_value(key, value) for key, value in changes.items()}
    data = path.read_bytes()[min(tensor.offset for tensor in header.tensors) :]
    plans = [(tensor.name, tensor.dims, tensor.kind) for tensor in header.tensors]
    path.unlink()
    path.write_bytes(header_bytes(header, list(pairs.values()), plans) + data)


def of_gone_file(build: Build) -> None:
    """Twice the size for the full model's scored file, which is not there."""
    path = build.evidence / "gemma-4-demo-Q6_K.gguf.json"
    names = ("bytes", "bits_per_weight")
    build.change(path, lambda record: record.update({name: 2 * record[name] for name in names}))


def test_what_holds_is_not_refused(build, own, tmp_path):
    assert not lines_of(build.checked, own, tmp_path)


@pytest.mark.parametrize(
    "damages, every_word",
    [
        (
            [of_header],
            [
                "to write general.size_label, found another value",
                "expected no general.description, found one",
                "to write quantize.imatrix.chunks_count, found another",
                "to write quantize.imatrix.dataset, found another",
                "general.quantization_version",
            ],
        ),
        (
            [
                of_record("F16.gguf.json", bytes=1, outtype="bf16", parameters=None, bits_per_weight=None),
                of_record("full-F16.gguf.json", outtype="f32"),
                of_record(f"{Q6_K}.json", tensors_per_type={"Q6_K": 99}),
                of_record("imatrix.gguf.json", bytes=1, context=1024, calibration="calibration_datav5.txt"),
                of_gone_file,
            ],
            [
                "F16.gguf.json: expected bytes of a conversion:",
                "/F16.gguf.json: expected the type of the file: f16, found bf16",
                "full-F16.gguf.json: expected the type of the file: f16, found f32",
                "gemma-4-demo-Q6_K.gguf.json: expected bytes, as llama-quantize plans the file:",
                f"{Q6_K}.json: expected tensors per type:",
                "imatrix.gguf.json: expected bytes:",
                "expected tokens per chunk: 512, found 1024",
                "expected the text: ['text.txt']",
            ],
        ),
        (
            [of_record("F16.gguf.json", sha256="4" * 64), of_record("full-F16.gguf.json", sha256="4" * 64)],
            ["/F16.gguf.json: expected the file's sha256", "full-F16.gguf.json: expected the file's sha256"],
        ),
    ],
)
def test_headers_and_records_are_what_the_tools_write(build, own, tmp_path, damages, every_word):
    for damage in damages:
        damage(build)
    found = lines_of(build.checked, own, tmp_path)
    assert not [words for words in every_word if not any(words in line for line in found)], found


@pytest.mark.parametrize(
    "changes, words",
    [
        ({}, ""),
        ({"questions_sha256": "4" * 64}, "the first 3 chats of a question file of the build"),
        ({"texts_sha256": "4" * 64}, "chats by the checkpoint's tokenizer and chat template, sha256"),
        (
            {"max_tokens": 50},
            "chats of so many tokens at most: 4096, found 50; measure again: make quants REPLACE=auto",
        ),
    ],
)
def test_sensitivities_are_over_the_chats_of_this_build(build, changes, words):
    questions = load_questions(DEMO / "calibration_questions.csv", QUESTION_SEED)[:3]
    inputs = {"chats": 3, "questions_sha256": question_set_digest(questions)}
    inputs |= {"texts_sha256": texts_digest(DEMO / "model", questions)} | changes
    found = [str(error) for error in sensitivity_text_breaks(build.checked.lineage, Path("sensitivity.json"), inputs)]
    assert any(words in line for line in found) if words else not found, found


@pytest.fixture(scope="module")
def dynamic(pruned_demo, tmp_path_factory) -> Path:
    """A release of the demo's CD file, whose tiers were given by hand, and of a padded file."""
    folder = tmp_path_factory.mktemp("dynamic") / f"{NAME}-dynamic-GGUF"
    padded = folder.parent / f"{NAME}-PAD-IQ2_XXS.gguf"
    source = ["--input", pruned_demo / "F16.gguf", "--imatrix", pruned_demo / "imatrix.gguf"]
    call(quantize_gguf.main, *source, "--type", "PAD-IQ2_XXS", "--output", padded)
    metadata = pruned_demo / "checkpoint" / METADATA_NAME
    common = ["--name", NAME, "--base", BASE, "--metadata", metadata, *origins_of(pruned_demo, ())]
    gguf = ["--kind", "dynamic", "--gguf", pruned_demo / f"{NAME}-CD-Q4_K_M.gguf", padded, *SIDECARS]
    call(build_release.main, *common, *gguf, "--settings", "CD_TIERS=2/1/0", "CD_CUTS=1/3,1/2", "--output", folder)
    return folder


@pytest.mark.parametrize(
    "settings, record, words",
    [
        ({}, {}, ""),
        ({}, {"cd_scope": "experts"}, "cd_scope: all, found experts"),
        ({}, {"cd_recipe": "card"}, "cd_recipe: ours, found card"),
        ({}, {"cd_stats_sha256": "4" * 64}, "found 444444444444"),  # other ones can give the same tiers
        ({}, {"note": "layers at Q8_0"}, "the note"),
        ({"CD_SCOPE": "experts"}, {}, "cd_scope: experts, found all"),
        ({"CD_TIERS": "1/0/2"}, {}, "the types that its recipe gives:"),
        ({"CD_RECIPE": "magic"}, {}, "values that quantize_gguf.py takes"),
    ],
)
def test_the_tiers_of_cd_files_come_out_again(dynamic, own, tmp_path, settings, record, words):
    manifest, sources = read_manifest(dynamic), read_sources(dynamic)
    of_cd = {name: value for name, value in manifest["settings"].items() if name.startswith("CD_")}
    # As the file's record has it, whatever was said.
    assert of_cd == {"CD_TIERS": "0/1/2", "CD_RECIPE": "ours", "CD_SCOPE": "all"}
    manifest["settings"] |= settings
    manifest["records"][f"{NAME}-CD-Q4_K_M.gguf"] |= record
    statistics = sources["origins"]["statistics"]
    assert statistics.is_file()
    try:
        found = lines_of(Checked(dynamic, manifest, sources), own, tmp_path)
    except InputError as error:
        found = [str(error)]
    assert any(words in line for line in found) if words else not found, found


def test_a_file_that_is_not_in_the_release_is_read_too(build):
    assert not build.failing("digests")
    path = build.pruned / f"{NAME}-CD-Q4_K_M.gguf"
    sources = build.release.with_name(f"{build.release.name}.sources.json")
    build.change(sources, lambda content: content["quants"].update({"9": str(path.with_name(f"{path.name}.json"))}))
    assert not build.failing("digests")
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (line,) = build.failing("digests")
    assert f"{path}: expected the file with sha256" in line


def edit_shard(folder: Path, change: Callable[[dict], object]) -> dict[str, str]:
    """Change the header of the first shard, and the digest in the metadata with it; return the digests."""
    path = sorted(folder.glob("*.safetensors"))[0]
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.unlink()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    metadata = read_json(folder / METADATA_NAME)
    metadata["shards"][path.name] = sha256_file(path)
    (folder / METADATA_NAME).unlink()
    (folder / METADATA_NAME).write_text(json.dumps(metadata))
    return metadata["shards"]


def test_a_shard_s_header_and_the_index_are_the_drop_s_own(build):
    folder, source = build.metadata.parent, DEMO / "model"
    digests = read_json(build.metadata)["shards"]
    assert not shard_breaks(folder, digests, source)
    index = folder / "model.safetensors.index.json"
    build.change(index, lambda content: content["metadata"].update(total_size=1))
    assert "total_size" in str(shard_breaks(folder, digests, source)[0])
    build.change(index, lambda content: content["metadata"].update(total_size=1, gpqa="99%"))
    assert len(shard_breaks(folder, digests, source)) == 1
    edited = edit_shard(folder, lambda header: header["__metadata__"].update(gpqa="99%"))
    assert "the header that the drop writes" in str(shard_breaks(folder, edited, source)[0])
