"""The exponent of a learning curve: how fast a task's error falls with labelled examples.

The theory predicts a/(a+1) from the decay exponent a (SR26 eq 30). Here is what fine-tuned models
show: the exponent b of E + B n^−b, with an irreducible part E of the error.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ntktune.errors import UserError
from ntktune.figures.measures import with_error
from ntktune.figures.tables import check_same_tasks
from ntktune.intervals import LEVEL, half_width

EXCESS, PLAIN, RATE = "MSE − label noise", "MSE", "error rate"
# Three numbers are fitted: with fewer sizes the floor is not, and E is 0.
LEAST_SIZES = 4
EXPONENTS = np.linspace(0.005, 3.0, 600)
# column → range of ranks that the decay is fitted over instead of 1..n
SENSITIVITY = {
    "exponent_2_to_n": "2..n",
    "exponent_1_to_half": "1..n/2",
    "exponent_middle": "n/10..9n/10",
}
RANGES = ("1..n", *SENSITIVITY.values())


def curve_points(metrics: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the points of one task's learning curve, and facts about them.

    Points are ``n``, ``seed``, ``error``: the test MSE less the variance of the labels' noise where
    that is known, else the test MSE; for a classification the error rate. Sizes whose mean error is
    not above zero are left out. Facts are ``error_measure``; ``sizes_dropped``, how many sizes were
    left out; ``points_dropped``, the seeds at other sizes whose error has no logarithm. ``metrics``
    are the rows of one task.
    """
    metrics = with_error(metrics)
    measure = PLAIN if metrics["kind"].iloc[0] == "regression" else RATE
    if measure == PLAIN and metrics["noise_variance"].notna().all():
        measure = EXCESS
        metrics["error"] -= metrics["noise_variance"]
    means = metrics.groupby("n")["error"].mean()
    kept = means.index[means > 0]
    points = metrics.loc[metrics["n"].isin(kept), ["n", "seed", "error"]]
    facts = {"error_measure": measure, "sizes_dropped": len(means) - len(kept)}
    return points, facts | {"points_dropped": int((points["error"] <= 0).sum())}


