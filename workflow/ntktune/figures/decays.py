"""The eigenvalue decay of all tasks in one figure: local slopes, and the centred kernel's."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ntktune.figures.decay import eigenvalue_matrix, geometric_mean
from ntktune.figures.measures import of_task
from ntktune.figures.panels import draw_log_axis, finished, panel_rows
from ntktune.figures.rates import RANGES, check_fits
from ntktune.figures.style import BASELINE, checked_color, styled, wrapped

WINDOW = 1.8  # a local slope is over the ranks from k / WINDOW to k · WINDOW
LEAST_RANKS = 4  # in a window
# column → what is decomposed, line style
KERNELS = {"eigenvalue": ("kernel", "-"), "centred": ("centred kernel", "--")}


def local_slopes(mean: pd.Series) -> pd.Series:
    """Return the local decay exponent −d log λ / d log k at ranks that are even in log k.

    Each is by ordinary least squares over a window of ranks; ``mean`` is rank k → λ_k > 0.
    """
    found = {}
    for k in np.geomspace(1, mean.index[-1], 25):
        near = mean[(mean.index >= k / WINDOW) & (mean.index <= k * WINDOW)]
        if len(near) >= LEAST_RANKS:
            found[k] = -np.polyfit(np.log(near.index), np.log(near), 1)[0]
    return pd.Series(found, dtype=float)


def decays_figure(
    eigenvalues: pd.DataFrame,
    decay: pd.DataFrame,
    summary: Mapping[str, Mapping[str, Any]],
    tasks: Sequence[str],
    colors: Sequence[str],
    titles: Mapping[str, str],
) -> Figure:
    """Return SR26's figures 4-9 as one, with what a straight line hides: two panels per task."""
    check_fits(decay, summary)
    colors = [checked_color(color) for color in colors]
    with styled():
        figure, panels = panel_rows(tasks, 2)
        handles = {}
        for task, (above, below) in panels.items():
            own = of_task(eigenvalues, task)
            for (column, (name, style)), color in zip(KERNELS.items(), colors, strict=True):
                mean = geometric_mean(eigenvalue_matrix(own, column), summary[task]["noise_floor"])
                look = {"color": color, "linestyle": style, "linewidth": 1.5}
                (handles[name],) = above.plot(mean.index, mean, **look)
                slopes = local_slopes(mean)
                below.plot(slopes.index, slopes, **look)
            fits = of_task(decay, task)
            exponent = fits.loc[fits["range"] == RANGES[0], "exponent"].mean()
            handles["fitted to all ranks"] = below.axhline(exponent, color=BASELINE, linewidth=0.8)
            above.set_yscale("log")
            n, draws = summary[task]["n"], summary[task]["draws"]
            for axes in (above, below):
                axes.set(xscale="log", xlim=(0.9, 1.1 * n))
                draw_log_axis(axes.xaxis)
            below.set(ylim=(0, None), xlabel=r"rank $k$")
            above.set_title(f"{wrapped(titles.get(task, task), 34)}\nn = {n}, draws: {draws}")
            if above.get_subplotspec().is_first_col():
                above.set_ylabel(r"eigenvalue $\lambda_k$")
                below.set_ylabel("local exponent\n$-$d log $\\lambda$ / d log $k$")
        return finished(figure, handles)
