"""The Makefile without a build: help, settings, dry runs, what is refused, and an analysis that is killed."""

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

from conftest import REPO
from files.input_errors import sha256_file
from makers.make_runs import build_of, make, scripts_in, variables_of
from release.names import NOT_A_MODEL

import pytest


@pytest.fixture(scope="module")
def unbuilt(tiny_text_model, few_questions, tmp_path_factory) -> list[str]:
    """The variables of a run with nothing built; no test builds there."""
    return variables_of(tiny_text_model, few_questions, tmp_path_factory.mktemp("builds") / "unbuilt")


def test_what_a_task_s_scores_were_made_from_is_no_command(tmp_path):
    task = tmp_path / "gemma-4-demo/109e/tasks/x"
    task.mkdir(parents=True)
    (task / "scores.json").write_text("{}")
    for words, refused in (("run=a || touch b", True), ("run=`touch b`", True), ("run=a\nquestions=b", False)):
        (task / "made-from.txt").write_text(f"{words}\n")
        done = make("-n", "release", f"BUILD={tmp_path}")
        assert (done.returncode != 0) == refused == ("made-from.txt: expected names of files" in done.stderr)


def test_make_alone_prints_what_is_used_every_day_and_help_all_the_rest():
    shown = make().stdout
    every_day = re.findall(r"^  ([\w-]+) +\S", shown, re.MULTILINE)
    targets = "doctor plan analyze drop quants eval release report compare draft active-experts status".split()
    assert every_day[:12] == targets
    assert every_day[12:] == "RUN MODEL KEEP QUESTIONS CALIBRATION QUANTS EVAL_QUANT REPLACE".split()
    everything = make("help-all").stdout
    for word in (*every_day, "eval-heldout", "clean", "CTX", "CMAKE_ARGS", "DROP_MAP"):
        assert re.search(rf"^  {word} ", everything, re.MULTILINE), word


def test_settings_mark_what_the_run_or_the_command_line_sets():
    shown = make("settings", "SEED=7").stdout
    assert "* KEEP               = 109" in shown and "* SEED               = 7" in shown
    assert "  NP                 = 1" in shown and "* EVAL_NAME" not in shown
    environment = {**os.environ, "KEEP": "5", "SEED": "6"}  # of another tool: they change nothing
    done = subprocess.run(["make", "settings"], cwd=REPO, capture_output=True, text=True, env=environment)
    assert "* KEEP               = 109" in done.stdout and "  SEED               = 42" in done.stdout


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


