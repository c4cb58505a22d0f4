"""Figure 10: the F1 score of each classification task against its labelled examples."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ntktune.errors import UserError
from ntktune.figures.measures import curve, kinds, of_task
from ntktune.figures.panels import (
    draw_curve,
    draw_legend,
    draw_size_axis,
    draw_title,
    panel_grid,
    seeds_label,
    tested_rows,
)
from ntktune.figures.style import BASELINE, checked_color, laid_out, styled


def f1_figure(
    metrics: pd.DataFrame,
    tasks: Sequence[str],
    color: str,
    titles: Mapping[str, str] | None = None,
    subsets: Mapping[str, Any] | None = None,
) -> Figure:
    """Return Figure 10 of SR26: one panel per classification task; regressions are left out.

    Returns
    -------
    Figure
        Mean and 95 % interval over seeds of the test F1 score against n; dashed, the F1 score of
        predicting the training majority (at the largest size).

    Raises
    ------
    UserError
        No classification task, a task that the metrics do not hold, or no colour.
    """
    checked_color(color)
    titles = titles or {}
    rows = {task: of_task(metrics, task) for task in tasks}
    kind = kinds(metrics)
    chosen = [task for task in tasks if kind[task] == "classification"]
    if not chosen:
        raise UserError(
            f"none of the tasks {', '.join(tasks)} is a classification, so there is no F1 score "
            "to draw; add a classification task to the study, or leave figure 10 out"
        )
    with styled():
        figure, panels, leftmost = panel_grid([chosen])
        seeds = []
        for task, axes in panels.items():
            values = curve(rows[task], "f1", (subsets or {}).get(task))
            seeds.extend(values["count"])
            line = draw_curve(axes, values, color)
            baseline = axes.axhline(
                curve(rows[task], "baseline_f1")["mean"].iloc[-1],
                color=BASELINE,
                linestyle="--",
                linewidth=1.0,
            )
            draw_size_axis(axes, list(values.index))
            axes.set_ylim(-0.03, 1.03)
            draw_title(axes, titles.get(task, task), tested_rows(subsets, task))
            if task in leftmost:
                axes.set_ylabel("test F1 score")
        fine_tuned = seeds_label("fine-tuned", seeds)
        draw_legend(figure, {fine_tuned: line, "predicting the training majority": baseline})
        return laid_out(figure)
