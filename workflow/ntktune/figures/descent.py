"""Gradient descent on the kernel: its test error along the way, ridge beside it, and four stops."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from ntktune.errors import UserError
from ntktune.figures.panels import draw_legend, draw_title, panel_grid, tested_rows
from ntktune.figures.stops import RULES
from ntktune.figures.style import REFERENCE, checked_color, laid_out, styled
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

    Returns
    -------
    Figure
        At the largest n, for each seed: solid the mean squared test error of descent
        against the sum of its step sizes η, dashed that of ridge with λ = 1/η; markers where
        the rules stop (the hold-out's trains on less than the path does), in the colours of
        :data:`ntktune.figures.stops.RULES`.

    Raises
    ------
    UserError
        A task that the tables do not hold, or no colour.
    """
    check_same_tasks(rules=rules, ridge=ridge)
    titles = titles or {}
    of_rule = dict(zip(RULES, map(checked_color, colors), strict=True))
    missing = [task for task in tasks if task not in set(rules["task"])]
    if missing:
        raise UserError(f"the stopping rules of task {missing[0]!r} are not there; compute them")
    kind = rules.drop_duplicates("task").set_index("task")["kind"]
    with styled():
        groups = [[t for t in tasks if kind[t] == k] for k in ("regression", "classification")]
        figure, panels, leftmost = panel_grid(groups)
        handles = {}
        for task, axes in panels.items():
            stops = rules[rules["task"] == task]
            n = stops["n"].max()
            stops = stops[stops["n"] == n]
            path = ridge[(ridge["task"] == task) & (ridge["n"] == n)]
            for _, own in path.groupby("seed"):
                (handles["gradient descent"],) = axes.plot(
                    own["eta"], own["error_descent"], color=REFERENCE, linewidth=1.0
                )
                (handles["ridge with λ = 1/η"],) = axes.plot(
                    own["eta"], own["error_ridge"], color=REFERENCE, linewidth=1.0, linestyle="--"
                )
            lowest = path["eta"].min()
            for rule, (label, marker) in RULES.items():
                own = stops[stops["rule"] == rule]
                # a stop at the start has no place on a logarithmic axis but its edge
                (handles[label],) = axes.plot(
                    own["eta"].clip(lower=lowest),
                    own["test_error"],
                    marker,
                    color=of_rule[rule],
                    markeredgecolor="white",
                    markeredgewidth=0.5,
                    zorder=4,
                    clip_on=False,
                )
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(numticks=6))
            axes.xaxis.set_minor_locator(NullLocator())
            # descent that goes on for ever fits noise without bound
            shown = np.append(stops["test_error"], stops["start_error"])
            low = min(path["error_descent"].min(), shown.min())
            margin = 0.1 * (shown.max() - low) or 0.1 * shown.max()
            axes.set_ylim(low - margin, shown.max() + 3 * margin)
            axes.set_xlabel("η, sum of the step sizes")
            title = f"{titles.get(task, task)}, n = {n}"
            draw_title(axes, title, tested_rows(subsets, task))
            if task in leftmost:
                axes.set_ylabel("test MSE\n(standardised labels)")
        draw_legend(figure, handles)
        return laid_out(figure)
