"""The report's grids of cells, as Bokeh figures: layers and experts, questions.

A grid shows one of its measures at a time, its columns by rank or by number; the page switches both (page.js), which
finds these models by their names.
"""

from dataclasses import dataclass, field

from files.display import GREY
from page.charts import add_hover, add_zoom, empty_figure

import numpy as np
from bokeh.models import ColumnDataSource, FixedTicker, LinearColorMapper, LogColorMapper, Range1d
from bokeh.palettes import Viridis256
from bokeh.plotting import figure

CELL_PIXELS, FEW_ROWS, FEW_CELL_PIXELS, MARGIN_PIXELS = 15, 8, 32, 58
ROW_TICKS, COLUMN_TICKS, STOPS = 16, 8, 8
MARK_PIXELS = 8  # at most; page.js makes them smaller where cells are narrow
NOTHING = GREY  # a value of zero, which a log scale has no place for


@dataclass(frozen=True)
class Measure:
    """One thing that a grid can show: values [rows, columns] on a log or linear scale, or numbers of classes.

    classes: colours by name; values then count them from 0.
    """

    key: str
    name: str
    values: np.ndarray
    log: bool = False
    classes: dict[str, str] = field(default_factory=dict)

    def limits(self) -> tuple[float, float]:
        """Return the least and the largest value of the scale; zero is not part of a log scale."""
        shown = self.values[self.values > 0] if self.log else self.values
        low, high = (float(shown.min()), float(shown.max())) if shown.size else (1.0, 1.0)
        return (low, high) if low < high else (low, low + 1)  # Bokeh draws no scale of no length

    def stops(self) -> list[str]:
        """Return colours of the scale, from its lower end to its upper one."""
        return [Viridis256[place * (len(Viridis256) - 1) // STOPS] for place in range(STOPS + 1)]

    def mapper(self) -> LinearColorMapper | LogColorMapper:
        """Return what turns values into colours."""
        if self.classes:
            return LinearColorMapper(palette=list(self.classes.values()), low=-0.5, high=len(self.classes) - 0.5)
        low, high = self.limits()
        kind = LogColorMapper if self.log else LinearColorMapper
        return kind(palette=Viridis256, low=low, high=high, low_color=NOTHING)


@dataclass(frozen=True)
class Mark:
    """A sign on some cells: its marker in Bokeh, where it stands (row by row), the sign and its meaning in the legend.

    told_by_cut: by rank these are the cells right of the cut, so that the sign is not needed there.
    """

    marker: str
    where: list[bool]
    sign: str
    meaning: str
    told_by_cut: bool = False


@dataclass(frozen=True)
class Grid:
    """Rows and columns of cells: their names, the measures to show, a sentence for every cell and marks on some.

    texts, links: row by row. A place with the text "" has no cell (the end of the last row). links: the rows of the
    table below that belong to the cells, "" for none. ranks: [rows, columns], the place of every cell by rank, 0 for
    the best; None for cells that have no order. cut: the number of kept cells of each row, which come first by rank.
    first: number of the first column.
    """

    key: str
    row_name: str
    column_name: str
    rows: list[str]
    columns: int
    measures: list[Measure]
    texts: list[str]
    marks: list[Mark]
    links: list[str] = field(default_factory=list)
    ranks: np.ndarray | None = None
    rank_name: str = "rank"
    cut: int | None = None
    first: int = 0

    def choices(self) -> list[tuple[str, str]]:
        """Return key and name of every measure."""
        return [(measure.key, measure.name) for measure in self.measures]


def places_of(grid: Grid, there: list[int]) -> dict[str, list[int]]:
    """Return rows and columns of the cells at the places `there`, the columns also by number and by rank."""
    number = [place % grid.columns for place in there]
    rank = number if grid.ranks is None else grid.ranks.reshape(-1)[there].tolist()
    return {"column": rank, "number": number, "rank": rank, "row": [place // grid.columns for place in there]}


def cells_of(grid: Grid) -> ColumnDataSource:
    """Return the cells of a grid: place, sentence, row of the table and the value of every measure."""
    there = [place for place, text in enumerate(grid.texts) if text]
    return ColumnDataSource(
        {
            **places_of(grid, there),
            "text": [grid.texts[place] for place in there],
            "link": [grid.links[place] if grid.links else "" for place in there],
            **{measure.key: measure.values.reshape(-1)[there].tolist() for measure in grid.measures},
        },
        name="cells",
    )


def grid_figure(grid: Grid) -> figure:
    """Return a grid of cells, by rank where it has one; the first measure is shown, the page can show the others."""
    rows, columns = len(grid.rows), grid.columns
    pixels = FEW_CELL_PIXELS if rows <= FEW_ROWS else CELL_PIXELS
    plot = empty_figure(
        f"grid-{grid.key}",
        MARGIN_PIXELS + pixels * rows,
        x_range=Range1d(start=-0.5, end=columns - 0.5, bounds="auto"),
        y_range=Range1d(start=rows - 0.5, end=-0.5, bounds="auto"),  # the first row on top
        x_axis_label=grid.column_name if grid.ranks is None else grid.rank_name,
        y_axis_label=grid.row_name,
    )
    source = cells_of(grid)
    # A layer of cells per measure, of which one is visible: to switch is to show another layer, at once and without a
    # sum.
    renderers = [
        plot.rect(
            "column",
            "row",
            0.94,
            0.92,
            source=source,
            line_color=None,
            name=f"measure-{measure.key}",
            fill_color={"field": measure.key, "transform": measure.mapper()},
            visible=place == 0,
        )
        for place, measure in enumerate(grid.measures)
    ]
    add_marks(plot, grid)
    if grid.cut is not None:
        for color, width in (("#ffffff", 5), ("#000000", 2)):  # black on white: it shows on every colour
            ends = [grid.cut - 0.5], [-0.5], [grid.cut - 0.5], [rows - 0.5]
            plot.segment(*ends, line_color=color, line_width=width, name="cut")
    cursor = ColumnDataSource({"column": [], "row": []}, name="cursor")
    for color, width in (("#000000", 7), ("#ffffff", 3)):
        plot.rect("column", "row", 1, 1, source=cursor, fill_color=None, line_color=color, line_width=width)
    add_hover(plot, renderers)
    add_zoom(plot)
    label_grid(plot, grid)
    return plot


def label_grid(plot: figure, grid: Grid) -> None:
    """Name rows and columns on the axes, so many that the names do not touch."""
    rows, columns = len(grid.rows), grid.columns
    plot.grid.visible = False
    plot.axis.major_tick_line_color = plot.axis.minor_tick_line_color = plot.axis.axis_line_color = None
    plot.yaxis.ticker = FixedTicker(ticks=list(range(0, rows, max(1, rows // ROW_TICKS))))
    plot.yaxis.major_label_overrides = dict(enumerate(grid.rows))
    plot.xaxis.ticker = FixedTicker(ticks=list(range(0, columns, max(1, columns // COLUMN_TICKS))))
    first = grid.first if grid.ranks is None else 1  # the best expert has rank 1
    plot.xaxis.major_label_overrides = {place: str(place + first) for place in range(columns)}


def add_marks(plot: figure, grid: Grid) -> None:
    """Mark cells in white on black, which shows on every colour of a cell."""
    for mark in grid.marks:
        there = [place for place, marked in enumerate(mark.where) if marked]
        source = ColumnDataSource(places_of(grid, there), name=f"marked-{mark.marker}")
        name = f"mark-{mark.marker}{'-told' if mark.told_by_cut else ''}"
        for color, width in (("#000000", 4), ("#ffffff", 1.6)):
            plot.scatter(
                "column",
                "row",
                marker=mark.marker,
                source=source,
                size=MARK_PIXELS,
                line_color=color,
                line_width=width,
                fill_color=None,
                name=name,
                visible=not mark.told_by_cut,
            )
