"""The rates of loops and tool calls: of this build's files, and the same when counted again from the recorded answers.

build_release.py refuses what does not come out the same, and check_release.py asks again. Somebody who rewrites the
answers themselves is not seen.
"""

import json

from files.input_errors import InputError
from files.json_records import read_record
from files.option_types import VERSION_FILE
from gates.checked import Checked, Outcome
from gates.lineage import Breaks, Lineage, breaks_of
from gates.made_again import known_quants, made_again
from gates.scored import CUT_SLACK_TOKENS
from loops.loop_answers import RUN_AGAIN, SAMPLED_BY, asked_in_order, recorded_answers
from loops.loop_classes import LoopAnswer
from loops.loop_prompts import LoopPrompts, read_prompts, request_of
from loops.loop_rates import loop_results, loop_row
from loops.loop_results import LOOPS_NAME, LoopResults, file_label, significant_pairs
from release.manifest import DIGITS
from scoring.eval_protocol import Protocol

PROMPTS = VERSION_FILE.parent / "data/loop_prompts.json"
TEMPLATE_TOKENS = 1024


def whose_loops(lineage: Lineage, results: dict, known: dict[str, tuple[str, dict]]) -> Breaks:
    """The first row is a file of the full model, all others are of this build, each under its own name."""
    found: Breaks = []
    for number, row in enumerate(results["rows"]):
        name, quant = known.get(row["gguf_sha256"], ("", {}))
        source, of = (lineage.full["sha256"], "the full model") if number == 0 else (lineage.f16_sha256, "this build")
        if (row["gguf"], row["source_sha256"], quant.get("source_sha256")) != (name, source, source):
            expected = f"{row['gguf']} to be a file of {of} whose record is given"
            found.append(InputError(LOOPS_NAME, expected, f"sha256 {row['gguf_sha256'][:DIGITS]}", RUN_AGAIN))
    return found


def length_breaks(answers: list[LoopAnswer], inputs: dict, prompts: LoopPrompts) -> Breaks:
    """No answer is longer than was asked for, and one that was cut ends there, unless the context was full before."""
    # No token of a prompt is less than half a character of its JSON, but for what a chat template adds.
    room = {
        prompt.id: inputs["context"] - TEMPLATE_TOKENS - 2 * len(json.dumps(request_of(prompt, prompts.tools)))
        for prompt in prompts.prompts
    }
    found: Breaks = []
    for answer in answers:
        short = answer.finish_reason == "length" and answer.tokens < inputs["max_tokens"] - CUT_SLACK_TOKENS
        if answer.tokens > inputs["max_tokens"] or short and answer.tokens < room[answer.prompt]:
            expected = f"at most {inputs['max_tokens']} tokens in the answer to {answer.prompt}, and a cut only there"
            found.append(InputError(LOOPS_NAME, expected, f"{answer.tokens}, {answer.finish_reason}", RUN_AGAIN))
    return found


def loop_breaks(lineage: Lineage) -> Breaks:
    """Return every way in which loops.json is not what the recorded answers of this build's files give."""
    path = lineage.sources["copies"][LOOPS_NAME]
    results, known = read_record(path, LoopResults), known_quants(lineage)
    prompts, inputs = read_prompts(lineage.origin("loop prompts")), results["inputs"]
    locked = {name: getattr(Protocol(), name) for name in SAMPLED_BY}
    pairs = [
        ("prompts with sha256", prompts.sha256, inputs["prompts_sha256"]),
        ("this project's prompts with sha256", read_prompts(PROMPTS).sha256, inputs["prompts_sha256"]),
        ("the sampling of the evaluation:", locked, inputs["sampling"]),
    ]
    found = breaks_of(path, pairs, RUN_AGAIN) + whose_loops(lineage, results, known)
    if found:
        return found
    asked = asked_in_order(prompts, inputs["seed"], results["seeds"])
    rows = []
    for row in results["rows"]:
        name, quant = known[row["gguf_sha256"]]
        answers = recorded_answers(lineage.origin("loop answers"), inputs, row["gguf_sha256"], asked)
        rows.append(loop_row(quant, name, answers, prompts))
        found += length_breaks(answers, inputs, prompts)
    return found + made_again(
        path, "the rates of the recorded answers", loop_results(inputs, prompts, rows), results, RUN_AGAIN
    )


def worse_in_words(results: dict) -> list[str]:
    """Return a sentence for each file that fails significantly more often than the reference."""
    reference = file_label(results["rows"][0]["gguf"])
    return [
        f"{file_label(pair['gguf'])}: more of {pair['measure']!r} than {reference}, p = {pair['p']:.2g}"
        for pair in significant_pairs(results, worse=True)
    ]


def loops_gate(checked: Checked) -> Outcome:
    """Rates of loops and tool calls come out the same from the recorded answers, and are of this build's files.

    A file that fails more often than the full model is named, and is no deviation: a reader of the card sees it, too.
    """
    if LOOPS_NAME not in checked.sources["copies"]:
        return Outcome("loops and tool calls were not measured", applies=False)
    found = [str(error) for error in loop_breaks(checked.lineage)]
    results = read_record(checked.sources["copies"][LOOPS_NAME], LoopResults)
    answers = len(results["prompts"]) * results["seeds"]
    looked_at = f"{answers} answers of each of {len(results['rows'])} files classed and counted again"
    return Outcome(looked_at, found, [] if found else worse_in_words(results))
