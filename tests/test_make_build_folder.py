"""What lies in a build folder and would lead make and its steps astray: links, names, markers, runs at once."""

import fcntl
import os
import re
import signal
import subprocess
from pathlib import Path

from conftest import REPO
from makers.refused_calls import assert_refused, call_make

import pytest


@pytest.mark.parametrize("place", ["/", "//", "/tmp/..", "{}/link"])
def test_the_root_of_all_folders_is_no_place_for_a_build(tmp_path, place):
    (tmp_path / "link").symlink_to("/")
    done = call_make("-n", "drop", f"BUILD={place.format(tmp_path)}")
    assert done.returncode != 0 and "BUILD: expected a folder for what is built, found /" in done.stderr


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
    (tmp_path / "build/gemma-4-demo").mkdir(parents=True)
    assert call_make("drop", "-n", f"BUILD={tmp_path}/build", **here | given).returncode == 0
    link(tmp_path / at, tmp_path / "build/gemma-4-demo/settings.txt")
    done = call_make("drop", "-n", f"BUILD={tmp_path}/build", **here | given)
    found = "no link to the key of the seals" if link is os.link else "no link, found "
    assert done.returncode != 0 and f"expected {found}" in done.stderr, done.stderr


def test_a_link_in_the_build_folder_is_refused(tmp_path):
    """A step writes, moves and removes through a link to a folder."""
    build = tmp_path / "build/gemma-4-demo"
    (build / "full").mkdir(parents=True)
    (tmp_path / "build/.built-by-this-project").touch()
    (tmp_path / "mine").mkdir()
    (build / "full/checkpoint").symlink_to(tmp_path / "mine")  # as a step makes it
    assert call_make("drop", "-n", f"BUILD={tmp_path}/build").returncode == 0
    for target in (tmp_path / "mine", tmp_path / "absent", build / "full"):
        (build / "y").symlink_to(target)
        done = call_make("drop", "-n", f"BUILD={tmp_path}/build")
        assert done.returncode != 0 and f"expected no link, found {build}/y;" in done.stderr
        (build / "y").unlink()
    # Nor deeper in this model's folder; other folders can be builds of their own.
    for place, refuses in (("gemma-4-demo/x/full/checkpoint", True), ("kills/1/gemma-4-demo/full/checkpoint", False)):
        link = tmp_path / "build" / place
        link.parent.mkdir(parents=True)
        link.symlink_to(tmp_path / "mine")
        done = call_make("drop", "-n", f"BUILD={tmp_path}/build")
        assert (f"expected no link, found {link};" in done.stderr) == refuses == bool(done.returncode), done.stderr
        link.unlink()
    # Where the pruned model's folder has that very name, steps do write there.
    for names in (["BUILD={}/build", "NAME=full"], ["BUILD={}/build/gemma-4-demo/full", "NAME=checkpoint"]):
        (tmp_path / "build/full").mkdir(exist_ok=True)
        if names[1] == "NAME=full":
            (tmp_path / "build/full/checkpoint").symlink_to(tmp_path / "mine")
        done = call_make("drop", "-n", *(name.format(tmp_path) for name in names), "VARIANT=checkpoint")
        assert done.returncode != 0 and "expected no link, found " in done.stderr
    # Not only where a model is made.
    (build / "y").symlink_to(tmp_path / "mine")
    done = call_make("rehearse", "-n", f"BUILD={tmp_path}/build", "LAYERS=2")
    assert done.returncode != 0 and "expected no link, found " in done.stderr
    assert "LAYERS: expected a whole number" in call_make("rehearse", "-n", f"BUILD={tmp_path}/b", "LAYERS=../x").stderr


@pytest.mark.parametrize(
    "name", ["a -t scripts", "a\nb", "x;y", "q'r", "b\\s", "$(touch canary)", "[z", "x!=PATH=build:.json"]
)
def test_a_name_in_the_build_folder_that_is_more_than_one_word_is_refused(name, tmp_path):
    (tmp_path / "build/x").mkdir(parents=True)
    (tmp_path / "build/x" / name).touch()
    done = call_make("drop", "-n", f"BUILD={tmp_path}/build")
    assert done.returncode != 0 and len(done.stderr.splitlines()) == 1
    assert "expected names without blanks and signs that make or the shell act on, found " in done.stderr


