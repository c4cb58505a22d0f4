"""Figures 4 to 9: the eigenvalues of one task's kernel, and the power law fitted to them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ntktune.errors import UserError
from ntktune.figures.rates import RANGES, check_fits
from ntktune.figures.style import NOISE, checked_color, count, laid_out, styled, wrapped

COLUMN_WIDTH = 3.5  # inches: a column of a two-column journal page


def eigenvalue_matrix(eigenvalues: pd.DataFrame, column: str = "eigenvalue") -> pd.DataFrame:
    """Return the eigenvalues, rank k × draw, NaN where rounding left one that is not positive."""
    matrix = eigenvalues.pivot(index="k", columns="draw", values=column).sort_index()
    return matrix.where(matrix > 0)


def geometric_mean(matrix: pd.DataFrame, noise_floor: float) -> pd.Series:
    """Return the geometric mean over draws at each rank at which all draws exceed the noise."""
    return np.exp(np.log(matrix.where(matrix > noise_floor).dropna()).mean(axis=1))


def task_figure(
    eigenvalues: pd.DataFrame,
    decay: pd.DataFrame,
    summary: Mapping[str, Mapping[str, Any]],
    color: str,
    titles: Mapping[str, str],
) -> Figure:
    """Return one of the Figures 4-9 of SR26: the eigenvalues of K_n = G / n on log-log axes.

    Raises UserError if the tables are of several tasks or do not belong together, or without a fit
    over ``"1..n"`` or a positive eigenvalue.
    """
    checked_color(color)
    check_fits(decay, summary)
    if len(summary) > 1:
        raise UserError(f"a decay is drawn of one task, not of {', '.join(summary)}")
    ((task, own),) = summary.items()
    title, noise_floor = titles.get(task, task), own["noise_floor"]
    low, high = own["exponent"]["low"], own["exponent"]["high"]  # None for one draw
    fits = decay[decay["range"] == RANGES[0]]
    matrix = eigenvalue_matrix(eigenvalues)
    n, draws = matrix.shape
    if fits.empty:
        raise UserError(f"{title}: there is no fit over the range '1..n'; fit the spectrum anew")
    if not matrix.notna().to_numpy().any():
        raise UserError(f"{title}: no eigenvalue is positive, so there is no decay to draw")
    mean = geometric_mean(matrix, noise_floor)
    exponent = fits["exponent"].mean()
    # what is dropped as noise stands at the end: the line ends where the fitted values do
    ranks = np.array([fits["first"].min(), (fits["last"] - fits["dropped"]).max()], dtype=float)
    line = np.exp(fits["intercept"].mean()) * ranks**-exponent
    dropped = int(fits["dropped"].sum())
    interval = "" if None in (low, high) else f" ({low:.2f} to {high:.2f})"
    with styled():
        figure = Figure(figsize=(COLUMN_WIDTH, 3.1))
        axes = figure.add_subplot()
        axes.set(xscale="log", yscale="log")
        each = axes.plot(matrix.index, matrix.to_numpy(), color=color, alpha=0.4, linewidth=0.6)
        each[0].set_label(f"each of {count(draws, 'draw')}")
        axes.plot(mean.index, mean, color=color, linewidth=2.2, label="geometric mean")
        label = rf"$\lambda_k \propto k^{{-a}}$, $R^2$ = {fits['r_squared'].mean():.3f}"
        dashed = {"color": "black", "linestyle": (0, (4, 2)), "linewidth": 1.1}
        axes.plot(ranks, line, **dashed, label=f"{label}\n$a$ = {exponent:.2f}{interval}")
        smallest = np.nanmin(matrix.to_numpy())
        # the floor is worth the room only where eigenvalues come near to it, and what lies
        # far below it only says how rounding went
        if noise_floor > 0 and noise_floor >= 0.1 * smallest:
            axes.axhline(noise_floor, **NOISE, label="float noise")
            axes.set_ylim(bottom=max(0.5 * smallest, 0.05 * noise_floor))
        labels = {"xlabel": r"rank $k$", "ylabel": r"eigenvalue $\lambda_k$ of $K_n$"}
        axes.set(xlim=(0.9, n * 1.12), **labels)
        lines = [wrapped(title, 46), f"n = {n}, {count(draws, 'draw')}"]
        if dropped:
            lines.append(f"{dropped} of {n * draws} eigenvalues are float noise, not fitted")
        axes.set_title("\n".join(lines))
        # below the axes: inside, it would cover a floor or a curve of some other shape
        figure.legend(loc="outside lower center", ncols=2, columnspacing=1.2)
        return laid_out(figure)
