"""Cosines of task vectors: of two tasks, and of one task that was trained twice."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ntktune.taskvectors.arithmetic import cosines


@dataclass(frozen=True)
class Run:
    """A training of a task."""

    task: str
    name: str
    seed: int  # of its head and order
    sample: int  # the seed of its sample
    rows: frozenset[int] = frozenset()  # of its sample


def _pair(first: Run, second: Run) -> str | None:
    """Return what two runs have in common, None if that is nothing to compare."""
    own = first.seed == first.sample and second.seed == second.sample
    if first.task != second.task:
        return "tasks" if own else None
    if first.seed == second.seed:
        return "subsets"
    return "seeds" if own else None


def _shared(first: Run, second: Run) -> float:
    """Return the share of a sample that two runs of a task have in common."""
    if first.task != second.task or not first.rows:
        return math.nan
    return len(first.rows & second.rows) / len(first.rows)


def cosine_rows(runs: Sequence[Run], grams: Mapping[str, np.ndarray]) -> list[dict[str, object]]:
    """Return the cosine of every two runs in every group of layers.

    Two tasks are compared between all their runs. What "nearly orthogonal" means is shown by one
    task trained twice: on another sample with another head and order (``seeds``), or on another
    sample only (``subsets``). ``grams`` maps a group to the Gram of the K task vectors, (K, K).

    Rows have ``pair`` (``tasks``, ``seeds`` or ``subsets``), ``task_a``, ``run_a``, ``task_b``,
    ``run_b``, ``group``, ``cosine`` (NaN where a vector is zero), ``norm_a`` and ``norm_b``
    (lengths in the group), ``shared`` (the share of the sample that both runs of a task were
    trained on, by the chance of the draw; NaN of two tasks).
    """
    order = {task: i for i, task in enumerate(dict.fromkeys(run.task for run in runs))}
    places = sorted(range(len(runs)), key=lambda i: order[runs[i].task])
    rows = []
    for group, gram in grams.items():
        found = cosines(gram)
        for i, j in itertools.combinations(places, 2):
            first, second = runs[i], runs[j]
            row = {"pair": _pair(first, second), "task_a": first.task, "run_a": first.name}
            row |= {"task_b": second.task, "run_b": second.name, "group": group}
            row |= {"cosine": found[i, j], "norm_a": math.sqrt(gram[i, i])}
            row |= {"norm_b": math.sqrt(gram[j, j]), "shared": _shared(first, second)}
            if row["pair"]:
                rows.append(row)
    return rows
