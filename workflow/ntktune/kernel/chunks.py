"""Kernels that memory cannot hold at once: chunk by chunk, and again in smaller pieces."""

import dataclasses
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch

from ntktune.errors import UserError
from ntktune.kernel.computation import Computation, Room, runs
from ntktune.kernel.passes import Computed, computed
from ntktune.kernel.plan import make_plan
from ntktune.network.device import is_out_of_memory, release_cached_memory

HALVINGS = 6  # weights and single texts need the rest


def computed_in_chunks(computation: Computation) -> Computed:
    """Compute the Grams, in chunks if its tokens need more than the room's ``chunk_bytes``."""
    most = _tokens_at_once(computation)
    if computation.tokens <= most:
        return computed(computation)
    square, symmetric = computation.other is None, computation.sides.symmetric
    left, count = computation.examples, len(computation.classes)
    right = left if square else computation.other
    rows, columns = (runs([len(text) for text in texts], most / 2) for texts in (left, right))
    wanted = [(i, j) for i in range(len(rows)) for j in range(i if symmetric else 0, len(columns))]
    grams: dict[str, torch.Tensor] = {}
    outputs: dict[int, torch.Tensor] = {}
    facts: list[dict[str, Any]] = []
    for number, (i, j) in enumerate(wanted):
        found = computed(
            dataclasses.replace(
                computation,
                examples=left[rows[i]],
                other=None if square and i == j else right[columns[j]],
                starts=(rows[i].start, columns[j].start),
                progress=lambda done, n=number: computation.progress((n + done) / len(wanted)),
            )
        )
        here, there = (slice(s.start * count, s.stop * count) for s in (rows[i], columns[j]))
        for group, gram in found.grams.items():
            if group not in grams:
                grams[group] = gram.new_zeros(computation.sides.shape)
            grams[group][here, there] = gram
            if symmetric and i != j:
                grams[group][there, here] = gram.T
        outputs[i] = found.outputs
        facts.append(found.facts)
    return Computed(grams, torch.cat([outputs[i] for i in range(len(rows))]), _of_all(facts))


def _of_all(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the facts of a kernel from those of its chunks, which may take several ways."""
    forms: dict[str, set[str]] = {}
    for chunk in chunks:
        for form, names in chunk["forms"].items():
            forms.setdefault(form, set()).update(names)
    ways = dict.fromkeys(str(chunk["passes"]) for chunk in chunks)
    nowhere = set.intersection(*(set(chunk["without_gradient"]) for chunk in chunks))
    return {
        "chunks": len(chunks),
        "passes": chunks[0]["passes"] if len(ways) == 1 else " or ".join(ways),
        "forms": {form: sorted(names) for form, names in sorted(forms.items())},
        "general": {name: why for chunk in chunks for name, why in chunk["general"].items()},
        "without_gradient": [n for n in chunks[0]["without_gradient"] if n in nowhere],
        "micro_batches": sum(chunk["micro_batches"] for chunk in chunks),
        "self_check": max(
            (chunk["self_check"] for chunk in chunks),
            key=lambda check: check["largest_relative_error"] if check else 0.0,
        ),
    }


def token_bytes(parameters: Iterable[torch.Tensor]) -> int:
    """Return the most bytes captured of one token: no layer keeps more than rows and columns."""
    return sum(sum(p.shape) * p.element_size() for p in parameters if p.dim() > 1)


def _tokens_at_once(computation: Computation) -> float:
    """Return how many tokens fit: their captures by one layer. Inputs of blocks can be spilled."""
    # usually the bound is enough to know, and nothing has to be tried out
    room = computation.room.chunk_bytes
    if computation.tokens * token_bytes(computation.parameters.values()) <= room:
        return computation.tokens
    numbers = max(make_plan(computation, {}).numbers.values(), default=0)
    return room / max(1, numbers * computation.dtype.itemsize)


def computed_within(
    compute: Callable[[Room], list[Computed]], room: Room, need: float, device: torch.device
) -> tuple[list[Computed], Room]:
    """Return what ``compute`` returns, and the room; each time memory runs out, halve the room.

    A warning tells each halving. ``need`` is the bytes that the whole computation takes: room
    above it is cut first, or halving has no effect. Raises UserError if a 64th is still too much.
    """
    for _ in range(HALVINGS + 1):
        try:
            return compute(room), room
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            told = str(error).splitlines()[0] if str(error) else "no memory left"
        # outside of the handler: its traceback holds what filled the memory
        release_cached_memory(device)
        room = room.halved(need)
        warnings.warn(
            f"memory ran out on {device} ({told}); going on with half as much at once: "
            f"{room.max_tokens} tokens per pass",
            RuntimeWarning,
            stacklevel=2,
        )
    raise UserError(
        f"there is too little memory on {device}, even in small pieces ({told}); use a device with "
        "more, shorter texts (model.max_tokens), or fewer blocks (model.blocks)"
    )
