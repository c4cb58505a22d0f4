"""How far the network's kernel drifts while it trains, and when to stop it (SR26 eqs 17, 26)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ntktune.errors import UserError
from ntktune.spectrum.decay import LEAST_VALUES, decay_exponent, noise_level
from ntktune.spectrum.eigenvalues import checked_gram, eigenvalues
from ntktune.theory.simulation import tried_times


def kernel_drift(
    before: ArrayLike, now: ArrayLike, precision: float = np.finfo(np.float64).eps
) -> dict[str, float]:
    """Return how a kernel on the same texts has changed from K_0 (``before``) to K_t (``now``).

    ``drift`` is ‖K_t − K_0‖/‖K_0‖ in the operator norm, ``drift_frobenius`` in the Frobenius norm;
    ``alignment`` ⟨K_t, K_0⟩/(‖K_t‖‖K_0‖), 1 for a change of scale only; ``exponent`` and
    ``start_exponent`` are the decay exponents a of K_t and K_0, NaN where fewer than three
    eigenvalues are above the noise. ``precision`` is eps of the precision in which both, (N, N),
    were computed. Raises UserError if one is not symmetric, not finite or zero, or sizes differ.
    """
    before, now = checked_gram(before), checked_gram(now)
    change = now - before
    return {
        "drift": float(np.linalg.norm(change, 2) / np.linalg.norm(before, 2)),
        "drift_frobenius": float(np.linalg.norm(change) / np.linalg.norm(before)),
        "alignment": float(np.sum(now * before) / np.linalg.norm(now) / np.linalg.norm(before)),
        "exponent": _exponent(now, precision),
        "start_exponent": _exponent(before, precision),
    }


def _exponent(gram: np.ndarray, precision: float) -> float:
    values = eigenvalues(gram)
    noise = noise_level(values, precision)
    if (values > noise).sum() < LEAST_VALUES:
        return np.nan
    return decay_exponent(values, noise_floor=noise).exponent


@dataclass(frozen=True)
class OperatorTimes:
    """T̂_op in both forms, in steps; NaN beyond the last measurement of the drift g."""

    # max{t <= T̂_max : g(t) <= C·C_H²/η_t}, 0 where even the first step drifts by more
    crossing: float
    minimiser: float  # argmin over 1 <= t <= T̂_max of C·C_H²/η_t + g(t)


def operator_stopping_times(
    etas: Sequence[float],
    drift: Sequence[float],
    *,
    radius: float,
    step_size: float,
    latest: int,
    constant: float = 1.0,
) -> OperatorTimes:
    """Return T̂_op from a measured drift.

    g is the least non-decreasing function above the measured ``drift`` ‖K_t − K_0‖/‖K_0‖ (operator
    norm, SR26 eq 17) at the ascending ``etas``, linear between the measurements and 0 at η = 0.
    ``radius`` is C_H, ``step_size`` α with η_t = αt, ``latest`` T̂_max, ``constant`` C, which SR26
    does not state in numbers. Raises UserError if there is no measurement, if η does not ascend
    from above 0, for values that are negative or not finite, or if C_H, α or C is not above 0.
    """
    etas, drift = np.asarray(etas, dtype=float), np.asarray(drift, dtype=float)
    if len(etas) == 0 or len(etas) != len(drift):
        raise UserError(f"a drift needs as many values as times: {len(drift)} and {len(etas)}")
    if not (np.isfinite(etas).all() and np.isfinite(drift).all() and (drift >= 0).all()):
        raise UserError("the drift and its times must be finite, and the drift 0 or more")
    if not (etas[0] > 0 and (np.diff(etas) > 0).all()):
        raise UserError("the times of a drift must ascend, from above 0")
    for name, value in (("radius", radius), ("step_size", step_size), ("constant", constant)):
        if not (np.isfinite(value) and value > 0):
            raise UserError(f"{name} is {value}; T̂_op needs a finite one above 0")
    if latest < 1:
        return OperatorTimes(0, 0)
    known = np.append(0.0, etas), np.append(0.0, np.maximum.accumulate(drift))

    def drift_and_bound(times: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
        """Return g(t), which rises, and C·C_H²/η_t, which falls."""
        eta = step_size * np.asarray(times, dtype=float)
        return np.interp(eta, *known), constant * radius**2 / eta

    early, late = 0, latest + 1  # the drift is small enough at `early`, and not at `late`
    while late - early > 1:
        middle = (early + late) // 2
        moved, bound = drift_and_bound(middle)
        early, late = (middle, late) if moved <= bound else (early, middle)
    times = tried_times(latest)[1:]
    times = np.unique(np.append(times[times <= latest], latest))
    # between two measurements the sum is convex: around the best of the grid all are tried
    best = int(sum(drift_and_bound(times)).argmin())
    low, high = times[max(best - 1, 0)], times[min(best + 1, len(times) - 1)]
    near = np.unique(np.linspace(low, high, min(high - low + 1, 100_000)).astype(int))
    minimiser = near[sum(drift_and_bound(near)).argmin()]
    # g cannot fall beyond the last measurement, so a time before it stands
    seen = etas[-1] / step_size * (1 + 1e-12)
    return OperatorTimes(*(float(t) if t <= seen else np.nan for t in (early, minimiser)))
