"""One kernel from many jobs: its shards, and whether they belong together."""

import itertools
from collections.abc import Iterable, Iterator, Mapping

import torch

from ntktune.errors import UserError
from ntktune.kernel.computation import TOLERANCES

IN_A_STUDY = ", in a study with: snakemake --forcerun kernel_draws_shard kernel_learning_shard"


def bands(rows: int, count: int) -> list[range]:
    """Return ``count`` runs of rows, together ``range(rows)``, of equal length up to one."""
    if not 1 <= count <= rows:
        raise UserError(f"{rows} rows cannot be split into {count} bands; give 1 to {rows}")
    ends = [rows * n // count for n in range(count + 1)]
    return [range(start, end) for start, end in itertools.pairwise(ends)]


def shards(count: int, *, symmetric: bool) -> list[tuple[int, int]]:
    """Return the shards of a kernel in ``count`` bands: of a symmetric one the upper triangle."""
    return [(i, j) for i in range(count) for j in range(i if symmetric else 0, count)]


def check_outputs(outputs: Mapping[tuple[int, int], torch.Tensor], dtype: torch.dtype) -> None:
    """Raise UserError unless all shards of a band have the same f_0, up to rounding."""
    # every shard computes f_0 of its rows anew: another model, head or text would show
    for (i, j), found in outputs.items():
        wanted = outputs[i, i]
        scale = max(found.abs().max().item(), wanted.abs().max().item())
        error = (found - wanted).abs().max().item()
        if not error <= TOLERANCES[dtype] * scale:
            raise UserError(
                f"the shards {i}-{i} and {i}-{j} differ by {error:.3g} in the outputs of the same "
                f"texts (the largest is {scale:.3g}): they are not of one network; compute "
                f"both again{IN_A_STUDY}"
            )


def check_bound(
    kernel: torch.Tensor, left: torch.Tensor, right: torch.Tensor, dtype: torch.dtype, name: str
) -> None:
    """Raise UserError unless |K(x, x')|² ≤ K(x, x) K(x', x'), up to rounding (Cauchy-Schwarz)."""
    # left (N,) and right (M,): the diagonal's entries for the shard's rows and columns
    bound = torch.outer(left.clamp(min=0).sqrt(), right.clamp(min=0).sqrt())
    excess = kernel.abs() - bound * (1 + TOLERANCES[dtype])
    worst = excess.argmax().item()
    if not excess.flatten()[worst] <= 0:  # nor where it is no number
        row, column = divmod(worst, kernel.shape[1])
        raise UserError(
            f"shard {name} has {kernel[row, column].item():.6g} in row {row}, column {column}, "
            f"more than the diagonal allows ({bound[row, column].item():.6g}): it is not of the "
            f"same kernel; compute it again{IN_A_STUDY}"
        )


# Place, band of rows and band of columns → a shard's tensors, which may be read when asked for.
Shards = Mapping[tuple[int, int], Mapping[str, torch.Tensor]]


def check_shards(files: Shards, dtype: torch.dtype, *, symmetric: bool) -> None:
    """Raise UserError unless outputs (draws, N) and diagonals of all shards fit, in every draw."""
    for draw in range(files[0, 0]["outputs"].shape[0]):
        one = slice(draw, draw + 1)
        check_outputs({place: shard["outputs"][one] for place, shard in files.items()}, dtype)
        entries = {i: t["kernel"][one][0].diagonal() for (i, j), t in files.items() if i == j}
        for (i, j), shard in files.items():
            if symmetric and i != j:
                check_bound(shard["kernel"][one][0], entries[i], entries[j], dtype, f"{i}-{j}")


def assembled(
    files: Shards, names: Iterable[str], count: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield whole kernels (draws, N, N) by name, draw and band: name and rows of the band."""
    for name in names:
        for draw in range(files[0, 0][name].shape[0]):
            one = slice(draw, draw + 1)
            for band in range(count):
                parts = {place: t[name][one][0] for place, t in files.items() if band in place}
                row = (
                    parts[band, j] if (band, j) in parts else parts[j, band].T for j in range(count)
                )
                yield name, torch.cat(list(row), dim=1)