def test_the_build_folder_is_looked_through_where_there_is_no_proc(without_proc, tmp_path):
    """Nothing was seen there: <(...) of the shell is a file of /dev/fd, and that leads to /proc."""
    (tmp_path / "build/a b").mkdir(parents=True)
    for found in (r"a\ b", "lnk"):
        done = without_proc(REPO / "make/check_build.sh", tmp_path / "build", tmp_path / "build/m/p", tmp_path / "key")
        assert f"found {tmp_path}/build/{found}; " in done.stdout and not done.stderr, done
        if found != "lnk":
            (tmp_path / "build/a b").rmdir()
            (tmp_path / "build/lnk").symlink_to("/tmp")


@pytest.fixture
def set_aside(tmp_path):
    """A folder `stage`, and make's rule that sets aside what is in it, without its rest: a function that runs it."""
    (tmp_path / "stage").mkdir()
    text = (REPO / "make/checks.mk").read_text()
    (tmp_path / "t.mk").write_text(
        "SHELL := bash\n.SHELLFLAGS := -eu -o pipefail -c\n"
        + "".join(re.findall(r"^(?:aside|set_aside|no_room) = (?:.*\\\n)*.*\n", text, re.MULTILINE))
        + "define rule\ngo:\n\t@true && $(call set_aside,stage/settings.txt,stage/*) && echo done\nendef\n"
        "$(eval $(rule))\n"
    )

    def go(path: str = os.environ["PATH"]) -> subprocess.CompletedProcess:
        made = os.environ | {"PATH": path}
        return subprocess.run(["make", "-f", "t.mk", "go"], cwd=tmp_path, env=made, capture_output=True, text=True)

    return go


def test_what_replace_takes_away_is_moved_whatever_its_name(set_aside, tmp_path):
    """A blank in it made it two words of the shell: mv took files of the project, or moved all to another place."""
    folder = tmp_path / "stage"
    (tmp_path / "victim").write_text("mine")
    for name in ("settings.txt", "a victim", "a -t victim", "-t"):
        (folder / name).write_text(name)

    def go() -> None:
        done = set_aside()
        assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr

    # A run that a full disk or a kill has broken off on the way has half of it in a folder of another name.
    (folder / ".before-settings.new").mkdir()
    (folder / "a victim").rename(folder / ".before-settings.new/a victim")
    go()
    names = sorted(path.name for path in (folder / ".before-settings").iterdir())
    assert names == sorted(["settings.txt", "a victim", "a -t victim", "-t"])
    assert (tmp_path / "victim").read_text() == "mine"
    (folder / "made since").touch()
    (folder / ".before-settings").rename(folder / ".before-settings.new")  # all was moved, and the folder not yet named
    (folder / "made since").unlink()
    go()
    (folder / "made since").touch()
    go()
    assert {path.name for path in folder.iterdir()} == {".before-settings"}
    assert sorted(path.name for path in (folder / ".before-settings").iterdir()) == names


def test_what_says_that_all_is_there_is_set_aside_first(set_aside, tmp_path):
    """Of a run that was killed amid the moves the scores stayed without their answers, and were shown."""
    for name in ("answers.jsonl", "lm_eval", "summary.json", "settings.txt"):
        (tmp_path / "stage" / name).touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/mv").write_text('#!/bin/sh\n/bin/mv "$@"\nexit 1\n')  # the first move is the last one
    (tmp_path / "bin/mv").chmod(0o755)
    assert set_aside(f"{tmp_path}/bin:{os.environ['PATH']}").returncode != 0
    assert not (tmp_path / "stage/summary.json").exists() and (tmp_path / "stage/answers.jsonl").exists()
    assert set_aside().returncode == 0
    assert {path.name for path in (tmp_path / "stage").iterdir()} == {".before-settings"}


def test_a_command_in_a_quant_s_name_is_run_by_no_goal(tmp_path):
    """NAME!=COMMAND sets a variable by a command, and the one that make reads there ends in ": FORCE"."""
    folder = tmp_path / "build/gemma-4-demo/109e/gguf"
    folder.mkdir(parents=True)
    (folder / "gemma-4-demo-109e-x!=PATH=build:.gguf.json").write_text('{"imatrix_sha256": null}')
    (tmp_path / "build/FORCE").write_text("#!/bin/sh\ntouch $0.canary\n")
    (tmp_path / "build/FORCE").chmod(0o755)
    for goal in ("help", "quants"):
        done = call_make(goal, f"BUILD={tmp_path}/build", "-n")
        assert done.returncode != 0 and "expected names " in done.stderr, done.stderr
    assert not (tmp_path / "build/FORCE.canary").exists()


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
    done = call_make("drop", "-n", f"BUILD={build}")
    assert done.returncode != 0 and "expected " in done.stderr and len(done.stderr.splitlines()) == 1
    subprocess.run(["rm", "-r", build], check=True)  # pytest's own way fails there


