"""Negation of task vectors: the error of the target, and what is kept of all scores."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ntktune.errors import UserError
from ntktune.figures.panels import finished, panel_rows
from ntktune.figures.style import BASELINE, DOTTED, REFERENCE, styled, wrapped
from ntktune.figures.sweeps import CUT, bounds, draw_sweep, mark_chosen, task_looks
from ntktune.study.merges import LEAST_KEPT

RANDOM = "a random vector as long in every tensor"
ROOM = 1.5  # how much further than the measured gap an axis may reach for the predicted


def _draw_gap(axes: Axes, own: pd.DataFrame, look: dict) -> None:
    draw_sweep(axes, own, "gap", **look)
    for column, style in (("predicted_gap", "--"), ("random_gap", "-.")):
        means = own.groupby("coefficient")[column].mean()
        axes.plot(means.index, means, color=look["color"], linestyle=style, linewidth=1.2)
    axes.axhline(0.0, color=REFERENCE, linewidth=0.8, zorder=1)
    if (own["predicted_gap"] == 0).all():  # what is measured is rounding
        axes.text(0.5, 0.8, "its training chose step 0", ha="center", transform=axes.transAxes)
        axes.set_ylim(-1.0, 1.0)
        return
    low, high = min(own["gap"].min(), 0.0), max(own["gap"].max(), 0.0)
    room = ROOM * (high - low) or 1.0
    both = pd.concat([own["gap"], own["predicted_gap"], own["random_gap"]])
    axes.set_ylim(bounds(both, low - room, high + room))


def negation_figure(negated: pd.DataFrame, colors: Sequence[str]) -> Figure:
    """Return the figure of the models with a task vector taken away: two panels per target."""
    test = negated[negated["part"] == "test"]
    targets = list(test["target"].unique())
    if not targets:
        raise UserError("the negated models hold no test scores; make them again")
    looks = task_looks(dict.fromkeys([*targets, *test["task"]]), colors)
    for target in targets:
        if not ((test["target"] == target) & (test["task"] == target)).any():
            raise UserError(f"the model without {target!r} was not tested on {target!r}; do so")
    with styled():
        figure, panels = panel_rows(targets, 2)
        handles, references = {}, {}
        kept_limits = bounds(test["kept"], *CUT)
        for target, (above, below) in panels.items():
            own = test[test["target"] == target]
            _draw_gap(above, own[own["task"] == target], looks[target])
            for task, rows in own.groupby("task", sort=False):
                look = looks[task] | {"linewidth": 2.2 if task == target else 1.0}
                line = draw_sweep(below, rows, "kept", **look)
                if task != target or task not in handles:
                    handles[task] = line  # thin, where the task is a control too
            kept = f"{LEAST_KEPT:.0%} of the pretrained score"
            references[kept] = below.axhline(LEAST_KEPT, **DOTTED)
            below.set(ylim=kept_limits, xlabel="coefficient λ")
            above.set_title(wrapped(f"without {target}", 80 // above.get_gridspec().ncols))
            chosen = own.loc[own["chosen"].astype(bool), "coefficient"]
            for axes in (above, below):
                references["λ chosen on validation data"] = mark_chosen(axes, chosen)
            if above.get_subplotspec().is_first_col():
                above.set_ylabel("rise of the test MSE")
                below.set_ylabel("test score\n/ pretrained score")
        for what, line in (("as the linear regime has it", "--"), (RANDOM, "-.")):
            references[what] = Line2D([], [], color=BASELINE, linestyle=line, linewidth=1.2)
        return finished(figure, {t: handles[t] for t in looks if t in handles} | references)
