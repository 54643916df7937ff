"""quality.json: a figure that contradicts another one of the record is refused."""

from files.input_errors import InputError
from files.json_records import check_record
from losses.quality_record import Quality
from makers.synthetic_build import quality_of, quant_records

import pytest


def record() -> dict:
    """Return a measurement of made-up quants, anew for each test."""
    return {"version": Quality.current, **quality_of(quant_records("4" * 64, 16))}


def entry_of(content: dict, part: str) -> dict:
    """Return the first entry of what follows by the total loss."""
    return next(iter(content["conclusions"]["total"][part].values()))


def test_a_measurement_is_taken_as_it_was_written():
    assert check_record("quality.json", record(), Quality) == record()


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda it: it["tokens"].update(reply=10_000), "tokens of the score within all"),
        (lambda it: it.update(cut=41), "cut at most chats"),
        (lambda it: it["files"].append(it["files"][0]), "every label once"),
        (lambda it: it["files"][3]["losses"].pop("total"), "losses total and quantisation"),
        (lambda it: it["files"][3]["losses"]["total"]["kld"].reverse(), "conclusions.total.line of "),
        (lambda it: it["conclusions"]["total"]["verdicts"].popitem(), "conclusions.total.verdicts of "),
        (lambda it: it["conclusions"]["total"]["dominated"].popitem(), "conclusions.total.dominated of "),
        (lambda it: it["files"][3]["losses"]["pruning"].update(kld=[1.0, 0.1]), "one pruning loss for all files"),
        (lambda it: it["files"][3]["losses"]["total"].update(kld=[-1.0, 0.1]), "none below 0"),
        (lambda it: it["conclusions"].pop("total"), "conclusions of total and quantisation"),
        (lambda it: it["conclusions"]["total"]["line"].append("Q9"), "line of measured files"),
        (lambda it: entry_of(it, "verdicts").update(difference=0.5), "by the files' KLDs"),
        (lambda it: entry_of(it, "verdicts").update(nearest="Q9"), "with a difference from a measured file"),
        (lambda it: entry_of(it, "verdicts").update(verdict="best of all"), "verdict by its figures"),
        (lambda it: entry_of(it, "verdicts").update(log_ratio=0.75), "log_ratio of the file's KLD and the line's"),
        (lambda it: entry_of(it, "dominated").update(significant=None), "significant by its error"),
    ],
)
def test_figures_that_contradict_each_other_are_refused(change, words):
    content = record()
    change(content)
    with pytest.raises(InputError) as caught:
        check_record("quality.json", content, Quality)
    assert words in str(caught.value)
