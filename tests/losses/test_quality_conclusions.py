"""What follows from losses, by hand: differences, errors, the line of the standard quants, verdicts."""

import measure_quality
from chats.chat_sequences import Sequence
from chats.questions import Question
from files.display import digits
from losses.chat_masks import chats_of
from losses.kld_statistics import kl_divergence, logit_differences, per_chat, quantile_and_error, rms_and_error
from losses.quality_conclusions import (
    CONTRIB,
    EXPERTS_ONLY,
    STANDARD,
    TARGET,
    Measured,
    imatrix_gains,
    line_of,
    quality_conclusions,
    quant_kind,
    weights_at,
)
from losses.quality_page import imatrix_lines, quality_page
from losses.quality_record import BETTER, NO_DIFFERENCE, SMALLER, WORSE

import numpy as np
import pytest


def test_differences_by_hand():
    full, other = (
        np.log(np.array(rows, np.float32))
        for rows in ([[0.5, 0.3, 0.2], [0.2, 0.7, 0.1]], [[0.25, 0.5, 0.25], [0.1, 0.8, 0.1]])
    )
    found = logit_differences(full + 5, other - 1, [0, 1])
    np.testing.assert_allclose(found["kld"], kl_divergence(full, other), atol=1e-7)
    np.testing.assert_array_equal(found["same_top"], [0, 1])
    np.testing.assert_allclose(found["delta_p"], [-25, 10], atol=1e-4)


def test_errors_by_hand():
    values, counts = np.array([3.0, 4.0, 0.0, 5.0]), np.array([2, 2])
    assert per_chat(values, counts).tolist() == [7, 5]
    assert rms_and_error(values, counts) == (pytest.approx(np.sqrt(12.5)), 0)  # 25 a chat: no spread between them
    mean, error = rms_and_error(np.array([1.0, 3.0]), np.array([1, 1]))
    assert (mean, error) == (pytest.approx(np.sqrt(5)), pytest.approx(4 / (2 * np.sqrt(5))))  # squares 1, 9: 5 ± 4
    assert rms_and_error(np.zeros(2), np.array([1, 1])) == (0, 0)
    generator, chats = np.random.default_rng(1), np.full(100, 4)
    medians = [np.median(generator.normal(size=400)) for _ in range(2000)]
    errors = [quantile_and_error(generator.normal(size=400), chats, 0.5)[1] for _ in range(200)]
    assert np.mean(errors) == pytest.approx(np.std(medians), rel=0.1)
    assert digits(0.001234, 0) == ("0.00123", "0")


def file_of(label: str, size: int, *klds: float) -> Measured:
    """A made-up file of two chats with one token each, its total and its quantisation loss the same."""
    sums, loss = np.array(klds), {"kld": [float(np.mean(klds)), 0.0]}
    every = dict.fromkeys(
        ("kld_median", "kld_99", "kld_99.9", "same_top", "rms_delta_p", "kld_all_tokens"), [0.5, 0.25]
    )
    return Measured(
        label,
        quant_kind(label.removesuffix(EXPERTS_ONLY)),
        size,
        4.0,
        "0" * 64,
        dict.fromkeys(("pruning", "total", "quantisation"), sums),
        {name: {**loss, **every} for name in ("pruning", "total", "quantisation")},
    )


