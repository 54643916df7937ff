"""What an answer of IFEval follows, as digits: one for each instruction of its prompt, 1 for followed and else 0."""

from files.json_records import Count, Fields, Positive, require


def followed_digits(found: list[bool]) -> str:
    """Return which instructions are followed, a digit each."""
    return "".join("1" if one else "0" for one in found)


class Followed(Fields):
    """Instructions of a model's answers, sums over its seeds.

    asked: all of them; strict, loose: those that were followed by either reading; prompts_loose: loosely right prompts.
    """

    asked: Positive
    strict: Count
    loose: Count
    prompts_loose: Count


def followed_instructions(answers: list[dict]) -> dict:
    """Return the figures of `Followed` from rows of answers."""
    return {
        "asked": sum(len(answer["target"]) for answer in answers),
        "strict": sum(answer["letter"].count("1") for answer in answers),
        "loose": sum(answer["loose"].count("1") for answer in answers),
        "prompts_loose": sum(answer["loose"] == answer["target"] for answer in answers),
    }


def check_digits(strict: str, loose: str, target: str, correct: bool) -> None:
    """Refuse digits that are not one for each instruction, and a prompt that is right with one not followed."""
    require(len(strict) == len(loose) == len(target), "a digit of letter and loose for each of target")
    require(set(target) == {"1"} and set(strict) <= {*"01"}, "letter and target of the digits 0 and 1")
    # The loose reading looks at the answer as it is, too.
    require(all(one <= other for one, other in zip(strict, loose)), "all of letter in loose")
    require(correct == (strict == target), "correct where all instructions are followed")
