"""Computing, in the last block, only what the head will read.

The head reads one token's hidden state (where it reads the mean over tokens, nothing is left out).
Nothing mixes tokens above the last block's keys and values, so its queries, output projection and
MLP need that token's row only: with few blocks this is a fair share of all work.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from ntktune.network.models import last_tokens, pad, replaced


def read_layers(model: nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> list[nn.Linear]:
    """Return the linear layers whose output matters at the read tokens only.

    Those are the layers whose output's gradient is, on one batch, exactly 0 at all other tokens.
    """
    gradients: dict[nn.Linear, list[torch.Tensor]] = {}

    def watch(module: nn.Linear, args: tuple, output: torch.Tensor) -> torch.Tensor:
        calls = gradients.setdefault(module, [])
        if not output.requires_grad:
            output = output.detach().requires_grad_()
        output.register_hook(calls.append)
        return output

    layers = [m for m in model.backbone.modules() if type(m) is nn.Linear]
    handles = [layer.register_forward_hook(watch) for layer in layers]
    trainable = [p for p in model.parameters() if p.requires_grad]
    try:
        value = model(ids, mask)
        direction = torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
        torch.autograd.grad((value * direction.to(value)).sum(), trainable, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    texts, last = torch.arange(len(ids), device=mask.device), last_tokens(mask)
    found = []
    for layer, calls in gradients.items():
        if len(calls) == 1 and calls[0].dim() == 3 and calls[0].shape[:2] == ids.shape:
            elsewhere = calls[0].clone()
            elsewhere[texts, last] = 0
            if bool(calls[0].any()) and not bool(elsewhere.any()):
                found.append(layer)
    return found


@contextlib.contextmanager
def last_rows_only(model: nn.Module, examples: Sequence[torch.Tensor]) -> Iterator[list[nn.Linear]]:
    """Let linear layers compute only the rows that the head reads, where nothing else counts.

    Two of the ``examples`` (1-D tensors of token ids) are tried to find these layers, and to check
    that the outputs stay what they were; a network that fits in no such way is left alone. Outputs
    and gradients change by rounding only. ``model`` has a backbone whose last tokens' states it
    reads, is in evaluation mode, and is changed within the context. Yields the layers in order.
    """
    pair = sorted(examples, key=len)[len(examples) // 2 :][:2]
    ids, mask = (part.to(next(model.parameters()).device) for part in pad(pair))
    layers = read_layers(model, ids, mask) if ids.shape[1] > 1 else []
    last = torch.empty(0, dtype=torch.long)  # which token is read of each text on its way, (B,)

    def look(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        nonlocal last
        last = last_tokens(kwargs["attention_mask"])

    def only_last(forward: Callable) -> Callable:
        """Return a linear layer's forward that computes the read tokens' rows, others as 0."""

        def restricted(x: torch.Tensor) -> torch.Tensor:
            if x.dim() != 3 or len(x) != len(last) or x.shape[1] == 1:
                return forward(x)
            texts = torch.arange(len(last), device=x.device)
            rows = forward(x[texts, last])  # (B, D)
            return rows.new_zeros(*x.shape[:2], rows.shape[1]).index_put((texts, last), rows)

        return restricted

    with torch.no_grad():
        expected = model(ids, mask)
    forwards = [only_last(layer.forward) for layer in layers]
    door = model.backbone.register_forward_pre_hook(look, with_kwargs=True)
    try:
        with torch.no_grad(), replaced(layers, forwards):
            found = model(ids, mask)
        tolerance = 100 * torch.finfo(found.dtype).eps * max(1.0, expected.abs().max().item())
        fits = bool(((found - expected).abs() <= tolerance).all())
        with replaced(layers, forwards) if fits else contextlib.nullcontext():
            yield layers if fits else []
    finally:
        door.remove()
