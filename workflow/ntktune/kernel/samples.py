"""Kernels of several samples of a task's rows, with one network."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ntktune.kernel.engine import gram
from ntktune.network.models import TextModel


def sampled_kernels(
    model: TextModel,
    examples: Sequence[torch.Tensor],
    labels: Mapping[str, torch.Tensor],
    rows: Sequence[Sequence[int]],
    shard: tuple[slice, slice] | None = None,
    *,
    head_seeds: Sequence[int] | None,
    progress: Callable[[float], None],
    **how: Any,
) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Return the kernels of D samples of N rows each, and the provenance of each.

    The ``model`` is on the device to compute on. ``examples`` are all of the task's texts as token
    ids, ``labels`` have ``label`` and ``label_noise`` of all rows. ``rows`` are the samples' rows;
    ``shard`` says which places of a sample are the kernel's rows and columns (None: all).
    ``head_seeds`` has the seed of each sample's fresh head; None keeps the model's head.
    ``progress`` gets the number of samples done, ``how`` goes to :func:`ntktune.kernel.gram`.

    The tensors are ``kernel`` and ``group/<name>`` (D, N, M); ``outputs``, ``label``,
    ``label_noise`` and ``row`` (D, N); of a shard also ``column`` (D, M).
    """
    left, right = shard or (slice(None), slice(None))
    found = []
    for draw, chosen in enumerate(rows):
        if head_seeds is not None:
            model.reset_head(torch.Generator().manual_seed(head_seeds[draw]))
        one = [examples[row] for row in chosen[left]]
        other = None if left == right else [examples[row] for row in chosen[right]]
        found.append(
            gram(model, one, other, progress=lambda done, draw=draw: progress(draw + done), **how)
        )
    index = torch.tensor(rows, dtype=torch.long)
    tensors = {
        "kernel": torch.stack([r.kernel for r in found]),
        "outputs": torch.stack([r.outputs for r in found]),
        "label": labels["label"].double()[index[:, left]],
        "label_noise": labels["label_noise"].double()[index[:, left]],
        "row": index[:, left],
    }
    if shard:  # a copy: safetensors writes no two tensors of one memory
        tensors["column"] = index[:, right].clone()
    for group in found[0].groups:
        tensors[f"group/{group}"] = torch.stack([r.groups[group] for r in found])
    return tensors, [r.provenance for r in found]
