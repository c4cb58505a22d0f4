"""Named tensors in safetensors files, with their provenance and a checksum."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ntktune.store.files import atomic_path, damaged, present, unreadable
from ntktune.store.records import CHECKSUM, METADATA_KEY, as_json, json_checksum

if TYPE_CHECKING:
    import numpy as np
    import torch

STRETCH = 2**20  # numbers that are read or written at a time


def stretches(shape: Sequence[int], numbers: int) -> Iterator[Any]:
    """Yield indices of stretches of a tensor: rows, at least one, of about ``numbers`` numbers."""
    if not shape:
        yield ...
        return
    rows = max(1, numbers // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], rows):
        yield slice(start, min(start + rows, shape[0]))


def _bytes(tensor: torch.Tensor | np.ndarray) -> memoryview:
    """Return a tensor's or an array's memory, row by row."""
    import numpy as np

    if not isinstance(tensor, np.ndarray):
        import torch

        tensor = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8))


def _checksum(tensors: Mapping[str, torch.Tensor | np.ndarray | StoredTensor]) -> str:
    """Return one SHA-256 of names, dtypes, shapes and values, equal for torch and NumPy."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        dtype = str(tensor.dtype).removeprefix("torch.")
        digest.update(f"{name} {dtype} {tuple(tensor.shape)}".encode())
        for part in stretches(tensor.shape, STRETCH):
            digest.update(_bytes(tensor[part]))
    return digest.hexdigest()


def write_tensors(
    path: str | os.PathLike, tensors: Mapping[str, torch.Tensor | np.ndarray], provenance: dict
) -> None:
    """Write named tensors as safetensors, provenance and a checksum in the metadata.

    All are torch tensors or all are NumPy arrays, for which torch need not be imported.
    """
    import numpy as np

    if all(isinstance(tensor, np.ndarray) for tensor in tensors.values()):
        from safetensors.numpy import save_file

        ready = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
    else:
        from safetensors.torch import save_file

        ready = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    # one entry only: safetensors writes several in a random order, other bytes every time
    metadata = {METADATA_KEY: _stated(_checksum(ready), provenance)}
    with atomic_path(path) as temporary:
        save_file(ready, temporary, metadata=metadata)


def _stated(checksum: str, provenance: dict) -> str:
    """Return what a safetensors file says of itself, with checksums of tensors and provenance."""
    ready = as_json(provenance)
    return json.dumps({"sha256": checksum, "provenance": ready, CHECKSUM: json_checksum(ready)})


@contextlib.contextmanager
def _opened(path: str | os.PathLike, framework: str = "pt") -> Iterator[tuple[Any, dict[str, Any]]]:
    """Open a safetensors file; yield it and what it says of itself (a model's weights: nothing)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(present(path), framework=framework) as file:
            facts = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            if facts.get(CHECKSUM) not in (None, json_checksum(facts.get("provenance", {}))):
                raise ValueError("its provenance does not match its checksum")
            yield file, facts
    except (SafetensorError, OSError, MemoryError, ValueError) as error:
        raise unreadable(path, error, "a safetensors file") from None


def _read(path: str | os.PathLike, framework: str, *, whole: bool = True) -> tuple[dict, dict]:
    """Return a file's tensors, or what reads them, and its provenance; verify its checksum."""
    with _opened(path, framework) as (file, facts):
        names = list(file.keys())
        tensors = {k: file.get_tensor(k) if whole else StoredTensor(path, k) for k in names}
    if facts.get("sha256") not in (None, _checksum(tensors)):
        raise damaged(path, "its content does not match its checksum")
    return tensors, facts.get("provenance", {})


def read_tensors(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict]:
    """Read named torch tensors and their provenance; the checksum is verified."""
    return _read(path, "pt")


def read_arrays(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict]:
    """Read named tensors as NumPy arrays, and their provenance; the checksum is verified."""
    return _read(path, "numpy")


def stored_tensors(path: str | os.PathLike) -> tuple[dict[str, StoredTensor], dict]:
    """Return a file's tensors, to be read in stretches, and provenance; verify the checksum."""
    return _read(path, "pt", whole=False)


def stored_layout(path: str | os.PathLike) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return name → dtype, as safetensors calls it (F32, BF16), and shape of a file's tensors."""
    with _opened(path, "numpy") as (file, _):
        slices = {name: file.get_slice(name) for name in list(file.keys())}
        return {name: (one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()}


def content_sha256(path: str | os.PathLike) -> str | None:
    """Return the checksum that a file states of its tensors alone, None if it states none."""
    with _opened(path, "numpy") as (_, facts):
        return facts.get("sha256")


class StoredTensor:
    """A tensor in a safetensors file, of which rows are read when they are asked for.

    ``stored[i:j]`` reads the rows i to j of the first dimension, ``stored[...]`` all. Rows become
    ``dtype`` where one is given.
    """

    def __init__(self, path: str | os.PathLike, name: str, dtype: torch.dtype | None = None):
        self.path, self.name, self.dtype = path, name, dtype
        with _opened(path) as (file, _):
            stored = file.get_slice(name)
            self.shape = tuple(stored.get_shape())
            self.dtype = dtype or (stored[:0] if self.shape else file.get_tensor(name)).dtype

    def __getitem__(self, rows: Any) -> torch.Tensor:
        # opened each time: pages that were read of an open file stay in this process's memory
        with _opened(self.path) as (file, _):
            found = file.get_tensor(self.name) if rows is ... else file.get_slice(self.name)[rows]
        return found.to(self.dtype)


def stream_tensors(
    path: str | os.PathLike,
    layout: Mapping[str, tuple[Sequence[int], torch.dtype]],
    parts: Iterable[tuple[str, torch.Tensor]],
    provenance: dict,
) -> None:
    """Write named tensors as :func:`write_tensors` does, in little memory.

    ``layout`` has name → shape and dtype (floating-point, or int64); ``parts`` yields a name and
    the next stretch of it, in the order of ``layout``. Raises ValueError if they do not fit it.
    """
    start, header = 0, {}
    for name, (shape, dtype) in layout.items():
        end = start + math.prod(shape) * dtype.itemsize
        kind, bits = re.fullmatch(r"torch\.(bf|f|i)\w*?(\d+)", str(dtype)).groups()
        stored = f"{kind}{bits}".upper()  # safetensors' name: F32, BF16, I64
        header[name] = {"dtype": stored, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    unknown = "0" * 64  # the checksum stands before the values that it is of
    header["__metadata__"] = {"format": "pt", METADATA_KEY: _stated(unknown, provenance)}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    first = 8 + len(head)
    with atomic_path(path) as temporary:
        with open(temporary, "xb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for name, part in parts:
                file.write(_bytes(part.detach().cpu()))
                end = first + header[name]["data_offsets"][1]
                if file.tell() > end or part.dtype != layout[name][1]:
                    raise ValueError(f"the stretches of {name} are not those of its layout")
            if file.tell() != first + start:
                raise ValueError(f"{path}: stretches are missing")
        digest = _checksum({name: StoredTensor(temporary, name) for name in layout})
        with open(temporary, "rb+") as file:
            file.seek(8 + head.index(unknown.encode()))
            file.write(digest.encode())
