"""Kernels of more texts than memory holds at once: tile by tile."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ntktune.kernel.plan import make_plan
from ntktune.kernel.stack import find_stack
from ntktune.kernel.sums import Computed, Task, computed, probe_pair


def computed_in_tiles(task: Task) -> Computed:
    """Compute a task's Grams, in tiles if its tokens need more than ``task.tile_bytes``.

    A tile's texts are run for it alone, so that memory is that of two runs of texts,
    however many there are. The tiles' Grams are those of the whole up to rounding.
    """
    most = _tokens_at_once(task)
    if task.tokens <= most:
        return computed(task)
    square = task.other is None
    rows = _runs([len(text) for text in task.examples], most / 2)
    columns = rows if square else _runs([len(text) for text in task.other], most / 2)
    symmetric = task.sides.symmetric
    wanted = [(i, j) for i in range(len(rows)) for j in range(i if symmetric else 0, len(columns))]
    grams: dict[str, torch.Tensor] = {}
    outputs: dict[int, torch.Tensor] = {}
    facts: list[dict[str, Any]] = []
    count = len(task.classes)
    for number, (i, j) in enumerate(wanted):
        right = task.examples if square else task.other
        tile = dataclasses.replace(
            task,
            examples=task.examples[rows[i]],
            other=None if square and i == j else right[columns[j]],
            starts=(rows[i].start, columns[j].start),
            progress=lambda done, number=number: task.progress((number + done) / len(wanted)),
        )
        found = computed(tile)
        left_side, right_side = (
            slice(run.start * count, run.stop * count) for run in (rows[i], columns[j])
        )
        for group, gram in found.grams.items():
            if group not in grams:
                grams[group] = gram.new_zeros(task.sides.shape)
            grams[group][left_side, right_side] = gram
            if symmetric and i != j:
                grams[group][right_side, left_side] = gram.T
        outputs[i] = found.outputs
        facts.append(found.facts)
    values = torch.cat([outputs[i] for i in range(len(rows))])
    return Computed(grams, values, _of_all(facts))


def _of_all(tiles: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the facts of a kernel from those of its tiles, which may take several ways."""
    forms: dict[str, set[str]] = {}
    for tile in tiles:
        for form, names in tile["forms"].items():
            forms.setdefault(form, set()).update(names)
    ways = dict.fromkeys(str(tile["passes"]) for tile in tiles)
    nowhere = set.intersection(*(set(tile["without_gradient"]) for tile in tiles))
    return {
        "tiles": len(tiles),
        "passes": tiles[0]["passes"] if len(ways) == 1 else " or ".join(ways),
        "forms": {form: sorted(names) for form, names in sorted(forms.items())},
        "general": {name: why for tile in tiles for name, why in tile["general"].items()},
        "without_gradient": [n for n in tiles[0]["without_gradient"] if n in nowhere],
        "micro_batches": sum(tile["micro_batches"] for tile in tiles),
        "self_check": max(
            (tile["self_check"] for tile in tiles),
            key=lambda check: check["largest_relative_error"] if check else 0.0,
        ),
    }


def _runs(lengths: Sequence[int], most: float) -> list[slice]:
    """Split texts into runs of at most ``most`` tokens, one text at least."""
    runs, start, tokens = [], 0, 0
    for text, length in enumerate(lengths):
        if text > start and tokens + length > most:
            runs.append(slice(start, text))
            start, tokens = text, 0
        tokens += length
    return [*runs, slice(start, len(lengths))]


def token_bytes(parameters: Iterable[torch.Tensor]) -> int:
    """Return how many bytes are captured of one token at most.

    No layer keeps more of it than its weights' rows and columns.
    """
    return sum(sum(p.shape) * p.element_size() for p in parameters if p.dim() > 1)


def _tokens_at_once(task: Task) -> float:
    """Return how many tokens fit: their blocks' inputs and one layer's captures."""
    # usually the bound is enough to know, and nothing has to be tried out
    if task.tokens * token_bytes(task.parameters.values()) <= task.tile_bytes:
        return task.tokens
    item = next(iter(task.parameters.values())).element_size()
    pair = probe_pair(task)
    lengths = task.lengths(pair)
    plan = make_plan(task.model, task.scalar, task.parameters, pair, lengths, {})
    stack = find_stack(task.model, task.scalar, pair, task.parameters)
    numbers = (stack.width if stack else 0) + max(plan.numbers.values(), default=0)
    return task.tile_bytes / max(1, numbers * item)
