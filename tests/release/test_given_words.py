"""Words that only the releaser says: kept by make in a text file, and held to what was given."""

from files.input_errors import InputError
from files.seals import MARKER, set_command
from release.given_words import hold_given_words

import pytest

GIVEN = {"LICENSE": "apache-2.0", "OWNER": "me", "QUANTIZED_BY": ""}


def test_a_word_that_was_never_given_is_refused(tmp_path, monkeypatch):
    place, other = tmp_path / "build/a/release/settings.txt", tmp_path / "build/b/release/settings.txt"
    place.parent.mkdir(parents=True)
    (tmp_path / "build" / MARKER).touch()
    set_command("build_release.py")
    hold_given_words(place, GIVEN, before=["QUANTIZED_BY"], base="b")  # none was given, and none is said
    hold_given_words(place, GIVEN, before=["LICENSE", "OWNER"], base="b")
    for word in ("LICENSE", "OWNER", "QUANTIZED_BY"):
        with pytest.raises(InputError, match=rf"settings.txt: expected {word} as .* found 'mit'; give {word} again"):
            hold_given_words(place, {**GIVEN, word: "mit"}, before=[word], base="b")
    with pytest.raises(InputError, match="expected OWNER"):  # nor by the way: nothing is sealed here
        hold_given_words(place, {**GIVEN, "LICENSE": "mit", "OWNER": "you"}, before=["OWNER"], base="b")
    with pytest.raises(InputError, match="expected LICENSE"):
        hold_given_words(place, {**GIVEN, "LICENSE": "mit"}, before=["LICENSE"], base="b")
    with pytest.raises(InputError, match="b/release/settings.txt: expected OWNER"):  # of another release
        hold_given_words(other, GIVEN, before=["OWNER"], base="b")
    with pytest.raises(InputError, match="settings.txt: expected OWNER"):  # in a build of another model
        hold_given_words(place, GIVEN, before=["OWNER"], base="another")
    hold_given_words(tmp_path / "elsewhere.txt", GIVEN, before=["OWNER"], base="b")  # where nothing is sealed
    monkeypatch.setenv("SEALS", "no")
    hold_given_words(other, GIVEN, before=["OWNER"], base="b")
