"""Numbers and tables as a person sees them."""

import argparse

from files.display import cell_text, markdown_table, plural, screen_table, shortened, with_error
from files.option_types import fraction, positive, whole_number

import pytest


def test_two_digits_of_the_error_decide_the_decimals():
    assert with_error(0.123456, 0.0123) == "0.123 ± 0.012"
    assert with_error(12.3456, 1.5) == "12.35 ± 1.50"  # two decimals at least
    assert with_error(0.1234567891, 1e-12) == "0.12345679 ± 0.00000000"  # eight at most
    assert with_error(0.5, 0) == "0.5 ± 0"


def test_plurals_and_tables():
    assert [plural(count, "file") for count in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
    assert markdown_table(["name", "size"], [["a", "1.00"]]) == "| name | size |\n| --- | ---: |\n| a | 1.00 |"


def test_a_cell_of_a_table_has_no_tag_link_or_bar_of_another_s():
    name = "a|b\n<script>x</script> [x](javascript:x) [y] (http://z)"
    inert = "a\\|b &lt;script>x&lt;/script> [x]\\(javascript:x) [y]\\(http://z)"
    assert markdown_table([name], [[name]]) == f"| {inert} |\n| --- |\n| {inert} |"
    ours = "[a](https://huggingface.co/a/b) [c](c.png) 1 < 2"
    assert ours in markdown_table(["x"], [[ours]])


def test_a_backslash_before_a_bar_begins_no_cell():
    """Two backslashes would be one, and the bar behind them a cell's end."""
    assert cell_text("q\\| 000.csv") == "q\\ \\| 000.csv"


def test_a_table_for_a_screen_is_aligned_and_only_its_first_column_gives_way():
    assert screen_table(["name", "GiB"], [["a", "1.00"], ["long", "10.00"]]) == (
        "name    GiB\na      1.00\nlong  10.00"
    )
    rows = [["gemma-4-26B-A4B-it-109e", "18.22", "97.47%"]]
    assert screen_table(["model", "GiB", "raw"], rows, width=29).splitlines() == [
        "model             GiB     raw",
        "gemma-…it-109e  18.22  97.47%",
    ]
    assert shortened("abcdef", 6) == "abcdef" and shortened("abcdefg", 6) == "ab…efg"


@pytest.mark.parametrize(
    "parse, good, bad",
    [
        (whole_number, {"0": 0, "12": 12}, ["-1", "1.5", "x", ""]),
        (positive, {"1": 1, "12": 12}, ["0", "-1", "x", ""]),
        (fraction, {"0": 0, "0.25": 0.25, "1": 1}, ["-0.1", "1.1", "nan", "x"]),
    ],
)
def test_numbers_of_a_command_line(parse, good, bad):
    assert {text: parse(text) for text in good} == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match="found"):
            parse(text)
