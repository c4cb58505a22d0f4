"""The exponent of a learning curve: how fast a task's error falls with labelled examples.

The theory predicts an excess error of order n^(−a/(a+1)) from the decay exponent a of
the kernel's eigenvalues (SR26 eq 30). Here is the other side: the exponent that the
fine-tuned models show, of E + B n^−b, with an irreducible part E of the error.
"""

from typing import Any

import numpy as np
import pandas as pd

from ntktune.figures.measures import with_error

EXCESS, PLAIN, RATE = "MSE − label noise", "MSE", "error rate"
# Three numbers are fitted: with fewer sizes the floor is not, and E is 0.
LEAST_SIZES = 4
LEAST_FINITE = 0.95  # of the bootstrap samples, for an interval
EXPONENTS = np.linspace(0.005, 3.0, 600)


def curve_points(metrics: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the points of one task's learning curve.

    Parameters
    ----------
    metrics
        Rows of one task: ``kind``, ``n``, ``seed``, ``mse``, ``noise_variance``,
        ``accuracy`` and the baselines.

    Returns
    -------
    points
        ``n``, ``seed``, ``error``: the test MSE less the variance of the labels' noise
        where that is known, else the test MSE; for a classification the error rate.
        Sizes whose mean error is not above zero are left out.
    facts
        ``error_measure``; ``sizes_dropped``, how many sizes were left out;
        ``points_dropped``, the seeds at other sizes whose error has no logarithm.
    """
    metrics = with_error(metrics)
    measure = RATE
    if metrics["kind"].iloc[0] == "regression":
        known = metrics["noise_variance"].notna().all()
        measure = EXCESS if known else PLAIN
        if known:
            metrics["error"] -= metrics["noise_variance"]
    means = metrics.groupby("n")["error"].mean()
    kept = means.index[means > 0]
    points = metrics.loc[metrics["n"].isin(kept), ["n", "seed", "error"]]
    facts = {
        "error_measure": measure,
        "sizes_dropped": len(means) - len(kept),
        "points_dropped": int((points["error"] <= 0).sum()),
    }
    return points, facts


def resampled_curves(
    points: pd.DataFrame, resamples: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean curves of bootstrap samples of the seeds.

    All sizes of a seed are drawn together: its subsets are nested.

    Parameters
    ----------
    points
        ``n``, ``seed`` and one further column, the value.
    resamples, random
        Number of samples, and the source of randomness.

    Returns
    -------
    sizes : numpy.ndarray
        (S,), ascending.
    means : numpy.ndarray
        (resamples, S); NaN in samples without a value at some size, and everywhere if
        there are fewer than two seeds.
    """
    values = next(name for name in points.columns if name not in ("n", "seed"))
    table = points.pivot(index="seed", columns="n", values=values)  # (seeds, S)
    there = table.notna().to_numpy(dtype=float)
    count = len(table)
    if count < 2:
        return table.columns.to_numpy(), np.full((resamples, table.shape[1]), np.nan)
    times = random.multinomial(count, np.full(count, 1 / count), size=resamples)
    with np.errstate(invalid="ignore"):  # 0 / 0 where no seed of a sample has the size
        means = (times @ table.fillna(0.0).to_numpy()) / (times @ there)
    return table.columns.to_numpy(), means


def floor_fits(
    sizes: np.ndarray, means: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fit E + B n^−b with E, B ≥ 0 to curves, by least squares of errors relative to a scale.

    Parameters
    ----------
    sizes
        n, shape (S,).
    means
        The curves, shape (R, S).
    scale
        What a size's deviation is measured in, shape (S,); the curve itself, usually.

    Returns
    -------
    exponents : numpy.ndarray
        b, shape (R,), to 0.005 and at most 3; 0 for a curve that does not fall, NaN for
        one with a missing value.
    floors : numpy.ndarray
        E, shape (R,).
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
    x = np.log(points["n"].to_numpy(dtype=float))
    y = np.log(points["error"].to_numpy(dtype=float))
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


def resampled_exponents(
    points: pd.DataFrame, resamples: int, random: np.random.Generator
) -> np.ndarray:
    """Return the exponent in bootstrap samples of the seeds, (resamples,).

    See :func:`curve_exponents` and :func:`resampled_curves`.
    """
    sizes, means = resampled_curves(points, resamples, random)
    return curve_exponents(sizes, means, points.groupby("n")["error"].mean().to_numpy())[0]


def interval(samples: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile interval of bootstrap samples.

    NaN if more than a twentieth of them has no value: what is left says too little.
    """
    if np.mean(np.isfinite(samples)) < LEAST_FINITE:
        return np.nan, np.nan
    low, high = np.nanquantile(samples, [0.025, 0.975])
    return float(low), float(high)


def measured_exponent(
    metrics: pd.DataFrame, resamples: int, random: np.random.Generator
) -> dict[str, Any]:
    """Return the exponent of one task's learning curve, with its uncertainty.

    Parameters
    ----------
    metrics
        As for :func:`curve_points`.
    resamples
        Bootstrap samples of the seeds.
    random
        Source of randomness.

    Returns
    -------
    dict
        ``measured_exponent``, b of E + B n^−b fitted to the mean errors, and ``floor``, E
        above the labels' noise where that is known (see :func:`curve_exponents`).
        ``measured_low``, ``measured_high``, the :func:`interval` of the bootstrap over seeds
        (NaN with one seed). ``slope_exponent``, minus the ordinary least squares slope of log error
        on log n over all (n, seed), as if there were no floor, and ``slope_stderr``, its
        standard error. ``sizes``, ``seeds``, the facts of :func:`curve_points`, and
        ``reason``, why a number is missing ("" if none is).
    """
    points, facts = curve_points(metrics)
    sizes, seeds = points["n"].nunique(), points["seed"].nunique()
    found = {
        "measured_exponent": np.nan,
        "measured_low": np.nan,
        "measured_high": np.nan,
        "floor": np.nan,
        "slope_exponent": np.nan,
        "slope_stderr": np.nan,
        "sizes": sizes,
        "seeds": seeds,
        "reason": "",
    }
    if sizes < 2:
        found["reason"] = (
            f"a slope needs two sizes; {sizes} of {metrics['n'].nunique()} can be used"
        )
        return facts | found
    found["slope_exponent"], found["slope_stderr"] = _slope(points)
    means = points.groupby("n")["error"].mean()
    fit = curve_exponents(means.index.to_numpy(), means.to_numpy()[None], means.to_numpy())
    found["measured_exponent"], found["floor"] = (float(values[0]) for values in fit)
    samples = resampled_exponents(points, resamples, random)
    found["measured_low"], found["measured_high"] = interval(samples)
    if found["measured_exponent"] >= EXPONENTS[-1]:
        found["reason"] = f"the exponent is at the largest that is tried, {EXPONENTS[-1]:g}"
    elif found["measured_exponent"] == 0:
        found["reason"] = "the error does not fall with n"
    elif seeds < 2:
        found["reason"] = "an interval needs two seeds"
    elif np.isnan(found["measured_low"]):
        found["reason"] = "too many bootstrap samples of the seeds have no exponent"
    return facts | found
