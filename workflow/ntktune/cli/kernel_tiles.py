"""Commands of the chapter ``kernel``: a kernel gathered from its tiles."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntktune.cli import add_command
from ntktune.cli.record import Record
from ntktune.errors import UserError
from ntktune.store.tensors import StoredTensor, stored_tensors, stream_tensors

if TYPE_CHECKING:
    import torch

Tile = tuple[int, int]
# Facts in which all tiles of a kernel agree.
SHARED = (
    *("command", "code", "task", "data_sha256", "model", "blocks", "function", "variant"),
    *("label_words", "dtype", "seeds", "head_seeds", "bands"),
)
# Tensors of a tile that have one entry per row.
WHOLE = ("label", "label_noise", "outputs")


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the verbs."""
    parser = add_command(verbs, "gather", gather, out="safetensors: kernels, outputs and labels")
    what = "all tiles of one file of kernels, in any order, or the folder that they alone are in"
    parser.add_argument("--tiles", required=True, nargs="+", metavar="FILE", help=what)


def gather(args: argparse.Namespace) -> None:
    """Put the tiles of kernels together, and check that they belong together."""
    import torch

    from ntktune.kernel.bands import assembled, bands, check_tiles
    from ntktune.network.device import torch_dtype

    record = Record("ntktune.cli.kernel_tiles:gather", args)
    paths = [file for path in args.tiles for file in _files(path)]
    files, facts = _read_tiles(paths)
    diagonal = [files[i, i] for i in range(facts["bands"])]
    rows = torch.cat([tile["row"][...] for tile in diagonal], dim=1)  # (draws, N)
    _check_rows(files, rows, bands(rows.shape[1], facts["bands"]), paths)
    check_tiles(files, torch_dtype(facts["dtype"]), symmetric=facts["symmetric"])
    names = [name for name in diagonal[0] if name == "kernel" or name.startswith("group/")]
    draws, size = rows.shape
    layout = dict.fromkeys(names, ((draws, size, size), torch.float64))
    layout |= dict.fromkeys(WHOLE, ((draws, size), torch.float64))
    layout["row"] = (tuple(rows.shape), torch.int64)

    def stretches() -> Iterator[tuple[str, torch.Tensor]]:
        yield from assembled(files, names, facts["bands"])
        for name in WHOLE:
            yield name, torch.cat([tile[name][...] for tile in diagonal], dim=1)
        yield "row", rows

    provenance = record.provenance(**{key: facts.get(key) for key in SHARED[2:]})
    provenance |= {"kernel": facts["kernel"], "tiles": facts["tiles"]}
    stream_tensors(args.out, layout, stretches(), provenance)


def _files(path: str) -> list[str]:
    """Return a file, or those in a folder but for hidden ones and such as were set aside."""
    if not Path(path).is_dir():
        return [path]
    found = sorted(str(file) for file in Path(path).glob("[!.]*.safetensors"))
    if not found:
        raise UserError(f"{path} holds no tiles; make them first, or correct the path")
    return found


def _read_tiles(paths: list[str]) -> tuple[dict[Tile, dict[str, StoredTensor]], dict[str, Any]]:
    """Return the tiles by place, and the facts that they share.

    Raises
    ------
    UserError
        A file is no tile, two are of one place, one is missing, or they are of other kernels.
    """
    from ntktune.kernel.bands import tiles
    from ntktune.kernel.products import Sides

    files: dict[Tile, dict[str, StoredTensor]] = {}
    names: dict[Tile, str] = {}
    first, made = None, []
    for path in paths:
        stored, facts = stored_tensors(path)
        if "tile" not in facts:
            raise UserError(f"{path} is no tile of a kernel; make one: kernel draws --tile")
        first = first or facts
        _check_shared(path, facts, paths[0], first)
        place = tuple(facts["tile"])
        if place in files:
            raise UserError(f"{names[place]} and {path} are both tile {place[0]}-{place[1]}")
        files[place], names[place] = stored, path
        made.append(_about(facts))
    symmetric = Sides(1, None, first["variant"]).symmetric
    missing = [place for place in tiles(first["bands"], symmetric=symmetric) if place not in files]
    if missing:
        raise UserError(
            f"tile {missing[0][0]}-{missing[0][1]} of {first['bands']} bands is missing; "
            f"{len(files)} were given"
        )
    made.sort(key=lambda tile: tile["tile"])
    return files, first | {"tiles": made, "symmetric": symmetric}


def _check_shared(path: str, facts: dict, other: str, first: dict) -> None:
    """Raise UserError if two tiles are not of one kernel."""
    for key in SHARED:
        if facts.get(key) != first.get(key):
            raise UserError(
                f"{path} was made with {key} {facts.get(key)!r}, but {other} with "
                f"{first.get(key)!r}; gather tiles of one kernel, or make them again"
            )


def _about(facts: dict[str, Any]) -> dict[str, Any]:
    """Return what the provenance of a whole kernel says of one of its tiles."""
    checks = [found["self_check"] for found in facts["kernel"]]
    errors = [check and check["largest_relative_error"] for check in checks]
    told = {key: facts[key] for key in ("device", "wall_seconds", "peak_memory_bytes")}
    return {"tile": tuple(facts["tile"]), **told, "largest_relative_error": errors}


def _check_rows(
    files: dict[Tile, dict[str, StoredTensor]],
    rows: torch.Tensor,
    split: list[range],
    paths: list[str],
) -> None:
    """Raise UserError unless each tile is of the rows and columns that its place says."""
    for (i, j), tile in files.items():
        for axis, band in (("row", i), ("column", j)):
            wanted = rows[:, split[band].start : split[band].stop]
            found = tile[axis][...]
            if found.shape != wanted.shape or not bool((found == wanted).all()):
                raise UserError(
                    f"the {axis}s of tile {i}-{j} are not those of tile {band}-{band}; they were "
                    f"drawn from other data or cut elsewhere: make all again ({paths[0]}, …)"
                )
