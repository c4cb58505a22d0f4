"""What is known before training against the score after it: of sets of layers, of candidates."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ntktune.figures.choice import order
from ntktune.figures.panels import finished
from ntktune.figures.style import EDGED, MARKERS, REFERENCE, WIDTH, checked_color, plain, styled


def order_figure(
    tables: Mapping[str, pd.DataFrame],
    statistics: Mapping[str, tuple[str, bool]],
    of: str,
    colors: Sequence[str],
    titles: Mapping[str, str],
) -> Figure:
    """Return the figure of statistics before training against the test score after it.

    ``tables`` is task → rows, with ``score`` and a column per statistic; ``statistics`` is column →
    label, and whether more is better; a row is one ``of`` some sets. A point per task and row: the
    score, less the task's mean, against the statistic's rank among the task's rows, so that tasks
    compare. A panel's title has Kendall's τ of each task, signed so that 1 is a statistic that
    orders the rows rightly, – of a task without a value. A colour and a marker per task.
    """
    looks = dict(zip(tables, zip(cycle(map(checked_color, colors)), cycle(MARKERS)), strict=False))
    with styled():
        rows = -(-len(statistics) // 3)
        figure = Figure(figsize=(WIDTH, 2.15 * rows + 0.3))
        entries, grid = {}, figure.subplots(rows, 3, sharey=True, squeeze=False)
        for axes in list(grid.flat)[len(statistics) :]:
            axes.set_visible(False)
        for axes, (name, (label, more)) in zip(grid.flat, statistics.items(), strict=False):
            orders = []
            for task, rows_of in tables.items():
                centred = rows_of["score"] - rows_of["score"].mean()
                known = rows_of[name].notna()
                own = rows_of[known]
                if own.empty:
                    orders.append("–")
                    continue
                color, marker = looks[task]
                look = {"color": color, "marker": marker, "linestyle": "none", **EDGED}
                (entries[plain(titles.get(task, task))],) = axes.plot(
                    own[name].rank(), centred[known], **look
                )
                orders.append(f"{order(own, name, more=more):.2f}")
            axes.axhline(0.0, color=REFERENCE, linewidth=0.8, zorder=1)
            axes.set(
                xlabel=f"rank of {label}",
                title=f"τ = {', '.join(orders[:4])}" + " …" * (len(orders) > 4),
            )
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            if axes.get_subplotspec().is_first_col():
                axes.set_ylabel(f"test score −\nmean over {of}")
        return finished(figure, entries)
