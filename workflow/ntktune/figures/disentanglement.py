"""Weight disentanglement: how much two task vectors get into each other's way."""

import math
from collections.abc import Sequence

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ntktune.errors import UserError
from ntktune.figures.style import WIDTH, laid_out, styled

MOST_COLUMNS = 6
# arm → what it is called
ARMS = {"standard": "network", "linear": "linearised"}


def _draw_error(axes: Axes, own: pd.DataFrame, colormap: str, norm: Normalize) -> QuadMesh:
    """Draw the heat map of one pair and arm, means over seeds, with the square of merges."""
    grid = own.pivot_table(index="alpha_b", columns="alpha_a", values="error")
    mesh = axes.pcolormesh(
        grid.columns,
        grid.index,
        grid.to_numpy(),
        cmap=colormap,
        norm=norm,
        shading="nearest",
        rasterized=True,
    )
    # white below dark: seen on light and on dark cells
    for color, width in (("white", 2.2), ("black", 0.9)):
        axes.add_patch(Rectangle((0, 0), 1, 1, fill=False, edgecolor=color, linewidth=width))
    axes.set_aspect("equal")
    axes.grid(visible=False)
    return mesh


def disentanglement_figure(disentanglement: pd.DataFrame, colormap: str) -> Figure:
    """Return the figure of the disentanglement error over two coefficients.

    Returns
    -------
    Figure
        A column per pair, in several bands where there are many, and a row per arm: mean
        error ξ over seeds, one scale for all. The framed square holds the merges, both
        coefficients in [0, 1].

    Raises
    ------
    UserError
        An unknown colour map, or a pair without one of the arms.
    """
    if colormap not in matplotlib.colormaps:
        raise UserError(
            f"matplotlib has no colour map {colormap!r}; take a sequential one: YlGnBu, viridis"
        )
    pairs = list(
        dict.fromkeys(zip(disentanglement["task_a"], disentanglement["task_b"], strict=True))
    )
    arms = list(dict.fromkeys(disentanglement["arm"]))
    known = dict(list(disentanglement.groupby(["task_a", "task_b", "arm"])))
    for a, b in pairs:
        for arm in arms:
            if (a, b, arm) not in known:
                raise UserError(f"the pair {a}, {b} has no errors of the arm {arm!r}; make them")
    means = disentanglement.groupby(["task_a", "task_b", "arm", "alpha_a", "alpha_b"])[
        "error"
    ].mean()
    norm = Normalize(0.0, means.max() or 1.0)
    bands = math.ceil(len(pairs) / MOST_COLUMNS)
    columns = math.ceil(len(pairs) / bands)
    side = min(1.6, (WIDTH - 1.3) / columns)  # inches
    height = bands * (side * len(arms) + 0.65)
    with styled():
        figure = Figure(figsize=(side * columns + 1.3, height))
        grid = figure.subplots(len(arms) * bands, columns, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat:
            axes.set_visible(False)
        for place, (a, b) in enumerate(pairs):
            band, column = divmod(place, columns)
            rows: Sequence[Axes] = grid[band * len(arms) : (band + 1) * len(arms), column]
            for arm, axes in zip(arms, rows, strict=True):
                axes.set_visible(True)
                mesh = _draw_error(axes, known[a, b, arm], colormap, norm)
                if column == 0:
                    axes.set_ylabel(f"{ARMS.get(arm, arm)}\nα₂")
            rows[0].set_title(f"α₁ {a}\nα₂ {b}", fontsize=6.5)
            rows[-1].set_xlabel("α₁")
        shrink = min(0.8, 3.0 / height)
        bar = figure.colorbar(mesh, ax=grid, location="right", shrink=shrink, aspect=22, pad=0.02)
        bar.set_label("disentanglement error ξ")
        bar.ax.grid(visible=False)
        return laid_out(figure)
