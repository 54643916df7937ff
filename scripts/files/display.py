"""How numbers, tables and colours are shown, the same everywhere: values with errors, Markdown tables, the palette.

Sizes are printed by `gib` and `in_unit` of safe_files.py.
"""

import math
import re

# The palette of Okabe and Ito (Color Universal Design, 2008). Colour-blind readers see its colours as different, too.
BLUE, ORANGE, GREEN, VERMILION, SKY, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#8a8a8a"
KEPT, DROPPED = BLUE, ORANGE  # of experts, in every picture and on the page
KIND_COLORS = {"standard": BLUE, "ContribDynamic": VERMILION, "target size": GREEN, "padded": GREY}  # of quants
MOST_DECIMALS = 8  # a tiny error must not fill the cell of a table
# As Markdown knows tags, comments and links in angle brackets; a model's <turn|> is none.
TAG_BEGIN = re.compile(r"<(?=[!?]|/?[a-zA-Z][a-zA-Z0-9-]*(?:[\s/>]|$)|[a-zA-Z][a-zA-Z0-9+.-]+:)", re.MULTILINE)
# Our own links go to the Hub or to a file beside the text.
FOREIGN_LINK = re.compile(r"\]\s*\((?!(?:https://huggingface\.co/[\w./-]+|[\w.-]+)\))")
SCREEN_WIDTH = 100  # characters of a line that a person reads on a screen


def digits(value: float, error: float) -> tuple[str, str]:
    """Return a value and its error with as many decimals as two digits of the error need, at most MOST_DECIMALS."""
    if error <= 0:  # one value alone has no error to go by
        return f"{value:.3g}", "0"
    decimals = min(MOST_DECIMALS, max(2, 1 - math.floor(math.log10(error))))
    return f"{value:.{decimals}f}", f"{error:.{decimals}f}"


def with_error(value: float, error: float) -> str:
    """Return "value ± error" with the decimals of `digits`."""
    return " ± ".join(digits(value, error))


def percent_with_error(share: float, error: float) -> str:
    """Return a share and its error in per cent, two decimals."""
    return f"{100 * share:.2f}% ± {100 * error:.2f}"


def plural(count: int, word: str) -> str:
    """Return a count and its word, with an s unless the count is 1."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def cell_text(text: str) -> str:
    """Return a text as a cell of a Markdown table: one line, without a tag or a link that was not ours.

    A bar or a line end would begin another cell or end the table. Names of domains and files come from elsewhere.
    """
    # A backslash of the text's own before a bar would take the effect of ours.
    one_line = " ".join(text.split()).replace("\\|", "\\ |").replace("|", "\\|")
    return FOREIGN_LINK.sub(r"]\\(", TAG_BEGIN.sub("&lt;", one_line))


def code(text: str) -> str:
    """Return a text as code in a line of Markdown, so that no markup in it counts; a backtick would end it."""
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"


def exactly(number: float) -> str:
    """Return a number in as few digits as give it back, and a whole one without a point."""
    return repr(number).removesuffix(".0")


def in_words(parts: list[str]) -> str:
    """Return the parts of a list as one says them: "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def markdown_table(heads: list[str], rows: list[list[str]], left: int = 1, last_words: int = 0) -> str:
    """Return a Markdown table; the first `left` and the last `last_words` columns are words, the others numbers."""
    numbers = len(heads) - left - last_words
    heads, *rows = [[cell_text(cell) for cell in row] for row in (heads, *rows)]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * left}{' ---: |' * numbers}{' --- |' * last_words}"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def shortened(text: str, width: int) -> str:
    """Return a text that fits a width: of a longer one the middle goes, since names of models differ at both ends."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def screen_table(heads: list[str], rows: list[list[str]], left: int = 1, width: int = SCREEN_WIDTH) -> str:
    """Return a table for a screen, columns aligned, no line wider than `width`: the first column gives way.

    The first `left` columns are words, the others numbers.
    """
    lines = [heads, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    widths[0] = max(1, min(widths[0], width - sum(widths[1:]) - 2 * (len(heads) - 1)))
    shown = []
    for line in lines:
        cells = [shortened(line[0], widths[0]), *line[1:]]
        padded = [cell.ljust(n) if i < left else cell.rjust(n) for i, (cell, n) in enumerate(zip(cells, widths))]
        shown.append("  ".join(padded).rstrip())
    return "\n".join(shown)
