"""LENSLLM's measured size: what is left of a network's error after some training time."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ntktune.errors import UserError
from ntktune.linearized.statistics import EPS
from ntktune.spectrum import noise_level

TIMES = np.concatenate([[0.0], np.logspace(0, 8, 161)])  # times λ_1 at which flow may stop


def remaining_error(
    kernel: ArrayLike,
    shift: ArrayLike,
    time: float,
    step_size: float = 1.0,
    precision: float = EPS,
) -> float:
    """Return F(Θ, t) = ‖exp(−η Θ t)(f_0 − y)‖² of gradient flow on the linearised network.

    ``kernel`` is Θ, the NTK, (N, N), not divided by N; ``shift`` f_0 − y, (N,), or (N, C) of C
    outputs with one kernel; ``time`` t from 0 on, also infinite; ``step_size`` η. LENSLLM (2025)
    has it in the place of D_l (:func:`ntktune.selection.laws.measured_start`). ``precision`` is eps
    of the kernel's; along eigenvalues below N·eps·λ_1 nothing is ever learned. Raises UserError for
    impossible times.
    """
    if not time >= 0 or not 0 < step_size < math.inf:
        raise UserError(f"time {time} must be 0 or above, and the step size {step_size} above 0")
    values, vectors = np.linalg.eigh(np.asarray(kernel, float))
    shift = np.asarray(shift, float)
    along = vectors.T @ shift.reshape(len(shift), -1)
    values = np.where(values > noise_level(values, precision), values, 0.0)
    with np.errstate(invalid="ignore"):  # 0 times an infinite time
        decay = np.where(values > 0, np.exp(-step_size * time * values), 1.0)
    return float(np.sum((decay[:, None] * along) ** 2))


def stopped_error(
    kernel: ArrayLike,
    shift: ArrayLike,
    train: Sequence[int],
    holdout: Sequence[int],
    precision: float = EPS,
) -> tuple[float, float]:
    """Return F(Θ, t) of the training rows, and t, where the error on the hold-out is lowest.

    ``kernel``, (N, N), and ``shift``, f_0 − y as for :func:`remaining_error`, are of both parts,
    whose places ``train`` and ``holdout`` are. The hold-out's residual after gradient flow on the
    training rows, r_h − K_ht (1 − e^(−K_tt t)) K_tt⁻¹ r_t, is compared at :data:`TIMES` from
    1/λ_1 up.
    """
    kernel, shift = np.asarray(kernel, float), np.asarray(shift, float)
    shift = shift.reshape(len(kernel), -1)
    inside, cross = kernel[np.ix_(train, train)], kernel[np.ix_(holdout, train)]
    values, vectors = np.linalg.eigh(inside)
    kept = values > noise_level(values, precision)
    values, vectors = values[kept], vectors[:, kept]
    along, turned = vectors.T @ shift[train], cross @ vectors
    times = TIMES / values[-1] if kept.any() else np.zeros(1)
    learnt = -np.expm1(-times[:, None] * values) / values  # (T, R)
    left = shift[holdout] - np.einsum("hr,tr,rc->thc", turned, learnt, along)
    best = float(times[np.argmin(np.sum(left**2, axis=(1, 2)))])
    return remaining_error(inside, shift[train], best, precision=precision), best
