"""Fine-tuning held near the pretrained weights (Afzal et al. 2026)."""

import math
from collections.abc import Callable, Sequence
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
    and then A, stationary up to the order of the learning rate. While L + (λ/2)‖θ − θ_P‖² has
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
        # the factor that starts at 0 alone has a gradient in the first step: of the other, AdamW
        # knows no measure yet, and it would fall to 0
        zero = {id(f) for *pair, _ in self.adapters for f in pair if not f.detach().any()}

        def step(stepper: torch.optim.Optimizer) -> None:
            nonlocal zero
            applies = not self.selective or _pull(away, before) >= 0
            stepper.step()
            if applies:
                norm = _norm(stepper)
                _draw_back(norm, own, start, self.weight)
                for a, b, scale in self.adapters:
                    how = (norm, self.weight * scale**2)
                    if not zero or id(b) in zero:
                        _draw_back_factor(b, a.T, *how, columns=False)
                    if not zero or id(a) in zero:
                        _draw_back_factor(a, b, *how, columns=True)
            zero = set()

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


def _norm(
    stepper: torch.optim.Optimizer,
) -> Callable[[nn.Parameter], tuple[torch.Tensor | float, float]]:
    """Return what gives the diagonal of an optimiser's norm, and its learning rate η, by weight.

    The norm is the plain one for gradient descent, and diag(√v̂ + ε) for AdamW.
    """
    groups = {id(p): group for group in stepper.param_groups for p in group["params"]}

    def of(parameter: nn.Parameter) -> tuple[torch.Tensor | float, float]:
        group, state = groups[id(parameter)], stepper.state.get(parameter, {})
        if "exp_avg_sq" not in state:
            return 1.0, group["lr"]
        corrected = 1 - group["betas"][1] ** state["step"].double()  # where the weights are
        return (state["exp_avg_sq"] / corrected).sqrt_().add_(group["eps"]), group["lr"]

    return of


@torch.no_grad()
def _draw_back(
    norm: Callable[[nn.Parameter], tuple[torch.Tensor | float, float]],
    parameters: Sequence[nn.Parameter],
    start: Sequence[torch.Tensor],
    weight: float,
) -> None:
    """Move weights to the minimum of λ/2 ‖θ − θ_P‖² + ‖θ − θ'‖²/(2η), in the optimiser's norm."""
    for parameter, before in zip(parameters, start, strict=True):
        inner, rate = norm(parameter)
        parameter.sub_(before).mul_(inner / (inner + rate * weight)).add_(before)


@torch.no_grad()
def _draw_back_factor(
    factor: nn.Parameter,
    other: torch.Tensor,
    norm: Callable[[nn.Parameter], tuple[torch.Tensor | float, float]],
    weight: float,
    *,
    columns: bool,
) -> None:
    """Move B to the minimum of λ/2 ‖B A‖² + ‖B − B'‖²/(2η) with A fixed, or A with B fixed.

    ``factor`` is B, with ``other`` Aᵀ, (d_in, r); or A, whose ``columns`` are moved, with ``other``
    B, (d_out, r). Each is a system of r equations; float64, for A Aᵀ may be singular.
    """
    inner, rate = norm(factor)
    inner = (inner * torch.ones_like(factor)).double()
    rows, inner = (factor.T, inner.T) if columns else (factor, inner)
    both = other.double().T @ other.double()
    left = torch.diag_embed(inner) + rate * weight * both
    rows.copy_(torch.linalg.solve_ex(left, inner * rows)[0])  # without waiting for a GPU
