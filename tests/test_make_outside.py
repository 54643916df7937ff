"""Words from outside that make and the shell would act on: no setting, target, run or file name runs anything."""

import fcntl
import os
import re
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from conftest import REPO

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


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, **environment}
    return subprocess.run(["make", *arguments], cwd=REPO, capture_output=True, text=True, env=environment)


def refused(done: subprocess.CompletedProcess, name: str, canary: Path) -> None:
    """Assert that make stopped in one line that names the setting, and that nothing ran."""
    assert done.returncode != 0 and not done.stdout and not canary.exists(), (name, done.stdout)
    assert len(done.stderr.splitlines()) == 1 and f" {name}: expected " in done.stderr, done.stderr


@pytest.mark.parametrize("word", WORDS)
def test_no_setting_runs_anything(word, tmp_path):
    canary = tmp_path / "canary"
    harmless = HARMLESS.get(word, [])
    tried = [name for name in SETTINGS if name not in harmless]
    with ThreadPoolExecutor(2) as pool:
        for name, done in zip(tried, pool.map(lambda name: make("release", f"{name}={word.format(canary)}"), tried)):
            refused(done, name, canary)
    for name in harmless:
        make("-n", "quants", f"{name}={word.format(canary)}")
        assert not canary.exists(), name


@pytest.mark.parametrize("word", WORDS)
def test_no_target_run_or_environment_runs_anything(word, tmp_path):
    canary = tmp_path / "canary"
    text = word.format(canary)
    if not word.startswith("-"):
        refused(make("-n", "release", text), "target", canary)
        refused(make("-n", "quants", MOE_TOOLS_CACHE=text), "MOE_TOOLS_CACHE", canary)
    refused(make("new", f"RUN={text}"), "RUN", canary)
    refused(make("new", "RUN=own", f"FROM={text}"), "FROM", canary)


@pytest.mark.parametrize("setting", ["RUN=../own", "RUN=a b", "FROM=/etc/own"])
def test_a_run_is_a_name_and_no_path(setting):
    done = make("new", "RUN=own", setting)
    assert done.returncode != 0 and "expected a name" in done.stderr


@pytest.mark.parametrize("place", ["/", "//", "/tmp/..", "{}/link"])
def test_the_root_of_all_folders_is_no_place_for_a_build(tmp_path, place):
    (tmp_path / "link").symlink_to("/")
    done = make("-n", "drop", f"BUILD={place.format(tmp_path)}")
    assert done.returncode != 0 and "BUILD: expected a folder for what is built, found /" in done.stderr


def test_what_a_run_file_makes_of_its_settings_is_looked_at_too(tmp_path):
    run, canary = REPO / "runs/test-outside.mk", tmp_path / "canary"
    try:
        run.write_text(f"MODEL = data/demo/model\nBASE = x;touch {canary}\n")
        refused(make("-n", "release", "RUN=test-outside"), "BASE", canary)
    finally:
        run.unlink()


@pytest.mark.parametrize("name", ["x`touch${IFS}CANARY`", "x$(touch CANARY)", "x;touch CANARY", "x'"])
def test_a_file_in_runs_whose_name_is_none_of_a_run_runs_nothing(name):
    run = REPO / f"runs/{name}.mk"
    try:
        run.write_text("")
        for words in (["compare", "RUNS=demoo"], ["demo", "FROM=demx"], ["help-all"], ["help"]):
            done = make(*words)
            assert "CANARY" not in done.stdout + done.stderr and not (REPO / "CANARY").exists()
        assert "did you mean demo?" in make("compare", "RUNS=demoo").stderr
    finally:
        run.unlink()


@pytest.mark.parametrize(
    "name",
    ["PYTHONSAFEPATH", "PYTHONOPTIMIZE", "PYTHONHASHSEED", "PYTHONINTMAXSTRDIGITS", "PYTHONHOME", "PYTHONVERBOSE"],
)
def test_python_starts_whatever_the_environment_says_of_it(name, tmp_path):
    done = make("new", "RUN=demo", **{name: "x"})  # there is one: a refusal of our own
    assert len(done.stderr.splitlines()) == 2 and "runs/demo.mk" in done.stderr, done.stderr


