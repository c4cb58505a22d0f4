"""How fast the Jacobian changes with the weights: what makes the linear picture fail."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from ntktune.network.tangent import Tangent, directional_derivative, length, weighted_gradient


def random_direction(model: nn.Module, radius: float, generator: np.random.Generator) -> Tangent:
    """Return a step of a given length ‖v‖ in a Gaussian direction, over all parameters."""
    step = {
        name: torch.as_tensor(generator.normal(size=p.shape)).to(p)
        for name, p in model.named_parameters()
    }
    scale = radius / length(step)
    return {name: part * scale for name, part in step.items()}


def jacobian_change(
    model: nn.Module,
    moved: nn.Module,
    examples: Sequence[torch.Tensor],
    batch_tokens: int = 512,
    tolerance: float = 1e-3,
    iterations: int = 50,
) -> float:
    """Return ‖J(θ) − J(θ_P)‖₂ on some examples, by power iteration.

    ``model`` stands at θ_P, ``moved`` at θ; over ‖θ − θ_P‖ it is the local Lipschitz constant of
    the Jacobian, L in ‖f − f_lin‖ ≤ L/2 ‖θ − θ_P‖² (Afzal et al. 2026). An iteration takes two
    forward-mode and two backward passes, and neither Jacobian is stored. It ends when the norm
    changes by less than ``tolerance`` of itself, or after so many ``iterations``.
    """
    where = (examples, batch_tokens)
    weights, norm = torch.ones(len(examples), dtype=torch.float64), 0.0
    for _ in range(iterations):
        weights = weights / weights.norm()
        before, after = (weighted_gradient(m, weights, *where) for m in (model, moved))
        change = {name: after[name] - before[name] for name in before}
        if not length(change):
            return 0.0
        slopes = [directional_derivative(m, change, *where)[1] for m in (moved, model)]
        weights = slopes[0] - slopes[1]
        former, norm = norm, float(weights.norm()) ** 0.5
        if abs(norm - former) <= tolerance * norm:
            break
    return norm
