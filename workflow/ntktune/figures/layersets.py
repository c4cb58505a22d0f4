"""Does a kernel's spectrum say which layers to train? Each set's statistics against its score."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ntktune.errors import UserError
from ntktune.figures.choice import STATISTICS, scored_sets, set_order
from ntktune.figures.panels import finished
from ntktune.figures.style import EDGED, MARKERS, REFERENCE, WIDTH, checked_color, plain, styled


def sets_figure(
    sets: pd.DataFrame,
    tuned: pd.DataFrame,
    tasks: Sequence[str],
    colors: Sequence[str],
    titles: Mapping[str, str] | None = None,
) -> Figure:
    """Return the figure of six statistics before training against the test score after it.

    A point per task and set of layers: the mean score over seeds, less the task's mean over sets,
    against the statistic's rank among the task's sets, so that tasks compare. A panel's title has
    Kendall's τ of each task, signed so that 1 is a statistic that orders the sets rightly. A colour
    and a marker per task.
    """
    titles, scored = titles or {}, scored_sets(sets, tuned)
    if missing := [task for task in tasks if task not in set(scored["task"])]:
        raise UserError(f"no sets of layers of task {missing[0]!r} were trained; train them")
    looks = dict(zip(tasks, zip(cycle(map(checked_color, colors)), cycle(MARKERS)), strict=False))
    with styled():
        figure = Figure(figsize=(WIDTH, 4.6))
        entries, grid = {}, figure.subplots(2, 3, sharey=True)
        shown = [name for name in STATISTICS if name != "gcv"]  # which hardly tells sets apart
        for axes, name in zip(grid.flat, shown, strict=True):
            orders = []
            for task in tasks:
                own = scored[scored["task"] == task]
                color, marker = looks[task]
                look = {"color": color, "marker": marker, "linestyle": "none", **EDGED}
                centred = own["score"] - own["score"].mean()
                (entries[plain(titles.get(task, task))],) = axes.plot(
                    own[name].rank(), centred, **look
                )
                orders.append(f"{set_order(own, name):.2f}")
            axes.axhline(0.0, color=REFERENCE, linewidth=0.8, zorder=1)
            axes.set(
                xlabel=f"rank of {STATISTICS[name][0]}",
                title=f"τ = {', '.join(orders[:4])}" + " …" * (len(orders) > 4),
            )
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            if axes.get_subplotspec().is_first_col():
                axes.set_ylabel("test score − mean over sets")
        return finished(figure, entries)