def test_a_killed_analysis_leaves_no_target_and_the_next_run_goes_on(tiny_text_model, few_questions, tmp_path):
    variables = variables_of(tiny_text_model, few_questions, tmp_path / "killed")
    process = subprocess.Popen(
        ["make", "analyze", *variables],
        cwd=REPO,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = build_of(variables) / "tiny/12e/logs/analyse-tiny.log"
    while not log.exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(build_of(variables).rglob("expert_stats.safetensors"))
    ran = scripts_in(make("analyze", *variables))
    assert "fetch_model" not in ran and {"teacher_force_analysis", "generate_drop_map"} <= ran
    assert list(build_of(variables).rglob("drop_map.json"))


def test_calibration_data_v5_is_fetched_by_its_rule(unbuilt):
    shown = make("-n", "imatrix", *unbuilt, "CALIBRATION=v5")
    assert {"fetch_calibration", "build_imatrix", "report_imatrix"} <= scripts_in(shown)
    assert "downloads/calibration_datav5.txt" in shown.stdout


def test_loops_are_looked_for_in_the_full_the_pruned_model_and_each_quant_once(unbuilt):
    shown = make("-n", "loops", "LOOP_QUANTS=Q8_0 IQ2_M", "LOOP_SEEDS=2", *unbuilt).stdout
    command = next(line for line in shown.replace("\\\n", " ").splitlines() if "measure_loops.py" in line)
    files = [Path(word).name for word in command.split() if word.endswith(".gguf")]
    assert files == ["tiny-Q8_0.gguf", "tiny-12e-Q8_0.gguf", "tiny-12e-IQ2_M.gguf"]
    assert "--seed 42 --seeds 2 --max-tokens 1024 --context 1024" in command and "--again" not in command
    # More seeds add answers to those that are there: their number is remembered, and another one is not refused.
    (settings,) = [line for line in shown.splitlines() if "loops/settings.txt" in line and "to_target" in line]
    (remembered,) = [line for line in shown.splitlines() if "loops/files.txt" in line and "to_target" in line]
    assert "LOOP_SEEDS" not in settings and "'LOOP_SEEDS=2'" in remembered


def evaluations(shown: str) -> list[list[str]]:
    """The words of each evaluation of a dry run."""
    lines = shown.replace("\\\n", " ").splitlines()
    return [line.split() for line in lines if "eval_gpqa_v3.sh" in line]


def test_another_task_has_folders_of_its_own_and_scores_a_quant_more(unbuilt):
    file = REPO / "data/demo/tasks/gsm8k.jsonl"
    shown = make(
        "-n", "eval", "TASK=gsm8k_cot_zeroshot", f"TASK_DATA={file}", "TASK_QUANTS=IQ2_M", "SAMPLES=2", *unbuilt
    ).stdout
    runs = evaluations(shown)
    assert len(runs) == 6
    # What the command line gives, make hands on to the script, which would make samples of its own.
    assert all({"TASK=gsm8k_cot_zeroshot", f"QUESTIONS={file}", "SAMPLES="} <= {*run} for run in runs)
    outputs = [next(word for word in run if word.startswith("OUTPUT=")) for run in runs]
    assert {tuple(word.split("/")[-2:]) for word in outputs} == {
        ("gsm8k_cot_zeroshot-Q8_0-samples", "seed-42"), ("gsm8k_cot_zeroshot-Q8_0-samples", "seed-43"),
        ("Q8_0", "seed-42"), ("Q8_0", "seed-43"), ("IQ2_M", "seed-42"), ("IQ2_M", "seed-43"),
    }  # fmt: skip
    assert [run[-2] for run in runs].count("tiny-12e-IQ2_M") == 2
    assert all(f"SEED={output[-2:]}" in run for run, output in zip(runs, outputs))
    # GPQA's own evaluation, and its comparisons, stay where and what they were.
    own = evaluations(make("-n", "eval", *unbuilt).stdout)
    assert len(own) == 2 and all({"TASK=", "SAMPLES="} <= {*run} and "samples" not in " ".join(run) for run in own)


def test_the_page_keeps_scores_of_another_name_beside_those_of_a_task(tiny_text_model, few_questions, tmp_path):
    asked = variables_of(tiny_text_model, few_questions, tmp_path)
    task = ["TASK=gsm8k_cot_zeroshot", f"TASK_DATA={REPO / 'data/demo/tasks/gsm8k.jsonl'}", "EVAL_NAME=third"]
    for number, name in enumerate(("second", "first")):
        scores = tmp_path / f"tiny/12e/eval/{name}/scores.json"
        scores.parent.mkdir(parents=True)
        scores.write_text("{}")
        os.utime(scores, (number, number))
    assert f"--scores {scores} " in make("-n", "eval", *task, *asked).stdout  # of the last
    released = make("-n", "eval", "release", *task, *asked).stdout
    assert f"--scores {tmp_path}/tiny/12e/eval/third/scores.json" in released and str(scores) not in released


def test_an_own_map_is_drawn_where_tiers_need_statistics_and_not_where_they_are_given(unbuilt, tmp_path):
    (tmp_path / "map.json").write_text("{}")
    asked = [f"DROP_MAP={tmp_path / 'map.json'}", *unbuilt, "SCORED=no"]
    ranked = make("-n", "release", *asked)
    assert {"teacher_force_analysis", "plot_expert_stats"} <= scripts_in(ranked) and "--statistics" in ranked.stdout
    given = make("-n", "release", "CD_TIERS=0/1/2", *asked)
    assert not {"teacher_force_analysis", "plot_expert_stats"} & scripts_in(given)
    assert "build_release" in scripts_in(given) and "--statistics" not in given.stdout


def test_an_own_map_s_chats_are_written_anew_of_other_questions(tiny_text_model, few_questions, tmp_path):
    """No statistics say which these were, and the time of a question file tells nothing."""
    (tmp_path / "map.json").write_text("{}")
    asked = [
        *variables_of(tiny_text_model, few_questions, tmp_path),
        f"DROP_MAP={tmp_path / 'map.json'}",
        "CALIBRATION=",
    ]
    (tmp_path / ".built-by-this-project").touch()
    text = tmp_path / "tiny/full/statistics/few/few.txt"
    text.parent.mkdir(parents=True)
    text.touch()
    for digest, anew in ((sha256_file(few_questions)[:12], set()), ("0" * 12, {"render_calibration"})):
        (text.parent / "text-settings.txt").write_text(f"QUESTIONS=few.csv:{digest}\n")
        text.touch()
        assert scripts_in(make("-n", "imatrix", *asked)) & {"render_calibration"} == anew
        assert "render_calibration" in scripts_in(make("-n", "imatrix", "REPLACE=imatrix", *asked))


def test_several_samples_are_runs_of_their_own_and_compared_together(unbuilt):
    shown = make("-n", "eval", "SAMPLES=3", "SEED=7", *unbuilt).stdout
    runs = evaluations(shown)
    seeds = [next(word for word in run if word.startswith("SEED=")) for run in runs]
    assert seeds == ["SEED=7", "SEED=8", "SEED=9"] * 2
    compared = next(line for line in shown.replace("\\\n", " ").splitlines() if "compare_scores.py" in line)
    assert len(re.findall(r"seed-[789]/summary.json", compared)) == 6
    folds = make("-n", "eval-heldout", "FOLDS=2", "SAMPLES=2", *unbuilt).stdout
    assert len(evaluations(folds)) == 6 and folds.count("pool_heldout.py") == 2


@pytest.mark.parametrize(
    "target, option",
    [
        ("quality", "--quality"),
        ("findings", "--findings"),
        ("loops", "--loops"),
        ("active-experts", "--active-experts"),
    ],
)
def test_a_release_waits_for_what_the_same_call_measures(unbuilt, target, option):
    """It may take hours: so a release alone is made without it, and made again once it is there."""
    measures = "measure_" + target.replace("-", "_")
    assert measures not in make("-n", "release", *unbuilt).stdout
    both = make("-n", target, "release", *unbuilt).stdout
    assert both.index(f"{measures}.py") < both.index("build_release.py") < both.index(f" {option} ")


def test_the_evaluation_needs_the_quant_that_it_scores_and_no_other(unbuilt):
    shown = make("-n", "eval", *unbuilt).stdout
    assert set(re.findall(r"--type (\S+)", shown)) == {"Q8_0"}


@pytest.mark.parametrize(
    "given, passed", [("LOCAL_SERVERS=2",) * 2, ("SERVERS=http://a http://b", "SERVERS='http://a")]
)
def test_servers_reach_every_evaluation_and_are_no_setting_of_its_folder(unbuilt, given, passed):
    goals = ["eval", "eval-heldout", "FOLDS=2"]  # both models, and of the folds the full one and two maps
    shown = [make("-n", *goals, *unbuilt, *more).stdout.splitlines() for more in ([], [given])]
    written = [[line for line in lines if "settings.txt" in line] for lines in shown]
    assert written[0] == written[1] != []
    assert [sum(passed in line for line in lines) for lines in shown] == [0, 5]


def test_servers_of_others_score_checkpoints(unbuilt):
    """No GGUF file is built for them, and what no request can say there is no setting of the folder."""
    given = ["BACKEND=openai", "SERVERS=http://a:1 http://b:1"]
    shown = make("-n", "eval", "eval-heldout", "FOLDS=2", *unbuilt, *given).stdout
    scored = [line.split()[-2:] for line in shown.splitlines() if "eval_gpqa_v3.sh" in line]
    assert len(scored) == 5 and not [word for word in ("quantize_gguf", "convert_to_gguf") if word in shown]
    assert all("BACKEND=openai" in line for line in shown.splitlines() if "eval_gpqa_v3.sh" in line)
    places = sorted((name, *Path(file).parts[-2:]) for name, file in scored)
    folds = [(f"tiny-12e-fold{fold}", f"fold{fold}", "checkpoint") for fold in (1, 2)]
    full, pruned = ("tiny", "full", "checkpoint"), ("tiny-12e", "12e", "checkpoint")
    assert places == [full, full, pruned, *folds]
    written = [line for line in shown.splitlines() if "'BACKEND=openai'" in line]
    assert len(written) == 3 and not [line for line in written if "CTX=" in line or "_QUANT=" in line]
    for wrong, words in (
        (["eval", "BACKEND=openai"], "SERVERS: expected addresses"),
        (["release", *given], "BACKEND: expected llama.cpp for a release"),
        (["eval", "BACKEND=vllm"], "BACKEND: expected llama.cpp or openai"),
        (["eval", "SERVERS=http://b/ http://me:a-secret@a"], "SERVERS: expected addresses"),  # before the log has it
        (["settings", "SERVERS=http://b/a-secret"], "SERVERS: expected addresses"),
    ):
        done = make("-n", *wrong, *unbuilt)
        assert done.returncode != 0 and words in done.stderr
        assert "a-secret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "change, words",
    [
        ("MODEL=no/such/place", "no directory and no Hub id"),
        ("MODEL=nobody/nothing", "Hub"),
        ("KEEP=16", "from 4 (experts per token) to 15"),
    ],
)
def test_a_bad_model_or_keep_count_ends_in_one_clear_line(unbuilt, change, words, tmp_path):
    done = make("drop", *unbuilt[:-1], change, f"BUILD={tmp_path}")
    assert done.returncode != 0 and words in done.stderr + done.stdout and "Traceback" not in done.stderr, done.stderr
    assert not list(tmp_path.rglob("drop_map.json"))


