#!/usr/bin/env python3
"""Re-run the invalid answers of an evaluation with the thought closed and the answer begun: the card's patch step.

Inputs:  a run directory of eval_gpqa_v3.sh with lm-eval's samples; the URL of the llama-server that gave them.
Output:  RUN/patched.json: per invalid question the completion, its letter, right or wrong.
Use:     scripts/patch_answers.py --run DIR --url http://127.0.0.1:PORT

Every invalid answer (no letter that flexible-extract finds) goes through /completion on the exact chat prompt
(/apply-template), the thought closed, prefilled with "The answer is (", 10 tokens, greedy.
"""

import argparse
import json
import re
import urllib.request
from pathlib import Path

from tqdm import tqdm

from lm_eval_samples import Sample, read_samples
from safe_files import run, write_json

PREFILL = "The answer is ("
PREDICT_TOKENS = 10
TIMEOUT_SECONDS = 600


def closed_thought(chat_template: str) -> str:
    """Return an empty, closed thought in the form that the chat template's family has."""
    if "<|channel>" in chat_template:
        return "<|channel>thought\n<channel|>"
    return "<think>\n\n</think>\n\n" if "<think>" in chat_template else ""


def completion_letter(text: str) -> str | None:
    """Return the letter that a completion of "The answer is (" commits to, if it does."""
    match = re.match(r"\s*([A-D])\b", text)
    return match[1] if match else None


def request(url: str, body: dict | None = None) -> dict:
    """GET, or POST a JSON body; return the JSON answer."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, {"Content-Type": "application/json"}),
                                timeout=TIMEOUT_SECONDS) as answer:
        return json.loads(answer.read())


def patch(url: str, sample: Sample, thought: str) -> dict:
    """Ask the server to finish the answer of one invalid sample."""
    prompt = request(f"{url}/apply-template", {"messages": sample.messages})["prompt"]
    body = {"prompt": prompt + thought + PREFILL, "n_predict": PREDICT_TOKENS, "temperature": 0, "cache_prompt": False}
    completion = request(f"{url}/completion", body)["content"]
    letter = completion_letter(completion)
    return {"record_id": sample.record_id, "class": "no letter" if sample.response.strip() else "empty",
            "completion": completion, "letter": letter, "correct": letter == sample.target}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="run directory of eval_gpqa_v3.sh")
    parser.add_argument("--url", required=True, help="URL of the llama-server")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    samples = read_samples(args.run)
    invalid = [sample for sample in samples if sample.letter is None]
    thought = closed_thought(request(f"{args.url}/props").get("chat_template", "")) if invalid else ""
    answers = [patch(args.url, sample, thought) for sample in tqdm(invalid, desc="patch invalid answers")]
    write_json(args.run / "patched.json", {"prefill": PREFILL, "n_predict": PREDICT_TOKENS, "answers": answers})
    print(f"{args.run}: {len(invalid)} of {len(samples)} answers invalid, {sum(a['correct'] for a in answers)} of them "
          f"right after the patch")


if __name__ == "__main__":
    run(main)
