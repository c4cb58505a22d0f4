"""Where in the network the kernel is before training, and where it sees the labels."""

from collections.abc import Mapping, Sequence

import pandas as pd
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

    Above the share of the trace of all of them, below the alignment with the labels, each with a
    colour bar of its own for all tasks.
    """
    check_colormap(colormap, "sequential", "YlGnBu, viridis")
    if missing := [task for task in tasks if task not in set(layers["task"])]:
        raise UserError(f"the layers of task {missing[0]!r} have no kernels; compute them")
    layers = layers[layers["task"].isin(tasks)]
    whole = layers.groupby("task")["trace"].transform("sum")
    layers = layers.assign(share=layers["trace"] / whole)
    names = list(dict.fromkeys(layers["layer"]))
    with styled():
        figure, panels = panel_rows(tasks, len(MEASURES), MOST_COLUMNS, sharex=True, sharey=True)
        for place, (measure, label) in enumerate(MEASURES.items()):
            norm, row = Normalize(0.0, layers[measure].max()), []
            for task in tasks:
                own, axes = layers[layers["task"] == task], panels[task][place]
                cells = own.pivot_table(measure, index="block", columns="layer")[names]
                look = {"cmap": colormap, "norm": norm, "shading": "nearest", "rasterized": True}
                mesh = axes.pcolormesh(range(len(names)), cells.index, cells.to_numpy(), **look)
                axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
                axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
                axes.grid(visible=False)
                if axes.get_subplotspec().is_first_col():
                    axes.set_ylabel("block")
                if not place:
                    axes.set_title(wrapped(plain((titles or {}).get(task, task)), 24))
                row.append(axes)
            bar = figure.colorbar(mesh, ax=row, aspect=14, pad=0.02)
            bar.set_label(label)
            bar.ax.grid(visible=False)
        return laid_out(figure)
