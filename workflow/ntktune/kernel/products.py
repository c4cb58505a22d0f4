"""Gram matrices from captured inputs and output gradients.

All sums over blocks run in float64: one float32 product over tens of millions of
columns is visibly worse. Examples are numbered from 0; ``owner`` names the example of
each captured row and is sorted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ntktune.matmul import product_transposed

COLUMNS = 65_536  # parameters per materialised product
# Tokens per side of a token-pair tile: small enough that little beside the triangle is computed
# and that a processor's caches hold it, large enough for fast products on a GPU.
TILE_ROWS = 256
GPU_TILE_ROWS = 2_048


@dataclass(frozen=True)
class Sides:
    """Which examples are the rows of a Gram, and which are its columns.

    Attributes
    ----------
    rows
        N: examples 0 … N-1 are the rows.
    columns
        M: examples N … N+M-1 are the columns; None: the columns are the rows' examples,
        and the Gram is symmetric.
    """

    rows: int
    columns: int | None = None

    @property
    def total(self) -> int:
        """All examples."""
        return self.rows + (self.columns or 0)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the Gram."""
        return self.rows, self.rows if self.columns is None else self.columns

    @property
    def pairs(self) -> int:
        """Entries of the Gram."""
        return self.shape[0] * self.shape[1]

    def split(self, gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows' and the columns' part of something with an entry per example."""
        left = gradients[: self.rows]
        return left, left if self.columns is None else gradients[self.rows :]


def _working(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor in the precision of products: never less than float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def block_columns(examples: int) -> int:
    """Return how many columns of all examples' gradients to hold at once (at most 2^26 numbers)."""
    return max(1, min(COLUMNS, 2**26 // max(1, examples)))


def inner_products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return left @ right.T, (N, P) and (M, P) to (N, M), float64 sums over column blocks."""
    total = torch.zeros(len(left), len(right), dtype=torch.float64, device=left.device)
    for start in range(0, left.shape[1], COLUMNS):
        block = slice(start, start + COLUMNS)
        total += product_transposed(_working(left[:, block]), _working(right[:, block])).double()
    return total


def _tile_rows(device: torch.device) -> int:
    return TILE_ROWS if device.type == "cpu" else GPU_TILE_ROWS


def linear_costs(owner: torch.Tensor, sides: Sides, d_in: int, d_out: int) -> dict[str, float]:
    """Return the FLOPs of both exact forms of a linear layer's Gram.

    Token pairs: two products of the rows' tokens with the columns' (one triangle if they
    are the same). Materialised: every example's gradient once, then the products. The
    arguments are those of :func:`linear_gram`.
    """
    left = int((owner < sides.rows).sum())
    right = len(owner) - left
    symmetric = left * (left + min(left, _tile_rows(owner.device)))
    pairs = symmetric if sides.columns is None else 2 * left * right
    return {
        "token pairs": pairs * (d_in + d_out),
        "materialised": 2 * (len(owner) + sides.pairs) * d_in * d_out,
    }


def linear_gram(
    inputs: torch.Tensor, gradients: torch.Tensor, owner: torch.Tensor, sides: Sides
) -> tuple[torch.Tensor, str]:
    """Return the Gram of a linear layer's weight, and the form it was computed in.

    K[i, j] = Σ_{s∈i, t∈j} (a_s·a_t)(g_s·g_t) = ⟨g_iᵀa_i, g_jᵀa_j⟩ (Novak et al.
    2022), by the form that needs fewer FLOPs.

    Parameters
    ----------
    inputs, gradients
        a, shape (R, d_in), and g, shape (R, d_out): the layer's inputs and the gradients
        of f with respect to its outputs, one row per token.
    owner
        Example of each row, shape (R,), sorted.
    sides
        Which examples are rows and columns.
    """
    costs = linear_costs(owner, sides, inputs.shape[1], gradients.shape[1])
    form = min(costs, key=costs.get)
    compute = token_pair_gram if form == "token pairs" else materialised_gram
    return compute(inputs, gradients, owner, sides), form


@dataclass
class _Tile:
    """A run of examples, their rows, and which row belongs to which example."""

    examples: slice
    rows: slice
    members: torch.Tensor  # (examples, rows), 1 where the row is the example's


def _tiles(owner: torch.Tensor, first: int, last: int, like: torch.Tensor) -> list[_Tile]:
    """Return tiles of about TILE_ROWS rows, of the examples ``first`` … ``last``-1.

    The tiles' examples are counted from ``first``; ``like`` gives precision and device.
    """
    start, most = int((owner < first).sum()), _tile_rows(owner.device)
    counts = torch.bincount(owner, minlength=last)[first:last].tolist()
    bounds, example, row = [], first, start
    first_example, first_row = first, start
    for count in counts:
        if row > first_row and row - first_row + count > most:
            bounds.append((first_example, example, first_row, row))
            first_example, first_row = example, row
        example, row = example + 1, row + count
    if row > first_row:
        bounds.append((first_example, example, first_row, row))
    tiles = []
    for i0, i1, r0, r1 in bounds:
        members = torch.zeros(i1 - i0, r1 - r0, dtype=like.dtype, device=like.device)
        members[owner[r0:r1] - i0, torch.arange(r1 - r0, device=owner.device)] = 1.0
        tiles.append(_Tile(slice(i0 - first, i1 - first), slice(r0, r1), members))
    return tiles


def token_pair_gram(
    inputs: torch.Tensor, gradients: torch.Tensor, owner: torch.Tensor, sides: Sides
) -> torch.Tensor:
    """Return the Gram of :func:`linear_gram` as (A Aᵀ) ∘ (G Gᵀ), summed over example pairs."""
    gram = torch.zeros(sides.shape, dtype=torch.float64, device=inputs.device)
    inputs, gradients = _working(inputs), _working(gradients)
    left_tiles = _tiles(owner, 0, sides.rows, inputs)
    symmetric = sides.columns is None
    right_tiles = left_tiles if symmetric else _tiles(owner, sides.rows, sides.total, inputs)
    for n, left in enumerate(left_tiles):
        a, g = inputs[left.rows], gradients[left.rows]
        for right in right_tiles[n if symmetric else 0 :]:
            pairs = product_transposed(a, inputs[right.rows])
            pairs *= product_transposed(g, gradients[right.rows])
            # the few products of a text's own tokens in their precision, the rest in float64
            sums = product_transposed(pairs, right.members).double()
            block = left.members.double() @ sums
            gram[left.examples, right.examples] = block
            if symmetric:
                gram[right.examples, left.examples] = block.T
    return gram


def materialised_gram(
    inputs: torch.Tensor,
    gradients: torch.Tensor,
    owner: torch.Tensor,
    sides: Sides,
    tokens: torch.Tensor | None = None,
    token_gradients: torch.Tensor | None = None,
    token_owner: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the Gram of :func:`linear_gram` from per-example gradients, in row blocks.

    Parameters
    ----------
    inputs, gradients, owner, sides
        As in :func:`linear_gram`.
    tokens, token_gradients, token_owner
        Uses of the same weight as an embedding: ids (R',), output gradients (R', d_in)
        and examples. They are added to the gradients before any product.
    """
    d_in, d_out = inputs.shape[1], gradients.shape[1]
    gram = torch.zeros(sides.shape, dtype=torch.float64, device=inputs.device)
    width = max(1, block_columns(sides.total) // d_in)
    ends = torch.bincount(owner, minlength=sides.total).cumsum(0).tolist()
    for first in range(0, d_out, width):
        last = min(first + width, d_out)
        block = torch.zeros(
            sides.total, last - first, d_in, dtype=_working(inputs[:0]).dtype, device=inputs.device
        )
        g = _working(gradients[:, first:last]).T  # (rows of the weight, R)
        start = 0
        for example, end in enumerate(ends):
            if end > start:
                block[example] = product_transposed(g[:, start:end], _working(inputs[start:end]).T)
            start = end
        if tokens is not None:
            here = ((tokens >= first) & (tokens < last)).nonzero().flatten()
            rows = token_owner[here] * (last - first) + tokens[here] - first
            block.view(-1, d_in).index_add_(0, rows, _working(token_gradients[here]))
        left, right = sides.split(block.view(sides.total, -1))
        gram += product_transposed(left, right).double()
    return gram


def embedding_gram(
    tokens: torch.Tensor, gradients: torch.Tensor, owner: torch.Tensor, sides: Sides
) -> torch.Tensor:
    """Return the Gram of an embedding's weight, by equal tokens.

    Parameters
    ----------
    tokens
        Ids, shape (R,).
    gradients
        Gradients of f with respect to the embedding's outputs, shape (R, D).
    owner
        Example of each row, shape (R,).
    sides
        Which examples are rows and columns.
    """
    gram = torch.zeros(sides.total, sides.total, dtype=torch.float64, device=gradients.device)
    # a token's rows within one example are one row of the weight's gradient
    keys, position = torch.unique(tokens * sides.total + owner, return_inverse=True)
    rows = _working(gradients[:0]).new_zeros(len(keys), gradients.shape[1])
    rows.index_add_(0, position, _working(gradients))
    holder = keys % sides.total
    shared = torch.unique_consecutive(keys // sides.total, return_counts=True)[1]
    starts = shared.cumsum(0) - shared
    for count in torch.unique(shared).tolist():  # all tokens that `count` examples hold
        index = starts[shared == count][:, None] + torch.arange(count, device=keys.device)
        block, who = rows[index], holder[index]  # (tokens, count, D), (tokens, count)
        products = (block @ block.transpose(1, 2)).double()  # (tokens, count, count)
        where = (who[:, :, None].expand_as(products), who[:, None, :].expand_as(products))
        gram.index_put_(where, products, accumulate=True)
    return gram if sides.columns is None else gram[: sides.rows, sides.rows :]
