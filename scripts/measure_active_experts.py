#!/usr/bin/env python3
"""Measure what fewer active experts per token cost and gain: KL divergence, speed, and right answers where wanted.

Inputs:  one GGUF file of a mixture of experts, with its record; the tokenizer and chat template of its checkpoint;
         questions in GPQA's columns.
Output:  TABLE.md and beside it the same name as .json (speed/active_experts.py) and .png.
Example: .venv/bin/python scripts/measure_active_experts.py --name gemma-4-demo-109e \\
             --gguf build/gemma-4-demo/109e/gguf/gemma-4-demo-109e-Q6_K.gguf --model data/demo/model \\
             --questions data/demo/eval_questions.csv --limit 16 --cache build/try/active-cache \\
             --output build/try/active-experts.md

llama.cpp runs the same file with fewer experts by --override-kv ARCH.expert_used_count=int:N; nothing is written into
it. The loss is against the file's own number, over teacher-forced chats (as measure_quality.py's, the replies count).
Speed is llama-server's, over greedy answers, all numbers in turn. A killed run goes on with the same command.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path

from chats.chat_sequences import teacher_forced_sequence
from chats.chat_tokenizer import load_tokenizer
from chats.questions import QUESTION_SEED, Question, count_without_reasoning, load_questions, question_set_digest
from files.command_start import die_with_parent
from files.input_errors import InputError, sha256_file
from files.option_types import command_parser, output_file, positive
from files.run_state import RunState, results_folder
from files.safe_files import check_apart, replace_when_done, require_disk_space, run
from files.written_records import write_record
from ggufs.gguf_header import experts_used_key, read_header
from llama.hardware import hardware_of
from llama.llama_tools import LlamaCpp, find_llama_cpp
from losses.chat_masks import Arrays, Chats, chats_of
from losses.gguf_logits import GgufLogits
from losses.kld_statistics import per_chat
from losses.scored_chats import add_chat_arguments, against
from losses.stored_logits import StoredLogits, missing_texts, progress, stored_bytes
from losses.stored_results import kept
from quants.quant_record import read_held_gguf
from scoring.answer_letters import flexible_letter
from scoring.paired_statistics import mean_and_error
from speed.active_experts import SPEED_QUESTIONS, SPEED_TOKENS, ActiveExperts, active_table, counts_to_try
from speed.active_picture import draw_active
from speed.greedy_answers import Greedy, greedy_answers, speed_of
from speed.round_speeds import ROUNDS, in_turns

OWN = "own"  # the reference's name in files


def check_counts(gguf: Path, counts: list[int] | None) -> list[int]:
    """Return the numbers to try, the file's own first; raise InputError for a dense model or too large a number."""
    header = read_header(gguf)
    own = header.value(experts_used_key(header))
    if not isinstance(own, int) or own < 2:
        raise InputError(gguf, f"two active experts or more ({experts_used_key(header)})", str(own))
    found = counts or counts_to_try(own)
    if max(found) > own:
        raise InputError("ACTIVE_EXPERTS (--counts)", f"at most {own}, as {gguf.name} has", str(max(found)))
    return [own, *(count for count in sorted(set(found), reverse=True) if count != own)]


def active_losses(
    args: argparse.Namespace, tools: LlamaCpp, counts: list[int], chats: Chats, inputs: dict
) -> dict[int, Arrays]:
    """Return the losses per token of every number but the own; what the cache holds is not computed again."""
    found, tokens = {}, int(chats.counts["all"].sum())
    with ExitStack() as stack:
        folder = stack.enter_context(
            RunState(results_folder(args.cache, "active", inputs), inputs, waits=True)
        ).directory
        missing = missing_texts(folder, OWN, chats.texts)
        require_disk_space(folder, stored_bytes(args.gguf, [chats.texts[number] for number in missing]))
        reference = {OWN: StoredLogits(args.gguf, tools, chats.texts, folder, args, OWN)}
        for count in progress(counts[1:], "active experts", "number"):

            def compute(count: int = count) -> Arrays:
                longest = max(map(len, chats.texts))
                options = {"threads": args.threads, "gpu_layers": args.gpu_layers, "active_experts": count}
                with GgufLogits(args.gguf, tools, context=longest, **options) as model:
                    return against(reference, lambda number: model.chunks(chats.texts[number]), chats.texts)

            found[count] = kept(folder / f"{count}.npz", compute, reference, tokens)
    return found


def loss_fields(arrays: Arrays | None, chats: Chats) -> dict:
    """Return KLD and same top token over the replies, each with its standard error; of the own number none is lost."""
    if arrays is None:
        return {"kld": [0.0, 0.0], "same_top": [1.0, 0.0]}
    mask, counts = chats.masks["reply"], chats.counts["reply"]
    return {
        measure: list(mean_and_error(per_chat(arrays[f"{OWN}_{measure}"][mask], counts), counts))
        for measure in ("kld", "same_top")
    }