def test_runs_are_found_whatever_quotes_a_listing_has():
    done = make("settings", QUOTING_STYLE="shell-always")
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_names_of_a_models_files_run_nothing(demo_model, tmp_path):
    model = shutil.copytree(demo_model, tmp_path / "model")
    for name in ("x", "x;>canary.safetensors"):  # after the first make would find its prerequisite, and run the rest
        (model / name).write_text("")
    done = make("drop", f"MODEL={model}", "NAME=m", f"BUILD={tmp_path}/build")
    assert done.returncode != 0 and "expected names of files" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (REPO / "canary.safetensors").exists()
    # Nor do those of what lies in the build folder: of an assistant that was fetched, and of an evaluation.
    for place in ("full/assistants/google-x/a;>canary;b.safetensors", "109e/eval/a`>canary`b/scores.json"):
        odd = tmp_path / "build/m" / place
        odd.parent.mkdir(parents=True)
        odd.write_text("{}")
        for goal in (["draft", "DRAFT=google/x"], ["report", "TASK=gsm8k_cot_zeroshot"]):
            done = make("-n", *goal, f"MODEL={demo_model}", "NAME=m", f"BUILD={tmp_path}/build")
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
        refused(make("drop", "-n", **{name: f"$(shell touch {tmp_path}/canary)"}), name, tmp_path / "canary")


def test_what_is_not_ours_in_the_environment_is_handed_on_as_it_is(tmp_path):
    others = ("HF_TOKEN", "https_proxy", "HTTPS_PROXY", "no_proxy", "TMPDIR", "XDG_CACHE_HOME", "CUDA_VISIBLE_DEVICES")
    others += ("SSL_CERT_FILE", "PIP_INDEX_URL", "HF_HOME", "LD_LIBRARY_PATH", "CXX", "CI", "OMP_NUM_THREADS", "TERM")
    given = {name: f"$(shell touch {tmp_path}/canary) # {name}" for name in others}
    (tmp_path / "say").write_text("printenv >>$SAID")
    said = tmp_path / "said"
    assert make("help", BASH_ENV=str(tmp_path / "say"), SAID=str(said), **given).returncode == 0
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
        refused(make("help", f"{name}=a{sign}b"), name, tmp_path / "canary")


@pytest.mark.parametrize("sign", ["\x1b[31m", "\a", "\x7f", "\x9b1m", "\b"])
def test_no_setting_has_a_sign_that_a_terminal_obeys(tmp_path, sign):
    done = make("settings", f"DOMAIN_COLUMN=x{sign}")
    refused(done, "DOMAIN_COLUMN", tmp_path / "canary")
    assert "found a control character in it" in done.stderr and sign not in done.stderr
    done = make(f"x{sign}")
    assert done.returncode != 0 and sign not in done.stderr


def test_without_bash_that_is_what_is_said(tmp_path):
    (tmp_path / "make").symlink_to(shutil.which("make"))
    done = make("drop", PATH=str(tmp_path))
    assert done.returncode != 0 and "bash: expected on PATH; found none" in done.stderr.splitlines()[-1]


def test_an_encoding_of_streams_does_not_reach_python(tmp_path):
    """Python does not start with one that it does not know, and writes others in place of UTF-8."""
    (tmp_path / "say").write_text("printenv PYTHONIOENCODING >>$SAID || echo none >>$SAID")
    given = {"PYTHONIOENCODING": "nosuch", "BASH_ENV": str(tmp_path / "say"), "SAID": str(tmp_path / "said")}
    assert make("help", **given).returncode == 0
    assert (tmp_path / "said").read_text().splitlines()[-1] == "none"
    assert "did you mean analyze?" in make("analyse", **given).stderr


