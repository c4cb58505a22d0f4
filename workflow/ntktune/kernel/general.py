"""The general exact way: per-example automatic differentiation, for any parameter."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from ntktune.kernel.network import trainable
from ntktune.kernel.products import Sides, inner_products


def _bundles(
    parameters: dict[str, list[nn.Parameter]], limit: float
) -> list[list[tuple[str, nn.Parameter]]]:
    """Split (group, parameter) pairs into runs whose gradients fit into ``limit`` bytes."""
    bundles: list[list[tuple[str, nn.Parameter]]] = []
    room = 0.0
    for group, members in parameters.items():
        for parameter in members:
            size = parameter.numel() * parameter.element_size()
            if not bundles or size > room:
                bundles.append([])
                room = limit
            bundles[-1].append((group, parameter))
            room -= size
    return bundles


def autograd_grams(
    scalar: Callable[[Sequence[int]], torch.Tensor],
    sides: Sides,
    parameters: dict[str, list[nn.Parameter]],
    max_bytes: float,
    progress: Callable[[float], None] | None = None,
) -> dict[str, torch.Tensor]:
    """Return each group's Gram by one backward pass per example.

    Where the gradients do not fit, they are computed again for each block of examples:
    slower, equally exact.

    Parameters
    ----------
    scalar
        Returns f, shape (B,), of B examples given by their numbers.
    sides
        Which examples are rows and columns.
    parameters
        Parameters of each group; no other parameter requires a gradient.
    max_bytes
        Room for gradients.
    progress
        Called with the fraction done.

    Returns
    -------
    dict
        Group name to a Gram of the sides' shape, float64.
    """
    grams: dict[str, torch.Tensor] = {}
    bundles = _bundles(parameters, max_bytes / 2)
    square = sides.columns is None
    for number, bundle in enumerate(bundles):
        members = [p for _, p in bundle]
        for group, parameter in bundle:
            if group not in grams:
                grams[group] = torch.zeros(
                    sides.shape, dtype=torch.float64, device=parameter.device
                )

        def gradients(example: int, members: list = members) -> list[torch.Tensor]:
            value = scalar([example])[0]
            if not value.requires_grad:
                return [torch.zeros_like(p).flatten() for p in members]
            found = torch.autograd.grad(value, members, allow_unused=True)
            return [
                torch.zeros_like(p).flatten() if g is None else g.flatten()
                for p, g in zip(members, found, strict=True)
            ]

        with trainable(members):
            size = sum(p.numel() * p.element_size() for p in members)
            step = int(min(sides.rows, max(1, max_bytes // max(1, size))))
            for first in range(0, sides.rows, step):
                last = min(first + step, sides.rows)
                rows = [p.new_empty(last - first, p.numel()) for p in members]
                for i in range(first, last):
                    for row, gradient in zip(rows, gradients(i), strict=True):
                        row[i - first] = gradient
                if square:
                    for (group, _), row in zip(bundle, rows, strict=True):
                        block = inner_products(*sides.factors(row, row))
                        grams[group][first:last, first:last] += block
                for j in range(last if square else sides.rows, sides.total):
                    others = gradients(j)
                    for (group, _), row, other in zip(bundle, rows, others, strict=True):
                        column = inner_products(*sides.factors(row, other[None]))
                        grams[group][first:last, j if square else j - sides.rows] += column[:, 0]
                        if square:
                            below = inner_products(*sides.factors(other[None], row))
                            grams[group][j, first:last] += below[0]
                if progress:
                    progress((number + last / sides.rows) / len(bundles))
    return grams
