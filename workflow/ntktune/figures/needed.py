"""How many labelled examples a task needs: where its learning curve is nearly at its best."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ntktune.figures.rates import resampled_curves

SHARE = 0.95
GAINS = {
    "regression": "Pearson correlation",
    "classification": "accuracy above the majority's",
}


def gain_points(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return ``n``, ``seed`` and ``gain`` of one task: its score above what needs no learning.

    The Pearson correlation, which is 0 without learning, or the accuracy above that of
    predicting the training majority.
    """
    is_regression = metrics["kind"] == "regression"
    above = metrics["accuracy"] - metrics["baseline_accuracy"]
    return metrics.assign(gain=metrics["pearson"].where(is_regression, above))[
        ["n", "seed", "gain"]
    ]


def reached_sizes(sizes: np.ndarray, means: np.ndarray, share: float = SHARE) -> np.ndarray:
    """Return where curves first reach a share of their highest value, in labelled examples.

    Parameters
    ----------
    sizes
        n, ascending, shape (S,).
    means
        The curves, shape (R, S).
    share
        Of the highest value.

    Returns
    -------
    numpy.ndarray
        Shape (R,), interpolated linearly in log n; the smallest size where the curve starts
        that high; NaN where no value is above 0 or one is missing.
    """
    best = means.max(axis=1)
    wanted = share * best
    first = (means >= wanted[:, None]).argmax(axis=1)
    rows, before = np.arange(len(means)), np.maximum(first - 1, 0)
    low, high = means[rows, before], means[rows, first]
    with np.errstate(invalid="ignore", divide="ignore"):
        way = np.where(first > 0, (wanted - low) / (high - low), 0.0)
    logs = np.log(sizes)
    reached = np.exp(logs[before] + way * (logs[first] - logs[before]))
    return np.where(best > 0, reached, np.nan)


def needed_size(
    metrics: pd.DataFrame, resamples: int, random: np.random.Generator
) -> dict[str, Any]:
    """Return how many labelled examples reach 95 % of a task's best score.

    Parameters
    ----------
    metrics
        Rows of one task: ``kind``, ``n``, ``seed``, ``pearson``, ``accuracy``,
        ``baseline_accuracy``.
    resamples
        Bootstrap samples of the seeds.
    random
        Source of randomness.

    Returns
    -------
    dict
        ``needed``, see :func:`reached_sizes`, of the mean over seeds; ``needed_low``,
        ``needed_high``, the 95 % percentile interval of the bootstrap over seeds (NaN with
        one seed); ``best_gain``, the highest mean gain over the sizes tried, and
        ``best_size``, where it is: at the largest size, more examples may reach more.
    """
    points = gain_points(metrics)
    means = points.groupby("n")["gain"].mean()
    sizes = means.index.to_numpy()
    _, curves = resampled_curves(points, resamples, random)
    samples = reached_sizes(sizes, curves)
    known = np.isfinite(samples).any()
    low, high = np.nanquantile(samples, [0.025, 0.975]) if known else (np.nan, np.nan)
    return {
        "needed": float(reached_sizes(sizes, means.to_numpy()[None])[0]),
        "needed_low": low,
        "needed_high": high,
        "best_gain": means.max(),
        "best_size": means.idxmax() if means.notna().any() else np.nan,
    }
