"""By which words a question is known again: under another id, in a reasoning, in a calibration text."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

BLANK = re.compile("FILLER|BLANK")  # in the name of a letter or sign that is one, as of Hangul and Braille
NOTHING = re.compile(f"{BLANK.pattern}|VARIATION SELECTOR|GRAPHEME JOINER")
TELLING_LETTERS = 16  # so many of a text in a row are no accident
ARITHMETIC = "+-*/=<>"  # signs that make two questions of one where one of them stands between two numbers
# Others stand for them, and every dash (Unicode's category Pd) for a minus. This list need not be whole: a sign that is
# not known makes no other question.
SPELLINGS = {"−": "-"} | dict.fromkeys("×·⋅∙∗", "*") | dict.fromkeys("÷∕⁄", "/")
# Blanks, of which NFKD makes one (that of Ogham is a line), brackets, and ^: NFKD makes raised numbers plain.
SAYS_NOTHING = re.compile(r"[\s()\[\]{}^]+", re.ASCII)
UNKNOWN = "?"  # a sign that may be any, or none
UNSEEN = "_"  # in the place of what is no letter, and may be seen as a blank or as nothing
# Signs that stand for a letter, or letters for a sign: slips of typing, and what a word processor puts in.
SLIPS = str.maketrans({"º": "°", "ª": UNSEEN, "∆": "Δ", "∑": "Σ", "∏": "Π"})
SIGN_TAGS = ("<circle>", "<super>")  # of signs such as ™ and Ⓡ, of which NFKD makes letters
GAP = re.compile(r"([\W_]+)")  # between words
NUMBER_EDGE = re.compile(r"(?<=\d)(?=[^\W\d_])|(?<=[^\W\d_])(?=\d)")  # between a digit and a letter
JOINED = ("Lu", "Ll", "Lt", "Nd")  # what makes one word with others of its kind: letters with case, and digits


@dataclass(frozen=True, eq=False)
class Words:
    """The words of a text in a row, case and punctuation aside: by them a question is known again elsewhere.

    signs: those between two numbers, by their place in the row; edges: where words may begin and end. Equal are words
    whose letters are, if no known sign tells them apart: 4 - 2 and 4 / 2 are two questions, 4 - 2 and 4 − 2 are one.
    So is 4 ? 2 with any sign that is not known, as a question that looks seen harms less than one that looks held out.
    """

    letters: str
    signs: Mapping[int, str]
    edges: frozenset[int]

    def __eq__(self, other: object) -> bool:
        """Tell whether two texts are one question."""
        return isinstance(other, Words) and self.letters == other.letters and self._has_signs_of(other, 0)

    def __hash__(self) -> int:
        """Return the same for all that may be equal."""
        return hash(self.letters)

    def _has_signs_of(self, other: "Words", place: int) -> bool:
        pairs = ({self.signs.get(place + i, ""), other.signs.get(i, "")} for i in range(1, len(other.letters)))
        return all(len(pair) == 1 or UNKNOWN in pair for pair in pairs)

    def hold(self, other: "Words") -> bool:
        """Tell whether another text stands among these words.

        A few letters stand in the middle of other words, too: they count where words begin and end with them.
        """
        size = len(other.letters)
        place = self.letters.find(other.letters)
        while place >= 0:
            at_edges = size >= TELLING_LETTERS or {place, place + size} <= self.edges
            if at_edges and self._has_signs_of(other, place):
                return True
            place = self.letters.find(other.letters, place + 1)
        return False


def words_of(text: str) -> Words:
    """Return the words of a text: of letters that are written in two ways (NFKD), and of dashes, one.

    Marks on letters count as none: a sign that nobody sees can keep them apart from their letter. What nobody sees
    also ends a word, as a blank does, since some show a blank. Within a word that changes nothing. Words also end
    between a letter and a digit, and beside whatever is neither a letter with case nor a digit: 问Is, ①Is, ¹Is.
    """
    parts = GAP.split(NUMBER_EDGE.sub(" ", _plain(_apart(text))))
    words, gaps = parts[::2], parts[1::2]
    ends = [*accumulate(map(len, words))]
    beside = zip(ends, words, gaps, words[1:])
    between = {end: gap for end, left, gap, right in beside if left[-1:].isdigit() and right[:1].isdigit()}
    signs = {end: sign for end, gap in between.items() if (sign := _sign_in(gap))}
    return Words("".join(words), signs, frozenset({0, *ends}))


def _apart(text: str) -> str:
    """Return a text with blanks around what makes no word with its neighbours, or is one sign for several letters."""
    if text.isascii():
        return text
    return text.translate({ord(character): f" {character} " for character in {*text} if not _is_joined(character)})


def _is_joined(character: str) -> bool:
    # A tag such as <circle> is of a letter or digit that stands as a sign: in another form, or raised.
    is_sign = unicodedata.decomposition(character).startswith("<")
    return character.isascii() or (unicodedata.category(character) in JOINED and not is_sign)


def _plain(text: str) -> str:
    """Return a text without case, its letters and signs in one spelling, with UNSEEN for what nobody sees."""
    if text.isascii():  # it has one way to write a letter, and no sign that nobody sees
        return text.casefold()
    signs = {ord(character): UNSEEN for character in {*text} if _is_sign_of_letters(character)}
    # Twice, as case is not all of letters: of one mark it makes a letter, and of some letters others with marks.
    apart = _without_marks(unicodedata.normalize("NFKD", text.translate(SLIPS | signs)))
    return _without_marks(unicodedata.normalize("NFKD", apart.casefold()))


def _is_sign_of_letters(character: str) -> bool:
    return unicodedata.category(character) == "So" and unicodedata.decomposition(character).startswith(SIGN_TAGS)


def _without_marks(text: str) -> str:
    return text.translate({ord(character): _plain_character(character) for character in {*text}})


def _plain_character(character: str) -> str:
    if is_unseen(character):
        return UNSEEN
    return "-" if unicodedata.category(character) == "Pd" else SPELLINGS.get(character, character)


def _sign_in(gap: str) -> str:
    """Return the sign between two numbers, "" without any; UNKNOWN of several, or of one that is not known."""
    sign = SAYS_NOTHING.sub("", gap)
    return sign if not sign or sign in {*ARITHMETIC} else UNKNOWN


def is_unseen(character: str) -> bool:
    """Tell whether a character shows no letter: format signs, marks, letters that only change others or are blank."""
    named_blank = BLANK.search(unicodedata.name(character, ""))
    return unicodedata.category(character) in ("Cf", "Mn", "Me", "Lm") or named_blank is not None


def shows_nothing(text: str) -> bool:
    """Tell whether a text is empty to a reader: of blanks and format signs. A mark alone can be an answer."""
    return all(character.isspace() or _is_nothing(character) for character in text)


def _is_nothing(character: str) -> bool:
    named = NOTHING.search(unicodedata.name(character, ""))
    return unicodedata.category(character) == "Cf" or named is not None


def known_by(text: str) -> Words | str:
    """Return the words that a text is known by; of one of signs alone, these: a hyphen makes no other question."""
    words = words_of(text)
    return words if words.letters else _signs_alone(text)


def _signs_alone(text: str) -> str:
    return "".join(_plain(text).replace(UNSEEN, "").split())


def held_texts(texts: list[str], where: str) -> list[bool]:
    """Return whether the words of each text stand in a row in another one. A text of signs alone, by these."""
    words, signs = words_of(where), _signs_alone(where)
    known = map(known_by, texts)
    return [words.hold(one) if isinstance(one, Words) else one in signs for one in known]