@pytest.mark.parametrize("place", ["torch", "tls", "scripts/tqdm", ".venv/x", "."])
def test_a_build_folder_in_the_project_has_a_name_that_says_so(place):
    """Python would take its files for modules, and loaders for libraries."""
    done = call_make("plan", "-n", f"BUILD={place}")
    assert done.returncode != 0 and "expected another folder, or one here whose name begins with build" in done.stderr
    assert call_make("drop", "-n", "BUILD=build-of-a-test").returncode == 0


def test_no_tool_is_run_out_of_the_build_folder(tmp_path):
    for cache in (tmp_path / "cache", tmp_path):
        done = call_make("doctor", f"BUILD={tmp_path}", f"MOE_TOOLS_CACHE={cache}", "LLAMA_CPP=")
        assert_refused(done, "MOE_TOOLS_CACHE", tmp_path / "canary")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "build")
    (tmp_path / "build").mkdir()
    done = call_make("doctor", f"BUILD={link}", f"MOE_TOOLS_CACHE={tmp_path / 'build/cache'}", "LLAMA_CPP=")
    assert_refused(done, "MOE_TOOLS_CACHE", tmp_path / "canary")
    assert call_make("-n", "doctor", f"BUILD={tmp_path / 'none-yet'}", "LLAMA_CPP=").returncode == 0


@pytest.mark.parametrize("name", ["disk 2", "a;b", "$(touch canary)", "o'brien"])
def test_a_place_of_the_tools_that_is_more_than_a_word_is_refused(name, tmp_path):
    """With a blank in it clean-tools removed another folder, up to the blank."""
    (tmp_path / "disk").mkdir()
    given = {"XDG_CACHE_HOME": f"{tmp_path}/{name}", "MOE_TOOLS_CACHE": ""}
    done = call_make("clean-tools", "YES=1", **given)
    assert done.returncode != 0 and "MOE_TOOLS_CACHE: expected a place without blanks" in done.stderr, done.stderr
    assert (tmp_path / "disk").is_dir() and not (REPO / "canary").exists()


def test_the_folder_that_every_disk_has_is_passed_by(tmp_path):
    """mkfs makes it, root's own, in the topmost folder of a disk."""
    if os.getuid():
        pytest.skip("only root can make a folder that a user cannot list")
    (tmp_path / "build/lost+found").mkdir(parents=True, mode=0o700)
    os.chmod(tmp_path, 0o755)
    asked = ["setpriv", "--reuid=65534", "--clear-groups", REPO / "make/check_build.sh", "build", "build/m/p", "key"]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")
    (tmp_path / "build/m/full/checkpoint/.cache").mkdir(parents=True, mode=0o700)  # of the Hub's client
    (tmp_path / "build/.built-by-this-project").touch()
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")
    (tmp_path / "build/other").mkdir(mode=0o700)
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True)
    assert "expected folders that can be listed, found build/other" in done.stdout


