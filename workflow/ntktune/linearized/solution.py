"""Training of a network that is linearised at its pretrained weights, exact.

f_lin(x; θ) = f(x; θ_P) + J(x)(θ − θ_P) is trained to R(θ) + (λ/2)‖θ − θ_P‖², with R the sum over N
examples of half the squared error, or of the logistic loss (Afzal et al. 2026). Its trained weights
are θ − θ_P = Jᵀα, so that f_lin(x) = f_0(x) + K(x, X) α: N numbers per output are all there is to
find. K is the kernel, not divided by N; λ has its units.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit
from torch import nn

from ntktune.errors import UserError
from ntktune.network.tangent import Tangent, directional_derivative, weighted_gradient
from ntktune.spectrum.filters import descent_filter
from ntktune.theory.descent import KernelDescent

NEWTON_STEPS = 100  # at most; ten are usual


def squared_weights(descent: KernelDescent, ridge: float, steps: float | None = None) -> np.ndarray:
    """Return α of the squared error: (K + λI)⁻¹(y − f_0), or after so many steps of descent.

    ``descent`` has the kernel, the labels and the step size, α; ``ridge`` is λ, above 0, or 0 with
    ``steps``. A step on R/N contracts what is left of eigenvector i by 1 − α(λ_i + λ)/N. Returns
    (N,), or (N, C) of outputs that share the kernel. Raises UserError if the step size is above
    N/(λ_1 + λ).
    """
    n = len(descent.values)
    values = descent.values + ridge / n
    if steps is None:
        factors = 1 / values
    elif descent.step_size * values[-1] > 1 + 1e-12:
        raise UserError(
            f"step_size is {descent.step_size:g}; with the ridge {ridge:g} it must be at most "
            f"{1 / values[-1]:g}, or descent does not converge"
        )
    else:
        factors = descent_filter(values, [steps], descent.step_size)[0]
    return descent.vectors @ (factors * descent.rotated.T).T / n


def distance(kernel: ArrayLike, weights: ArrayLike) -> float:
    """Return ‖θ − θ_P‖ = √(αᵀKα) of weights, (N,), or (N, C) over all outputs."""
    weights = np.asarray(weights, float)
    return float(np.sqrt(max(np.sum(weights * (np.asarray(kernel, float) @ weights)), 0.0)))


def logistic_weights(
    kernel: ArrayLike, start: ArrayLike, target: ArrayLike, ridge: float, tolerance: float = 1e-12
) -> np.ndarray:
    """Return α of two classes' logistic loss Σ log(1 + exp(−y f)) + (λ/2) αᵀKα, (N,).

    ``start`` is f_0, (N,); ``target`` y, −1 or +1; ``ridge`` λ > 0. Newton's method on f
    (Rasmussen & Williams 2006, algorithm 3.1), with steps halved while the objective would rise,
    until it falls by less than ``tolerance`` of itself. At the end λα = y / (1 + exp(y f)).
    """
    kernel, start, target = (np.asarray(part, float) for part in (kernel, start, target))
    weights, prior = np.zeros(len(start)), kernel / ridge

    def objective(weights: np.ndarray) -> float:
        change = kernel @ weights
        losses = np.logaddexp(0.0, -target * (start + change))
        return float(losses.sum() + ridge / 2 * weights @ change)

    lowest = objective(weights)
    for _ in range(NEWTON_STEPS):
        change = kernel @ weights
        outputs = start + change
        slope = target * expit(-target * outputs)
        curvature = np.sqrt(expit(outputs) * expit(-outputs))  # of its square root
        inner = np.eye(len(start)) + curvature[:, None] * prior * curvature
        wanted = curvature**2 * change + slope
        solved = cho_solve(cho_factor(inner), curvature * (prior @ wanted))
        step = (wanted - curvature * solved) / ridge - weights
        share = 1.0
        while (found := objective(weights + share * step)) > lowest and share > 1e-10:
            share /= 2
        if found > lowest:
            break
        weights = weights + share * step
        fallen, lowest = lowest - found, found
        if fallen <= tolerance * abs(lowest):
            break
    return weights


def descended(
    model: nn.Module,
    examples: Sequence[torch.Tensor],
    slope: Callable[[torch.Tensor], torch.Tensor],
    steps: int,
    step_size: float,
    ridge: float = 0.0,
    batch_tokens: int = 512,
) -> Tangent:
    """Return θ − θ_P after gradient descent on the linearised network, without a kernel.

    For networks whose kernel is not at hand: a step takes one pass of J(θ − θ_P) and one of Jᵀ.
    ``slope`` is the gradient of R by the outputs, (N,) float64 of (N,): f − y for half the squared
    error, whose path is that of :func:`squared_weights`. A step takes ``step_size``/N of it and of
    λ(θ − θ_P), ``ridge`` λ. The model's parameters are float64 or float32; so is what is returned.
    """
    moved = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    share = step_size / len(examples)
    for _ in range(steps):
        value, change = directional_derivative(model, moved, examples, batch_tokens)
        gradient = weighted_gradient(model, slope(value + change), examples, batch_tokens)
        for name, part in moved.items():
            part.mul_(1 - share * ridge).sub_(gradient[name], alpha=share)
    return moved