def test_the_line_and_the_verdicts_by_hand():
    measured = [
        file_of("Q8_0", 400, 1.0, 1.0),
        file_of("Q6_K", 300, 5.0, 5.0),
        file_of("Q5_0", 200, 4.0, 4.0),
        file_of("Q4_0", 100, 16.0, 16.0),
        file_of("CD-Q5_K_M", 300, 1.9, 1.9),
        file_of("CD-Q4_K_M", 150, 8.0, 8.2),
        file_of("CD-Q4_K_M (experts only)", 150, 9.0, 9.2),
        file_of("AUTO-2", 90, 1.0, 99.0),
        file_of("AUTO-1", 500, 2.0, 2.0),
    ]
    assert [entry.label for entry in line_of(measured, "total")] == ["Q4_0", "Q5_0", "Q8_0"]
    assert [(point.label, weight) for point, weight in weights_at(125, line_of(measured, "total"))] == [
        ("Q4_0", 0.75),
        ("Q5_0", 0.25),
    ]
    found = quality_conclusions(measured, np.array([1, 1]))["total"]
    assert {label: each["verdict"] for label, each in found["verdicts"].items()} == {
        "CD-Q5_K_M": BETTER,
        "CD-Q4_K_M": NO_DIFFERENCE,
        "CD-Q4_K_M (experts only)": WORSE,
        "AUTO-2": SMALLER,
        "AUTO-1": WORSE,
    }
    assert found["verdicts"]["CD-Q5_K_M"]["line"] == pytest.approx(2)  # between 4 and 1, halfway in size
    assert found["verdicts"]["CD-Q5_K_M"]["nearest"] == "Q6_K" and found["verdicts"]["CD-Q5_K_M"][
        "difference"
    ] == pytest.approx(-3.1)
    assert found["dominated"]["Q6_K"] == {
        "by": "CD-Q5_K_M",
        "difference": pytest.approx(3.1),
        "difference_error": 0,
        "significant": True,
    }
    assert found["dominated"]["AUTO-1"]["by"] == "Q8_0" and "Q4_0" not in found["dominated"]
    assert found["scopes"]["better"] == "all" and found["scopes"]["mean"][0] == pytest.approx(np.log(8.1 / 9.1))
    content = {
        "chats": 2,
        "left_out": 0,
        "score": "reply",
        "tokens": {"reply": 2, "all": 9},
        "conclusions": dict.fromkeys(("total", "quantisation"), found),
    }
    page = quality_page(content, measured)
    assert "**CD-Q5_K_M**, 0.0000 GiB, is better than the standard quants of its size: 0.95 ± 0.00 times" in page
    assert "(experts only)**, 0.0000 GiB, is WORSE than" in page and "shows no significant difference from" in page
    assert "**AUTO-2**, 0.0000 GiB: no standard quant is as small." in page
    assert "| by CD-Q5_K_M |" in page and "On average `all` costs less." in page
    assert [quant_kind(quant) for quant in ("CD-Q2_K", "AUTO-1", "Q2_K")] == [CONTRIB, TARGET, STANDARD]


def test_what_the_imatrix_gains_by_hand():
    measured = [file_of("Q4_0", 9, 1.0, 2.0), file_of("Q4_0 (no imatrix)", 9, 2.0, 5.0), file_of("Q8_0", 9, 1.0, 1.0)]
    found = imatrix_gains(measured, np.array([1, 1]), "total")
    # Differences 1 and 3 over a token each: 2, and an error of sqrt(2 x 2 / 1) / 2.
    assert found == {
        "Q4_0": {
            "with": [1.5, 0.0],
            "without": [3.5, 0.0],
            "difference": 2.0,
            "difference_error": 1.0,
            "significant": True,
        }
    }
    page = "\n".join(imatrix_lines({"conclusions": {"total": {"imatrix": found}, "quantisation": {}}}))
    assert "| Q4_0 | 1.5 ± 0 | 3.5 ± 0 | 2.00 ± 1.00 | with it costs less |" in page
    assert "By quantisation" not in page
    assert imatrix_lines({"conclusions": {"total": {"imatrix": {}}, "quantisation": {}}}) == []


def test_of_two_files_of_a_type_the_one_without_an_imatrix_says_so():
    plain, matrix = {"type": "Q6_K", "imatrix_sha256": None}, {"type": "Q6_K", "imatrix_sha256": "0" * 64}
    experts = {"type": "CD-Q6_K", "imatrix_sha256": "0" * 64, "cd_scope": "experts"}
    assert measure_quality.quant_labels([plain, experts]) == ["Q6_K", "CD-Q6_K (experts only)"]
    assert measure_quality.quant_labels([matrix, plain]) == ["Q6_K", "Q6_K (no imatrix)"]


def test_seen_questions_are_left_out_and_the_last_position_scores_nothing():
    questions = [Question(name, f"What is {name}?", ("1", "2", "3", "4"), 0, "") for name in "abc"]
    assert [
        q.record_id for q in measure_quality.unseen_questions(questions, "<|turn>user\nWhat is a?<turn|>", {"c"})
    ] == ["b"]
    # By its words, as the card counts what a calibration text holds.
    assert [q.record_id for q in measure_quality.unseen_questions(questions, "WHAT IS\nA ?", set())] == ["b", "c"]
    chats = chats_of([Sequence([5, 6, 7, 8], 2, False), Sequence([5, 6, 7], 1, False)])
    assert chats.masks["reply"].tolist() == [False, True, True, True, True] and chats.counts["reply"].tolist() == [2, 2]
    assert chats.masks["all"].all() and chats.counts["all"].tolist() == [3, 2]
    # Where a reply begins is not in the ids: a tokenizer can read a prompt alone otherwise than within its chat.
    others = chats_of([Sequence([5, 6, 7, 8], 3, False), Sequence([5, 6, 7], 1, False)])
    assert others.texts == chats.texts and others.digest != chats.digest
    # Nor is it one more id of a chat that counts as a whole.
    longer = chats_of([Sequence([5, 6, 7, 8, 2], 0, False), Sequence([5, 6, 7, 1], 0, False)])
    assert longer.digest != chats.digest
