"""Sets of layers: their kernels' statistics before training beside their scores after it."""

import numpy as np
import pandas as pd

from ntktune.errors import UserError
from ntktune.figures.measures import kendall_tau
from ntktune.study.scores import ERRORS

# statistic → its label, and whether more is better
STATISTICS = {
    "condition": ("condition number of the kernel", False),
    "largest": ("largest eigenvalue", False),
    "gcv": ("predicted error (GCV)", False),
    "gcv_layers": ("GCV without the head", False),
    "evidence": ("log evidence per text", True),
    "alignment": ("alignment with the labels", True),
    "parameters": ("trained weights", True),
}


def scores(tuned: pd.DataFrame) -> pd.Series:
    """Return each training's test score in its task's metric, an error with its sign turned."""
    found = pd.Series(np.nan, tuned.index)
    for metric, rows in tuned.groupby("metric"):
        found[rows.index] = -rows[metric] if metric in ERRORS else rows[metric]
    return found


def scored_sets(sets: pd.DataFrame, tuned: pd.DataFrame) -> pd.DataFrame:
    """Return ``sets`` with ``score``, the mean over seeds, ``score_sd`` and ``learning_rate``.

    Raises UserError if a set was trained whose kernel is not there.
    """
    keys = ["task", "layers"]
    of_sets = tuned.assign(score=scores(tuned)).groupby(keys, sort=False)
    found = of_sets.agg(
        score=("score", "mean"),
        score_sd=("score", "std"),
        seeds=("seed", "nunique"),
        learning_rate=("learning_rate", "first"),
        at_budget=("at_budget", "sum"),
        metric=("metric", "first"),
    )
    both = found.reset_index().merge(sets, on=keys, how="left", validate="one_to_one")
    if len(lacking := both[both["parameters"].isna()]):
        task, layers = lacking[keys].iloc[0]
        raise UserError(f"the kernel of task {task!r} and layers {layers!r} is not there; make it")
    return both


def order(own: pd.DataFrame, statistic: str, *, more: bool) -> float:
    """Return Kendall's τ of a statistic and the score over one task's rows; NaN with fewer than 3.

    It is signed so that 1 is a statistic that orders them rightly; ``more`` of it is to be better.
    """
    sign = 1 if more else -1
    return kendall_tau(sign * own[statistic], own["score"]) if len(own) > 2 else float("nan")


def set_order(own: pd.DataFrame, statistic: str) -> float:
    """Return :func:`order` of a statistic of sets of layers."""
    return order(own, statistic, more=STATISTICS[statistic][1])
