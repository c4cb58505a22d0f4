"""LENSLLM's measured size: what is left of a network's error after some training time."""

import math

import numpy as np
from numpy.typing import ArrayLike

from ntktune.errors import UserError


def remaining_error(
    kernel: ArrayLike, shift: ArrayLike, time: float, step_size: float = 1.0
) -> float:
    """Return F(Θ, t) = ‖exp(−η Θ t)(f_0 − y)‖² of gradient flow on the linearised network.

    ``kernel`` is Θ, the NTK, (N, N), not divided by N; ``shift`` f_0 − y, (N,), or (N, C) of C
    outputs with one kernel; ``time`` t from 0 on, also infinite; ``step_size`` η. LENSLLM (2025)
    has it in the place of D_l (:func:`ntktune.selection.laws.measured_start`).
    """
    if not time >= 0 or not 0 < step_size < math.inf:
        raise UserError(f"time {time} must be 0 or above, and the step size {step_size} above 0")
    values, vectors = np.linalg.eigh(np.asarray(kernel, float))
    shift = np.asarray(shift, float)
    along = vectors.T @ shift.reshape(len(shift), -1)
    # what the kernel cannot tell from 0 is never learned, also after an infinite time
    values = np.where(values > len(values) * np.finfo(float).eps * values[-1], values, 0.0)
    with np.errstate(invalid="ignore"):  # 0 times an infinite time
        decay = np.where(values > 0, np.exp(-step_size * time * values), 1.0)
    return float(np.sum((decay[:, None] * along) ** 2))
