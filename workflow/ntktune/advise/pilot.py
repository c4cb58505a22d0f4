"""What a pilot's kernel and labels predict of larger samples, by two ways, with an interval."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit, ndtri

from ntktune.advise.risk import accuracy, checked, explained, left_out, predicted, spectral_risk
from ntktune.errors import UserError
from ntktune.linearized.statistics import EPS, GUARD, centred_spectrum

LEAST = 12  # texts of a pilot: fewer have no sub-samples
LEVEL = 0.8  # of the interval
LEFT_OUT = 0.5  # of the pilot, in each sub-sample that the interval comes from
SUBSETS = 20
EDGE = 1e-6  # of 0 and 1, where log-odds end
ALIKE = 1e-6  # of the mean squared distance of two texts' gradients: the same text


Link = Callable[[np.ndarray], np.ndarray]


class Forecast(NamedTuple):
    """What is predicted of numbers of examples n: arrays of n's shape.

    ``error`` is the mean squared error, read from the whole matrix
    (:func:`ntktune.advise.risk.predicted`), between ``low`` and ``high``; ``score`` Pearson's
    correlation, or of classes the accuracy. ``scores`` are those of P sub-samples, (P, ...), for
    :func:`interval`. ``limited`` marks n at which the matrix has no more to say. ``base`` is the
    score of predicting the mean, or the most frequent class; ``texts`` counts different ones.
    """

    error: np.ndarray
    score: np.ndarray
    scores: np.ndarray
    low: np.ndarray
    high: np.ndarray
    limited: np.ndarray
    base: float
    texts: int


def interval(
    value: np.ndarray, parts: np.ndarray, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """Return both ends of an interval about a value, from the values of P sub-samples, (P, ...).

    The delete-d jackknife of half-samples (Shao & Wu 1989), d being half of the pilot: their
    scatter is that of pilots of this size. Infinite where a sub-sample has no finite value.
    """
    factor = (1 - LEFT_OUT) / LEFT_OUT  # of the jackknife's variance
    finite = np.isfinite(parts).all(axis=0)
    spread = np.std(np.where(finite, parts, 0.0), axis=0, ddof=1) * factor**0.5
    half = np.where(finite, ndtri((1 + level) / 2) * spread, np.inf)
    return value - half, value + half


def guard(texts: int) -> float:
    """Return the share of the directions that a predicted error must be the mean of.

    With a smaller share the minimum over ridges is ruled by noise in the smallest eigenvalues; a
    larger one hides what larger samples learn. Measured: with this share the error on nine sets of
    real texts was predicted best, of pilots of 48 to 192.
    """
    return float(np.clip(GUARD + 0.1 * np.log2(texts / 64), 0.4, 0.7))


def repeated(kernel: ArrayLike, precision: float = EPS) -> np.ndarray:
    """Return for each text the first one that the kernel cannot tell from it, (N,): itself or not.

    Such texts are counted once in a forecast, with the first one's label: otherwise leaving one out
    would test on a text that was trained on.
    """
    kernel = np.asarray(kernel, float)
    lengths = np.diag(kernel)
    apart = lengths[:, None] + lengths - 2 * kernel
    noise = 8 * precision * np.abs(kernel).max()
    return (apart <= ALIKE * apart.mean() + noise).argmax(axis=1)


def distinct(kernel: ArrayLike, precision: float = EPS) -> np.ndarray:
    """Return the places of the texts that repeat no earlier one (:func:`repeated`), ascending."""
    return np.flatnonzero(repeated(kernel, precision) == np.arange(len(kernel)))


def sub_sample(label: np.ndarray, least: int, random: np.random.Generator) -> np.ndarray:
    """Return texts in random order, (N,), whose first ``least`` have more than one label.

    Raises UserError if all labels are alike.
    """
    if not np.ptp(label, axis=0).any():
        raise UserError(f"all {len(label)} texts have the same label; there is nothing to learn")
    while True:
        order = random.permutation(len(label))
        if np.ptp(label[order[:least]], axis=0).any():
            return order


def forecast(
    kernel: ArrayLike,
    label: ArrayLike,
    counts: ArrayLike,
    *,
    classes: bool = False,
    seed: int = 0,
    precision: float = EPS,
) -> Forecast:
    """Return what a pilot predicts of ``counts`` examples n, of any shape.

    ``kernel`` is K, (N, N), not divided by N; ``label`` is (N,) or (N, C), an error their sum over
    columns. Of ``classes`` one column has two values, or each marks a class by its largest. Texts
    that the kernel cannot tell apart (:func:`repeated`) count once. ``precision`` is eps of what
    the kernel was computed in. Raises UserError for fewer than :data:`LEAST` different texts,
    labels that are all alike, and what is no kernel, label or count.
    """
    kernel, label = checked(kernel, label)
    counts = np.asarray(counts, float)
    if not np.isfinite(counts).all() or (counts < 1).any():
        raise UserError("counts of examples must be finite, and 1 or more")
    if classes and label.shape[1] == 1 and len(np.unique(label)) > 2:
        raise UserError(
            f"one column of labels has {len(np.unique(label))} values; give two, or a column per "
            "class that marks it"
        )
    first = distinct(kernel, precision)
    if len(first) < LEAST:
        raise UserError(
            f"{len(first)} of {len(kernel)} texts are left once equal ones count once; a forecast "
            f"needs {LEAST}"
        )
    kernel, label = kernel[np.ix_(first, first)], label[first]
    random = np.random.default_rng(seed)
    kept = round((1 - LEFT_OUT) * len(label))
    some = [sub_sample(label, kept, random)[:kept] for _ in range(SUBSETS)]
    (error, score, limited), *parts = (
        _by_matrix(kernel[np.ix_(rows, rows)], label[rows], counts, classes, precision)
        for rows in (np.arange(len(label)), *some)
    )
    errors, scores = (np.array([part[place] for part in parts]) for place in (0, 1))
    with np.errstate(divide="ignore"):
        low, high = (np.exp(end) for end in interval(np.log(error), np.log(errors)))
    base = class_shares(label).max() if classes else 0.0
    return Forecast(error, score, scores, low, high, limited, float(base), len(label))


def class_shares(label: np.ndarray) -> np.ndarray:
    """Return each class's share of labels, (N, 1) of two values or (N, C) with the largest's."""
    shares = np.mean(label == label.max(), axis=0)
    return np.append(1 - shares, shares) if label.shape[1] == 1 else shares


def _by_matrix(
    kernel: np.ndarray, label: np.ndarray, counts: np.ndarray, classes: bool, precision: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return errors and scores at ``counts`` n, and at which the matrix has no more to say.

    Scores follow the error, and are shifted (:func:`links`) to what answers to texts that were left
    out have at the pilot's own number. None is below that of learning nothing.
    """
    spectrum = centred_spectrum(kernel, precision)
    risk = spectral_risk(spectrum, label - label.mean(axis=0), free=1)
    found = predicted(risk.guarded(guard(len(label))), np.append(counts.ravel(), len(label)))
    share = explained(found, risk.variance)
    score = accuracy(share, class_shares(label)) if classes else share**0.5
    base = class_shares(label).max() if classes else 0.0
    if share[-1] > 0:
        link, back = links(classes=classes)
        own = _own_score(left_out(spectrum, label, found.ridge[-1]), label, classes=classes)
        score = back(link(score) + link(max(own, base)) - link(score[-1]))
    parts = (found.error, np.maximum(score, base), found.limited)
    return tuple(part[:-1].reshape(counts.shape) for part in parts)


