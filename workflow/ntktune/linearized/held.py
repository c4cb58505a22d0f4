"""Does a penalty keep fine-tuning linear, and what does it cost? Trainings along λ, watched."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ntktune.finetune.last_rows import last_rows_only
from ntktune.finetune.repeats import Examples
from ntktune.finetune.training import Settings, fine_tune, mean_loss
from ntktune.linearized.penalty import Penalty, distance_bound
from ntktune.linearized.solution import logistic_weights, squared_weights
from ntktune.network.models import TextModel
from ntktune.theory.trajectory import Origin, begin_watch


def held_seed(
    model: TextModel,
    examples: Examples,
    subsets: Mapping,
    size: int,
    seed: int,
    settings: Settings,
    root_seed: int,
    *,
    shares: Sequence[float],
    selective: bool,
    test_rows: int,
    progress: Callable[[float], None] = lambda share: None,
) -> list[dict[str, Any]]:
    """Fine-tune from the same start with each penalty; return one row per evaluation looked at.

    ``shares`` are λ/λ_max(K), K the kernel of the training rows at the start; 0 is plain
    fine-tuning. λ belongs to R, half the sum of squared errors, or the sum of logistic losses of
    two classes. The loss that is minimised is the mean, so its penalty is 2λ/n or λ/n. The other
    parameters are those of :func:`ntktune.theory.trajectory.watched_seed`.

    Rows are a watcher's (:class:`ntktune.theory.trajectory.Trajectory`) with ``share``, ``ridge``
    λ, ``selective``; ``bound`` on ``distance``, both over ‖θ_P‖; and of the linearised network that
    is trained to the same objective, exact, ``error_solution`` and ``loss_solution`` on the test
    rows (NaN without a penalty). In the end the model has its pretrained weights again.
    """
    watch = begin_watch(
        *(model, examples, subsets, size, seed, settings, root_seed, test_rows, 1.0)
    )
    start, origin, rows = watch.start, watch.origin, []
    n, order = len(start.train), start.order.bit_generator.state
    texts = [examples.ids[row] for row in start.train]
    first = mean_loss(model, texts, start.targets[start.train], settings)
    largest = n * float(origin.descent.values[-1])
    for number, share in enumerate(shares):
        ridge = share * largest
        weight = ridge / n * (2 if examples.kind == "regression" else 1)
        watcher = watch.watcher("adamw", 1.0)
        start.order.bit_generator.state = order  # the same batches for all
        with last_rows_only(model, examples.ids):
            training = fine_tune(
                *(model, examples.ids, start.targets, start.train, start.holdout),
                *(settings, start.order),
                on_evaluation=watcher,
                looked_at=watch.test,
                penalty=Penalty(weight, selective),
            )
        watcher.look(training.best, best=True)
        solution = _solution(origin, examples.kind, ridge)
        bound = distance_bound(first, weight) / origin.norm
        found = {"share": share, "ridge": ridge, "selective": selective, "bound": bound}
        rows += [found | row | solution for row in watcher.rows]
        watch.scalar.load_state_dict(origin.network.state_dict())
        progress((number + 1) / len(shares))
    return rows


def _solution(origin: Origin, kind: str, ridge: float) -> dict[str, float]:
    """Return the test errors of the linearised network that minimises the penalised loss."""
    if not ridge:
        return dict.fromkeys(("error_solution", "loss_solution"), np.nan)
    if kind == "regression":
        weights = squared_weights(origin.descent, ridge)
    else:
        target = origin.shift[origin.train] + origin.outputs[origin.train]
        weights = logistic_weights(origin.inside, origin.outputs[origin.train], target, ridge)
    values = origin.start + origin.cross[origin.test] @ weights
    return {"error_solution": origin.error(values), "loss_solution": origin.loss(values)}
