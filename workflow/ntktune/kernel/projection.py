"""Random projections of linear layers' inputs and output gradients."""

from __future__ import annotations

import torch

from ntktune.kernel.products import working_dtype
from ntktune.study.seeds import integer_seed


class Projection:
    """Projections to ``dimensions`` by random signs, one for each weight and each side of it.

    With S of entries ±1/√k, E⟨Sa, Sa'⟩ = ⟨a, a'⟩. Inputs and output gradients have independent
    projections, so a linear layer's Gram Σ (a_s·a_t)(g_s·g_t) keeps its expectation. The signs
    follow from the weight's name.
    """

    def __init__(self, dimensions: int):
        self.dimensions = dimensions
        self.signs: dict[tuple[str, str], torch.Tensor] = {}

    def __call__(self, rows: torch.Tensor, weight: str, side: str) -> torch.Tensor:
        """Return rows (R, D) as (R, dimensions); those that are no wider stay as they are."""
        width = rows.shape[1]
        if width <= self.dimensions:
            return rows
        key = (weight, side)
        if key not in self.signs:
            seed = integer_seed(0, f"kernel.projection.{side}", weight)
            generator = torch.Generator().manual_seed(seed)
            chance = torch.randint(0, 2, (width, self.dimensions), generator=generator)
            signs = (2 * chance - 1).to(rows.device, working_dtype(rows))
            self.signs[key] = signs / self.dimensions**0.5
        return rows.to(self.signs[key].dtype) @ self.signs[key]
