"""Does a penalty keep fine-tuning linear, and what does it cost? Trainings along λ, watched."""

import contextlib
import copy
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ntktune.finetune.last_rows import last_rows_only
from ntktune.finetune.methods import trained_by
from ntktune.finetune.repeats import Examples, start_seed
from ntktune.finetune.training import Settings, fine_tune, mean_loss
from ntktune.kernel import gram
from ntktune.linearized.curvature import jacobian_change, random_direction
from ntktune.linearized.penalty import Penalty, distance_bound
from ntktune.linearized.solution import logistic_weights, squared_weights
from ntktune.network.models import TextModel
from ntktune.network.tangent import LogitDifference, length, moved
from ntktune.study.seeds import generator, integer_seed
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
    penalties: Sequence[tuple[float, bool]],
    test_rows: int,
    progress: Callable[[float], None] = lambda share: None,
) -> list[dict[str, Any]]:
    """Fine-tune from the same start with each penalty; return one row per evaluation looked at.

    ``penalties`` are λ/λ_max(K), K the kernel of the training rows at the start, 0 for plain
    fine-tuning, and whether it is selective (:class:`ntktune.linearized.penalty.Penalty`). Weights
    do not decay, which would draw them to 0. λ belongs to R, half the sum of squared errors, or the
    sum of logistic losses of two classes. The loss that is minimised is the mean, so its penalty is
    2λ/n or λ/n. With adapters θ are the merged weights, and K is the kernel of the layers that have
    one, and of the head. The other parameters are those of
    :func:`ntktune.theory.trajectory.watched_seed`.

    Rows are a watcher's (:class:`ntktune.theory.trajectory.Trajectory`) with ``share``, ``ridge``
    λ, ``selective``; ``bound`` on ``distance``, both over ‖θ_P‖; and of the linearised network that
    minimises the loss with the penalty in every step, exact, ``error_solution`` and
    ``loss_solution`` on the test rows (NaN without a penalty). In the end the model has its
    pretrained weights again.
    """
    settings = dataclasses.replace(settings, weight_decay=0.0)
    watch = begin_watch(
        *(model, examples, subsets, size, seed, settings, root_seed, test_rows, 1.0)
    )
    start, origin, rows = watch.start, watch.origin, []
    head, pretrained = copy.deepcopy(model.head.state_dict()), origin.network.state_dict()
    n, order = len(start.train), start.order.bit_generator.state
    texts = [examples.ids[row] for row in start.train]
    first = mean_loss(model, texts, start.targets[start.train], settings)
    largest = n * float(origin.descent.values[-1])
    adapter, factors = None, ()
    with contextlib.ExitStack() as after:
        after.callback(watch.scalar.load_state_dict, pretrained)
        if settings.method == "lora":
            how = trained_by(
                model, examples.ids, set(), set(), settings
            )  # adapters ask for no rows
            _, _, adapter = after.enter_context(how)
            factors = adapter.factors()
        for number, (share, selective) in enumerate(penalties):
            if adapter:
                adapter.reset(integer_seed(root_seed, "finetune.adapter", repeat=seed))
                model.head.load_state_dict(head)
            else:
                watch.scalar.load_state_dict(pretrained)
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
                    penalty=Penalty(weight, selective, factors),
                )
            watcher.look(training.best, best=True)
            solution = _solution(origin, examples.kind, ridge)
            bound = distance_bound(first, weight) / origin.norm
            found = {"share": share, "ridge": ridge, "selective": selective, "bound": bound}
            rows += [found | row | solution for row in watcher.rows]
            progress((number + 1) / len(penalties))
    return rows


def held_seeds(
    model: TextModel,
    examples: Examples,
    subsets: Mapping,
    size: int,
    seeds: int,
    settings: Settings,
    root_seed: int,
    *,
    shares: Sequence[float],
    test_rows: int,
    radii: Sequence[float],
    radius_draws: int,
    progress: Callable[[float], None],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Hold the first seeds' trainings, by the penalty in every step and by the selective one.

    Returns the rows of :func:`held_seed`, plain fine-tuning (share 0) among them once, and those of
    :func:`radius_rows`, each with ``task``, ``kind``, ``n`` and ``seed``. ``progress`` is called
    with the number of seeds done.
    """
    held, change = [], []
    for seed in range(seeds):
        cell = (model, examples, subsets, size, seed, settings, root_seed)
        rows = held_seed(
            *cell,
            penalties=[(0.0, False), *itertools.product(shares, (False, True))],
            test_rows=test_rows,
            progress=lambda done, seed=seed: progress(seed + 0.9 * done),
        )
        texts = [examples.ids[row] for row in start_seed(*cell).train]
        scalar = LogitDifference(model) if examples.kind == "classification" else model
        draws = generator(root_seed, "linearized.radius", examples.task, size, seed)
        radius = radius_rows(scalar, texts, radii, radius_draws, draws, settings.batch_tokens)
        address = {"task": examples.task, "kind": examples.kind, "n": size, "seed": seed}
        held += [address | row for row in rows]
        change += [address | row for row in radius]
        progress(seed + 1)
    return held, change


def radius_rows(
    model: nn.Module,
    examples: Sequence[torch.Tensor],
    radii: Sequence[float],
    draws: int,
    generator: np.random.Generator,
    batch_tokens: int,
) -> list[dict[str, float]]:
    """Return how much the Jacobian changes at some distances, in random directions; one row each.

    ``radius`` is ‖θ − θ_P‖/‖θ_P‖, of ``radii``; ``lipschitz`` is ‖J(θ) − J(θ_P)‖ over ‖θ − θ_P‖,
    times ‖θ_P‖/‖J(θ_P)‖, so that it says by what share J changes per share of the weights.
    """
    norm, other, rows = length(dict(model.named_parameters())), copy.deepcopy(model), []
    how = {"dtype": next(model.parameters()).dtype, "max_tokens": batch_tokens, "check": False}
    kernel = gram(model, examples, **how).kernel
    whole = float(torch.linalg.eigvalsh(kernel)[-1]) ** 0.5  # ‖J(θ_P)‖₂
    for radius in radii:
        for draw in range(draws):
            step = random_direction(model, radius * norm, generator)
            with moved(other, step):
                change = jacobian_change(model, other, examples, batch_tokens)
            found = change / (radius * whole)
            rows.append({"radius": radius, "draw": draw, "lipschitz": found})
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
