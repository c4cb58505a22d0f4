"""What happens when a computation needs more memory than there is: the same, in smaller pieces."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from ntktune.device import is_out_of_memory
from ntktune.errors import UserError

Found = TypeVar("Found")
SMALLEST = 2**-6  # of the room at first; weights and single texts need the rest


@dataclass(frozen=True)
class Room:
    """How much a computation takes at once.

    Attributes
    ----------
    max_tokens
        Padded tokens per micro-batch.
    max_bytes
        For captured inputs and gradients.
    tile_bytes
        For all that grows with the number of tokens.
    """

    max_tokens: int
    max_bytes: float
    tile_bytes: float

    def halved(self) -> Room:
        """Return half of it, one token at least."""
        tokens = max(1, self.max_tokens // 2)
        return replace(
            self, max_tokens=tokens, max_bytes=self.max_bytes / 2, tile_bytes=self.tile_bytes / 2
        )


def computed_within(
    compute: Callable[[Room], Found], room: Room, device: torch.device
) -> tuple[Found, Room]:
    """Return what ``compute`` returns, in half the room as often as memory runs out, and the room.

    A warning says each time that it goes on with less.

    Raises
    ------
    UserError
        A 64th of the room is still too much.
    """
    first = room
    while True:
        try:
            return compute(room), room
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            told = str(error).splitlines()[0] if str(error) else "no memory left"
        # outside of the handler: its traceback holds what filled the memory
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if room.max_bytes <= first.max_bytes * SMALLEST:
            raise UserError(
                f"there is too little memory on {device}, even in small pieces ({told}); use a "
                "device with more, shorter texts (model.max_tokens), or fewer blocks "
                "(model.blocks)"
            )
        room = room.halved()
        warnings.warn(
            f"memory ran out on {device} ({told}); going on with half as much at once: "
            f"{room.max_tokens} tokens per pass",
            RuntimeWarning,
            stacklevel=2,
        )
