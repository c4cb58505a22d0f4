"""What a kernel costs, counted on paper: FLOPs and bytes, before anything is computed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ntktune.errors import UserError
from ntktune.kernel.engine import PROCESSOR_BYTES, PROCESSOR_TOKENS
from ntktune.kernel.products import BLOCK_NUMBERS, Sides, cheaper_form, linear_costs
from ntktune.network.models import fit, linear_weights

ITEM_BYTES = 4  # of float32
# What else a process was seen to take on a processor: code for the products, memory in pieces.
LIBRARY_BYTES = 256 * 2**20
# How often all weights are converted that stay in their files: loading, trials on two texts, each
# way through the blocks, and the check of the result. Measured with a network of 24 blocks.
READS = 13
PIECES = 1.5  # of the captures: the next block's are made while memory of the last lies in pieces


@dataclass(frozen=True)
class Account:
    """FLOPs and bytes of one kernel, block by block where its captures do not fit at once."""

    parameters: int  # P
    tokens: int  # all tokens that go through the network
    forward: float  # FLOPs of the forward pass, of two where it is block by block
    backward: float  # of the backward pass; no weight gradient is computed in it
    gram: float  # of the layers' Grams, in the cheaper form for each
    weights: int  # bytes
    block: int  # bytes of the weights of the largest block
    kept: int  # bytes of every block's kept input, where one block is run after the other
    captured: int  # bytes of the inputs and output gradients captured at once
    working: int  # of a micro-batch's graph, gradients made from captures, Grams, libraries
    check: int  # bytes of the two texts' gradients that the result is compared with
    jacobian: int  # bytes of the N x P Jacobian, which is never stored

    @property
    def flops(self) -> float:
        """All FLOPs."""
        return self.forward + self.backward + self.gram

    @property
    def peak(self) -> int:
        """Bytes held at once."""
        return self.weights + self.kept + self.captured + self.working + self.check

    @property
    def streamed_peak(self) -> int:
        """Bytes held at once where the weights stay in their files.

        Two blocks' are kept: the weights, and as much memory for the next ones.
        """
        held = 2 * self.block + min(self.check, 2 * self.block)
        return self.peak - self.weights - self.check + held


def account(
    backbone: nn.Module,
    blocks: Sequence[nn.Module],
    lengths: Sequence[int],
    classes: int = 2,
    columns: int | None = None,
) -> Account:
    """Return what the kernel of texts with ``lengths`` tokens costs, all parameters trainable.

    Two ``classes``, as a score, have one kernel, of their logits' difference. Those of C outputs
    are computed one after the other: C times the work, in the same memory, which is stated for a
    processor, at most. ``columns`` of the texts, the first, run once more as the kernel's columns;
    None: all are, and run once. The ``backbone`` may be on the meta device.
    """
    if not lengths or min(lengths) < 1:
        raise UserError(f"lengths are {list(lengths)}; a kernel needs texts of one token or more")
    outputs = classes if classes > 2 else 1
    lengths, count = [*lengths, *lengths[: columns or 0]], len(lengths)
    tokens, total = sum(lengths), len(lengths)
    parameters = sum(p.numel() for p in backbone.parameters())
    embedded = backbone.get_input_embeddings().embedding_dim
    width = getattr(backbone.config, "hidden_size", embedded)
    shapes = [tuple(weight.shape) for weight in linear_weights(backbone).values()]
    products = 2.0 * tokens * sum(a * b for a, b in shapes)
    # queries with keys, weights with values: T x T x D each
    attention = 4.0 * sum(n * n for n in lengths) * width * len(blocks)
    numbers = [sum(sum(w.shape) for w in linear_weights(b).values()) for b in blocks]
    whole = ITEM_BYTES * tokens * sum(numbers) <= PROCESSOR_BYTES / 2  # else block by block
    at_once = sum(numbers) if whole else max(numbers)
    gradients = min(BLOCK_NUMBERS, total * max(a * b for a, b in shapes))
    graph = 2 * at_once * min(tokens, max(PROCESSOR_TOKENS, *lengths))
    sides = Sides(count, columns)
    # one float64 Gram for each group: attention and the rest of each block, norms, embedding, head
    grams = 8 * math.prod(sides.shape) * (2 * len(blocks) + 3)
    owner = torch.repeat_interleave(torch.arange(total), torch.tensor(lengths))
    forms = [linear_costs(owner, sides, a, b) for a, b in shapes]
    return Account(
        parameters=parameters,
        tokens=tokens,
        forward=outputs * (1 if whole else 2) * (products + attention),
        backward=outputs * (products + 2 * attention),
        gram=outputs * sum(costs[cheaper_form(costs)][0] for costs in forms),
        weights=ITEM_BYTES * parameters,
        block=ITEM_BYTES * max(sum(p.numel() for p in block.parameters()) for block in blocks),
        kept=0 if whole else ITEM_BYTES * tokens * width * len(blocks),
        captured=round(PIECES * ITEM_BYTES * tokens * at_once),
        working=LIBRARY_BYTES + ITEM_BYTES * (gradients + graph) + (2 + (outputs > 1)) * grams,
        check=min(PROCESSOR_BYTES, ITEM_BYTES * min(2, count) * parameters),
        jacobian=ITEM_BYTES * total * parameters,
    )


def plan_text(
    found: Account, examples: int, rate: float, free: int, files: tuple[int, float] | None
) -> str:
    """Return what a kernel costs in a few lines.

    The device does ``rate`` FLOPs a second and has ``free`` bytes; ``files`` of weights have so
    many bytes, of which so many are read a second, None if there are none.
    """
    gib = 2**30
    return (
        f"{found.parameters / 1e6:,.1f} million parameters, {examples} texts, "
        f"{found.tokens:,} tokens, float32\n"
        f"FLOPs    forward {found.forward:.2e}  backward {found.backward:.2e}  "
        f"Gram {found.gram:.2e}  together {found.flops:.2e}\n"
        f"memory   weights {found.weights / gib:.2f}  blocks' inputs {found.kept / gib:.2f}  "
        f"captures {found.captured / gib:.2f}  working {found.working / gib:.2f}  self-check "
        f"{found.check / gib:.2f}  together {found.peak / gib:.2f} GiB, at most, on a processor\n"
        f"         (the Jacobian, which is never stored: {found.jacobian / gib:.2f} GiB)\n"
        f"time     {found.flops / rate:,.1f} s at {rate / 1e12:.2f} TFLOP/s, if all of it were "
        f"large products\n{_weights_told(found, free, files)}"
    )


def _weights_told(found: Account, free: int, files: tuple[int, float] | None) -> str:
    """Return whether the weights stay in their files, and what that costs."""
    gib = 2**30
    there = f"three quarters of {free / gib:.1f} GiB that are free"
    if fit(found.weights, free):
        told = f"weights  in memory: they fit in {there}; with --stream in their files"
    else:
        told = f"weights  in their files: they do not fit in {there}"
    told += f", {found.streamed_peak / gib:.2f} GiB together"
    if files:
        size, speed = files
        told += (
            f";\n         read up to {READS} times, {READS * size / 1e9:,.0f} GB, of which the "
            f"system keeps what it has room for: {READS * size / speed:,.0f} s at most at "
            f"{speed / 1e9:.2f} GB/s"
        )
    return told
