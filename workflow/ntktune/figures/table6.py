"""Table 6: the linear picture along real fine-tuning."""

import numpy as np
import pandas as pd

from ntktune.figures.tables import check_same_tasks

ALONG = (
    "eta",
    "distance",
    "linear_gap",
    "kernel_gap",
    "error",
    "drift",
    "drift_frobenius",
    "alignment",
    "exponent",
)
STOPS = (
    "step_size",
    "theory",
    "operator_crossing",
    "operator_minimiser",
    "kernel_holdout",
    "network_holdout",
    "network_steps",
)


def _share(gain: float, of: float) -> float:
    """Return a share of a gain; NaN where there was none."""
    return gain / of if of > 0 else np.nan


def linear_table(
    trace: pd.DataFrame, trace_ridge: pd.DataFrame, stops: pd.DataFrame
) -> pd.DataFrame:
    """Return Table 6: one row per watched task, means over its seeds.

    Parameters
    ----------
    trace
        Evaluations: ``task``, ``kind``, ``n``, ``seed``, ``method``, ``best``, ``distance``,
        ``eta``, ``linear_gap``, ``kernel_gap``, ``error``, ``error_linear``, ``start_error``,
        ``loss``, ``loss_linear``, ``start_loss``, ``drift``, ``drift_frobenius``,
        ``alignment``, ``exponent``, ``start_exponent``.
    trace_ridge
        Networks at ridge solutions: ``task``, ``seed``, ``holdout``, ``gap``,
        ``error_network``, ``error_ridge``.
    stops
        ``task``, ``seed``, ``step_size``, ``theory``, ``operator_crossing``,
        ``operator_minimiser``, ``kernel_holdout``, ``network_holdout``,
        ``network_steps``.

    Returns
    -------
    DataFrame
        ``task``, ``kind``, ``n``, ``seeds``. At the hold-out's choice, for ``adamw_`` and
        ``descent_`` (gradient descent): ``eta``, the sum of the step sizes; ``distance``
        ‖θ − θ_P‖/‖θ_P‖; ``linear_gap`` ‖f − f_lin‖/‖f − f_P‖ and ``kernel_gap``, the same to
        kernel descent after as many steps (not of AdamW); ``error``; ``drift`` and
        ``drift_frobenius`` ‖K_t − K_0‖/‖K_0‖, ``alignment``, and the decay ``exponent`` of
        K_t; NaN for a gap of a network that did not move. ``start_exponent``, that of K_0;
        ``start_error``; ``linear_error`` (f_lin at AdamW's weights), ``ridge_error`` (kernel
        ridge at the hold-out's λ), ``ridge_network_error`` and ``ridge_gap`` (the network at
        θ_P + Δ̂): squared errors of standardised scores, or error rates. ``gain``, the fall of
        AdamW's test loss (squared, or logistic) as a share of that at the start, and
        ``gain_recovered``, the share of the fall that its linearisation has too; NaN where
        the loss does not fall. In steps of gradient descent with ``step_size``:
        ``theory``, ``operator_crossing``, ``operator_minimiser`` (NaN where the drift is not known
        so far in some seed), ``kernel_holdout``, ``network_holdout``
        and ``network_steps``; ``network_turned``, whether its hold-out loss was lowest before
        the last step, in all seeds.
    """
    check_same_tasks(trace=trace, trace_ridge=trace_ridge, stops=stops)
    rows = []
    for task, own in trace.groupby("task", sort=False):
        best = own[own["best"].astype(bool)]
        adamw = best[best["method"] == "adamw"]
        solution = trace_ridge[(trace_ridge["task"] == task) & trace_ridge["holdout"].astype(bool)]
        stop = stops[stops["task"] == task]
        row = {
            "task": task,
            "kind": own["kind"].iloc[0],
            "n": own["n"].iloc[0],
            "seeds": own["seed"].nunique(),
        }
        for method, name in (("adamw", "adamw"), ("gradient-descent", "descent")):
            some = best[best["method"] == method]
            for column in ALONG:
                row[f"{name}_{column}"] = some[column].mean()
        start, tuned, linear = (
            adamw[column].mean() for column in ("start_loss", "loss", "loss_linear")
        )
        row |= {
            "start_exponent": adamw["start_exponent"].mean(),
            "start_error": adamw["start_error"].mean(),
            "linear_error": adamw["error_linear"].mean(),
            "gain": _share(start - tuned, start),
            "gain_recovered": _share(start - linear, start - tuned),
            "ridge_error": solution["error_ridge"].mean(),
            "ridge_network_error": solution["error_network"].mean(),
            "ridge_gap": solution["gap"].mean(),
        }
        for column in STOPS:
            row[column] = stop[column].mean(skipna=False)
        row["network_turned"] = bool((stop["network_holdout"] < stop["network_steps"]).all())
        rows.append(row)
    return pd.DataFrame(rows)
