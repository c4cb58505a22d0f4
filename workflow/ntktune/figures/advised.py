"""How far pilots' predictions are off, by the pilot's size."""

from collections.abc import Sequence
from itertools import product

import pandas as pd
from matplotlib.figure import Figure

from ntktune.advise.benchmark import CALIBRATED, OURS
from ntktune.figures.panels import draw_size_axis, finished
from ntktune.figures.pilots import KERNEL, judged
from ntktune.figures.style import MARKERS, WIDTH, checked_color, styled


def advised_figure(
    benchmark: pd.DataFrame,
    metrics: pd.DataFrame,
    colors: Sequence[str],
    compared: pd.DataFrame | None = None,
) -> Figure:
    """Return the figure of how far predictions are off, by the pilot's size, mean over tasks.

    A panel for the kernel's error and one for each method's test score; a line per way to predict,
    the kernel's own thicker.
    """
    found = judged(benchmark, metrics, compared)
    found = found[found["off"].notna()]
    truths, paints = found["truth"].unique(), [*map(checked_color, colors)]
    every = product(MARKERS, paints)  # a second marker where there are more ways than colours
    looks = {way: next(every) for way in found["way"].unique()}
    with styled():
        figure = Figure(figsize=(WIDTH, 2.9))
        panels = figure.subplots(1, len(truths), squeeze=False)[0]
        handles = {}
        for truth, axes in zip(truths, panels, strict=True):
            for way, own in found[found["truth"] == truth].groupby("way", sort=False):
                ours = way in (OURS, CALIBRATED)
                marker, color = looks[way]
                look = {"color": color, "marker": marker, "markersize": 4}
                look |= {"linestyle": "-" if ours else "--", "linewidth": 2.2 if ours else 1.0}
                (handles[way],) = axes.plot(own["pilot"], own["off"], **look)
            draw_size_axis(axes, sorted(found.loc[found["truth"] == truth, "pilot"].unique()))
            axes.set(ylim=(0, None), xlabel="labelled texts of the pilot")
            named = "the kernel's error" if truth == KERNEL else f"test score, {truth}"
            axes.set_title(named)
        panels[0].set_ylabel("mean |relative error| beyond the pilot")
        return finished(figure, handles)
