"""Weights that stay in their files: mapped into memory, and converted when they are used.

A network of which each parameter is a :class:`StoredParameter` computes as one whose weights have
the computation's precision and device, to the last bit, in the memory of one of its blocks.
"""

import contextlib
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._C import DisableTorchFunctionSubclass
from torch.nn import functional

from ntktune.errors import UserError
from ntktune.network import loading
from ntktune.network.models import block_list

# What says something of a parameter, or is done to it, without its values.
STATEMENTS = (
    *("dim", "ndimension", "numel", "size", "stride", "is_floating_point", "is_complex"),
    *("requires_grad_", "data_ptr", "storage_offset", "untyped_storage", "__len__", "__repr__"),
)
LEAST_KEPT = 2**26  # bytes of converted weights: a small model's need not be converted again


def _memory(tensor: torch.Tensor) -> int:
    """Return what all views of the same memory have in common."""
    return tensor.untyped_storage()._cdata


class Reader:
    """Converts stored weights to one precision and device, and keeps those that were used last.

    ``most`` is the bytes of converted weights that are kept: those of one block, which each
    micro-batch would convert again otherwise. ``files`` hold the weights.
    """

    def __init__(
        self, dtype: torch.dtype, device: torch.device, most: int, files: Iterable[Path]
    ) -> None:
        self.dtype, self.device, self.most = dtype, device, max(most, LEAST_KEPT)
        self.files = {path: self._state(path) for path in files}
        self.kept: OrderedDict[int, torch.Tensor] = OrderedDict()  # by the parameter's id
        self.owners: dict[int, StoredParameter] = {}  # by the memory of the kept values
        self.spare: dict[int, torch.Tensor] = {}  # memory of the last ones forgotten, by size
        self.bytes = 0
        self.read = 0  # bytes of files that were converted, for the provenance
        # parameters whose gradient is asked for, by id: what stands for each
        self.leaves: dict[int, torch.Tensor] = {}
        self.blocks: list[list[torch.Tensor]] = []  # what is stored of each
        self.block_of: dict[int, int] = {}  # by the parameter's id
        self.block = -1  # the last one that was converted

    @staticmethod
    def _state(path: Path) -> tuple[int, ...]:
        """Return what changes when a file does; raise UserError if there is none."""
        try:
            found = os.stat(path)
        except OSError as error:
            raise UserError(
                f"{path}, a file of weights, cannot be read: {error.strerror}"
            ) from None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def check(self) -> None:
        """Raise UserError if a file is no longer the one that was opened."""
        for path, before in self.files.items():
            if self._state(path) != before:
                raise UserError(f"{path} was changed while its weights were read; start again")

    def values(self, parameter: "StoredParameter") -> torch.Tensor:
        """Return a parameter's values, converted, without gradient."""
        key = id(parameter)
        if key in self.kept:
            self.kept.move_to_end(key)
            return self.kept[key]
        self.check()
        self._read_ahead(self.block_of.get(key, self.block))
        with torch.no_grad(), DisableTorchFunctionSubclass():
            stored = parameter.data
            size = stored.numel() * self.dtype.itemsize
            # the newest may be an argument of the same operation
            while len(self.kept) > 1 and self.bytes + size > self.most:
                self._drop()
            # memory of weights of the same size is used again: given back, it would lie in pieces
            found = self.spare.pop(stored.numel(), None)
            if found is None:
                found = torch.empty(stored.numel(), dtype=self.dtype, device=self.device)
            # a copy even where nothing is to be converted: it must not end with the file
            found = found.view(stored.shape).copy_(stored)
            self.read += stored.nbytes
        self.kept[key] = found
        self.owners[_memory(found)] = parameter
        self.bytes += found.nbytes
        return found

    def _read_ahead(self, block: int) -> None:
        """Have the system read the next block's pages, on the way up or down, meanwhile."""
        following = block + (1 if block > self.block else -1)
        if block != self.block and 0 <= following < len(self.blocks):
            threading.Thread(target=_touch, args=(self.blocks[following],), daemon=True).start()
        self.block = block

    def _drop(self) -> None:
        """Forget the values that were used longest ago."""
        _, oldest = self.kept.popitem(last=False)
        del self.owners[_memory(oldest)]
        self.bytes -= oldest.nbytes
        self.spare[oldest.numel()] = oldest.flatten()

    def clear(self) -> None:
        """Forget all values."""
        while self.kept:
            self._drop()
        self.spare.clear()

    @contextlib.contextmanager
    def saving_names(self) -> Iterator[None]:
        """Let graphs keep which weights they need, in place of their values."""

        def pack(tensor: torch.Tensor) -> Any:
            owner = self.owners.get(_memory(tensor))
            if owner is None:
                return tensor
            return owner, tensor.shape, tensor.stride(), tensor.storage_offset()

        def unpack(packed: Any) -> torch.Tensor:
            if isinstance(packed, torch.Tensor):
                return packed
            owner, *how = packed
            return self.values(owner).as_strided(*how)

        pack.keeps_values = True
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield
        self.clear()


