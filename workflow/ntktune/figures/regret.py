"""What each way to choose a model loses against the best, and what it costs."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ntktune.figures.panels import finished, task_panels
from ntktune.figures.selected import KERNELS, SCORES, SIZE, SMALL, choices
from ntktune.figures.style import DASHED, EDGED, MARKERS, REFERENCE, checked_color, styled

SHOWN = ("probe", "gcv", "evidence")
LEAST = 1e-3  # a cost that is drawn for a smaller one, or none at all
ASIDE = 1.25  # factor between points that would hide each other


def apart(costs: Sequence[float]) -> list[float]:
    """Return where costs are drawn on a logarithmic axis: at themselves, alike ones side by side.

    Alike are those of a row in which each is less than :data:`ASIDE` times the one before; their
    middle stays where it is.
    """
    logs = np.log(np.maximum(costs, LEAST))
    order = np.argsort(logs, kind="stable")
    ends = np.flatnonzero(np.diff(logs[order]) >= np.log(ASIDE)) + 1
    for row in np.split(order, ends):
        steps = np.arange(len(row)) - (len(row) - 1) / 2
        logs[row] = logs[row].mean() + steps * np.log(ASIDE)
    return np.exp(logs).tolist()


def regret_figure(
    curves: pd.DataFrame,
    scores: pd.DataFrame,
    subsets: Mapping[str, Any],
    tasks: Sequence[str],
    colors: Sequence[str],
    titles: Mapping[str, str] | None = None,
) -> Figure:
    """Return the figure of regret against cost, a panel per task, first method of fine-tuning.

    A colour per way to choose, a marker per kernel; bars are 95 % intervals over seeds; the dashed
    line is the regret of a random choice. The cost of all candidates is over that of training all
    at the largest size.
    """
    found = choices(curves[curves["task"].isin(tasks)], scores, subsets)
    found = found[found["method"] == curves["method"].iloc[0]]
    others = [name for name in (SIZE, SMALL, "AtS") if name in set(found["score"])]
    paints = dict(zip([*SHOWN, *others], cycle(map(checked_color, colors)), strict=False))
    marks = dict(zip(["", *KERNELS], MARKERS, strict=False))
    labels = {name: label for name, (label, _) in SCORES.items()}
    named = {task: (titles or {}).get(task, task) for task in tasks}
    entries: dict[str, Any] = {
        labels.get(name, name): Line2D([], [], color=color, linestyle="none", marker="o")
        for name, color in paints.items()
        if name in set(found["score"])
    }
    entries |= {
        f"of {KERNELS[kernel]}": Line2D(
            [], [], color=REFERENCE, linestyle="none", marker=marks[kernel]
        )
        for kernel in KERNELS
        if kernel in set(found["kernel"])
    }
    with styled():
        every = dict.fromkeys(tasks, "all")
        figure, panels = task_panels(named, every, {"all": "test score lost"}, None)
        for task, axes in panels.items():
            own = found[(found["task"] == task) & found["score"].isin(paints)]
            for cost, row in zip(apart(own["cost"].tolist()), own.itertuples(), strict=True):
                look = {"color": paints[row.score], "marker": marks[row.kernel], **EDGED}
                look |= {"elinewidth": 1.0, "capsize": 2.2}
                half = np.nan_to_num(row.high - row.regret)
                axes.errorbar(cost, row.regret, yerr=half, linestyle="none", **look)
            entries["random choice"] = axes.axhline(own["chance"].iloc[0], **DASHED)
            axes.set(xscale="log", xlabel="cost over training all")
        return finished(figure, entries)