def answers_of(
    args: argparse.Namespace, tools: LlamaCpp, counts: list[int], questions: list[Question]
) -> dict[int, list[list[Greedy]]]:
    """Return every number's answers, round by round, each [questions]; the numbers take turns."""
    key = experts_used_key(read_header(args.gguf))
    found: dict[int, list[list[Greedy]]] = {count: [] for count in counts}
    for count in in_turns(counts, args.rounds):
        flags = ["-c", args.context, "-ngl", args.gpu_layers, "-t", args.threads]
        flags += ["--reasoning-budget", args.reasoning_budget, "--override-kv", f"{key}=int:{count}"]
        found[count].append(list(greedy_answers(tools, args.gguf, questions, args.answer_tokens, flags)))
    return found


def answer_fields(rounds: list[list[Greedy]], questions: list[Question], scored: bool) -> dict:
    """Return tokens per second in each round, and whether each answer of the first one is right."""
    pairs = zip(rounds[0], questions)
    return {
        "speeds": [round(speed_of(answers), 3) for answers in rounds],
        "right": [flexible_letter(answer.text, q.choices) == q.letter for answer, q in pairs] if scored else None,
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--name", required=True, help="name of the model in table and picture")
    add("--gguf", type=Path, required=True, help="GGUF file with its record")
    add("--counts", type=positive, nargs="+", metavar="N", help="active experts to try (default: own number to 5/8)")
    add("--cache", type=Path, required=True, help="directory that keeps logits and losses")
    add("--output", type=output_file, required=True, help="Markdown file to write; .json and .png go beside it")
    add_chat_arguments(parser)
    add = parser.add_argument_group("answers that are timed").add_argument
    add("--scored", action="store_true", help="answer all questions, and count the right answers")
    questions = f"questions to answer (default {SPEED_QUESTIONS}; all with --scored)"
    add("--answers", type=positive, metavar="N", help=questions)
    add("--answer-tokens", type=positive, default=SPEED_TOKENS, help="most tokens of an answer")
    add("--reasoning-budget", type=int, default=-1, help="most tokens of a thought (-1: as many as an answer has)")
    add("--rounds", type=positive, default=ROUNDS, help="how often the numbers take turns")
    add("--context", type=positive, default=4096, help="tokens of context of an answer")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_apart([args.gguf, args.questions], [args.output.with_suffix(end) for end in (".md", ".json", ".png")])
    tools, counts = find_llama_cpp(args.llama_cpp), check_counts(args.gguf, args.counts)
    record = read_held_gguf(args.gguf)
    questions = load_questions(args.questions, QUESTION_SEED)
    asked = questions[: args.answers or (None if args.scored else SPEED_QUESTIONS)]
    if len(questions[: args.limit]) < 2 or len(asked) < 2:
        raise InputError(args.questions, "two questions or more, chats and answers", "fewer")
    tokenizer = load_tokenizer(args.model)
    chats = chats_of(
        [teacher_forced_sequence(tokenizer, q, args.max_tokens, "answer") for q in questions[: args.limit]]
    )
    inputs = {
        "gguf_sha256": record["sha256"],
        "questions_sha256": question_set_digest(questions[: args.limit]),
        "texts_sha256": chats.digest,
        "max_tokens": args.max_tokens,
        "gpu_layers": args.gpu_layers,
        "llama_cpp": tools.version(),
        "tools_sha256": tools.digest(),
    }
    losses = active_losses(args, tools, counts, chats, inputs)
    answers = answers_of(args, tools, counts, asked)
    rows = []
    for count in counts:
        fields = loss_fields(losses.get(count), chats) | answer_fields(answers[count], asked, args.scored)
        rows.append({"experts": count, **fields})
    results = {
        "name": args.name,
        "gguf": args.gguf.name,
        "gguf_sha256": record["sha256"],
        "source_sha256": record["source_sha256"],
        "key": experts_used_key(read_header(args.gguf)),
        "own": counts[0],
        "chats": len(chats.texts),
        "chat_tokens": int(chats.counts["reply"].sum()),
        "chat_max_tokens": args.max_tokens,
        "no_reasoning": count_without_reasoning(questions[: args.limit]),
        "chats_sha256": inputs["questions_sha256"],
        "questions": len(asked),
        "questions_sha256": question_set_digest(asked),
        "question_file_sha256": sha256_file(args.questions),
        "max_tokens": args.answer_tokens,
        **{key: getattr(args, key) for key in ("reasoning_budget", "context", "gpu_layers", "rounds")},
        **{key: inputs[key] for key in ("texts_sha256", "llama_cpp", "tools_sha256")},
        "hardware": hardware_of(tools),
        "rows": rows,
    }
    write_active(args, results)


def write_active(args: argparse.Namespace, results: dict) -> None:
    """Write record, picture and, last, the table: it is the file that make looks for."""
    write_record(args.output.with_suffix(".json"), results, ActiveExperts)
    draw_active(results, args.output.with_suffix(".png"))
    with replace_when_done(args.output) as partial:
        partial.write_text(f"# {args.name} with fewer active experts\n\n{active_table(results)}\n")
    print(f"{args.output}: {len(results['rows'])} numbers of active experts over {results['chats']} chats")


if __name__ == "__main__":
    die_with_parent()
    run(main)
