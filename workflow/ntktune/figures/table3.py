"""Table 3: merged models against single-task models."""

import numpy as np
import pandas as pd

from ntktune.errors import UserError
from ntktune.figures.cosines import DIFFERENT, whole_cosines
from ntktune.merges import parts

DECIMALS = 4
SCORES = (
    "coefficient",
    "pretrained",
    "single",
    "merged_score",
    "normalised",
    "normalised_clean",
)
OVERLAPS = ("sample_exact", "sample_normalised", "pool_exact", "pool_normalised")


def _shared(overlap: pd.DataFrame, task: str, others: list[str]) -> pd.Series:
    """Return the test rows of a task that other tasks have, summed over them, mean over seeds."""
    own = overlap[(overlap["task"] == task) & overlap["other"].isin(others)]
    missing = [other for other in others if other not in set(own["other"])]
    if missing:
        raise UserError(
            f"the overlaps hold no test rows of {task!r} in {missing[0]!r}; count those of all "
            "merged tasks"
        )
    return own.groupby("seed")[list(OVERLAPS)].sum().mean()


def merging_table(
    cosine: pd.DataFrame, merged: pd.DataFrame, overlap: pd.DataFrame
) -> pd.DataFrame:
    """Return Table 3: one row per merge, task tested and choice of the coefficient.

    Parameters
    ----------
    cosine
        ``pair``, ``task_a``, ``task_b``, ``group``, ``cosine`` between task vectors.
    merged
        One row per merge, seed, task and choice: ``merged`` (``"a + b"``), ``seed``,
        ``task``, ``kind``, ``metric``, ``choice``, ``coefficient``, ``pretrained``,
        ``single``, ``merged_score``, ``normalised``, ``normalised_clean``, ``rows``,
        ``leaked``.
    overlap
        ``task``, ``other``, ``seed``, ``sample_exact``, ``sample_normalised``,
        ``pool_exact``, ``pool_normalised``.

    Returns
    -------
    DataFrame
        ``merged``, ``cosine`` (mean of a pair's task vectors; NaN for merges of more),
        ``task``, ``kind``, ``metric``, ``choice``, ``seeds`` (how many); means and ``_sd``
        over seeds (NaN of one) of coefficient and scores; means of ``rows``, ``leaked``,
        ``validation_rows`` and of the overlaps with the other members, summed over them. Four
        decimals.

    Raises
    ------
    UserError
        The overlap of two merged tasks is not there.
    """
    known = {
        frozenset((row.task_a, row.task_b)): row.mean
        for row in whole_cosines(cosine, DIFFERENT).itertuples()
    }
    rows = []
    keys = ["merged", "task", "choice"]
    for (name, task, choice), own in merged.groupby(keys, sort=False):
        row = {
            "merged": name,
            "cosine": known.get(frozenset(parts(name)), np.nan),
            "task": task,
            "kind": own["kind"].iloc[0],
            "metric": own["metric"].iloc[0],
            "choice": choice,
            "seeds": own["seed"].nunique(),
        }
        for score in SCORES:
            row |= {score: own[score].mean(), f"{score}_sd": own[score].std()}
        row |= {name: own[name].mean() for name in ("rows", "leaked", "validation_rows")}
        others = [part for part in parts(name) if part != task]
        rows.append(row | _shared(overlap, task, others).to_dict())
    return pd.DataFrame(rows).round(DECIMALS)
