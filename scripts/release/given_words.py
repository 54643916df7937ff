"""What only the releaser says of a release: owner, licence and who quantised, sealed when they are given.

make keeps such words in a text file and gives them again where a command has none. Anybody can edit that file, so a
word from there counts only if it was once given for this very release.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from files.input_errors import InputError, shown
from files.seals import Seal, running_command, seal_said, seals_over

GIVEN_WORDS = ("LICENSE", "OWNER", "QUANTIZED_BY")  # settings of make


def hold_given_words(place: Path, words: Mapping[str, str], before: Iterable[str], base: str) -> None:
    """Seal the words that are given; raise InputError for one of before that is none of those.

    place: make's file, in the build folder. words: by setting, "" for none. before: settings whose word is from there.
    base: digest of the base model; what was said of a release of another one counts for nothing.
    Nothing is sealed unless all of these are good.
    """
    for name in before:
        if words[name] and not _was_given(place, name, _digest(words[name], base)):
            way_out = f"give {name} again, or {name}= for none"
            raise InputError(place, f"{name} as it was given before", shown(words[name]), way_out)
    for name in words.keys() - {*before}:
        if words[name] and not _was_given(place, name, _digest(words[name], base), unsealed=False):
            seal_said(place, _digest(words[name], base), name)


def _was_given(place: Path, name: str, digest: str, unsealed: bool = True) -> bool:
    """Tell whether a word was given here; unsealed: what to say where there are no seals."""
    seals = seals_over(place)
    return seals.of_said(place, digest, name, (running_command(),)) == Seal.VALID if seals else unsealed


def _digest(word: str, base: str) -> str:
    return hashlib.sha256(f"{base} {word}".encode()).hexdigest()
