"""Agreement of two orders, with its uncertainty."""

import numpy as np
from scipy.stats import kendalltau


def kendall_tau(a: np.ndarray, b: np.ndarray) -> float:
    """Return Kendall's τ-b of two lists of N numbers; NaN with fewer than two, or all equal."""
    if len(a) < 2:
        return float("nan")
    return float(kendalltau(a, b).statistic)


def share_in_agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Return the share of bootstrap draws in which two lists have Kendall's τ above 0.

    Parameters
    ----------
    a, b
        (draws, N); N things, drawn together.

    Returns
    -------
    float
        A draw with a value that is not a number counts as no agreement: its τ is unknown.
    """
    first, second = np.triu_indices(a.shape[1], k=1)
    signs = np.sign(a[:, first] - a[:, second]) * np.sign(b[:, first] - b[:, second])
    return float(np.mean(signs.sum(axis=1) > 0))


def resampled_means(values: np.ndarray, resamples: int, random: np.random.Generator) -> np.ndarray:
    """Return the means of ``resamples`` bootstrap samples of N values, (resamples,)."""
    chosen = random.integers(len(values), size=(resamples, len(values)))
    return values[chosen].mean(axis=1)
