"""Which model to fine-tune, by losses at small sizes: AtS and the baselines of Lin et al. 2024.

Losses are (M, n): of M models, fine-tuned on n ascending numbers of examples above 0.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ntktune.selection.laws import checked

LEAST_KEPT = 3  # k
OUTLIER = 5.0  # δ, in standard deviations of the line's residuals


def accept_then_stop(
    sizes: ArrayLike,
    losses: ArrayLike,
    full: float,
    least: int = LEAST_KEPT,
    outlier: float = OUTLIER,
) -> tuple[float, int]:
    """Return the loss at ``full`` examples that AtS predicts for one model, and the sizes it kept.

    From the largest size down, log L is regressed on log D over the p largest sizes, p = k, k + 1
    and so on, until the next smaller one is off the line by more than δ standard deviations of the
    p residuals: there the power phase begins (Lin et al. 2024, algorithm 1). As published, the
    deviation divides by p, not by p − 2; a curve that never leaves its line loses its smallest size
    all the same; and up to k sizes are all kept. Raises UserError as
    :func:`ntktune.selection.laws.checked` does.
    """
    x, (y,) = map(np.log, checked(sizes, losses))

    def line(count: int) -> np.ndarray:
        return np.polyfit(x[-count:], y[-count:], 1)

    kept = len(x) if len(x) <= least else len(x) - 1
    for count in range(least, len(x)):
        fit = line(count)
        off = np.abs(y - np.polyval(fit, x))[-count - 1]
        if off > outlier * np.std(y[-count:] - np.polyval(fit, x[-count:])):
            kept = count
            break
    return float(np.exp(np.polyval(line(kept), np.log(full)))), kept


class Curves(NamedTuple):
    """Losses of M models: before training (M,), at sizes (M, n); and their numbers of weights."""

    start: np.ndarray
    sizes: np.ndarray
    losses: np.ndarray
    parameters: np.ndarray

    def up_to(self, most: float) -> "Curves":
        """Return what is known from fine-tuning on at most so many examples."""
        within = self.sizes <= most
        return self._replace(sizes=self.sizes[within], losses=self.losses[:, within])


def _ats(known: Curves, full: float) -> np.ndarray:
    return np.array([accept_then_stop(known.sizes, own, full)[0] for own in known.losses])


# method → the score of each model, of which the lowest is chosen
METHODS: Mapping[str, Callable[[Curves, float], np.ndarray]] = {
    "AtS": _ats,
    "ZeroShot": lambda known, full: known.start,
    "SubTuning": lambda known, full: known.losses[:, -1],
    "ModelSize": lambda known, full: -np.log(known.parameters),
}


def correlation(score: ArrayLike, true: ArrayLike) -> float:
    """Return Pearson's correlation of scores and the losses with all data (PearCorr)."""
    return float(np.corrcoef(np.asarray(score, float), np.asarray(true, float))[0, 1])


def relative_accuracy(score: ArrayLike, true: ArrayLike) -> float:
    """Return (worst − chosen)/(worst − best) of the losses with all data (RelAcc).

    The lowest score is chosen; 1 less this is the regret, as a share of what choice can lose.
    """
    true = np.asarray(true, float)
    return float((true.max() - true[np.argmin(score)]) / np.ptp(true))
