"""A run's settings file made from another one."""

import new_run

import pytest

SETTINGS = "KEEP = 109  # why\n\n# More.\nQUANTS = Q6_K\n"
DEMO = f"# The demo.\n\n{SETTINGS}"


@pytest.fixture
def runs(tmp_path):
    (tmp_path / "demo.mk").write_text(DEMO)
    return tmp_path


def copy(runs, source: str, output: str) -> None:
    new_run.main(["--from", str(runs / source), "--output", str(runs / output)])


def test_a_new_run_keeps_the_settings_comments_and_says_where_it_is_from(runs, capsys):
    copy(runs, "demo.mk", "my-26b.mk")
    text = (runs / "my-26b.mk").read_text()
    heading = text.removesuffix(SETTINGS)
    assert text.endswith(SETTINGS) and all(line.startswith("#") for line in heading.splitlines())
    assert "The demo." not in text  # what the copied run is
    assert "copied from demo" in heading and "make plan RUN=my-26b" in heading
    assert capsys.readouterr().out.endswith("edit it, then `make doctor RUN=my-26b`\n")


def test_a_copy_of_a_copy_has_one_heading(runs):
    copy(runs, "demo.mk", "one.mk")
    copy(runs, "one.mk", "two.mk")
    text = (runs / "two.mk").read_text()
    assert text.startswith("# Run two: copied from one.") and text.count("copied from") == 1 and text.endswith(SETTINGS)


def test_a_comment_that_only_begins_like_a_heading_stays(runs):
    own = "# Run fast: copied from my notes\nKEEP = 96\n# ----\nQUANTS = Q6_K\n"
    (runs / "own.mk").write_text(own)
    copy(runs, "own.mk", "two.mk")
    assert (runs / "two.mk").read_text().endswith(own)


def test_nothing_is_overwritten_and_names_are_plain(runs, refusal):
    arguments = ["--from", runs / "demo.mk", "--output"]
    refusal(new_run.main, [*arguments, runs / "demo.mk"], "demo.mk", "expected no file yet")
    (runs / "link.mk").symlink_to(runs / "nowhere")
    refusal(new_run.main, [*arguments, runs / "link.mk"], "expected no file yet")
    for name in ("a b.mk", ".mk", "-x.mk", "x.txt", "a$(shell ls).mk", f"{'x' * 61}.mk"):
        refusal(new_run.main, [*arguments, runs / name], "such as my-26b")
    refusal(new_run.main, [*arguments, runs / "no/folder.mk"], "folder of the runs")
    assert (runs / "demo.mk").read_text() == DEMO and len(list(runs.iterdir())) == 2


def test_an_unknown_run_is_refused_with_the_known_ones(runs, refusal):
    refusal(new_run.main, ["--from", runs / "dmo.mk", "--output", runs / "x.mk"], "dmo.mk", "there are: demo")
    (runs / "latin.mk").write_bytes(b"# \xe9\n")
    refusal(new_run.main, ["--from", runs / "latin.mk", "--output", runs / "x.mk"], "UTF-8")


@pytest.mark.parametrize("sign", ["\r", "\x1b", "\x85", "\u2028", "\u202e"])
def test_no_sign_that_nobody_sees_is_copied(runs, refusal, sign):
    """What follows a lone carriage return stands in a comment for make, and would be a line of its own in the copy."""
    (runs / "odd.mk").write_bytes(f"{DEMO}# a comment{sign}QUANTS := $(shell true)\n".encode())
    refusal(new_run.main, ["--from", runs / "odd.mk", "--output", runs / "x.mk"], "without control characters")
    assert not (runs / "x.mk").exists()
    (runs / "odd.mk").write_bytes(DEMO.replace("\n", "\r\n").encode())  # as another system ends its lines
    new_run.main(["--from", str(runs / "odd.mk"), "--output", str(runs / "x.mk")])
    assert b"\r" not in (runs / "x.mk").read_bytes()