def test_replace_waits_for_the_end_of_another_run(tmp_path):
    """What the other run is making would be taken away under its hands."""
    log = tmp_path / "build/gemma-4-demo/other/logs/analyse.log"
    log.parent.mkdir(parents=True)
    (log.parent.parent / "report.html").touch()
    asked = ["drop", "-n", "REPLACE=choice", f"BUILD={tmp_path}/build"]
    with open(log, "w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # as a step holds it
        assert call_make(*asked).returncode == 0  # a dry run takes nothing away
        del asked[1]
        assert_refused(call_make(*asked), "REPLACE", tmp_path / "canary")
    log.write_text("")


def test_folders_that_another_run_removes_refuse_nothing(tmp_path):
    """find fails where one has gone meanwhile."""
    race = "while :; do mkdir -p build/bench{1..40}/{a/b,c}; rm -rf build/*/a build/*/c; done"
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
    assert call_make("drop", "-n", f"BUILD={tmp_path}/build").returncode == 0
    (tmp_path / "build/gemma-4-demo/109e/.built-by-this-project").touch()
    done = call_make("drop", "-n", f"BUILD={tmp_path}/build")
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
    words = "{ uname -n; readlink /proc/self/ns/pid; } | sha256sum | cut -c 1-8"
    host = subprocess.run(words, shell=True, capture_output=True, text=True).stdout.strip()
    left, others = tmp_path / f".a.txt.{host}-4194304.new", tmp_path / ".a.txt.00000000-4194304.new"
    for path in (left, others):
        path.touch()
    subprocess.run([REPO / "make/to_target.sh", tmp_path / "a.txt"], input=b"x\n", check=True)
    assert (tmp_path / "a.txt").read_text() == "x\n" and not left.exists() and others.exists()


def test_settings_are_written_through_no_name_that_lies_there(tmp_path):
    """A hard link to a file of the project was written over, under the name with the number of the process."""
    (tmp_path / "mine").write_text("mine")
    host = "host=$({ uname -n; readlink /proc/self/ns/pid; } | sha256sum | cut -c 1-8)"
    plant = f'{host}; ln mine ".a.txt.$host-$$.new"; exec {REPO}/make/to_target.sh a.txt'
    subprocess.run(["bash", "-c", plant], cwd=tmp_path, input=b"x\n", check=True)
    assert (tmp_path / "mine").read_text() == "mine" and (tmp_path / "a.txt").read_text() == "x\n"


def test_a_build_without_its_marker_is_refused(tmp_path):
    (tmp_path / "build/gemma-4-demo/full").mkdir(parents=True)
    done = call_make("drop", "-n", f"BUILD={tmp_path}/build")
    assert done.returncode != 0 and "expected its marker .built-by-this-project, found none; if all" in done.stderr


def test_a_folder_in_which_other_things_lie_becomes_no_build(tmp_path):
    """Of what lies in a build folder clean knows ours by its name: it deleted downloads of the user's."""
    marker = tmp_path / ".built-by-this-project"
    (tmp_path / "lost+found").mkdir()  # every disk has it
    (tmp_path / ".Trash-1000").mkdir()
    assert call_make(str(marker), f"BUILD={tmp_path}").returncode == 0 and marker.exists()
    for name in ("downloads", ".config"):  # the other one: of somebody's home, where all names are hidden
        marker.unlink(missing_ok=True)
        (tmp_path / name).mkdir()
        done = call_make(str(marker), f"BUILD={tmp_path}")
        assert done.returncode != 0 and not marker.exists(), done.stdout
        assert f"error: {tmp_path}: expected a new or an empty folder, or one of this project, found " in done.stderr
        assert f"/{name} in it" in done.stderr
        (tmp_path / name).rmdir()
    for goal in ("plan", "bench-drop", "rehearse", "kill-test", "drop"):  # whatever comes first marks a new one
        assert f"touch {tmp_path}/new/{marker.name}" in call_make(goal, "-n", f"BUILD={tmp_path}/new").stdout


def test_what_is_no_folder_and_a_folder_where_settings_lie_are_told_in_our_words(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "build/gemma-4-demo/full/source.txt").mkdir(parents=True)
    (tmp_path / "build/.built-by-this-project").touch()
    for name, words in (
        ("file", "expected a folder, found a file; name another one"),
        ("link", "expected a folder, or a link to one, found a link to nothing; make that folder"),
        ("build", f"expected a file of settings, found {tmp_path}/build/gemma-4-demo/full/source.txt; remove"),
    ):
        done = call_make("drop", "-n", f"BUILD={tmp_path / name}")
        assert done.returncode != 0 and words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    (tmp_path / "build/gemma-4-demo/full/source.txt").rmdir()
    os.mkfifo(tmp_path / "build/gemma-4-demo/full/source.txt")
    done = call_make("drop", "-n", f"BUILD={tmp_path}/build")  # make would wait for ever
    assert "expected files and folders, found " in done.stderr and "source.txt; remove it" in done.stderr


def test_a_file_with_another_name_elsewhere_is_refused(tmp_path):
    """What is written in place would be written there, too."""
    build = tmp_path / "build"
    (build / "kills").mkdir(parents=True)
    (build / ".built-by-this-project").touch()
    (tmp_path / "mine").write_text("mine")
    (build / "a.json").hardlink_to(tmp_path / "mine")
    done = call_make("drop", "-n", f"BUILD={build}")
    assert (
        done.returncode != 0
        and f"expected no file with another name outside of the build, found {build}/a.json" in (done.stderr)
    )
    (tmp_path / "mine").rename(build / "kills/b.json")  # both lie in the build
    assert call_make("drop", "-n", f"BUILD={build}").returncode == 0
    (build / "weights.gguf").hardlink_to(build / "a.json")  # as others take a model from here
    (build / "weights.gguf").rename(tmp_path / "weights.gguf")
    for name in ("a.json", "kills/b.json"):
        (build / name).unlink()
    (build / "weights.gguf").hardlink_to(tmp_path / "weights.gguf")
    assert call_make("drop", "-n", f"BUILD={build}").returncode == 0
