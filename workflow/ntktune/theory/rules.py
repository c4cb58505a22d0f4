"""Four ways to stop, side by side on one task: by theory, hold-out, SURE, and with hindsight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ntktune.data.sampling import training_subset
from ntktune.theory.complexity import stopping_time
from ntktune.theory.descent import KernelDescent, kernel_descent
from ntktune.theory.equivalence import equivalence_rows
from ntktune.theory.shift import noise_estimate, rated_noise, shift_estimate, standardised_labels
from ntktune.theory.simulation import LATEST, sure, tried_times


def _errors(
    descent: KernelDescent,
    cross: np.ndarray,
    start: np.ndarray,
    label: np.ndarray,
    times: ArrayLike,
) -> np.ndarray:
    """Return mean squared errors on other rows at some times, (T,)."""
    found = start + descent.path_elsewhere(cross, times)  # (T, M)
    return ((found - label) ** 2).mean(axis=1)


@dataclass(frozen=True)
class Problem:
    """A task's training, hold-out and test rows as the kernel model meets them.

    Attributes
    ----------
    gram
        K, not divided by n: of all M rows with the first n at least, those of the sample.
    start, label
        f_0, its mean over the training rows taken out, and the labels, standardised by the
        training rows (classes: −1 and +1); shape (M,).
    train, holdout, test
        Places of the rows.
    sigma
        Noise of the labels by their raters, in their units; None where it is unknown.
    """

    gram: np.ndarray
    start: np.ndarray
    label: np.ndarray
    train: list[int]
    holdout: list[int]
    test: list[int]
    sigma: float | None


def learning_problem(
    tensors: Mapping[str, np.ndarray], subsets: Mapping, kind: str, seed: int, size: int
) -> Problem | None:
    """Return one seed's sample of n rows from the kernel of its largest sample.

    ``tensors`` are ``kernel`` (seeds, M, n or M): of all rows with the first n or all of them;
    ``outputs``, ``label``, ``label_noise`` and ``row`` (seeds, M): which row of the task each place
    is. ``subsets`` are nested samples and test rows
    (:func:`ntktune.data.sampling.training_subsets`); ``size`` is n with the hold-out. None where
    the kernel does not cover the sample. Raises UserError as
    :func:`ntktune.data.sampling.training_subset` and
    :func:`ntktune.theory.shift.standardised_labels` do.
    """
    gram, start, label, noise, rows = (
        tensors[name][seed] for name in ("kernel", "outputs", "label", "label_noise", "row")
    )
    place = {int(row): i for i, row in enumerate(rows)}
    if not all(row in place for row in (*subsets["seeds"][seed]["order"][:size], *subsets["test"])):
        return None
    classes = np.full(int(rows.max()) + 1, -1)
    if kind == "classification":
        classes[rows] = label
    parts = training_subset(subsets, size, seed, classes if kind == "classification" else None)
    train, holdout, test = ([place[row] for row in part] for part in (*parts, subsets["test"]))
    _, unit = standardised_labels(label[train], kind)
    if kind == "classification":
        target, sigma = standardised_labels(label, kind)[0], None
    else:
        target = (label - label[train].mean()) / unit
        sigma = rated_noise(noise[train], kind, unit)
    return Problem(gram, start - start[train].mean(), target, train, holdout, test, sigma)


def four_rules(
    gram: ArrayLike,
    start: ArrayLike,
    label: ArrayLike,
    train: Sequence[int],
    holdout: Sequence[int],
    test: Sequence[int],
    *,
    sigma: float | None = None,
    step_size_factor: float = 1.0,
    precision: float = np.finfo(np.float64).eps,
) -> list[dict[str, Any]]:
    """Return stopping time and test error of the four rules in the kernel model.

    *theory* (T̂_max, SR26 section 6.1), *sure* and *oracle* (the lowest test error) train on the
    training and hold-out rows together; *holdout* trains on the training rows and stops where the
    error on the hold-out rows is lowest.

    ``gram`` is K of M rows, (M, M), not divided by n; ``start`` and ``label`` are f_0 (centred) and
    the labels as the network meets them, (M,); ``train``, ``holdout`` and ``test`` are places of
    rows; ``sigma`` is the noise of the labels in their units, by their raters, None to estimate it
    (:func:`ntktune.theory.shift.noise_estimate`); ``step_size_factor`` multiplies min(1, 1/λ̂_1);
    ``precision`` is eps of the precision in which the kernel was computed.

    One dict per rule: ``rule``, ``time`` in steps, ``eta`` = time · step size, and ``test_error``,
    the mean squared error on the test rows; for all rules ``n``, ``sigma``, ``sigma_source`` and
    ``start_error``, that of f_0.
    """
    gram, start, label = (np.asarray(a, dtype=np.float64) for a in (gram, start, label))
    train, holdout, test = (np.asarray(rows, dtype=int) for rows in (train, holdout, test))
    every = np.concatenate([train, holdout])
    whole = gram[np.ix_(every, every)]
    shift = label - start
    estimate = shift_estimate(whole, shift[every], precision)
    noise, source = noise_estimate(whole, shift[every], estimate, sigma)
    descent = kernel_descent(whole, shift[every], step_size_factor=step_size_factor)
    half = kernel_descent(
        gram[np.ix_(train, train)], shift[train], step_size_factor=step_size_factor
    )
    stop = stopping_time(
        descent.values, sigma=noise, step_size=descent.step_size, radius=estimate.radius
    )
    times = tried_times(LATEST)
    tested = _errors(descent, gram[np.ix_(test, every)], start[test], label[test], times)
    held = _errors(half, gram[np.ix_(holdout, train)], start[holdout], label[holdout], times)
    chosen = {
        "theory": (descent, every, stop),
        "holdout": (half, train, times[held.argmin()]),
        "sure": (descent, every, times[sure(descent, times, noise).argmin()]),
        "oracle": (descent, every, times[tested.argmin()]),
    }
    rows = []
    for rule, (model, rows_of, time) in chosen.items():
        cross = gram[np.ix_(test, rows_of)]
        error = _errors(model, cross, start[test], label[test], [time])[0]
        rows.append(
            {
                "rule": rule,
                "n": len(every),
                "time": int(time),
                "eta": float(time * model.step_size),
                "test_error": float(error),
                "start_error": float(np.mean(shift[test] ** 2)),
                "sigma": float(noise),
                "sigma_source": source,
            }
        )
    return rows


def nested_rules(
    tensors: Mapping[str, np.ndarray],
    subsets: Mapping,
    kind: str,
    sizes: Sequence[int],
    *,
    step_size_factor: float = 1.0,
    precision: float = np.finfo(np.float64).eps,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return four rules, and descent beside ridge, of every seed's nested samples.

    These are the rows of :func:`four_rules` and of
    :func:`ntktune.theory.equivalence.equivalence_rows`, each with its ``seed`` and ``n``. Samples
    of a size that the kernel does not cover are left out; the other parameters are those of
    :func:`learning_problem` and :func:`four_rules`.
    """
    rules, ridge = [], []
    for seed in range(len(tensors["kernel"])):
        for size in sorted(sizes):
            problem = learning_problem(tensors, subsets, kind, seed, size)
            if problem is None:
                continue
            found = four_rules(
                *(problem.gram, problem.start, problem.label),
                *(problem.train, problem.holdout, problem.test),
                sigma=problem.sigma,
                step_size_factor=step_size_factor,
                precision=precision,
            )
            rules += [{"seed": seed, "n": size} | row for row in found]
            every = [*problem.train, *problem.holdout]
            beside = equivalence_rows(
                *(problem.gram, problem.start, problem.label, every, problem.test),
                step_size_factor=step_size_factor,
            )
            ridge += [{"seed": seed, "n": size} | row for row in beside]
    return rules, ridge
