"""Matrix products on a processor, by the library that is fast on all of them.

PyTorch hands float32 products to MKL, which uses half of what an AMD processor with AVX-512 can do
(94 against 206 GFLOP/s on one core of an EPYC); it ships oneDNN too. The numbers are those of the
plain product up to rounding; on a GPU, in another precision or without oneDNN it is that product.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import backends
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ntktune.network.device import is_processor

# The operation that torch.compile emits for nn.Linear on a processor, if PyTorch has oneDNN.
ONEDNN = backends.mkldnn.is_available() and getattr(torch.ops.mkldnn, "_linear_pointwise", None)
# Without AVX-512 MKL is as fast in a layer's forward pass and up to a fifth faster in its backward
# pass. The kernel's long sums stay with oneDNN: MKL's lose digits.
PLAIN_LAYERS = backends.mkl.is_available() and backends.cpu.get_cpu_capability() == "AVX2"
# oneDNN keeps the code that it writes for each shape of a product, up to 0.9 MB each, and of 1,024
# shapes unless told otherwise: more than a small model's activations.
SHAPES_KEPT = os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
# So a layer's rows are filled up with zeros to a multiple of this, few of them to a multiple of a
# quarter: LoRA took 300 instead of 430 MB, all weights 580 instead of 810, in the same time.
FILLED = 32
# Layers with fewer inputs or outputs (heads, low-rank adapters) are faster in a plain product.
NARROWEST = 16
SOFTMAX = (functional.softmax, torch.softmax, torch.Tensor.softmax)


def _checkpointing() -> bool:
    """Return whether saved tensors are replaced, as within activation checkpointing."""
    # there the forward pass runs again without our contexts, and must save the same tensors
    hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    found = hooks(True) if hooks else None
    return found is not None and not getattr(found[0], "keeps_values", False)


def _suits(*tensors: torch.Tensor) -> bool:
    """Return whether oneDNN can multiply these and is the better choice."""
    return bool(ONEDNN) and all(
        is_processor(t.device)
        and t.dtype == torch.float32
        and t.layout == torch.strided
        and t.numel() > 0
        for t in tensors
    )


def _dense(matrix: torch.Tensor) -> torch.Tensor:
    """Return a matrix without gaps between its rows or columns, copied if need be."""
    # for others oneDNN has a slow loop that adds term by term, and so is less exact
    return matrix if matrix.is_contiguous() or matrix.T.is_contiguous() else matrix.contiguous()


def _filled(rows: torch.Tensor) -> torch.Tensor:
    """Return rows (M, K) with zeros below them, so that M is one of few; see :data:`FILLED`."""
    lacking = -len(rows) % (FILLED if len(rows) > FILLED else FILLED // 4)
    return functional.pad(rows, (0, 0, 0, lacking)) if lacking else rows


def product_transposed(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return left @ right.T for (M, K) and (N, K), without gradient."""
    if _suits(left, right):
        return ONEDNN(_dense(left), _dense(right), None, "none", [], "")
    return left @ right.T


class _Linear(torch.autograd.Function):
    """y = x Wᵀ + b of rows x (M, K), W (N, K), b (N,) or None."""

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        # the kernel asks for no weight gradient: its inputs need not stay in memory then
        ctx.save_for_backward(
            rows if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None
        )
        if forward_ad._current_level >= 0:
            ctx.save_for_forward(rows, weight)
            # not filled: a tangent must be laid out as its output, which would be a part
            found = product_transposed(rows, weight)
        else:
            found = product_transposed(_filled(rows), weight)[: len(rows)]
        return found if bias is None else found.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        wanted, filled = ctx.needs_input_grad, _filled(gradient)
        return (
            product_transposed(filled, weight.T)[: len(gradient)] if wanted[0] else None,
            product_transposed(filled.T, _filled(rows).T) if wanted[1] else None,
            gradient.sum(0) if wanted[2] else None,
        )

    @staticmethod
    def jvp(ctx: Any, *moves: torch.Tensor | None) -> torch.Tensor:
        rows, weight = ctx.saved_tensors
        row, column, bias = moves
        found = torch.zeros(len(rows), len(weight), dtype=rows.dtype, device=rows.device)
        found = found if row is None else product_transposed(row, weight)
        found = found if column is None else found + product_transposed(rows, column)
        return found if bias is None else found + bias


class FastLinear(TorchFunctionMode):
    """Context in which linear layers on a processor compute in float32 with oneDNN.

    It serves any model's ``nn.Linear``, forward and backward, if the forward pass runs within the
    context; gradients can be taken once, not of gradients. Other precisions, other devices,
    autocast, checkpointed parts, layers narrower than :data:`NARROWEST` and, where
    :data:`PLAIN_LAYERS`, all layers are left alone.
    """

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if function is functional.linear and not kwargs and not torch.is_autocast_enabled("cpu"):
            # a stored parameter is converted here: autograd.Function would take it as it is
            x, weight, bias = args = [
                t.used() if hasattr(t, "used") else t for t in (*args, None)[:3]
            ]
            fits = not PLAIN_LAYERS and x.dim() > 1 and weight.dim() == 2 and _suits(x, weight)
            if fits and min(weight.shape) >= NARROWEST and not _checkpointing():
                return _Linear.apply(x.flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])
        return function(*args, **(kwargs or {}))


class WideSoftmax(TorchFunctionMode):
    """Context in which a float64 softmax that is cast to float32 stays finite.

    Hugging Face masks scores with float64's least number, which float32 does not have: padded
    places that may attend to nothing would become NaN. Checkpointed parts are left as they are.
    """

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        narrows = function in SOFTMAX and kwargs.get("dtype") == torch.float32
        if narrows and args and args[0].dtype == torch.float64 and not _checkpointing():
            args = (args[0].clamp(min=torch.finfo(torch.float32).min), *args[1:])
        return function(*args, **kwargs)


def measured_rate(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Return the FLOPs per second of a large product on a device of this machine."""
    # a processor without instructions for bfloat16 is a hundred times slower in it
    size = 512 if is_processor(device) and dtype != torch.float32 else 2_048
    side = torch.randn(size, size, device=device).to(dtype)

    def multiply() -> None:
        product_transposed(side, side).sum().item()  # the sum waits for a GPU

    multiply()
    return 2 * size**3 / seconds_alone(multiply, device)


def seconds_alone(work: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds that some work takes on a device with nothing beside it.

    On a processor it is done on one thread, whose own time is divided by the threads of a product:
    several threads wait for each other, up to a hundred times longer where other programs run.
    """
    if not is_processor(device):
        started = time.perf_counter()
        work()
        return time.perf_counter() - started
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        started = time.process_time()
        work()
        return (time.process_time() - started) / threads
    finally:
        torch.set_num_threads(threads)
