"""Scores of a release: whose files they are of, and the same figures made again from what was recorded.

From each run's answers, the frozen questions and the patch step, to the summary and the comparison. build_release.py
refuses what does not come out the same, and check_release.py asks again. Somebody who rewrites the answers themselves
is not seen. What is asked of losses stands in losses.py.
"""

import re
from pathlib import Path

from files.input_errors import LINES_MIB, InputError, read_words, sha256_file, shown
from files.json_records import read_record
from gates.lineage import Breaks, Lineage, breaks_of, broken
from gates.made_again import known_quants, made_again
from gates.variants import choice_of_other
from release.manifest import DIGITS
from release.names import PLAIN_NAME, is_plain
from scoring.answer_letters import completion_letter
from scoring.answer_record import read_answers
from scoring.comparison import compare, group_runs
from scoring.eval_protocol import BY_DIGEST, DEFAULT_TASK, OpenAiProtocol, Protocol, locked_values, recorded_protocol
from scoring.eval_tasks import EvalTask, task_of
from scoring.frozen_questions import documents_of, other_documents
from scoring.lm_eval_run import request_digest
from scoring.lm_eval_samples import lm_eval_settings, read_frozen, read_shots
from scoring.run_files import ANSWERS, FROZEN, PATCHED, RUN, TASK_FOLDER, read_run
from scoring.run_summary import read_patched, summed_up
from scoring.score_records import SCORES_NAME, Scores, in_a_row, read_summary

CONTEXT_STEP_TOKENS = 256  # llama-server rounds a context up to a multiple of it
SERVER_LOGS = "server*.log"  # of several servers each has its own
CUT_SLACK_TOKENS = 8  # llama-server ends a few tokens before its context is full
EVALUATE = "run `make eval` again"


def question_breaks(run: Path, documents: list[dict], questions: list[Path], protocol: Protocol) -> Breaks:
    """The frozen questions of a run are all those of a question file of the build, in the order of the seed."""
    task, seed = task_of(protocol.task), protocol.choice_order_seed
    if any(documents_of(path, task, seed) == documents for path in questions):
        return []
    expected = f"the questions of {' or '.join(path.name for path in questions) or '--questions'}, all of them"
    return [InputError(run / TASK_FOLDER, expected, f"{len(documents)} others", EVALUATE)]


def shot_breaks(run: Path, task: EvalTask, examples: list[Path]) -> Breaks:
    """The frozen few shots of a run are those of the build's file of them; a task without any has none."""
    expected = [shot for path in examples for shot in other_documents(path, task, shots=True)]
    if read_shots(run / TASK_FOLDER) == expected:
        return []
    return [InputError(run / TASK_FOLDER, f"{len(expected)} few shots of this build", "others", EVALUATE)]


def request_breaks(run: Path, documents: list[dict], protocol: Protocol) -> Breaks:
    """Every answer is one to the request that the protocol sends, and is no longer than the protocol lets it be.

    An answer that was cut ends where the protocol cuts: a run under a shorter context would show it there.
    """
    by_id, found = {document["Record ID"]: document for document in documents}, []
    shots = read_shots(run / TASK_FOLDER)
    for record_id, answer in read_answers(run / ANSWERS).items():
        length, whole = answer.completion_tokens, answer.prompt_tokens + answer.completion_tokens
        place, begin = run / ANSWERS, f"answer {record_id}"
        if request_digest(by_id[record_id], protocol, shots) != answer.request_sha256:
            expected = f"{begin} to the request of the protocol in {RUN}"
            found.append(InputError(place, expected, "one to another request", EVALUATE))
        if length > protocol.max_gen_toks or whole > protocol.context:
            expected = f"{begin} of at most {protocol.max_gen_toks} tokens, in a context of {protocol.context}"
            found.append(InputError(place, expected, f"{length} after {answer.prompt_tokens}", EVALUATE))
        room = min(protocol.max_gen_toks - length, protocol.context - whole)
        if answer.finish_reason == "length" and room > CUT_SLACK_TOKENS:
            expected = f"{begin}, which was cut, to end at {protocol.max_gen_toks} tokens or {protocol.context} in all"
            found.append(InputError(place, expected, f"{length} after {answer.prompt_tokens}", EVALUATE))
    return found


