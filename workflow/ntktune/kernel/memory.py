"""Computing in pieces that memory holds, and again in smaller ones where it runs out."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch

from ntktune.errors import UserError
from ntktune.network.device import is_out_of_memory, release_cached_memory

Found = TypeVar("Found")
HALVINGS = 6  # weights and single texts need the rest


def runs(sizes: Iterable[float], most: float) -> list[slice]:
    """Split a sequence into runs whose sizes sum to ``most`` at most, one item at least."""
    sizes, starts, room = list(sizes), [], 0.0
    for item, size in enumerate(sizes):
        if not starts or size > room:
            starts.append(item)
            room = most
        room -= size
    return [slice(start, end) for start, end in itertools.pairwise([*starts, len(sizes)])]


@dataclass(frozen=True)
class Room:
    """How much a computation takes at once."""

    max_tokens: int  # padded tokens per micro-batch
    max_bytes: float  # for captured inputs and gradients
    chunk_bytes: float  # for all that grows with the number of tokens

    def halved(self, need: float) -> Room:
        """Return half of it, or of what the whole needs where that is less; one token at least."""
        return Room(
            max(1, self.max_tokens // 2),
            min(self.max_bytes, 2 * need) / 2,
            min(self.chunk_bytes, need) / 2,
        )


def computed_within(
    compute: Callable[[Room], Found], room: Room, need: float, device: torch.device
) -> tuple[Found, Room]:
    """Return what ``compute`` returns, and the room; each time memory runs out, halve the room.

    A warning tells each halving. ``need`` is the bytes that the whole computation takes: room
    above it is cut to it first, otherwise halving has no effect. Raises UserError if a 64th of
    the room is still too much.
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
