"""A fine-tuning, watched: how linear it stays, and how far its kernel moves.

Two trainings start from the same pretrained weights, head and sample: the study's own (AdamW), and
the theory's (gradient descent on all rows with the largest step size that it allows, squared
error). Beside them stands the network at the ridge solution's weights.
"""

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ntktune.errors import UserError
from ntktune.finetune.embedding import reachable_rows
from ntktune.finetune.last_rows import last_rows_only
from ntktune.finetune.methods import adapted_layers, plain_weights
from ntktune.finetune.repeats import Examples, Start, start_seed
from ntktune.finetune.training import Evaluation, Settings, Training, fine_tune, outputs
from ntktune.kernel import gram
from ntktune.network import tangent
from ntktune.network.models import TextModel, checkpointed
from ntktune.study.seeds import generator
from ntktune.theory.complexity import stopping_time
from ntktune.theory.descent import kernel_descent
from ntktune.theory.drift import kernel_drift, operator_stopping_times
from ntktune.theory.shift import noise_estimate, rated_noise, shift_estimate
from ntktune.theory.simulation import LATEST, tried_times

RIDGE_TIMES = (1, 8, 64, 512, 4096)  # steps whose ridge 1/η_t is tried, beside the hold-out's own


@dataclass(frozen=True)
class Trajectory:
    """One seed's trainings, watched.

    ``evaluations`` has one dict per training and evaluation that was looked at: ``method``
    (``adamw`` or ``gradient-descent``), ``step``, ``epoch``, ``eta`` (sum of the step sizes),
    ``best`` (whether it is the hold-out's choice), ``train_loss``, ``holdout_loss``; ``distance``
    ‖θ − θ_P‖/‖θ_P‖; ``linear_gap`` ‖f − f_lin‖/‖f − f_P‖ on the test rows; ``error``,
    ``error_linear`` and ``start_error``, the test errors of f, f_lin and f_P (squared, of
    standardised scores; or of classes), ``loss``, ``loss_linear`` and ``start_loss`` (squared, or
    logistic); ``kernel_gap`` and ``error_kernel``, the same with kernel descent after as many
    steps in place of f_lin (gradient descent only, else NaN); and what
    :func:`ntktune.theory.drift.kernel_drift` returns, of the kernel on the training rows.

    ``ridge`` has one dict per ridge: ``time`` t, ``eta``, ``ridge`` λ = 1/η_t, ``holdout`` (whether
    t is the hold-out's choice), ``distance`` ‖Δ̂‖/‖θ_P‖, ``gap`` ‖f_{θ_P+Δ̂} − f_ridge‖ / ‖f_ridge
    − f_P‖ on the test rows, ``error_network``, ``error_ridge`` and ``start_error``.

    ``stop`` says where the rules stop: ``n_train``; ``step_size`` α; ``sigma`` and ``sigma_source``
    (:func:`ntktune.theory.shift.noise_estimate`), ``radius`` (GCV); and in steps of α: ``theory``
    T̂_max, ``operator_crossing`` and ``operator_minimiser`` T̂_op (NaN where the drift is not known
    so far), ``kernel_holdout`` (where the hold-out stops kernel descent), ``network_holdout``
    (where it stops the network's gradient descent, of ``network_steps`` that were made).
    """

    evaluations: list[dict[str, Any]]
    ridge: list[dict[str, Any]]
    stop: dict[str, Any]


