"""The network linearised at its weights: J v, Jᵀ w, and f_lin (SR26 Lemma 1, eqs 14 and 28)."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from ntktune.network.matmul import FastLinear
from ntktune.network.models import TextModel, pad, token_batches

# Passes with a gradient or a tangent keep all activations of their tokens: at most so many.
MOST_TOKENS = 2_048


class LogitDifference(nn.Module):
    """f = l1 − l0 of a model with two outputs, the scalar whose kernel is computed."""

    def __init__(self, model: TextModel):
        super().__init__()
        self.model = model

    @property
    def backbone(self) -> nn.Module:
        """The model's backbone."""
        return self.model.backbone

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return f, shape (N,), of token ids of shape (N, T)."""
        logits = self.model(input_ids, attention_mask)
        return logits[:, 1] - logits[:, 0]


Tangent = Mapping[str, torch.Tensor]


def difference(model: nn.Module, start: nn.Module) -> dict[str, torch.Tensor]:
    """Return θ − θ_P of two models of the same architecture, by parameter name."""
    before = dict(start.named_parameters())
    return {name: (p - before[name]).detach() for name, p in model.named_parameters()}


def length(tangent: Tangent) -> float:
    """Return ‖v‖ over all parameters."""
    return math.sqrt(sum(float(v.detach().double().square().sum()) for v in tangent.values()))


def _batches(
    model: nn.Module, examples: Sequence[torch.Tensor], batch_tokens: int
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Yield places, padded ids and mask of examples of similar length, where the model is."""
    device = next(model.parameters()).device
    for rows in token_batches([len(e) for e in examples], min(batch_tokens, MOST_TOKENS)):
        ids, mask = pad([examples[i] for i in rows])
        yield rows, ids.to(device), mask.to(device)


def directional_derivative(
    model: nn.Module, tangent: Tangent, examples: Sequence[torch.Tensor], batch_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return f(x; θ) and J v = ⟨∇_θ f(x; θ), v⟩, each (N, ...), float64, on the processor.

    Forward-mode differentiation: one pass of two to three times the cost of f, no gradient stored.
    The model is in evaluation mode; called with ids and mask it returns (B,) or (B, ...).
    ``tangent`` is v by parameter name; a parameter that is missing does not move. ``examples`` are
    N 1-D tensors of token ids; a pass has at most ``batch_tokens`` and :data:`MOST_TOKENS` tokens.
    """
    parts: list[tuple[torch.Tensor, torch.Tensor]] = []
    places: list[int] = []
    # the fused attention kernels have no forward-mode derivative
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level(), FastLinear():
        weights = {
            name: forward_ad.make_dual(p.detach(), tangent[name].to(p))
            for name, p in model.named_parameters()
            if name in tangent
        }
        for rows, ids, mask in _batches(model, examples, batch_tokens):
            value, slope = forward_ad.unpack_dual(functional_call(model, weights, (ids, mask)))
            slope = torch.zeros_like(value) if slope is None else slope
            parts.append((value.double().cpu(), slope.double().cpu()))
            places += rows
    order = torch.tensor(places).argsort()
    return tuple(torch.cat(kept)[order] for kept in zip(*parts, strict=True))


def weighted_gradient(
    model: nn.Module, weights: torch.Tensor, examples: Sequence[torch.Tensor], batch_tokens: int
) -> dict[str, torch.Tensor]:
    """Return Jᵀ w = Σ_i w_i ∇_θ f(x_i; θ), w of shape (N,), by parameter name."""
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for rows, ids, mask in _batches(model, examples, batch_tokens):
        with torch.enable_grad(), FastLinear():
            found = model(ids, mask)
        part = (found * weights[rows].to(found)).sum()
        gradients = torch.autograd.grad(part, list(parameters.values()), allow_unused=True)
        for kept, gradient in zip(total.values(), gradients, strict=True):
            if gradient is not None:
                kept += gradient
    return total


@contextlib.contextmanager
def moved(model: nn.Module, tangent: Tangent) -> Iterator[None]:
    """Let a model have the weights θ + v within a context; θ comes back bit for bit."""
    parameters = {name: p for name, p in model.named_parameters() if name in tangent}
    kept = {name: p.detach().clone() for name, p in parameters.items()}
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter += tangent[name].to(parameter)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(kept[name])
