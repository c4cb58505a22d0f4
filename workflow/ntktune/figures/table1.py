"""Table 1: the decay exponents, the rates they predict, and the rates that are measured."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ntktune.errors import check_names
from ntktune.figures.measures import kinds
from ntktune.figures.needed import needed_size
from ntktune.figures.rates import SENSITIVITY, measured_exponent
from ntktune.intervals import shared_rows


def decay_table(
    summaries: Sequence[Mapping[str, Any]],
    metrics: pd.DataFrame,
    orders: Mapping[str, np.ndarray],
) -> pd.DataFrame:
    """Return Table 1: one row per task.

    Parameters
    ----------
    summaries
        The spectrum's summaries, one per task.
    metrics
        Fine-tuning metrics, one row per task, size and seed.
    orders
        Task → the order in which each seed takes training rows, (seeds, rows): a sample of n
        is the first n.

    Returns
    -------
    DataFrame
        ``task``, ``kind``, ``metric``; of the kernel ``n``, ``draws``, ``shared_draws`` (mean
        share of rows that two draws have in common, which widens intervals), ``exponent`` a with
        ``_sd`` over draws and 95 % interval ``_low``, ``_high``, ``omega`` = a/2, ``r_squared``,
        the exponents over other ranges (SR26 eqs 29-32); ``predicted_rate`` a/(a+1) with interval
        (eq 30), no interval for one draw; and of the learning curve ``shared_seeds``, the share
        that two seeds' largest samples have in common, and what
        :func:`ntktune.figures.rates.measured_exponent` and
        :func:`ntktune.figures.needed.needed_size` return.
    """
    kind, metric = kinds(metrics), kinds(metrics, "metric")
    rows = []
    for summary in summaries:
        task = summary["task"]
        exponent, rate = summary["exponent"], summary["predicted_rate"]
        row = {
            "task": task,
            "kind": kind.get(task, ""),
            "metric": metric.get(task, ""),
            "n": summary["n"],
            "draws": summary["draws"],
            "shared_draws": summary["shared"],
            "exponent": exponent["mean"],
            "exponent_sd": exponent["sd"],
            "exponent_low": exponent["low"],
            "exponent_high": exponent["high"],
            "omega": exponent["mean"] / 2,
            "r_squared": summary["r_squared"]["mean"],
        }
        for column, ranks in SENSITIVITY.items():
            row[column] = summary["sensitivity"].get(ranks, {}).get("mean", np.nan)
        row |= {
            "predicted_rate": rate["mean"],
            "predicted_low": rate["low"],
            "predicted_high": rate["high"],
        }
        if task in kind:
            mine = metrics[metrics["task"] == task]
            shared = shared_rows(orders[task][:, : mine["n"].max()])
            row |= {"shared_seeds": shared} | measured_exponent(mine, shared)
            row |= needed_size(mine, shared)
        else:
            row["reason"] = "the task was not fine-tuned"
        rows.append(row)
    return pd.DataFrame(rows)


def study_table(
    summary: Mapping[str, Mapping[str, Any]],
    metrics: pd.DataFrame,
    subsets: Mapping[str, Mapping[str, Any]],
) -> pd.DataFrame:
    """Return Table 1 from a study's files.

    Parameters
    ----------
    summary
        Task → its spectrum's summary.
    metrics
        See :func:`decay_table`.
    subsets
        Task → its samples: ``seeds``, each with its ``order`` of training rows.

    Raises
    ------
    UserError
        A task that was fine-tuned has no samples.
    """
    check_names("--subsets", subsets, metrics["task"].unique(), "tasks")
    orders = {t: np.array([seed["order"] for seed in own["seeds"]]) for t, own in subsets.items()}
    return decay_table([{"task": t} | own for t, own in summary.items()], metrics, orders)