class Origin:
    """The pretrained network f_P as a scalar function, its kernel, and a seed's rows."""

    def __init__(
        self,
        scalar: nn.Module,
        examples: Examples,
        parts: Sequence[Sequence[int]],  # rows of training, hold-out and test
        target: np.ndarray,
        batch_tokens: int,
        factor: float,
        layers: Sequence[str] | None = None,
    ):
        self.network = copy.deepcopy(scalar)
        if layers is not None:  # the kernel is of what is trained
            self.network.backbone.requires_grad_(False)
            for layer in layers:
                self.network.backbone.get_submodule(layer).weight.requires_grad_(True)
        self.kind, self.batch_tokens = examples.kind, batch_tokens
        self.dtype = next(self.network.parameters()).dtype  # of weights and kernels
        rows = [row for part in parts for row in part]
        self.examples = [examples.ids[row] for row in rows]
        ends = np.cumsum([len(part) for part in parts]).tolist()
        self.train, self.holdout, self.test = (
            slice(end - len(part), end) for part, end in zip(parts, ends, strict=True)
        )
        found = gram(self.network, self.examples, max_tokens=batch_tokens, dtype=self.dtype)
        self.cross = found.kernel.numpy()[:, self.train]  # between all rows and the training's
        self.inside = self.cross[self.train]
        self.outputs = found.outputs.numpy()
        self.shift = target[rows] - self.outputs  # y − f_P
        self.start, self.target = self.outputs[self.test], target[rows][self.test]
        known = self.shift[self.train]
        self.descent = kernel_descent(self.inside, known, step_size_factor=factor)
        self.norm = tangent.length(dict(self.network.named_parameters()))

    def error(self, values: np.ndarray) -> float:
        """Return the test error of outputs: squared, of standardised scores; or of classes."""
        if self.kind == "classification":
            return float(np.mean((values > 0) != (self.target > 0)))
        return float(np.mean((values - self.target) ** 2))

    def loss(self, values: np.ndarray) -> float:
        """Return the mean test loss of outputs: squared, of standardised scores; or logistic."""
        if self.kind == "classification":
            return float(np.mean(np.logaddexp(0.0, -self.target * values)))
        return self.error(values)

    def holdout_time(self) -> int:
        """Return the steps of kernel descent after which the hold-out error is lowest."""
        times = tried_times(LATEST)
        paths = self.descent.path_elsewhere(self.cross[self.holdout], times)
        return int(times[((paths - self.shift[self.holdout]) ** 2).mean(axis=1).argmin()])


@dataclass
class Watcher:
    """Looks at a training: compares the network with its linearisation and its kernel."""

    origin: Origin
    now: nn.Module  # a copy of the pretrained network, to hold the weights while they are looked at
    scalar: nn.Module  # the network that is trained
    method: str
    pace: float  # the theory's clock over the sum of the learning rates
    reached: torch.Tensor  # rows of the embedding table whose tokens occur
    last: int | None = None  # the step after which it ends, if known
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    evaluations: int = 0

    def __call__(self, evaluation: Evaluation) -> None:
        """Look at evaluations 1, 2, 4, 8, …, and at step ``last`` if it is known."""
        if self.evaluations.bit_count() == 1 or evaluation.step == self.last:
            self.look(evaluation, best=False)
        self.evaluations += 1

    def look(self, evaluation: Evaluation, *, best: bool) -> None:
        """Add a row; ``best`` says whether these weights are the hold-out's choice."""
        with torch.no_grad():
            weights = (weight for _, weight in plain_weights(self.scalar))  # adapters added
            for kept, weight in zip(self.now.parameters(), weights, strict=True):
                if kept.shape == weight.shape:
                    kept.copy_(weight)
                else:  # while training, the embedding has few rows
                    kept[self.reached] = weight
        origin, tokens, start = self.origin, self.origin.batch_tokens, self.origin.start
        texts, known = origin.examples[origin.test], origin.examples[origin.train]
        change = tangent.difference(self.now, origin.network)
        found = outputs(self.now, texts, tokens).double().numpy()
        value, slope = tangent.directional_derivative(origin.network, change, texts, tokens)
        linear = (value + slope).numpy()
        kernel, error_kernel = np.nan, np.nan
        if self.method == "gradient-descent":
            path = origin.descent.path_elsewhere(origin.cross[origin.test], [evaluation.step])
            kernel = start + path[0]
            error_kernel = origin.error(kernel)
        # the self-check ran once, on the pretrained network
        moved_to = gram(self.now, known, max_tokens=tokens, dtype=origin.dtype, check=False)
        # of a network that has not moved, a gap would be rounding over rounding
        distance = tangent.length(change)
        scale = np.linalg.norm(found - start) if distance else np.nan
        self.rows.append(
            {
                "method": self.method,
                "step": evaluation.step,
                "epoch": evaluation.epoch,
                "best": best,
                "train_loss": evaluation.train_loss,
                "holdout_loss": evaluation.holdout_loss,
                "distance": distance / origin.norm,
                "linear_gap": float(np.linalg.norm(found - linear) / scale),
                "kernel_gap": float(np.linalg.norm(found - kernel) / scale),
                "error": origin.error(found),
                "error_linear": origin.error(linear),
                "error_kernel": error_kernel,
                "start_error": origin.error(start),
                "loss": origin.loss(found),
                "loss_linear": origin.loss(linear),
                "start_loss": origin.loss(start),
            }
            | kernel_drift(origin.inside, moved_to.kernel.numpy(), torch.finfo(origin.dtype).eps)
            | {"eta": evaluation.sum_learning_rate * self.pace}
        )


