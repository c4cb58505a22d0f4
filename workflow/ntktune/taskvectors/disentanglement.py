"""How far two task vectors disturb each other's tasks: the disentanglement error ξ."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from ntktune.errors import UserError
from ntktune.study.scores import predicted_class
from ntktune.taskvectors.edited import EditedModel, TunedTask


def distance(task: TunedTask, rows: Sequence[int], first: np.ndarray, second: np.ndarray) -> float:
    """Return how much two models' answers on a task differ, in [0, 1] for usual answers.

    The share of rows with another predicted class, or the mean distance of the scores as a share of
    the score range (of the labels' range where the task has none); UserError if that is empty.
    """
    if task.examples.kind == "classification":
        return float(np.mean(predicted_class(first) != predicted_class(second)))
    label = task.examples.label[list(rows)]
    low, high = task.examples.score_range or (label.min(), label.max())
    if not high > low:
        raise UserError(
            f"the scores of task {task.examples.task} have no range; state its score_range"
        )
    return float(np.mean(np.abs(first - second)) / (high - low))


def disentanglement_rows(
    edited: EditedModel,
    vectors: Sequence[Mapping[str, torch.Tensor]],
    tasks: Sequence[TunedTask],
    grid: Sequence[float],
    progress: Callable[[float], None] = lambda done: None,
    trained: Sequence[Mapping[str, torch.Tensor]] = (),
) -> list[dict[str, object]]:
    """Return ξ(α_a, α_b) of two task vectors on a grid (Ortiz-Jimenez et al. 2023, eq 5).

    ξ = Σ_t E_x[dist(f(x; θ_P + α_t τ_t), f(x; θ_P + α_a τ_a + α_b τ_b))] over the test rows of
    either task: 0 where neither vector changes the answers to the other's task. ``edited`` is the
    network at the pretrained weights, with which it ends again; ``vectors`` are τ_a and τ_b; all
    rows of the part ``test`` of their ``tasks`` are compared, each with its own head; ``grid`` has
    the values of either coefficient; ``progress`` is called with the number of :func:`evaluations`
    done. Raises UserError as :func:`distance` does.

    Rows, per arm and point: ``arm`` (``standard``: the network; ``linear``: the same vectors in
    f_P + α_a Jτ_a + α_b Jτ_b, the post-hoc linearised network; ``tangent``: the same network with
    the vectors ``trained`` in it, where there are), ``alpha_a``, ``alpha_b``, ``error_a``,
    ``error_b``, their sum ``error``, ``rows_a`` and ``rows_b``.
    """
    tasks = [dataclasses.replace(task, parts={"test": task.parts["test"]}) for task in tasks]
    rows = [task.rows for task in tasks]
    for task, some in zip(tasks, rows, strict=True):
        nothing = np.zeros(len(some))
        distance(task, some, nothing, nothing)  # refused before the work
    edited.point(vectors)
    arms = {"linear": edited.directions} | ({"tangent": trained} if trained else {})
    slopes = {
        arm: [[slope for _, slope in edited.linearised(tasks, vector)] for vector in own]
        for arm, own in arms.items()
    }
    standard = {}
    points = list(itertools.product(sorted({0.0, *map(float, grid)}), repeat=2))
    for done, point in enumerate(points, start=1):
        edited.move(point)
        standard |= {(i, *point): found for i, found in enumerate(edited.answers(tasks))}
        progress(done)
    edited.restore()
    found, answered = [], {"standard": standard}
    for arm, (first, second) in slopes.items():
        answered[arm] = {
            (i, *point): standard[i, 0.0, 0.0] + point[0] * first[i] + point[1] * second[i]
            for i in range(len(tasks))
            for point in points
        }
    for arm, answers in answered.items():
        for alpha, beta in itertools.product(map(float, grid), repeat=2):
            alone = [(alpha, 0.0), (0.0, beta)]
            errors = [
                distance(task, rows[i], answers[i, *alone[i]], answers[i, alpha, beta])
                for i, task in enumerate(tasks)
            ]
            row = {"arm": arm, "alpha_a": alpha, "alpha_b": beta}
            row |= {"error_a": errors[0], "error_b": errors[1], "error": sum(errors)}
            found.append(row | {"rows_a": len(rows[0]), "rows_b": len(rows[1])})
    return found


def evaluations(grid: Sequence[float]) -> int:
    """Return the number of evaluations that ξ on a grid takes."""
    return len({0.0, *map(float, grid)}) ** 2
