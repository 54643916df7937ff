"""Words from outside that make and the shell would act on: no setting, target, run or variable runs anything."""

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

from conftest import REPO
from makers.refused_calls import assert_refused, call_make

import pytest

SETTINGS = re.findall(r"^([A-Z0-9_]+) \??=", (REPO / "make/settings.mk").read_text(), re.MULTILINE)
WORDS = [
    "x$(shell touch {})",
    "`touch {}`",
    "x;touch {}",
    "'; touch {}; '",
    '"$$(touch {})"',
    "x\ntouch {}",
    "x | touch {}",
    "-x",
    "x --eval=$(shell touch {})",
]
# Options of cmake begin with a dash, and it takes lists with ";"; a column's name is always in quotation marks.
HARMLESS = {"-x": ["CMAKE_ARGS"], "x;touch {}": ["CMAKE_ARGS", "DOMAIN_COLUMN"], "x | touch {}": ["DOMAIN_COLUMN"]}


@pytest.mark.parametrize("word", WORDS)
def test_no_setting_runs_anything(word, tmp_path):
    canary = tmp_path / "canary"
    harmless = HARMLESS.get(word, [])
    tried = [name for name in SETTINGS if name not in harmless]
    with ThreadPoolExecutor(2) as pool:
        for name, done in zip(
            tried, pool.map(lambda name: call_make("release", f"{name}={word.format(canary)}"), tried)
        ):
            assert_refused(done, name, canary)
    for name in harmless:
        call_make("-n", "quants", f"{name}={word.format(canary)}")
        assert not canary.exists(), name


@pytest.mark.parametrize("word", WORDS)
def test_no_target_run_or_environment_runs_anything(word, tmp_path):
    canary = tmp_path / "canary"
    text = word.format(canary)
    if not word.startswith("-"):
        assert_refused(call_make("-n", "release", text), "target", canary)
        assert_refused(call_make("-n", "quants", MOE_TOOLS_CACHE=text), "MOE_TOOLS_CACHE", canary)
    assert_refused(call_make("new", f"RUN={text}"), "RUN", canary)
    assert_refused(call_make("new", "RUN=own", f"FROM={text}"), "FROM", canary)


@pytest.mark.parametrize("setting", ["RUN=../own", "RUN=a b", "FROM=/etc/own"])
def test_a_run_is_a_name_and_no_path(setting):
    done = call_make("new", "RUN=own", setting)
    assert done.returncode != 0 and "expected a name" in done.stderr


def test_what_a_run_file_makes_of_its_settings_is_looked_at_too(tmp_path):
    run, canary = REPO / "runs/test-outside.mk", tmp_path / "canary"
    try:
        run.write_text(f"MODEL = data/demo/model\nBASE = x;touch {canary}\n")
        assert_refused(call_make("-n", "release", "RUN=test-outside"), "BASE", canary)
    finally:
        run.unlink()


@pytest.mark.parametrize("name", ["x`touch${IFS}CANARY`", "x$(touch CANARY)", "x;touch CANARY", "x'"])
def test_a_file_in_runs_whose_name_is_none_of_a_run_runs_nothing(name):
    run = REPO / f"runs/{name}.mk"
    try:
        run.write_text("")
        for words in (["compare", "RUNS=demoo"], ["demo", "FROM=demx"], ["help-all"], ["help"]):
            done = call_make(*words)
            assert "CANARY" not in done.stdout + done.stderr and not (REPO / "CANARY").exists()
        assert "did you mean demo?" in call_make("compare", "RUNS=demoo").stderr
    finally:
        run.unlink()


@pytest.mark.parametrize(
    "name",
    ["PYTHONSAFEPATH", "PYTHONOPTIMIZE", "PYTHONHASHSEED", "PYTHONINTMAXSTRDIGITS", "PYTHONHOME", "PYTHONVERBOSE"],
)
def test_python_starts_whatever_the_environment_says_of_it(name, tmp_path):
    done = call_make("new", "RUN=demo", **{name: "x"})  # there is one: a refusal of our own
    assert len(done.stderr.splitlines()) == 2 and "runs/demo.mk" in done.stderr, done.stderr


