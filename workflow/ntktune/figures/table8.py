"""Table 8: cosines between task vectors, by kind of pair and group of layers."""

import pandas as pd

from ntktune.figures.cosines import cosine_summary

DECIMALS = 4


def cosine_table(cosine: pd.DataFrame) -> pd.DataFrame:
    """Return Table 8: one row per kind of pair, two tasks and group of layers.

    Parameters
    ----------
    cosine
        One row per two fine-tunings and group: ``pair``, ``task_a``, ``task_b``, ``group``,
        ``cosine``.

    Returns
    -------
    DataFrame
        ``pair`` (``"tasks"``: two different tasks; ``"seeds"``: one task, two
        trainings; ``"subsets"``: one task and head, two samples), ``task_a``, ``task_b``,
        ``group``; ``mean``, ``sd`` (NaN of one), ``least``, ``most`` and ``count`` over all
        two runs, ``shared`` (of their samples, for one task), with four decimals.
    """
    return cosine_summary(cosine).round(DECIMALS)
