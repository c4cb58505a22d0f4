"""Cosines between task vectors, over runs: of different tasks, and of one task with itself.

The second kind is the yardstick for the first. Two samples under one head tell how much is due to
the head.
"""

import pandas as pd

ALL = "all"  # the group of every layer
DIFFERENT = "tasks"
# kind of pair of one task with itself → what the two fine-tunings are
NULLS = {"seeds": "one task, two trainings", "subsets": "one task and head, two samples"}


def cosine_summary(cosine: pd.DataFrame) -> pd.DataFrame:
    """Return the cosines of every two tasks and group of layers over all pairs of runs.

    ``cosine`` has one row per two fine-tunings and group of layers: ``pair`` (:data:`DIFFERENT`, or
    a key of :data:`NULLS`), ``task_a``, ``task_b``, ``group``, ``cosine`` (NaN where a vector is
    zero), ``shared``, the share of the sample that two trainings of one task have in common.
    Beside the keys, in the order of the input, the summary has ``mean``, ``sd`` (NaN of one),
    ``least``, ``most``, ``count`` (of the cosines that exist) and the mean ``shared``.
    """
    keys = ["pair", "task_a", "task_b", "group"]
    known = cosine.astype({"cosine": float}).groupby(keys, sort=False)
    measures = {"mean": "mean", "sd": "std", "least": "min", "most": "max", "count": "count"}
    of_cosine = {name: ("cosine", measure) for name, measure in measures.items()}
    return known.agg(**of_cosine, shared=("shared", "mean")).reset_index()


def whole_cosines(cosine: pd.DataFrame, pair: str) -> pd.DataFrame:
    """Return the rows of :func:`cosine_summary` of one kind of pair, over all layers."""
    return cosine_summary(cosine[(cosine["pair"] == pair) & (cosine["group"] == ALL)])
