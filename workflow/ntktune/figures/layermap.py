"""Where in the network the kernel is before training, and where it sees the labels."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ntktune.errors import UserError
from ntktune.figures.panels import panel_rows
from ntktune.figures.style import check_colormap, laid_out, plain, styled, wrapped

MOST_COLUMNS = 4
MEASURES = {"share": "share of the trace", "alignment": "alignment with the labels"}


def layer_map_figure(
    layers: pd.DataFrame,
    tasks: Sequence[str],
    colormap: str,
    titles: Mapping[str, str] | None = None,
) -> Figure:
    """Return the figure of each linear layer's own kernel: block against layer, per task.

    Above the share of the trace of all of them, below the alignment with the labels, each on one
    scale of colours for all tasks.
    """
    check_colormap(colormap, "sequential", "YlGnBu, viridis")
    if missing := [task for task in tasks if task not in set(layers["task"])]:
        raise UserError(f"the layers of task {missing[0]!r} have no kernels; compute them")
    layers = layers[layers["task"].isin(tasks)]
    whole = layers.groupby("task")["trace"].transform("sum")
    layers = layers.assign(share=layers["trace"] / whole)
    names, blocks = list(dict.fromkeys(layers["layer"])), int(layers["block"].max()) + 1
    told = [name.replace(".", "\n") for name in names]
    with styled():
        figure, panels = panel_rows(tasks, len(MEASURES), MOST_COLUMNS, sharex=True, sharey=True)
        for place, (measure, label) in enumerate(MEASURES.items()):
            look = {"cmap": colormap, "norm": Normalize(0.0, layers[measure].max() or 1.0)}
            bands: dict[int, list[Axes]] = {}
            for task in tasks:
                own, axes = layers[layers["task"] == task], panels[task][place]
                cells = own.pivot(index="block", columns="layer", values=measure)
                cells = cells.reindex(index=range(blocks), columns=names)
                sides = (np.arange(count + 1) - 0.5 for count in (len(names), blocks))
                mesh = axes.pcolormesh(*sides, cells.to_numpy(), **look, rasterized=True)
                axes.set_xticks(range(len(names)), told, rotation=90, fontsize=5.5)
                axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
                axes.grid(visible=False)
                if axes.get_subplotspec().is_first_col():
                    axes.set_ylabel("block")
                if not place:
                    axes.set_title(wrapped(plain((titles or {}).get(task, task)), 24))
                bands.setdefault(axes.get_subplotspec().rowspan.start, []).append(axes)
            for band in bands.values():
                bar = figure.colorbar(mesh, ax=band, aspect=14, pad=0.02)
                bar.set_label(label)
                bar.ax.grid(visible=False)
        return laid_out(figure)
