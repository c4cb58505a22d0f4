"""Predicted against measured: whether tasks whose kernel decays fast need few examples."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, ScalarFormatter

from ntktune.figures.needed import SHARE
from ntktune.figures.style import REFERENCE, WIDTH, checked_color, laid_out, plain, styled

# every task has its own, so that a grey print can be read; full ones are regressions
MARKERS = {"regression": "os^Dv<", "classification": "PXh*dp"}


def _draw_points(
    axes: Axes, rates: pd.DataFrame, x: str, y: str, looks: Mapping[str, tuple[str, str]]
) -> dict[str, ErrorbarContainer]:
    """Draw a task's two numbers and their intervals ``<name>_low`` … ``<name>_high``.

    ``x`` and ``y`` are pairs ``"column:stem of the interval"``.
    """
    (x, x_stem), (y, y_stem) = (name.split(":") for name in (x, y))
    found = {}
    for row in rates.to_dict("records"):
        if not np.isfinite([row[x], row[y]]).all():
            continue
        bars = {}
        for side, name, stem in (("xerr", x, x_stem), ("yerr", y, y_stem)):
            low, high = row[f"{stem}_low"], row[f"{stem}_high"]
            ends = [max(row[name] - low, 0.0), max(high - row[name], 0.0)]
            if np.isfinite(low):  # an interval may have no upper end
                bars[side] = [[end if np.isfinite(end) else 0.0] for end in ends]
        marker, color = looks[row["task"]]
        found[row["task"]] = axes.errorbar(
            [row[x]],
            [row[y]],
            **bars,
            marker=marker,
            markersize=6,
            color=color,
            markeredgecolor="white",
            markeredgewidth=0.5,
            elinewidth=0.8,
            capsize=2.0,
            linestyle="none",
            zorder=3,
        )
    return found


def prediction_figure(
    rates: pd.DataFrame, colors: Sequence[str], titles: Mapping[str, str] | None = None
) -> Figure:
    """Return the figure of what the kernel predicts against what fine-tuning shows.

    Parameters
    ----------
    rates
        Table 1: ``task``, ``kind``, ``exponent``, ``predicted_rate``,
        ``measured_exponent``, ``needed``, and their intervals.
    colors
        Colours of regressions and classifications.
    titles
        Task → its name in the legend; a task without one has its own.

    Returns
    -------
    Figure
        Left: the learning curve's exponent against a/(a+1), and where they would be equal.
        Right: the examples that reach 95 % of the best score against a. Bars are 95 %
        intervals, without their upper part where they have no upper end; a task without both
        numbers is left out.

    Raises
    ------
    UserError
        Something is no colour.
    """
    titles = titles or {}
    of_kind = dict(zip(MARKERS, map(checked_color, colors), strict=True))
    looks = {}
    for kind, own in rates.groupby("kind"):
        if kind in MARKERS:
            for place, task in enumerate(own["task"]):
                looks[task] = (MARKERS[kind][place % len(MARKERS[kind])], of_kind[kind])
    rates = rates[rates["task"].isin(looks)]
    with styled():
        figure = Figure(figsize=(WIDTH, 3.2))
        left, right = figure.subplots(1, 2)
        drawn = _draw_points(
            left, rates, "predicted_rate:predicted", "measured_exponent:measured", looks
        )
        equal = left.axline((0.5, 0.5), slope=1.0, color=REFERENCE, linestyle=":", linewidth=1.2)
        left.set_xlabel("predicted exponent a/(a+1)")
        left.set_ylabel("exponent of the learning curve")
        drawn |= _draw_points(right, rates, "exponent:exponent", "needed:needed", looks)
        for axes in (left, right):
            axes.margins(0.12)
        right.set_yscale("log", base=2)
        low, high = right.get_ylim()
        right.yaxis.set_major_locator(
            LogLocator(10, subs=(1, 2, 5)) if high > 4 * low else MaxNLocator(5)
        )
        right.yaxis.set_major_formatter(ScalarFormatter())
        right.yaxis.set_minor_locator(NullLocator())
        right.set_xlabel("decay exponent a of the kernel's eigenvalues")
        right.set_ylabel(f"labelled examples for {SHARE:.0%}\nof the best score")
        for axes in (left, right):
            if not axes.containers:
                axes.set(xticks=[], yticks=[])
                axes.text(
                    0.5, 0.5, "no task has both numbers", ha="center", transform=axes.transAxes
                )
        shown = [task for task in rates["task"] if task in drawn]
        names = [plain(titles.get(task, task)) for task in shown]
        entries = {
            name if names.count(name) == 1 else f"{name} ({task})": drawn[task]
            for task, name in zip(shown, names, strict=True)
        }
        entries["as predicted"] = equal
        figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=4)
        return laid_out(figure)