def by_seed(points: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the sizes, ascending, (S,), and each seed's values, (seeds, S), NaN where missing.

    ``points`` has ``n``, ``seed`` and one further column, the value. Where two seeds have all
    sizes, those that were not trained on the largest are left out.
    """
    table = points.set_index(["seed", "n"]).iloc[:, 0].unstack()
    whole = table.dropna()
    table = whole if len(whole) > 1 else table
    return table.columns.to_numpy(), table.to_numpy()


def floor_fits(
    sizes: np.ndarray, means: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fit E + B n^−b with E, B ≥ 0 to curves, by least squares of errors relative to a scale.

    ``sizes`` are n, shape (S,); ``means`` the curves, (R, S); ``scale`` is what a size's deviation
    is measured in, (S,): the curve itself, usually. Returns the exponents b of :data:`EXPONENTS`,
    (R,), 0 for a curve that does not fall, and the floors E; both NaN for one with a missing value.
    """
    weights = np.asarray(scale, dtype=float) ** -2  # (S,)
    shapes = (sizes / sizes[0])[None, :] ** -EXPONENTS[:, None]  # (b, S)
    # normal equations of each exponent: of 1 and of n^-b, and of them with the curves
    ones, mixed = weights.sum(), shapes @ weights
    squares, level = (shapes**2) @ weights, (means @ weights)[:, None]  # level: (R, 1)
    fall = (means * weights) @ shapes.T  # (R, b)
    inverse = 1.0 / (ones * squares - mixed**2)
    floor = (squares * level - mixed * fall) * inverse
    size = (ones * fall - mixed * level) * inverse
    above, falling = floor >= 0, size >= 0
    size = np.where(above, size, np.maximum(fall / squares, 0.0))
    floor = np.where(above, floor, 0.0)
    size, floor = np.where(falling, size, 0.0), np.where(falling, floor, level / ones)
    # sum of squared residuals, but for what does not depend on the fit
    loss = floor**2 * ones + 2 * floor * size * mixed + size**2 * squares
    loss -= 2 * (floor * level + size * fall)
    known = np.isfinite(means).all(axis=1)
    best = np.where(known[:, None], loss, 0.0).argmin(axis=1)
    rows = np.arange(len(means))
    exponents = np.where(size[rows, best] > 0, EXPONENTS[best], 0.0)
    return np.where(known, exponents, np.nan), np.where(known, floor[rows, best], np.nan)


def _slope(points: pd.DataFrame) -> tuple[float, float]:
    """Return minus the least squares slope of log error on log n, and its standard error."""
    points = points[points["error"] > 0]
    x, y = (np.log(points[name].to_numpy(dtype=float)) for name in ("n", "error"))
    x, y = x - x.mean(), y - y.mean()
    slope = (x @ y) / (x @ x)
    left = len(x) - 2
    stderr = np.sqrt(((y - slope * x) ** 2).sum() / left / (x @ x)) if left > 0 else np.nan
    return -slope, stderr


def curve_exponents(
    sizes: np.ndarray, means: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return exponents and floors of curves of mean errors, (R,) each.

    Of E + B n^−b with :data:`LEAST_SIZES` sizes or more (:func:`floor_fits`); else minus the
    slope of log error on log n, and NaN for the floor. NaN where a curve lacks a size, or
    has a value that is not above zero and no floor.
    """
    if len(sizes) >= LEAST_SIZES:
        return floor_fits(sizes, means, scale)
    nothing = np.full(len(means), np.nan)
    if len(sizes) < 2:
        return nothing, nothing
    y = np.log(np.where(means > 0, means, np.nan))
    x = np.log(sizes) - np.log(sizes).mean()
    return -(y @ x) / (x @ x), nothing


def exponent_interval(
    sizes: np.ndarray,
    curves: np.ndarray,
    scale: np.ndarray,
    shared: float = 0.0,
    level: float = LEVEL,
) -> tuple[float, float]:
    """Return the interval of the exponent b of E + B n^−b, from few seeds' curves.

    If b is the exponent, the mean of any combination of errors that is orthogonal to 1 and n^−b
    is zero, whatever E and B are. Of these combinations one changes most with b. The interval
    holds each b for which the seeds' values of it have a t-interval that holds zero: so its
    coverage is that of :func:`ntktune.intervals.half_width`, with no bias from the fit.

    ``sizes`` are n, shape (S,); ``curves`` the errors, (seeds, S); ``scale`` is as for
    :func:`floor_fits`. Below :data:`LEAST_SIZES` sizes E is 0, as in the fit. An end at the end of
    the range that is tried may go on. Both are NaN with one seed, with a missing value, or where no
    b fits.
    """
    floor = len(sizes) >= LEAST_SIZES
    tried = EXPONENTS if floor else np.linspace(-EXPONENTS[-1], EXPONENTS[-1], 1201)
    logs = np.log(sizes / sizes[0])
    shapes = np.exp(-tried[:, None] * logs) / scale  # (b, S)
    known = np.stack([shapes, np.broadcast_to(1 / scale, shapes.shape)][: 1 + floor], axis=2)
    span, _ = np.linalg.qr(known)  # (b, S, 1 or 2)
    change = shapes * logs
    change = change - np.einsum("bsk,bk->bs", span, np.einsum("bsk,bs->bk", span, change))
    values = (curves / scale) @ change.T  # (seeds, b)
    mean, half = values.mean(axis=0), half_width(values, shared, level)
    # seeds that agree to the last digit leave an interval between two exponents that are tried
    crossed = np.append(np.diff(np.sign(mean)) != 0, False) & np.isfinite(half)
    inside = tried[crossed | (np.abs(mean) <= half)]
    return (float(inside[0]), float(inside[-1])) if len(inside) else (np.nan, np.nan)


def measured_exponent(
    metrics: pd.DataFrame, shared: float = 0.0, level: float = LEVEL
) -> dict[str, Any]:
    """Return the exponent of one task's learning curve, with its uncertainty.

    ``metrics`` are as for :func:`curve_points`, ``shared`` and ``level`` as for
    :func:`ntktune.intervals.half_width`. Keys are columns of table 1: ``measured_exponent`` and
    ``floor`` (:func:`curve_exponents` of the mean errors); ``measured_low``, ``measured_high``
    (:func:`exponent_interval` over seeds; infinite where it has no end among the exponents tried,
    NaN with one seed); ``slope_exponent`` and ``slope_stderr``,
    over all (n, seed); ``sizes``, ``seeds``, the facts of :func:`curve_points`, and ``reason``.
    """
    points, facts = curve_points(metrics)
    sizes, seeds = points["n"].nunique(), points["seed"].nunique()
    numbers = ("measured_exponent", "measured_low", "measured_high", "floor")
    found = dict.fromkeys((*numbers, "slope_exponent", "slope_stderr"), np.nan)
    found |= {"sizes": sizes, "seeds": seeds, "reason": ""}
    if sizes < 2:
        usable = f"{sizes} of {metrics['n'].nunique()} can be used"
        return facts | found | {"reason": f"a slope needs two sizes; {usable}"}
    found["slope_exponent"], found["slope_stderr"] = _slope(points)
    means = points.groupby("n")["error"].mean()
    fit = curve_exponents(means.index.to_numpy(), means.to_numpy()[None], means.to_numpy())
    found["measured_exponent"], found["floor"] = (float(values[0]) for values in fit)
    tried, curves = by_seed(points)
    ends = exponent_interval(tried, curves, means.to_numpy(), shared, level)
    # where E must not be negative, the fit may lie beyond what the seeds alone say
    found["measured_low"] = min(ends[0], found["measured_exponent"])
    found["measured_high"] = max(ends[1], found["measured_exponent"])
    lowest = EXPONENTS[0] if sizes >= LEAST_SIZES else -EXPONENTS[-1]
    if found["measured_low"] <= lowest:  # what lies beyond was not tried
        found["measured_low"] = -np.inf
    if found["measured_high"] >= EXPONENTS[-1]:
        found["measured_high"] = np.inf
    if found["measured_exponent"] >= EXPONENTS[-1]:
        found["reason"] = f"the exponent is at the largest that is tried, {EXPONENTS[-1]:g}"
    elif found["measured_exponent"] == 0:
        found["reason"] = "the error does not fall with n"
    elif seeds < 2:
        found["reason"] = "an interval needs two seeds"
    elif np.isnan(ends[0]):
        whole = int(np.isfinite(curves).all(axis=1).sum())
        found["reason"] = f"{whole} of {seeds} seeds have all {sizes} sizes; an interval needs two"
        if whole > 1:
            found["reason"] = "no exponent fits the seeds' curves"
    return facts | found


def check_fits(decay: pd.DataFrame, summary: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise UserError if a task's decay fits are missing, or not those of its summary."""
    check_same_tasks(summary=summary, decay=decay)
    for task, own in decay[decay["range"] == RANGES[0]].groupby("task"):
        stated = summary[task]["exponent"]["mean"]
        if not np.isclose(own["exponent"].mean(), stated, rtol=1e-6):
            raise UserError(
                f"the fits of task {task!r} do not belong to its summary: their mean exponent over "
                f"{RANGES[0]} is not {stated:.6g}; give files of one spectrum"
            )