def test_runs_are_found_whatever_quotes_a_listing_has():
    done = call_make("settings", QUOTING_STYLE="shell-always")
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_names_of_a_models_files_run_nothing(demo_model, tmp_path):
    model = shutil.copytree(demo_model, tmp_path / "model")
    for name in ("model", "model;>canary.safetensors"):  # after the first make would run the rest
        (model / name).write_text("")
    done = call_make("drop", f"MODEL={model}", "NAME=m", f"BUILD={tmp_path}/build")
    assert done.returncode != 0 and "expected names of files" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (REPO / "canary.safetensors").exists()
    # Nor do those of what lies in the build folder: of an assistant that was fetched, and of an evaluation.
    for place in ("full/assistants/google-x/a;>canary;b.safetensors", "109e/eval/a`>canary`b/scores.json"):
        odd = tmp_path / "build/m" / place
        odd.parent.mkdir(parents=True)
        odd.write_text("{}")
        for goal in (["draft", "DRAFT=google/x"], ["report", "TASK=gsm8k_cot_zeroshot"]):
            done = call_make("-n", *goal, f"MODEL={demo_model}", "NAME=m", f"BUILD={tmp_path}/build")
            assert done.returncode != 0 and "expected names " in done.stderr, done.stderr
        odd.unlink()
        odd.parent.rmdir()
    assert not (REPO / "canary").exists()


def names_in_our_files() -> set[str]:
    """All that make's files ask for or set, but for what the environment may set; of names in two parts, examples."""
    text = "\n".join(path.read_text() for path in (REPO / "Makefile", *(REPO / "make").glob("*.mk")))
    asked = re.findall(r"(?<!\$)\$\(?(?:call )?([A-Za-z_]\w+)", text)
    made = re.findall(r"^(?:override |define )?(\w\w+) *[:?]?=", text, re.MULTILINE)
    names = {*asked, *made, "AFTER_eval", "DEFAULT_OF_MODEL", "AFTER_$(error no)", "v", "f"}
    return names - {"SHELL", "MAKEFLAGS", "MAKEOVERRIDES"} - {*re.findall(r"^(\w+) \?=", text, re.MULTILINE)}


@pytest.mark.parametrize("option", ["-r", "-e"])
def test_the_environment_sets_nothing_and_runs_nothing(tmp_path, option):
    """Make takes its variables for its own, and expands them: where a name is not set yet, or never is."""
    names = names_in_our_files() - {"MAKECMDGOALS", "MAKE_COMMAND"}
    assert len(names) > 400 and {"SEEDS", "OPENAI", "COUNTING", "hub_id", "MAKE"} <= names
    environment = dict.fromkeys(names, f"$(shell touch {tmp_path}/canary)")
    for goals in (["settings"], ["help"], ["-n", "drop"]):
        clean = {name: value for name, value in os.environ.items() if name not in names}
        expected, done = (
            subprocess.run(["make", option, *goals], cwd=REPO, capture_output=True, text=True, env=given)
            for given in (clean, clean | environment)
        )
        assert done.returncode == 0 and (done.stdout, done.stderr) == (expected.stdout, expected.stderr)
    assert not list(tmp_path.iterdir())
    hidden = ("-*-command-variables-*-", "-*-eval-flags-*-")  # make's names of what it puts into the value of others
    for name in ("MAKECMDGOALS", "MAKE_COMMAND", "MAKEOVERRIDES", *hidden):
        assert_refused(
            call_make("drop", "-n", **{name: f"$(shell touch {tmp_path}/canary)"}), name, tmp_path / "canary"
        )