def test_flags_of_the_tools_change_where_they_are_built(tmp_path):
    for flags in ("", "-DX=1"):
        assert (
            "build_llama_cpp.sh"
            in make("-n", "setup", "LLAMA_CPP=", f"CMAKE_ARGS={flags}", f"MOE_TOOLS_CACHE={tmp_path}").stdout
        )
    assert "build_llama_cpp.sh" in make("-n", "setup", "LLAMA_CPP=", "CMAKE_ARGS=-DX=1").stdout


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["release", "KEEP=12a"], "KEEP: expected a whole number above 0, found '12a'"),
        (["release", "NAME=a b"], "NAME: expected letters"),
        *(
            (["release", f"PRUNED_NAME=a-{word}b"], f"PRUNED_NAME: expected a name without {word}")
            for word in NOT_A_MODEL
        ),
        (["release", "VARIANT=a-CD"], "PRUNED_NAME: expected a name without -CD, -AUTO or -PAD at its end"),
        (["release", "QUANTS=Q9_X"], "Q9_X: unknown quant"),
        (["release", "QUANTS=AUTO-x"], "AUTO-<GiB>"),
        (["release", "CALIBRATION=a b.txt"], "without blanks"),
        (["release", "BUILD=/tmp/a b"], "without blanks"),
        (["release", "QUESTIONS=nowhere.csv"], "nowhere.csv: expected a file, found nothing"),
        (["release", "LICENSE=two words"], "LICENSE: expected"),
        (["release", "BASE=gemma-4-demo,91.4-of-100-on-GPQA-Diamond"], "BASE: expected a Hub id OWNER/NAME or a name"),
        (["quants", "QUANT=Q6_K"], "QUANT: unknown variable; did you mean QUANTS?"),
        (["analyse"], "analyse: unknown target; did you mean analyze?"),
        (["analyze", "RUN=demmo"], "RUN: unknown run demmo"),
        (["eval", "REPLACE=evals"], "evals: unknown stage in REPLACE; did you mean eval?"),
        (["quants", "NO_IMATRIX=Q6_K Q4KM"], "Q4KM: unknown quant"),
        (["quants", "CD_RECIPE=cards"], "CD_RECIPE: expected ours or card, found 'cards'"),
        (["quants", "CD_PROTECT=yes"], "CD_PROTECT: expected attention or nothing"),
        (["analyze", "RECONSTRUCTION=.5"], "a share of the replies such as 0.5, found '.5'"),
        (["loops", "LOOP_QUANTS=Q4_K"], "Q4_K: unknown quant"),
        (["eval", "TASK=gsm8k"], "gsm8k: unknown task; did you mean gsm8k_cot_zeroshot?"),
        (["eval", "SAMPLES=0"], "SAMPLES: expected a whole number from 1 to 999, found '0'"),
        (["eval", "TASK=ifeval", "TASK_DATA=nowhere.jsonl"], "nowhere.jsonl: expected a file, found nothing"),
        (["release", "QUESTIONS=data/x.csv", "EVAL_QUESTIONS=x.csv"], "EVAL_QUESTIONS: expected another name than"),
        (["eval-heldout", "TASK=ifeval"], "TASK: expected a task of GPQA with eval-heldout"),
        (["loops", "LOOP_SEEDS=0"], "LOOP_SEEDS: expected a whole number above 0, found '0'"),
        (["quants", "QUANTS=Q6K"], "Q6K: unknown quant; did you mean Q6_K?"),
        (["release", "NAME=it's"], "NAME: expected text without signs"),
    ],
)
def test_what_is_misspelt_or_out_of_range_stops_make_before_anything_runs(arguments, words):
    done = make("-n", *arguments)
    assert done.returncode != 0 and words in done.stderr and not done.stdout, done.stderr


