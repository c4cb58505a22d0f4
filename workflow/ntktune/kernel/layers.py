"""Layers whose per-example gradient follows from their inputs and output gradients, watched."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Receive = Callable[[torch.Tensor], None]
OTHER_ROWS = "its rows do not belong to one example each"


class UnplannedError(Exception):
    """A layer did what the probe did not show; its parameters must go the general way."""

    def __init__(self, layer: Layer, reason: str):
        super().__init__(reason)
        self.layer, self.reason = layer, reason


@dataclass(eq=False)
class Layer:
    """A module with a structured rule, and the names of its parameters that are wanted, or None.

    The rule is ``linear`` (weight (out, in)), ``conv1d`` (GPT-2's transposed linear layer),
    ``embedding`` or ``scale`` (y = w ∘ ŷ(x) + b).
    """

    module: nn.Module
    kind: str
    weight: str | None
    bias: str | None

    @property
    def parameters(self) -> list[str]:
        """Names of the wanted parameters."""
        return [name for name in (self.weight, self.bias) if name]


def layer_kind(module: nn.Module) -> str | None:
    """Return the structured rule that may fit a module, None if none does."""
    # The code that runs decides, not the class's name alone: a subclass with its own forward, a
    # replaced forward, hooks and parametrisations rule it out.
    hooked = module._forward_hooks or module._forward_pre_hooks
    hooked = hooked or module._backward_hooks or module._backward_pre_hooks
    if hooked or "forward" in vars(module) or any(True for _ in module.children()):
        return None
    weight = module._parameters.get("weight")
    if weight is None or set(module._parameters) - {"weight", "bias"}:
        return None
    forward = type(module).forward
    if forward is nn.Linear.forward:
        return "linear"
    # transformers is not imported for this: a model that has a Conv1D has imported it
    pytorch_utils = sys.modules.get("transformers.pytorch_utils")
    if pytorch_utils is not None and forward is pytorch_utils.Conv1D.forward:
        return "conv1d"
    if forward is nn.Embedding.forward:
        plain = module.max_norm is None and not module.scale_grad_by_freq
        return "embedding" if plain and not module.sparse else None
    bias = module._parameters.get("bias")
    if weight.dim() == 1 and (bias is None or bias.shape == weight.shape):
        return "scale"  # the probe shows whether it is one
    return None


@dataclass
class Call:
    """One call of a layer: its arguments, what the weight meets, and the shape of its output."""

    layer: Layer
    input: torch.Tensor
    shape: torch.Size
    arguments: tuple[tuple, dict[str, Any]]
    version: int  # counts the in-place changes that the input had seen then

    @property
    def overwritten(self) -> bool:
        """Whether the input was changed in place after the call."""
        return self.input._version != self.version

    def scale_response(
        self, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return what a ``scale`` layer's own code gives for other parameters.

        Without parameters: ŷ = y(w=1, b=0) − y(w=0, b=0), the derivative of y with respect to w,
        whatever the norm's eps or offset may be (Gemma's weight is 1 + w).
        """
        module = self.layer.module
        saved = dict(module._parameters)
        zeros = torch.zeros_like(saved["weight"])

        def response(w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            module._parameters["weight"] = w
            if saved.get("bias") is not None:
                module._parameters["bias"] = b
            args, kwargs = self.arguments
            return module.forward(*args, **kwargs)

        try:
            with torch.no_grad():
                if weight is None:
                    return response(torch.ones_like(zeros), zeros) - response(zeros, zeros)
                return response(weight, bias)
        finally:
            module._parameters.update(saved)


class WatchedLayers:
    """Context in which calls of layers are seen and their output gradients received.

    No parameter requires a gradient, so no weight-gradient product is ever computed; the graph
    starts at the first watched outputs. ``on_call`` gets each :class:`Call`; it returns the
    function that gets the gradient of the layer's output, or None. An embedding that is called
    once for all B = ``batch_size`` examples (positions, shape (1, T, D)) is expanded to B, so
    that each example's gradient arrives by itself.
    """

    def __init__(
        self, layers: Sequence[Layer], batch_size: int, on_call: Callable[[Call], Receive | None]
    ):
        self.layers, self.batch_size, self.on_call = layers, batch_size, on_call
        self.starts: list[torch.Tensor] = []
        self.expanded: list[Layer] = []
        self.handles: list[Any] = []

    def __enter__(self) -> WatchedLayers:
        for layer in self.layers:
            hook = functools.partial(self._called, layer)
            self.handles.append(layer.module.register_forward_hook(hook, with_kwargs=True))
        return self

    def __exit__(self, *exception: object) -> None:
        # the gradients' hooks too: with the graph they make a cycle that nothing would free
        for handle in self.handles:
            handle.remove()

    def _called(
        self, layer: Layer, module: nn.Module, args: tuple, kwargs: dict, output: Any
    ) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return output  # nothing comes back from here
        found = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)]
        if not found or not isinstance(output, torch.Tensor):
            raise UnplannedError(layer, "it takes or returns no tensor")
        x = found[0]
        if layer.kind == "embedding" and output.dim() > 2 and len(output) == 1:
            self.expanded.append(layer)
            x = x.expand(self.batch_size, *x.shape[1:])
            output = output.expand(self.batch_size, *output.shape[1:])
        if not output.requires_grad:
            start = output.detach().requires_grad_()
            self.starts.append(start)
            # a leaf cannot be changed in place, which the network may do
            output = start.clone()
        if receive := self.on_call(Call(layer, x, output.shape, (args, kwargs), x._version)):
            # the gradient with respect to the value as it is now, before any in-place change
            self.handles.append(output.register_hook(receive))
        return output

    def backward(
        self,
        value: torch.Tensor,
        gradient: torch.Tensor | None = None,
        *,
        beyond: torch.Tensor | None = None,
        again: bool = False,
    ) -> torch.Tensor | None:
        """Send a gradient of ``value`` (1 for a scalar) back through the watched layers.

        ``beyond`` is a tensor that the network started from and whose gradient is returned;
        ``again`` keeps the graph for another time.
        """
        wanted = self.starts if beyond is None else [*self.starts, beyond]
        found = (None,)
        if wanted and value.requires_grad:
            found = torch.autograd.grad(
                value, wanted, gradient, retain_graph=again, allow_unused=True
            )
        if beyond is None:
            return None
        return torch.zeros_like(beyond) if found[-1] is None else found[-1]
