"""How the linear picture improves with the width of a network."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from ntktune.figures.panels import draw_labelled_sizes, finished
from ntktune.figures.style import REFERENCE, WIDTH, checked_color, styled

PANELS = {
    "drift": "‖K_T − K_0‖ / ‖K_0‖",
    "linear_gap": "root mean square of f − f_lin",
    "distance": "‖θ_T − θ_0‖ / √N",
}
# phase → what it is called
PHASES = {
    "pretraining": "training from a random start",
    "all pretrained": "fine-tuning, all weights pretrained",
    "fresh head": "fine-tuning, fresh head",
}


def width_figure(width: pd.DataFrame, slopes: pd.DataFrame, colors: Sequence[str]) -> Figure:
    """Return the figure of :data:`PANELS` against width; one colour for each of :data:`PHASES`."""
    of_phase = dict(zip(PHASES, map(checked_color, colors), strict=True))
    widths = sorted(width["width"].unique())
    with styled():
        figure = Figure(figsize=(WIDTH, 2.9))
        handles = {}
        for axes, (column, label) in zip(figure.subplots(1, 3), PANELS.items(), strict=True):
            for place, (phase, name) in enumerate(PHASES.items()):
                own = width[width["phase"] == phase]
                axes.plot(own["width"], own[column], ".", color=of_phase[phase], alpha=0.5)
                means = np.log(own.set_index("width")[column]).groupby("width").mean()
                (handles[name],) = axes.plot(means.index, np.exp(means), color=of_phase[phase])
                fit = slopes[(slopes["phase"] == phase) & (slopes["quantity"] == column)].iloc[0]
                text = "{slope:.2f} [{low:.2f}, {high:.2f}]".format(**fit).replace("-", "−")
                corner = {"transform": axes.transAxes, "ha": "right", "va": "top"}
                axes.text(0.97, 0.97 - 0.08 * place, text, **corner, color=of_phase[phase])
            top = width.loc[width["width"] == widths[0], column].max()
            bound = top * np.sqrt(widths[0] / np.array(widths, dtype=float))
            look = {"color": REFERENCE, "linestyle": ":", "linewidth": 1.2}
            (handles["N^(−1/2), the theory's bound"],) = axes.plot(widths, bound, **look)
            axes.set(yscale="log", xlabel="width N", title=label)
            low, _ = axes.get_ylim()
            axes.set_ylim(low, top * (top / low) ** 0.35)  # room for the slopes
            axes.yaxis.set_minor_formatter(NullFormatter())
            draw_labelled_sizes(axes, widths)
        return finished(figure, handles)
