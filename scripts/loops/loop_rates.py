"""The rates and tests of loops.json, made of recorded answers: each answer's class is counted prompt by prompt."""

from loops.loop_classes import LoopAnswer, class_of_answer
from loops.loop_prompts import LoopPrompts
from loops.loop_results import MEASURES, SAME_CALL
from scoring.paired_statistics import difference_interval, mcnemar, wilson

import numpy as np


def able_to_show(measure: str, prompts: LoopPrompts) -> np.ndarray:
    """Return which prompts can show a failure, bool [prompts]: only a call that was answered can be made again."""
    return np.array([measure != SAME_CALL or bool(prompt.answered_calls) for prompt in prompts.prompts])


def counts_of(classes: list[list[str]], measure: str) -> np.ndarray:
    """Return how many answers to each prompt show a failure, int [prompts]."""
    return np.array([sum(each in MEASURES[measure] for each in of_prompt) for of_prompt in classes])


def rate_of(classes: list[list[str]], measure: str, prompts: LoopPrompts) -> dict:
    """Return a file's rate of a failure (`Rate`); of no prompt that can show it the interval is all there is."""
    seeds, able = len(classes[0]), able_to_show(measure, prompts)
    counts = counts_of(classes, measure)[able]
    low, high = wilson(counts / seeds) if able.any() else (0.0, 1.0)
    return {"count": int(counts.sum()), "answers": int(able.sum()) * seeds, "interval": [max(0.0, low), min(1.0, high)]}


def loop_row(record: dict, gguf: str, answers: list[LoopAnswer], prompts: LoopPrompts) -> dict:
    """Return a file's row; record: the quant's; answers: all prompts with one seed after the other."""
    count = len(prompts.prompts)
    pairs = zip(answers, prompts.prompts * (len(answers) // count))
    found = [class_of_answer(answer, prompt, prompts.tools) for answer, prompt in pairs]
    classes = [found[place::count] for place in range(count)]
    return {
        "gguf": gguf,
        "gguf_sha256": record["sha256"],
        "source_sha256": record["source_sha256"],
        "classes": classes,
        "calls": sum(bool(answer.calls) for answer in answers),
        "tool_answers": sum(bool(prompt.tools) for prompt in prompts.prompts) * (len(answers) // count),
        "tokens": sum(answer.tokens for answer in answers),
        "rates": {measure: rate_of(classes, measure, prompts) for measure in MEASURES},
    }


def loop_pair(reference: dict, row: dict, measure: str, prompts: LoopPrompts) -> dict:
    """Return how a file differs from the reference in one failure, prompt by prompt (`LoopPair`)."""
    able, seeds = able_to_show(measure, prompts), len(row["classes"][0])
    differences = (counts_of(row["classes"], measure) - counts_of(reference["classes"], measure))[able]
    mean, *interval = difference_interval(differences / seeds) if able.any() else (0.0, -1.0, 1.0)
    return {
        "gguf": row["gguf"],
        "measure": measure,
        "more": int((differences > 0).sum()),
        "fewer": int((differences < 0).sum()),
        "difference": mean,
        "difference_interval": interval,
        "p": mcnemar(differences),
    }


def loop_results(inputs: dict, prompts: LoopPrompts, rows: list[dict]) -> dict:
    """Return the whole record (`LoopResults`) of the rows, the reference first."""
    pairs = [loop_pair(rows[0], row, measure, prompts) for row in rows[1:] for measure in MEASURES]
    return {"inputs": inputs, "prompts": prompts.ids, "seeds": len(rows[0]["classes"][0]), "rows": rows, "pairs": pairs}