@dataclass
class Watch:
    """A seed's start, from which trainings are watched."""

    start: Start
    scalar: nn.Module  # the model as a scalar function
    target: np.ndarray  # y of all rows
    test: list[int]  # rows that are looked at
    origin: Origin

    def __post_init__(self):
        reach = reachable_rows(self.scalar.backbone, self.origin.examples)
        self.reached = reach[1] if reach else torch.empty(0, dtype=torch.long)
        self.now = copy.deepcopy(self.origin.network)

    def watcher(self, method: str, pace: float, last: int | None = None) -> Watcher:
        """Return what looks at one training."""
        return Watcher(self.origin, self.now, self.scalar, method, pace, self.reached, last)


def begin_watch(
    model: TextModel,
    examples: Examples,
    subsets: Mapping,
    size: int,
    seed: int,
    settings: Settings,
    root_seed: int,
    test_rows: int,
    step_size_factor: float,
) -> Watch:
    """Put a seed's head on a pretrained model and return what its trainings are compared with.

    The parameters are those of :func:`watched_seed`. Where adapters will be trained, the kernel is
    of the layers that have one, and of the head.
    """
    lora = settings.method == "lora"
    layers = adapted_layers(model.backbone, settings.lora) if lora else None
    start = start_seed(model, examples, subsets, size, seed, settings, root_seed)
    two = examples.kind == "classification"
    scalar = tangent.LogitDifference(model) if two else model
    target = 2 * examples.label - 1 if two else (examples.label - start.label_mean) / start.label_sd
    # the test rows stand as in their file, which may be sorted by label
    drawn = generator(root_seed, "theory.test", examples.task).permutation(subsets["test"])
    test = sorted(drawn[:test_rows].tolist())
    parts = [start.train, start.holdout, test]
    how = (settings.batch_tokens, step_size_factor, layers)
    origin = Origin(scalar, examples, parts, target, *how)
    return Watch(start, scalar, target, test, origin)


def _ridge_rows(origin: Origin, checkpointing: bool) -> list[dict[str, Any]]:
    """Return how far the network at θ_P + Δ̂ is from the ridge prediction it linearises to."""
    step, shift, start = origin.descent.step_size, origin.shift[origin.train], origin.start
    network, tokens = origin.network, origin.batch_tokens
    chosen = max(origin.holdout_time(), 1)
    rows = []
    for time in sorted({*RIDGE_TIMES, chosen}):
        ridge = 1 / (step * time)
        weights = np.linalg.solve(origin.inside + len(shift) * ridge * np.eye(len(shift)), shift)
        linear = start + origin.cross[origin.test] @ weights
        with checkpointed(network.backbone) if checkpointing else contextlib.nullcontext():
            solution = tangent.weighted_gradient(
                network, torch.as_tensor(weights), origin.examples[origin.train], tokens
            )
        with tangent.moved(network, solution):
            found = outputs(network, origin.examples[origin.test], tokens).double().numpy()
        rows.append(
            {
                "time": time,
                "eta": step * time,
                "ridge": ridge,
                "holdout": time == chosen,
                "distance": tangent.length(solution) / origin.norm,
                "gap": float(np.linalg.norm(found - linear) / np.linalg.norm(linear - start)),
                "error_network": origin.error(found),
                "error_ridge": origin.error(linear),
                "start_error": origin.error(start),
            }
        )
    return rows


def _stop(
    origin: Origin,
    watched: list[dict[str, Any]],
    training: Training,
    rated: float | None,
    constant: float,
) -> dict[str, Any]:
    """Return where the rules stop on the training rows, in steps of a watched gradient descent."""
    step, shift = origin.descent.step_size, origin.shift[origin.train]
    estimate = shift_estimate(origin.inside, shift, float(torch.finfo(origin.dtype).eps))
    sigma, source = noise_estimate(origin.inside, shift, estimate, rated)
    condition = {"radius": estimate.radius, "step_size": step}
    latest = stopping_time(origin.descent.values, sigma=sigma, **condition)
    drift = {step * row["step"]: row["drift"] for row in watched if row["step"] > 0}
    etas = sorted(drift)
    operator = operator_stopping_times(
        etas, [drift[eta] for eta in etas], latest=latest, constant=constant, **condition
    )
    return {
        "n_train": len(shift),
        "step_size": step,
        "sigma": sigma,
        "sigma_source": source,
        "radius": estimate.radius,
        "theory": latest,
        "operator_crossing": operator.crossing,
        "operator_minimiser": operator.minimiser,
        "kernel_holdout": origin.holdout_time(),
        "network_holdout": training.best.step,
        "network_steps": training.steps,
    }


