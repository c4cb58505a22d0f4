"""What the pretrained network predicts without fine-tuning: by its kernel, or by its features.

Nested subsets are blocks of one kernel matrix, which so gives a whole learning curve.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ntktune.finetune.repeats import Examples, label_scale, output_metrics, seed_split
from ntktune.spectrum.filters import descent_filter, ridge_filter

# Strengths that the hold-out chooses from: ridges as shares of the largest eigenvalue of K_n, and
# steps of gradient descent with the step size 1/λ̂_1.
RIDGES = np.logspace(2, -9, 89)
STEPS = np.concatenate([[0], np.logspace(0, 10, 81)])


FACTORS = {
    "ridge": (lambda values: ridge_filter(values, RIDGES * values[-1]), RIDGES),
    "descent": (lambda values: descent_filter(values, STEPS, 1 / values[-1]), STEPS),
}


def kernel_prediction(
    gram: np.ndarray,
    start: np.ndarray,
    target: np.ndarray,
    train: Sequence[int],
    holdout: Sequence[int],
    others: Sequence[int],
    method: str,
) -> tuple[np.ndarray, float]:
    """Return predictions of kernel regression, the regularisation chosen on the hold-out.

    f̂ = f_0 + K(·, X) g(K(X, X)) (y − f_0(X)): with ``ridge`` g(λ) = 1/(λ + ρ λ_1), with
    ``descent`` g(λ) = (1 − (1 − λ/λ_1)^t)/λ, kernel gradient descent stopped after t steps of size
    1/λ̂_1 (SR26 section 3.5, RWY14; their equivalence is SR26 eqs 27-28).

    ``gram`` is K, not divided by n, of all M rows with those to learn from, at least; ``start`` and
    ``target`` are f_0 and y, (M,), of which the targets of ``others`` are not used; ``train``,
    ``holdout`` and ``others`` are the places of rows. Returns f̂ of ``others``, and the strength
    (the ridge share ρ or the steps t) with the lowest hold-out squared error; of equal ones the one
    that learns least.
    """
    make, strengths = FACTORS[method]
    train, holdout, others = (np.asarray(rows) for rows in (train, holdout, others))
    values, vectors = np.linalg.eigh(gram[np.ix_(train, train)])
    values = np.maximum(values, 0.0)
    if values[-1] == 0:  # a kernel of zeros learns nothing
        return start[others].copy(), float(strengths[0])
    weights = make(values) * (vectors.T @ (target[train] - start[train]))  # (strengths, n)

    def predicted(rows: np.ndarray, some: np.ndarray) -> np.ndarray:
        return start[rows] + some @ (gram[np.ix_(rows, train)] @ vectors).T

    losses = ((predicted(holdout, weights) - target[holdout]) ** 2).mean(axis=1)
    best = int(np.argmin(losses))
    return predicted(others, weights[best]), float(strengths[best])


def probe_prediction(
    features: np.ndarray,
    target: np.ndarray,
    train: Sequence[int],
    holdout: Sequence[int],
    others: Sequence[int],
) -> tuple[np.ndarray, float]:
    """Return predictions of a linear probe: ridge regression with intercept, in closed form.

    ``features`` has shape (M, D); the rest is as in :func:`kernel_prediction`.
    """
    centred = features - features[np.asarray(train)].mean(axis=0)
    start = np.full(len(target), target[np.asarray(train)].mean())
    return kernel_prediction(centred @ centred.T, start, target, train, holdout, others, "ridge")


def baseline_rows(
    examples: Examples,
    subsets: Mapping,
    sizes: Sequence[int],
    features: Mapping[int, np.ndarray],
    kernels: Mapping[int, tuple[np.ndarray, np.ndarray, Sequence[int]]],
) -> list[dict[str, Any]]:
    """Return test metrics of the predictions without fine-tuning, one row per method, n and seed.

    ``sizes`` are sample sizes n, hold-out included; ``features`` maps a row of the task to the last
    token's hidden state, (D,); ``kernels`` maps a seed to K of some rows with the first of them (or
    all), f_0, and which rows they are: a sample's first rows, then the test rows. Sizes whose rows
    are not all there have the probe only.

    Rows have ``task``, ``kind``, ``metric``, ``method`` (``probe``, ``kernel-ridge``,
    ``kernel-descent``), ``n``, ``seed``, ``n_train``, ``n_holdout``, ``strength``, and the metrics
    of fine-tuning.
    """
    test, found = list(subsets["test"]), []
    two = examples.kind == "classification"
    for seed, size in itertools.product(range(len(subsets["seeds"])), sizes):
        train, holdout = seed_split(examples, subsets, size, seed)
        mean, sd = label_scale(examples, train)
        target = 2 * examples.label - 1 if two else (examples.label - mean) / sd  # two: of l1 − l0
        parts = (train, holdout, test)
        used = [row for part in parts for row in part]
        states = np.stack([features[row] for row in used])
        predictions = {"probe": probe_prediction(states, target[used], *_places(used, parts))}
        if seed in kernels and set(used) <= set(kernels[seed][2]):
            gram, start, rows = kernels[seed]
            places = _places(rows, parts)
            centred = start - start[places[0]].mean()  # as fine-tuning starts
            for method in FACTORS:
                predictions[f"kernel-{method}"] = kernel_prediction(
                    gram, centred, target[list(rows)], *places, method
                )
        for method, (prediction, strength) in predictions.items():
            if two:
                prediction = np.stack([-prediction / 2, prediction / 2], axis=1)  # logits
            row = {
                "task": examples.task,
                "kind": examples.kind,
                "metric": examples.metric,
                "method": method,
                "n": size,
                "seed": seed,
                "n_train": len(train),
                "n_holdout": len(holdout),
                "strength": strength,
            }
            found.append(row | output_metrics(prediction, examples, test, train))
    return found


def _places(rows: Sequence[int], parts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return where each part's rows stand among ``rows``."""
    place = {row: i for i, row in enumerate(rows)}
    return [[place[row] for row in part] for part in parts]
