"""Addition of task vectors: scores of merged models against the coefficient."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ntktune.errors import UserError
from ntktune.figures.panels import draw_legend, panel_grid
from ntktune.figures.style import BASELINE, REFERENCE, laid_out, styled, wrapped
from ntktune.figures.sweeps import CUT, bounds, draw_sweep, mark_chosen, task_looks
from ntktune.study.merges import FIXED, VALIDATED, parts

CONFIGURED = "configured λ"
CHOSEN = "λ chosen on validation data"


def merge_title(name: str) -> str:
    """Return what a merge is called over its panel: a pair's tasks, or how many there are."""
    tasks = parts(name)
    return name if len(tasks) == 2 else f"all {len(tasks)} tasks"


def _coefficients(merged: pd.DataFrame, name: str, choice: str) -> list[float]:
    """Return the coefficients of one merge, over seeds."""
    own = merged[(merged["merged"] == name) & (merged["choice"] == choice)]
    if own.empty:
        raise UserError(f"the merged models hold no {name!r} with the choice {choice!r}")
    return sorted(own["coefficient"].dropna().unique())  # NaN where nothing could be chosen


def addition_figure(sweep: pd.DataFrame, merged: pd.DataFrame, colors: Sequence[str]) -> Figure:
    """Return the figure of the merged models' scores against the coefficient.

    Colours of the tasks come again with another line style where there are more tasks.

    Returns
    -------
    Figure
        A panel per merge. A line per tested task: its test score over the single-task
        model's, mean over seeds, and a band from the lowest to the highest seed. Dotted,
        the single-task model; dashed, the configured coefficient; triangles, what the
        seeds chose on validation data.

    Raises
    ------
    UserError
        A merge without its coefficients, or no colour.
    """
    test = sweep[sweep["part"] == "test"]
    merges = list(test["merged"].unique())
    if not merges:
        raise UserError("the sweep over coefficients holds no test scores; make it again")
    looks = task_looks(dict.fromkeys(test["task"]), colors)
    fixed = {name: _coefficients(merged, name, FIXED) for name in merges}
    chosen = {name: _coefficients(merged, name, VALIDATED) for name in merges}
    with styled():
        figure, panels, leftmost = panel_grid([merges])
        handles, references = {}, {}
        low, high = bounds(test["normalised"], *CUT)
        for name, axes in panels.items():
            own = test[test["merged"] == name]
            for task, rows in own.groupby("task", sort=False):
                handles[task] = draw_sweep(axes, rows, "normalised", **looks[task])
            references["single-task model"] = axes.axhline(
                1.0, color=BASELINE, linestyle=":", linewidth=1.0, zorder=1
            )
            _draw_coefficients(axes, fixed[name], chosen[name], references)
            axes.set_ylim(low, high)
            axes.set_xlabel("coefficient λ")
            axes.set_title(wrapped(merge_title(name), 80 // axes.get_gridspec().ncols))
            if name in leftmost:
                axes.set_ylabel("test score\n/ single-task model's")
        draw_legend(figure, handles | references)
        return laid_out(figure)


def _draw_coefficients(
    axes: Axes, fixed: Sequence[float], chosen: Sequence[float], references: dict
) -> None:
    """Mark the configured and the chosen coefficients, and keep what the legend shows."""
    for value in fixed:
        references[CONFIGURED] = axes.axvline(
            value, color=REFERENCE, linestyle="--", linewidth=1.0, zorder=1
        )
    references[CHOSEN] = mark_chosen(axes, chosen)