def watched_seed(
    model: TextModel,
    examples: Examples,
    subsets: Mapping,
    size: int,
    seed: int,
    settings: Settings,
    root_seed: int,
    *,
    test_rows: int,
    descent_steps: int,
    step_size_factor: float = 1.0,
    constant: float = 1.0,
    progress: Callable[[float], None] = lambda share: None,
) -> Trajectory:
    """Fine-tune from the pretrained weights in both ways, and watch.

    The sample, the head and the order of the batches are those of
    :func:`ntktune.finetune.repeats.fine_tuned_repeats`, which explains the parameters; ``settings``
    are AdamW's. For two classes f = l1 − l0 and the theory's target is −1 or +1; AdamW
    minimises cross-entropy there. In the end the model has its pretrained weights again.

    At most ``test_rows`` of the test rows are looked at, drawn at random. Gradient descent takes
    ``descent_steps`` steps of ``step_size_factor`` times min(1, 1/λ̂_1). ``constant`` is C in T̂_op
    (:func:`ntktune.theory.drift.operator_stopping_times`). ``progress`` gets the share done.
    """
    watch = begin_watch(
        *(model, examples, subsets, size, seed, settings, root_seed, test_rows, step_size_factor)
    )
    start, scalar, origin, test = watch.start, watch.scalar, watch.origin, watch.test
    progress(0.1)
    longest = max(map(len, origin.examples))
    plain = dataclasses.replace(
        settings,
        optimizer="sgd",
        # fine_tune minimises the mean of squares, the theory half of it
        learning_rate=origin.descent.step_size / 2,
        weight_decay=0.0,
        batch_size=len(start.train),
        # in passes no larger than AdamW's, which are known to fit
        batch_tokens=min(settings.batch_tokens, settings.batch_size * longest),
        max_steps=descent_steps,
        warmup=0.0,
        schedule="constant",
        max_norm=None,
        evaluate_every=1,
        patience=None,
    )
    own = torch.as_tensor(watch.target, dtype=model.head.weight.dtype)
    order = generator(root_seed, "theory.order")
    adamw = watch.watcher("adamw", 1.0)
    descent = watch.watcher("gradient-descent", 2.0, descent_steps)
    for share, watcher, network, how, targets, batches in (
        (0.5, adamw, model, settings, start.targets, start.order),
        (0.9, descent, scalar, plain, own, order),
    ):
        with last_rows_only(network, examples.ids):
            try:
                training = fine_tune(
                    *(network, examples.ids, targets, start.train, start.holdout, how, batches),
                    on_evaluation=watcher,
                    looked_at=test,
                )
            except UserError as error:
                if watcher is adamw:
                    raise
                raise UserError(
                    f"the theory's gradient descent on {examples.task}: {error} (that is half its "
                    f"step size; lower theory.step_size_factor, {step_size_factor:g})"
                ) from None
        watcher.look(training.best, best=True)
        scalar.load_state_dict(origin.network.state_dict())
        progress(share)
    ridge = _ridge_rows(origin, settings.checkpointing)
    progress(1.0)
    rated = rated_noise(examples.label_noise[start.train], examples.kind, start.label_sd)
    stop = _stop(origin, descent.rows, training, rated, constant)
    return Trajectory(adamw.rows + descent.rows, ridge, stop)


def watched_seeds(
    model: TextModel,
    examples: Examples,
    subsets: Mapping,
    size: int,
    seeds: int,
    settings: Settings,
    root_seed: int,
    *,
    progress: Callable[[float], None],
    **how: Any,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Watch the first seeds, as :func:`watched_seed` does with ``how``.

    Returns the rows of evaluations, of the network at ridge solutions, and of stops, each with
    ``task``, ``kind``, ``n`` and ``seed``. ``progress`` is called with the number of seeds done.
    """
    evaluations, ridge, stops = [], [], []
    for seed in range(seeds):
        found = watched_seed(
            *(model, examples, subsets, size, seed, settings, root_seed),
            progress=lambda done, seed=seed: progress(seed + done),
            **how,
        )
        address = {"task": examples.task, "kind": examples.kind, "n": size, "seed": seed}
        evaluations += [address | row for row in found.evaluations]
        ridge += [address | row for row in found.ridge]
        stops.append(address | found.stop)
    return evaluations, ridge, stops
