"""Fine-tunings of one task, repeated over seeds, and over sizes of its sample."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ntktune.data.sampling import training_subset
from ntktune.errors import UserError
from ntktune.finetune import metrics
from ntktune.finetune.last_rows import last_rows_only
from ntktune.finetune.methods import Adapter, trained_by
from ntktune.finetune.regression import probe_head
from ntktune.finetune.training import (
    DivergedError,
    Settings,
    Training,
    expected_steps,
    fine_tune,
    outputs,
)
from ntktune.network.models import Features, TextModel
from ntktune.study.scores import METRICS
from ntktune.study.seeds import generator, integer_seed


@dataclass(frozen=True)
class Examples:
    """A task's tokenised examples."""

    task: str
    kind: str  # regression or classification
    ids: list[torch.Tensor]  # N 1-D tensors of token ids
    label: np.ndarray  # (N,), on the raw scale; classes are 0, 1, …
    label_noise: np.ndarray  # (N,), the labels' standard errors, NaN where unknown
    score_range: tuple[float, float] | None = None  # lowest and highest possible score
    metric: str = ""  # the task's score; by default Pearson's correlation, or the accuracy
    classes: int = 2  # of a classification

    def __post_init__(self):
        if self.kind not in METRICS:
            raise UserError(
                f"task {self.task} is of kind {self.kind!r}; it must be one of {', '.join(METRICS)}"
            )
        known = METRICS[self.kind]
        object.__setattr__(self, "metric", self.metric or known[0])
        if self.metric not in known:
            raise UserError(
                f"task {self.task} has the metric {self.metric!r}; a {self.kind} has one of "
                f"{', '.join(known)}"
            )
        odd = self.label[~np.isin(self.label, range(self.classes))]
        if self.kind == "classification" and len(odd):
            raise UserError(
                f"task {self.task}: label {odd[0]:g} is not a class; classes are 0 to "
                f"{self.classes - 1}"
            )

    @property
    def outputs(self) -> int:
        """C, the outputs that a network for the task has."""
        return 1 if self.kind == "regression" else self.classes


@dataclass(frozen=True)
class Repeat:
    """One seed's outcome."""

    seed: int
    training: Training
    row: dict[str, object]  # facts and test metrics
    label_mean: float
    label_sd: float
    test_history: list[dict[str, float]]  # test metrics at each evaluation, if asked for
    adapter: Adapter | None = None  # of the method lora: its weights, as long as the model has them


@dataclass(frozen=True)
class Start:
    """What one seed's training starts from."""

    train: list[int]
    holdout: list[int]
    targets: torch.Tensor  # of all examples, (N,)
    label_mean: float  # what they were standardised with
    label_sd: float
    order: np.random.Generator  # source of the batches' order


def seed_split(
    examples: Examples, subsets: Mapping, size: int, seed: int
) -> tuple[list[int], list[int]]:
    """Return the training rows and the hold-out rows of one seed's sample of ``size`` rows.

    Raises UserError as :func:`ntktune.data.sampling.training_subset` does.
    """
    labels = examples.label if examples.kind == "classification" else None
    return training_subset(subsets, size, seed, labels)


def label_scale(examples: Examples, train: Sequence[int]) -> tuple[float, float]:
    """Return the training part's mean and sd, which standardise targets; (0, 1) for classes.

    Raises UserError if all labels of the training part are equal.
    """
    if examples.kind == "classification":
        return 0.0, 1.0
    label = examples.label[list(train)]
    mean, sd = float(label.mean()), float(label.std())
    if len(label) and sd == 0:
        raise UserError(
            f"task {examples.task}: all {len(label)} labels of the training part are {mean:g}; "
            "use a larger size"
        )
    return mean, sd


def center_outputs(model: TextModel, examples: Sequence[torch.Tensor], settings: Settings) -> None:
    """Set the head's bias so that the mean output over some examples is 0, in place.

    This is the counterpart of standardised targets: the hidden states of a pretrained model have a
    large common part, which a fresh head turns into an arbitrary offset. Taking it out changes no
    gradient, and so no kernel.
    """
    with torch.no_grad():
        mean = outputs(model, examples, settings.batch_tokens, settings.autocast).mean(dim=0)
        model.head.bias -= mean.to(model.head.bias.device)


def class_targets(label: np.ndarray, classes: int) -> np.ndarray:
    """Return what regression on classes, (N,), is to predict: 1 for its own, less 1/C; (N, C)."""
    return np.eye(classes)[np.asarray(label).astype(int)] - 1 / classes


def kernel_targets(label: np.ndarray, classes: int | None) -> np.ndarray:
    """Return y of labels, (N,), for regression on a kernel; ``classes`` is None for scores.

    Standardised scores, or −1 and +1 of two classes, (N,); or a column per class, (N, C).
    """
    if classes is None:
        return (label - label.mean()) / label.std()
    return 2.0 * label - 1 if classes == 2 else class_targets(label, classes)


