"""Where in the network task vectors agree: cosines by group of layers."""

import re
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ntktune.errors import UserError
from ntktune.figures.cosines import DIFFERENT, NULLS
from ntktune.figures.panels import finished
from ntktune.figures.style import REFERENCE, WIDTH, checked_color, styled

# kind of pair → what it is called, marker, line style
PAIRS = {
    DIFFERENT: ("two tasks", "o", "-"),
    "seeds": (NULLS["seeds"], "s", "--"),
    "subsets": (NULLS["subsets"], "^", ":"),
}
PARTS = {"attention": "attention", "mlp": "MLP"}


def group_means(cosine: pd.DataFrame) -> pd.DataFrame:
    """Return mean and sd of the cosines over all pairs and runs, per kind of pair and group.

    Columns ``pair``, ``group``, ``mean``, ``sd`` (0 of one), ``part`` (a key of :data:`PARTS`, ""
    for a group that is of no block) and ``block`` (NaN for such a group).
    """
    known = cosine.groupby(["pair", "group"], sort=False)["cosine"]  # NaN is left out of means
    means = known.agg(mean="mean", sd="std").fillna({"sd": 0.0}).reset_index()
    found = [re.fullmatch(r"block(\d+)\.(\w+)", group) for group in means["group"]]
    blocks = [float(match[1]) if match else float("nan") for match in found]
    return means.assign(part=[match[2] if match else "" for match in found], block=blocks)


def layer_figure(cosine: pd.DataFrame, colors: Sequence[str]) -> Figure:
    """Return the figure of the cosines between task vectors by group of layers.

    One colour for each of :data:`PAIRS`. Raises UserError without layers of blocks.
    """
    colors = [checked_color(color) for color in colors]
    means = group_means(cosine)
    parts = [part for part in PARTS if part in set(means["part"])]
    if not parts:
        raise UserError("the cosines hold no layers of blocks (block0.attention, …)")
    others = list(means.loc[means["part"] == "", "group"].unique())
    with styled():
        figure = Figure(figsize=(WIDTH, 2.9))
        widths = [*([1.0] * len(parts)), max(0.3, 0.15 * len(others))]
        panels = figure.subplots(1, len(widths), sharey=True, squeeze=False, width_ratios=widths)[0]
        rest, handles = panels[-1], {}
        for place, (pair, (name, marker, line)) in enumerate(PAIRS.items()):
            look = {"marker": marker, "color": colors[place]}
            of_pair = means[means["pair"] == pair].sort_values("block", kind="stable")
            for axes, part in zip(panels, parts, strict=False):
                own = of_pair[of_pair["part"] == part]
                low, high = own["mean"] - own["sd"], own["mean"] + own["sd"]
                axes.plot(own["block"], own["mean"], linestyle=line, **look)
                axes.fill_between(own["block"], low, high, color=colors[place], alpha=0.15)
            own = of_pair[of_pair["part"] == ""]
            places = [others.index(group) + 0.2 * (place - 1) for group in own["group"]]
            bars = {"linestyle": "none", "elinewidth": 1.0, "capsize": 2.2}
            rest.errorbar(places, own["mean"], yerr=own["sd"], **look, **bars)
            if pair in set(means["pair"]):
                (handles[name],) = rest.plot([], [], linestyle=line, **look)
        for axes, part in zip(panels, parts, strict=False):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
            axes.set(xlabel="block", title=PARTS[part])
        rest.set_xticks(range(len(others)), others, rotation=40, ha="right", rotation_mode="anchor")
        rest.set(xlim=(-0.6, len(others) - 0.4), title="other groups")
        rest.grid(visible=False, axis="x")
        for axes in panels:
            axes.axhline(0.0, color=REFERENCE, linewidth=0.8, zorder=1)
        panels[0].set_ylabel("cosine between task vectors")
        return finished(figure, handles)
