"""Gram matrices from captured inputs and output gradients.

All sums over blocks run in float64: one float32 product over tens of millions of
columns is visibly worse. Examples are numbered 0..N-1 here; ``owner`` names the
example of each captured row and is sorted.
"""

from __future__ import annotations

import torch

from ntktune.matmul import product_transposed

COLUMNS = 65_536  # parameters per materialised product
TILE_ROWS = 1_024  # tokens per side of a token-pair tile: large enough for fast products


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


def linear_costs(rows: int, examples: int, d_in: int, d_out: int) -> dict[str, float]:
    """Return the FLOPs of both exact forms of a linear layer's Gram.

    Token pairs: two products of all rows with all rows, one triangle of it. Materialised:
    every example's gradient once, then its products with all others.
    """
    parameters = d_in * d_out
    return {
        "token pairs": rows * (rows + min(rows, TILE_ROWS)) * (d_in + d_out),
        "materialised": 2 * rows * parameters + 2 * examples**2 * parameters,
    }


def linear_gram(
    inputs: torch.Tensor, gradients: torch.Tensor, owner: torch.Tensor, examples: int
) -> tuple[torch.Tensor, str]:
    """Return the Gram of a linear layer's weight, and the form it was computed in.

    K[i, j] = Σ_{s∈i, t∈j} (a_s·a_t)(g_s·g_t) = ⟨g_iᵀa_i, g_jᵀa_j⟩ (Novak et al.
    2022), by the form that needs fewer FLOPs.

    Parameters
    ----------
    inputs, gradients
        a, shape (M, d_in), and g, shape (M, d_out): the layer's inputs and the gradients
        of f with respect to its outputs, one row per token.
    owner
        Example of each row, shape (M,), sorted.
    examples
        N.
    """
    costs = linear_costs(len(inputs), examples, inputs.shape[1], gradients.shape[1])
    form = min(costs, key=costs.get)
    compute = token_pair_gram if form == "token pairs" else materialised_gram
    return compute(inputs, gradients, owner, examples), form


def _tiles(counts: list[int]) -> list[tuple[int, int, int, int]]:
    """Return (first example, end, first row, end) of runs of about TILE_ROWS rows."""
    tiles, example, row = [], 0, 0
    first_example, first_row = 0, 0
    for count in counts:
        if row > first_row and row - first_row + count > TILE_ROWS:
            tiles.append((first_example, example, first_row, row))
            first_example, first_row = example, row
        example, row = example + 1, row + count
    if row > first_row:
        tiles.append((first_example, example, first_row, row))
    return tiles


def token_pair_gram(
    inputs: torch.Tensor, gradients: torch.Tensor, owner: torch.Tensor, examples: int
) -> torch.Tensor:
    """Return the Gram of :func:`linear_gram` as (A Aᵀ) ∘ (G Gᵀ), summed over example pairs."""
    gram = torch.zeros(examples, examples, dtype=torch.float64, device=inputs.device)
    tiles = []
    for i0, i1, r0, r1 in _tiles(torch.bincount(owner, minlength=examples).tolist()):
        members = torch.zeros(i1 - i0, r1 - r0, dtype=torch.float64, device=inputs.device)
        members[owner[r0:r1] - i0, torch.arange(r1 - r0, device=owner.device)] = 1.0
        tiles.append((slice(i0, i1), slice(r0, r1), members))
    for n, (left, left_rows, left_members) in enumerate(tiles):
        a, g = _working(inputs[left_rows]), _working(gradients[left_rows])
        for right, right_rows, right_members in tiles[n:]:
            pairs = product_transposed(a, _working(inputs[right_rows]))
            pairs *= product_transposed(g, _working(gradients[right_rows]))
            block = left_members @ (pairs.double() @ right_members.T)
            gram[left, right] = block
            gram[right, left] = block.T
    return gram


def materialised_gram(
    inputs: torch.Tensor,
    gradients: torch.Tensor,
    owner: torch.Tensor,
    examples: int,
    tokens: torch.Tensor | None = None,
    token_gradients: torch.Tensor | None = None,
    token_owner: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the Gram of :func:`linear_gram` from per-example gradients, in row blocks.

    Parameters
    ----------
    inputs, gradients, owner, examples
        As in :func:`linear_gram`.
    tokens, token_gradients, token_owner
        Uses of the same weight as an embedding: ids (M',), output gradients (M', d_in)
        and examples. They are added to the gradients before any product.
    """
    d_in, d_out = inputs.shape[1], gradients.shape[1]
    gram = torch.zeros(examples, examples, dtype=torch.float64, device=inputs.device)
    width = max(1, block_columns(examples) // d_in)
    ends = torch.bincount(owner, minlength=examples).cumsum(0).tolist()
    for first in range(0, d_out, width):
        last = min(first + width, d_out)
        block = torch.zeros(
            examples, last - first, d_in, dtype=_working(inputs[:0]).dtype, device=inputs.device
        )
        g = _working(gradients[:, first:last]).T  # (rows of the weight, M)
        start = 0
        for example, end in enumerate(ends):
            if end > start:
                block[example] = product_transposed(g[:, start:end], _working(inputs[start:end]).T)
            start = end
        if tokens is not None:
            here = ((tokens >= first) & (tokens < last)).nonzero().flatten()
            rows = token_owner[here] * (last - first) + tokens[here] - first
            block.view(-1, d_in).index_add_(0, rows, _working(token_gradients[here]))
        flat = block.view(examples, -1)
        gram += product_transposed(flat, flat).double()
    return gram


def embedding_gram(
    tokens: torch.Tensor, gradients: torch.Tensor, owner: torch.Tensor, examples: int
) -> torch.Tensor:
    """Return the Gram of an embedding's weight, by equal tokens.

    Parameters
    ----------
    tokens
        Ids, shape (M,).
    gradients
        Gradients of f with respect to the embedding's outputs, shape (M, D).
    owner
        Example of each row, shape (M,).
    examples
        N.
    """
    gram = torch.zeros(examples, examples, dtype=torch.float64, device=gradients.device)
    # a token's rows within one example are one row of the weight's gradient
    keys, position = torch.unique(tokens * examples + owner, return_inverse=True)
    rows = _working(gradients[:0]).new_zeros(len(keys), gradients.shape[1])
    rows.index_add_(0, position, _working(gradients))
    holder = keys % examples
    shared = torch.unique_consecutive(keys // examples, return_counts=True)[1]
    starts = shared.cumsum(0) - shared
    for count in torch.unique(shared).tolist():  # all tokens that `count` examples hold
        index = starts[shared == count][:, None] + torch.arange(count, device=keys.device)
        block, who = rows[index], holder[index]  # (tokens, count, D), (tokens, count)
        products = (block @ block.transpose(1, 2)).double()  # (tokens, count, count)
        where = (who[:, :, None].expand_as(products), who[:, None, :].expand_as(products))
        gram.index_put_(where, products, accumulate=True)
    return gram
