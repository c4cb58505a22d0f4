"""Four ways to stop, side by side on one task: by theory, hold-out, SURE, and with hindsight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ntktune.theory.complexity import stopping_time
from ntktune.theory.descent import KernelDescent, kernel_descent
from ntktune.theory.shift import shift_estimate
from ntktune.theory.simulation import sure, tried_times

LATEST = 1e7  # steps: by then a kernel of float32 precision has learnt what it can


def _errors(
    descent: KernelDescent,
    cross: np.ndarray,
    start: np.ndarray,
    label: np.ndarray,
    times: ArrayLike,
) -> np.ndarray:
    """Return mean squared errors on other rows at some times, (T,)."""
    found = start + descent.path_elsewhere(cross, times)  # (T, M)
    return ((found - label) ** 2).mean(axis=1)


def four_rules(
    gram: ArrayLike,
    start: ArrayLike,
    label: ArrayLike,
    train: Sequence[int],
    holdout: Sequence[int],
    test: Sequence[int],
    *,
    sigma: float | None = None,
    step_size_factor: float = 1.0,
    precision: float = np.finfo(np.float64).eps,
) -> list[dict[str, Any]]:
    """Return stopping time and test error of the four rules in the kernel model.

    *theory* (T̂_max, SR26 section 6.1), *sure* and *oracle* (the lowest test error) train on the
    training and hold-out rows together; *holdout* trains on the training rows and stops where
    the error on the hold-out rows is lowest.

    Parameters
    ----------
    gram
        K of M rows, shape (M, M), not divided by n.
    start, label
        f_0 (centred) and labels as the network meets them, shape (M,).
    train, holdout, test
        Places of the rows.
    sigma
        Noise of the labels in their units; None estimates it from the residual of a ridge
        smoothing (:func:`ntktune.theory.shift.shift_estimate`).
    step_size_factor
        Step size over min(1, 1/λ̂_1).
    precision
        eps of the precision in which the kernel was computed.

    Returns
    -------
    list
        One dict per rule: ``rule``, ``time`` in steps, ``eta`` = time · step size, and
        ``test_error``, the mean squared error on the test rows; for all rules ``n``, ``sigma``,
        ``sigma_source`` (``given`` or ``residual``) and ``start_error``, that of f_0.
    """
    gram, start, label = (np.asarray(a, dtype=np.float64) for a in (gram, start, label))
    train, holdout, test = (np.asarray(rows, dtype=int) for rows in (train, holdout, test))
    every = np.concatenate([train, holdout])
    whole = gram[np.ix_(every, every)]
    shift = label - start
    estimate = shift_estimate(whole, shift[every], precision)
    noise = estimate.sigma if sigma is None else sigma
    descent = _descent(whole, shift[every], step_size_factor)
    half = _descent(gram[np.ix_(train, train)], shift[train], step_size_factor)
    stop = stopping_time(
        descent.values, sigma=noise, step_size=descent.step_size, radius=estimate.radius
    )
    times = tried_times(LATEST)
    tested = _errors(descent, gram[np.ix_(test, every)], start[test], label[test], times)
    held = _errors(half, gram[np.ix_(holdout, train)], start[holdout], label[holdout], times)
    chosen = {
        "theory": (descent, every, stop),
        "holdout": (half, train, times[held.argmin()]),
        "sure": (descent, every, times[sure(descent, times, noise).argmin()]),
        "oracle": (descent, every, times[tested.argmin()]),
    }
    rows = []
    for rule, (model, rows_of, time) in chosen.items():
        cross = gram[np.ix_(test, rows_of)]
        error = _errors(model, cross, start[test], label[test], [time])[0]
        rows.append(
            {
                "rule": rule,
                "n": len(every),
                "time": int(time),
                "eta": float(time * model.step_size),
                "test_error": float(error),
                "start_error": float(np.mean(shift[test] ** 2)),
                "sigma": float(noise),
                "sigma_source": "residual" if sigma is None else "given",
            }
        )
    return rows


def _descent(gram: np.ndarray, shift: np.ndarray, factor: float) -> KernelDescent:
    """Return kernel descent with the step size that the theory allows, times a factor."""
    largest = float(np.linalg.eigvalsh(gram)[-1]) / len(gram)
    step = factor * (min(1.0, 1.0 / largest) if largest > 0 else 1.0)
    return kernel_descent(gram, shift, step if math.isfinite(step) else factor)
