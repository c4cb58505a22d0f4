"""Early stopping is a ridge penalty: gradient descent at t beside ridge with λ = 1/η_t."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ntktune.spectrum.filters import ridge_filter
from ntktune.theory.descent import kernel_descent
from ntktune.theory.simulation import LATEST, tried_times


def equivalence_rows(
    gram: ArrayLike,
    start: ArrayLike,
    label: ArrayLike,
    train: Sequence[int],
    test: Sequence[int],
    *,
    step_size_factor: float = 1.0,
) -> list[dict[str, Any]]:
    """Return how far ridge regression is from gradient descent along its path (SR26 eqs 27-28).

    At t steps, η_t = αt, descent has learnt 1 − (1 − αλ̂)^t of an eigenvector and ridge with λ =
    1/η_t has learnt λ̂/(λ̂ + 1/η_t). The parameters are as for
    :func:`ntktune.theory.rules.four_rules`.

    One dict per time: ``time``, ``eta``; ``distance_train`` and ``distance_test``, ‖f_t −
    f_ridge‖/‖f_t − f_0‖ on the training and the test rows; ``error_descent`` and ``error_ridge``,
    the mean squared errors on the test rows.
    """
    gram, start, label = (np.asarray(a, dtype=np.float64) for a in (gram, start, label))
    train, test = (np.asarray(rows, dtype=int) for rows in (train, test))
    inside = gram[np.ix_(train, train)]
    shift = (label - start)[train]
    descent = kernel_descent(inside, shift, step_size_factor=step_size_factor)
    times = tried_times(LATEST)[1:]
    filters = ridge_filter(descent.values, 1 / (descent.step_size * times))
    parts = {"train": inside, "test": gram[np.ix_(test, train)]}
    paths = {
        part: (descent.path_elsewhere(cross, times), descent.filtered(cross, filters))  # (T, M)
        for part, cross in parts.items()
    }
    left = (label - start)[test]
    found = {"time": times, "eta": descent.step_size * times}
    for part, (stopped, penalised) in paths.items():
        length = np.linalg.norm(stopped, axis=1)
        apart = np.linalg.norm(stopped - penalised, axis=1)
        found[f"distance_{part}"] = np.divide(apart, length, where=length > 0, out=apart * 0)
    for name, path in zip(("descent", "ridge"), paths["test"], strict=True):
        found[f"error_{name}"] = ((path - left) ** 2).mean(axis=1)
    return [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]
