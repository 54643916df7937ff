"""Passages of English speeches as questions: which sentence comes next? What follows in the speech is the reasoning.

A question has GPQA's columns, as every question file of the pipeline. Its prompt holds a few sentences of a speech and
four openings of the next one; its reasoning is the true continuation. So the reply is prose that nobody made up for
the purpose. The wrong openings are of other speeches of the same part. Speeches are parted whole: what fits the
routers, chooses the experts and is scored comes from different speeches.
"""

import random
import re

PARTS = ("fitting", "calibration", "fitting", "eval")  # of four speeches in a row
LEAD_WORDS, REPLY_WORDS, OPENING_WORDS = 15, 50, 4
SENTENCE_WORDS = range(OPENING_WORDS + 1, 61)  # shorter ones are calls of the audience, longer ones fill a chat alone
SEED = 7
PROMPT = "Which sentence comes next in this speech?"


def sentences_of(text: str) -> list[str]:
    """Return a text's sentences in order, blanks and line ends between words as one blank each."""
    parts = re.split(r"(?<=[.!?])\s+(?=[A-Z])", text)
    return [" ".join(part.split()) for part in parts if part.strip()]


def opening(sentence: str) -> str:
    """Return the first words of a sentence."""
    return " ".join(sentence.split()[:OPENING_WORDS]) + " ..."


def take_words(sentences: list[str], words: int) -> list[str]:
    """Return as many sentences from the start as are needed for so many words."""
    taken: list[str] = []
    while sentences[len(taken) :] and sum(len(sentence.split()) for sentence in taken) < words:
        taken.append(sentences[len(taken)])
    return taken


def passages_of(text: str, count: int) -> list[tuple[list[str], list[str]]]:
    """Return up to `count` passages of a text, evenly spread: sentences of the prompt, sentences that follow."""
    sentences = sentences_of(text)
    found = []
    for number in range(count):
        start = len(sentences) * number // count
        lead = take_words(sentences[start:], LEAD_WORDS)
        reply = take_words(sentences[start + len(lead) :], REPLY_WORDS)
        if reply and all(len(sentence.split()) in SENTENCE_WORDS for sentence in lead + reply):
            found.append((lead, reply))
    return found


def passage_rows(texts: dict[str, str], part: str, per_text: int, most: int) -> list[dict[str, str]]:
    """Return up to `most` questions of a part, up to `per_text` of a speech, evenly drawn.

    texts: by file name, such as 1790-Washington-1.txt.
    """
    chosen = [name for number, name in enumerate(texts) if PARTS[number % len(PARTS)] == part]
    passages = [
        (name, number, *passage) for name in chosen for number, passage in enumerate(passages_of(texts[name], per_text))
    ]
    rng = random.Random(f"{SEED}/{part}")
    passages = sorted(rng.sample(passages, min(most, len(passages))), key=lambda entry: entry[:2])
    openings = sorted({opening(reply[0]) for _, _, _, reply in passages})
    rows = []
    for name, number, lead, reply in passages:
        right = opening(reply[0])
        wrong = rng.sample([other for other in openings if other != right], 3)
        rows.append(
            {
                "Record ID": f"{name.removesuffix('.txt')}-{number}",
                "Question": f"{PROMPT}\n{' '.join(lead)}",
                "Correct Answer": right,
                **{f"Incorrect Answer {place}": text for place, text in enumerate(wrong, start=1)},
                "Explanation": " ".join(reply),
                "High-level domain": f"{name[:2]}00s",
            }
        )
    return rows
