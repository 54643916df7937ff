"""Damaged losses, with all that names their digests, fail the gate `quality`, and good ones come out again."""

import json
from collections.abc import Callable

from files.json_records import read_json
from files.seals import INPUTS_NAME
from losses.stored_results import results_folder
from makers.damaged_build import Build

import numpy as np
import pytest


def of_quality(**changes: object) -> Callable[[Build], None]:
    return lambda build: build.change(build.evidence / "quality.json", lambda quality: quality.update(changes))


def of_losses(build: Build) -> None:
    build.change(build.evidence / "quality.json", lambda q: q["files"][0]["losses"]["total"].update(kld=[1e-5, 1e-6]))


def of_conclusions(build: Build) -> None:
    build.change(build.evidence / "quality.json", lambda quality: quality["conclusions"]["total"].update(dominated={}))


def of_measured_file(build: Build) -> None:
    build.change(build.evidence / "quality.json", lambda quality: quality["files"][0].update(sha256="4" * 64))


def of_inputs(build: Build) -> None:
    build.change(build.evidence / "quality.json", lambda quality: quality["inputs"].update(max_tokens=9))


def of_full_model(build: Build) -> None:
    build.change(build.evidence / "quality.json", lambda quality: quality["inputs"].update(full_sha256="4" * 64))


def of_chats(build: Build) -> None:
    (path,) = (build.evidence / "logits").rglob("chats.npz")
    path.unlink()
    np.savez(path, reply=np.full(4, 9), all=np.array([22, 23, 22, 23]))


def of_inputs_everywhere(build: Build, change: Callable[[dict], object]) -> None:
    """Losses that were measured with other inputs, stored under the name that these give."""
    inputs = read_json(build.evidence / "quality.json")["inputs"]
    old = results_folder(build.evidence / "logits", "results", inputs)
    change(inputs)
    new = old.rename(results_folder(build.evidence / "logits", "results", inputs))
    build.write(new / INPUTS_NAME, json.dumps(inputs))
    build.change(build.evidence / "quality.json", lambda quality: quality.update(inputs=inputs))


def of_texts(build: Build) -> None:
    """Losses over the tokens of another tokenizer, such as one that was edited for that time."""
    of_inputs_everywhere(build, lambda inputs: inputs.update(texts_sha256="4" * 64))


def of_short_chats(build: Build) -> None:
    """Losses over the answer's letter alone are small, so a card says how many chats had no more."""
    build.change(build.evidence / "quality.json", lambda quality: quality.update(no_reasoning=1))


def of_no_texts(build: Build) -> None:
    of_inputs_everywhere(build, lambda inputs: inputs.pop("texts_sha256"))


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda build: None, ""),
        (of_texts, "chats by the checkpoint's tokenizer and chat template, sha256"),
        (of_no_texts, "found None; run `make quality REPLACE=quality`"),
        (of_short_chats, "chats without a reasoning: 0, found 1"),
        (of_losses, "losses.total.kld[0]"),
        (of_conclusions, "conclusions.total.dominated"),
        (of_measured_file, "losses of this build's Q8_0"),
        (of_inputs, "results of an earlier run"),
        (of_full_model, "losses against the F16 file"),
        (of_chats, "the losses of the stored results"),
        (of_quality(chats=400), "chats 4, found 400"),
        (of_quality(left_out=3), "chats left out: 0, found 3"),
        (of_quality(cut=3), "cut 0, found 3"),
        (of_quality(choice_known=False), "choice_known"),
        (of_quality(gpqa="99%"), "gpqa absent"),
    ],
)
def test_losses_are_of_this_build_and_come_out_again(build, damage, words):
    damage(build)
    found = build.failing("quality")
    assert any(words in line for line in found) if words else not found, found