def test_what_is_not_ours_in_the_environment_is_handed_on_as_it_is(tmp_path):
    others = ("HF_TOKEN", "https_proxy", "HTTPS_PROXY", "no_proxy", "TMPDIR", "XDG_CACHE_HOME", "CUDA_VISIBLE_DEVICES")
    others += ("SSL_CERT_FILE", "PIP_INDEX_URL", "HF_HOME", "LD_LIBRARY_PATH", "CXX", "CI", "OMP_NUM_THREADS", "TERM")
    given = {name: f"$(shell touch {tmp_path}/canary) # {name}" for name in others}
    (tmp_path / "say").write_text("printenv >>$SAID")
    said = tmp_path / "said"
    assert call_make("help", BASH_ENV=str(tmp_path / "say"), SAID=str(said), **given).returncode == 0
    lines = said.read_text().splitlines()
    assert {f"{name}={value}" for name, value in given.items()} | {
        f"{name}={os.environ[name]}" for name in ("HOME", "PATH")
    } <= {*lines}
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "name", ["$(touch canary)", "`touch canary`", "a b", "q'uote", 'dq"x', "x;touch canary", "mäß"]
)
def test_the_name_of_the_checkout_s_folder_runs_nothing(tmp_path, name):
    """`make targets` prints it as a word of the shell, which each line's own make goes into."""
    (tmp_path / name).mkdir()
    for path in REPO.iterdir():
        if path.name != "build":
            (tmp_path / name / path.name).symlink_to(path)
    done = subprocess.run(["make", "targets"], cwd=tmp_path / name, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and not done.stderr and len(lines) > 1
    assert not list(tmp_path.rglob("canary")) and all(line.startswith("make -C ") for line in lines)
    split = subprocess.run(["bash", "-c", f"printf '%s\\0' {lines[0]}"], capture_output=True, text=True)
    words = split.stdout.split("\0")
    assert words[:3] == ["make", "-C", str(tmp_path / name)]
    assert subprocess.run(["bash", "-c", f"{lines[0]} -n"], capture_output=True).returncode == 0
    assert not list(tmp_path.rglob("canary"))


@pytest.mark.parametrize("name", ["BUILD", "NAME", "MODEL", "QUESTIONS", "CALIBRATION", "DROP_MAP", "MOE_TOOLS_CACHE"])
def test_what_ends_a_target_is_in_no_path(tmp_path, name):
    for sign in ":=":
        assert_refused(call_make("help", f"{name}=a{sign}b"), name, tmp_path / "canary")


@pytest.mark.parametrize("sign", ["\x1b[31m", "\a", "\x7f", "\x9b1m", "\b"])
def test_no_setting_has_a_sign_that_a_terminal_obeys(tmp_path, sign):
    done = call_make("settings", f"DOMAIN_COLUMN=x{sign}")
    assert_refused(done, "DOMAIN_COLUMN", tmp_path / "canary")
    assert "found a control character in it" in done.stderr and sign not in done.stderr
    done = call_make(f"x{sign}")
    assert done.returncode != 0 and sign not in done.stderr


def test_a_page_is_shown_without_signs_that_a_terminal_obeys(tmp_path):
    """Also where taking one away leaves another."""
    (show,) = re.findall("^SHOW := @(.*)$", (REPO / "make/steps.mk").read_text(), re.MULTILINE)
    page = b"\x1b[31m\xc2\x9bred\xc2\xc2\x9b\x9b1m\xc2\xc2\xc2\x80\x80\x80 \xc2\xa0\xc3\xbc\n"
    shown = subprocess.run(["bash", "-c", show], input=page, capture_output=True, check=True).stdout
    assert shown == b"[31mred1m \xc2\xa0\xc3\xbc\n"


def test_without_bash_that_is_what_is_said(tmp_path):
    (tmp_path / "make").symlink_to(shutil.which("make"))
    done = call_make("drop", PATH=str(tmp_path))
    assert done.returncode != 0 and "bash: expected on PATH; found none" in done.stderr.splitlines()[-1]


def test_an_encoding_of_streams_does_not_reach_python(tmp_path):
    """Python does not start with one that it does not know, and writes others in place of UTF-8."""
    (tmp_path / "say").write_text("printenv PYTHONIOENCODING >>$SAID || echo none >>$SAID")
    given = {"PYTHONIOENCODING": "nosuch", "BASH_ENV": str(tmp_path / "say"), "SAID": str(tmp_path / "said")}
    assert call_make("help", **given).returncode == 0
    assert (tmp_path / "said").read_text().splitlines()[-1] == "none"
    assert "did you mean analyze?" in call_make("analyse", **given).stderr


@pytest.mark.parametrize("name", ["CALIBRATION", "QUESTIONS", "OTHER_MAPS", "DRAFT"])
@pytest.mark.parametrize("word", ["test", "./upload", "FORCE"])
def test_a_file_with_the_name_of_a_target_does_not_stand_for_it(name, word, tmp_path):
    assert_refused(call_make("imatrix", "-n", f"{name}={word}", f"BUILD={tmp_path}/build"), name, tmp_path / "build")


def test_letters_are_those_of_c_wherever_make_looks_for_some():
    """In Turkish [A-Z] has no I, in other languages it has letters with accents, and in many 0.3 is no number."""
    text = "\n".join(path.read_text() for path in REPO.glob("make/*.mk")).replace("\\\n", " ")
    asked = re.findall(r"(LC_ALL=C |)\b(?:sed|grep) ((?:'[^'\n]*'|[^|'\n])*)", text)
    assert re.findall(r"(\S*) flock -w 0", text) == ["LC_ALL=C"]
    of_letters = [before for before, words in asked if re.search(r"\[[^]]*[A-Za-z]-[A-Za-z]", words)]
    assert len(of_letters) > 10 and set(of_letters) == {"LC_ALL=C "}


def test_tools_run_where_nothing_lay_before():
    lines = call_make("-n", "lock", "audit", "sbom").stdout
    assert len(re.findall("/bin/", lines)) == len(re.findall(r'"\$tool"/bin/', lines)) >= 6


@pytest.mark.parametrize("setting", ["NAME", "VARIANT", "EVAL_NAME", "PRUNED_NAME"])
@pytest.mark.parametrize("name", ["..", ".", ".hidden"])
def test_a_name_is_no_way_to_another_folder(setting, name, tmp_path):
    done = call_make("eval", f"{setting}={name}", f"BUILD={tmp_path}/build")
    assert done.returncode != 0 and f"{setting}: expected letters" in done.stderr and not (tmp_path / "build").exists()


@pytest.mark.parametrize("name", ["EVAL_QUANT", "HELDOUT_QUANT", "LOOP_QUANTS", "TASK_QUANTS", "QUANTS", "DRAFT_TYPE"])
def test_a_setting_that_stands_in_a_rule_sets_nothing(name, tmp_path):
    """NAME!=COMMAND would run one."""
    assert_refused(call_make("loops", "-n", f"{name}=AUTO-1!=A=", f"BUILD={tmp_path}/build"), name, tmp_path / "build")
    assert_refused(call_make("help", f"{name}=AUTO-1:", f"BUILD={tmp_path}/build"), name, tmp_path / "build")


@pytest.mark.parametrize("setting", ["CRITERION=random:1!=x", "DOMAINS=x!=y.csv:1", "SERVERS=http://a:1!=x"])
def test_a_setting_that_needs_a_colon_sets_nothing(setting, tmp_path):
    for goal in ("help", "drop"):
        assert_refused(
            call_make(goal, "-n", setting, f"BUILD={tmp_path}/build"), setting.split("=")[0], tmp_path / "build"
        )


@pytest.mark.parametrize("goal", ["help", "settings", "status", "targets", "lint"])
@pytest.mark.parametrize(
    "setting", ["BUILD=include {}/evil.mk x", "NAME=define x", "VARIANT=export x", "EVAL_QUANT=a b"]
)
def test_a_setting_is_no_directive_of_make_whatever_the_goal(goal, setting, tmp_path):
    (tmp_path / "evil.mk").write_text(f"$(shell touch {tmp_path}/canary)\n")
    done = call_make(goal, setting.format(tmp_path))
    assert done.returncode != 0 and not done.stdout and len(done.stderr.splitlines()) == 1, done.stdout
    assert not (tmp_path / "canary").exists()