def put_probe(
    model: TextModel,
    examples: Examples,
    train: Sequence[int],
    holdout: Sequence[int],
    settings: Settings,
) -> None:
    """Put a linear probe of the pretrained hidden states in the head's place.

    Linear probing before fine-tuning (Kumar et al. 2022) keeps the pretrained features from being
    bent towards a random head. The probe is ridge regression in closed form, its strength chosen on
    the hold-out; of classes it regresses on which one it is, less 1 over their number.
    """
    mean, sd = label_scale(examples, train)
    rows = [*train, *holdout]
    if examples.kind == "classification":
        target = class_targets(examples.label[rows], examples.classes)
    else:
        target = (examples.label[rows] - mean)[:, None] / sd
    texts = [examples.ids[row] for row in rows]
    states = outputs(Features(model.backbone), texts, settings.batch_tokens, settings.autocast)
    places = range(len(train)), range(len(train), len(rows))
    weights, offset, _ = probe_head(states.double().numpy(), target, *places)
    with torch.no_grad():
        model.head.weight.copy_(torch.as_tensor(weights.T))
        model.head.bias.copy_(torch.as_tensor(offset))


def start_seed(
    model: TextModel,
    examples: Examples,
    subsets: Mapping,
    size: int,
    seed: int,
    settings: Settings,
    root_seed: int,
    sample: int | None = None,
) -> Start:
    """Put a seed's head on a pretrained backbone, in place, and return its sample.

    The parameters are those of :func:`fine_tuned_repeats`.
    """
    train, holdout = seed_split(examples, subsets, size, seed if sample is None else sample)
    mean, sd = label_scale(examples, train)
    if examples.kind == "regression":
        targets = torch.as_tensor((examples.label - mean) / sd, dtype=model.head.weight.dtype)
    else:
        targets = torch.as_tensor(examples.label, dtype=torch.long)
    address = (examples.task, size, seed)
    if settings.head == "probe":  # of the seed's own sample, whatever it is trained on
        put_probe(model, examples, *seed_split(examples, subsets, size, seed), settings)
    else:
        head_seed = integer_seed(root_seed, "finetune.head", *address)
        model.reset_head(torch.Generator().manual_seed(head_seed))
        center_outputs(model, [examples.ids[i] for i in train], settings)
    order = generator(root_seed, "finetune.order", *address)
    return Start(train, holdout, targets, mean, sd, order)


def measured_metrics(
    model: TextModel,
    examples: Examples,
    rows: Sequence[int],
    train: Sequence[int],
    settings: Settings,
) -> dict[str, float]:
    """Return :func:`output_metrics` of what a model, trained on ``train``, answers to ``rows``."""
    texts = [examples.ids[i] for i in rows]
    found = outputs(model, texts, settings.batch_tokens, settings.autocast)
    return output_metrics(found.double().numpy(), examples, rows, train)


def output_metrics(
    found: np.ndarray, examples: Examples, rows: Sequence[int], train: Sequence[int]
) -> dict[str, float]:
    """Return the metrics of outputs, (N,) or of C classes (N, C), on some rows of a task.

    Those of the other kind of task are NaN; ``class_f1`` has each class's F1 score as a JSON list,
    None of a regression. Metrics of a regression are on the raw scale, its outputs standardised by
    the rows ``train``, from whose labels the baseline learns.
    """
    rows, training_label = list(rows), examples.label[list(train)]
    label = examples.label[rows]
    if examples.kind == "classification":
        measured = metrics.classification_metrics(found, label, training_label=training_label)
        measured["class_f1"] = json.dumps(metrics.class_scores(found, label))
    else:
        mean, sd = label_scale(examples, train)
        measured = metrics.regression_metrics(
            found * sd + mean,
            label,
            training_label=training_label,
            score_range=examples.score_range,
            label_noise=examples.label_noise[rows],
        )
    unknown = dict.fromkeys(metrics.REGRESSION + metrics.CLASSIFICATION, np.nan)
    return unknown | {"class_f1": None} | measured


