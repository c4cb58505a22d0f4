"""Gram matrices from captured inputs and output gradients.

All sums over blocks run in float64: one float32 product over tens of millions of columns is visibly
worse. ``owner``, the number of each captured row's example, is sorted and on the processor: what
depends on it alone is known without waiting for a GPU.
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import torch
from threadpoolctl import ThreadpoolController

from ntktune.network.device import is_processor
from ntktune.network.matmul import product_transposed

# Which products of gradients the kernel has (Malladi et al. 2023).
VARIANTS = ("sgd", "signgd", "asymmetric-signgd")

CPU = torch.device("cpu")
COLUMNS = 65_536  # parameters per product of gradients, summed in float32
THREAD_COLUMNS = 16_384  # of them, where a processor multiplies gradients with themselves
THREAD_ROWS = 16  # with fewer gradients threads cost more than they save
# Numbers of all examples' gradients that are made at once: 16 MB in float32, which a processor's
# caches hold until they are multiplied.
BLOCK_NUMBERS = 2**22
GPU_BLOCK_NUMBERS = 2**24
# Tokens per side of a token-pair tile: small enough that little beside the triangle is computed
# and that a processor's caches hold it, large enough for fast products on a GPU.
TILE_ROWS = 256
GPU_TILE_ROWS = 2_048
# An example's tokens are filled up with zeros to a multiple of this: gradients of as many tokens
# are made in one batched product.
TOKEN_MULTIPLE = 8
GPU_GRAM_ROWS = 1_024  # of a Gram's tile there: of a symmetric one a triangle is computed
# Where signs are taken, an entry of a gradient is zero but for rounding, and has sign 0, if it is
# at most this share of the largest entry in the gradient of its layer (a module's weight and bias)
# on the same text. Attention's key biases are: a softmax does not change when all scores shift.
SIGN_FLOORS = {torch.float64: 3e-7, torch.float32: 3e-5, torch.bfloat16: 3e-2}
# What the materialised form costs beside FLOPs of token-pair tiles (benchmarks/products.py):
WRITE_TOKENS = 40  # whose products take as long as to write an example's gradient
GRAM_COST = 1.15  # the Gram is a product of tall and thin matrices


@dataclass(frozen=True)
class Sides:
    """Which examples are the rows of a Gram, and which are its columns.

    Examples 0 … N-1 are the ``rows``; the next M are the ``columns``, None: the rows' examples.
    ``variant`` is ``sgd``: ⟨∇f, ∇f'⟩, ``signgd``: ⟨sign ∇f, sign ∇f'⟩, or ``asymmetric-signgd``:
    ⟨sign ∇f, ∇f'⟩, f of the row. ``floor`` is one of :data:`SIGN_FLOORS`, 0 without signs.
    """

    rows: int
    columns: int | None = None
    variant: str = "sgd"
    floor: float = 0.0

    @property
    def total(self) -> int:
        """All examples."""
        return self.rows + (self.columns or 0)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the Gram."""
        return self.rows, self.rows if self.columns is None else self.columns

    @property
    def symmetric(self) -> bool:
        """Whether the Gram is its own transpose."""
        return self.columns is None and self.variant != "asymmetric-signgd"

    def settled(self, gradients: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
        """Return gradients (..., P) with 0 for the entries that are zero but for rounding."""
        # `largest` (...) is the largest absolute entry of the layer's gradient on the same text
        return gradients.masked_fill(gradients.abs() <= self.floor * largest[..., None], 0.0)

    def split(self, gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows' and the columns' part of something with an entry per example."""
        left = gradients[: self.rows]
        return left, left if self.columns is None else gradients[self.rows :]

    def factors(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what is multiplied: gradients, or their signs; one tensor if both are one."""
        if self.variant == "sgd":
            return left, right
        signs = left.sign()
        if self.variant == "asymmetric-signgd":
            return signs, right
        return signs, signs if left is right else right.sign()


class Rows(NamedTuple):
    """Rows of a weight's uses, one per token: inputs a, output gradients g, and their examples.

    ``met`` holds inputs (R, d_in), or token ids (R,) of an embedding; ``gradients`` those of f
    with respect to the outputs, (R, d_out); ``owner`` each row's example, (R,), sorted.
    """

    met: torch.Tensor
    gradients: torch.Tensor
    owner: torch.Tensor


class Workspace:
    """Memory that one product after the other uses: fresh pages cost more than filling them."""

    def __init__(self) -> None:
        self.memory = torch.empty(0)

    def empty(self, size: int, like: torch.Tensor) -> torch.Tensor:
        """Return a vector with anything in it, valid until the next call."""
        known = self.memory
        if len(known) < size or known.dtype != like.dtype or known.device != like.device:
            self.memory = known = torch.empty(0)  # the old memory is freed before
            self.memory = like.new_empty(size)
        return self.memory[:size]


def working_dtype(tensor: torch.Tensor) -> torch.dtype:
    """Return the precision of products with a tensor: never less than float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _working(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(working_dtype(tensor))


@functools.cache
def _openblas() -> ThreadpoolController:
    """Return what sets the number of threads of NumPy's library."""
    return ThreadpoolController().select(internal_api="openblas")


def one_thread_each() -> contextlib.AbstractContextManager:
    """Let NumPy multiply on one thread, in a context: the pieces of a Gram have one each."""
    return _openblas().limit(limits=1)


def _squares(rows: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield rows @ rows.T, (N, P) to (N, N), of one run of columns after the other."""
    if not is_processor(rows.device):
        yield from map(_by_tiles, rows.split(COLUMNS, dim=1))
        return
    # One thread has a piece: the bits are the same for any number of threads, and none waits for
    # PyTorch's.
    pieces, threads = rows.split(THREAD_COLUMNS, dim=1), torch.get_num_threads()
    if threads == 1 or len(pieces) == 1 or len(rows) < THREAD_ROWS:
        yield from map(_square, pieces)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(_square, pieces)


def _square(rows: torch.Tensor) -> torch.Tensor:
    """Return rows @ rows.T on a processor: NumPy computes half of a product with itself."""
    array = _working(rows).numpy()
    return torch.from_numpy(array @ array.T)


def _by_tiles(rows: torch.Tensor) -> torch.Tensor:
    """Return rows @ rows.T on a GPU, of which tiles of one triangle are computed."""
    rows = _working(rows)
    found = rows.new_empty(len(rows), len(rows))
    for i in range(0, len(rows), GPU_GRAM_ROWS):
        tile, rest = slice(i, i + GPU_GRAM_ROWS), slice(i, None)
        product = rows[tile] @ rows[rest].T
        found[tile, rest], found[rest, tile] = product, product.T
    return found


def inner_products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return left @ right.T, (N, P) and (M, P) to (N, M), float64 sums over column blocks."""
    total = torch.zeros(len(left), len(right), dtype=torch.float64, device=left.device)
    if right is left:
        products = _squares(left)
    else:
        sides = (map(_working, side.split(COLUMNS, dim=1)) for side in (left, right))
        products = map(product_transposed, *sides)
    for product in products:
        total += product
    return total


def _fitting(device: torch.device, processor: int, gpu: int) -> int:
    """Return which of two sizes holds on a device."""
    return processor if is_processor(device) else gpu


def _tile_rows(device: torch.device) -> int:
    return _fitting(device, TILE_ROWS, GPU_TILE_ROWS)


def linear_costs(
    owner: torch.Tensor, sides: Sides, d_in: int, d_out: int, device: torch.device = CPU
) -> dict[str, tuple[float, float]]:
    """Return the FLOPs of the exact forms of a linear layer's Gram, and what that costs.

    Token pairs: two products of the rows' tokens with the columns' (one triangle if they are the
    same). Materialised: every example's gradient once, then the products. The cost is in FLOPs of
    large products.
    """
    left = int((owner < sides.rows).sum())
    right = len(owner) - left
    size, count = 2.0 * d_in * d_out, sides.rows
    triangle = count * (count + min(count, _fitting(device, 1, GPU_GRAM_ROWS))) / 2
    gradients = size * len(owner)
    grams = size * (triangle if sides.symmetric else math.prod(sides.shape))
    writing = size * WRITE_TOKENS * sides.total
    costs = {"materialised": (gradients + grams, gradients + writing + GRAM_COST * grams)}
    if sides.variant == "sgd":
        symmetric = left * (left + min(left, _tile_rows(device)))
        pairs = float(symmetric if sides.columns is None else 2 * left * right) * (d_in + d_out)
        costs["token pairs"] = (pairs, pairs)
    return costs


def cheaper_form(costs: dict[str, tuple[float, float]]) -> str:
    """Return the form of :func:`linear_costs` that costs less."""
    return min(costs, key=lambda form: costs[form][1])


def linear_gram(
    rows: Rows, sides: Sides, workspace: Workspace, largest: torch.Tensor | None = None
) -> tuple[torch.Tensor, str]:
    """Return the Gram of a linear layer's weight, and the form it was computed in.

    K[i, j] = Σ_{s∈i, t∈j} (a_s·a_t)(g_s·g_t) = ⟨g_iᵀa_i, g_jᵀa_j⟩ (Novak et al. 2022), by the form
    that costs less; the signs' Gram from the gradients. ``largest``: see :func:`materialised_gram`.
    """
    widths = rows.met.shape[1], rows.gradients.shape[1]
    form = cheaper_form(linear_costs(rows.owner, sides, *widths, rows.met.device))
    if form == "token pairs":
        return token_pair_gram(rows, sides), form
    return materialised_gram(rows, sides, workspace, None, largest), form


class _Tile(NamedTuple):
    """A run of rows, the examples that they belong to, and which to which."""

    examples: slice
    rows: slice
    members: torch.Tensor  # (examples, rows), 1 where the row is the example's


def _tiles(owner: torch.Tensor, first: int, last: int, like: torch.Tensor) -> list[_Tile]:
    """Return tiles of TILE_ROWS rows, their examples ``first`` … ``last``-1 counted from 0."""
    # all but the last equally large, for products of one shape; an example may be in two
    start, end = (int((owner < bound).sum()) for bound in (first, last))
    step = _tile_rows(like.device)
    tiles = []
    for r0 in range(start, end, step):
        r1 = min(r0 + step, end)
        i0, i1 = int(owner[r0]), int(owner[r1 - 1]) + 1
        members = torch.zeros(i1 - i0, r1 - r0, dtype=like.dtype)
        members[owner[r0:r1] - i0, torch.arange(r1 - r0)] = 1.0
        tiles.append(_Tile(slice(i0 - first, i1 - first), slice(r0, r1), members.to(like.device)))
    return tiles


def token_pair_gram(rows: Rows, sides: Sides) -> torch.Tensor:
    """Return the Gram of :func:`linear_gram` as (A Aᵀ) ∘ (G Gᵀ), summed over example pairs."""
    inputs, gradients, owner = _working(rows.met), _working(rows.gradients), rows.owner
    gram = torch.zeros(sides.shape, dtype=torch.float64, device=inputs.device)
    left_tiles = _tiles(owner, 0, sides.rows, inputs)
    symmetric = sides.columns is None
    right_tiles = left_tiles if symmetric else _tiles(owner, sides.rows, sides.total, inputs)
    for n, left in enumerate(left_tiles):
        a, g = inputs[left.rows], gradients[left.rows]
        for m in range(n if symmetric else 0, len(right_tiles)):
            right = right_tiles[m]
            pairs = product_transposed(a, inputs[right.rows])
            pairs *= product_transposed(g, gradients[right.rows])
            # the few products of a text's own tokens in their precision, the rest in float64
            sums = (pairs @ right.members.T).double()
            block = left.members.double() @ sums
            gram[left.examples, right.examples] += block
            if symmetric and m > n:
                gram[right.examples, left.examples] += block.T
    return gram


def materialised_gram(
    rows: Rows,
    sides: Sides,
    workspace: Workspace,
    tied: Rows | None = None,
    largest: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the Gram of :func:`linear_gram` from per-example gradients, in row blocks.

    ``tied`` are uses of the same weight as an embedding, added to the gradients before any
    product. ``largest``, for signs, is the largest entry of the layer's gradient on each text,
    (examples,): its bias's on entry, raised here to the weight's.
    """
    gram = torch.zeros(sides.shape, dtype=torch.float64, device=rows.met.device)
    blocks = functools.partial(_gradient_blocks, rows, sides.total, workspace, tied)
    if largest is not None:
        for block in blocks():
            torch.maximum(largest, block.abs().amax(dim=1).to(largest), out=largest)
    for block in blocks():
        settled = block if largest is None else sides.settled(block, largest.to(block))
        gram += inner_products(*sides.factors(*sides.split(settled)))
    return gram


def _gradient_blocks(
    rows: Rows, total: int, workspace: Workspace, tied: Rows | None
) -> Iterator[torch.Tensor]:
    """Yield the weight gradients in blocks (total, numbers), each valid until the next."""
    d_in, d_out = rows.met.shape[1], rows.gradients.shape[1]
    most = _fitting(rows.met.device, BLOCK_NUMBERS, GPU_BLOCK_NUMBERS)
    height = max(1, min(d_out, most // (total * d_in)))  # rows of the weight at once
    height = -(-d_out // -(-d_out // height))  # blocks of one size
    batches = list(_padded(rows, total))
    memory = workspace.empty(total * height * d_in, like=_working(rows.met[:0]))
    for first in range(0, d_out, height):
        here = min(height, d_out - first)
        block = memory[: total * here * d_in].view(total, here, d_in)
        for examples, inputs, gradients in batches:
            some = gradients[:, :, first : first + here].transpose(1, 2)
            torch.bmm(some, inputs, out=block[examples])
        if tied is not None:
            row, holder = tied.met - first, tied.owner.to(tied.met.device)
            inside = ((row >= 0) & (row < here)).nonzero().flatten()
            target = holder[inside] * here + row[inside]
            block.view(-1, d_in).index_add_(0, target, _working(tied.gradients[inside]))
        yield block.view(total, -1)


def _padded(rows: Rows, total: int) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Yield runs of examples of similar length with their inputs and gradients, (B, T, D)."""
    counts = torch.bincount(rows.owner, minlength=total)
    lengths = -(-counts // TOKEN_MULTIPLE) * TOKEN_MULTIPLE
    runs, sizes = torch.unique_consecutive(lengths, return_counts=True)
    example = row = 0
    for length, size in zip(runs.tolist(), sizes.tolist(), strict=True):
        those = slice(example, example + size)
        end = row + int(counts[those].sum())
        real = torch.arange(length) < counts[those, None]  # (B, T)
        places = real.flatten().nonzero().flatten().to(rows.met.device)
        both = (_spread(side[row:end], places, real.shape) for side in (rows.met, rows.gradients))
        yield those, *both
        example, row = those.stop, end


def _spread(rows: torch.Tensor, places: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return rows (R, D) at R places of B x T = ``shape``, zeros at others: (B, T, D)."""
    rows = _working(rows)
    found = rows.new_zeros(shape.numel(), rows.shape[1]).index_copy_(0, places, rows)
    return found.view(*shape, rows.shape[1])


def embedding_gram(uses: Rows, sides: Sides, largest: torch.Tensor | None = None) -> torch.Tensor:
    """Return the Gram of an embedding's weight, by equal tokens (see :func:`materialised_gram`)."""
    tokens, gradients, owner = uses
    gram = torch.zeros(sides.total, sides.total, dtype=torch.float64, device=gradients.device)
    owner = owner.to(tokens.device)
    # a token's rows within one example are one row of the weight's gradient
    keys, position = torch.unique(tokens * sides.total + owner, return_inverse=True)
    rows = _working(gradients[:0]).new_zeros(len(keys), gradients.shape[1])
    rows.index_add_(0, position, _working(gradients))
    holder = keys % sides.total
    if largest is not None:
        largest.scatter_reduce_(0, holder, rows.abs().amax(dim=1).to(largest), "amax")
        rows = sides.settled(rows, largest.to(rows)[holder])
    shared = torch.unique_consecutive(keys // sides.total, return_counts=True)[1]
    starts = shared.cumsum(0) - shared
    for count in torch.unique(shared).tolist():  # all tokens that `count` examples hold
        index = starts[shared == count][:, None] + torch.arange(count, device=keys.device)
        block, who = rows[index], holder[index]  # (tokens, count, D), (tokens, count)
        left, right = sides.factors(block, block)
        products = (left @ right.transpose(1, 2)).double()  # (tokens, count, count)
        where = (who[:, :, None].expand_as(products), who[:, None, :].expand_as(products))
        gram.index_put_(where, products, accumulate=True)
    return gram if sides.columns is None else gram[: sides.rows, sides.rows :]
