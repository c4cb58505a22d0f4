"""Negated task vectors: the two coefficients that are reported."""

import pandas as pd

from ntktune.study.merges import full_coefficient


def negated_fully(negated: pd.DataFrame) -> pd.DataFrame:
    """Return the test rows at λ = 1; of a target without it, at its largest λ.

    Parameters
    ----------
    negated
        ``target``, ``part``, ``coefficient`` and more.
    """
    test = negated[negated["part"] == "test"]
    full = test.groupby("target")["coefficient"].agg(full_coefficient)
    return test[test["coefficient"] == test["target"].map(full)]


def negated_as_chosen(negated: pd.DataFrame) -> pd.DataFrame:
    """Return the test rows at the coefficient that was chosen on validation data."""
    return negated[(negated["part"] == "test") & negated["chosen"].astype(bool)]
