"""Does a kernel's spectrum say which layers to train? Each set's statistics against its score."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from ntktune.errors import UserError
from ntktune.figures.choice import STATISTICS, scored_sets
from ntktune.figures.orders import order_figure


def sets_figure(
    sets: pd.DataFrame,
    tuned: pd.DataFrame,
    tasks: Sequence[str],
    colors: Sequence[str],
    titles: Mapping[str, str] | None = None,
) -> Figure:
    """Return the figure of six statistics (:func:`ntktune.figures.orders.order_figure`)."""
    scored = scored_sets(sets, tuned)
    if missing := [task for task in tasks if task not in set(scored["task"])]:
        raise UserError(f"no sets of layers of task {missing[0]!r} were trained; train them")
    shown = {name: about for name, about in STATISTICS.items() if name != "gcv"}  # tells none apart
    tables = {task: scored[scored["task"] == task] for task in tasks}
    return order_figure(tables, shown, "sets", colors, titles or {})