@pytest.mark.parametrize("place", ["SEAL_KEY", "home", "XDG_STATE_HOME", "HOME"])
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_to_the_key_below_the_build_folder_is_refused(place, link, tmp_path):
    """A step that writes a file of that name would write the key: whoever knows the words could seal all."""
    here = {"SEAL_KEY": "", "XDG_STATE_HOME": "", "HOME": str(tmp_path)}
    at, given = {
        "SEAL_KEY": ("own.key", {"SEAL_KEY": f"{tmp_path}/own.key"}),
        "home": ("own.key", {"SEAL_KEY": "~/own.key"}),
        "XDG_STATE_HOME": ("moe-tools/seal.key", {"XDG_STATE_HOME": str(tmp_path)}),
        "HOME": (".local/state/moe-tools/seal.key", {}),
    }[place]
    (tmp_path / at).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / at).write_bytes(b"k" * 32)
    (tmp_path / "build/x").mkdir(parents=True)
    assert make("drop", "-n", f"BUILD={tmp_path}/build", **here | given).returncode == 0
    link(tmp_path / at, tmp_path / "build/x/settings.txt")
    done = make("drop", "-n", f"BUILD={tmp_path}/build", **here | given)
    found = "no link to the key of the seals" if link is os.link else "no link, found "
    assert done.returncode != 0 and f"expected {found}" in done.stderr, done.stderr


@pytest.mark.parametrize("name", ["CALIBRATION", "QUESTIONS", "OTHER_MAPS", "DRAFT"])
@pytest.mark.parametrize("word", ["test", "./upload", "FORCE"])
def test_a_file_with_the_name_of_a_target_does_not_stand_for_it(name, word, tmp_path):
    refused(make("imatrix", "-n", f"{name}={word}", f"BUILD={tmp_path}/build"), name, tmp_path / "build")


def test_letters_are_those_of_c_wherever_make_looks_for_some():
    """In Turkish [A-Z] has no I, and in other languages it has letters with accents."""
    text = "\n".join(path.read_text() for path in REPO.glob("make/*.mk")).replace("\\\n", " ")
    asked = re.findall(r"(LC_ALL=C |)\b(?:sed|grep) ((?:'[^'\n]*'|[^|'\n])*)", text)
    of_letters = [before for before, words in asked if re.search(r"\[[^]]*[A-Za-z]-[A-Za-z]", words)]
    assert len(of_letters) > 10 and set(of_letters) == {"LC_ALL=C "}


def test_tools_run_where_nothing_lay_before():
    lines = make("-n", "lock", "audit", "sbom").stdout
    assert len(re.findall("/bin/", lines)) == len(re.findall(r'"\$tool"/bin/', lines)) >= 6


def test_a_link_in_the_build_folder_is_refused(tmp_path):
    """A step writes, moves and removes through a link to a folder."""
    build = tmp_path / "build/gemma-4-demo"
    (build / "full").mkdir(parents=True)
    (tmp_path / "build/.built-by-this-project").touch()
    (tmp_path / "mine").mkdir()
    (build / "full/checkpoint").symlink_to(tmp_path / "mine")  # as a step makes it
    assert make("drop", "-n", f"BUILD={tmp_path}/build").returncode == 0
    for target in (tmp_path / "mine", tmp_path / "absent", build / "full"):
        (build / "y").symlink_to(target)
        done = make("drop", "-n", f"BUILD={tmp_path}/build")
        assert done.returncode != 0 and f"expected no link, found {build}/y;" in done.stderr
        (build / "y").unlink()
    # Nor deeper in this model's folder; other folders can be builds of their own.
    for place, refuses in (("gemma-4-demo/x/full/checkpoint", True), ("kills/1/gemma-4-demo/full/checkpoint", False)):
        link = tmp_path / "build" / place
        link.parent.mkdir(parents=True)
        link.symlink_to(tmp_path / "mine")
        done = make("drop", "-n", f"BUILD={tmp_path}/build")
        assert (f"expected no link, found {link};" in done.stderr) == refuses == bool(done.returncode), done.stderr
        link.unlink()
    # Where the pruned model's folder has that very name, steps do write there.
    for names in (["BUILD={}/build", "NAME=full"], ["BUILD={}/build/gemma-4-demo/full", "NAME=checkpoint"]):
        (tmp_path / "build/full").mkdir(exist_ok=True)
        if names[1] == "NAME=full":
            (tmp_path / "build/full/checkpoint").symlink_to(tmp_path / "mine")
        done = make("drop", "-n", *(name.format(tmp_path) for name in names), "VARIANT=checkpoint")
        assert done.returncode != 0 and "expected no link, found " in done.stderr
    # Not only where a model is made.
    (build / "y").symlink_to(tmp_path / "mine")
    done = make("rehearse", "-n", f"BUILD={tmp_path}/build", "LAYERS=2")
    assert done.returncode != 0 and "expected no link, found " in done.stderr
    assert "LAYERS: expected a whole number" in make("rehearse", "-n", f"BUILD={tmp_path}/b", "LAYERS=../x").stderr


