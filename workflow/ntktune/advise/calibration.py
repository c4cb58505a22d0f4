"""A forecast shifted by what was measured: by short trainings on halves, or on a test set."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ntktune.advise.advice import needed
from ntktune.advise.pilot import EDGE, Forecast, answered, guard, links
from ntktune.advise.risk import predicted, spectral_risk
from ntktune.data.sampling import nested_order
from ntktune.linearized.statistics import EPS, CentredSpectrum, centred_spectrum

HELD_OUT = 0.2  # of a half, to stop the training by
MOST = 0.99  # of a score that is compared: so few texts tell no more
SAME = 2 * EDGE  # scores that differ by rounding, or where links end


class Calibration(NamedTuple):
    """What trainings on halves of a pilot reached, each tested on the other half.

    ``labels`` are those that trained; ``trained`` and ``kernel`` the mean scores of the trainings
    and of the kernel, from the same texts on the same halves; ``shift`` is their mean difference in
    :func:`links`, and ``spread`` its standard error over the halves. ``equivalent`` γ is how many
    labels each counts for: the kernel has the trainings' score at γ times their labels; of several
    γ the one nearest to 1. It is infinite beyond the kernel's curve, and NaN before its begin.
    """

    labels: int
    trained: float
    kernel: float
    shift: float
    spread: float
    equivalent: float = np.nan


def answers_to(
    kernel: np.ndarray,
    label: np.ndarray,
    train: Sequence[int],
    test: Sequence[int],
    spectrum: CentredSpectrum,
    ridges: np.ndarray,
) -> np.ndarray:
    """Return what kernel ridge regression with a mean, trained on some texts, answers to others.

    ``kernel`` is (N, N), ``label`` (N, C); ``spectrum`` is that of the texts ``train``, and
    ``ridges`` δ are (G,). Returns (G, T, C).
    """
    some, across = kernel[np.ix_(train, train)], kernel[np.ix_(test, train)]
    means, mean = some.mean(axis=0), label[train].mean(axis=0)
    across = (across - across.mean(axis=1)[:, None] - means + means.mean()) @ spectrum.vectors
    along = spectrum.vectors.T @ (label[train] - mean)  # (n − 1, C)
    inverse = 1 / (spectrum.values + np.reshape(ridges, (-1, 1)))
    return np.einsum("tk,gk,kc->gtc", across, inverse, along, optimize=True) + mean


def half_answers(
    kernel: np.ndarray,
    label: np.ndarray,
    train: Sequence[int],
    test: Sequence[int],
    precision: float = EPS,
) -> np.ndarray:
    """Return :func:`answers_to` at the ridge of the lowest predicted error, (T, C)."""
    spectrum = centred_spectrum(kernel[np.ix_(train, train)], precision)
    risk = spectral_risk(spectrum, label[train] - label[train].mean(axis=0), free=1)
    ridge = predicted(risk.guarded(guard(len(train))), len(train)).ridge
    return answers_to(kernel, label, train, test, spectrum, ridge)[0]


def compared(
    kernel: np.ndarray,
    label: np.ndarray,
    halves: Sequence[tuple[Sequence[int], Sequence[int]]],
    trained: Sequence[float],
    *,
    classes: bool,
    precision: float = EPS,
) -> Calibration:
    """Return how trainings' scores compare with the kernel's on the same halves.

    ``halves`` are each training's texts and those it was tested on. The texts that stopped it are
    not among its own: a kernel that learned from them too would be ahead by that. ``trained`` is
    the test score, NaN, which counts as 0, of answers that are all alike.
    """
    link, _ = links(classes=classes)
    trained = np.nan_to_num(trained)
    own = [
        answered(half_answers(kernel, label, train, test, precision), label[test], classes=classes)
        for train, test in halves
    ]
    ends = (1 - MOST if classes else -MOST), MOST
    shifts = link(np.clip(trained, *ends)) - link(np.clip(own, *ends))
    spread = shifts.std(ddof=1) / len(shifts) ** 0.5
    about = (len(halves[0][0]), float(np.mean(trained)), float(np.mean(own)))
    return Calibration(*about, float(shifts.mean()), float(spread))


def calibrated(
    counts: np.ndarray, found: Forecast, calibration: Calibration, *, classes: bool
) -> tuple[Forecast, Calibration]:
    """Return a forecast at ``counts`` n with shifted scores, and the calibration with its γ."""
    moved = shifted(found, calibration.shift, calibration.spread, classes=classes)
    here = np.interp(np.log(calibration.labels), np.log(counts), moved.score)
    ends = (needed(counts, found.score, float(here) + off) for off in (-SAME, SAME))
    as_many = np.clip(calibration.labels, *ends) / calibration.labels
    if here < found.score[0] - SAME:
        as_many = np.nan
    return moved, calibration._replace(equivalent=as_many)


def shifted(found: Forecast, shift: float, spread: float, *, classes: bool) -> Forecast:
    """Return a forecast whose scores are shifted, in :func:`links`.

    Sub-samples are shifted up and down by the spread too, in turn, which widens intervals by it.
    """
    link, back = links(classes=classes)
    shifts = shift + spread * (-1.0) ** np.arange(len(found.scores))[:, None]
    score, scores = back(link(found.score) + shift), back(link(found.scores) + shifts)
    return found._replace(score=score, scores=scores)


def on_test_set(
    kernel: np.ndarray,
    label: np.ndarray,
    train: Sequence[int],
    test: Sequence[int],
    counts: np.ndarray,
    found: Forecast,
    *,
    classes: bool,
    precision: float = EPS,
) -> tuple[Forecast, float, float]:
    """Return a pilot's forecast as a test set has it, the score measured there, and the own one.

    ``kernel`` is (N, N) and ``label`` (N, C); ``train`` are the pilot's places, ``test`` those of
    the test set. Scores at ``counts`` n are shifted by the difference between the score measured on
    the test set and the one predicted of texts like the pilot's, the own one. The shift's spread is
    that of the measured score: of a share, or a correlation, of so many texts.
    """
    link, _ = links(classes=classes)
    answers = half_answers(kernel, label, train, test, precision)
    measured = answered(answers, label[test], classes=classes)
    own = float(np.interp(np.log(found.texts), np.log(counts), found.score))
    ends = (1 - MOST if classes else -MOST), MOST
    inside = np.clip(measured, *ends)
    # of a share's log-odds, and of artanh r (Fisher 1921)
    texts = len(test) * inside * (1 - inside) if classes else max(len(test) - 3, 1)
    how = (link(inside) - link(own), texts**-0.5)
    return shifted(found, *how, classes=classes), measured, own


def pilot_halves(label: np.ndarray | None, texts: int, seed: int) -> list[dict]:
    """Return both halves of a pilot as samples to train on, the other half being the test.

    ``label`` has the class of each text, (N,), None for scores: halves are as balanced as the
    whole. They are as :func:`ntktune.data.sampling.training_subsets` has them, and of one size.
    """
    classes = None if label is None else label.astype(int)
    how = {"size": texts, "holdout_fraction": HELD_OUT, "random": np.random.default_rng(seed)}
    order, holdout = nested_order(np.arange(texts), classes, **how)
    half, found = texts // 2, []
    for own, other in ((slice(half), slice(half, 2 * half)), (slice(half, 2 * half), slice(half))):
        sample = {"order": order[own].tolist(), "holdout": holdout[own].tolist()}
        about = {"holdout_fraction": HELD_OUT, "seeds": [sample]}
        found.append(about | {"test": order[other].tolist()})
    return found
