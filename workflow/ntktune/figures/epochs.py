"""Why a few epochs are enough: the test error after each epoch, without early stopping."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ntktune.errors import UserError
from ntktune.figures.measures import ERROR_LABELS, kinds, of_task, with_error
from ntktune.figures.panels import draw_legend, task_panels
from ntktune.figures.style import BASELINE, EDGED, checked_color, count_range, laid_out, styled


def epochs_figure(
    history: pd.DataFrame,
    tasks: Sequence[str],
    color: str,
    titles: Mapping[str, str] | None = None,
    subsets: Mapping[str, Any] | None = None,
) -> Figure:
    """Return the figure of the test error against the epoch: one panel per task.

    Thick, the mean over seeds of the test error; thin, each seed, with a dot where its hold-out
    loss is lowest: what early stopping with endless patience would keep; dashed, the error of
    predicting the training mean or majority. Raises UserError for an evaluation without a hold-out
    loss.
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
    with styled():
        figure, panels = task_panels(named, kinds(history), ERROR_LABELS, subsets)
        handles, seeds = {}, []
        for task, axes in panels.items():
            curves = rows[task].pivot_table(index="epoch", columns="seed", values="error")
            (handles["mean"],) = axes.plot(
                curves.index, curves.mean(axis=1), color=color, linewidth=1.8, zorder=3
            )
            seeds.append(curves.shape[1])
            for _, own in rows[task].groupby("seed"):
                (handles["seed"],) = axes.plot(
                    own["epoch"], own["error"], color=color, linewidth=0.6, alpha=0.5
                )
                best = own.loc[own["holdout_loss"].idxmin()]
                look = {"marker": "o", "linestyle": "none", "color": color, "zorder": 4}
                (handles["stop"],) = axes.plot([best["epoch"]], [best["error"]], **look, **EDGED)
            handles["baseline"] = axes.axhline(
                rows[task]["baseline_error"].mean(), color=BASELINE, linestyle="--", linewidth=1.0
            )
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.margins(y=0.1)
            axes.set_xlabel("epoch")
        labels = {
            "mean": f"mean over {count_range(seeds, 'seed')}",
            "seed": "one seed",
            "stop": "lowest hold-out loss of a seed",
            "baseline": "predicting the training mean or majority",
        }
        draw_legend(figure, {label: handles[name] for name, label in labels.items()})
        return laid_out(figure)