def links(*, classes: bool) -> tuple[Link, Link]:
    """Return what scores are added in, and its inverse: log-odds of accuracies, artanh of r.

    The inverse has no score below 0.
    """
    if classes:
        return (lambda share: logit(np.clip(share, EDGE, 1 - EDGE))), expit
    ends = EDGE - 1, 1 - EDGE
    return (lambda r: np.arctanh(np.clip(r, *ends))), (lambda z: np.tanh(np.maximum(z, 0)))


def _own_score(answers: np.ndarray, label: np.ndarray, *, classes: bool) -> float:
    """Return the score of answers to texts that were left out, (N, C).

    Of scores it is √(1 − error/variance), which is Pearson's correlation at the best ridge: that of
    the answers themselves is unreliable where little is learned. Half a text of N + 1 is right of
    classes, and half a one wrong: so few never show that all would be.
    """
    if classes:
        right = answered(answers, label, classes=True) * len(label)
        return (right + 0.5) / (len(label) + 1)
    left = np.mean((answers - label) ** 2, axis=0).sum() / label.var(axis=0).sum()
    return max(1 - left, 0.0) ** 0.5


def answered(answers: np.ndarray, label: np.ndarray, *, classes: bool) -> float:
    """Return the score of answers to texts, (N, C): the accuracy, or Pearson's correlation.

    0 of answers that are all alike.
    """
    if not classes:
        pair = answers[:, 0], label[:, 0]
        return float(np.corrcoef(*pair)[0, 1]) if all(np.ptp(one) for one in pair) else 0.0
    if label.shape[1] > 1:
        return float(np.mean(answers.argmax(axis=1) == label.argmax(axis=1)))
    middle = (label.max() + label.min()) / 2
    return float(np.mean((answers > middle) == (label > middle)))
