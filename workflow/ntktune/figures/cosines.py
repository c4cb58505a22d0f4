"""Cosines between task vectors, over runs: of different tasks, and of one task with itself.

The second kind says what the first means: a task trained twice, with another sample, head and
order of the batches, need not give the same vector either; how much of that is the head's
doing, two samples under one head say.
"""

import pandas as pd

ALL = "all"  # the group of every layer
DIFFERENT = "tasks"
# kind of pair of one task with itself → what the two fine-tunings are
NULLS = {"seeds": "one task, two trainings", "subsets": "one task and head, two samples"}


def cosine_summary(cosine: pd.DataFrame) -> pd.DataFrame:
    """Return the cosines of every two tasks and group of layers over all pairs of runs.

    Parameters
    ----------
    cosine
        One row per two fine-tunings and group of layers: ``pair`` (``"tasks"``,
        ``"subsets"`` or ``"seeds"``), ``task_a``, ``task_b``, ``group``, ``cosine`` (NaN
        where a vector is zero), ``shared`` (NaN of two tasks).

    Returns
    -------
    DataFrame
        ``pair``, ``task_a``, ``task_b``, ``group``, ``mean``, ``sd`` (NaN of one),
        ``least``, ``most``, ``count`` (of the cosines that exist), ``shared`` (mean share of
        the sample that two trainings of one task have in common), in the order of the input.
    """
    keys = ["pair", "task_a", "task_b", "group"]
    known = cosine.astype({"cosine": float}).groupby(keys, sort=False)
    return known.agg(
        mean=("cosine", "mean"),
        sd=("cosine", "std"),
        least=("cosine", "min"),
        most=("cosine", "max"),
        count=("cosine", "count"),
        shared=("shared", "mean"),
    ).reset_index()


def whole_cosines(cosine: pd.DataFrame, pair: str) -> pd.DataFrame:
    """Return the rows of :func:`cosine_summary` of one kind of pair, over all layers."""
    return cosine_summary(cosine[(cosine["pair"] == pair) & (cosine["group"] == ALL)])
