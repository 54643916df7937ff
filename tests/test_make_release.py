"""The Makefile on a whole release of a tiny model: no-op, what follows from what, kill and resume, other settings.

One release is built for all tests of this file. A test that changes anything works on a copy of it.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

from conftest import REPO
from makers.make_runs import (
    SECRETS,
    SECRETS_ON_COMMAND_LINES,
    build_of,
    canary_host,
    make,
    scripts_in,
    scripts_in_text,
    secrets_looked_for,
    variables_of,
)

import pytest


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """The folder of all builds: copies lie side by side, since a build links to its model by a relative path."""
    return tmp_path_factory.mktemp("builds")


@pytest.fixture(scope="module")
def variables(tiny_text_model, few_questions, folders) -> list[str]:
    """The variables of a whole release, built once; tests only read it."""
    found = variables_of(tiny_text_model, few_questions, folders / "build")
    with secrets_looked_for():
        assert scripts_in(make("release", *found, environment=SECRETS, host=canary_host()))
    return found


@pytest.fixture
def copied(variables, folders, request) -> list[str]:
    """The variables of a copy of that release, which a test may change."""
    place = folders / re.sub(r"\W", "-", request.node.name)
    shutil.copytree(build_of(variables), place, symlinks=True)
    return [*variables[:-1], f"BUILD={place}"]


def test_a_whole_release_then_nothing_left_to_do(variables):
    folders = {path.parent.name: path.parent for path in build_of(variables).rglob("manifest.json")}
    assert set(folders) == {"GGUF", "dynamic-GGUF", "checkpoint"}
    release, names = (
        folders["GGUF"],
        {name: {path.name for path in folder.iterdir()} for name, folder in folders.items()},
    )
    beside = {"README.md", "expert_drop_metadata.json", "scores.json", "scores.png", "experts-heatmap.png"}
    assert {
        *beside,
        "template",
        "params",
        "Modelfile",
        "imatrix-coverage.png",
        "tiny-12e-F16.gguf",
        "tiny-12e-Q8_0.gguf",
        "tiny-12e-IQ2_M.gguf",
    } <= names["GGUF"]
    assert {path for path in names["dynamic-GGUF"] if path.endswith(".gguf")} == {"tiny-12e-CD-Q4_K_M.gguf"}
    assert beside < names["checkpoint"] and "model-00001-of-00001.safetensors" in names["checkpoint"]
    card = (release / "README.md").read_text()
    assert "tiny-12e-Q8_0.gguf" in card and "12 of 16 experts" in card and "In-sample" in card
    assert (
        "<|turn>" in (release / "template").read_text()
        and "FROM ./tiny-12e-Q8_0.gguf" in (release / "Modelfile").read_text()
    )
    for path in (path for folder in folders.values() for path in folder.iterdir()):
        assert str(build_of(variables)).encode() not in path.read_bytes(), path
    before = {path: path.stat().st_mtime_ns for path in build_of(variables).rglob("*")}
    assert not scripts_in(make("release", *variables)) and make("targets", *variables).stdout == ""
    # Its cards can say more where seals are not asked for.
    assert "build_release" in scripts_in(make("-n", "release", "SEALS=no", *variables))
    assert before == {path: path.stat().st_mtime_ns for path in build_of(variables).rglob("*")}


def test_every_release_folder_is_checked_and_an_evaluation_can_be_left_out(copied):
    shown = make("-n", "check-release", *copied).stdout
    assert shown.count("scripts/check_release.py") == 1 and all(
        f"/12e/release/{end}" in shown for end in ("GGUF ", "dynamic-GGUF ", "checkpoint ")
    )
    assert "not checked" not in shown
    fewer = make("-n", "check-release", *copied, "QUANTS=Q8_0").stdout.splitlines()
    (note,) = [line for line in fewer if "not checked" in line]
    assert note.endswith("/12e/release/dynamic-GGUF")
    made = scripts_in(make("release", "SCORED=no", "QUANTIZED_BY=someone", "OWNER=some-one", *copied))
    assert made == {"build_release", "build_report"}
    assert not scripts_in(make("release", "SCORED=no", "QUANTIZED_BY=someone", *copied))  # the owner stays
    cards = {path.parent.name: path.read_text() for path in build_of(copied).rglob("release/*/README.md")}
    assert (
        all("this release holds no score" in card for card in cards.values())
        and "quantized_by: someone" in cards["GGUF"]
    )
    assert not list(build_of(copied).rglob("release/*/scores.json"))
    (kept,) = build_of(copied).glob("tiny/12e/release/settings.txt")
    kept.write_text(kept.read_text().replace("OWNER=some-one", "OWNER=another"))
    done = make("release", "SCORED=no", "QUANTIZED_BY=someone", *copied)
    assert done.returncode != 0 and "settings.txt: expected OWNER as it was given before" in done.stderr, done.stderr
    done = make("release", *copied, "LICENSE=two words")
    assert done.returncode != 0 and "LICENSE: expected" in done.stderr


def test_a_build_of_before_is_converted_once_more_and_keeps_the_rest(copied):
    build = build_of(copied) / "tiny"
    for gguf in (build / "full/f16/tiny-F16.gguf", build / "12e/f16/tiny-12e-F16.gguf"):
        record = Path(f"{gguf}.json")
        content = json.loads(record.read_text())
        del content["against_transformers"]
        record.write_text(json.dumps(content))
    kept = [*build.rglob("*.gguf"), *build.rglob("eval/**/*.jsonl")]
    before, released = {path: path.read_bytes() for path in kept}, published(build.parent)
    done = make("release", *copied)
    assert "convert_to_gguf" in scripts_in(done) and done.stdout.count("built already") >= 3, done.stdout
    assert "teacher_force_analysis" not in scripts_in_text(done.stdout)
    assert before == {path: path.read_bytes() for path in kept} and released == published(build.parent)
    assert not scripts_in(make("-n", "release", *copied))
    checked = make("check-release", *copied)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_findings_join_a_release_that_is_there(copied):
    assert scripts_in(make("findings", *copied)) == {"measure_findings", "build_report"}
    assert {"build_release", "build_report"} == scripts_in(make("release", *copied))
    folders = sorted(path.parent for path in build_of(copied).rglob("release/*/README.md"))
    cards = [(folder / "README.md").read_text() for folder in folders]
    assert len(cards) == 3 and all("findings.json" in card and "bf16" in card for card in cards)
    checked = make("check-release", *copied)
    assert checked.returncode == 0 and "findings" in checked.stdout, checked.stdout + checked.stderr
    assert not scripts_in(make("-n", "release", *copied))


def published(build: Path) -> dict[str, bytes]:
    """What lies in the release folders of a build; the lists of sources beside them name paths, and stay here."""
    files = [path for path in (build / "tiny/12e/release").glob("*/**/*") if path.is_file()]
    return {str(path.relative_to(build)): path.read_bytes() for path in files}


def test_low_disk_makes_the_same_release_killed_on_the_way(copied, variables, tiny_text_model):
    build, model = build_of(copied), build_of(copied).with_name("model-that-goes")
    shutil.copytree(tiny_text_model, model)
    later = ("checkpoint", "f16", "gguf", "eval", "release")
    for part in ("full/f16", "full/gguf", "full/eval", *(f"12e/{name}" for name in later)):
        shutil.rmtree(build / "tiny" / part)
    low = [*copied, f"MODEL={model}", "LOW_DISK=all"]
    # Named, not looked for in the tree: a folder that goes meanwhile would end the search with an error.
    freed = [build / "tiny/full/f16/tiny-F16.gguf.freed", build / "tiny/12e/f16/tiny-12e-F16.gguf.freed"]
    process = subprocess.Popen(["make", "release", *low], cwd=REPO, stdout=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and not any(path.exists() for path in freed):
        time.sleep(0.1)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert "free_disk" in scripts_in(make("release", *low))
    gone = [*model.glob("*.safetensors"), *build.rglob("f16/tiny*-F16.gguf")]
    assert not gone and not list(build.rglob("full/gguf/*/tiny-Q8_0.gguf"))
    assert not scripts_in(make("-n", "release", *low))
    assert published(build) == published(build_of(variables))
    (model / "adapter_model.safetensors").write_bytes(b"of the user's, put there since")
    checked = make("check-release", *low)
    assert checked.returncode == 0, checked.stdout
    refused = make("-n", "quality", *low)
    assert refused.returncode != 0 and "found quality" in refused.stderr


def test_the_f16_can_be_removed_and_only_what_changes_calls_for_it(copied):
    f16 = build_of(copied) / "tiny/12e/f16/tiny-12e-F16.gguf"
    scripts_in(make("quants", "KEEP_F16=no", *copied))
    assert not f16.exists() and not scripts_in(make("-n", "quants", "KEEP_F16=no", *copied))
    assert not scripts_in(make("-n", "release", *copied))
    before = {path: path.stat().st_mtime_ns for path in f16.parents[1].rglob("*.gguf")}
    remade = make("-j2", "quants", "CD_SCOPE=experts", "REPLACE=cd", *copied)
    assert {"convert_to_gguf", "quantize_gguf"} <= scripts_in(remade), remade.stdout + remade.stderr
    after = {path: path.stat().st_mtime_ns for path in f16.parents[1].rglob("*.gguf")}
    assert {path.name for path in after if after[path] != before.get(path)} == {
        "tiny-12e-F16.gguf",
        "tiny-12e-CD-Q4_K_M.gguf",
    }
    assert not scripts_in(make("-n", "quants", "CD_SCOPE=experts", *copied))


def test_quants_are_those_asked_for_and_a_raised_gate_is_heeded_later(copied):
    asked = [value if not value.startswith("QUANTS=") else "QUANTS=Q4_0" for value in copied]
    shown = make("-n", "-B", "quants", *asked).stdout
    assert "--type Q4_0 " in shown and "--type Q8_0 " not in shown  # Q8_0 is EVAL_QUANT
    assert make("quants", *copied).returncode == 0
    refused = make("quants", "MIN_EXPERT_TOKENS=1000000", *copied)
    assert refused.returncode != 0 and "1000000 tokens or more" in refused.stderr and "Traceback" not in refused.stderr


AFTER_SCORES = {"compare_scores", "build_release", "build_report"}
AFTER_COUNTING = {"eval_gpqa_v3", *AFTER_SCORES}  # finished answers are only summed up again
AFTER_DROP = {
    "expert_drop",
    "convert_to_gguf",
    "build_imatrix",
    "report_imatrix",
    "quantize_gguf",
    "eval_gpqa_v3",
    *AFTER_SCORES,
}
AFTER_MAP = {"generate_drop_map", "plot_expert_stats", *AFTER_DROP}


@pytest.mark.parametrize(
    "touched, follow",
    [
        ("choice/criteria.py", AFTER_MAP),
        ("choice/drop_map.py", AFTER_MAP),
        ("chats/questions.py", AFTER_MAP),
        ("files/byte_ranges.py", AFTER_MAP),
        ("ggufs/gguf_drop.py", AFTER_MAP),
        ("checkpoints/moe_families.py", AFTER_DROP),
        ("scoring/answer_record.py", AFTER_COUNTING),
        ("quants/quant_record.py", AFTER_COUNTING),
        ("gates/gates.py", {"build_release", "build_report"}),
        ("ollama/ollama_template.py", {"build_release", "build_report"}),
        ("analysis/decoder.py", set()),
        ("page/sections.py", {"build_report"}),
        ("demo/demo_corpus.py", set()),
    ],
)
def test_a_changed_module_remakes_exactly_what_follows_from_it(variables, touched, follow):
    assert scripts_in(make("-n", "-W", f"scripts/{touched}", "release", *variables)) == follow


@pytest.mark.parametrize(
    "command", ["generate_drop_map", "plot_expert_stats", "expert_drop", "report_imatrix", "compare_scores"]
)
def test_a_changed_command_remakes_its_output(variables, command):
    assert command in scripts_in(make("-n", "-W", f"scripts/{command}.py", "release", *variables))


def test_long_work_after_a_changed_module_finds_its_records_and_does_nothing(copied):
    times = {path: path.stat().st_mtime_ns for path in build_of(copied).rglob("*.gguf") if path.suffix == ".gguf"}
    digests = {path: path.read_bytes() for path in times}
    drop_map = next(build_of(copied).rglob("drop_map.json"))
    later = drop_map.stat().st_mtime_ns + 10**9
    stats = next(build_of(copied).rglob("expert_stats.safetensors"))
    os.utime(stats, ns=(later, later))  # as if it was analysed again, with the same result
    done = make("release", *copied)
    assert scripts_in(done) == AFTER_MAP, done.stdout
    assert done.stdout.count("already") >= 6 and "answered 0/" not in done.stderr
    assert digests == {path: path.read_bytes() for path in times}
    assert not scripts_in(make("-n", "release", *copied))


def test_held_out_folds_and_comparisons_of_runs_follow_from_their_parts(variables):
    shown = make("-n", "eval-heldout", "FOLDS=3", *variables)
    assert {"generate_drop_map", "expert_drop", "eval_gpqa_v3", "pool_heldout", "compare_scores"} <= scripts_in(shown)
    assert [f"--fold {i}/3" in shown.stdout for i in range(1, 5)] == [True, True, True, False]
    assert (
        shown.stdout.count("eval_gpqa_v3.sh") == 4 and shown.stdout.count("HELD_OUT_OF=") == 3
    )  # the reference sees all
    shown = make("-n", "eval-heldout", "FOLDS=3", "HELDOUT_QUANT=Q8_0", *variables)
    assert len(re.findall(r"--source \S+/tiny-Q8_0.gguf", shown.stdout)) == 3, shown.stderr
    assert "Q9_X: unknown quant" in make("-n", "eval-heldout", "HELDOUT_QUANT=Q9_X", *variables).stderr
    runs = [build_of(variables) / f"tiny/{folder}/eval/Q8_0" for folder in ("full", "12e")]
    done = make("compare", f"RUNS={' '.join(map(str, runs))}", *variables)
    assert "tiny-12e against tiny: " in done.stdout and "**In-sample:** 6 of the 6" in done.stdout, done.stderr
    scores = next((build_of(variables) / "comparison").rglob("scores.md"))
    assert scores.read_text() in done.stdout
    assert scores.with_suffix(".png").exists() and scores.with_suffix(".json").exists()
    refused = make("compare", *variables)
    assert refused.returncode != 0 and "RUNS: expected" in refused.stderr


def test_another_keep_count_stands_beside_the_first_and_shares_what_is_the_full_models(variables):
    ran = scripts_in(make("-n", "release", *variables, "KEEP=11", "VARIANT=11e"))
    assert not {"teacher_force_analysis", "fetch_model"} & ran
    assert {"generate_drop_map", "expert_drop", "convert_to_gguf", "quantize_gguf", "eval_gpqa_v3"} <= ran


# What is asked, the folder that holds the other one's outputs, what is found there, and a way out that works.
OTHER_SETTINGS = [
    ("KEEP=11", "12e/settings.txt", "KEEP=12", "VARIANT=11e"),
    ("CTX=512", "full/eval/Q8_0/settings.txt", "CTX=1024", "EVAL_NAME=short"),
    ("CD_SCOPE=experts", "cd-settings.txt", "CD_SCOPE=all", "REPLACE=cd"),
    ("CALIBRATION=", "12e/gguf/settings.txt", "calibration_questions.csv", "VARIANT=own"),
    ("PRUNED_NAME=other", "12e/settings.txt", "PRUNED_NAME=tiny-12e", "REPLACE=choice"),
]


@pytest.mark.parametrize("asked, folder, found, way_out", OTHER_SETTINGS)
def test_other_settings_in_a_folder_are_refused_before_work_with_a_way_out(variables, asked, folder, found, way_out):
    done = make("release", *variables, asked)
    assert done.returncode != 0 and not scripts_in_text(done.stdout), done.stdout
    assert folder in done.stderr and found in done.stderr and "REPLACE=" in done.stderr, done.stderr
    name = asked.partition("=")[0]
    eval_name = ["EVAL_NAME=own"] if asked.startswith("CALIBRATION") else []
    allowed = make("-n", "release", *variables, asked, way_out, *eval_name)
    assert scripts_in(allowed), (name, allowed.stderr)


def test_words_of_an_edited_file_of_settings_do_not_reach_the_terminal(copied):
    settings = build_of(copied) / "tiny/12e/settings.txt"
    settings.write_text("KEEP=\x1b[31m12\x1b]0;t\x07\n")
    done = make("-n", "release", *copied)
    assert done.returncode != 0 and "found control characters; " in done.stderr and "\x1b" not in done.stderr


def test_settings_by_which_nothing_was_made_give_way(copied):
    path = build_of(copied) / "tiny/12e/quality/settings.txt"
    path.parent.mkdir(parents=True)
    path.write_text("EVAL_QUESTIONS=refused.csv:0\n")  # as a step leaves it that refused its questions
    assert make("-n", "quality", *copied).stdout.count(f"make/to_target.sh {path}\n") == 1
    (path.parent / "quality.json").write_text("{}")
    assert "expected EVAL_QUESTIONS=" in make("-n", "quality", *copied).stderr


def test_statistics_over_other_questions_draw_again_and_are_no_tiers_of_this_file(copied):
    drawn_from = build_of(copied) / "tiny/12e/pictures-settings.txt"
    drawn_from.write_text("QUESTIONS=others.csv:0\n")  # older ones may lie beside: their time tells nothing
    assert scripts_in(make("-n", "release", *copied)) == {"plot_expert_stats", "build_release", "build_report"}
    tiers = build_of(copied) / "tiny/12e/gguf/cd-settings.txt"
    tiers.write_text(re.sub("QUESTIONS=.*", "QUESTIONS=others.csv:0", tiers.read_text()))
    done = make("-n", "release", *copied)
    assert done.returncode != 0 and "found QUESTIONS=others.csv:0" in done.stderr and "REPLACE=cd" in done.stderr


def test_a_text_that_was_written_anew_makes_every_card_anew(variables):
    """Those of the checkpoint, too, whose command and digests it has a part in."""
    text = next(value.removeprefix("CALIBRATION=") for value in variables if value.startswith("CALIBRATION="))
    done = make("-n", "-W", text, "release", *variables)
    assert "build_release" in scripts_in(done) and "--kind checkpoint" in done.stdout


@pytest.mark.parametrize("settings", ["12e/settings.txt", "12e/gguf/settings.txt", "full/eval/Q8_0/settings.txt"])
def test_outputs_that_have_lost_their_settings_are_refused(copied, settings):
    path = build_of(copied) / "tiny" / settings
    for lose in (lambda: path.write_text(""), path.unlink):
        lose()
        done = make("-n", "release", *copied)
        assert done.returncode != 0 and f"{path}: expected the settings" in done.stderr, done.stderr


def test_a_moved_copied_or_renamed_model_goes_on_and_another_one_is_refused(
    tiny_text_model, few_questions, folders, copied, tmp_path, demo_model
):
    moved = shutil.copytree(tiny_text_model, tmp_path / "elsewhere")  # other place, other times, same weights
    done = make("release", *copied, f"MODEL={moved}")
    assert scripts_in(done) <= {"fetch_model"}, done.stdout
    assert not scripts_in(make("-n", "release", *copied, f"MODEL={moved}"))
    refused = make("release", *copied, f"MODEL={demo_model}")
    assert refused.returncode != 0 and "those of another model" in refused.stderr and "REPLACE=model" in refused.stderr
    link = build_of(copied) / "tiny/full/checkpoint"
    assert link.resolve() == moved.resolve()  # the refused model did not take its place
    # Nor by a text file that says that it was taken, nor with one bit between the samples of a digest.
    source, other = link.with_name("source.txt"), shutil.copytree(moved, tmp_path / "other")
    shard = min(other.glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    for model in (demo_model, other):
        times = source.stat()
        source.write_text(f"{model}\n")
        os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
        refused = make("release", *copied, f"MODEL={model}")
        assert refused.returncode != 0 and "those of another model" in refused.stderr, refused.stderr
    # Nor by a link as make sets it, with a copy of the first model as its outline.
    shutil.copytree(link, link.with_name("outline"))
    link.unlink()
    link.symlink_to(other)
    for path in other.iterdir():
        os.utime(path, (1, 1))  # make does not look at older files
    for manifest in (build_of(copied) / "tiny/12e/release").glob("*/manifest.json"):
        shutil.rmtree(manifest.parent)
    refused = make("release", *copied, f"MODEL={other}")
    assert refused.returncode != 0 and f"{other}: expected the model of" in refused.stderr, refused.stderr


def test_a_replaced_evaluation_is_made_again_and_nothing_else(copied):
    before = {path: path.stat().st_mtime_ns for path in build_of(copied).rglob("*.gguf")}
    done = make("eval", *copied, "CTX=512", "REPLACE=eval")
    assert scripts_in(done) == {"eval_gpqa_v3", "compare_scores", "build_report"}, done.stdout
    settings = build_of(copied) / "tiny/12e/eval/Q8_0/settings.txt"
    assert "CTX=512" in settings.read_text()
    assert before == {path: path.stat().st_mtime_ns for path in build_of(copied).rglob("*.gguf")}
    assert not scripts_in(make("-n", "eval", *copied, "CTX=512"))
    # The sizes of a quant that has been built anew are compared again; nothing is asked again for that.
    next((build_of(copied) / "tiny/12e/gguf").glob("*.gguf.json")).touch()
    assert scripts_in(make("-n", "eval", *copied, "CTX=512")) == {"compare_scores", "build_report"}


def test_what_a_refused_step_was_to_replace_is_there_again(copied):
    kept = build_of(copied) / "tiny/12e"
    before = {path: path.stat().st_mtime_ns for path in kept.rglob("*") if path.suffix != ".log" and path.is_file()}
    done = make("drop", *copied, "DOMAINS=Nowhere:1", "VARIANT=12e", "REPLACE=choice")
    assert done.returncode != 0 and "found Nowhere" in done.stderr and "is there again" in done.stderr, done.stderr
    after = {path: path.stat().st_mtime_ns for path in kept.rglob("*") if path.suffix != ".log" and path.is_file()}
    assert after == before
    assert not scripts_in(make("-n", "release", *copied))
    licence_left_out = [value for value in copied if not value.startswith("LICENSE=")]
    assert not scripts_in(make("-n", "check-release", *licence_left_out)) - {"check_release"}
    assert "build_release" in scripts_in(make("-n", "check-release", *copied, "LICENSE="))


def test_no_key_and_no_name_of_user_or_machine_is_on_a_command_line_or_in_a_file(variables):
    secrets = [text.encode() for text in set(SECRETS.values())]
    files = [path for path in build_of(variables).rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".log", ".json", ".md", ".html", ".gguf", ".safetensors"}
    assert not [(path, secret) for path in files for secret in secrets if secret in path.read_bytes()]
    assert not SECRETS_ON_COMMAND_LINES
    if not canary_host():
        pytest.skip("unshare: a process may have no host name of its own here; all else was looked for")


MADE_AFTER_ANALYZE = ("checkpoint", "f16", "gguf", "eval", "release")


def test_make_report_takes_what_is_there_and_builds_nothing_else(copied, tmp_path):
    done = make("report", *copied[:-1], f"BUILD={tmp_path}")
    assert done.returncode != 0 and "run make analyze" in done.stderr and "build_report" in done.stdout
    assert not list(tmp_path.rglob("*.html")) and not list(tmp_path.rglob("*.safetensors"))
    model = build_of(copied) / "tiny"
    for name in ("full/f16", "full/gguf", "full/eval", *(f"12e/{name}" for name in MADE_AFTER_ANALYZE)):
        shutil.rmtree(model / name)  # only what `make analyze` has made is left
    page, drop_map = model / "12e/report.html", model / "12e/drop_map.json"
    page.unlink()
    done = make("report", *copied)
    assert done.returncode == 0, done.stderr
    assert scripts_in(done) == {"build_report"} and "make quality" in done.stdout
    before = page.stat().st_mtime_ns
    assert "build_report" not in make("report", *copied).stdout and page.stat().st_mtime_ns == before
    assert "build_report" in make("-n", "findings", *copied).stdout  # they are not there yet, and belong on the page
    drop_map.touch()  # what follows from the map is out of date now
    assert scripts_in(make("report", *copied)) == {"build_report"} and page.stat().st_mtime_ns > before
    drop_map.unlink()
    page.unlink()
    assert "run make analyze" in make("report", *copied).stderr


def test_settings_are_written_before_what_they_are_for(variables):
    model = build_of(variables) / "tiny"
    for settings, output in (
        ("full/statistics/few/settings.txt", "expert_stats.safetensors"),
        ("12e/settings.txt", "drop_map.json"),
        ("12e/gguf/settings.txt", "imatrix.gguf"),
        ("12e/gguf/cd-settings.txt", "tiny-12e-CD-Q4_K_M.gguf"),
        ("full/eval/Q8_0/settings.txt", "summary.json"),
        ("12e/eval/Q8_0/settings.txt", "summary.json"),
    ):
        written, made = (model / settings), (model / settings).with_name(output)
        assert written.read_text() and written.stat().st_mtime_ns <= made.stat().st_mtime_ns, settings


def test_no_path_is_longer_than_a_person_reads(variables):
    paths = [str(path.relative_to(build_of(variables))) for path in build_of(variables).rglob("*")]
    # With the longest names of the reference case in place of tiny's.
    longest = max((path.replace("tiny", "gemma-4-26B-A4B-it").replace("12e", "109e") for path in paths), key=len)
    assert len(longest) <= 100, longest


def test_every_step_shows_in_one_line_and_a_failed_one_says_why_and_where(copied):
    quiet, model = ["make", *copied], build_of(copied) / "tiny"
    done = subprocess.run([*quiet, "drop", "REPLACE=choice"], cwd=REPO, capture_output=True, text=True)
    first, *lines = done.stdout.splitlines()
    assert first.startswith("Run demo (no RUN given)") and not done.stderr
    steps = [line for line in lines if line.startswith("[")]
    assert [re.match(r"\[(\d+)/(\d+)\] ", line).groups() for line in steps] == [(str(n), "2") for n in (1, 2)]
    assert all(len(line) <= 100 and re.search(r" \d+ s$", line) for line in steps) and "\r" not in done.stdout
    shutil.rmtree(model / "12e/checkpoint")
    (model / "12e/drop_map.json").write_text("{}")
    failed = subprocess.run([*quiet, "drop"], cwd=REPO, capture_output=True, text=True)
    words = failed.stderr.splitlines()
    assert failed.returncode != 0 and len(words) == 4 and words[0].startswith("error: ")
    assert (
        words[1].endswith("logs/drop-experts.log")
        and words[2] == "When that is mended, the same command goes on from here."
    )
    assert re.match(r"make(\[\d+\])?: \*\*\* ", words[3])  # in brackets: under the make of `make test`
    assert "expert_drop.py" in (model / "12e/logs/drop-experts.log").read_text()
