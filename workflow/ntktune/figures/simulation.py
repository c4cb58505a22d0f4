"""The outside check: four stopping rules on a known target, and the critical radius's exponent."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from ntktune.figures.stops import RULES
from ntktune.figures.style import REFERENCE, WIDTH, checked_color, count, laid_out, styled


def simulation_figure(
    simulation: pd.DataFrame, radii: pd.DataFrame, colors: Sequence[str]
) -> Figure:
    """Return the figure of the simulation of Raskutti, Wainwright & Yu (2014).

    Returns
    -------
    Figure
        Left: mean error ‖f̂ − f*‖² over repeats against n, ± one standard error. Right: the
        slope of log ε̂² on log n for eigenvalues k^−a against −a/(a+1). One colour for each of
        :data:`ntktune.figures.stops.RULES`, in that order.

    Raises
    ------
    UserError
        Something is no colour.
    """
    of_rule = dict(zip(RULES, map(checked_color, colors), strict=True))
    with styled():
        figure = Figure(figsize=(WIDTH, 2.9))
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        for rule, (label, marker) in RULES.items():
            own = simulation[simulation["rule"] == rule].sort_values("n")
            left.errorbar(
                own["n"],
                own["error"],
                yerr=own["error_stderr"],
                color=of_rule[rule],
                marker=marker,
                markeredgecolor="white",
                markeredgewidth=0.5,
                elinewidth=1.0,
                capsize=2.0,
                label=label,
            )
        sizes = sorted(simulation["n"].unique())
        left.set_xscale("log")
        left.set_yscale("log")
        left.xaxis.set_major_locator(FixedLocator(sizes))
        left.xaxis.set_major_formatter(FixedFormatter([str(n) for n in sizes]))
        left.xaxis.set_minor_locator(NullLocator())
        left.tick_params(axis="x", rotation=45)
        left.set_xlabel("n")
        repeats = count(int(simulation["repeats"].iloc[0]), "repeat")
        left.set_ylabel(f"error, mean of {repeats}")
        left.legend()
        ends = np.array([radii["predicted"].min(), radii["predicted"].max()])
        right.plot(ends, ends, color=REFERENCE, linestyle=":", linewidth=1.2)
        right.plot(radii["predicted"], radii["measured"], "o", color=of_rule["theory"])
        for row in radii.itertuples():
            right.annotate(
                f"a = {row.decay:g}",
                (row.predicted, row.measured),
                xytext=(5, -3),
                textcoords="offset points",
                va="top",
            )
        right.margins(0.25)
        right.set_xlabel("predicted exponent −a/(a+1)")
        right.set_ylabel("exponent of the critical radius ε̂²")
        return laid_out(figure)
