"""How many labelled examples a task needs: where its learning curve is nearly at its best."""

from typing import Any

import numpy as np
import pandas as pd

from ntktune.figures.measures import BASELINES, gains
from ntktune.figures.rates import by_seed
from ntktune.intervals import LEVEL, half_width

SHARE = 0.95


def gain_points(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return ``n``, ``seed`` and ``gain`` of one task: see :func:`measures.gains`.

    What needs no learning is its mean over sizes and seeds: where classes are as frequent as each
    other, the majority of one sample is another's minority.
    """
    level = BASELINES.get(metrics["metric"].iloc[0])
    constant = {level: metrics[level].mean()} if level else {}
    points = metrics.assign(gain=gains(metrics.assign(**constant)))
    return points.loc[points["gain"].notna(), ["n", "seed", "gain"]]


def reached_sizes(sizes: np.ndarray, means: np.ndarray, share: float = SHARE) -> np.ndarray:
    """Return where curves first reach a share of their highest value, in labelled examples, (R,).

    ``sizes`` are n, ascending, (S,); ``means`` the curves, (R, S). Interpolated linearly in log n;
    the smallest size where the curve starts that high; NaN where no value is above 0 or one is
    missing.
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


def needed_interval(
    sizes: np.ndarray, curves: np.ndarray, shared: float = 0.0, level: float = LEVEL
) -> tuple[float, float]:
    """Return the interval of the size where a task reaches a share of its best score.

    Between two sizes a seed's score is a line in log n, as in :func:`reached_sizes`. The interval
    goes from the first n whose mean score may be the share of the best one, by the t-interval of
    their difference over seeds, to the first from which on it surely is more; that is infinite
    where no size tried is surely enough. NaN with one seed, or with a missing value.

    ``curves`` are scores, shape (seeds, S); for ``shared`` and ``level`` see
    :func:`ntktune.intervals.half_width`.
    """
    tried = np.linspace(np.log(sizes[0]), np.log(sizes[-1]), 1001)
    lines = np.stack([np.interp(tried, np.log(sizes), curve) for curve in curves])  # (seeds, n)
    above = lines - SHARE * curves[:, [curves.mean(axis=0).argmax()]]
    half = half_width(above, shared, level)
    if np.isnan(half).any():
        return np.nan, np.nan
    maybe, unsure = above.mean(axis=0) + half >= 0, above.mean(axis=0) - half < 0
    last = len(tried) - unsure[::-1].argmax() if unsure.any() else 0
    low = np.exp(tried[maybe.argmax()]) if maybe.any() else sizes[-1]
    return float(low), float(np.exp(tried[last])) if last < len(tried) else np.inf


def needed_size(metrics: pd.DataFrame, shared: float = 0.0, level: float = LEVEL) -> dict[str, Any]:
    """Return how many labelled examples reach 95 % of a task's best score.

    ``metrics`` are the rows of one task: ``metric``, ``n``, ``seed``, that metric and its baseline.
    Keys are columns of table 1: ``needed`` (:func:`reached_sizes` of the mean over seeds; NaN with
    one size); ``needed_low``, ``needed_high`` (:func:`needed_interval`); ``needed_undecided``,
    whether there is no interval, or one without an upper end or from the smallest size to beyond
    the last but one; ``best_gain``, ``best_size``, ``best_score``, ``best_score_sd``;
    ``needed_bound``: ``most``, ``least`` or "".
    """
    points = gain_points(metrics)
    numbers = ("needed", "needed_low", "needed_high", "best_gain", "best_score", "best_score_sd")
    unknown = dict.fromkeys((*numbers, "best_size"), np.nan)
    unknown |= {"needed_undecided": False, "needed_bound": ""}
    if points["n"].nunique() < 2:
        return unknown
    sizes, curves = by_seed(points)
    means = pd.DataFrame(curves, columns=sizes).mean()
    needed = float(reached_sizes(sizes, means.to_numpy()[None])[0])
    found = {"best_gain": means.max(), "best_size": int(means.idxmax()), "needed": needed}
    scores = metrics.loc[metrics["n"] == found["best_size"], metrics["metric"].iloc[0]]
    found |= {"best_score": scores.mean(), "best_score_sd": scores.std()}
    if np.isnan(needed):
        return unknown | found
    low, high = needed_interval(sizes, curves, shared, level)
    undecided = not np.isfinite(high) or (np.isclose(low, sizes[0]) and high > sizes[-2])
    found |= {"needed_low": low, "needed_high": high, "needed_undecided": bool(undecided)}
    least = "least" if found["best_size"] == sizes[-1] else ""
    return unknown | found | {"needed_bound": "most" if needed == sizes[0] else least}