def fine_tuned_repeats(
    model: TextModel,
    examples: Examples,
    subsets: Mapping,
    size: int,
    settings: Settings,
    root_seed: int,
    seeds: Sequence[int] | None = None,
    progress: Callable[[float], None] = lambda steps: None,
    *,
    test_history: bool = False,
    samples: Sequence[int] | None = None,
    sizes: Sequence[int] | None = None,
    tested: bool = True,
) -> Iterator[Repeat]:
    """Fine-tune from the same pretrained weights once per seed; yield each outcome.

    When an outcome is yielded the model, changed in place, holds that seed's fine-tuned weights. A
    seed fixes the sample, the head and the order of the batches, and gives the same numbers
    whichever seeds ran before it.

    ``subsets`` has nested samples (:func:`seed_split`) and ``test``, the test rows; ``size`` is n,
    hold-out included; ``root_seed`` the study's; ``seeds`` are indices, all by default; ``samples``
    says for each of them which seed's sample to train on, by default its own (head and order still
    come from the seed itself), and ``sizes`` on how many of its rows: by default ``size``, else
    that many or fewer. ``progress`` is called with the steps done over all seeds. With
    ``test_history`` the test rows are measured at every evaluation, which changes no step and no
    choice; unless ``tested`` they are not measured at all.

    Raises UserError if there are no test rows, and as :func:`seed_split`, :func:`label_scale` and
    :func:`ntktune.finetune.training.fine_tune` do.
    """
    if tested and not len(subsets["test"]):
        raise UserError(f"task {examples.task} has no test rows; the test error cannot be measured")
    seeds = range(len(subsets["seeds"])) if seeds is None else seeds
    samples = seeds if samples is None else samples
    sizes = [size] * len(seeds) if sizes is None else sizes
    # of all seeds: what is computed of them together must not depend on which are asked for
    rows = {row for seed in subsets["seeds"] for row in seed["order"][:size]}
    measured = {*subsets["test"]} if tested or test_history else set()
    done = 0
    how = trained_by(model, examples.ids, rows, measured, settings)
    with how as (ids, again, adapter), last_rows_only(model, ids):
        examples = dataclasses.replace(examples, ids=ids)
        for seed, sample, n in zip(seeds, samples, sizes, strict=True):
            # alike in all tasks and sizes: else the adapters' own task vectors would not compare
            again(integer_seed(root_seed, "finetune.adapter", repeat=seed))
            start = start_seed(model, examples, subsets, n, seed, settings, root_seed, sample)
            test = partial(
                measured_metrics, model, examples, subsets["test"], start.train, settings
            )
            along: list[dict[str, float]] = []
            training = fine_tune(
                *(model, examples.ids, start.targets, start.train, start.holdout),
                *(settings, start.order),
                lambda step, before=done: progress(before + step),
                lambda _, along=along, test=test: test_history and along.append(test()),
                subsets["test"] if test_history else (),
            )
            steps = expected_steps(len(start.train), settings)
            done += steps
            if training.steps < steps:  # stopped early: the rest will not come
                progress(done)
            best = training.best
            row = {
                "task": examples.task,
                "kind": examples.kind,
                "metric": examples.metric,
                "method": settings.method,
                "n": n,
                "seed": seed,
                "n_train": len(start.train),
                "n_holdout": len(start.holdout),
                "steps": training.steps,
                "best_step": best.step,
                "best_epoch": best.epoch,
                "sum_learning_rate": best.sum_learning_rate,
                "at_budget": training.at_budget,
                "holdout_loss": best.holdout_loss,
            }
            row |= test() if tested else {}
            yield Repeat(seed, training, row, start.label_mean, start.label_sd, along, adapter)


def compared_rates(
    load: Callable[[], TextModel],
    examples: Examples,
    subsets: Mapping,
    size: int,
    settings: Settings,
    root_seed: int,
    rates: Sequence[float],
    known: Mapping[float, dict[str, float]],
    on_row: Callable[[dict[str, float]], None] = lambda row: None,
) -> list[dict[str, float]]:
    """Return what each learning rate comes to on the hold-out, the best one first.

    Every rate fine-tunes the model that ``load`` returns on every seed's sample of ``size``; no
    test row is looked at. Dicts have ``learning_rate``; ``holdout_loss``, the mean over seeds of
    the lowest one, None where a training diverged; and ``at_start`` and ``at_budget``, the seeds
    whose lowest was that before the first step, or after the last that it may make. Rates that are
    ``known`` are not tried again; ``on_row`` is called with each new dict. The other parameters are
    those of :func:`fine_tuned_repeats`.
    """
    found = dict(known)
    for rate in [rate for rate in rates if rate not in known]:
        how = dataclasses.replace(settings, learning_rate=rate)
        cell = (examples, subsets, size, how, root_seed)
        try:
            rows = [repeat.row for repeat in fine_tuned_repeats(load(), *cell, tested=False)]
        except DivergedError:
            found[rate] = {"learning_rate": rate, "holdout_loss": None}
        else:
            loss = float(np.mean([row["holdout_loss"] for row in rows]))
            row = {"learning_rate": rate, "holdout_loss": loss}
            row["at_start"] = sum(row["best_step"] == 0 for row in rows)
            found[rate] = row | {"at_budget": sum(row["at_budget"] for row in rows)}
        on_row(found[rate])
    rows = [found[rate] for rate in rates]
    return sorted(rows, key=lambda row: math.inf if (x := row["holdout_loss"]) is None else x)


def all_steps(
    examples: Examples,
    subsets: Mapping,
    size: int,
    settings: Settings,
    samples: Sequence[int] | None = None,
) -> int:
    """Return the steps of trainings on some seeds' samples, or all, if none is stopped early."""
    samples = range(len(subsets["seeds"])) if samples is None else samples
    parts = [seed_split(examples, subsets, size, sample)[0] for sample in samples]
    return sum(expected_steps(len(train), settings) for train in parts)
