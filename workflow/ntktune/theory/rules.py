"""Four ways to stop kernel descent on one task, and descent beside ridge regression."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ntktune.data.sampling import training_subset
from ntktune.spectrum.filters import ridge_filter
from ntktune.theory.complexity import stopping_time
from ntktune.theory.descent import KernelDescent, kernel_descent
from ntktune.theory.shift import noise_estimate, rated_noise, shift_estimate, standardised_labels
from ntktune.theory.simulation import LATEST, sure, tried_times


def learning_problem(
    tensors: Mapping[str, np.ndarray], subsets: Mapping, kind: str, seed: int, size: int
) -> dict[str, Any] | None:
    """Return a sample of n rows as the kernel model meets it: what :func:`four_rules` starts with.

    ``tensors`` are ``kernel`` (seeds, M, n or M): of all rows with all of them, or with the first n
    at least; ``outputs``, ``label``, ``label_noise`` and ``row`` (seeds, M): which row of the task
    each place is. ``subsets`` are nested samples and test rows; ``size`` is n with the hold-out.
    Labels are standardised by the training rows (classes: −1 and +1). None where the kernel does
    not cover the sample. Raises UserError as :func:`ntktune.data.sampling.training_subset` and
    :func:`ntktune.theory.shift.standardised_labels` do.
    """
    names = ("kernel", "outputs", "label", "label_noise", "row")
    gram, start, label, noise, rows = (tensors[name][seed] for name in names)
    place = {int(row): i for i, row in enumerate(rows)}
    if not all(row in place for row in (*subsets["seeds"][seed]["order"][:size], *subsets["test"])):
        return None
    two, classes = kind == "classification", None
    if two:
        classes = np.full(int(rows.max()) + 1, -1)
        classes[rows] = label
    parts = (*training_subset(subsets, size, seed, classes), subsets["test"])
    train, holdout, test = ([place[row] for row in part] for part in parts)
    _, unit = standardised_labels(label[train], kind)
    target = standardised_labels(label, kind)[0] if two else (label - label[train].mean()) / unit
    return {
        "gram": gram,
        "start": start - start[train].mean(),
        "label": target,
        "train": train,
        "holdout": holdout,
        "test": test,
        "sigma": rated_noise(noise[train], kind, unit),
    }


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
    rows; ``sigma`` is the noise of the labels in their units, by their raters, or None;
    ``step_size_factor`` multiplies min(1, 1/λ̂_1); ``precision`` is the kernel's eps.

    One dict per rule: ``rule``, ``time`` in steps, ``eta`` = time · step size, and ``test_error``,
    the mean squared error on the test rows; for all rules ``n``, ``start_error``, that of f_0, and
    ``sigma`` and ``sigma_source`` (:func:`ntktune.theory.shift.noise_estimate`).
    """
    gram, start, label = (np.asarray(a, dtype=np.float64) for a in (gram, start, label))
    train, holdout, test = (np.asarray(rows, dtype=int) for rows in (train, holdout, test))
    every = np.concatenate([train, holdout])
    whole = gram[np.ix_(every, every)]
    shift = label - start
    estimate = shift_estimate(whole, shift[every], precision)
    noise, source = noise_estimate(whole, shift[every], estimate, sigma)
    descent = kernel_descent(whole, shift[every], step_size_factor=step_size_factor)
    inside = gram[np.ix_(train, train)]
    half = kernel_descent(inside, shift[train], step_size_factor=step_size_factor)
    condition = {"sigma": noise, "step_size": descent.step_size, "radius": estimate.radius}

    def errors(model: KernelDescent, known: np.ndarray, rows: np.ndarray, times: ArrayLike):
        """Return mean squared errors on rows, (T,), of descent on the ``known`` ones."""
        found = start[rows] + model.path_elsewhere(gram[np.ix_(rows, known)], times)  # (T, M)
        return ((found - label[rows]) ** 2).mean(axis=1)

    times = tried_times(LATEST)
    chosen = {
        "theory": (descent, every, stopping_time(descent.values, **condition)),
        "holdout": (half, train, times[errors(half, train, holdout, times).argmin()]),
        "sure": (descent, every, times[sure(descent, times, noise).argmin()]),
        "oracle": (descent, every, times[errors(descent, every, test, times).argmin()]),
    }
    return [
        {
            "rule": rule,
            "n": len(every),
            "time": int(time),
            "eta": float(time * model.step_size),
            "test_error": float(errors(model, known, test, [time])[0]),
            "start_error": float(np.mean(shift[test] ** 2)),
            "sigma": float(noise),
            "sigma_source": source,
        }
        for rule, (model, known, time) in chosen.items()
    ]


def equivalence_rows(
    gram: ArrayLike,
    start: ArrayLike,
    label: ArrayLike,
    train: Sequence[int],
    test: Sequence[int],
    *,
    step_size_factor: float = 1.0,
) -> list[dict[str, Any]]:
    """Return how far ridge regression is from gradient descent along its path (SR26 eqs 27-28).

    At t steps, η_t = αt, descent has learnt 1 − (1 − αλ̂)^t of an eigenvector, ridge with λ = 1/η_t
    has learnt λ̂/(λ̂ + 1/η_t). Parameters: see :func:`four_rules`.

    One dict per time: ``time``, ``eta``; ``distance_train`` and ``distance_test``,
    ‖f_t − f_ridge‖/‖f_t − f_0‖ on the training and the test rows; ``error_descent`` and
    ``error_ridge``, the mean squared errors on the test rows.
    """
    gram, start, label = (np.asarray(a, dtype=np.float64) for a in (gram, start, label))
    train, test = (np.asarray(rows, dtype=int) for rows in (train, test))
    inside = gram[np.ix_(train, train)]
    descent = kernel_descent(inside, (label - start)[train], step_size_factor=step_size_factor)
    times = tried_times(LATEST)[1:]
    filters = ridge_filter(descent.values, 1 / (descent.step_size * times))
    found = {"time": times, "eta": descent.step_size * times}
    for part, cross in (("train", inside), ("test", gram[np.ix_(test, train)])):
        stopped = descent.path_elsewhere(cross, times)  # (T, M)
        penalised = descent.filtered(cross, filters)
        length = np.linalg.norm(stopped, axis=1)
        apart = np.linalg.norm(stopped - penalised, axis=1)
        found[f"distance_{part}"] = np.divide(apart, length, where=length > 0, out=apart * 0)
    left = (label - start)[test]
    for name, path in (("descent", stopped), ("ridge", penalised)):  # on the test rows
        found[f"error_{name}"] = ((path - left) ** 2).mean(axis=1)
    return [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]


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

    These are the rows of :func:`four_rules` and of :func:`equivalence_rows`, each with its ``seed``
    and ``n``. Samples of a size that the kernel does not cover are left out; the other parameters
    are those of :func:`learning_problem` and :func:`four_rules`.
    """
    rules, ridge = [], []
    for seed, size in itertools.product(range(len(tensors["kernel"])), sorted(sizes)):
        problem = learning_problem(tensors, subsets, kind, seed, size)
        if problem is None:
            continue
        address, factor = {"seed": seed, "n": size}, {"step_size_factor": step_size_factor}
        rules += [address | row for row in four_rules(**problem, **factor, precision=precision)]
        gram, start, label, train, holdout, test, _ = problem.values()
        beside = (gram, start, label, [*train, *holdout], test)
        ridge += [address | row for row in equivalence_rows(*beside, **factor)]
    return rules, ridge
