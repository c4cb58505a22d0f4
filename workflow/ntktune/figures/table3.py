"""Table 3: merged models against single-task models."""

import numpy as np
import pandas as pd

from ntktune.figures.merges import parts

DECIMALS = 4


def merging_table(cosine: pd.DataFrame, merged: pd.DataFrame) -> pd.DataFrame:
    """Return Table 3: one row per merge and task tested, in the order of the input.

    Parameters
    ----------
    cosine
        ``task_a``, ``task_b``, ``cosine`` between task vectors.
    merged
        ``merged`` (``"a + b"``), ``task``, ``kind``, ``metric``, ``coefficient``,
        ``pretrained``, ``single``, ``merged_score``, ``normalised``.

    Returns
    -------
    DataFrame
        The merged models' table with a column ``cosine``, that of a pair's two task
        vectors (NaN for merges of more tasks); scores with four decimals.
    """
    known = cosine.set_index(["task_a", "task_b"])["cosine"]
    pairs = [tuple(parts(name)) for name in merged["merged"]]
    values = [known.get(pair, np.nan) if len(pair) == 2 else np.nan for pair in pairs]
    table = merged.copy()
    table.insert(list(table.columns).index("merged") + 1, "cosine", values)
    return table.round(DECIMALS)
