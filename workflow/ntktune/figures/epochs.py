"""Why a few epochs are enough: the test error after each epoch, without early stopping."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ntktune.errors import UserError
from ntktune.figures.measures import ERROR_LABELS, kinds, of_task, with_error
from ntktune.figures.panels import finished, task_panels
from ntktune.figures.style import DASHED, EDGED, checked_color, count_range, styled


def epochs_figure(
    history: pd.DataFrame,
    tasks: Sequence[str],
    color: str,
    titles: Mapping[str, str] | None = None,
    subsets: Mapping[str, Any] | None = None,
) -> Figure:
    """Return the figure of the test error against the epoch: one panel per task.

    Raises UserError for an evaluation without a hold-out loss.
    """
    checked_color(color)
    history = with_error(history)
    rows = {task: of_task(history, task) for task in tasks}
    for task, own in rows.items():
        if not own["holdout_loss"].notna().all():
            raise UserError(
                f"task {task!r} has an evaluation without hold-out loss; train it again"
            )
    named = {task: (titles or {}).get(task, task) for task in tasks}
    mean = f"mean over {count_range([own['seed'].nunique() for own in rows.values()], 'seed')}"
    with styled():
        figure, panels = task_panels(named, kinds(history), ERROR_LABELS, subsets)
        handles = {}
        for task, axes in panels.items():
            means = rows[task].pivot_table("error", index="epoch", columns="seed").mean(axis=1)
            (handles[mean],) = axes.plot(means.index, means, color=color, linewidth=1.8, zorder=3)
            for _, own in rows[task].groupby("seed"):
                thin = {"color": color, "linewidth": 0.6, "alpha": 0.5}
                (handles["one seed"],) = axes.plot(own["epoch"], own["error"], **thin)
                best = own.loc[own["holdout_loss"].idxmin()]
                look = {"marker": "o", "linestyle": "none", "color": color, "zorder": 4}
                (stop,) = axes.plot([best["epoch"]], [best["error"]], **look, **EDGED)
            handles["lowest hold-out loss of a seed"] = stop
            constant = rows[task]["baseline_error"].mean()
            handles["predicting the training mean or majority"] = axes.axhline(constant, **DASHED)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.margins(y=0.1)
            axes.set_xlabel("epoch")
        return finished(figure, handles)