@pytest.mark.parametrize(
    "name", ["a -t scripts", "a\nb", "x;y", "q'r", "b\\s", "$(touch canary)", "[z", "x!=PATH=build:.json"]
)
def test_a_name_in_the_build_folder_that_is_more_than_one_word_is_refused(name, tmp_path):
    (tmp_path / "build/x").mkdir(parents=True)
    (tmp_path / "build/x" / name).touch()
    done = make("drop", "-n", f"BUILD={tmp_path}/build")
    assert done.returncode != 0 and len(done.stderr.splitlines()) == 1
    assert "expected names without blanks and signs that make or the shell act on, found " in done.stderr


def test_what_replace_takes_away_is_moved_whatever_its_name(tmp_path):
    """A blank in it made it two words of the shell: mv took files of the project, or moved all to another place."""
    folder = tmp_path / "stage"
    folder.mkdir()
    (tmp_path / "victim").write_text("mine")
    for name in ("settings.txt", "a victim", "a -t victim", "-t"):
        (folder / name).write_text(name)
    (tmp_path / "t.mk").write_text(
        "SHELL := bash\n.SHELLFLAGS := -eu -o pipefail -c\n"
        + "".join(
            re.findall(r"^(?:aside|set_aside) = (?:.*\\\n)*.*\n", (REPO / "make/checks.mk").read_text(), re.MULTILINE)
        )
        + "define rule\ngo:\n\t@true && $(call set_aside,stage/settings.txt,stage/*) && echo done\nendef\n"
        "$(eval $(rule))\n"
    )
    done = subprocess.run(["make", "-f", "t.mk", "go"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    names = sorted(path.name for path in (folder / ".before-settings").iterdir())
    assert names == sorted(["settings.txt", "a victim", "a -t victim", "-t"])
    assert (tmp_path / "victim").read_text() == "mine"


@pytest.mark.parametrize("setting", ["NAME", "VARIANT", "EVAL_NAME", "PRUNED_NAME"])
@pytest.mark.parametrize("name", ["..", ".", ".hidden"])
def test_a_name_is_no_way_to_another_folder(setting, name, tmp_path):
    done = make("eval", f"{setting}={name}", f"BUILD={tmp_path}/build")
    assert done.returncode != 0 and f"{setting}: expected letters" in done.stderr and not (tmp_path / "build").exists()


def test_a_command_in_a_quant_s_name_is_run_by_no_goal(tmp_path):
    """NAME!=COMMAND sets a variable by a command, and the one that make reads there ends in ": FORCE"."""
    folder = tmp_path / "build/gemma-4-demo/109e/gguf"
    folder.mkdir(parents=True)
    (folder / "gemma-4-demo-109e-x!=PATH=build:.gguf.json").write_text('{"imatrix_sha256": null}')
    (tmp_path / "build/FORCE").write_text("#!/bin/sh\ntouch $0.canary\n")
    (tmp_path / "build/FORCE").chmod(0o755)
    for goal in ("help", "quants"):
        done = make(goal, f"BUILD={tmp_path}/build", "-n")
        assert done.returncode != 0 and "expected names " in done.stderr, done.stderr
    assert not (tmp_path / "build/FORCE.canary").exists()


@pytest.mark.parametrize("name", ["EVAL_QUANT", "HELDOUT_QUANT", "LOOP_QUANTS", "TASK_QUANTS", "QUANTS", "DRAFT_TYPE"])
def test_a_setting_that_stands_in_a_rule_sets_nothing(name, tmp_path):
    """NAME!=COMMAND would run one."""
    refused(make("loops", "-n", f"{name}=AUTO-1!=A=", f"BUILD={tmp_path}/build"), name, tmp_path / "build")
    refused(make("help", f"{name}=AUTO-1:", f"BUILD={tmp_path}/build"), name, tmp_path / "build")


@pytest.mark.parametrize("setting", ["CRITERION=random:1!=x", "DOMAINS=x!=y.csv:1", "SERVERS=http://a:1!=x"])
def test_a_setting_that_needs_a_colon_sets_nothing(setting, tmp_path):
    for goal in ("help", "drop"):
        refused(make(goal, "-n", setting, f"BUILD={tmp_path}/build"), setting.split("=")[0], tmp_path / "build")


@pytest.mark.parametrize("goal", ["help", "settings", "status", "targets", "lint"])
@pytest.mark.parametrize(
    "setting", ["BUILD=include {}/evil.mk x", "NAME=define x", "VARIANT=export x", "EVAL_QUANT=a b"]
)
def test_a_setting_is_no_directive_of_make_whatever_the_goal(goal, setting, tmp_path):
    (tmp_path / "evil.mk").write_text(f"$(shell touch {tmp_path}/canary)\n")
    done = make(goal, setting.format(tmp_path))
    assert done.returncode != 0 and not done.stdout and len(done.stderr.splitlines()) == 1, done.stdout
    assert not (tmp_path / "canary").exists()


def test_a_path_that_is_too_long_for_a_command_hides_nothing(tmp_path):
    """find -exec ends where one is longer than 128 KiB, and what comes after it would not be looked at."""
    build, here = tmp_path / "build", os.getcwd()
    build.mkdir()
    os.chdir(build)
    try:
        for _ in range(540):
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
        os.symlink("/etc", "l")
    finally:
        os.chdir(here)
    done = make("drop", "-n", f"BUILD={build}")
    assert done.returncode != 0 and "expected " in done.stderr and len(done.stderr.splitlines()) == 1
    subprocess.run(["rm", "-r", build], check=True)  # pytest's own way fails there


@pytest.mark.parametrize("place", ["torch", "tls", "scripts/tqdm", ".venv/x", "."])
def test_a_build_folder_in_the_project_has_a_name_that_says_so(place):
    """Python would take its files for modules, and loaders for libraries."""
    done = make("plan", "-n", f"BUILD={place}")
    assert done.returncode != 0 and "expected another folder, or one here whose name begins with build" in done.stderr
    assert make("drop", "-n", "BUILD=build-of-a-test").returncode == 0


def test_no_tool_is_run_out_of_the_build_folder(tmp_path):
    for cache in (tmp_path / "cache", tmp_path):
        done = make("doctor", f"BUILD={tmp_path}", f"MOE_TOOLS_CACHE={cache}", "LLAMA_CPP=")
        refused(done, "MOE_TOOLS_CACHE", tmp_path / "canary")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "build")
    (tmp_path / "build").mkdir()
    done = make("doctor", f"BUILD={link}", f"MOE_TOOLS_CACHE={tmp_path / 'build/cache'}", "LLAMA_CPP=")
    refused(done, "MOE_TOOLS_CACHE", tmp_path / "canary")
    assert make("-n", "doctor", f"BUILD={tmp_path / 'none-yet'}", "LLAMA_CPP=").returncode == 0


def test_replace_waits_for_the_end_of_another_run(tmp_path):
    """What the other run is making would be taken away under its hands."""
    log = tmp_path / "build/gemma-4-demo/other/logs/analyse.log"
    log.parent.mkdir(parents=True)
    (log.parent.parent / "report.html").touch()
    asked = ["drop", "-n", "REPLACE=choice", f"BUILD={tmp_path}/build"]
    with open(log, "w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # as a step holds it
        assert make(*asked).returncode == 0  # a dry run takes nothing away
        del asked[1]
        refused(make(*asked), "REPLACE", tmp_path / "canary")
    log.write_text("")


def test_folders_that_another_run_removes_refuse_nothing(tmp_path):
    """find fails where one has gone meanwhile."""
    race = "while :; do mkdir -p build/{1..40}/a/b build/{1..40}/c; rm -rf build/*/a build/*/c; done"
    with subprocess.Popen(["bash", "-c", race], cwd=tmp_path, start_new_session=True) as racing:
        try:
            for _ in range(60):
                look = [REPO / "make/check_build.sh", "build", "build/m/p", tmp_path / "key"]
                done = subprocess.run(look, cwd=tmp_path, capture_output=True, text=True)
                assert (done.stdout, done.stderr) == ("", ""), done
        finally:
            os.killpg(racing.pid, signal.SIGKILL)


def test_a_marker_below_the_build_folder_is_refused(tmp_path):
    """What lies in the folder that it marks would be a build of its own, and the rest none: without seals."""
    (tmp_path / "build/gemma-4-demo/109e").mkdir(parents=True)
    (tmp_path / "build/.built-by-this-project").touch()
    (tmp_path / "build/kills").mkdir()
    (tmp_path / "build/kills/.built-by-this-project").touch()
    assert make("drop", "-n", f"BUILD={tmp_path}/build").returncode == 0
    (tmp_path / "build/gemma-4-demo/109e/.built-by-this-project").touch()
    done = make("drop", "-n", f"BUILD={tmp_path}/build")
    assert done.returncode != 0 and "expected no marker of another build, found " in done.stderr


def test_two_runs_that_begin_at_once_leave_the_settings(tmp_path):
    """One ended with an error of mv, and its make deleted what the other had written: a dead end."""
    for number in range(3):
        target = f"{tmp_path}/build/gemma-4-demo/v{number}/settings.txt"
        asked = ["make", target, f"BUILD={tmp_path}/build", f"VARIANT=v{number}"]
        runs = [subprocess.Popen(asked, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
        said = [run.communicate() for run in runs]
        assert [run.returncode for run in runs] == [0] * 4, said
        assert "KEEP=109" in Path(target).read_text().splitlines()
        assert [path.name for path in Path(target).parent.iterdir()] == ["settings.txt"]


def test_what_a_killed_write_of_settings_left_goes(tmp_path):
    host = subprocess.run(
        "uname -n | sha256sum | cut -c 1-8", shell=True, capture_output=True, text=True
    ).stdout.strip()
    left, others = tmp_path / f".a.txt.{host}-4194304.new", tmp_path / ".a.txt.00000000-4194304.new"
    for path in (left, others):
        path.touch()
    subprocess.run([REPO / "make/to_target.sh", tmp_path / "a.txt"], input=b"x\n", check=True)
    assert (tmp_path / "a.txt").read_text() == "x\n" and not left.exists() and others.exists()


def test_settings_are_written_through_no_name_that_lies_there(tmp_path):
    """A hard link to a file of the project was written over, under the name with the number of the process."""
    (tmp_path / "mine").write_text("mine")
    plant = (
        f'host=$(uname -n | sha256sum | cut -c 1-8); ln mine ".a.txt.$host-$$.new"; exec {REPO}/make/to_target.sh a.txt'
    )
    subprocess.run(["bash", "-c", plant], cwd=tmp_path, input=b"x\n", check=True)
    assert (tmp_path / "mine").read_text() == "mine" and (tmp_path / "a.txt").read_text() == "x\n"


def test_a_build_without_its_marker_is_refused(tmp_path):
    (tmp_path / "build/gemma-4-demo/full").mkdir(parents=True)
    done = make("drop", "-n", f"BUILD={tmp_path}/build")
    assert done.returncode != 0 and "expected its marker .built-by-this-project, found none; if all" in done.stderr


def test_a_file_with_another_name_elsewhere_is_refused(tmp_path):
    """What is written in place would be written there, too."""
    build = tmp_path / "build"
    (build / "kills").mkdir(parents=True)
    (tmp_path / "mine").write_text("mine")
    (build / "a.json").hardlink_to(tmp_path / "mine")
    done = make("drop", "-n", f"BUILD={build}")
    assert (
        done.returncode != 0
        and f"expected no file with another name outside of the build, found {build}/a.json" in (done.stderr)
    )
    (tmp_path / "mine").rename(build / "kills/b.json")  # both lie in the build
    assert make("drop", "-n", f"BUILD={build}").returncode == 0
    (build / "weights.gguf").hardlink_to(build / "a.json")  # as others take a model from here
    (build / "weights.gguf").rename(tmp_path / "weights.gguf")
    for name in ("a.json", "kills/b.json"):
        (build / name).unlink()
    (build / "weights.gguf").hardlink_to(tmp_path / "weights.gguf")
    assert make("drop", "-n", f"BUILD={build}").returncode == 0
