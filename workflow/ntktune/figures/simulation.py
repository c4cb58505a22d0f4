"""The outside check: four stopping rules on a known target, and the critical radius's exponent."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ntktune.figures.panels import draw_labelled_sizes
from ntktune.figures.style import (
    EDGED,
    REFERENCE,
    RULES,
    WIDTH,
    checked_color,
    count,
    laid_out,
    styled,
)


def simulation_figure(
    simulation: pd.DataFrame, radii: pd.DataFrame, colors: Sequence[str]
) -> Figure:
    """Return the figure of Raskutti, Wainwright & Yu's simulation (2014); a colour per rule."""
    of_rule = dict(zip(RULES, map(checked_color, colors), strict=True))
    with styled():
        figure = Figure(figsize=(WIDTH, 2.9))
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        for rule, (label, marker) in RULES.items():
            own = simulation[simulation["rule"] == rule].sort_values("n")
            look = {"color": of_rule[rule], "marker": marker, "elinewidth": 1.0, "capsize": 2.0}
            left.errorbar(own["n"], own["error"], own["error_stderr"], label=label, **look, **EDGED)
        draw_labelled_sizes(left, sorted(simulation["n"].unique()))
        repeats = count(int(simulation["repeats"].iloc[0]), "repeat")
        left.set(yscale="log", xlabel="n", ylabel=f"error, mean of {repeats}")
        left.legend()
        ends = np.array([radii["predicted"].min(), radii["predicted"].max()])
        right.plot(ends, ends, color=REFERENCE, linestyle=":", linewidth=1.2)
        right.plot(radii["predicted"], radii["measured"], "o", color=of_rule["theory"])
        for row in radii.itertuples():
            below = {"xytext": (5, -3), "textcoords": "offset points", "va": "top"}
            right.annotate(f"a = {row.decay:g}", (row.predicted, row.measured), **below)
        right.margins(0.25)
        right.set_xlabel("predicted exponent −a/(a+1)")
        right.set_ylabel("exponent of the critical radius ε̂²")
        return laid_out(figure)
