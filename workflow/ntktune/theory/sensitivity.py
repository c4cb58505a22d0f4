"""How much the stopping time owes to the way in which noise and radius are estimated."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ntktune.spectrum.eigenvalues import eigenvalues
from ntktune.theory.complexity import critical_radius, stopping_time
from ntktune.theory.shift import CRITERIA, difference_noise, shift_estimate

FACTORS = (0.5, 1.0, 2.0)


def sensitivity_rows(
    gram: ArrayLike,
    shift: ArrayLike,
    *,
    step_size: float,
    precision: float = np.finfo(np.float64).eps,
    rated_sigma: float | None = None,
) -> list[dict[str, Any]]:
    """Return critical radius and stopping time for every estimate of σ and C_H.

    Noise: the residual of a ridge smoothing whose λ is chosen by generalised cross-validation
    (``gcv``) or by marginal likelihood (``likelihood``), ``difference`` between neighbours, and the
    raters' own (``ratings``, where ``rated_sigma`` is known). Radius: of either smoothing. Each
    pair is also taken at half and at twice its value, one at a time. ``gram`` is G, (N, N);
    ``shift`` y − f_0, (N,); ``step_size`` α; ``precision`` eps of the precision in which the kernel
    was computed.

    Dicts have ``sigma_source``, ``radius_source``, ``sigma_factor``, ``radius_factor``, ``sigma``,
    ``radius`` (factors included), ``critical_radius``, ``stopping_time`` and ``eta``, all NaN for a
    smoothing that found no noise (:attr:`ntktune.theory.shift.ShiftEstimate.identified`).
    """
    values = eigenvalues(gram)
    smoothed = {name: shift_estimate(gram, shift, precision, name) for name in CRITERIA}
    noises = {
        name: estimate.sigma if estimate.identified else math.nan
        for name, estimate in smoothed.items()
    }
    noises["difference"] = difference_noise(gram, shift)
    if rated_sigma is not None:
        noises["ratings"] = rated_sigma
    rows = []
    for sigma_source, noise in noises.items():
        for radius_source, estimate in smoothed.items():
            for sigma_factor, radius_factor in [
                *((factor, 1.0) for factor in FACTORS),
                *((1.0, factor) for factor in FACTORS if factor != 1.0),
            ]:
                condition = {
                    "sigma": sigma_factor * noise,
                    "radius": radius_factor * estimate.radius,
                }
                epsilon, steps = math.nan, math.nan
                if noise > 0:
                    epsilon = critical_radius(values, **condition)
                    steps = stopping_time(values, step_size=step_size, **condition)
                rows.append(
                    {
                        "sigma_source": sigma_source,
                        "radius_source": radius_source,
                        "sigma_factor": sigma_factor,
                        "radius_factor": radius_factor,
                    }
                    | condition
                    | {
                        "critical_radius": epsilon,
                        "stopping_time": float(steps),
                        "eta": step_size * steps,
                    }
                )
    return rows
