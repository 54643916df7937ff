"""The state of a long run: taken up by the same inputs, refused with others, with one owner at a time."""

import threading

from files.input_errors import InputError
from files.run_state import RunState, difference_in_words
from files.safe_files import partial_file
from files.seals import INPUTS_NAME

import pytest

INPUTS = {"model": "a", "layers": (1, 2), "options": {"seed": 42}}


def test_the_first_difference_in_words():
    assert difference_in_words(INPUTS, INPUTS) is None
    assert difference_in_words({"a": 1, "b": 2}, {"a": 1, "b": 3}) == ("b 2", "b 3")
    assert difference_in_words({"ids": [1]}, {"ids": [1, 2]}) == ("1 ids", "2 ids")
    assert difference_in_words({"ids": [1, 2]}, {"ids": [1, 3]}) == ("ids[1] 2", "ids[1] 3")
    assert difference_in_words({"a": {"b": 1}}, {"a": {"b": 2}}) == ("a.b 1", "a.b 2")
    assert difference_in_words({"a": {}}, {"a": {"b": None}}) == ("a {}", 'a {"b": null}')


def test_the_same_inputs_go_on_and_others_are_refused(tmp_path):
    for _ in range(2):
        with RunState(tmp_path / "state", INPUTS) as state:
            (state.directory / "work").write_text("")
    with pytest.raises(InputError, match=r"a run with options\.seed 7, found options\.seed 42"):
        RunState(tmp_path / "state", {**INPUTS, "options": {"seed": 7}})
    with RunState(tmp_path / "state", INPUTS) as state:  # the refused one has let go of the lock
        state.discard()
    assert not list(tmp_path.iterdir())


def test_a_state_has_one_owner(tmp_path):
    with RunState(tmp_path / "state", INPUTS):
        with pytest.raises(InputError, match="an output that no other run is writing"):
            RunState(tmp_path / "state", INPUTS)
        RunState(tmp_path / "state", INPUTS, owner=False)
        with pytest.raises(InputError, match="a run with model"):  # one of the files changed while it read them
            RunState(tmp_path / "state", {**INPUTS, "model": "b"}, owner=False)


def test_what_several_runs_share_is_waited_for(tmp_path, capsys):
    """Two variants of a model at once: hours of logits that both need."""
    waiting, entered = threading.Event(), threading.Event()

    def second() -> None:
        waiting.set()
        with RunState(tmp_path / "state", INPUTS, waits=True) as state:
            entered.set()
            assert (state.directory / "work").exists()

    thread = threading.Thread(target=second)
    with RunState(tmp_path / "state", INPUTS) as state:
        thread.start()
        assert waiting.wait(10) and not entered.wait(0.5)
        (state.directory / "work").write_text("")
    thread.join(10)
    assert entered.is_set() and "state: another run makes it; waiting" in capsys.readouterr().out


def test_what_no_run_left_is_not_touched(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/letter").write_text("dear")
    (tmp_path / "file").write_text("dear")
    for name in ("folder", "file"):
        with pytest.raises(InputError, match="found something else"):
            RunState(tmp_path / name, INPUTS)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["letter"]


def test_a_kill_at_the_first_write_leaves_a_state_that_goes_on(tmp_path):
    (tmp_path / "state").mkdir()
    partial_file(tmp_path / "state/inputs.json").write_text("{")
    with RunState(tmp_path / "state", INPUTS):
        assert {path.name for path in (tmp_path / "state").iterdir()} == {INPUTS_NAME}
