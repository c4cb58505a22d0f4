"""Arithmetic on named weights: task vectors, their cosines, and weights edited by them.

A task vector is what fine-tuning added to the shared backbone, τ = θ − θ_P (Ilharco et al. 2023;
SR26 eq 22). Heads are no part of it: each task keeps its own. Everything is computed in float64,
where the difference of two float32 numbers is exact unless they are nine orders of magnitude apart:
θ_P + τ gives the fine-tuned weights bit for bit.

Weights are mappings from a name to a tensor, or to anything with ``shape``, ``dtype`` and rows that
can be asked for (:class:`ntktune.store.tensors.StoredTensor`). The small functions return whole
task vectors; those with several fine-tuned models read the weights in stretches, whatever the
models' size. Where weights' names or shapes differ, UserError is raised.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ntktune.errors import UserError
from ntktune.store.tensors import stretches

Weights = Mapping[str, Any]

SLICE = 2**18  # numbers at a time: their float64 copies stay in a processor's cache


def check_same_shapes(
    first: Weights, second: Weights, called: tuple[str, str] = ("the first", "the second")
) -> None:
    """Raise UserError unless weights, named as ``called``, have the same names and shapes."""
    advice = "use weights of the same model and the same blocks"
    for name in (*first, *second):
        if name not in first or name not in second:
            there, missing = called if name in first else called[::-1]
            raise UserError(
                f"tensor {name} is in {there} set of weights, not in {missing}; {advice}"
            )
        one, other = tuple(first[name].shape), tuple(second[name].shape)
        if one != other:
            raise UserError(
                f"tensor {name} has shape {one} in {called[0]} set of weights and "
                f"{other} in {called[1]}; {advice}"
            )


def task_vector(base: Weights, tuned: Weights) -> dict[str, torch.Tensor]:
    """Return τ = tuned − base by name, in float64 (SR26 eq 22)."""
    check_same_shapes(base, tuned)
    return {name: tuned[name][...].double() - base[name][...].double() for name in base}


def scale(vector: Weights, coefficient: float) -> dict[str, torch.Tensor]:
    """Return coefficient · τ by name, in float64; −1 negates a task (SR26 eq 24)."""
    return {name: coefficient * vector[name][...].double() for name in vector}


def add(vectors: Sequence[Weights]) -> dict[str, torch.Tensor]:
    """Return Σ τ by name, in float64 (SR26 eq 23); UserError if there is none."""
    if not vectors:
        raise UserError("there is no task vector to add; give one or more")
    for vector in vectors[1:]:
        check_same_shapes(vectors[0], vector)
    return {name: sum(vector[name][...].double() for vector in vectors) for name in vectors[0]}


def apply(
    base: Weights, vectors: Sequence[Weights], coefficients: Sequence[float]
) -> dict[str, torch.Tensor]:
    """Return base + Σ coefficient · τ by name, in base's precision (SR26 eqs 23, 24).

    Sums in float64 are rounded once. Raises UserError unless each vector has a finite coefficient.
    """
    check_counts(vectors, coefficients)
    for vector in vectors:
        check_same_shapes(base, vector)
    scaled = [scale(vector, c) for vector, c in zip(vectors, coefficients, strict=True)]
    sums = {name: sum((v[name] for v in scaled), base[name][...].double()) for name in base}
    return {name: total.to(base[name].dtype) for name, total in sums.items()}


def check_counts(vectors: Sequence[Weights], coefficients: Sequence[float]) -> None:
    """Raise UserError unless there is one finite coefficient for each task vector."""
    if len(vectors) != len(coefficients):
        raise UserError(
            f"there are {len(vectors)} task vectors and {len(coefficients)} coefficients; "
            "give one coefficient for each"
        )
    if odd := [c for c in coefficients if not math.isfinite(c)]:
        raise UserError(f"a coefficient is {odd[0]}; give finite numbers")


def dot(first: Weights, second: Weights) -> float:
    """Return the inner product of two task vectors over all their tensors, in float64."""
    check_same_shapes(first, second)
    return math.fsum(
        float(torch.sum(first[name][part].double() * second[name][part].double()))
        for name in first
        for part in stretches(first[name].shape, SLICE)
    )


def cosine(first: Weights, second: Weights) -> float:
    """Return the cosine of two task vectors; NaN if one is zero (SR26 Figure 3)."""
    norms = math.sqrt(dot(first, first)) * math.sqrt(dot(second, second))
    return dot(first, second) / norms if norms else math.nan


def parts(base: Weights, tuned: Sequence[Weights]) -> Iterator[tuple[str, Any, torch.Tensor, Any]]:
    """Yield the task vectors of several fine-tuned models, stretch by stretch.

    Each item is a tensor's name, which of its rows (a slice or Ellipsis), the base's stretch as it
    is, and τ of each of K models there, float64, (K, *stretch's shape).
    """
    for weights in tuned:
        check_same_shapes(base, weights, ("the pretrained", "the fine-tuned"))
    for name, tensor in base.items():
        for rows in stretches(tensor.shape, SLICE):
            start = tensor[rows]
            origin = start.double()
            vectors = origin.new_empty((len(tuned), *origin.shape))
            for vector, weights in zip(vectors, tuned, strict=True):
                torch.sub(weights[name][rows].to(origin), origin, out=vector)
            yield name, rows, start, vectors


def grams(
    base: Weights,
    tuned: Sequence[Weights],
    group: Callable[[str], str],
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, np.ndarray]:
    """Return the inner products of the task vectors of K fine-tuned models, by group.

    One pass over the weights, a stretch of one tensor in memory. ``group`` maps a name to the group
    that its inner products are summed in, such as a block; ``progress`` is called with the share of
    the numbers seen. Returns group → Gram (K, K), float64, symmetric; ``"all"`` is their sum.
    """
    found: dict[str, np.ndarray] = {}
    total, seen = sum(math.prod(tensor.shape) for tensor in base.values()), 0
    for name, _, start, vectors in parts(base, tuned):
        flat = vectors.flatten(1)  # (K, stretch)
        part = (flat @ flat.T).cpu().numpy()
        key = group(name)
        found[key] = found.get(key, 0) + (part + part.T) / 2  # whatever the product's rounding
        seen += start.numel()
        progress(seen / total)
    return {"all": sum(found.values())} | found


def cosines(gram: np.ndarray) -> np.ndarray:
    """Return the cosines that a Gram matrix (K, K) holds; NaN where a vector is zero."""
    norms = np.sqrt(np.diag(gram))
    norms[norms == 0] = math.nan
    found = np.clip(gram / np.outer(norms, norms), -1, 1)
    found[np.diag_indices_from(found)] = np.where(np.isnan(norms), math.nan, 1.0)
    return found


def merged(
    base: Weights, tuned: Sequence[Weights], coefficients: Sequence[float]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield θ_P + Σ coefficient · τ by name, in stretches in base's precision (SR26 eqs 23, 24).

    For one model and coefficient 1 these are its weights, bit for bit. Errors as :func:`apply`.
    """
    check_counts(tuned, coefficients)
    weights = torch.tensor(coefficients, dtype=torch.float64)
    for name, _, start, vectors in parts(base, tuned):
        yield name, (start.double() + torch.tensordot(weights, vectors, dims=1)).to(start.dtype)


def direction(base: Weights, tuned: Sequence[Weights]) -> dict[str, torch.Tensor]:
    """Return Σ τ of fine-tuned models by name, whole tensors, rounded once to float32."""
    found = {name: torch.empty(tuple(t.shape)) for name, t in base.items()}
    for name, rows, _, vectors in parts(base, tuned):
        found[name][rows] = vectors.sum(dim=0).float()
    return found


def randomize(vector: Weights, seed: int) -> None:
    """Replace each tensor of a task vector, in place, by a random one of the same length."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in vector.values():
        length = tensor.norm()
        tensor.normal_(generator=generator)
        tensor.mul_(length / tensor.norm())


def rebuilt(base: Weights, vector: Weights) -> Weights:
    """Return θ_P + τ of a stored vector of any precision, in float64, for the rows asked for."""
    check_same_shapes(base, vector, ("the pretrained", "the task vector's"))
    return {name: _Sum(base[name], vector[name]) for name in base}


class _Sum:
    """The sum of two tensors, computed for the rows that are asked for."""

    def __init__(self, first: Any, second: Any):
        self.terms, self.shape, self.dtype = (first, second), first.shape, torch.float64

    def __getitem__(self, rows: Any) -> torch.Tensor:
        first, second = (term[rows].double() for term in self.terms)
        return first + second
