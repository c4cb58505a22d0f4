"""One network in memory whose weights are moved along task vectors, and what it answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ntktune.errors import UserError
from ntktune.finetune.repeats import Examples
from ntktune.finetune.training import outputs
from ntktune.network.device import is_processor
from ntktune.network.models import Features, TextModel
from ntktune.network.tangent import directional_derivative
from ntktune.taskvectors.arithmetic import SLICE, check_counts, check_same_shapes


@dataclass(frozen=True)
class TunedTask:
    """A task with the head that one seed's fine-tuning gave it."""

    examples: Examples
    parts: Mapping[str, Sequence[int]]  # validation, the hold-out rows of its sample, and test
    head_weight: torch.Tensor  # (C, D)
    head_bias: torch.Tensor  # (C,)
    label_mean: float  # what the regression targets were standardised with; of classes 0
    label_sd: float
    train: Sequence[int] = ()  # the rows that it was fine-tuned on

    @property
    def rows(self) -> list[int]:
        """The rows of all parts, one part after the other."""
        return [row for rows in self.parts.values() for row in rows]

    def changes(self, states: torch.Tensor) -> np.ndarray:
        """Return what f changes by with features, (N, D); it has the shape of :meth:`answers`."""
        return self._read((states.double() @ self.head_weight.double().T).numpy())

    def answers(self, states: torch.Tensor) -> np.ndarray:
        """Return f of features, (N, D), under the own head: (N,), or (N, C) of C > 2 classes.

        That is the score on the raw scale, the logit difference l1 − l0 of two classes, or the
        logits of more, less their mean, which no softmax sees.
        """
        at_zero = self._read(self.head_bias.double().numpy()[None])
        return self.changes(states) + at_zero + self.label_mean

    def _read(self, outputs: np.ndarray) -> np.ndarray:
        """Return what a head's outputs, (N, C), add to f."""
        if self.examples.kind == "regression":
            return outputs[:, 0] * self.label_sd
        if self.examples.classes == 2:
            return outputs[:, 1] - outputs[:, 0]
        return outputs - outputs.mean(axis=1, keepdims=True)


class EditedModel:
    """A pretrained network at θ_P + Σ coefficient · τ, one copy of the base beside it.

    ``model`` is the pretrained backbone with any head, changed in place; a pass has at most
    ``batch_tokens`` padded tokens.
    """

    def __init__(self, model: TextModel, batch_tokens: int):
        self.reader, self.batch_tokens = Features(model.backbone), batch_tokens
        # no copies; tied ones once
        self.weights = {name: p.detach() for name, p in model.backbone.named_parameters()}
        self.base = {name: w.clone() for name, w in self.weights.items()}
        self.directions: list[dict[str, torch.Tensor]] = []
        self.coefficients: list[float] = []

    def point(self, directions: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """Take the task vectors to move along, by name; they are held where the network is.

        Raises UserError if names or shapes differ from the network's.
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

        Raises UserError unless there is one finite coefficient for each task vector.
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

    def answers(self, tasks: Sequence[TunedTask]) -> list[np.ndarray]:
        """Return f of each task's rows under its own head, float64 (:meth:`TunedTask.answers`).

        A text that several tasks have passes through the network once. Raises UserError if an
        answer is not finite.
        """
        states = _of_texts(tasks, lambda texts: outputs(self.reader, texts, self.batch_tokens))
        found = [task.answers(some) for task, some in zip(tasks, states, strict=True)]
        for task, answers in zip(tasks, found, strict=True):
            if not np.isfinite(answers).all():
                raise UserError(
                    f"the answers to task {task.examples.task} are not finite at coefficients "
                    f"{', '.join(f'{c:g}' for c in self.coefficients)}; use smaller ones"
                )
        return found

    def linearised(
        self, tasks: Sequence[TunedTask], vector: Mapping[str, torch.Tensor]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return f and Δ = Jτ of each task's rows at the network's weights, of one shape.

        Δ, in the units of f, is what f changes by along τ in the linear regime (SR26 eq 14).
        """
        tangent = {f"backbone.{name}": v for name, v in vector.items()}

        def both(texts: Sequence[torch.Tensor]) -> torch.Tensor:
            found = directional_derivative(self.reader, tangent, texts, self.batch_tokens)
            return torch.stack(found, dim=1)  # (N, 2, D)

        states = _of_texts(tasks, both)
        return [
            (task.answers(some[:, 0]), task.changes(some[:, 1]))
            for task, some in zip(tasks, states, strict=True)
        ]


def _of_texts(
    tasks: Sequence[TunedTask], compute: Callable[[Sequence[torch.Tensor]], torch.Tensor]
) -> list[torch.Tensor]:
    """Return what is computed of each task's rows, (N, ...), each text once."""
    texts = [[task.examples.ids[row] for row in task.rows] for task in tasks]
    places: dict[tuple[int, ...], int] = {}
    kept = [[places.setdefault(tuple(t.tolist()), len(places)) for t in some] for some in texts]
    found = compute([torch.tensor(ids) for ids in places])
    return [found[some] for some in kept]
