"""What is read from the fine-tuning metrics: errors, and their course over sample sizes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from ntktune.errors import UserError
from ntktune.intervals import half_width, shared_rows
from ntktune.study.scores import ERRORS

BASELINES = {"mse": "baseline_mse", "accuracy": "baseline_accuracy", "f1": "baseline_f1"}
METRIC_LABELS = {
    "pearson": "Pearson r",
    "spearman": "Spearman ρ",
    "mse": "MSE",
    "accuracy": "accuracy",
    "f1": "F1 score",
}
# Kind of task → what its error is, for an axis; in the order in which figures show the kinds.
ERROR_LABELS = {
    "regression": "test MSE\n(squared score units)",
    "classification": "test error rate\n(1 − accuracy)",
}


def with_error(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return the metrics with the columns ``error`` and ``baseline_error``.

    For a regression the test MSE (squared score units) of the model and of predicting the training
    mean; for a classification the error rate of the model and of predicting the training majority.
    """
    is_regression = metrics["kind"] == "regression"
    error = metrics["mse"].where(is_regression, 1 - metrics["accuracy"])
    constant = metrics["baseline_mse"].where(is_regression, 1 - metrics["baseline_accuracy"])
    return metrics.assign(error=error, baseline_error=constant)


def gains(metrics: pd.DataFrame) -> pd.Series:
    """Return each row's score, in its task's metric, above what needs no learning.

    That is predicting the training mean or majority: a correlation of 0, or the accuracy, F1
    score or error of the columns ``baseline_*``. A smaller error is a larger gain.
    """
    found = pd.Series(float("nan"), metrics.index)
    for metric, rows in metrics.groupby("metric"):
        constant = BASELINES.get(metric)
        above = rows[metric] - (rows[constant] if constant else 0.0)
        found[rows.index] = -above if metric in ERRORS else above
    return found


def of_task(metrics: pd.DataFrame, task: str) -> pd.DataFrame:
    """Return the rows of one task; raise UserError if there are none."""
    rows = metrics[metrics["task"] == task]
    if rows.empty:
        known = ", ".join(metrics["task"].unique())
        raise UserError(f"the metrics hold no task {task!r}, only: {known}")
    return rows


def along(rows: pd.DataFrame, column: str, by: str) -> pd.DataFrame:
    """Return :func:`curve` of one column over another one than n, as over penalties."""
    return curve(rows.assign(n=rows[by]), column)


def curve(
    metrics: pd.DataFrame, column: str, samples: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """Return mean, 95 % interval and number of seeds of one column at each size.

    Index ``n``, ascending; columns ``mean``, ``half`` (half the width of the t-interval over seeds;
    NaN with one seed) and ``count``. NaN does not count, and a size without a value is left out.
    ``metrics`` are rows of one task, one per size and seed; ``samples`` the task's, whose shared
    rows widen the interval. Raises UserError if no size has a value.
    """
    known = metrics[metrics[column].notna()].groupby("n")[column]
    values = known.agg(["mean", "count"])
    orders = np.array([seed["order"] for seed in samples["seeds"]] if samples else [[]])
    shared = [shared_rows(orders[:, :n]) if samples else 0.0 for n in known.groups]
    halves = [half_width(own, rho) for (_, own), rho in zip(known, shared, strict=True)]
    values["half"] = np.array(halves, dtype=float)
    if values.empty:
        task = metrics["task"].iloc[0]
        raise UserError(f"task {task!r} has no value of {column!r} at any size; fine-tune it again")
    return values


def kinds(metrics: pd.DataFrame, column: str = "kind") -> dict[str, str]:
    """Return task → its kind (or its metric, by ``column``), in the order of the rows."""
    return metrics.drop_duplicates("task").set_index("task")[column].to_dict()


def kendall_tau(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Kendall's τ-b of two lists of N numbers; NaN with fewer than two, or all equal."""
    return float(kendalltau(a, b).statistic) if len(a) > 1 else float("nan")


def nearest_size(sizes: pd.Series, n: int) -> int:
    """Return the size of the grid that is nearest to ``n``, the smaller of two."""
    return min(sorted(set(sizes)), key=lambda size: abs(size - n))


def nearest_runs(metrics: pd.DataFrame, task: str, n: int) -> pd.DataFrame:
    """Return the rows of one task (:func:`of_task`) at the size that is nearest to ``n``."""
    runs = of_task(metrics, task)
    return runs[runs["n"] == nearest_size(runs["n"], n)]


def learned(metrics: pd.DataFrame) -> bool:
    """Return whether some training of a task's largest size went beyond step 0."""
    return bool((metrics.loc[metrics["n"] == metrics["n"].max(), "best_step"] > 0).any())
