"""The theory's own kind of network: a vanilla decoder whose width can be let grow."""

import math

import torch
from torch import nn
from torch.nn import functional


class ScaledLinear(nn.Module):
    """W x / √d_in with entries of W from N(0, 1): the scale at which the NTK has a limit."""

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.scale = 1 / math.sqrt(inputs)
        self.reset(generator)

    def reset(self, generator: torch.Generator) -> None:
        """Draw W anew."""
        with torch.no_grad():
            self.linear.weight.copy_(torch.randn(self.linear.weight.shape, generator=generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return W x / √d_in of x, (..., d_in)."""
        return self.linear(x * self.scale)


class _Block(nn.Module):
    """Causal attention with logits q·k/N, then a layer of GELUs, each added to its input."""

    def __init__(self, width: int, generator: torch.Generator):
        super().__init__()
        self.query, self.key, self.value, self.mixed, self.inner, self.outer = (
            ScaledLinear(width, width, generator) for _ in range(6)
        )
        self.width = width

    def forward(self, x: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """Return hidden states, (B, T, N), of hidden states; ``allowed`` (B, T, T) attends."""
        logits = self.query(x) @ self.key(x).transpose(1, 2) / self.width  # 1/n, not 1/√n
        weights = logits.masked_fill(~allowed, -math.inf).softmax(dim=-1)
        x = x + self.mixed(weights @ self.value(x))
        return x + self.outer(functional.gelu(self.inner(x)))


class AttentionNetwork(nn.Module):
    """Decoder of width N on fixed token features, (V, D), one output at the last real token.

    No positional encoding, no normalisation; attention logits are scaled by 1/N (SR26's setting);
    every weight is :class:`ScaledLinear`'s.
    """

    def __init__(self, width: int, features: torch.Tensor, blocks: int, generator: torch.Generator):
        super().__init__()
        self.register_buffer("features", features)
        self.embed = ScaledLinear(features.shape[1], width, generator)
        self.blocks = nn.ModuleList(_Block(width, generator) for _ in range(blocks))
        self.head = ScaledLinear(width, 1, generator)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return f, shape (B,), of token ids of shape (B, T), padded on the right."""
        x = self.embed(self.features[input_ids])
        allowed = attention_mask.bool()[:, None, :].expand(-1, input_ids.shape[1], -1).tril()
        for block in self.blocks:
            x = block(x, allowed)
        last = attention_mask.sum(dim=1) - 1
        return self.head(x[torch.arange(len(x), device=x.device), last]).squeeze(1)
