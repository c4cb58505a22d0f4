"""Fine-tuning held near the pretrained weights (Afzal et al. 2026)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ntktune.errors import UserError
from ntktune.finetune.training import Stepping, plain_step


@dataclass(frozen=True)
class Penalty:
    """(λ/2)‖θ − θ_P‖² beside the mean loss L, for :func:`ntktune.finetune.training.fine_tune`.

    θ are all trained weights and θ_P their start; of the layers of ``adapters``, A, B and s of each
    (:meth:`ntktune.finetune.methods.Adapter.factors`), the merged weights W + s B A and W, which
    they start as. ``selective``: only in steps where
    ⟨∇L(θ_t), θ_t − θ_P⟩ ≥ 0, that is where the loss does not pull away from θ_P (their eq 8). It
    holds back no way out on which the loss falls, however large λ is.

    A step is proximal: the optimiser's own, then the weights that are best for the penalty and the
    optimiser's measure of how far they went from there. So it is stable for any λ, and stationary
    where the penalised loss is, which AdamW's decoupled decay is not. Of adapters B is moved so,
    and then A. While L + (λ/2)‖θ − θ_P‖² has
    not risen above its start, ‖θ − θ_P‖ ≤ √(2 L(θ_P)/λ) (:func:`distance_bound`).
    """

    weight: float  # λ, in units of the mean loss over a squared weight
    selective: bool = True
    adapters: Sequence[tuple[nn.Parameter, nn.Parameter, float]] = ()

    def __post_init__(self):
        if not 0 <= self.weight < math.inf:
            raise UserError(f"the penalty is {self.weight}, but must be 0 or above")

    def __call__(self, parameters: Sequence[nn.Parameter]) -> Stepping:
        """Return what takes a step, of weights that stand at θ_P now."""
        if not self.weight:
            return plain_step
        adapted = {id(factor) for *pair, _ in self.adapters for factor in pair}
        own = [parameter for parameter in parameters if id(parameter) not in adapted]
        start = [parameter.detach().clone() for parameter in own]
        # ⟨∇_W L, s B A⟩ = ⟨∇_B L, B⟩
        away = [*own, *(b for _, b, _ in self.adapters)]
        before = [*start, *(torch.zeros_like(b) for _, b, _ in self.adapters)]

        def step(stepper: torch.optim.Optimizer) -> None:
            applies = not self.selective or _pull(away, before) >= 0
            stepper.step()
            if applies:
                _draw_back(stepper, own, start, self.weight)
                for a, b, scale in self.adapters:
                    _draw_back_adapter(stepper, a, b, self.weight * scale**2)

        return step


def distance_bound(loss: float, weight: float) -> float:
    """Return √(2 L(θ_P)/λ), the bound on ‖θ − θ_P‖; infinite without a penalty."""
    return math.sqrt(2 * loss / weight) if weight else math.inf


def _pull(parameters: Sequence[nn.Parameter], start: Sequence[torch.Tensor]) -> float:
    """Return ⟨∇L, θ − θ_P⟩; a GPU is waited for."""
    parts = [
        (parameter.grad * (parameter.detach() - before)).sum(dtype=torch.float64)
        for parameter, before in zip(parameters, start, strict=True)
        if parameter.grad is not None
    ]
    return float(torch.stack(parts).sum()) if parts else 0.0


@torch.no_grad()
def _draw_back(
    stepper: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    start: Sequence[torch.Tensor],
    weight: float,
) -> None:
    """Move weights to the minimum of λ/2 ‖θ − θ_P‖² + ‖θ − θ'‖²/(2η), in the optimiser's norm.

    That norm is the plain one for gradient descent, and diag(√v̂ + ε) for AdamW.
    """
    for parameter, before in zip(parameters, start, strict=True):
        inner, rate = _measure(stepper, parameter)
        parameter.sub_(before).mul_(inner / (inner + rate * weight)).add_(before)


def _measure(stepper: torch.optim.Optimizer, parameter: nn.Parameter) -> tuple[torch.Tensor, float]:
    """Return the diagonal of an optimiser's norm, and its learning rate η."""
    (group,) = (g for g in stepper.param_groups if any(p is parameter for p in g["params"]))
    state = stepper.state.get(parameter, {})
    if "exp_avg_sq" not in state:
        return torch.ones_like(parameter), group["lr"]
    corrected = 1 - group["betas"][1] ** state["step"].double()  # where the weights are
    return (state["exp_avg_sq"] / corrected).sqrt_().add_(group["eps"]), group["lr"]


@torch.no_grad()
def _draw_back_adapter(
    stepper: torch.optim.Optimizer, a: nn.Parameter, b: nn.Parameter, weight: float
) -> None:
    """Move B, and then A, to the minimum of λ/2 ‖B A‖² + ‖B − B'‖²/(2η), in the optimiser's norm.

    Each row of B, or column of A, is a system of r equations; float64, for A Aᵀ may be singular.
    """
    for factor, other in ((b, a.T), (a.T, b)):
        inner, rate = _measure(stepper, b if factor is b else a)
        inner = (inner if factor is b else inner.T).double()
        both = other.double().T @ other.double()
        left = torch.diag_embed(inner) + rate * weight * both
        factor.copy_(torch.linalg.solve(left, inner * factor))
