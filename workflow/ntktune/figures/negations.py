"""Negated task vectors: the two coefficients that are reported."""

import numpy as np
import pandas as pd


def negated_fully(negated: pd.DataFrame) -> pd.DataFrame:
    """Return the test rows at λ = 1; of a target without it, at its largest λ.

    Parameters
    ----------
    negated
        ``target``, ``part``, ``coefficient`` and more.
    """
    test = negated[negated["part"] == "test"]
    wanted = []
    for _, own in test.groupby("target", sort=False):
        is_one = np.isclose(own["coefficient"].astype(float), 1.0)
        largest = own["coefficient"] == own["coefficient"].max()
        wanted.append(own[is_one if is_one.any() else largest])
    return pd.concat(wanted) if wanted else test


def negated_as_chosen(negated: pd.DataFrame) -> pd.DataFrame:
    """Return the test rows at the coefficient that was chosen on validation data."""
    return negated[(negated["part"] == "test") & negated["chosen"].astype(bool)]
