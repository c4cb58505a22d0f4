"""Arithmetic on named weights: task vectors, their cosine, and weights edited by them.

A task vector is what fine-tuning added to the shared backbone, τ = θ − θ_P (Ilharco
et al. 2023; SR26 eq 22). Heads are no part of it: each task keeps its own. Everything
is computed in float64, where the difference of two float32 numbers is exact unless they
are nine orders of magnitude apart: θ_P + τ gives the fine-tuned weights bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from ntktune.errors import UserError

Weights = Mapping[str, torch.Tensor]

SLICE = 2**18  # numbers at a time: their float64 copies stay in a processor's cache


def check_same_shapes(first: Weights, second: Weights) -> None:
    """Raise UserError unless two sets of weights have the same names and shapes."""
    for name in (*first, *second):
        if name not in first or name not in second:
            there, missing = ("first", "second") if name in first else ("second", "first")
            raise UserError(
                f"tensor {name} is in the {there} set of weights, not in the {missing}; "
                "use weights of the same model and the same blocks"
            )
        shapes = tuple(first[name].shape), tuple(second[name].shape)
        if shapes[0] != shapes[1]:
            raise UserError(
                f"tensor {name} has shape {shapes[0]} in one set of weights and {shapes[1]} in "
                "the other; use weights of the same model and the same blocks"
            )


def slices(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Yield the same stretch of several tensors of one shape, flattened, until all is seen.

    So that float64 copies of a stretch, not of a whole tensor, are in memory.
    """
    flat = [tensor.flatten() for tensor in tensors]
    for start in range(0, len(flat[0]), SLICE):
        yield [tensor[start : start + SLICE] for tensor in flat]


def task_vector(base: Weights, tuned: Weights) -> dict[str, torch.Tensor]:
    """Return τ = tuned − base by name, in float64 (SR26 eq 22).

    Raises
    ------
    UserError
        Names or shapes differ.
    """
    check_same_shapes(base, tuned)
    return {name: tuned[name].double() - base[name].double() for name in base}


def apply(
    base: Weights, vectors: Sequence[Weights], coefficients: Sequence[float]
) -> dict[str, torch.Tensor]:
    """Return base + Σ coefficient · τ by name, in base's precision (SR26 eqs 23, 24).

    A negative coefficient negates a task. Sums are taken in float64 and rounded once.

    Raises
    ------
    UserError
        Names or shapes differ, or there are not as many coefficients as vectors.
    """
    if len(vectors) != len(coefficients):
        raise UserError(
            f"there are {len(vectors)} task vectors and {len(coefficients)} coefficients; "
            "give one coefficient for each"
        )
    for vector in vectors:
        check_same_shapes(base, vector)
    edited = {}
    for name, tensor in base.items():
        total = tensor.double()
        for vector, coefficient in zip(vectors, coefficients, strict=True):
            total = total + coefficient * vector[name]
        edited[name] = total.to(tensor.dtype)
    return edited


def dot(first: Weights, second: Weights) -> float:
    """Return the inner product of two task vectors over all their tensors, in float64.

    Raises
    ------
    UserError
        Names or shapes differ.
    """
    check_same_shapes(first, second)
    return math.fsum(
        float(torch.dot(first[name].double().flatten(), second[name].double().flatten()))
        for name in first
    )


def cosine(first: Weights, second: Weights) -> float:
    """Return the cosine of two task vectors; NaN if one is zero (SR26 Figure 3).

    Raises
    ------
    UserError
        Names or shapes differ.
    """
    norms = math.sqrt(dot(first, first)) * math.sqrt(dot(second, second))
    return dot(first, second) / norms if norms else math.nan


def cosine_matrix(base: Weights, tuned: Sequence[Weights]) -> np.ndarray:
    """Return the cosines of the task vectors of several fine-tuned models.

    The numbers of :func:`cosine` for each pair, in one pass over the weights that holds
    float64 differences of a stretch of one tensor only.

    Parameters
    ----------
    base
        Pretrained weights.
    tuned
        K sets of fine-tuned weights.

    Returns
    -------
    numpy.ndarray
        Shape (K, K), float64, symmetric; NaN in the rows of a model that did not move.

    Raises
    ------
    UserError
        Names or shapes differ.
    """
    for weights in tuned:
        check_same_shapes(base, weights)
    gram = np.zeros((len(tuned), len(tuned)))
    for name in base:
        for start, *ends in slices([base[name], *(weights[name] for weights in tuned)]):
            vectors = torch.stack(ends).double() - start.double()  # (K, slice)
            gram += (vectors @ vectors.T).cpu().numpy()
    gram = (gram + gram.T) / 2  # exactly symmetric, whatever the product's rounding
    norms = np.sqrt(np.diag(gram))
    norms[norms == 0] = math.nan
    cosines = gram / np.outer(norms, norms)
    diagonal = np.diag_indices_from(cosines)
    cosines[diagonal] = np.where(np.isnan(norms), math.nan, 1.0)
    return cosines
