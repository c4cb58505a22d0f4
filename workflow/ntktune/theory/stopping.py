"""The theory's stopping time for one kernel, its labels and its starting point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ntktune.spectrum.eigenvalues import eigenvalues
from ntktune.theory.complexity import critical_radius, stopping_time
from ntktune.theory.descent import theory_step_size
from ntktune.theory.sensitivity import sensitivity_rows
from ntktune.theory.shift import noise_estimate, rated_noise, shift_estimate, standardised_labels


def stopping_row(
    gram: ArrayLike,
    outputs: ArrayLike,
    label: ArrayLike,
    label_noise: ArrayLike,
    *,
    kind: str,
    precision: float = np.finfo(np.float64).eps,
    step_size_factor: float = 1.0,
) -> dict[str, Any]:
    """Return noise, radius, critical radius and stopping time of one draw.

    The kernel and f_0 have the network's own scale. Labels are standardised (regression) or −1 and
    +1 (classification), and f_0 is taken without its mean: fine-tuning starts there, the head's
    bias taking the mean out, which changes no kernel.

    ``gram`` is G, (N, N); ``outputs`` f_0, (N,); ``label`` and ``label_noise`` are raw labels and
    their standard errors (NaN where unknown), (N,); ``precision`` is eps of the precision in which
    the kernel was computed; ``step_size_factor`` multiplies min(1, 1/λ̂_1), the largest step size
    that the theory allows. Raises UserError unless it is in (0, 1], or if the kernel or the labels
    cannot be used.

    Keys: ``n``; ``sigma`` and ``sigma_source`` (:func:`ntktune.theory.shift.noise_estimate`);
    ``radius`` C_H and ``radius_source`` (how it was smoothed); ``step_size``; ``critical_radius``
    ε̂_n; ``stopping_time`` T̂_max; ``eta`` = step_size · T̂_max.
    """
    values = eigenvalues(gram)
    labels, unit = standardised_labels(label, kind)
    start = np.asarray(outputs, dtype=np.float64)
    estimate = shift_estimate(gram, labels - (start - start.mean()), precision)
    rated = rated_noise(label_noise, kind, unit)
    sigma, source = noise_estimate(gram, labels - (start - start.mean()), estimate, rated)
    step_size = theory_step_size(float(values[0]), step_size_factor)
    condition = {"sigma": sigma, "radius": estimate.radius}
    steps = stopping_time(values, step_size=step_size, **condition)
    return {
        "n": len(values),
        "sigma": sigma,
        "sigma_source": source,
        "radius": estimate.radius,
        "radius_source": "ridge smoothing of y - centred f_0 (GCV)",
        "step_size": step_size,
        "critical_radius": critical_radius(values, **condition),
        "stopping_time": steps,
        "eta": step_size * steps,
    }


def stopping_rows(
    tensors: Mapping[str, np.ndarray],
    kind: str,
    *,
    precision: float = np.finfo(np.float64).eps,
    step_size_factor: float = 1.0,
    sensitivity: bool = True,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return :func:`stopping_row` of every draw, and its sensitivity to the way of estimating.

    ``tensors`` are ``kernel`` (draws, N, N), ``outputs``, ``label`` and ``label_noise`` (draws, N).
    With ``sensitivity`` the second list has the rows of
    :func:`ntktune.theory.sensitivity.sensitivity_rows`, else none.
    """
    rows, owed = [], []
    for draw in range(len(tensors["kernel"])):
        gram, outputs, label, noise = (
            tensors[name][draw] for name in ("kernel", "outputs", "label", "label_noise")
        )
        settings = {"kind": kind, "precision": precision, "step_size_factor": step_size_factor}
        row = stopping_row(gram, outputs, label, noise, **settings)
        rows.append({"draw": draw} | row)
        if sensitivity:
            labels, unit = standardised_labels(label, kind)
            found = sensitivity_rows(
                gram,
                labels - (outputs - outputs.mean()),
                step_size=row["step_size"],
                precision=precision,
                rated_sigma=rated_noise(noise, kind, unit),
            )
            owed += [{"draw": draw} | estimate for estimate in found]
    return rows, owed
