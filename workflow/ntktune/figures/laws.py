"""Learning curves of candidates, and what two laws make of their smallest sizes."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ntktune.figures.measures import kinds
from ntktune.figures.panels import draw_log_axis, draw_size_axis, finished, task_panels
from ntktune.figures.selected import (
    FEW,
    first_method,
    law_prediction,
    mean_curves,
    measured_sizes,
)
from ntktune.figures.style import EDGED, MARKERS, REFERENCE, checked_color, styled
from ntktune.selection.laws import RECTIFIED, measured_start

ROOM = 1.25  # of the axis below and above what was measured, as a factor
LABELS = {
    "regression": "test MSE over\nthat of the mean",
    "classification": "test cross entropy",
}


def laws_figure(
    curves: pd.DataFrame,
    scores: pd.DataFrame,
    tasks: Sequence[str],
    colors: Sequence[str],
    titles: Mapping[str, str] | None = None,
) -> Figure:
    """Return the figure of candidates' losses over n, a panel per task, first method.

    A colour per model, hollow where colours come again, and a marker per pooling. Lines are fitted
    to the smallest sizes, three or as many as there are less one: the rectified law (dashed), and
    the same with D_l = F(Θ, t) measured (dotted). They leave the panel where they go far beyond all
    losses.
    """
    known = curves[curves["task"].isin(tasks)]
    kind = kinds(known)
    paints = dict(zip(known["model"].unique(), cycle(map(checked_color, colors)), strict=False))
    hollow = {"markerfacecolor": "white"}
    faces = {model: hollow if place >= len(colors) else EDGED for place, model in enumerate(paints)}
    markers = dict(zip(known["pooling"].unique(), MARKERS, strict=False))
    entries: dict[str, Any] = {
        model: Line2D([], [], color=color, linestyle="none", marker="o", **faces[model])
        for model, color in paints.items()
    }
    entries |= {
        f"pooling: {pooling}": Line2D([], [], color=REFERENCE, linestyle="none", marker=marker)
        for pooling, marker in markers.items()
    }
    with styled():
        named = {task: (titles or {}).get(task, task) for task in tasks}
        figure, panels = task_panels(named, kind, LABELS, None)
        for task, axes in panels.items():
            sizes, losses = mean_curves(first_method(curves, task))
            remaining = measured_sizes(scores[scores["task"] == task])
            axes.set_yscale("log")
            for (model, pooling), curve in losses.iterrows():
                look = {"color": paints[model], "linewidth": 1.0, "zorder": 2}
                points = look | {"linestyle": "none", "marker": markers[pooling], **faces[model]}
                axes.plot(sizes, curve, **points)
                few = min(FEW[1], len(sizes) - 1)
                if few < FEW[0]:
                    continue
                laws = {"rectified law": (RECTIFIED, "--")}
                if (size := remaining.get((model, pooling), 0.0)) > 0:
                    laws["the same with a measured D_l"] = measured_start(size), ":"
                for name, (law, style) in laws.items():
                    told = law_prediction(law, sizes, curve.to_numpy(), few)
                    axes.plot(sizes, told, linestyle=style, **look)
                    entries[name] = Line2D([], [], color=REFERENCE, linestyle=style)
            draw_size_axis(axes, [int(n) for n in sizes])
            axes.set_ylim(losses.min(axis=None) / ROOM, losses.max(axis=None) * ROOM)
            draw_log_axis(axes.yaxis)
        return finished(figure, entries)
