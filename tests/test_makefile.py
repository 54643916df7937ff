"""The Makefile: a whole release of a tiny model, no-op, what follows from what, kill and resume, other variables.

One release is built for all tests of this file. A test that changes anything works on a copy of it.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

from conftest import REPO

import pytest


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """The folder of all builds: copies lie side by side, since a build links to its model by a relative path."""
    return tmp_path_factory.mktemp("builds")


def variables_of(model: Path, questions: Path, build: Path) -> list[str]:
    """Make variables of a small, quick run."""
    return [
        f"MODEL={model}",
        "NAME=tiny",
        "KEEP=12",
        "PROTECT_TOP=4",
        f"QUESTIONS={questions}",
        f"CALIBRATION={REPO / 'data/demo/calibration_questions.csv'}",
        "QUANTS=F16 Q8_0 IQ2_M CD-Q4_K_M",
        "EVAL_QUANT=Q8_0",
        "CTX=1024",
        "REASONING_BUDGET=16",
        "MAX_GEN_TOKS=32",
        f"BUILD={build}",
    ]


@pytest.fixture(scope="module")
def unbuilt(tiny_text_model, few_questions, folders) -> list[str]:
    """The variables of a run with nothing built; no test builds there."""
    return variables_of(tiny_text_model, few_questions, folders / "unbuilt")


@pytest.fixture(scope="module")
def variables(tiny_text_model, few_questions, folders) -> list[str]:
    """The variables of a whole release, built once; tests only read it."""
    found = variables_of(tiny_text_model, few_questions, folders / "build")
    assert scripts_in(make("release", *found))
    return found


@pytest.fixture
def copied(variables, folders, request) -> list[str]:
    """The variables of a copy of that release, which a test may change."""
    place = folders / re.sub(r"\W", "-", request.node.name)
    shutil.copytree(build_of(variables), place, symlinks=True)
    return [*variables[:-1], f"BUILD={place}"]


def make(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["make", "--no-print-directory", *arguments], cwd=REPO, capture_output=True, text=True)


def scripts_in(done: subprocess.CompletedProcess) -> set[str]:
    """The scripts that a (dry) run names as commands."""
    assert done.returncode == 0, done.stdout + done.stderr
    return set(re.findall(r"scripts/(\w+)\.(?:py|sh)", done.stdout))


def build_of(variables: list[str]) -> Path:
    return Path(variables[-1].removeprefix("BUILD="))


def test_make_alone_prints_targets_and_variables():
    shown = make().stdout
    for word in (
        "analyze",
        "quants",
        "eval",
        "release",
        "demo",
        "MODEL",
        "NAME",
        "KEEP",
        "QUESTIONS",
        "CALIBRATION",
        "QUANTS",
    ):
        assert re.search(rf"^  {word} ", shown, re.MULTILINE), word


def test_a_dry_run_is_a_transcript_and_makes_nothing(unbuilt):
    ran = scripts_in(make("-n", "release", *unbuilt))
    assert {
        "teacher_force_analysis",
        "generate_drop_map",
        "expert_drop",
        "convert_to_gguf",
        "build_imatrix",
        "quantize_gguf",
        "eval_gpqa_v3",
        "compare_scores",
        "build_release",
    } <= ran
    assert not build_of(unbuilt).exists()


def test_a_killed_analysis_leaves_no_target_and_the_next_run_goes_on(tiny_text_model, few_questions, folders):
    variables = variables_of(tiny_text_model, few_questions, folders / "killed")
    process = subprocess.Popen(
        ["make", "analyze", *variables],
        cwd=REPO,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    source = build_of(variables) / "tiny/full/source.txt"
    while not source.exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(build_of(variables).rglob("expert_stats.safetensors"))
    ran = scripts_in(make("analyze", *variables))
    assert "fetch_model" not in ran and {"teacher_force_analysis", "generate_drop_map"} <= ran
    assert list(build_of(variables).rglob("drop_map.json"))


def test_a_whole_release_then_nothing_left_to_do(variables):
    folders = {path.parent.name: path.parent for path in build_of(variables).rglob("manifest.json")}
    assert set(folders) == {"tiny-12e-GGUF", "tiny-12e-dynamic-GGUF", "tiny-12e"}
    release, names = (
        folders["tiny-12e-GGUF"],
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
    } <= names["tiny-12e-GGUF"]
    assert {path for path in names["tiny-12e-dynamic-GGUF"] if path.endswith(".gguf")} == {"tiny-12e-CD-Q4_K_M.gguf"}
    assert beside < names["tiny-12e"] and "model-00001-of-00001.safetensors" in names["tiny-12e"]
    card = (release / "README.md").read_text()
    assert "tiny-12e-Q8_0.gguf" in card and "12 of 16 experts" in card and "In-sample" in card
    assert (
        "<|turn>" in (release / "template").read_text()
        and "FROM ./tiny-12e-Q8_0.gguf" in (release / "Modelfile").read_text()
    )
    for path in (path for folder in folders.values() for path in folder.iterdir()):
        assert str(build_of(variables)).encode() not in path.read_bytes(), path
    before = {path: path.stat().st_mtime_ns for path in build_of(variables).rglob("*")}
    assert not scripts_in(make("release", *variables))
    assert before == {path: path.stat().st_mtime_ns for path in build_of(variables).rglob("*")}


def test_every_release_folder_is_checked_and_an_evaluation_can_be_left_out(copied):
    shown = make("-n", "check-release", *copied).stdout
    assert shown.count("scripts/check_release.py") == 1 and all(
        f"/release/tiny-12e{end}" in shown for end in ("-GGUF ", "-dynamic-GGUF ", ";")
    )
    assert scripts_in(make("release", "SCORED=no", "QUANTIZED_BY=someone", *copied)) == {"build_release"}
    cards = {path.parent.name: path.read_text() for path in build_of(copied).rglob("release/*/README.md")}
    assert (
        all("no evaluation belongs to this build" in card for card in cards.values())
        and "quantized_by: someone" in cards["tiny-12e-GGUF"]
    )
    assert not list(build_of(copied).rglob("release/*/scores.json"))
    done = make("release", "LICENSE=two words", *copied)
    assert done.returncode != 0 and "LICENSE: expected" in done.stderr


def test_the_f16_can_be_removed_and_only_what_changes_calls_for_it(copied):
    f16 = next(path for path in build_of(copied).rglob("tiny-12e-F16.gguf") if path.parent.name == "gguf")
    scripts_in(make("quants", "KEEP_F16=no", *copied))
    assert not f16.exists() and not scripts_in(make("-n", "quants", "KEEP_F16=no", *copied))
    assert not scripts_in(make("-n", "release", *copied))
    before = {path: path.stat().st_mtime_ns for path in f16.parent.rglob("*.gguf")}
    remade = make("-j2", "quants", "CD_SCOPE=experts", *copied)
    assert {"convert_to_gguf", "quantize_gguf"} == scripts_in(remade), remade.stdout + remade.stderr
    after = {path: path.stat().st_mtime_ns for path in f16.parent.rglob("*.gguf")}
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


def test_settings_that_change_no_type_build_nothing_again(copied):
    cuts = "CD_CUTS=0.03,0.37"  # the tiers of 1/30,11/30
    done = make("quants", cuts, *copied)
    assert scripts_in(done) == {"quantize_gguf"} and "built already" in done.stdout
    assert not scripts_in(make("quants", cuts, *copied))


def test_calibration_data_v5_is_fetched_by_its_rule(variables):
    shown = make(
        "-n", "imatrix", *[value for value in variables if not value.startswith("CALIBRATION=")], "CALIBRATION=v5"
    )
    assert {"fetch_calibration", "build_imatrix", "report_imatrix"} <= scripts_in(shown)
    assert "calibration/calibration_datav5.txt" in shown.stdout


AFTER_SCORES = {"compare_scores", "build_release"}
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
        ("scoring/score_tables.py", AFTER_SCORES),
        ("release/gates.py", {"build_release"}),
        ("ollama/ollama_template.py", {"build_release"}),
        ("analysis/decoder.py", set()),
        ("page/sections.py", set()),
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
    assert len(re.findall(r"expert_drop.py --source \S+/tiny-Q8_0.gguf", shown.stdout)) == 3, shown.stderr
    assert shown.stdout.count("eval_gpqa_v3.sh") == 3  # the reference is what `make eval` has scored
    assert "HELDOUT_QUANT: expected" in make("-n", "eval-heldout", "HELDOUT_QUANT=Q2_K", *variables).stderr
    runs = sorted(
        (path.parent for path in build_of(variables).rglob("summary.json")), key=lambda run: "keep12" in str(run)
    )
    done = make("compare", f"RUNS={' '.join(map(str, runs))}", *variables)
    assert "tiny-12e against tiny: " in done.stdout and "**In-sample:** 6 of the 6" in done.stdout, done.stderr
    scores = next((build_of(variables) / "comparison").rglob("scores.md"))
    assert (
        scores.read_text() in done.stdout
        and scores.with_suffix(".png").exists()
        and scores.with_suffix(".json").exists()
    )
    refused = make("compare", *variables)
    assert refused.returncode != 0 and "RUNS: expected" in refused.stderr


def test_another_keep_count_never_reuses_a_file_of_the_first(variables):
    other = [value if not value.startswith("KEEP=") else "KEEP=11" for value in variables]
    ran = scripts_in(make("-n", "release", *other))
    assert "teacher_force_analysis" not in ran
    assert {"generate_drop_map", "expert_drop", "convert_to_gguf", "quantize_gguf", "eval_gpqa_v3"} <= ran


def test_other_inputs_under_the_same_name_are_refused(variables, demo_model):
    other = [value if not value.startswith("MODEL=") else f"MODEL={demo_model}" for value in variables]
    done = make("-n", "release", *other)
    assert done.returncode != 0 and "expected an output of" in done.stderr


@pytest.mark.parametrize(
    "change, words",
    [
        ("MODEL=no/such/place", "neither"),
        ("MODEL=nobody/nothing", "Hub repository"),
        ("KEEP=17", "16 (experts)"),
        ("KEEP=3", "from 4"),
        ("QUESTIONS=nowhere.csv", "nowhere.csv"),
    ],
)
def test_bad_variables_end_in_one_clear_line(variables, change, words, tmp_path):
    name = change.split("=")[0]
    changed = [change if value.startswith(f"{name}=") else value for value in variables[:-1]]
    done = make("drop", *changed, f"BUILD={tmp_path}")
    assert done.returncode != 0 and words in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not list(tmp_path.rglob("drop_map.json"))


def test_flags_of_the_tools_change_where_they_are_built(variables, tmp_path):
    for flags in ("", "-DX=1"):
        assert (
            "build_llama_cpp.sh"
            in make("-n", "setup", "LLAMA_CPP=", f"CMAKE_ARGS={flags}", f"MOE_TOOLS_CACHE={tmp_path}").stdout
        )
    assert "build_llama_cpp.sh" in make("-n", "setup", "LLAMA_CPP=", "CMAKE_ARGS=-DX=1").stdout


def test_a_question_file_of_the_same_name_has_paths_of_its_own(variables, few_questions, tmp_path):
    twin = tmp_path / few_questions.name
    twin.write_text("".join(few_questions.read_text().splitlines(keepends=True)[:5]))
    other = [f"QUESTIONS={twin}" if value.startswith("QUESTIONS=") else value for value in variables]
    assert "teacher_force_analysis" in scripts_in(make("-n", "release", *other))


@pytest.mark.parametrize(
    "change, words",
    [
        ("KEEP=12a", "whole number"),
        ("NAME=a b", "letters"),
        ("QUANTS=Q9_X", "found Q9_X"),
        ("CALIBRATION=a b.txt", "without blanks"),
        ("BUILD=/tmp/a b", "without blanks"),
    ],
)
def test_malformed_variables_stop_make_before_anything_runs(variables, change, words):
    name = change.split("=")[0]
    done = make("-n", "release", *[change if value.startswith(f"{name}=") else value for value in variables])
    assert done.returncode != 0 and words in done.stderr and not done.stdout
