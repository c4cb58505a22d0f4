"""Models merged by adding task vectors, judged on each of their tasks (SR26 section 5.2)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ntktune.finetune.repeats import Examples, measured_metrics
from ntktune.models import TextModel
from ntktune.taskvectors.arithmetic import apply, check_same_shapes, slices, task_vector

METRIC = {"regression": "pearson", "classification": "accuracy"}


@dataclass(frozen=True)
class TunedTask:
    """A task with its fine-tuned weights and its own head.

    Parameters
    ----------
    examples
        The task's examples.
    rows
        Its test rows.
    backbone
        Fine-tuned backbone weights by parameter name.
    head_weight, head_bias
        Shapes (C, D) and (C,).
    label_mean, label_sd
        What the regression targets were standardised with.
    """

    examples: Examples
    rows: Sequence[int]
    backbone: Mapping[str, torch.Tensor]
    head_weight: torch.Tensor
    head_bias: torch.Tensor
    label_mean: float
    label_sd: float


def backbone_weights(model: TextModel) -> dict[str, torch.Tensor]:
    """Return the backbone's parameters by name (no copies), tied ones once."""
    return {name: p.detach() for name, p in model.backbone.named_parameters()}


def task_score(
    model: TextModel, backbone: Mapping[str, torch.Tensor], task: TunedTask, batch_tokens: int
) -> float:
    """Return a task's score with given backbone weights and its own head.

    Pearson's correlation for regression, accuracy for classes. The weights are copied
    into ``model``.

    Raises
    ------
    UserError
        Names or shapes of the weights differ from the model's.
    """
    there = backbone_weights(model)
    check_same_shapes(there, backbone)
    head = nn.Linear(task.head_weight.shape[1], task.head_weight.shape[0])
    model.head = head.to(model.head.weight)  # the device and the precision it had
    with torch.no_grad():
        for name, weight in there.items():
            weight.copy_(backbone[name])
        model.head.weight.copy_(task.head_weight)
        model.head.bias.copy_(task.head_bias)
    found = measured_metrics(
        model,
        task.examples,
        task.rows,
        label_mean=task.label_mean,
        label_sd=task.label_sd,
        # the baseline is not asked for here
        training_label=task.examples.label[list(task.rows)],
        batch_tokens=batch_tokens,
    )
    return found[METRIC[task.examples.kind]]


def combinations(count: int) -> list[tuple[int, ...]]:
    """Return which of ``count`` tasks are merged: all pairs, then all if more than two."""
    pairs = list(itertools.combinations(range(count), 2))
    return [*pairs, tuple(range(count))] if count > 2 else pairs


def merged_weights(
    base: Mapping[str, torch.Tensor],
    tuned: Sequence[Mapping[str, torch.Tensor]],
    coefficient: float,
) -> dict[str, torch.Tensor]:
    """Return θ_P + coefficient · Σ τ by name, in base's precision (SR26 eq 23).

    In stretches, so that float64 differences of one stretch only are in memory.

    Raises
    ------
    UserError
        Names or shapes differ.
    """
    for weights in tuned:
        check_same_shapes(base, weights)
    coefficients = [coefficient] * len(tuned)
    merged = {}
    for name, tensor in base.items():
        parts = []
        for start, *ends in slices([tensor, *(weights[name] for weights in tuned)]):
            one = {name: start}
            vectors = [task_vector(one, {name: end}) for end in ends]
            parts.append(apply(one, vectors, coefficients)[name])
        merged[name] = torch.cat(parts).view_as(tensor)
    return merged


def merged_scores(
    model: TextModel,
    tasks: Sequence[TunedTask],
    coefficient: float,
    batch_tokens: int,
    progress: Callable[[float], None] | None = None,
) -> list[dict[str, object]]:
    """Return the scores of merged models on each task that went into them.

    All pairs are merged, and all tasks together if there are more than two. One model is
    in memory; weights are swapped in it, and it ends with the pretrained ones.

    Parameters
    ----------
    model
        The pretrained backbone, and any head.
    tasks
        The fine-tuned tasks.
    coefficient
        What every task vector is multiplied with.
    batch_tokens
        Padded tokens in one pass.
    progress
        Called with the number of evaluations done, see :func:`evaluations`.

    Returns
    -------
    list of dict
        ``merged`` (names joined by " + "), ``task`` (the one judged), ``kind``, ``metric``,
        ``coefficient``, ``pretrained`` (pretrained backbone under the task's fine-tuned
        head), ``single`` (the task's own fine-tuned model), ``merged_score`` and
        ``normalised`` = merged_score / single, NaN if single is 0.

    Raises
    ------
    UserError
        Names or shapes of the weights differ.
    """
    base = {name: w.clone() for name, w in backbone_weights(model).items()}
    done = 0

    def score(weights: Mapping[str, torch.Tensor], task: TunedTask) -> float:
        nonlocal done
        found = task_score(model, weights, task, batch_tokens)
        done += 1
        if progress:
            progress(done)
        return found

    pretrained = [score(base, task) for task in tasks]
    single = [score(task.backbone, task) for task in tasks]
    rows = []
    for members in combinations(len(tasks)):
        there = [{k: w.to(base[k].device) for k, w in tasks[i].backbone.items()} for i in members]
        weights = merged_weights(base, there, coefficient)
        for i in members:
            task, found = tasks[i], score(weights, tasks[i])
            rows.append(
                {
                    "merged": " + ".join(tasks[m].examples.task for m in members),
                    "task": task.examples.task,
                    "kind": task.examples.kind,
                    "metric": METRIC[task.examples.kind],
                    "coefficient": coefficient,
                    "pretrained": pretrained[i],
                    "single": single[i],
                    "merged_score": found,
                    "normalised": found / single[i] if single[i] else math.nan,
                }
            )
    with torch.no_grad():
        for name, weight in backbone_weights(model).items():
            weight.copy_(base[name])
    return rows


def evaluations(count: int) -> int:
    """Return the number of evaluations that merging ``count`` tasks takes."""
    return 2 * count + int(np.sum([len(members) for members in combinations(count)]))
