"""IFEval: which instructions of its prompt an answer follows, by lm-eval's own checks.

Prompts, checks and both readings are lm-eval's (Zhou et al., 2023, https://arxiv.org/abs/2311.07911). The strict
reading takes an answer as it is. The loose one also takes it without its first line, its last one, or its asterisks.
What an answer follows is written as digits, one for each instruction of the prompt: 1 for followed, else 0.
"""

import re
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

from files.input_errors import InputError, shown
from scoring.followed import followed_digits

PUNKT = "tokenizers/punkt_tab"
# lm-eval reads these values as patterns. One with signs of repetition can take for ever over an answer.
PATTERNS = {"keyword", "keywords", "forbidden_words", "section_spliter", "postscript_marker"}
SIGN_OF_A_PATTERN = re.compile(r"[*+?{}()\[\]|\\]")
COUNT_BY_PUNKT = {"length_constraints:number_sentences", "change_case:capital_word_frequency"}
SOME_ANSWER = "* This is *some* answer, P.S. it has <<a title>> and [a place].\n\n***\n\nThat is all."
FETCH_PUNKT = "run `.venv/bin/python -m nltk.downloader -d .venv/nltk_data punkt_tab`"


@cache
def lm_eval_checks() -> Any:
    """Return lm-eval's module of checks; its import takes seconds, so only this task has them."""
    from scoring.lm_eval_own_task import make_repeatable

    make_repeatable()
    with redirect_stdout(StringIO()):  # it says that it has fetched what it was kept from fetching
        from lm_eval.tasks.ifeval import utils
    return utils


def example_of(document: dict) -> Any:
    """Return a document as lm-eval's checks read it."""
    fields = ("key", "instruction_id_list", "prompt", "kwargs")
    return lm_eval_checks().InputExample(**{name: document[name] for name in fields})


def followed(text: str, document: dict) -> str:
    """Return which instructions an answer follows, read strictly."""
    found = lm_eval_checks().test_instruction_following_strict(example_of(document), text)
    return followed_digits(found.follow_instruction_list)


def followed_loosely(text: str, document: dict) -> str:
    """Return which instructions an answer follows, read loosely."""
    found = lm_eval_checks().test_instruction_following_loose(example_of(document), text)
    return followed_digits(found.follow_instruction_list)


def check_instructions(path: Path, number: int, own: dict) -> None:
    """Raise InputError when a row is no prompt of IFEval, or when this machine cannot check its instructions."""
    names, values, place = own["instruction_id_list"], own["kwargs"], f"in question {number}"
    if type(own["key"]) is not int or not (isinstance(own["prompt"], str) and own["prompt"]):
        raise InputError(path, f"a whole number as 'key' and a text as 'prompt' {place}", shown(own["key"]))
    if not isinstance(names, list) or not names or not isinstance(values, list) or len(names) != len(values):
        raise InputError(path, f"lists of one length as 'instruction_id_list' and 'kwargs' {place}", shown(names))
    for name, given in zip(names, values):
        check_instruction(path, place, name, given)


def check_instruction(path: Path, place: str, name: object, given: object) -> None:
    """Raise InputError for an unknown instruction, or one whose values are not those that its check needs."""
    known = lm_eval_checks().instructions_registry.INSTRUCTION_DICT
    if not isinstance(name, str) or name not in known:
        raise InputError(path, f"instructions of lm-eval's IFEval {place}", shown(name))
    if not isinstance(given, dict):
        raise InputError(path, f"values of {name} {place}", shown(given))
    there = {key: value for key, value in given.items() if value}
    # What is not given lm-eval draws at random: then no two checks of one answer need agree.
    wanted = set(known[name](name).get_instruction_args_keys())
    if there.keys() != wanted:
        expected = f"the values {', '.join(sorted(wanted)) or 'none'} of {name} {place}"
        raise InputError(path, expected, ", ".join(sorted(there)) or "none")
    for key in PATTERNS & there.keys():
        words = there[key] if isinstance(there[key], list) else [there[key]]
        if any(SIGN_OF_A_PATTERN.search(str(word)) for word in words):
            raise InputError(path, f"plain words as {key} of {name} {place}", shown(there[key]))
    if name in COUNT_BY_PUNKT:
        check_punkt(place)
    check = known[name](name)
    try:
        check.build_description(**there)
        check.check_following(SOME_ANSWER)  # else values of a wrong type would end the run at its first answer
    except (TypeError, ValueError, AttributeError, LookupError, re.error) as error:
        raise InputError(path, f"values that {name} can have {place}", shown(str(error))) from error
    taken = check.get_instruction_args() or {}
    for key, value in there.items():
        # In place of a number below 0 it draws another one, and of a text in place of a list it takes the letters.
        below = isinstance(value, int | float) and value < 0
        if below or isinstance(value, list) != isinstance(taken.get(key), list):
            raise InputError(path, f"a value that {name} can have as {key} {place}", shown(value))


def check_punkt(place: str) -> None:
    """Raise InputError when nltk has no data to count sentences and words by."""
    import nltk

    try:
        nltk.data.find(PUNKT)
    except LookupError as error:
        raise InputError("nltk", f"its data punkt_tab, which count sentences {place}", "none", FETCH_PUNKT) from error


def whole_rows(documents: list[dict]) -> list[dict]:
    """Return documents whose kwargs all have the same names, null where nothing is given.

    lm-eval's loader makes one table of them, and leaves null values out again.
    """
    names = sorted({"num_words", *(name for one in documents for given in one["kwargs"] for name in given)})
    nothing = dict.fromkeys(names)
    return [one | {"kwargs": [nothing | given for given in one["kwargs"]]} for one in documents]
