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

    θ are all trained weights and θ_P their start. ``selective``: only in steps where
    ⟨∇L(θ_t), θ_t − θ_P⟩ ≥ 0, that is where the loss does not pull away from θ_P (their eq 8). It
    holds back no way out on which the loss falls, however large λ is.

    A step is proximal: the optimiser's own, then the weights that are best for the penalty and the
    optimiser's measure of how far they went from there. So it is stable for any λ, and stationary
    where the penalised loss is, which AdamW's decoupled decay is not. While L + (λ/2)‖θ − θ_P‖² has
    not risen above its start, ‖θ − θ_P‖ ≤ √(2 L(θ_P)/λ) (:func:`distance_bound`).
    """

    weight: float  # λ, in units of the mean loss over a squared weight
    selective: bool = True

    def __post_init__(self):
        if not 0 <= self.weight < math.inf:
            raise UserError(f"the penalty is {self.weight}, but must be 0 or above")

    def __call__(self, parameters: Sequence[nn.Parameter]) -> Stepping:
        """Return what takes a step, of weights that stand at θ_P now."""
        if not self.weight:
            return plain_step
        start = [parameter.detach().clone() for parameter in parameters]

        def step(stepper: torch.optim.Optimizer) -> None:
            applies = not self.selective or _pull(parameters, start) >= 0
            stepper.step()
            if applies:
                _draw_back(stepper, parameters, start, self.weight)

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
    groups = {id(p): group for group in stepper.param_groups for p in group["params"]}
    for parameter, before in zip(parameters, start, strict=True):
        group, state = groups[id(parameter)], stepper.state.get(parameter, {})
        if "exp_avg_sq" in state:
            corrected = 1 - group["betas"][1] ** state["step"].double()  # where the weights are
            inner = (state["exp_avg_sq"] / corrected).sqrt_().add_(group["eps"])
            share = inner / (inner + group["lr"] * weight)
        else:
            share = 1 / (1 + group["lr"] * weight)
        parameter.sub_(before).mul_(share).add_(before)
