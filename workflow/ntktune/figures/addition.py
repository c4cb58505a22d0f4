"""Addition of task vectors: scores of merged models against the coefficient."""

import itertools
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from ntktune.errors import UserError
from ntktune.figures.panels import finished, panel_grid
from ntktune.figures.style import DOTTED, REFERENCE, styled, wrapped
from ntktune.figures.sweeps import CUT, bounds, draw_sweep, mark_chosen, task_looks
from ntktune.study.merges import FIXED, VALIDATED, parts


def addition_figure(sweep: pd.DataFrame, merged: pd.DataFrame, colors: Sequence[str]) -> Figure:
    """Return the figure of the merged models' scores against the coefficient: a panel per merge."""
    test = sweep[sweep["part"] == "test"]
    merges = list(test["merged"].unique())
    if not merges:
        raise UserError("the sweep over coefficients holds no test scores; make it again")
    looks = task_looks(dict.fromkeys(test["task"]), colors)
    known = dict(list(merged.groupby(["merged", "choice"])["coefficient"]))
    for key in itertools.product(merges, (FIXED, VALIDATED)):
        if key not in known:
            raise UserError("the merged models hold no {!r} with the choice {!r}".format(*key))
    with styled():
        figure, panels = panel_grid([merges])
        handles, references = {}, {}
        limits = bounds(test["normalised"], *CUT)
        for name, axes in panels.items():
            own = test[test["merged"] == name]
            for task, rows in own.groupby("task", sort=False):
                handles[task] = draw_sweep(axes, rows, "normalised", **looks[task])
            references["single-task model"] = axes.axhline(1.0, **DOTTED)
            for value in sorted(known[name, FIXED].dropna().unique()):
                look = {"color": REFERENCE, "linestyle": "--", "linewidth": 1.0, "zorder": 1}
                references["configured λ"] = axes.axvline(value, **look)
            chosen = known[name, VALIDATED].dropna()  # NaN where nothing could be chosen
            references["λ chosen on validation data"] = mark_chosen(axes, chosen)
            axes.set(ylim=limits, xlabel="coefficient λ")
            tasks = parts(name)
            title = name if len(tasks) == 2 else f"all {len(tasks)} tasks"
            axes.set_title(wrapped(title, 80 // axes.get_gridspec().ncols))
            if axes.get_subplotspec().is_first_col():
                axes.set_ylabel("test score\n/ single-task model's")
        return finished(figure, handles | references)
