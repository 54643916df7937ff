"""The report page: its bytes, its opening, what it says of missing records, and what it refuses."""

import json
import os
import re
import shutil
from pathlib import Path

from browser import chromium, opened
from build_report import main
from calls import seal_all
from choice.expert_stats import read_stats
from conftest import REPO
from files.display import KIND_COLORS
from files.json_records import read_json
from files.seals import LEDGER, MARKER
from generate_drop_map import main as choose
from makers.report_pages import shared_page
from makers.synthetic_build import change, options, write_build
from page.charts import KIND_MARKERS
from page.records import read_experts

import numpy as np
import pytest


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return shared_page(tmp_path_factory)


@pytest.fixture(scope="module")
def build(report) -> Path:
    return report.parent


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


def test_the_page_is_small_and_the_same_every_time(build, report, tmp_path, script):
    assert report.stat().st_size < 5_000_000
    moved = shutil.copytree(build, tmp_path / "moved")
    (moved / "report.html").unlink()
    done = script("build_report.py", *options(moved), "--output", moved / "report.html")
    assert done.returncode == 0, done.stderr
    assert "missing" not in done.stdout and "MB" in done.stdout
    text = report.read_bytes()
    assert (moved / "report.html").read_bytes() == text
    assert str(build).encode() not in text and str(REPO).encode() not in text
    assert not [path for path in moved.iterdir() if "partial" in path.name]


def test_the_page_opens_with_what_a_reader_wants(browser, build, tmp_path):
    copied = shutil.copytree(build, tmp_path / "copied")
    full = read_json(copied / "pruned-F16.gguf.json") | {
        "sha256": "0" * 64,
        "bytes": 50_000_000_000,
        "parameters": 25_000_000_000,
    }
    (copied / "full-F16.gguf.json").write_text(json.dumps(full))
    known = {"chosen_on": 198, "scored_and_chosen_on": 12}
    change(copied / "scores.json", "rows", 1, "in_sample", value=known)
    for day, path in enumerate(sorted(copied.rglob("*.json"))):
        os.utime(path, (day * 86400, day * 86400))
    os.utime(copied / "imatrix.gguf", (5e8, 5e8))  # 1985-11-05
    os.utime(copied / "expert_stats.safetensors", (4e8, 4e8))
    flags = [*options(copied), "--full-f16", str(copied / "full-F16.gguf.json"), "--base", "the base"]
    main([*flags, "--output", str(tmp_path / "report.html")])
    pruned = read_json(copied / "scores.json")["rows"][1]
    with opened(browser, tmp_path / "report.html") as found:
        facts = dict(
            found.page.locator(".facts > div").evaluate_all(
                "all => all.map((each) => [each.querySelector('dt').textContent, each.querySelector('dd').innerText])"
            )
        )
        best = found.page.locator("[data-table=best] tbody th").all_inner_texts()
    assert facts["Base model"].startswith("the base") and "30 layers" in facts["Base model"]
    assert facts["Experts kept"].startswith("109 of 128") and "coverage over 198 questions" in facts["Experts kept"]
    assert "14.8% saved" in facts["Size, full to pruned"]  # of the scored files: 109 of 128 parts
    assert "46.57 to 37.25 GiB, 20.0% saved" in facts["Size, full to pruned"]
    low, high = (100 * limit for limit in pruned["interval"])
    assert facts["Score"].startswith(f"{100 * pruned['score']:.1f}% ({low:.1f} to {high:.1f})")
    assert "In-sample: 12 of the 198 scored questions also chose the experts of pruned" in facts["Score"]
    assert facts["Records of"].startswith("1970-01-01 to 1985-11-05") and "llama.cpp 1 (made up)" in facts["Records of"]
    files = read_json(copied / "quality.json")["files"]
    assert best == [
        entry["label"]
        for entry in files
        if not any(
            other["bytes"] <= entry["bytes"] and other["losses"]["total"]["kld"] < entry["losses"]["total"]["kld"]
            for other in files
        )
    ]


