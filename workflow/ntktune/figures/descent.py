"""Gradient descent on the kernel: its test error along the way, ridge beside it, and four stops."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from ntktune.errors import UserError
from ntktune.figures.measures import ERROR_LABELS, kinds
from ntktune.figures.panels import finished, task_panels
from ntktune.figures.style import EDGED, REFERENCE, RULES, checked_color, styled
from ntktune.figures.tables import check_same_tasks


def descent_figure(
    rules: pd.DataFrame,
    ridge: pd.DataFrame,
    tasks: Sequence[str],
    colors: Sequence[str],
    titles: Mapping[str, str] | None = None,
    subsets: Mapping[str, Any] | None = None,
) -> Figure:
    """Return the figure of the test error along kernel gradient descent: one panel per task.

    At the largest n, a line per seed; a colour for each of the stopping rules.
    """
    check_same_tasks(rules=rules, ridge=ridge)
    of_rule = dict(zip(RULES, map(checked_color, colors), strict=True))
    if missing := [task for task in tasks if task not in set(rules["task"])]:
        raise UserError(f"the stopping rules of task {missing[0]!r} are not there; compute them")
    largest = rules.groupby("task")["n"].max()
    named = {t: f"{(titles or {}).get(t, t)}, n = {largest[t]}" for t in tasks}
    labels = dict.fromkeys(ERROR_LABELS, "test MSE\n(standardised labels)")
    with styled():
        figure, panels = task_panels(named, kinds(rules), labels, subsets)
        handles = {}
        for task, axes in panels.items():
            n = largest[task]
            stops, path = (t[(t["task"] == task) & (t["n"] == n)] for t in (rules, ridge))
            for _, own in path.groupby("seed"):
                look = {"color": REFERENCE, "linewidth": 1.0}
                (handles["gradient descent"],) = axes.plot(own["eta"], own["error_descent"], **look)
                look["linestyle"] = "--"
                (handles["ridge with λ = 1/η"],) = axes.plot(own["eta"], own["error_ridge"], **look)
            for rule, (label, marker) in RULES.items():
                own = stops[stops["rule"] == rule]
                # a stop at the start has no place on a logarithmic axis but its edge
                etas = own["eta"].clip(lower=path["eta"].min())
                look = {"color": of_rule[rule], "zorder": 4, "clip_on": False}
                (handles[label],) = axes.plot(etas, own["test_error"], marker, **look, **EDGED)
            axes.set(xscale="log", xlabel="η, sum of the step sizes")
            axes.xaxis.set_major_locator(LogLocator(numticks=6))
            axes.xaxis.set_minor_locator(NullLocator())
            # descent that goes on for ever fits noise without bound
            shown = np.append(stops["test_error"], stops["start_error"])
            low = min(path["error_descent"].min(), shown.min())
            margin = 0.1 * (shown.max() - low) or 0.1 * shown.max()
            axes.set_ylim(low - margin, shown.max() + 3 * margin)
        return finished(figure, handles)
