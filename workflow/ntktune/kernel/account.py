"""What a kernel costs, counted on paper: FLOPs and bytes, before anything is computed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ntktune.errors import UserError
from ntktune.kernel.products import Sides, cheaper_form, linear_costs
from ntktune.network.models import linear_weights

ITEM_BYTES = 4  # of float32


@dataclass(frozen=True)
class Account:
    """FLOPs and bytes of one kernel, block by block."""

    parameters: int  # P
    tokens: int  # all tokens of the N examples
    forward: float  # FLOPs of the two forward passes
    backward: float  # of the backward pass; no weight gradient is computed in it
    gram: float  # of the layers' Grams, in the cheaper form for each
    weights: int  # bytes
    kept: int  # bytes of every block's kept input
    captured: int  # bytes of one block's captured inputs and output gradients
    jacobian: int  # bytes of the N x P Jacobian, which is never stored

    @property
    def flops(self) -> float:
        """All FLOPs."""
        return self.forward + self.backward + self.gram

    @property
    def peak(self) -> int:
        """Bytes held at once."""
        return self.weights + self.kept + self.captured


def account(
    backbone: nn.Module, blocks: Sequence[nn.Module], lengths: Sequence[int], outputs: int = 1
) -> Account:
    """Return what the kernel of texts with ``lengths`` tokens costs, all parameters trainable.

    The kernels of C ``outputs`` are computed one after the other: C times the work, in the same
    memory. The ``backbone`` may be on the meta device.
    """
    if not lengths or min(lengths) < 1:
        raise UserError(f"lengths are {list(lengths)}; a kernel needs texts of one token or more")
    tokens, count = sum(lengths), len(lengths)
    parameters = sum(p.numel() for p in backbone.parameters())
    embedded = backbone.get_input_embeddings().embedding_dim
    width = getattr(backbone.config, "hidden_size", embedded)
    shapes = [tuple(weight.shape) for weight in linear_weights(backbone).values()]
    products = 2.0 * tokens * sum(a * b for a, b in shapes)
    # queries with keys, weights with values: T x T x D each
    attention = 4.0 * sum(n * n for n in lengths) * width * len(blocks)
    widest = max(sum(sum(w.shape) for w in linear_weights(b).values()) for b in blocks)
    owner = torch.repeat_interleave(torch.arange(count), torch.tensor(list(lengths)))
    forms = [linear_costs(owner, Sides(count), a, b) for a, b in shapes]
    return Account(
        parameters=parameters,
        tokens=tokens,
        forward=outputs * 2 * (products + attention),
        backward=outputs * (products + 2 * attention),
        gram=outputs * sum(costs[cheaper_form(costs)][0] for costs in forms),
        weights=ITEM_BYTES * parameters,
        kept=ITEM_BYTES * tokens * width * len(blocks),
        captured=ITEM_BYTES * tokens * widest,
        jacobian=ITEM_BYTES * count * parameters,
    )


def plan_text(found: Account, examples: int, rate: float) -> str:
    """Return what a kernel costs in a few lines, on a device that does ``rate`` FLOPs a second."""
    gib = 2**30
    return (
        f"{found.parameters / 1e6:,.1f} million parameters, {examples} texts, "
        f"{found.tokens:,} tokens, float32\n"
        f"FLOPs    forward {found.forward:.2e}  backward {found.backward:.2e}  "
        f"Gram {found.gram:.2e}  together {found.flops:.2e}\n"
        f"memory   weights {found.weights / gib:.2f}  blocks' inputs {found.kept / gib:.2f}  "
        f"one block's captures {found.captured / gib:.2f}  together {found.peak / gib:.2f} GiB\n"
        f"         (the Jacobian, which is never stored: {found.jacobian / gib:.2f} GiB)\n"
        f"time     {found.flops / rate:,.1f} s at {rate / 1e12:.2f} TFLOP/s, if all of it were "
        "large products"
    )
