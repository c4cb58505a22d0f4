"""Figure 2: learning curves, the test error of each task against its labelled examples."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from ntktune.figures.measures import ERROR_LABELS, curve, kinds, of_task, with_error
from ntktune.figures.panels import draw_curve, draw_legend, draw_size_axis, draw_title, panel_grid
from ntktune.figures.style import (
    BASELINE,
    REFERENCE,
    checked_color,
    count_range,
    laid_out,
    styled,
)

# method → how its curve is drawn, and what it is called
UNTUNED = {
    "probe": ("#7A7A7A", "-.", "linear probe"),
    "kernel-descent": ("#D55E00", "-", "prediction by the NTK"),
}


def _level(metrics: pd.DataFrame, column: str) -> float:
    """Return a reference level: the mean over seeds at the largest size that has one."""
    return curve(metrics, column)["mean"].iloc[-1]


def learning_curve_figure(
    metrics: pd.DataFrame,
    tasks: Sequence[str],
    color: str,
    titles: Mapping[str, str] | None = None,
    baselines: pd.DataFrame | None = None,
    ranges: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """Return Figure 2 of SR26: one panel per task, regressions first, then classifications.

    ``baselines`` are predictions without fine-tuning; of each method in :data:`UNTUNED` the mean
    over seeds is drawn. The rest is as :class:`ntktune.figures.catalogue.Entry` says.

    Returns
    -------
    Figure
        Mean ± sd over seeds of the test error against n; dashed, the error of predicting
        the training mean or majority (at the largest size); dotted, the variance of the
        labels' noise where it is known.

    Raises
    ------
    UserError
        A task that the metrics do not hold, or no colour.
    """
    checked_color(color)
    titles = titles or {}
    metrics = with_error(metrics)
    rows = {task: of_task(metrics, task) for task in tasks}
    kind = kinds(metrics)
    with styled():
        groups = [[t for t in tasks if kind[t] == k] for k in ERROR_LABELS]
        figure, panels, leftmost = panel_grid(groups)
        seeds, handles = [], {}
        for task, axes in panels.items():
            values = curve(rows[task], "error")
            seeds.extend(values["count"])
            handles["curve"] = draw_curve(axes, values, color)
            if baselines is not None:
                mine = with_error(baselines[baselines["task"] == task])
                for method, some in mine.groupby("method"):
                    if method in UNTUNED:
                        drawn, style, _ = UNTUNED[method]
                        means = curve(some, "error")["mean"]
                        (handles[method],) = axes.plot(
                            means.index, means, color=drawn, linestyle=style, linewidth=1.0
                        )
            handles["baseline"] = axes.axhline(
                _level(rows[task], "baseline_error"), color=BASELINE, linestyle="--", linewidth=1.0
            )
            if kind[task] == "regression" and rows[task]["noise_variance"].notna().any():
                handles["noise"] = axes.axhline(
                    _level(rows[task], "noise_variance"),
                    color=REFERENCE,
                    linestyle=":",
                    linewidth=1.4,
                )
            draw_size_axis(axes, list(values.index))
            axes.margins(y=0.1)
            title = titles.get(task, task)
            if kind[task] == "regression" and task in (ranges or {}):
                low, high = (f"{bound:g}".replace("-", "−") for bound in ranges[task])
                title += f", scores {low} to {high}"
            draw_title(axes, title)
            if task in leftmost:
                axes.set_ylabel(ERROR_LABELS[kind[task]])
        spread = ", mean ± sd over " if max(seeds) > 1 else ", "
        baseline = {
            "regression": "mean",
            "classification": "majority",
        }
        predicted = " or ".join(v for k, v in baseline.items() if k in {kind[t] for t in tasks})
        labels = {
            "curve": f"fine-tuned{spread}{count_range(seeds, 'seed')}",
            **{method: label for method, (_, _, label) in UNTUNED.items()},
            "baseline": f"predicting the training {predicted}",
            "noise": "variance of the label noise",
        }
        draw_legend(figure, {labels[name]: handles[name] for name in labels if name in handles})
        return laid_out(figure)
