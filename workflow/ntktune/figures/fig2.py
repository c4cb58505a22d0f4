"""Figure 2: learning curves, the test error of each task against its labelled examples."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ntktune.figures.measures import ERROR_LABELS, curve, kinds, of_task, with_error
from ntktune.figures.panels import (
    draw_curve,
    draw_log_axis,
    draw_size_axis,
    finished,
    seeds_label,
    task_panels,
)
from ntktune.figures.style import BASELINE, DASHED, NOISE, checked_color, styled

# method → how its curve is drawn, and what it is called
UNTUNED = {
    "linear-probe": ("#7A7A7A", "-.", "linear probe"),
    "kernel-descent": ("#D55E00", "-", "prediction by the NTK"),
}
STEEPEST = 0.7  # a predicted slope widens the axis down to this share of what else is shown
ROOM = 1.12  # of the axis above and below what is drawn, as a factor
TUNED = {"full": "fine-tuned", "lora": "fine-tuned by LoRA", "probe": "head alone trained"}
ASIDE = 1.04  # factor between the places of two methods' points on the axis of n
NEAR = 2.0  # label noise below the axis by more than this factor is a number, not a line


def learning_curve_figure(
    metrics: pd.DataFrame,
    tasks: Sequence[str],
    colors: Sequence[str],
    titles: Mapping[str, str] | None = None,
    baselines: pd.DataFrame | None = None,
    ranges: Mapping[str, Sequence[float]] | None = None,
    subsets: Mapping[str, Any] | None = None,
    summary: Mapping[str, Any] | None = None,
    compared: pd.DataFrame | None = None,
) -> Figure:
    """Return Figure 2 of SR26: one panel per task, regressions first, then classifications.

    ``metrics`` are of the study's first method of fine-tuning, ``compared`` of its others.
    ``baselines`` are predictions without fine-tuning, of which those of the methods in
    :data:`UNTUNED` are drawn; the slope is that of the ``summary``'s predicted rate (eq 30).
    """
    color, *more = map(checked_color, colors)
    metrics, others = with_error(metrics), None
    every = metrics if compared is None else pd.concat([metrics, with_error(compared)])
    first, *methods = every["method"].unique()
    if baselines is not None:
        others = with_error(baselines[baselines["method"].isin(list(UNTUNED))])
    rows = {task: of_task(metrics, task) for task in tasks}
    kind = kinds(metrics)
    named = {task: (titles or {}).get(task, task) for task in tasks}
    for task in {*named} & {*(ranges or {})}:
        if kind[task] == "regression":
            low, high = (f"{bound:g}".replace("-", "−") for bound in ranges[task])
            named[task] += f", scores {low} to {high}"
    with styled():
        figure, panels = task_panels(named, kind, ERROR_LABELS, subsets)
        seeds, handles = [], {}
        for task, axes in panels.items():
            samples = (subsets or {}).get(task)
            values = curve(rows[task], "error", samples)
            shown = list(values["mean"])
            seeds.extend(values["count"])
            handles[first] = draw_curve(axes, values, color)
            for place, (method, own) in enumerate(zip(methods, more, strict=False), start=1):
                found = curve(of_task(every[every["method"] == method], task), "error", samples)
                found.index *= ASIDE**place  # bars at one size would hide each other
                handles[method] = draw_curve(axes, found, own)
                shown += list(found["mean"])
            mine = [] if others is None else others[others["task"] == task].groupby("method")
            for method, some in mine:
                drawn, style, _ = UNTUNED[method]
                found = curve(some, "error", samples)
                look = {"color": drawn, "linestyle": style, "linewidth": 1.0}
                (handles[method],) = axes.plot(found.index, found["mean"], **look)
                shown += list(found["mean"])
            constant, noise = rows[task]["baseline_error"].mean(), 0.0
            handles["baseline"] = axes.axhline(constant, **DASHED)
            if kind[task] == "regression" and rows[task]["noise_variance"].notna().any():
                noise = curve(rows[task], "noise_variance")["mean"].iloc[-1]
            rate = (summary or {}).get(task, {}).get("predicted_rate", {}).get("mean")
            if rate and len(values) > 1 and values["mean"].iloc[0] > noise:
                sizes = np.geomspace(values.index[0], values.index[-1], 50)
                fall = (values["mean"].iloc[0] - noise) * (sizes / sizes[0]) ** -rate
                look = {"color": color, "linestyle": (0, (1, 1)), "linewidth": 1.0}
                (handles["slope"],) = axes.plot(sizes, noise + fall, **look)
                shown.append(max(noise + fall[-1], min(shown) * STEEPEST))  # it may leave the panel
            draw_size_axis(axes, list(values.index))
            shown.append(constant)
            if min(shown) <= 0:  # no logarithm
                axes.set_ylim(-0.05 * max(shown), 1.1 * max(shown))
                if noise:
                    handles["noise"] = axes.axhline(noise, **NOISE)
                continue
            bottom, top = min(shown) / ROOM, max(shown) * ROOM
            if noise > bottom / NEAR:
                bottom = min(bottom, noise / ROOM)
                handles["noise"] = axes.axhline(noise, **NOISE)
            elif noise > 0:
                look = {"xycoords": "axes fraction", "fontsize": 6, "color": BASELINE}
                axes.annotate(f"label noise {noise:.2g} ↓", (0.02, 0.03), **look)
            axes.set(yscale="log", ylim=(bottom, top))
            draw_log_axis(axes.yaxis)
        baseline = {"regression": "mean", "classification": "majority"}
        predicted = " or ".join(v for k, v in baseline.items() if k in {kind[t] for t in tasks})
        tuned = TUNED | ({"full": "all weights fine-tuned"} if methods else {})
        labels = {
            first: seeds_label(tuned[first], seeds),
            **{method: tuned[method] for method in methods},
            **{method: label for method, (_, _, label) in UNTUNED.items()},
            "slope": "slope predicted by the kernel's decay",
            "baseline": f"predicting the training {predicted}",
            "noise": "variance of the label noise",
        }
        return finished(figure, {labels[name]: handles[name] for name in labels if name in handles})
