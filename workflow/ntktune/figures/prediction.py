"""Predicted against measured: whether tasks whose kernel decays fast need few examples."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ntktune.figures.needed import SHARE
from ntktune.figures.panels import draw_log_axis
from ntktune.figures.style import EDGED, REFERENCE, WIDTH, checked_color, laid_out, plain, styled

# number → what the names of its interval's ends begin with, if not with its own
STEMS = {"predicted_rate": "predicted", "measured_exponent": "measured"}
# every task has its own, so that a grey print can be read; full ones are regressions
MARKERS = {"regression": "os^Dv<", "classification": "PXh*dp"}


def _draw_points(
    axes: Axes, rates: pd.DataFrame, x: str, y: str, looks: Mapping[str, tuple[str, str]]
) -> dict[str, ErrorbarContainer]:
    """Draw two numbers per task with their intervals; arrows where these are open."""
    found = {}
    for row in rates.to_dict("records"):
        if not np.isfinite([row[x], row[y]]).all():
            continue
        bars = {}
        for side, name in (("xerr", x), ("yerr", y)):
            low, high = (row[f"{STEMS.get(name, name)}_{end}"] for end in ("low", "high"))
            ends = [max(row[name] - low, 0.0), max(high - row[name], 0.0)]
            if not np.isnan(low):  # an interval may have no end
                bars[side] = [[end if np.isfinite(end) else 0.0] for end in ends]
        marker, color = looks[row["task"]]
        look = {"marker": marker, "markersize": 6, "color": color, "linestyle": "none", "zorder": 3}
        look |= {"elinewidth": 0.8, "capsize": 2.0} | EDGED | bars
        found[row["task"]] = axes.errorbar([row[x]], [row[y]], **look)
        arrow = {"arrowstyle": "->", "color": color, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
        units = {"xycoords": ("data", "axes fraction"), "textcoords": "data", "arrowprops": arrow}
        for edge, end in ((0.0, low), (1.0, high)):
            if np.isinf(end):
                axes.annotate("", (row[x], edge), (row[x], row[y]), **units)
    return found


def prediction_figure(
    table1: pd.DataFrame, colors: Sequence[str], titles: Mapping[str, str] | None = None
) -> Figure:
    """Return the figure of what the kernel predicts against what fine-tuning shows.

    No right panel where the examples needed are a bound on every task. A task without both numbers
    is left out. One colour for each of :data:`MARKERS`.
    """
    titles, looks = titles or {}, {}
    for (kind, markers), color in zip(MARKERS.items(), map(checked_color, colors), strict=True):
        for task, marker in zip(table1.loc[table1["kind"] == kind, "task"], cycle(markers)):
            looks[task] = (marker, color)
    rates = table1[table1["task"].isin(looks)]
    # where the best score is at the largest n, the examples that reach 95 % of it are a bound
    reached = rates[~rates["needed_bound"].isin(["least", "most"]) & np.isfinite(rates["needed"])]
    with styled():
        figure = Figure(figsize=(WIDTH, 3.2))
        left, *rest = figure.subplots(1, 2 if len(reached) else 1, squeeze=False)[0]
        drawn = _draw_points(left, rates, "predicted_rate", "measured_exponent", looks)
        equal = left.axline((0.5, 0.5), slope=1.0, color=REFERENCE, linestyle=":", linewidth=1.2)
        left.set(xlabel="predicted exponent a/(a+1)", ylabel="exponent of the learning curve")
        left.margins(0.12)
        for right in rest:
            drawn |= _draw_points(right, reached, "exponent", "needed", looks)
            right.margins(0.12)
            right.set_yscale("log", base=2)
            draw_log_axis(right.yaxis)
            right.set_xlabel("decay exponent a of the kernel's eigenvalues")
            right.set_ylabel(f"labelled examples for {SHARE:.0%}\nof the best score")
        for axes in (left, *rest):
            if not axes.containers:
                axes.set(xticks=[], yticks=[])
                words = "no task has both numbers"
                axes.text(0.5, 0.5, words, ha="center", transform=axes.transAxes)
        shown = [task for task in rates["task"] if task in drawn]
        names = [plain(titles.get(task, task)) for task in shown]
        entries = {
            name if names.count(name) == 1 else f"{name} ({task})": drawn[task]
            for task, name in zip(shown, names, strict=True)
        }
        entries["as predicted"] = equal
        if any(axes.texts and axes.containers for axes in (left, *rest)):
            arrow = {"marker": r"$\uparrow$", "markersize": 7, "linestyle": "none"}
            entries["the interval goes on"] = Line2D([], [], color=REFERENCE, **arrow)
        figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=4)
        return laid_out(figure)
