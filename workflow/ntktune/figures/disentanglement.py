"""Weight disentanglement: how much two task vectors get into each other's way."""

import itertools

import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ntktune.errors import UserError
from ntktune.figures.panels import panel_rows
from ntktune.figures.style import WIDTH, check_colormap, laid_out, styled

MOST_COLUMNS = 6
# arm → what it is called
ARMS = {"standard": "network", "linear": "linearised", "tangent": "linearised training"}


def disentanglement_figure(disentanglement: pd.DataFrame, colormap: str) -> Figure:
    """Return the figure of the disentanglement error over two coefficients, per pair and arm."""
    check_colormap(colormap, "sequential", "YlGnBu, viridis")
    keys = ["task_a", "task_b", "arm"]
    known = dict(list(disentanglement.groupby(keys, sort=False)))
    pairs = list(dict.fromkeys((a, b) for a, b, _ in known))
    arms = list(dict.fromkeys(arm for _, _, arm in known))
    for (a, b), arm in itertools.product(pairs, arms):
        if (a, b, arm) not in known:
            raise UserError(f"the pair {a}, {b} has no errors of the arm {arm!r}; make them")
    means = disentanglement.groupby([*keys, "alpha_a", "alpha_b"])["error"].mean()
    look = {"cmap": colormap, "norm": Normalize(0.0, means.max() or 1.0)}
    look |= {"shading": "nearest", "rasterized": True}
    with styled():
        figure, panels = panel_rows(pairs, len(arms), MOST_COLUMNS, sharex=True, sharey=True)
        grid = figure.axes[0].get_gridspec()
        side = min(1.6, (WIDTH - 1.3) / grid.ncols)  # inches
        height = grid.nrows // len(arms) * (side * len(arms) + 0.65)
        figure.set_size_inches(side * grid.ncols + 1.3, height)
        for (a, b), rows in panels.items():
            for arm, axes in zip(arms, rows, strict=True):
                own = known[a, b, arm].pivot_table("error", index="alpha_b", columns="alpha_a")
                mesh = axes.pcolormesh(own.columns, own.index, own.to_numpy(), **look)
                # white below dark: seen on light and on dark cells
                for color, width in (("white", 2.2), ("black", 0.9)):
                    frame = {"fill": False, "edgecolor": color, "linewidth": width}
                    axes.add_patch(Rectangle((0, 0), 1, 1, **frame))
                axes.set_aspect("equal")
                axes.grid(visible=False)
                if axes.get_subplotspec().is_first_col():
                    axes.set_ylabel(f"{ARMS.get(arm, arm)}\nα₂")
            rows[0].set_title(f"α₁ {a}\nα₂ {b}", fontsize=6.5)
            rows[-1].set_xlabel("α₁")
        shape = {"location": "right", "shrink": min(0.8, 3.0 / height), "aspect": 22, "pad": 0.02}
        bar = figure.colorbar(mesh, ax=figure.axes, **shape)
        bar.set_label("disentanglement error ξ")
        bar.ax.grid(visible=False)
        return laid_out(figure)
