"""What a pilot's kernel and labels predict of larger samples, by two ways, with an interval."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from ntktune.advise.risk import estimated_risk, predicted
from ntktune.errors import UserError
from ntktune.linearized.statistics import EPS, best_gcv, centred_spectrum
from ntktune.selection.laws import LINE, fitted
from ntktune.selection.laws import predicted as by_law

LEAST = 12  # texts of a pilot: fewer have no sub-samples
LEVEL = 0.8  # of the interval
LEFT_OUT = 0.5  # of the pilot, in each sub-sample that the interval comes from
SUBSETS = 20
ALIKE = 1e-6  # of the mean squared distance of two texts' gradients: the same text


class Forecast(NamedTuple):
    """The mean squared error predicted at numbers of examples n: arrays of n's shape.

    ``error`` is read from the whole matrix (:func:`ntktune.advise.risk.predicted`); ``low`` and
    ``high`` are the ends of its 80 % interval, and ``limited`` marks n at which it has no more to
    say. ``law`` is a second opinion (:func:`law_errors`).
    """

    error: np.ndarray
    low: np.ndarray
    high: np.ndarray
    limited: np.ndarray
    law: np.ndarray


def repeated(kernel: ArrayLike, precision: float = EPS) -> np.ndarray:
    """Return for each text the first one that the kernel cannot tell from it, (N,): itself or not.

    Such texts are counted once in a forecast, with the first one's label: they would be tested on
    what they were trained on.
    """
    kernel = np.asarray(kernel, float)
    lengths = np.diag(kernel)
    apart = lengths[:, None] + lengths - 2 * kernel
    noise = 8 * precision * np.abs(kernel).max()
    return (apart <= ALIKE * apart.mean() + noise).argmax(axis=1)


def sub_sample(label: np.ndarray, least: int, random: np.random.Generator) -> np.ndarray:
    """Return texts in random order, (N,), whose first ``least`` have more than one label."""
    while True:
        order = random.permutation(len(label))
        if np.ptp(label[order[:least]], axis=0).any():
            return order


def subset_errors(
    kernel: np.ndarray,
    label: np.ndarray,
    sizes: ArrayLike,
    random: np.random.Generator,
    *,
    subsets: int = SUBSETS,
    precision: float = EPS,
) -> np.ndarray:
    """Return the error of sub-samples by generalised cross-validation, (S,): geometric means.

    All labels train, where a hold-out part would take some away. ``sizes`` are n, (S,), ascending;
    each sub-sample has more than one label.
    """
    found = np.empty((subsets, len(sizes)))
    for row in found:
        order = sub_sample(label, sizes[0], random)
        for place, size in enumerate(sizes):
            some = order[:size]
            own = label[some] - label[some].mean(axis=0)
            row[place] = best_gcv(centred_spectrum(kernel[np.ix_(some, some)], precision), own)[0]
    with np.errstate(divide="ignore"):
        return np.exp(np.log(found).mean(axis=0))


def law_errors(
    kernel: np.ndarray,
    label: np.ndarray,
    counts: np.ndarray,
    random: np.random.Generator,
    precision: float = EPS,
) -> np.ndarray:
    """Return the errors at ``counts`` n, by a power law through those of the pilot's sub-samples.

    NaN where no law goes through them: there is one size, or an error of 0.
    The sub-samples are of an eighth of the pilot (:data:`LEAST` texts at least) to all of it.
    """
    sizes = np.geomspace(max(len(label) // 8, LEAST), len(label), 4).round().astype(int)
    sizes = np.unique(sizes)
    errors = subset_errors(kernel, label, sizes, random, precision=precision)
    if len(sizes) < 2 or not (errors > 0).all():
        return np.full(np.shape(counts), np.nan)
    flat = by_law(fitted(LINE, sizes, errors), np.ravel(counts))[0]
    return flat.reshape(np.shape(counts))


def forecast(
    kernel: ArrayLike,
    label: ArrayLike,
    counts: ArrayLike,
    *,
    seed: int = 0,
    precision: float = EPS,
) -> Forecast:
    """Return what a pilot predicts of ``counts`` examples n, of any shape.

    ``kernel`` is K, (N, N), not divided by N; ``label`` is (N,) or (N, C), an error their sum over
    columns; texts that the kernel cannot tell apart (:func:`repeated`) count once. The interval
    comes from sub-samples of half (delete-d jackknife): it is for other pilots of this size from
    the same texts. ``precision`` is eps of what the kernel was computed in. Raises UserError for
    fewer than :data:`LEAST` different texts, labels that are all alike, and what is no kernel,
    label or count.
    """
    kernel, label, counts = (np.asarray(given, float) for given in (kernel, label, counts))
    if kernel.ndim != 2 or kernel.shape != (len(label),) * 2:
        raise UserError(
            f"a kernel of shape {kernel.shape} and labels of shape {label.shape}; give (N, N) and N"
        )
    if not all(np.isfinite(given).all() for given in (kernel, label, counts)) or (counts < 1).any():
        raise UserError("kernel, labels and counts must be finite numbers, and counts 1 or more")
    label = label.reshape(len(kernel), -1)
    first = np.flatnonzero(repeated(kernel, precision) == np.arange(len(kernel)))
    if len(first) < LEAST:
        raise UserError(
            f"{len(first)} of {len(kernel)} texts are left once equal ones count once; a forecast "
            f"needs {LEAST}"
        )
    kernel, label = kernel[np.ix_(first, first)], label[first]
    if not np.ptp(label, axis=0).any():
        raise UserError(f"all {len(label)} texts have the same label; there is nothing to learn")
    random = np.random.default_rng(seed)

    def by_matrix(some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        risk = estimated_risk(kernel[np.ix_(some, some)], label[some], precision=precision)
        found = predicted(risk.guarded(), counts)
        return found.error, found.limited

    error, limited = by_matrix(np.arange(len(label)))
    law = law_errors(kernel, label, counts, random, precision)
    kept = round((1 - LEFT_OUT) * len(label))
    parts = [by_matrix(sub_sample(label, kept, random)[:kept])[0] for _ in range(SUBSETS)]
    factor = (1 - LEFT_OUT) / LEFT_OUT  # of the jackknife's variance
    deviation = np.sqrt(factor * np.var(np.log(parts), axis=0, ddof=1))
    half = np.exp(ndtri((1 + LEVEL) / 2) * deviation)
    return Forecast(error, error / half, error * half, limited, law)
