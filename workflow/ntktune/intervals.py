"""Intervals of a mean over few seeds or draws: Student's t, wider where samples share rows."""

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95
MOST_VALUES = 1000  # seeds or draws: above this a claim counts as undecidable


def shared_rows(samples: np.ndarray) -> float:
    """Return the mean share of rows that two samples, (samples, rows), have in common."""
    sets = [set(rows) for rows in samples.tolist()]
    pairs = [len(a & b) / len(a) for i, a in enumerate(sets) for b in sets[i + 1 :]]
    return float(np.mean(pairs)) if pairs else 0.0


def half_width(
    values: np.ndarray,
    shared: float = 0.0,
    level: float = LEVEL,
    count: int | np.ndarray | None = None,
) -> np.ndarray:
    """Return half the width of the t-interval of the mean of values, over the first axis.

    Two samples that share a part ρ of their rows have statistics with correlation ρ. Then the
    variance of the mean of m values is σ² (1 + (m − 1) ρ) / m, and their sample variance
    estimates σ² (1 − ρ); with normal values t keeps its distribution.

    ``values`` are one per seed or draw, (m, ...); ``shared`` is ρ (:func:`shared_rows`), ``level``
    the coverage; ``count`` the number of values to give the interval for, with the scatter of
    these, None for m. Returns (...); NaN where there is one value, one is NaN, or all rows are
    shared.
    """
    values = np.asarray(values, dtype=float)
    count = len(values) if count is None else count
    if len(values) < 2 or shared >= 1:
        return np.full(values.shape[1:], np.nan)
    wider = np.sqrt((1 + (count - 1) * shared) / (1 - shared) / count)
    return stdtrit(count - 1, (1 + level) / 2) * values.std(axis=0, ddof=1) * wider


def mean_interval(
    values: np.ndarray, shared: float = 0.0, level: float = LEVEL
) -> tuple[float, float]:
    """Return the interval of the mean of values (m,); see :func:`half_width`."""
    mean, half = float(np.mean(values)), float(half_width(values, shared, level))
    return mean - half, mean + half


def most_half_width(rows: int, *, scored: bool) -> float:
    """Return the most that a test score's 95 % interval goes each way, for so many test rows.

    Of a correlation if ``scored``, whose standard error is at most 1/√m, else of the share of right
    classes: at most 1/(2√m).
    """
    return 1.96 * (1 if scored else 0.5) / rows**0.5


def count_that_decides(
    values: np.ndarray, distance: float, shared: float = 0.0, level: float = LEVEL
) -> int | None:
    """Return how many values with this scatter have a half width below a distance.

    None where the scatter is unknown, or :data:`MOST_VALUES` do not suffice.
    """
    counts = np.arange(2, MOST_VALUES + 1)
    enough = half_width(values, shared, level, counts) < distance
    return int(counts[enough.argmax()]) if enough.any() else None
