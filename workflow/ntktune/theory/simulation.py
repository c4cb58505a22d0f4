"""The simulation of Raskutti, Wainwright & Yu (2014): four stopping rules where f* is known."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ntktune.theory.complexity import critical_radius, stopping_time
from ntktune.theory.descent import KernelDescent, kernel_descent

STEP_SIZE = 0.25
SIGMA = 1.0
# Decay exponents whose critical radii are followed, and the sample sizes of that.
DECAYS = (1.2, 1.5, 2.0, 3.0, 4.0)
RADIUS_SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
RULES = ("theory", "holdout", "sure", "oracle")
LATEST = 1e7  # steps: by then a kernel of float32 precision has learnt what it can
EVERY = 64  # steps that are all tried; later ones on a grid of 40 to a decade


def sobolev_problem(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel and target on x_i = i/n: K = min(x, x'), f* = |x − ½| − ½ (RWY14 section 4)."""
    x = np.arange(1, n + 1) / n
    return np.minimum.outer(x, x), np.abs(x - 0.5) - 0.5


def tried_times(latest: float) -> np.ndarray:
    """Return the steps among which data-driven rules choose: all up to 64, then 40 to a decade."""
    decades = max(np.log10(max(latest, EVERY) / EVERY), 0.0)
    grid = np.geomspace(EVERY, max(latest, EVERY), max(2, int(40 * decades)))
    return np.unique(np.concatenate([np.arange(EVERY + 1), np.rint(grid)])).astype(int)


def sure(descent: KernelDescent, times: np.ndarray, sigma: float) -> np.ndarray:
    """Return Stein's estimate of the error but for a constant, (T,) or (T, R).

    ‖y − f_t‖²/n + 2σ² tr(S_t)/n (FORMULAS 3: RWY14 eq 30 minimises it).
    """
    penalty = 2 * sigma**2 * descent.degrees_of_freedom(times) / len(descent.values)
    fit = descent.training_error(times)
    return fit + (penalty if fit.ndim == 1 else penalty[:, None])


def simulated_rows(n: int, repeats: int, random: np.random.Generator) -> list[dict[str, Any]]:
    """Return time and error of the four rules at one sample size, one row per rule.

    Noise N(0, 1), step size 0.25, f_0 = 0, n >= 4 points. *theory* stops at T̂_max with C_H = 1.
    *holdout* trains on every other point and stops where the error on the rest is lowest; its error
    is that of this half-trained function on all points. *sure* minimises Stein's estimate, *oracle*
    the error itself. Rows have ``n``, ``rule``, ``time`` and ``error`` ‖f_t − f*‖²/n, means over
    ``repeats`` of the noise, ``error_stderr``, and for all rules ``critical_radius``.
    """
    gram, target = sobolev_problem(n)
    labels = target[:, None] + SIGMA * random.standard_normal((n, repeats))
    descent = kernel_descent(gram, labels, STEP_SIZE)
    radius = critical_radius(descent.values, sigma=SIGMA)
    stop = stopping_time(descent.values, sigma=SIGMA, step_size=STEP_SIZE)
    times = tried_times(1e4 * max(stop, 1))
    errors = descent.true_error(target, times)  # (T, R)
    chosen = {
        "theory": np.full(repeats, np.searchsorted(times, stop)),
        "sure": sure(descent, times, SIGMA).argmin(axis=0),
        "oracle": errors.argmin(axis=0),
    }
    found = {rule: (times[at], errors[at, np.arange(repeats)]) for rule, at in chosen.items()}
    if times[chosen["theory"][0]] != stop:  # between two times of the grid
        found["theory"] = (np.full(repeats, stop), descent.true_error(target, [stop])[0])
    found["holdout"] = _held_out(gram, target, labels, times)
    return [
        {
            "n": n,
            "rule": rule,
            "time": float(found[rule][0].mean()),
            "error": float(found[rule][1].mean()),
            "error_stderr": float(found[rule][1].std(ddof=1) / np.sqrt(repeats)),
            "critical_radius": radius,
        }
        for rule in RULES
    ]


def _held_out(
    gram: np.ndarray, target: np.ndarray, labels: np.ndarray, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return time and error of the hold-out rule, (R,) each: odd points train, even ones stop."""
    odd, even = slice(0, None, 2), slice(1, None, 2)
    half = kernel_descent(gram[odd, odd], labels[odd], STEP_SIZE)
    cross = gram[:, odd]
    lowest = np.full(labels.shape[1], np.inf)
    time, error = np.zeros(labels.shape[1]), np.zeros(labels.shape[1])
    for t in times:
        values = half.change_elsewhere(cross, t)  # (n, R)
        held = ((values[even] - labels[even]) ** 2).mean(axis=0)
        better = held < lowest
        lowest[better], time[better] = held[better], t
        error[better] = ((values - target[:, None]) ** 2).mean(axis=0)[better]
    return time, error


def radius_rows(decays: Sequence[float], sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Return how the critical radius falls with n for eigenvalues k^−a, a > 1 (SR26 eq 30).

    One dict per a: ``decay``, ``predicted`` −a/(a+1), ``measured``, the slope of log ε̂² on log n
    (σ = C_H = 1), ``smallest_n`` and ``largest_n``.
    """
    rows = []
    for decay in decays:
        spectra = (np.arange(1, n + 1, dtype=float) ** -decay for n in sizes)
        squared = [critical_radius(values, sigma=SIGMA) ** 2 for values in spectra]
        slope = float(np.polyfit(np.log(sizes), np.log(squared), 1)[0])
        row = {"decay": decay, "predicted": -decay / (decay + 1), "measured": slope}
        rows.append(row | {"smallest_n": min(sizes), "largest_n": max(sizes)})
    return rows
