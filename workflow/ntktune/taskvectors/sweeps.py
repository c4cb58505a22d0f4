"""What merged and negated models answer, along the coefficient of their task vectors.

A sweep is a table of single answers, from which every score is computed later: on validation or
test rows, with or without those that leaked.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from ntktune.study.merges import full_coefficient
from ntktune.taskvectors.arithmetic import randomize
from ntktune.taskvectors.edited import EditedModel, TunedTask

Vector = Mapping[str, torch.Tensor]


def _answers(task: TunedTask, coefficient: float, found: np.ndarray) -> pd.DataFrame:
    """Return the table of a task's answers at one coefficient, (N,) or (N, C)."""
    columns = found.size // len(found)
    table = pd.DataFrame(
        {
            "task": task.examples.task,
            "kind": task.examples.kind,
            "metric": task.examples.metric,
            "coefficient": coefficient,
            "part": [name for name, rows in task.parts.items() for _ in rows],
            "row": task.rows,
            "label": task.examples.label[task.rows],
        }
    )
    table = table.loc[table.index.repeat(columns)].reset_index(drop=True)
    return table.assign(column=np.tile(range(columns), len(found)), output=found.ravel())


def addition_sweep(
    edited: EditedModel,
    vector: Vector,
    tasks: Sequence[TunedTask],
    coefficients: Sequence[float],
    progress: Callable[[float], None] = lambda done: None,
) -> pd.DataFrame:
    """Return what θ_P + λ Σ τ answers on each task that went into it (SR26 eq 23).

    ``edited`` is the network at the pretrained weights, with which it ends again; ``vector`` Σ τ of
    the ``tasks``, each with its own head; ``coefficients`` are λ (at 0 it is the pretrained
    network, which :func:`negation_sweep` answers for); ``progress`` gets the number done.

    Columns: ``task``, ``kind``, ``metric``, ``coefficient``, ``part`` (``validation`` or ``test``),
    ``row``, ``label`` (raw), ``output`` (f: the raw score, or l1 − l0 of two classes) and
    ``column``, 0; of more classes a row for each, ``column``, with its centred logit.
    """
    found = []
    edited.point([vector])
    for done, coefficient in enumerate(coefficients, start=1):
        edited.move([coefficient])
        answers = edited.answers(tasks)
        found += [_answers(t, coefficient, f) for t, f in zip(tasks, answers, strict=True)]
        progress(done)
    edited.restore()
    return pd.concat(found, ignore_index=True)


def negation_sweep(
    edited: EditedModel,
    vector: Vector,
    target: TunedTask,
    controls: Sequence[TunedTask],
    coefficients: Sequence[float],
    seed: int,
    progress: Callable[[float], None] = lambda done: None,
) -> pd.DataFrame:
    """Return what θ_P − λτ answers on its own task and on control tasks (SR26 eq 24).

    ``edited`` and ``progress`` are as for :func:`addition_sweep`. ``vector`` is τ of the target; a
    random vector, drawn with ``seed``, overwrites it in the end. ``coefficients`` are λ > 0; the
    ``target`` is also answered at λ = 0 and at λ = −1, by its own fine-tuned model, and the
    ``controls``, which should stay as they are, at λ = 0.

    Columns are those of :func:`addition_sweep`, ``coefficient`` being λ, and ``slope``: Δ = Jτ,
    which the linear regime's answer f_P − λΔ follows from; and ``random``: the answers to the
    target with a random vector of the same length in every tensor, at the λ where negation is
    judged (:func:`ntktune.study.merges.full_coefficient`), else NaN.
    """
    found = []
    edited.point([vector])
    tasks = [target, *controls]
    start, slopes = zip(*edited.linearised(tasks, edited.directions[0]), strict=True)
    for done, coefficient in enumerate((0.0, -1.0, *coefficients), start=1):
        edited.move([-coefficient])
        answered = [target] if coefficient < 0 else tasks
        answers = edited.answers(answered) if coefficient else start
        for task, some, slope in zip(answered, answers, slopes, strict=False):
            found.append(_answers(task, coefficient, some).assign(slope=slope.ravel()))
        progress(done)
    edited.restore()
    table, full = pd.concat(found, ignore_index=True), full_coefficient(coefficients)
    randomize(vector, seed)
    edited.point([vector])
    edited.move([-full])
    own = (table["task"] == target.examples.task) & (table["coefficient"] == full)
    table.loc[own, "random"] = edited.answers([target])[0].ravel()
    progress(done + 1)
    edited.restore()
    return table
