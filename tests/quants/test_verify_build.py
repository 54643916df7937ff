"""Verifying a build: every file whole, of one source and one build of the tools, and nobody at work on it."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import verify_build
from files.host_locks import LOCKS, new_holder
from files.safe_files import host_digest, partial_file
from files.seals import MARKER
from llama.llama_tools import LlamaCpp
from makers.pruned_models import NAME, STANDARD_QUANTS
from quants.quant_record import of_other_builds, record_path

import pytest

OTHER = "f" * 64
USUAL = "a" * 64


@pytest.fixture
def build(pruned_demo, tmp_path) -> Path:
    """A build folder with links to the pruned demo's large files, and copies of what a test may change."""
    (tmp_path / MARKER).touch()
    (tmp_path / "checkpoint").symlink_to(pruned_demo / "checkpoint")
    for path in pruned_demo.iterdir():
        if path.suffix == ".json":
            shutil.copy2(path, tmp_path)
        elif path.suffix == ".gguf":
            (tmp_path / path.name).symlink_to(path)
    return tmp_path


def quant(build: Path, name: str) -> Path:
    return build / f"{NAME}-{name}.gguf"


def arguments(build: Path) -> list[object]:
    quants = [quant(build, name) for name in STANDARD_QUANTS]
    known = ["--build", build, "--checkpoint", build / "checkpoint", "--f16", build / "F16.gguf"]
    return [*known, "--imatrix", build / "imatrix.gguf", "--quants", *quants]


def edit(path: Path, **values: object) -> None:
    record = record_path(path)
    record.write_text(json.dumps({**json.loads(record.read_text()), **values}))


def test_a_whole_build_passes_also_without_its_f16_file(build, tools, capsys):
    verify_build.main(list(map(str, arguments(build))))
    shown = capsys.readouterr().out.splitlines()
    assert all(line.startswith("pass  ") for line in shown[:-1]) and len(shown) == len(STANDARD_QUANTS) + 3
    assert shown[-1] == (
        f"{build}: {len(STANDARD_QUANTS) + 2} files are whole, of one source and one build of llama.cpp "
        f"({tools.digest()[:12]})"
    )
    (build / "F16.gguf").unlink()
    quant(build, "F16").unlink()
    verify_build.main([word for word in map(str, arguments(build)) if word != str(quant(build, "F16"))])


def test_what_is_wrong_is_named_file_by_file(build, refusal, capsys):
    quant(build, "Q8_0").unlink()
    quant(build, "Q6_K").unlink()
    quant(build, "Q6_K").write_bytes(b"other bytes")
    edit(quant(build, "Q4_K_M"), imatrix_sha256=OTHER)
    edit(quant(build, "Q6_K_L"), source_sha256=OTHER, tools_sha256=OTHER)
    partial_file(quant(build, "Q8_0")).touch()
    (build / LOCKS).mkdir()
    holder = replace(new_holder(), host=host_digest("node-b"), place="another kernel")
    (build / LOCKS / "x.lock").write_text(json.dumps(asdict(holder)))
    refusal(verify_build.main, arguments(build), build, "4 files that fail")
    shown = capsys.readouterr().out
    for words in (
        f"{quant(build, 'Q8_0')}: expected a GGUF file, found nothing",
        f"{quant(build, 'Q6_K')}: expected the file of its record",
        f"{quant(build, 'Q4_K_M')}: expected the imatrix ",
        f"{quant(build, 'Q6_K_L')}: expected a quant of the F16 file ",
        "x.lock: expected no host at work, found host 91d267d1 (pid ",
        f"{partial_file(quant(build, 'Q8_0'))}: expected no half file",
    ):
        assert words in shown, shown
    assert f"pass  {build / 'imatrix.gguf'}" in shown


def test_another_build_of_the_tools_is_named_and_a_link_to_the_f16_has_none():
    digests = {"sha256": "1" * 64, "source_sha256": "f" * 64}
    records = {name: digests | {"base": name, "tools_sha256": USUAL} for name in ("Q8_0", "Q6_K", "Q4_K_M")}
    records["F16"] = digests | {"base": "F16", "tools_sha256": None}
    records["AUTO-9"] = {"base": "Q8_0", "tools_sha256": None} | dict.fromkeys(digests, "f" * 64)  # the F16 file itself
    assert of_other_builds(records) == [] == of_other_builds({})
    records["Q6_K"] |= {"tools_sha256": OTHER}
    records["Q4_0"] = digests | {"base": "Q4_0"}  # of a time when records named no build
    lines = [str(error) for error in of_other_builds(records)]
    assert [line.partition(":")[0] for line in lines] == ["Q6_K", "Q4_0"]
    assert f"({USUAL[:12]}), found {OTHER[:12]}; give every host the same LLAMA_CPP" in lines[0]
    assert "found not recorded" in lines[1]


def test_the_digest_of_a_build_is_of_its_tools_and_libraries(tmp_path, tools):
    assert tools.digest() == tools.digest()
    for name in ("llama-quantize", "libggml.so", "llama-server"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(name)
    first = LlamaCpp(tmp_path).digest()
    (tmp_path / "bin/llama-cli").write_text("it makes nothing that is published")
    assert LlamaCpp(tmp_path).digest() == first
    (tmp_path / "bin/libggml.so").write_text("other kernels")
    assert LlamaCpp(tmp_path).digest() != first
