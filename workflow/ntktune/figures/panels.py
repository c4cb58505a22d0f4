"""Grids of panels, one per task, each with a curve over the number of labelled examples."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.container import Container, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedFormatter,
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
)

from ntktune.figures.style import WIDTH, count, count_range, wrapped

PANEL_HEIGHT = 1.95  # inches
ROW_HEIGHT = 1.75  # inches: of panels that stand in columns
MOST_COLUMNS = 4


def panel_grid(groups: Sequence[Sequence[str]]) -> tuple[Figure, dict[str, Axes], set[str]]:
    """Return an empty figure with one panel per task; each group starts a row of its own.

    Parameters
    ----------
    groups
        Groups of task names, as the regressions and the classifications.

    Returns
    -------
    figure
        The figure; rows wrap after three panels, after four where there are many.
    axes
        Task → its panel.
    leftmost
        The tasks whose panels stand first in their row.
    """
    groups = [group for group in groups if group]
    longest = max(len(group) for group in groups)
    columns = min(longest, 4 if longest in (4, 7, 8) or longest > 9 else 3)
    rows = [group[i : i + columns] for group in groups for i in range(0, len(group), columns)]
    width = WIDTH if columns > 1 else WIDTH / 2
    figure = Figure(figsize=(width, PANEL_HEIGHT * len(rows) + 0.45))
    grid = figure.add_gridspec(len(rows), columns)
    axes = {
        task: figure.add_subplot(grid[i, j])
        for i, row in enumerate(rows)
        for j, task in enumerate(row)
    }
    return figure, axes, {row[0] for row in rows}


def panel_rows(names: Sequence[str], rows: int) -> tuple[Figure, dict[str, Sequence[Axes]]]:
    """Return an empty figure with a column of panels per name, and name → its panels.

    After four names the columns go on below.
    """
    bands = math.ceil(len(names) / MOST_COLUMNS)
    columns = math.ceil(len(names) / bands)
    width = WIDTH if columns > 1 else WIDTH / 2
    figure = Figure(figsize=(width, ROW_HEIGHT * rows * bands + 0.6))
    grid = figure.subplots(rows * bands, columns, squeeze=False)
    found = {}
    for place, name in enumerate(names):
        band, column = divmod(place, columns)
        found[name] = grid[rows * band : rows * (band + 1), column]
    for axes in set(grid.flat) - {axes for own in found.values() for axes in own}:
        axes.set_visible(False)
    return figure, found


def draw_title(axes: Axes, title: str, test_rows: int | None = None) -> None:
    """Put a title on a panel, in lines no wider than the panel, and how many texts were tested."""
    lines = wrapped(title, 100 // max(axes.get_gridspec().ncols, 2))
    axes.set_title(lines + (f"\n{count(test_rows, 'test text')}" if test_rows else ""))


def tested_rows(subsets: Mapping[str, Any] | None, task: str) -> int | None:
    """Return how many test rows a task has; None where its samples are not given."""
    return len(subsets[task]["test"]) if subsets and task in subsets else None


def draw_legend(figure: Figure, entries: Mapping[str, Artist | Container]) -> None:
    """Draw one legend, label → what it explains, below all panels."""
    labels, handles = list(entries), list(entries.values())
    for columns in range(len(entries) if figure.get_figwidth() == WIDTH else 1, 0, -1):
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns)
        # letters are a little wider at some resolutions
        if columns == 1 or legend.get_window_extent().width <= 0.97 * figure.bbox.width:
            break
        legend.remove()


def size_labels(sizes: Sequence[int], gap: float = 0.13) -> list[str]:
    """Return a label for every size, empty where it would run into its neighbour's.

    Parameters
    ----------
    sizes
        Sizes, ascending. The largest is always labelled.
    gap
        Least distance between two labels, as a share of the axis.
    """
    places = np.log2(np.asarray(sizes, dtype=float))
    span = max(places[-1] - places[0], 1.0)
    labels, last = [], np.inf
    for size, place in zip(reversed(sizes), places[::-1], strict=True):
        free = last - place >= gap * span
        labels.append(str(size) if free else "")
        last = place if free else last
    return labels[::-1]


def draw_size_axis(axes: Axes, sizes: Sequence[int]) -> None:
    """Make the x axis the number of labelled examples: log₂, a tick at every size."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(sizes)))
    axes.xaxis.set_major_formatter(FixedFormatter(size_labels(sizes)))
    axes.xaxis.set_minor_locator(NullLocator())
    # a share of the span on both sides; one size alone stands in the middle
    margin = (sizes[-1] / sizes[0]) ** 0.07 if len(sizes) > 1 else 2**0.5
    axes.set_xlim(sizes[0] / margin, sizes[-1] * margin)
    axes.set_xlabel("labelled examples n")


def draw_log_axis(axis: Axis) -> None:
    """Label a logarithmic axis of less than two decades at 1, 2, 5, or evenly if it is short."""
    low, high = axis.get_view_interval()
    is_long = high > 4 * low
    axis.set_major_locator(LogLocator(10, subs=(1, 2, 5)) if is_long else MaxNLocator(4))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def draw_curve(axes: Axes, values: pd.DataFrame, color: str) -> ErrorbarContainer:
    """Draw mean and interval over seeds against size; a size with one seed has no bar.

    ``values`` are as :func:`ntktune.figures.measures.curve` makes them.
    """
    return axes.errorbar(
        values.index.to_numpy(),
        values["mean"].to_numpy(),
        yerr=values["half"].fillna(0.0).to_numpy(),
        color=color,
        marker="o",
        markeredgecolor="white",
        markeredgewidth=0.5,
        elinewidth=1.0,
        capsize=2.2,
        zorder=3,
    )


def draw_band(axes: Axes, values: pd.DataFrame, color: str) -> None:
    """Draw the interval of :func:`ntktune.figures.measures.curve` as a band."""
    low, high = values["mean"] - values["half"], values["mean"] + values["half"]
    axes.fill_between(values.index, low, high, color=color, alpha=0.12, linewidth=0)


def seeds_label(what: str, seeds: Sequence[int]) -> str:
    """Return what a curve is, and over how many seeds its mean and interval are."""
    over = ", mean and 95 % interval over " if max(seeds) > 1 else ", "
    return f"{what}{over}{count_range(seeds, 'seed')}"
