"""Lines over a coefficient of task vectors, as the figures of addition and negation have them."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ntktune.figures.style import BASELINE, MARKERS, checked_color

LINES = ("-", "--", "-.")
CUT = (-1.0, 2.0)  # ratios to a score next to 0 may be anything


def task_looks(tasks: Iterable[str], colors: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return task → colour, marker and line style; raise UserError for what is no colour."""
    colors = [checked_color(color) for color in colors]
    return {
        task: {
            "color": colors[place % len(colors)],
            "marker": MARKERS[place % len(MARKERS)],
            "linestyle": LINES[place // len(colors) % len(LINES)],
        }
        for place, task in enumerate(tasks)
    }


def draw_sweep(axes: Axes, rows: pd.DataFrame, column: str, **look: Any) -> Line2D:
    """Draw mean over seeds against the coefficient, and a band from the lowest to the highest."""
    known = rows.groupby("coefficient")[column].agg(["mean", "min", "max", "count"])
    if known["count"].max() > 1:
        band = {"color": look["color"], "alpha": 0.15, "linewidth": 0}
        axes.fill_between(known.index, known["min"], known["max"], **band)
    look |= {"markersize": 3.2, "markeredgecolor": "white", "markeredgewidth": 0.4}
    return axes.plot(known.index, known["mean"], **look)[0]


def mark_chosen(axes: Axes, coefficients: Iterable[float]) -> Line2D:
    """Put a triangle below the panel's line of 0 at every coefficient that was chosen."""
    places = sorted(set(coefficients))
    look = {"marker": "^", "linestyle": "none", "markersize": 5.5, "color": BASELINE, "zorder": 4}
    heights, across = np.full(len(places), 0.03), axes.get_xaxis_transform()
    return axes.plot(places, heights, transform=across, **look)[0]


def bounds(values: pd.Series, lowest: float, highest: float) -> tuple[float, float]:
    """Return limits of an axis: of the values, cut off at ``lowest`` and ``highest``."""
    known = values[np.isfinite(values)]
    low, high = (known.clip(lowest, highest).agg(["min", "max"])) if len(known) else (0.0, 1.0)
    margin = 0.06 * (high - low) or 0.1
    return low - 2 * margin, high + margin  # triangles stand at the bottom
