"""The general exact way: per-example automatic differentiation, for any parameter."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from ntktune.kernel.computation import runs
from ntktune.kernel.groups import layer_name
from ntktune.kernel.network import leaves
from ntktune.kernel.products import Sides, inner_products


def _bundles(parameters: dict[str, nn.Parameter], limit: float) -> list[dict[str, nn.Parameter]]:
    """Split parameters, by name, into runs whose gradients fit into ``limit`` bytes."""
    # a layer's parameters stay together: where signs are taken, it is judged as one
    named: dict[str, dict[str, nn.Parameter]] = {}
    for name, parameter in parameters.items():
        named.setdefault(layer_name(name), {})[name] = parameter
    layers = list(named.values())
    sizes = [sum(p.nbytes for p in layer.values()) for layer in layers]
    return [{n: p for layer in layers[run] for n, p in layer.items()} for run in runs(sizes, limit)]


def _settled(gradients: dict[str, torch.Tensor], sides: Sides) -> list[torch.Tensor]:
    """Return one example's gradients, 0 where they are zero but for rounding and signs count."""
    if not sides.floor:
        return list(gradients.values())
    largest: dict[str, torch.Tensor] = {}
    for name, gradient in gradients.items():
        layer, own = layer_name(name), gradient.abs().max()
        largest[layer] = torch.maximum(largest.get(layer, own), own)
    return [sides.settled(g, largest[layer_name(name)]) for name, g in gradients.items()]


def autograd_grams(
    scalar: Callable[[Sequence[int]], torch.Tensor],
    sides: Sides,
    parameters: dict[str, nn.Parameter],
    groups: dict[str, str],
    max_bytes: float,
    progress: Callable[[float], None] = lambda done: None,
) -> dict[str, torch.Tensor]:
    """Return each group's Gram (of the sides' shape, float64) by one backward pass per example.

    Where the gradients do not fit into ``max_bytes``, they are computed again for each block of
    examples: slower, equally exact. ``scalar`` returns f, (B,), of examples given by their numbers;
    no parameter but the given ones requires a gradient.
    """
    grams: dict[str, torch.Tensor] = {}
    for name, parameter in parameters.items():
        if groups[name] not in grams:
            like = {"dtype": torch.float64, "device": parameter.device}
            grams[groups[name]] = torch.zeros(sides.shape, **like)
    bundles = _bundles(parameters, max_bytes / 2)
    square = sides.columns is None
    for number, bundle in enumerate(bundles):
        sums = [grams[groups[name]] for name in bundle]

        with leaves(list(bundle.values())) as members:

            def gradients(
                example: int, names: Sequence[str] = tuple(bundle), members: list = members
            ) -> list[torch.Tensor]:
                value = scalar([example])[0]
                found = map(torch.zeros_like, members)
                if value.requires_grad:
                    found = torch.autograd.grad(value, members, materialize_grads=True)
                return _settled({n: g.flatten() for n, g in zip(names, found, strict=True)}, sides)

            step = int(min(sides.rows, max(1, max_bytes // max(1, sum(p.nbytes for p in members)))))
            for first in range(0, sides.rows, step):
                last = min(first + step, sides.rows)
                rows = [p.new_empty(last - first, p.numel()) for p in members]
                for i in range(first, last):
                    for row, gradient in zip(rows, gradients(i), strict=True):
                        row[i - first] = gradient
                if square:
                    for gram, row in zip(sums, rows, strict=True):
                        gram[first:last, first:last] += inner_products(*sides.factors(row, row))
                for j in range(last if square else sides.rows, sides.total):
                    for gram, row, other in zip(sums, rows, gradients(j), strict=True):
                        column = inner_products(*sides.factors(row, other[None]))
                        gram[first:last, j if square else j - sides.rows] += column[:, 0]
                        if square:
                            below = inner_products(*sides.factors(other[None], row))
                            gram[j, first:last] += below[0]
                progress((number + last / sides.rows) / len(bundles))
    return grams