def test_a_difference_that_is_not_significant_dominates_no_file(browser, build, report):
    dominated = read_json(build / "quality.json")["conclusions"]["total"]["dominated"]
    assert {by["significant"] for by in dominated.values()} == {True, False}
    with opened(browser, report) as found:
        rows = found.page.locator("[data-table=files] tbody tr").evaluate_all(
            "rows => rows.map((row) => [row.cells[0].textContent, row.cells[7].textContent])"
        )
    for label, said in rows:
        by = dominated.get(label)
        words = "dominated by" if by and by["significant"] else "no significant difference from"
        assert said == (f"{words} {by['by']}" if by else "none has less loss")


def test_what_was_not_made_is_said_to_be_missing_and_not_filled_in(browser, build, tmp_path, capsys):
    output = tmp_path / "report.html"
    main(
        [
            "--name",
            "pruned",
            "--stats",
            str(build / "expert_stats.safetensors"),
            "--drop-map",
            str(build / "drop_map.json"),
            "--output",
            str(output),
        ]
    )
    said = capsys.readouterr().out
    assert all(f"(make {target})" in said for target in ("quality", "eval", "imatrix")) and "(make analyze)" not in said
    with opened(browser, output) as found:
        assert found.complaints == []
        for section, command in (
            ("quality", "make quality"),
            ("scores", "make eval"),
            ("questions", "make eval"),
            ("imatrix", "make imatrix"),
        ):
            assert f"Run {command} with the same RUN" in found.page.locator(f"#{section} .missing").inner_text()
            assert found.page.locator(f"#{section} :is(table, figure)").count() == 0
        assert found.page.locator("#experts .missing").count() == 0
        assert found.page.locator("#pipeline .waits").count() == 6


