"""Figure 2: learning curves, the test error of each task against its labelled examples."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ntktune.figures.measures import ERROR_LABELS, curve, kinds, of_task, with_error
from ntktune.figures.panels import (
    draw_band,
    draw_curve,
    draw_legend,
    draw_log_axis,
    draw_size_axis,
    draw_title,
    panel_grid,
    seeds_label,
    tested_rows,
)
from ntktune.figures.style import BASELINE, REFERENCE, checked_color, laid_out, styled

# method → how its curve is drawn, and what it is called
UNTUNED = {
    "probe": ("#7A7A7A", "-.", "linear probe"),
    "kernel-descent": ("#D55E00", "-", "prediction by the NTK"),
}
ROOM = 1.12  # of the axis above and below what is drawn, as a factor


def _level(metrics: pd.DataFrame, column: str) -> float:
    """Return a reference level: the mean over seeds at the largest size that has one."""
    return curve(metrics, column)["mean"].iloc[-1]


def _draw_slope(axes: Axes, values: pd.DataFrame, rate: float, floor: float, color: str) -> Line2D:
    """Draw the floor plus a power n^−rate that begins at the curve's first mean."""
    sizes = values.index.to_numpy(dtype=float)
    tried = np.geomspace(sizes[0], sizes[-1], 50)
    fall = (values["mean"].iloc[0] - floor) * (tried / sizes[0]) ** -rate
    return axes.plot(tried, floor + fall, color=color, linestyle=(0, (1, 1)), linewidth=1.0)[0]


def learning_curve_figure(
    metrics: pd.DataFrame,
    tasks: Sequence[str],
    color: str,
    titles: Mapping[str, str] | None = None,
    baselines: pd.DataFrame | None = None,
    ranges: Mapping[str, Sequence[float]] | None = None,
    subsets: Mapping[str, Any] | None = None,
    summary: Mapping[str, Any] | None = None,
) -> Figure:
    """Return Figure 2 of SR26: one panel per task, regressions first, then classifications.

    ``baselines`` are predictions without fine-tuning, of the methods in :data:`UNTUNED`; the other
    parameters are as :class:`ntktune.figures.catalogue.Entry` says.

    Returns
    -------
    Figure
        On logarithmic axes, mean and 95 % interval over seeds of the test error against n, and of
        the predictions without fine-tuning; dotted finely, the slope n^(−a/(a+1)) that the kernel's
        decay predicts (eq 30), from the first point on and above the labels' noise; dashed, the
        error of predicting the training mean or majority (at the largest size); dotted, the
        variance of the labels' noise where it is known.

    Raises
    ------
    UserError
        A task that the metrics do not hold, or no colour.
    """
    checked_color(color)
    titles, ranges = titles or {}, ranges or {}
    metrics = with_error(metrics)
    rows = {task: of_task(metrics, task) for task in tasks}
    kind = kinds(metrics)
    with styled():
        groups = [[t for t in tasks if kind[t] == k] for k in ERROR_LABELS]
        figure, panels, leftmost = panel_grid(groups)
        seeds, handles = [], {}
        for task, axes in panels.items():
            samples = (subsets or {}).get(task)
            values = curve(rows[task], "error", samples)
            shown = list(values["mean"])
            seeds.extend(values["count"])
            handles["curve"] = draw_curve(axes, values, color)
            if baselines is not None:
                mine = with_error(baselines[baselines["task"] == task])
                for method, some in mine.groupby("method"):
                    if method in UNTUNED:
                        drawn, style, _ = UNTUNED[method]
                        found = curve(some, "error", samples)
                        (handles[method],) = axes.plot(
                            found.index, found["mean"], color=drawn, linestyle=style, linewidth=1.0
                        )
                        draw_band(axes, found, drawn)
                        shown += list(found["mean"])
            constant, noise = _level(rows[task], "baseline_error"), 0.0
            handles["baseline"] = axes.axhline(
                constant, color=BASELINE, linestyle="--", linewidth=1.0
            )
            if kind[task] == "regression" and rows[task]["noise_variance"].notna().any():
                noise = _level(rows[task], "noise_variance")
                handles["noise"] = axes.axhline(
                    noise, color=REFERENCE, linestyle=":", linewidth=1.4
                )
            rate = (summary or {}).get(task, {}).get("predicted_rate", {}).get("mean")
            if rate and len(values) > 1 and values["mean"].iloc[0] > noise:
                handles["slope"] = _draw_slope(axes, values, rate, noise, color)
                shown += list(handles["slope"].get_ydata())
            draw_size_axis(axes, list(values.index))
            shown = [value for value in [*shown, constant, noise] if value > 0]
            axes.set_yscale("log")
            axes.set_ylim(min(shown) / ROOM, max(shown) * ROOM)
            draw_log_axis(axes.yaxis)
            title = titles.get(task, task)
            if kind[task] == "regression" and task in ranges:
                low, high = (f"{bound:g}".replace("-", "−") for bound in ranges[task])
                title += f", scores {low} to {high}"
            draw_title(axes, title, tested_rows(subsets, task))
            if task in leftmost:
                axes.set_ylabel(ERROR_LABELS[kind[task]])
        baseline = {"regression": "mean", "classification": "majority"}
        predicted = " or ".join(v for k, v in baseline.items() if k in {kind[t] for t in tasks})
        labels = {
            "curve": seeds_label("fine-tuned", seeds),
            **{method: label for method, (_, _, label) in UNTUNED.items()},
            "slope": "slope predicted by the kernel's decay",
            "baseline": f"predicting the training {predicted}",
            "noise": "variance of the label noise",
        }
        draw_legend(figure, {labels[name]: handles[name] for name in labels if name in handles})
        return laid_out(figure)
