"""Fine-tuning held near its start: how linear it stays, and what that costs, along the penalty."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from ntktune.errors import UserError
from ntktune.figures.measures import along
from ntktune.figures.panels import draw_curve, finished, panel_rows, seeds_label
from ntktune.figures.style import DASHED, DOTTED, checked_color, styled, wrapped

KINDS = {False: "the penalty in every step", True: "only where the loss pulls back"}
PLAIN, SOLUTION = "plain fine-tuning", "the linearised network, exact"
PRETRAINED = "the pretrained network"


def penalty_figure(
    held: pd.DataFrame,
    tasks: Sequence[str],
    colors: Sequence[str],
    titles: Mapping[str, str] | None = None,
) -> Figure:
    """Return the figure of two panels per task: linearisation error and test error by penalty.

    At the hold-out's choice; a training that chose its start has no linearisation error. Colours
    are of the penalty in every step, of the selective one, and of the linearised network.
    """
    titles, best = titles or {}, held[held["best"].astype(bool)]
    every, selective, linear = map(checked_color, colors)
    if missing := [task for task in tasks if task not in set(best["task"])]:
        raise UserError(f"the fine-tuning of task {missing[0]!r} was not held; hold it")
    counts = best.groupby(["task", "share", "selective"])["seed"].nunique()
    with styled():
        figure, panels = panel_rows(tasks, 2)
        entries = {}
        for task, (above, below) in panels.items():
            own = best[best["task"] == task]
            plain, penalised = own[own["share"] == 0], own[own["share"] > 0]
            for is_selective, color in ((False, every), (True, selective)):
                rows = penalised[penalised["selective"].astype(bool) == is_selective]
                what = seeds_label(KINDS[is_selective], counts.tolist())
                for axes, column in ((above, "linear_gap"), (below, "error")):
                    if rows[column].notna().any():
                        entries[what] = draw_curve(axes, along(rows, column, "share"), color)
            once = penalised[~penalised["selective"].astype(bool)]
            entries[SOLUTION] = draw_curve(below, along(once, "error_solution", "share"), linear)
            entries[PLAIN] = above.axhline(plain["linear_gap"].mean(), **DASHED)
            below.axhline(plain["error"].mean(), **DASHED)
            entries[PRETRAINED] = below.axhline(plain["start_error"].mean(), **DOTTED)
            above.set(xscale="log", yscale="log")
            below.set(xscale="log", xlabel="penalty λ / λ_max(K)")
            above.set_title(wrapped(titles.get(task, task), 80 // above.get_gridspec().ncols))
            if above.get_subplotspec().is_first_col():
                above.set_ylabel("‖f − f_lin‖ / ‖f − f_P‖")
                below.set_ylabel("test error")
        return finished(figure, entries)
