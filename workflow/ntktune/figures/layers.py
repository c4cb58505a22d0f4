"""Where in the network task vectors agree: cosines by group of layers."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ntktune.errors import UserError
from ntktune.figures.cosines import DIFFERENT, NULLS
from ntktune.figures.panels import draw_legend
from ntktune.figures.style import REFERENCE, WIDTH, checked_color, laid_out, styled

# kind of pair → what it is called, marker, line style
PAIRS = {
    DIFFERENT: ("two tasks", "o", "-"),
    "seeds": (NULLS["seeds"], "s", "--"),
    "subsets": (NULLS["subsets"], "^", ":"),
}
PARTS = {"attention": "attention", "mlp": "MLP"}
BLOCK = re.compile(r"block(\d+)\.(\w+)")


def group_means(cosine: pd.DataFrame) -> pd.DataFrame:
    """Return mean and sd of the cosines over all pairs and runs, per kind of pair and group.

    Parameters
    ----------
    cosine
        ``pair``, ``group``, ``cosine``.

    Returns
    -------
    DataFrame
        ``pair``, ``group``, ``mean``, ``sd`` (0 of one), ``part`` (``"attention"``, ``"mlp"``;
        empty for a group that is of no block) and ``block`` (NaN for such a group).
    """
    known = cosine.groupby(["pair", "group"], sort=False)["cosine"]  # NaN is left out of means
    means = known.agg(mean="mean", sd="std").fillna({"sd": 0.0}).reset_index()
    found = [BLOCK.fullmatch(group) for group in means["group"]]
    means["part"] = [match[2] if match else "" for match in found]
    means["block"] = [float(match[1]) if match else np.nan for match in found]
    return means


def _draw_blocks(axes: Axes, means: pd.DataFrame, part: str, colors: Sequence[str]) -> None:
    """Draw the cosines of one part of the blocks against the block, mean ± sd."""
    for (pair, (_, marker, line)), color in zip(PAIRS.items(), colors, strict=True):
        own = means[(means["pair"] == pair) & (means["part"] == part)].sort_values("block")
        axes.plot(own["block"], own["mean"], marker=marker, linestyle=line, color=color)
        axes.fill_between(
            own["block"], own["mean"] - own["sd"], own["mean"] + own["sd"], color=color, alpha=0.15
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.set_xlabel("block")
    axes.set_title(PARTS[part])


def layer_figure(cosine: pd.DataFrame, colors: Sequence[str]) -> Figure:
    """Return the figure of the cosines between task vectors by group of layers.

    Returns
    -------
    Figure
        Means ± sd over pairs and runs: of the blocks' attention and of their MLPs against
        the block, and of the layers outside of blocks; each for two different tasks, for two
        trainings of one task, and for two samples of one task under one head, in the colours'
        order.

    Raises
    ------
    UserError
        No layers of blocks, or no colour.
    """
    colors = [checked_color(color) for color in colors]
    means = group_means(cosine)
    parts = [part for part in PARTS if part in set(means["part"])]
    if not parts:
        raise UserError("the cosines hold no layers of blocks (block0.attention, …)")
    others = list(means.loc[means["part"] == "", "group"].unique())
    with styled():
        figure = Figure(figsize=(WIDTH, 2.9))
        panels = figure.subplots(
            1,
            len(parts) + 1,
            sharey=True,
            squeeze=False,
            width_ratios=[*([1.0] * len(parts)), max(0.3, 0.15 * len(others))],
        )[0]
        for axes, part in zip(panels, parts, strict=False):
            _draw_blocks(axes, means, part, colors)
        rest, handles = panels[-1], {}
        for place, ((pair, (name, marker, line)), color) in enumerate(
            zip(PAIRS.items(), colors, strict=True)
        ):
            own = means[(means["pair"] == pair) & (means["part"] == "")]
            rest.errorbar(
                [others.index(group) + 0.2 * (place - 1) for group in own["group"]],
                own["mean"],
                yerr=own["sd"],
                linestyle="none",
                marker=marker,
                color=color,
                elinewidth=1.0,
                capsize=2.2,
            )
            if pair in set(means["pair"]):
                (handles[name],) = rest.plot([], [], marker=marker, linestyle=line, color=color)
        rest.set_xticks(range(len(others)), others, rotation=40, ha="right", rotation_mode="anchor")
        rest.set_xlim(-0.6, len(others) - 0.4)
        rest.grid(visible=False, axis="x")
        rest.set_title("other groups")
        for axes in panels:
            axes.axhline(0.0, color=REFERENCE, linewidth=0.8, zorder=1)
        panels[0].set_ylabel("cosine between task vectors")
        draw_legend(figure, handles)
        return laid_out(figure)