def test_an_interrupted_make_takes_no_manifest_out_of_a_whole_release(unbuilt):
    kept = re.findall(r"^\.PRECIOUS: (.*)$", make("-pn", "help", *unbuilt).stdout, re.M)
    manifests = {f"{folder}/manifest.json" for folder in ("GGUF", "dynamic-GGUF", "checkpoint")}
    assert manifests <= {path.split("/release/")[-1] for line in kept for path in line.split()}


def test_a_run_of_ones_own_is_a_copy_that_make_reads_and_is_not_written_over(tmp_path):
    place = REPO / "runs/test-own-run.mk"
    try:
        assert make("new", "RUN=test-own-run", "FROM=demo").returncode == 0
        assert "* KEEP               = 109" in make("settings", "RUN=test-own-run").stdout
        again = make("new", "RUN=test-own-run", "FROM=demo")
        assert again.returncode != 0 and "error: " in again.stderr
        place.write_text(place.read_text() + "KEPE = 5\n")
        assert "unknown setting KEPE" in make("-n", "analyze", "RUN=test-own-run").stderr
        for spelled in ("SEAL_KEY = own.key", " SEALS := no", "override SEALS = no", "SEALS ::= no", "export SEALS=no"):
            place.write_text(f"include runs/demo.mk\n{spelled}\n")
            assert "SEAL_KEY and SEALS in the environment" in make("-n", "analyze", "RUN=test-own-run").stderr
    finally:
        place.unlink(missing_ok=True)