@pytest.fixture(scope="module")
def pristine_build(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    write_build(folder, 12, 2, 20, 16)
    return folder


@pytest.fixture
def small_build(pristine_build, tmp_path) -> Path:
    """The records of a small build, which a test may damage."""
    return Path(shutil.copytree(pristine_build, tmp_path / "small"))


@pytest.mark.parametrize(
    "file, keys, value, words",
    [
        ("drop_map.json", ("stats_sha256",), "0", ("drop_map.json", "other statistics")),
        ("drop_map.json", ("layers", "1", "drop"), [99, 98], ("drop_map.json", "layer 1")),
        ("quality.json", ("files", 0), {"label": "Q8_0"}, ("quality.json", "the field 'files.0.kind'")),
        ("pruned.json", ("answers", 0), {}, ("pruned.json", "the field 'answers.0.record_id'")),
        ("expert_drop_metadata.json", ("drop_map_sha256",), "0" * 64, ("expert_drop_metadata.json", "make drop")),
        ("pruned-F16.gguf.json", ("sha256",), "0" * 64, ("imatrix.gguf", "an imatrix of the F16 GGUF", "make imatrix")),
        ("imatrix.gguf.json", ("sha256",), "0" * 64, ("imatrix.gguf.json", "make imatrix")),
        ("quants/pruned-Q6_K.gguf.json", ("source_sha256",), "0" * 64, ("pruned-Q6_K.gguf.json", "make quants")),
        ("quants/pruned-Q4_K_M.gguf.json", ("sha256",), "e" * 64, ("quality.json", "Q4_K_M", "make quality")),
        ("quality.json", ("inputs", "pruned_sha256"), "0" * 64, ("quality.json", "make quality")),
        ("scores.json", ("rows", 1, "raw_correct"), 0, ("scores.json", "raw = raw_correct / questions")),
        ("scores.json", ("rows", 1, "experts"), 19, ("scores.json", "experts 16 of pruned", "make eval")),
        ("scores.json", ("rows", 1, "seeds"), [84], ("scores.json", "the seeds [42] of pruned", "[84]", "make eval")),
        ("scores.json", ("rows", 1, "seeds"), [-42], ("scores.json", "greater than or equal to 0")),
        ("loops.json", ("rows", 1, "gguf_sha256"), "9" * 64, ("loops.json", "pruned-Q6_K.gguf", "make loops")),
        ("loops.json", ("rows", 2, "source_sha256"), "9" * 64, ("loops.json", "the F16 GGUF", "make loops")),
        ("loops.json", ("rows",), [], ("loops.json", "at least 1 item")),
        ("loops.json", ("rows", 0, "rates"), {}, ("loops.json", "rates of any failure")),
        ("loops.json", ("rows", 0, "classes", 0), ["fine"] * 9, ("loops.json", "a class of every prompt and seed")),
        ("loops.json", ("rows", 0, "rates", "empty", "count"), 10**6, ("loops.json", "count at most answers")),
        ("loops.json", ("pairs", 0, "measure"), "worse", ("loops.json", "pairs of the rows' files and failures")),
        ("findings.json", ("inputs", "shuffles"), 10**9, ("findings.json", "inputs.shuffles")),
        ("findings.json", ("inputs", "weights_sha256"), None, ("findings.json", "inputs.weights_sha256")),
        ("findings.json", ("maps",), [], ("findings.json", "at least 1 item")),
        ("findings.json", ("outputs",), [], ("findings.json", "at least 1 item")),
        ("findings.json", ("specialisation", "layers"), [], ("findings.json", "at least 1 item")),
        ("quality.json", ("files", 0, "losses", "total", "kld"), [0.1, 1e300], ("quality.json", "value and error")),
        ("pruned.json", ("gguf_sha256",), "0" * 64, ("pruned-Q6_K.gguf", "make eval")),
        ("pruned.json", ("answers", 0, "record_id"), "other", ("pruned", "12 questions of full")),
    ],
)
def test_records_of_another_build_are_refused(small_build, refusal, file, keys, value, words):
    change(small_build / file, *keys, value=value)
    refusal(main, [*options(small_build), "--output", small_build / "report.html"], *words)
    assert not (small_build / "report.html").exists()


def test_of_an_edited_record_there_is_no_page(small_build, refusal, capsys):
    flags, output = options(small_build), small_build / "report.html"
    (small_build / MARKER).touch()
    seal_all(small_build, "build_report")  # any command of ours
    main([*flags, "--output", str(output)])
    output.unlink()
    record = small_build / "quality.json"
    record.write_text(record.read_text() + " ")
    refusal(main, [*flags, "--output", output], record, "what a command of this project wrote, found one edited since")
    assert not output.exists()
    (small_build / LEDGER).unlink()
    main([*flags, "--output", str(output)])
    assert "records of another key, of an older version or of none: not looked at for edits" in capsys.readouterr().out


def without(flags: list[str], option: str) -> list[str]:
    """The options without one that has one value."""
    place = flags.index(option)
    return flags[:place] + flags[place + 2 :]


def test_a_fuller_page_is_never_replaced_by_a_poorer_one(small_build, refusal):
    flags, output = options(small_build), small_build / "report.html"
    bare = ["--name", "pruned", *flags[2:6]]
    assert bare[2::2] == ["--stats", "--drop-map"]
    main([*bare, "--output", str(output)])
    main([*flags, "--output", str(output)])  # a fuller one may
    before = output.read_bytes()
    for option, target in (
        ("--quality", "quality"),
        ("--scores", "eval"),
        ("--loops", "loops"),
        ("--imatrix", "imatrix"),
        ("--f16", "quants"),
    ):
        fewer = [*without(flags, option), "--output", output]
        refusal(main, fewer, "report.html", f"the record {option}", "found none", f"make {target}", "REPLACE=report")
        assert output.read_bytes() == before
    for old, new in ((b'{"parts":', b"{parts:"), (b'{"parts":', b'{"part":')):
        output.write_bytes(before.replace(old, new))
        refusal(main, [*flags, "--output", output], "report.html", "a report page", "REPLACE=report")
    main([*without(flags, "--quality"), "--output", str(output), "--replace"])
    assert output.read_bytes() != before
    refusal(main, [*bare, "--output", output], "--findings", "make findings")


def test_the_page_of_another_choice_of_experts_may_be_replaced(small_build):
    output, again = small_build / "report.html", small_build / "again.json"
    main([*options(small_build), "--output", str(output)])
    stats = ["--stats", str(small_build / "expert_stats.safetensors")]
    choose([*stats, "--keep", "12", "--bootstrap", "0", "--output", str(again)])
    main(["--name", "pruned", *stats, "--drop-map", str(again), "--output", str(output)])
    assert "12 of 20" in output.read_text()


def test_a_file_that_is_no_page_of_ours_stays(small_build, refusal):
    output = small_build / "notes.html"
    output.write_text("<p>mine</p>")
    refusal(main, [*options(small_build), "--output", output], "notes.html", "another file", "move it away")
    assert output.read_text() == "<p>mine</p>"


def test_a_fold_shows_the_questions_that_chose_and_nothing_of_the_others(small_build, tmp_path):
    choose(
        [
            "--stats",
            str(small_build / "expert_stats.safetensors"),
            "--keep",
            "16",
            "--fold",
            "1/4",
            "--criterion",
            "reap",
            "--bootstrap",
            "0",
            "--output",
            str(tmp_path / "fold.json"),
        ]
    )
    experts, drop_map, _ = read_experts(small_build / "expert_stats.safetensors", tmp_path / "fold.json")
    arrays, rows = read_stats(small_build / "expert_stats.safetensors")[0], [row for row in range(12) if row % 4]
    assert (experts.questions, experts.top, experts.layers) == (
        9,
        16,
        [0, 1],
    )  # reap protects none: shown by the card's 16
    assert (experts.tokens == arrays["token_count"][rows].sum(axis=0)).all()
    assert np.allclose(experts.weighted_norm, arrays["weighted_norm_sum"][rows].sum(axis=0))
    assert [np.nonzero(row)[0].tolist() for row in experts.dropped] == [
        drop_map["layers"][layer]["drop"] for layer in "01"
    ]


def test_records_that_are_none_are_refused_in_one_line(small_build, refusal):
    output, flags = small_build / "report.html", options(small_build)
    refusal(main, ["--name", "pruned", "--output", output], "report.html", "none", "make analyze")
    (small_build / "quality.json").write_text("{")
    refusal(main, [*flags, "--output", output], "quality.json", "valid JSON")
    (small_build / "quality.json").write_text("{}")
    refusal(main, [*flags, "--output", output], "quality.json", "measurements of measure_quality.py, version 1")
    refusal(main, [*flags, "--output", small_build / "scores.json"], "scores.json", "apart")
    assert not output.exists()


def theme_colors() -> dict[str, tuple[str, str]]:
    """The colours of page.css by variable, in the light and in the dark."""
    style = (REPO / "scripts/page/page.css").read_text()
    return {name: (light, dark) for name, light, dark in re.findall(r"--(\w+): light-dark\((#\w+), (#\w+)\)", style)}


def luminance(color: str) -> float:
    """The relative luminance of #rrggbb; source: WCAG 2.2."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_kinds_have_the_colours_of_the_pictures_and_can_be_seen_on_the_page():
    colors, names = theme_colors(), {"standard": "standard", "ContribDynamic": "contrib", "target size": "target"}
    names["padded"] = "padded"
    assert {kind: colors[name][0] for kind, name in names.items()} == KIND_COLORS
    assert KIND_MARKERS.keys() == KIND_COLORS.keys()
    for scheme in (0, 1):
        panel = luminance(colors["panel"][scheme])
        for name in names.values():
            low, high = sorted((panel, luminance(colors[name][scheme])))
            assert (high + 0.05) / (low + 0.05) >= 3, name  # WCAG 2.2, 1.4.11: graphics
