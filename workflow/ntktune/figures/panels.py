"""Grids of panels, one per task, each with a curve over the number of labelled examples."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.container import Container, ErrorbarContainer
from matplotlib.figure import Figure

from ntktune.figures.style import EDGED, WIDTH, count, count_range, laid_out, wrapped

PANEL_HEIGHT = 1.95  # inches
ROW_HEIGHT = 1.75  # inches: of panels that stand in columns
GAP = 0.13  # between two labels, as a share of the axis


def panel_grid(groups: Sequence[Sequence[str]]) -> tuple[Figure, dict[str, Axes]]:
    """Return an empty figure, and task → its panel.

    Each group of tasks starts a row of its own; rows wrap after three panels, after four where
    there are many.
    """
    groups = [group for group in groups if group]
    longest = max(len(group) for group in groups)
    columns = min(longest, 4 if longest in (4, 7, 8) or longest > 9 else 3)
    rows = [group[i : i + columns] for group in groups for i in range(0, len(group), columns)]
    width = WIDTH if columns > 1 else WIDTH / 2
    figure = Figure(figsize=(width, PANEL_HEIGHT * len(rows) + 0.45))
    grid = figure.add_gridspec(len(rows), columns)
    places = ((task, grid[i, j]) for i, row in enumerate(rows) for j, task in enumerate(row))
    return figure, {task: figure.add_subplot(place) for task, place in places}


def panel_rows(
    names: Sequence[Any], rows: int, most: int = 4, **shared: bool
) -> tuple[Figure, dict[Any, Sequence[Axes]]]:
    """Return an empty figure with a column of panels per name, and name → its panels.

    After ``most`` names the columns go on below. ``shared`` says which axes the panels share.
    """
    bands = math.ceil(len(names) / most)
    columns = math.ceil(len(names) / bands)
    width = WIDTH if columns > 1 else WIDTH / 2
    figure = Figure(figsize=(width, ROW_HEIGHT * rows * bands + 0.6))
    grid = figure.subplots(rows * bands, columns, squeeze=False, **shared)
    found = {}
    for place, name in enumerate(names):
        band, column = divmod(place, columns)
        found[name] = grid[rows * band : rows * (band + 1), column]
    for axes in set(grid.flat) - {axes for own in found.values() for axes in own}:
        axes.set_visible(False)
    return figure, found


def task_panels(
    titles: Mapping[str, str],
    kind: Mapping[str, str],
    labels: Mapping[str, str],
    subsets: Mapping[str, Any] | None,
) -> tuple[Figure, dict[str, Axes]]:
    """Return a figure with one titled panel per task, and task → its panel.

    ``titles``, ``kind`` and ``subsets``, whose test texts a title counts, are by task; ``labels``
    is kind → label of the y axis. Kinds come in that order, each in rows of its own.
    """
    figure, panels = panel_grid([[t for t in titles if kind[t] == k] for k in labels])
    for task, axes in panels.items():
        title = wrapped(titles[task], 100 // max(axes.get_gridspec().ncols, 2))
        tested = len(subsets[task]["test"]) if task in (subsets or {}) else 0
        axes.set_title(title + (f"\n{count(tested, 'test text')}" if tested else ""))
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel(labels[kind[task]])
    return figure, panels


def finished(figure: Figure, entries: Mapping[str, Artist | Container]) -> Figure:
    """Return a figure with one legend, label → what it explains, below all panels; laid out."""
    labels, handles = list(entries), list(entries.values())
    for columns in range(len(entries) if figure.get_figwidth() == WIDTH else 1, 0, -1):
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns)
        # letters are a little wider at some resolutions
        if columns == 1:  # a narrow figure grows by its legend, which would take the panel's room
            high = legend.get_window_extent().height / figure.dpi
            figure.set_figheight(figure.get_figheight() + high)
        if columns == 1 or legend.get_window_extent().width <= 0.97 * figure.bbox.width:
            break
        legend.remove()
    return laid_out(figure)


def size_labels(sizes: Sequence[int]) -> list[str]:
    """Return labels of ascending sizes, each empty where it would run into a larger one's."""
    places = np.log2(np.asarray(sizes, dtype=float))
    span = max(places[-1] - places[0], 1.0)
    labels, last = [], np.inf
    for size, place in zip(reversed(sizes), places[::-1], strict=True):
        free = last - place >= GAP * span
        labels.append(str(size) if free else "")
        last = place if free else last
    return labels[::-1]


def draw_size_axis(axes: Axes, sizes: Sequence[int]) -> None:
    """Make the x axis the number of labelled examples: log₂, a tick at every size."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, size_labels(sizes))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    # a share of the span on both sides; one size alone stands in the middle
    margin = (sizes[-1] / sizes[0]) ** 0.07 if len(sizes) > 1 else 2**0.5
    axes.set(xlim=(sizes[0] / margin, sizes[-1] * margin), xlabel="labelled examples n")


def draw_labelled_sizes(axes: Axes, sizes: Sequence[int]) -> None:
    """Make the x axis logarithmic, with a slanted label at every size and no other."""
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.tick_params(axis="x", rotation=45)


def draw_log_axis(axis: Axis) -> None:
    """Label a logarithmic axis at powers of 10, a shorter one at 1, 2, 5, a short one evenly."""
    low, high = sorted(axis.get_view_interval())
    most = 200 if axis.axis_name == "x" else 10_000  # labels stand beside or above each other
    is_long, between = high > 4 * low, (1,) if high > most * low else (1, 2, 5)
    evenly, decades = ticker.MaxNLocator(4), ticker.LogLocator(10, subs=between)
    axis.set_major_locator(decades if is_long else evenly)
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(ticker.NullLocator())


def draw_curve(
    axes: Axes, values: pd.DataFrame, color: str, most: float = math.inf
) -> ErrorbarContainer:
    """Draw what :func:`ntktune.figures.measures.curve` returns; one seed alone has no bar.

    Bars end at ``most``, the highest value there can be.
    """
    means, halves = values["mean"].to_numpy(), values["half"].fillna(0.0).to_numpy()
    halves = [halves, np.minimum(halves, most - means)]
    look = {"color": color, "marker": "o", "elinewidth": 1.0, "capsize": 2.2, "zorder": 3}
    return axes.errorbar(values.index.to_numpy(), means, yerr=halves, **look, **EDGED)


def seeds_label(what: str, seeds: Sequence[int]) -> str:
    """Return what a curve is, and over how many seeds its mean and interval are."""
    over = ", mean and 95 % interval over " if max(seeds) > 1 else ", "
    return f"{what}{over}{count_range(seeds, 'seed')}"
