"""What is computed at once: a function of some texts, their numbers and micro-batches."""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ntktune.kernel.network import network_outputs
from ntktune.kernel.products import SIGN_FLOORS, Sides
from ntktune.network.models import token_batches

# The share of a group's largest entry by which the kernel may differ from plain
# autograd. Hugging Face computes parts in float32 even in a float64 model; bfloat16 differs by a
# tenth between a batch and a single text after 30 blocks.
TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-3, torch.bfloat16: 0.5}


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

    def halved(self, need: float) -> "Room":
        """Return half of it, or of what the whole needs where that is less; one token at least."""
        return Room(
            max(1, self.max_tokens // 2),
            min(self.max_bytes, 2 * need) / 2,
            min(self.chunk_bytes, need) / 2,
        )


@dataclass
class Computation:
    """One computation: which function of which texts, and what its parts share.

    Values are numbered in the order in which they are computed: those of ``examples`` first, then
    those of ``other``, each sorted by length.
    """

    model: nn.Module
    parameters: dict[str, nn.Parameter]
    groups: dict[str, str]
    examples: Sequence[torch.Tensor]
    other: Sequence[torch.Tensor] | None
    outputs: str
    classes: list[int]
    variant: str
    projection: int | None
    room: Room
    device: torch.device
    check: bool
    progress: Callable[[float], None]
    starts: tuple[int, int] = (0, 0)  # of both sides' texts in what the caller gave

    def __post_init__(self) -> None:
        self.texts = [*self.examples, *(self.other or [])]
        self.values: list[tuple[int, int]] = []  # number → text, output
        self.batches: list[range] = []
        counts, shift = [], len(self.examples)
        for side in (range(shift), range(shift, len(self.texts))):
            pairs = [(text, output) for text in side for output in self.classes]
            lengths = [len(self.texts[text]) for text, _ in pairs]
            for batch in token_batches(lengths, self.room.max_tokens):
                start = len(self.values)
                self.values += [pairs[i] for i in batch]
                self.batches.append(range(start, len(self.values)))
            counts.append(len(pairs))
        self.dtype = next(iter(self.parameters.values())).dtype
        floor = SIGN_FLOORS[self.dtype] if self.variant != "sgd" else 0.0
        columns = None if self.other is None else counts[1]
        self.sides = Sides(counts[0], columns, self.variant, floor)
        self.tokens = sum(self.lengths(range(self.sides.total)))

    def scalar(self, numbers: Sequence[int]) -> torch.Tensor:
        """Return f of one micro-batch, shape (B,), with its graph."""
        chosen = [self.values[number] for number in numbers]
        texts = [self.texts[text] for text, _ in chosen]
        found = network_outputs(self.model, texts, self.outputs, self.device)  # (B, C)
        wanted = torch.tensor([output for _, output in chosen], device=found.device)
        return found.gather(1, wanted[:, None]).squeeze(1)

    def lengths(self, numbers: Sequence[int]) -> list[int]:
        """Return the numbers of tokens."""
        return [len(self.texts[self.values[number][0]]) for number in numbers]

    def texts_of(self, numbers: Sequence[int]) -> list[int]:
        """Return the texts' places in what the caller gave."""
        first, second = self.starts
        shift = len(self.examples)
        texts = [self.values[number][0] for number in numbers]
        return [t + first if t < shift else t - shift + second for t in texts]

    def places(self) -> torch.Tensor:
        """Return each value's number, in the order of the caller's texts and of the outputs."""
        return torch.tensor([text * len(self.classes) + c for text, c in self.values]).argsort()

    @functools.cached_property
    def pair(self) -> list[int]:
        """The numbers of two short examples, on which the network is tried out."""
        # They are not so short that attention has nothing to weigh, and of different lengths if
        # there are any: rows that a model packs show then.
        pairs = sorted((n, i) for i, n in enumerate(self.lengths(range(self.sides.total))))
        enough = min(8, pairs[-1][0])
        short = [pair for pair in pairs if pair[0] < enough]
        first, *others = pairs[len(short) :] + short[::-1]
        other = next((pair for pair in others if pair[0] != first[0]), (others or [first])[0])
        return [first[1], other[1]]