def served_contexts(run: Path) -> set[int]:
    """Return how many tokens of context our llama-servers gave each request, by their own logs; none without one."""
    texts = [read_words(log, LINES_MIB) for log in sorted(run.glob(SERVER_LOGS))]
    return {int(count) for text in texts for count in re.findall(r"n_ctx_slot = (\d+)", text)}


def at_once_expected(run: Path, protocol: Protocol, said: object) -> int:
    """Return how many requests lm-eval should have sent at once: one more than the servers take.

    said: what it recorded. Where answers name their servers, there were several, or one that ran already.
    """
    named = any(answer.server for answer in read_answers(run / ANSWERS).values())
    servers = max(1, (said - 1) // protocol.concurrency) if named and isinstance(said, int) else 1
    return servers * protocol.concurrency + 1


def kind_breaks(run: Path, protocol: Protocol) -> Breaks:
    """A release has scores of one task and backend: only of those the requests are made again here."""
    other_backend = isinstance(protocol, OpenAiProtocol)
    if protocol.task == DEFAULT_TASK and not other_backend:
        return []
    found = f"those of {protocol.task}" + " by BACKEND=openai" * other_backend
    advice = f"give the scores of {DEFAULT_TASK}, or leave them out (SCORED=no)"
    return [InputError(run / RUN, f"scores of {DEFAULT_TASK} by llama.cpp, which a release makes again", found, advice)]


def setting_breaks(run: Path, protocol: Protocol, tokenizer: Path) -> Breaks:
    """The protocol is what lm-eval itself recorded of the run, and names the base model's tokenizer, if by digest."""
    pairs: list[tuple[str, object, object]] = []
    said = lm_eval_settings(run)
    wanted = ("temperature", "top_p", "top_k", "seed", "dry_multiplier", "max_gen_toks")
    pairs.append(("gen_kwargs of lm-eval:", {key: getattr(protocol, key) for key in wanted}, said.get("gen_kwargs")))
    once = said.get("at_once")
    pairs.append(("requests at once, and one more:", at_once_expected(run, protocol, once), once))
    pairs.append(("the seed of lm-eval:", protocol.seed, said.get("seed")))
    pairs.append(("lm-evaluation-harness", protocol.lm_eval, said.get("version")))
    for context in served_contexts(run):
        pairs.append((f"a server with {protocol.context} tokens for each request:", True, protocol.context <= context))
        pairs.append(("no more than it rounds up to:", True, context < protocol.context + CONTEXT_STEP_TOKENS))
    if protocol.tokenizer.startswith(BY_DIGEST):
        digest = sha256_file(tokenizer) if tokenizer.is_file() else "no tokenizer.json"
        pairs.append(("the tokenizer", f"{BY_DIGEST}{digest}", protocol.tokenizer))
    return breaks_of(run / RUN, pairs, EVALUATE)


def answer_breaks(run: Path, documents: list[dict], patched: bool, task: EvalTask) -> Breaks:
    """Letters, right or wrong follow from recorded texts and frozen questions; so do those of the patch step."""
    answers, found = read_answers(run / ANSWERS), []
    by_id = {document["Record ID"]: document for document in documents}
    for record_id, answer in answers.items():
        document = by_id[record_id]
        letter, target = task.read(answer.answer, document), task.target(document[task.answer])
        mine = (letter, target, task.right(letter, target))
        if mine != (answer.letter, answer.target, answer.correct):
            found.append(
                InputError(
                    run / ANSWERS,
                    f"letter {letter} against {target} in {record_id}, as its text and the question say",
                    f"{answer.letter} against {answer.target}, {'right' if answer.correct else 'wrong'}",
                    EVALUATE,
                )
            )
    entries = read_patched(run / PATCHED, read_run(run))[1] if patched else {}
    for record_id, entry in entries.items():
        if record_id not in answers:
            found.append(InputError(run / PATCHED, "answers of the run", f"one to {shown(record_id)}", EVALUATE))
            continue
        letter = completion_letter(entry["completion"])
        right = letter == by_id[record_id]["answer"].strip("()")
        if (letter, right, answers[record_id].kind) != (entry["letter"], entry["correct"], entry["class"]):
            found.append(InputError(run / PATCHED, f"letter {letter} in {record_id}", shown(entry["letter"]), EVALUATE))
    return found


def run_breaks(lineage: Lineage, path: Path, known: dict[str, tuple[str, dict]]) -> Breaks:
    """A summary of GPQA Diamond is that of the answers beside it; see `answered_breaks`."""
    protocol = recorded_protocol(path.parent / RUN, read_run(path.parent)["protocol"])
    questions = list(lineage.sources["questions"].values())
    return kind_breaks(path.parent, protocol) or answered_breaks(lineage, path, known, questions, [])


def answered_breaks(
    lineage: Lineage, path: Path, known: dict[str, tuple[str, dict]], questions: list[Path], examples: list[Path]
) -> Breaks:
    """A summary is that of the answers beside it, and those are a known file's to a question file of the build."""
    summary, run = read_summary(path), path.parent
    record, documents = read_run(run), read_frozen(run / TASK_FOLDER)
    protocol = recorded_protocol(run / RUN, record["protocol"])
    task = task_of(protocol.task)
    locked = locked_values() | {"task": protocol.task, "filter": task.filter}
    if record["gguf_sha256"] not in known:
        return [InputError(path, "the score of a file whose record is given", record["gguf_sha256"][:DIGITS], EVALUATE)]
    name, quant = known[record["gguf_sha256"]]
    frozen = run / TASK_FOLDER / FROZEN
    found = breaks_of(
        run / RUN,
        [
            ("questions with sha256", sha256_file(frozen), record["questions_sha256"]),
            ("a protocol with sha256", protocol.digest, record["protocol_sha256"]),
            *((key, value, getattr(protocol, key)) for key, value in locked.items()),
        ],
        EVALUATE,
    )
    found += question_breaks(run, documents, questions, protocol) + shot_breaks(run, task, examples)
    # One after the other: what follows from a wrong answer would hide it.
    found = found or setting_breaks(run, protocol, lineage.metadata_path.with_name("tokenizer.json"))
    found = found or request_breaks(run, documents, protocol)
    found = found or answer_breaks(run, documents, summary["patch"] is not None, task)
    if found:
        return found
    own = quant["source_sha256"] == lineage.f16_sha256
    scored = {"gguf": name, "gguf_sha256": quant["sha256"], "gguf_bytes": quant["bytes"], "experts": quant["experts"]}
    chosen_by, found = (lineage.metadata_path, []) if own else choice_of_other(lineage, summary, path)
    if found:
        return found
    again = summed_up(run, summary["patch"] is not None, chosen_by, scored)
    return made_again(path, "the summary of its answers", again, summary, EVALUATE)


def whose_breaks(lineage: Lineage, scores: dict, known: dict[str, tuple[str, dict]]) -> Breaks:
    """The scores have a row of this build's own file, under its name; other models have other names."""
    found: Breaks = []
    f16_sha256, full = lineage.f16_sha256, lineage.full
    own: list[dict] = []
    for row in scores["rows"]:
        name, quant = known.get(row["gguf_sha256"], ("", {}))
        of_build = quant.get("source_sha256") == f16_sha256
        own += [row] * of_build
        here = lineage.records.get(row["gguf"])
        if here and here["sha256"] != row["gguf_sha256"]:
            found.append(
                broken(
                    "--scores",
                    f"an evaluation of {row['gguf']} with sha256",
                    here["sha256"],
                    row["gguf_sha256"],
                    EVALUATE,
                )
            )
        elif (quant.get("source_sha256") == full["sha256"]) != (row["name"] == full["name"]):
            expected = f"the name {full['name']} for the full model's file and for no other"
            found.append(InputError("--scores", expected, f"{row['name']} for {row['gguf']}", EVALUATE))
        elif of_build != (row["name"] == lineage.name) or of_build and row["gguf"] != name:
            expected = f"the name {lineage.name} for this build's file and for no other"
            found.append(InputError("--scores", expected, f"{row['name']} for {row['gguf']}", EVALUATE))
    for name in (row[key] for row in scores["rows"] for key in ("name", "gguf")):
        found += [InputError("--scores", PLAIN_NAME, shown(name), EVALUATE)] * (not is_plain(name))
    found += type_breaks(lineage, scores, known)
    if not own:  # first of all: that other rows have names of other models is no news then
        names = ", ".join(row["name"] for row in scores["rows"])[:120]
        what = f"scores of this build's own file (F16 sha256 {f16_sha256[:DIGITS]})"
        advice = f"{EVALUATE}, or leave the scores out (SCORED=no)"
        found.insert(0, InputError("--scores", what, f"those of {names}", advice))
    return found


def type_breaks(lineage: Lineage, scores: dict, known: dict[str, tuple[str, dict]]) -> Breaks:
    """The first row, the card's reference, is the full model's or the own, and both files are of one type.

    Else a full model of 2 bits, or another pruned one, would make this one look good. The card takes the type from the
    file's name, so the name must say what the record says.
    """
    quants = [(row, known[row["gguf_sha256"]][1]) for row in scores["rows"] if row["gguf_sha256"] in known]
    found: Breaks = [
        InputError("--scores", f"a name that ends with -{quant['type']}.gguf, its type", row["gguf"], EVALUATE)
        for row, quant in quants
        if not row["gguf"].endswith(f"-{quant['type']}.gguf")
    ]
    ours = (lineage.f16_sha256, lineage.full["sha256"])
    of_both = [(row, quant) for row, quant in quants if quant["source_sha256"] in ours]
    types = sorted({quant["type"] for _, quant in quants})
    if len(types) > 1:
        found.append(InputError("--scores", "files of one type of all models", ", ".join(types), EVALUATE))
    # The card's headline holds the first row against this model: a full model further down would look unscored there.
    first, names = scores["rows"][0], [row["name"] for row in scores["rows"]]
    reference = lineage.full["name"] if lineage.full["name"] in names else lineage.name
    if of_both and first["name"] != reference:
        expected = f"{reference} in the first row, the reference of the card"
        found.append(InputError("--scores", expected, first["name"], EVALUATE))
    return found


def without_order(document: dict) -> tuple:
    """Return a frozen question with its choices and the right one, in whichever order a seed has put them."""
    choices = document["choices"]
    right = choices[ord(document["answer"].strip("()")) - ord("A")]
    return document["Record ID"], document["Question"], sorted(choices), right


def score_breaks(lineage: Lineage) -> Breaks:
    """Return every way in which scores.json is not the comparison of this build's recorded runs."""
    path = lineage.sources["copies"][SCORES_NAME]
    scores, known = read_record(path, Scores), known_quants(lineage)
    found, runs = whose_breaks(lineage, scores, known), list(lineage.sources["runs"].values())
    if not runs:
        return [*found, InputError("--runs", f"the summaries that {SCORES_NAME} compares", "none", "give --runs")]
    for run in runs:
        found += run_breaks(lineage, run, known)
    # One Record ID with other wrong choices is another question; sums over seeds are of one.
    first, *others = (list(map(without_order, read_frozen(run.parent / TASK_FOLDER))) for run in runs)
    if any(other != first for other in others):
        found.append(
            InputError("--runs", "runs that were all asked the same questions and choices", "others", EVALUATE)
        )
    if found:
        return found
    models = group_runs(runs)
    sources = [known[model[0]["gguf_sha256"]][1]["source_sha256"] for model in models]
    # Quants that were built after the comparison are not in it. Those that are must have the sizes of their records.
    quants = []
    for row, source in zip(scores["rows"], sources):
        quants.append([r for _, r in known.values() if r["source_sha256"] == source and r["type"] in row["bytes"]])
    found = size_breaks(path, scores, known) + seed_breaks(path, scores)
    return found or made_again(path, "the comparison of these runs", compare(models, quants), scores, EVALUATE)


def seed_breaks(path: Path, scores: dict) -> Breaks:
    """The seeds of a score follow one another, as `make eval` asks by SEED and SAMPLES: picked ones prove nothing."""
    picked = [row["seeds"] for row in scores["rows"] if not in_a_row(row["seeds"])]
    return [InputError(path, "seeds that follow one another", ", ".join(map(str, s)), EVALUATE) for s in picked[:1]]


def size_breaks(path: Path, scores: dict, known: dict[str, tuple[str, dict]]) -> Breaks:
    """The size beside a score is that of the scored file: another of its type, by other settings, has another."""
    pairs: list[tuple[str, object, object]] = []
    for row in scores["rows"]:
        name, record = known[row["gguf_sha256"]]
        given = row["bytes"].get(record["type"], record["bytes"])
        pairs.append((f"bytes of {name}, which was scored:", record["bytes"], given))
    return breaks_of(path, pairs, EVALUATE)