def test_each_line_of_targets_is_a_command_for_a_file_that_is_not_there(unbuilt):
    done = make("-s", "targets", *unbuilt, environment={"LLAMA_CPP": "/shared/llama.cpp"})
    lines = done.stdout.splitlines()
    names = ["tiny-12e-CD-Q4_K_M", "tiny-12e-F16", "tiny-12e-IQ2_M", "tiny-12e-Q8_0", "tiny-Q8_0"]
    assert [Path(line.split()[-1]).stem for line in lines] == names, done.stdout + done.stderr
    for line in lines:
        words = shlex.split(line)
        assert words[:3] == ["make", "-C", str(REPO)] and {*unbuilt, "LLAMA_CPP=/shared/llama.cpp"} <= {*words[3:-1]}
    planned = subprocess.run(["bash", "-c", f"{lines[-1]} -n"], cwd="/", capture_output=True, text=True)
    assert planned.returncode == 0 and f"--output {words[-1]}" in planned.stdout, planned.stderr
    refused = make("targets", "REPLACE=quants", *unbuilt)
    assert refused.returncode != 0 and "REPLACE: expected nothing with targets" in refused.stderr


def test_before_a_quant_is_built_verify_looks_at_the_checkpoint_alone(tmp_path):
    """With two quants that were not there it failed: blanks alone are true to make."""
    shown = make("-n", "verify", f"BUILD={tmp_path}/build", "QUANTS=Q8_0 Q6_K").stdout
    assert "No quant is built yet" in shown and "verify_build" not in shown
