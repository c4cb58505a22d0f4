"""Figure 10: the F1 score of each classification task against its labelled examples."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ntktune.errors import UserError
from ntktune.figures.measures import curve, kinds, of_task
from ntktune.figures.panels import draw_curve, draw_size_axis, finished, seeds_label, task_panels
from ntktune.figures.style import DASHED, checked_color, styled


def f1_figure(
    metrics: pd.DataFrame,
    tasks: Sequence[str],
    color: str,
    titles: Mapping[str, str] | None = None,
    subsets: Mapping[str, Any] | None = None,
) -> Figure:
    """Return Figure 10 of SR26: one panel per classification task; regressions are left out.

    Raises UserError without a classification task.
    """
    checked_color(color)
    rows = {task: of_task(metrics, task) for task in tasks}
    kind = kinds(metrics)
    named = {t: (titles or {}).get(t, t) for t in tasks if kind[t] == "classification"}
    if not named:
        raise UserError(
            f"none of the tasks {', '.join(tasks)} is a classification, so there is no F1 score "
            "to draw; add a classification task to the study, or leave figure 10 out"
        )
    with styled():
        figure, panels = task_panels(named, kind, {"classification": "test F1 score"}, subsets)
        seeds = []
        for task, axes in panels.items():
            values = curve(rows[task], "f1", (subsets or {}).get(task))
            seeds.extend(values["count"])
            line = draw_curve(axes, values, color, most=1.0)
            baseline = axes.axhline(rows[task]["baseline_f1"].mean(), **DASHED)
            draw_size_axis(axes, list(values.index))
            axes.set_ylim(-0.03, 1.03)
        fine_tuned = seeds_label("fine-tuned", seeds)
        return finished(figure, {fine_tuned: line, "predicting the training majority": baseline})
