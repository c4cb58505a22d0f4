"""One network in memory whose weights are moved along task vectors, and what it answers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ntktune.errors import UserError
from ntktune.finetune.repeats import Examples
from ntktune.finetune.training import outputs
from ntktune.network.device import is_processor
from ntktune.network.models import TextModel
from ntktune.network.tangent import LogitDifference, directional_derivative
from ntktune.taskvectors.arithmetic import SLICE, check_counts, check_same_shapes


def backbone_weights(model: TextModel) -> dict[str, torch.Tensor]:
    """Return the backbone's parameters by name (no copies), tied ones once."""
    return {name: p.detach() for name, p in model.backbone.named_parameters()}


@dataclass(frozen=True)
class TunedTask:
    """A task with the head that one seed's fine-tuning gave it.

    Parameters
    ----------
    examples
        The task's examples.
    parts
        ``validation``, the hold-out rows of its sample, and ``test``.
    head_weight, head_bias
        Shapes (C, D) and (C,).
    label_mean, label_sd
        What the regression targets were standardised with.
    """

    examples: Examples
    parts: Mapping[str, Sequence[int]]
    head_weight: torch.Tensor
    head_bias: torch.Tensor
    label_mean: float
    label_sd: float

    @property
    def rows(self) -> list[int]:
        """The rows of all parts, one part after the other."""
        return [row for rows in self.parts.values() for row in rows]


class EditedModel:
    """A pretrained network at θ_P + Σ coefficient · τ, one copy of the base beside it.

    Parameters
    ----------
    model
        The pretrained backbone and any head; changed in place.
    batch_tokens
        Padded tokens in one pass.
    """

    def __init__(self, model: TextModel, batch_tokens: int):
        self.model, self.batch_tokens = model, batch_tokens
        self.weights = backbone_weights(model)
        self.base = {name: w.clone() for name, w in self.weights.items()}
        self.directions: list[dict[str, torch.Tensor]] = []
        self.coefficients: list[float] = []

    def point(self, directions: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """Take the task vectors to move along, by name; they are held where the network is.

        Raises
        ------
        UserError
            Names or shapes differ from the network's.
        """
        for vector in directions:
            check_same_shapes(self.base, vector, ("the network's", "the task vector's"))
        self.directions = [
            {name: v.to(self.base[name].device) for name, v in vector.items()}
            for vector in directions
        ]

    @torch.no_grad()
    def move(self, coefficients: Sequence[float]) -> None:
        """Set the weights to θ_P + Σ coefficient · τ: summed in float64, rounded once.

        Raises
        ------
        UserError
            There is not one finite coefficient for each task vector.
        """
        check_counts(self.directions, coefficients)
        self.coefficients = list(coefficients)
        for name, weight in self.weights.items():
            flat = weight.view(-1)
            start = self.base[name].view(-1)
            vectors = [vector[name].reshape(-1) for vector in self.directions]
            # a processor's cache holds a stretch; a GPU has no use for them
            step = SLICE if is_processor(flat.device) else max(1, flat.numel())
            for first in range(0, flat.numel(), step):
                part = slice(first, first + step)
                total = start[part].to(torch.float64, copy=True)
                for vector, coefficient in zip(vectors, coefficients, strict=True):
                    if coefficient:
                        total.add_(vector[part], alpha=coefficient)
                flat[part] = total.to(flat.dtype)

    def restore(self) -> None:
        """Put the pretrained weights back, bit for bit."""
        self.move([0.0] * len(self.directions))

    @contextlib.contextmanager
    def under(self, task: TunedTask) -> Iterator[TextModel]:
        """Let the network have a task's own head within a context."""
        before, head = self.model.head, nn.Linear(*task.head_weight.shape[::-1])
        with torch.no_grad():
            head.weight.copy_(task.head_weight)
            head.bias.copy_(task.head_bias)
        self.model.head = head.to(before.weight)  # its device and precision
        try:
            yield self.model
        finally:
            self.model.head = before

    def answers(self, task: TunedTask, rows: Sequence[int]) -> np.ndarray:
        """Return f of a task's rows under its own head, float64, (N,).

        Scores on the raw scale, or the logit difference l1 − l0 of two classes.

        Raises
        ------
        UserError
            An answer is not finite.
        """
        with self.under(task) as model:
            found = outputs(model, [task.examples.ids[i] for i in rows], self.batch_tokens)
        found = found.double().numpy()
        if not np.isfinite(found).all():
            raise UserError(
                f"the answers to task {task.examples.task} are not finite at coefficients "
                f"{', '.join(f'{c:g}' for c in self.coefficients)}; use smaller ones"
            )
        if task.examples.kind == "classification":
            return found[:, 1] - found[:, 0]
        return found * task.label_sd + task.label_mean

    def slopes(
        self, task: TunedTask, rows: Sequence[int], vector: Mapping[str, torch.Tensor]
    ) -> np.ndarray:
        """Return Δ = Jτ of a task's rows at the network's weights, (N,), in the units of f.

        What f changes by along a task vector in the linear regime (SR26 eq 14).
        """
        examples = [task.examples.ids[i] for i in rows]
        two = task.examples.kind == "classification"
        prefix = "model.backbone." if two else "backbone."
        tangent = {f"{prefix}{name}": v for name, v in vector.items()}
        with self.under(task) as model:
            scalar = LogitDifference(model) if two else model
            found = directional_derivative(scalar, tangent, examples, self.batch_tokens)[1].numpy()
        return found if two else found * task.label_sd
