"""The theory's stopping time for one kernel, and its sensitivity to the estimates behind it."""

import math
from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ntktune.spectrum.eigenvalues import eigenvalues
from ntktune.theory.complexity import critical_radius, stopping_time
from ntktune.theory.descent import theory_step_size
from ntktune.theory.shift import difference_noise, draw_shift, noise_estimate, shift_estimate

CRITERIA = ("gcv", "likelihood")  # by which the ridge of a smoothing is chosen
FACTORS = ((0.5, 1.0), (1.0, 1.0), (2.0, 1.0), (1.0, 0.5), (1.0, 2.0))  # of σ and of C_H


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

    Labels are standardised (:func:`ntktune.theory.shift.standardised_labels`), and f_0 is taken
    without its mean: fine-tuning from a random head starts there, the head's bias taking the mean
    out, which changes no kernel.

    ``gram`` is G, (N, N); ``outputs`` f_0, (N,); ``label`` and ``label_noise`` are raw labels and
    their standard errors (NaN where unknown), (N,); ``precision`` is the kernel's eps;
    ``step_size_factor`` is that of :func:`ntktune.theory.descent.theory_step_size`. Raises
    UserError if it, the kernel or the labels cannot be used.

    Keys: ``n``; ``sigma`` and ``sigma_source`` (:func:`ntktune.theory.shift.noise_estimate`);
    ``radius`` C_H and ``radius_source`` (how it was smoothed); ``step_size``; ``critical_radius``
    ε̂_n; ``stopping_time`` T̂_max; ``eta`` = step_size · T̂_max.
    """
    values = eigenvalues(gram)
    shift, rated = draw_shift(outputs, label, label_noise, kind)
    estimate = shift_estimate(gram, shift, precision)
    sigma, source = noise_estimate(gram, shift, estimate, rated)
    return {
        "n": len(values),
        "sigma": sigma,
        "sigma_source": source,
        "radius": estimate.radius,
        "radius_source": "ridge smoothing of y - centred f_0 (GCV)",
        **_stop(values, step_size_factor, sigma=sigma, radius=estimate.radius),
    }


def _stop(
    values: np.ndarray, step_size_factor: float = 1.0, **condition: float
) -> dict[str, float]:
    """Return step size, critical radius and stopping time, of eigenvalues, σ and C_H."""
    step_size = theory_step_size(float(values[0]), step_size_factor)
    steps = stopping_time(values, step_size=step_size, **condition)
    found = {"step_size": step_size, "critical_radius": critical_radius(values, **condition)}
    return found | {"stopping_time": steps, "eta": step_size * steps}


def labels_stop(
    gram: ArrayLike, label: ArrayLike, precision: float = np.finfo(np.float64).eps
) -> dict[str, float] | None:
    """Return step size, critical radius and stopping time of any number of columns of labels.

    All columns share the kernel, and so the time: their squared errors add up, so that σ² and C_H²
    are sums over columns, each without its mean and from a network that starts at 0. ``gram`` is G,
    (N, N); ``label`` (N, C); ``precision`` the kernel's eps. None where no noise is found, which
    leaves no reason to stop. Keys as of :func:`stopping_row`.
    """
    label = np.asarray(label, dtype=np.float64)
    found = []
    for shift in (label - label.mean(axis=0)).T:
        estimate = shift_estimate(gram, shift, precision)
        found.append((noise_estimate(gram, shift, estimate, None)[0], estimate.radius))
    sigma, radius = (math.hypot(*each) for each in zip(*found, strict=True))
    return _stop(eigenvalues(gram), sigma=sigma, radius=radius) if sigma else None


def sensitivity_rows(
    gram: ArrayLike,
    shift: ArrayLike,
    *,
    step_size: float,
    precision: float = np.finfo(np.float64).eps,
    rated_sigma: float | None = None,
) -> list[dict[str, Any]]:
    """Return critical radius and stopping time for every estimate of σ and C_H.

    Noise: the residual of a ridge smoothing by either of :data:`CRITERIA`, ``difference`` between
    neighbours, and the raters' own (``ratings``, where ``rated_sigma`` is known). Radius: of either
    smoothing. Each pair is also taken at half and at twice its value, one at a time. ``gram`` is G,
    (N, N); ``shift`` y − f_0, (N,); ``step_size`` α; ``precision`` the kernel's eps.

    Dicts have ``sigma_source``, ``radius_source``, ``sigma_factor``, ``radius_factor``, ``sigma``,
    ``radius`` (factors included), ``critical_radius``, ``stopping_time`` and ``eta``, all NaN for a
    smoothing that found no noise (:attr:`ntktune.theory.shift.ShiftEstimate.identified`).
    """
    values = eigenvalues(gram)
    smoothed = {name: shift_estimate(gram, shift, precision, name) for name in CRITERIA}
    noises = {name: s.sigma if s.identified else math.nan for name, s in smoothed.items()}
    noises["difference"] = difference_noise(gram, shift)
    if rated_sigma is not None:
        noises["ratings"] = rated_sigma
    rows = []
    pairs = product(noises, smoothed, FACTORS)
    for sigma_source, radius_source, (sigma_factor, radius_factor) in pairs:
        noise, radius = noises[sigma_source], smoothed[radius_source].radius
        condition = {"sigma": sigma_factor * noise, "radius": radius_factor * radius}
        epsilon, steps = math.nan, math.nan
        if noise > 0:
            epsilon = critical_radius(values, **condition)
            steps = stopping_time(values, step_size=step_size, **condition)
        row = {"sigma_source": sigma_source, "radius_source": radius_source}
        row |= {"sigma_factor": sigma_factor, "radius_factor": radius_factor, **condition}
        row |= {"critical_radius": epsilon, "stopping_time": float(steps)}
        rows.append(row | {"eta": step_size * steps})
    return rows


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
    With ``sensitivity`` the second list has the rows of :func:`sensitivity_rows`, else none.
    """
    rows, owed = [], []
    names, how = ("kernel", "outputs", "label", "label_noise"), {"precision": precision}
    for draw, (gram, *labelled) in enumerate(zip(*map(tensors.get, names), strict=True)):
        row = stopping_row(gram, *labelled, kind=kind, step_size_factor=step_size_factor, **how)
        rows.append({"draw": draw} | row)
        if sensitivity:
            shift, rated = draw_shift(*labelled, kind)
            known = {"step_size": row["step_size"], "rated_sigma": rated}
            found = sensitivity_rows(gram, shift, **known, **how)
            owed += [{"draw": draw} | each for each in found]
    return rows, owed