def _touch(mapped: Iterable[torch.Tensor]) -> None:
    """Read a byte of each page, which lets the others run: NumPy computes without Python's lock."""
    for tensor in mapped:
        tensor.flatten().view(torch.uint8).numpy()[:: mmap.PAGESIZE].max(initial=0)


class _Used(torch.autograd.Function):
    """A stored parameter's values, as a part of a graph."""

    @staticmethod
    def forward(ctx: Any, parameter: "StoredParameter") -> torch.Tensor:
        return parameter.reader.values(parameter).detach()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        # in the files' precision it would be rounded; the kernel asks for that of a leaf
        raise UserError(
            "a model whose weights stay in their files cannot be trained; load it whole"
        )


class StoredParameter(nn.Parameter):
    """A parameter whose values are in a file, in the file's precision.

    Each operation on it is one on its values in the precision and on the device of its ``reader``,
    and it says that it has these.
    """

    reader: Reader

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs, name = kwargs or {}, getattr(function, "__name__", "")
        first = args[0] if args else None
        if isinstance(first, cls) and name in ("__get__", "__set__", *STATEMENTS):
            if function in STATED:
                return STATED[function](first)
            with DisableTorchFunctionSubclass():
                return function(*args, **kwargs)
        if function is functional.embedding and isinstance(args[1], cls):
            weight = args[1]
            if id(weight) not in weight.reader.leaves:  # rows in use alone
                return weight.rows(function, *args, **kwargs)
        args, kwargs = _with_values(args), _with_values(kwargs)
        with DisableTorchFunctionSubclass():
            return function(*args, **kwargs)

    def used(self) -> torch.Tensor:
        """Return the values, or what stands for them; a part of the graph if gradients count."""
        reader = self.reader
        if id(self) in reader.leaves:
            return reader.leaves[id(self)]
        if self.requires_grad and torch.is_grad_enabled():
            return _Used.apply(self)
        return reader.values(self)

    def rows(
        self, look_up: Any, ids: torch.Tensor, _: Any, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Return an embedding's rows, looked up in the file."""
        self.reader.check()
        with DisableTorchFunctionSubclass():
            found = look_up(ids.to(self.data.device), self, *args, **kwargs)
        return found.to(self.reader.device, self.reader.dtype)


def _with_values(value: Any) -> Any:
    """Return arguments of a function with stored parameters' values in their place."""
    if isinstance(value, StoredParameter):
        return value.used()
    if isinstance(value, dict):
        return {key: _with_values(item) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_with_values(item) for item in value)
    return value


# Properties and methods that are those of the converted values.
STATED = {
    torch.Tensor.dtype.__get__: lambda p: p.reader.dtype,
    torch.Tensor.device.__get__: lambda p: p.reader.device,
    torch.Tensor.nbytes.__get__: lambda p: p.numel() * p.reader.dtype.itemsize,
    torch.Tensor.itemsize.__get__: lambda p: p.reader.dtype.itemsize,
}


def stored(
    model: nn.Module, kind: str, dtype: torch.dtype, device: torch.device, files: Iterable[Path]
) -> None:
    """Let a network's parameters stay as they are and be converted at each use, in place.

    They are mapped from ``files``. ``kind`` is the class that read it, such as ``AutoModel``.
    """
    from accelerate import init_empty_weights

    try:
        blocks = [*block_list(model)]
    except UserError:
        blocks = [model]  # of a network without blocks all is kept
    of_block = (sum(p.numel() for p in block.parameters()) for block in blocks)
    reader = Reader(dtype, device, max(of_block) * dtype.itemsize, files)
    made: dict[int, StoredParameter] = {}
    # tables that a model makes itself were made in the files' precision: they are made again
    with init_empty_weights(include_buffers=False):
        buffers = dict(loading.from_configuration(model.config, kind, dtype=dtype).named_buffers())
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:
                one = made[id(parameter)] = StoredParameter(parameter.data)
                one.reader = reader
            module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                if name in module._non_persistent_buffers_set:
                    buffer = buffers[f"{path}.{name}".removeprefix(".")]
                wanted = dtype if buffer.is_floating_point() else buffer.dtype
                module._buffers[name] = buffer.to(device, wanted)
    reader.block_of = {id(p): n for n, block in enumerate(blocks) for p in block.parameters()}
    reader.blocks = [[p.data for p in block.parameters()] for block in blocks]


def reader_of(parameters: Iterable[torch.Tensor]) -> Reader | None:
    """Return the reader of a network's stored parameters, None if it has none."""
    return next((p.reader for p in parameters if isinstance(p, StoredParameter)), None)
