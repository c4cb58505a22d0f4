"""How linear fine-tuning is, and how far its kernel moves, against the distance from the start."""

import itertools
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from ntktune.errors import UserError
from ntktune.figures.panels import draw_log_axis
from ntktune.figures.style import MARKERS, WIDTH, checked_color, laid_out, plain, styled

# method → what it is called, and whether its markers are filled
METHODS = {"adamw": ("AdamW", True), "gradient-descent": ("gradient descent", False)}
AGAINST = {"distance": "‖θ − θ_P‖ / ‖θ_P‖", "train_loss": "training loss"}
PANELS = {
    "linear_gap": "‖f − f_lin‖ / ‖f − f_P‖\non test rows",
    "drift": "‖K_t − K_0‖ / ‖K_0‖\n(operator norm)",
}


def linearisation_figure(
    trajectory: pd.DataFrame,
    tasks: Sequence[str],
    colors: Sequence[str],
    titles: Mapping[str, str] | None = None,
) -> Figure:
    """Return the figure of linearisation error and drift along fine-tuning (SR26 Lemma 1, eq 17).

    A row of panels for each of :data:`AGAINST`; a line per task and seed.
    """
    titles = titles or {}
    of_method = dict(zip(METHODS, map(checked_color, colors), strict=True))
    if missing := [task for task in tasks if task not in set(trajectory["task"])]:
        raise UserError(f"the fine-tuning of task {missing[0]!r} was not watched; watch it")
    is_moving = ~trajectory["best"].astype(bool) & (trajectory["distance"] > 0)
    moving = trajectory[is_moving].sort_values("step")
    with styled():
        figure = Figure(figsize=(WIDTH, 5.4))
        entries, panels = {}, figure.subplots(2, 2)
        quantities = itertools.product(AGAINST.items(), PANELS.items())
        for axes, ((x, below), (column, label)) in zip(panels.flat, quantities, strict=True):
            for task, marker in zip(tasks, itertools.cycle(MARKERS)):
                for method, (name, filled) in METHODS.items():
                    color, entry = of_method[method], f"{plain(titles.get(task, task))}, {name}"
                    look = {"color": color, "marker": marker, "linewidth": 1.0}
                    look["markerfacecolor"] = color if filled else "white"
                    own = moving[(moving["task"] == task) & (moving["method"] == method)]
                    for _, line in own.groupby("seed"):
                        (entries[entry],) = axes.plot(line[x], line[column], **look)
            axes.set(xscale="log", yscale="log", xlabel=below, ylabel=label)
            if x == "train_loss":  # training goes to the right
                draw_log_axis(axes.xaxis)
                axes.invert_xaxis()
        figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=2)
        return laid_out(figure)
