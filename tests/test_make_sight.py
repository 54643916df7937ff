"""The Makefile and what goes with the quants: files for pictures where the model sees, and a draft model where asked.

Whether a model of the Hub sees is not known before its fetch: then the step itself finds out.
"""

import json
import subprocess
from pathlib import Path

from conftest import DEMO, REPO
from files.seals import MARKER

import pytest


def planned(build: Path, *variables: str) -> subprocess.CompletedProcess:
    """A dry run of a release without scores."""
    (build / MARKER).touch()
    arguments = ["make", "-n", "release", "NAME=m", "SCORED=no", f"BUILD={build}", *variables]
    return subprocess.run(arguments, cwd=REPO, capture_output=True, text=True)


def pictures_in(done: subprocess.CompletedProcess) -> list[str]:
    """The names of the files for pictures that a dry run would make."""
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    return sorted(Path(word).name for word in words if "/mmproj-" in word)


def model_with(folder: Path, **config: object) -> str:
    """Write a model folder of a config alone; return the variable that names it."""
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma4", **config}, indent=2))
    return f"MODEL={folder}"


@pytest.mark.parametrize("tower", ["vision_config", "audio_config"])
def test_a_model_with_a_tower_gets_the_types_asked_for(tower, tmp_path):
    model = model_with(tmp_path, **{tower: {"hidden_size": 8}})
    assert pictures_in(planned(tmp_path, model)) == ["mmproj-m-109e-F16.gguf", "mmproj-m-109e-Q8_0.gguf"]
    assert pictures_in(planned(tmp_path, model, "MMPROJ=BF16")) == ["mmproj-m-109e-BF16.gguf"]
    assert pictures_in(planned(tmp_path, model, "MMPROJ=")) == []


def test_a_text_only_model_gets_none_and_remembers_nothing(tmp_path):
    assert pictures_in(planned(tmp_path, f"MODEL={DEMO / 'model'}")) == []
    assert pictures_in(planned(tmp_path, model_with(tmp_path, vision_config=None))) == []
    assert "MMPROJ" not in planned(tmp_path, f"MODEL={DEMO / 'model'}").stdout


def test_of_a_model_that_was_not_fetched_the_step_itself_finds_out(tmp_path):
    assert len(pictures_in(planned(tmp_path, "MODEL=someone/something"))) == 2


def test_an_unknown_type_is_refused_with_the_nearest(tmp_path):
    done = planned(tmp_path, f"MODEL={DEMO / 'model'}", "MMPROJ=Q8")
    assert done.returncode != 0 and "Q8: unknown type in MMPROJ; did you mean Q8_0?" in done.stderr


def test_an_assistant_of_the_hub_is_fetched_once_and_one_of_a_directory_is_taken_as_it_is(tmp_path):
    fetch = "scripts/fetch_model.py --assistant --model google/an-assistant"
    done = planned(tmp_path, "MODEL=someone/something", "DRAFT=google/an-assistant")
    place = f"{tmp_path}/m/full/assistants/google-an-assistant"
    assert done.stdout.count(fetch) == 1 and f"build_draft.py --model {place} " in done.stdout, done.stderr
    Path(place).parent.mkdir(parents=True)
    (tmp_path / ".built-by-this-project").touch()
    Path(f"{place}.txt").write_text("google/an-assistant\n")
    assert fetch not in planned(tmp_path, "MODEL=someone/something", "DRAFT=google/an-assistant").stdout
    local = planned(tmp_path, "MODEL=someone/something", f"DRAFT={DEMO / 'assistant'}")
    assert (
        "fetch_model.py --assistant" not in local.stdout
        and f"build_draft.py --model {DEMO / 'assistant'} " in local.stdout
    )
    wrong = planned(tmp_path, "MODEL=someone/something", "DRAFT=data/demo/asistant")
    assert wrong.returncode != 0 and "data/demo/asistant: expected an assistant, a directory" in wrong.stderr


def test_the_plan_leaves_out_only_an_assistant_that_must_be_fetched_first(tmp_path):
    (tmp_path / MARKER).touch()

    def plan(draft: str) -> str:
        arguments = ["make", "-n", "plan", f"BUILD={tmp_path}", f"DRAFT={draft}"]
        return subprocess.run(arguments, cwd=REPO, capture_output=True, text=True).stdout

    # A folder that holds no assistant is the command's to refuse.
    assert f"--draft {tmp_path} " in plan(str(tmp_path)) and "is planned once" not in plan(str(tmp_path))
    away = plan("google/an-assistant")
    assert "--draft " not in away and "is planned once google/an-assistant is here" in away


def test_what_a_release_has_of_pictures_and_draft_stands_among_its_settings(tmp_path):
    model = model_with(tmp_path, vision_config={"hidden_size": 8})
    drafting = (f"DRAFT={DEMO / 'assistant'}", "DRAFT_TYPE=F16", "OLLAMA_PARAMS=current")
    words = planned(tmp_path, model, "MMPROJ=BF16", *drafting).stdout
    for setting in ("MMPROJ=BF16", *drafting):
        assert f"'{setting}' " in words


def test_status_has_a_line_for_each_that_there_will_be(tmp_path):
    def stages(*variables: str) -> dict[str, str]:
        arguments = ["make", "status", "NAME=m", f"BUILD={tmp_path}/build", *variables]
        done = subprocess.run(arguments, cwd=REPO, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        rows = [line.split() for line in done.stdout.splitlines() if line and line[0].islower()]
        return {row[0]: row[1] for row in rows if len(row) > 2}

    sees = model_with(tmp_path, vision_config={"hidden_size": 8})
    found = stages(sees, f"DRAFT={DEMO / 'assistant'}")
    assert found["mmproj"] == found["draft"] == "missing" and "active-experts" not in found
    active = tmp_path / "build/m/109e/active-experts/active-experts.md"
    active.parent.mkdir(parents=True)
    active.write_text("")
    found = stages(f"MODEL={DEMO / 'model'}", "DRAFT=")
    assert found["active-experts"] == "done" and not {"mmproj", "draft"} & found.keys()
