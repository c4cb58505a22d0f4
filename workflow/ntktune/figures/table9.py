"""Table 9: negated task vectors."""

import pandas as pd

from ntktune.figures.negations import negated_as_chosen, negated_fully
from ntktune.merges import FIXED, VALIDATED

DECIMALS = 4
MEASURES = (
    "coefficient",
    "score",
    "pretrained",
    "kept",
    "gap",
    "predicted_gap",
    "linear_score",
)


def negation_table(negated: pd.DataFrame) -> pd.DataFrame:
    """Return Table 9: per target two rows for each task tested, on test rows.

    Parameters
    ----------
    negated
        One row per target, seed, tested task, part and coefficient: ``target``, ``seed``,
        ``task``, ``kind``, ``metric``, ``part``, ``coefficient``, ``score``,
        ``pretrained``, ``kept``, ``gap``, ``predicted_gap``, ``linear_score``, ``chosen``.

    Returns
    -------
    DataFrame
        ``target``, ``task``, ``kind``, ``metric``, ``choice`` (``"fixed"``: λ = 1, or the
        largest; ``"validation"``: the λ chosen on validation data), ``seeds`` (how many),
        and of each other column its mean and ``_sd`` over seeds (NaN of one), with four
        decimals.
    """
    rows = []
    for target in negated["target"].unique():
        of_target = negated[negated["target"] == target]
        for choice, chosen in (
            (FIXED, negated_fully(of_target)),
            (VALIDATED, negated_as_chosen(of_target)),
        ):
            for task, own in chosen.groupby("task", sort=False):
                row = {
                    "target": target,
                    "task": task,
                    "kind": own["kind"].iloc[0],
                    "metric": own["metric"].iloc[0],
                    "choice": choice,
                    "seeds": own["seed"].nunique(),
                }
                for name in MEASURES:
                    row |= {name: own[name].mean(), f"{name}_sd": own[name].std()}
                rows.append(row)
    return pd.DataFrame(rows).round(DECIMALS)
