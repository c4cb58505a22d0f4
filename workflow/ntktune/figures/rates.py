"""The exponent of a learning curve: how fast a task's error falls with labelled examples.

The theory predicts an excess error of order n^(−a/(a+1)) from the decay exponent a of
the kernel's eigenvalues (SR26 eq 30). Here is the other side: the exponent that the
fine-tuned models show.
"""

from typing import Any

import numpy as np
import pandas as pd

from ntktune.figures.measures import with_error

EXCESS, PLAIN, RATE = "MSE − label noise", "MSE", "error rate"


def curve_points(metrics: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the points of one task's learning curve that a logarithm can be taken of.

    Parameters
    ----------
    metrics
        Rows of one task: ``kind``, ``n``, ``seed``, ``mse``, ``noise_variance``,
        ``accuracy`` and the baselines.

    Returns
    -------
    points
        ``n``, ``seed``, ``error``: the test MSE less the variance of the labels' noise
        where that is known, else the test MSE; for a classification the error rate, whose
        irreducible part is unknown.
    facts
        ``error_measure``; ``sizes_dropped``, the sizes whose mean error is not above
        zero; ``points_dropped``, the seeds at other sizes whose error is not.
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
    positive = points["error"] > 0
    facts = {
        "error_measure": measure,
        "sizes_dropped": len(means) - len(kept),
        "points_dropped": int((~positive).sum()),
    }
    return points[positive], facts


def resampled_exponents(
    points: pd.DataFrame, resamples: int, random: np.random.Generator
) -> np.ndarray:
    """Return the exponent in bootstrap samples of the seeds, (resamples,).

    All sizes of a seed are drawn together: its subsets are nested. NaN where a sample
    holds one size only, and everywhere if there are fewer than two seeds.
    """
    seeds = points["seed"].unique()
    if len(seeds) < 2:
        return np.full(resamples, np.nan)
    x = np.log(points["n"].to_numpy(dtype=float))
    y = np.log(points["error"].to_numpy(dtype=float))
    x, y = x - x.mean(), y - y.mean()
    # a slope needs five sums only, and those of a sample are sums over its seeds
    sums = np.stack([np.ones_like(x), x, y, x * x, x * y], axis=1)  # (points, 5)
    by_seed = np.stack([sums[points["seed"] == seed].sum(axis=0) for seed in seeds])
    times = random.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), size=resamples)
    count, sx, sy, sxx, sxy = (times @ by_seed).T
    spread = count * sxx - sx**2
    # rounding leaves about 1e-16 where all n agree; two sizes differ by far more
    usable = spread > 1e-9 * count**2
    slopes = np.full(resamples, np.nan)
    slopes[usable] = (count * sxy - sx * sy)[usable] / spread[usable]
    return -slopes


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
        ``measured_exponent``, minus the ordinary least squares slope of log error on
        log n over all (n, seed); ``measured_stderr``, its standard error;
        ``measured_low``, ``measured_high``, the 95 % percentile interval of the bootstrap
        over seeds (NaN with one seed); ``sizes``, ``seeds``, the facts of
        :func:`curve_points`, and ``reason``, why a number is missing ("" if none is).
    """
    points, facts = curve_points(metrics)
    sizes, seeds = points["n"].nunique(), points["seed"].nunique()
    found = {
        "measured_exponent": np.nan,
        "measured_stderr": np.nan,
        "measured_low": np.nan,
        "measured_high": np.nan,
        "sizes": sizes,
        "seeds": seeds,
        "reason": "",
    }
    if sizes < 2:
        found["reason"] = (
            f"a slope needs two sizes; {sizes} of {metrics['n'].nunique()} can be used"
        )
        return facts | found
    x = np.log(points["n"].to_numpy(dtype=float))
    y = np.log(points["error"].to_numpy(dtype=float))
    x, y = x - x.mean(), y - y.mean()
    slope = (x @ y) / (x @ x)
    found["measured_exponent"] = -slope
    if len(x) > 2:
        found["measured_stderr"] = np.sqrt(((y - slope * x) ** 2).sum() / (len(x) - 2) / (x @ x))
    samples = resampled_exponents(points, resamples, random)
    if np.isfinite(samples).any():
        found["measured_low"], found["measured_high"] = np.nanquantile(samples, [0.025, 0.975])
    else:
        found["reason"] = "an interval needs two seeds"
    return facts | found
