"""Table 5: four stopping rules in the kernel model, and ridge beside early stopping."""

import numpy as np
import pandas as pd

from ntktune.figures.tables import check_same_tasks


def rules_table(rules: pd.DataFrame, ridge: pd.DataFrame) -> pd.DataFrame:
    """Return Table 5: one row per task and sample size.

    Parameters
    ----------
    rules
        ``task``, ``kind``, ``seed``, ``n``, ``rule``, ``time``, ``eta``, ``test_error``,
        ``start_error``, ``sigma_source``.
    ridge
        ``task``, ``seed``, ``n``, ``eta``, ``distance_test``, ``error_descent``,
        ``error_ridge``.

    Returns
    -------
    DataFrame
        Means over ``seeds``: ``start_error``, the mean squared test error of f_0 on
        standardised labels; for each rule its ``_steps``, ``_eta``, ``_error`` and
        ``_error_sd`` over seeds (NaN of one);
        ``ridge_lowest``, the lowest test error along ridge with λ = 1/η, the oracle's
        counterpart; ``never_error``, that at the end of descent's path, as if nothing stopped
        it; and ``ridge_distance`` ‖f_t − f_ridge‖/‖f_t − f_0‖ on the test rows
        at descent's best t >= 1 (SR26 eq 27).
    """
    check_same_tasks(rules=rules, ridge=ridge)
    table = []
    for (task, n), own in rules.groupby(["task", "n"], sort=False):
        path = ridge[(ridge["task"] == task) & (ridge["n"] == n)]
        best = path.loc[path.groupby("seed")["error_descent"].idxmin()]
        last = path.loc[path.groupby("seed")["eta"].idxmax()]
        row = {
            "task": task,
            "kind": own["kind"].iloc[0],
            "n": n,
            "seeds": own["seed"].nunique(),
            "sigma_source": " or ".join(sorted(set(own["sigma_source"]))),
            "start_error": own["start_error"].mean(),
        }
        for rule, stops in own.groupby("rule", sort=False):
            row |= {
                f"{rule}_steps": stops["time"].mean(),
                f"{rule}_eta": stops["eta"].mean(),
                f"{rule}_error": stops["test_error"].mean(),
                f"{rule}_error_sd": stops["test_error"].std(),
            }
        row |= {
            # no step at all is the largest ridge
            "ridge_lowest": np.minimum(
                path.groupby("seed")["error_ridge"].min(),
                own.groupby("seed")["start_error"].first(),
            ).mean(),
            "never_error": last["error_descent"].mean(),
            "ridge_distance": best["distance_test"].mean(),
        }
        table.append(row)
    return pd.DataFrame(table)
