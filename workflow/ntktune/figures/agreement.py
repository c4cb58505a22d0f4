"""Agreement of two orders, with its uncertainty."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import kendalltau

from ntktune.figures.claims import Span


def kendall_tau(a: np.ndarray, b: np.ndarray) -> float:
    """Return Kendall's τ-b of two lists of N numbers; NaN with fewer than two, or all equal."""
    if len(a) < 2:
        return float("nan")
    return float(kendalltau(a, b).statistic)


def order_span(a: Sequence[Span], b: Sequence[Span], open_pairs: frozenset = frozenset()) -> Span:
    """Return Kendall's τ of two lists of N things, and the interval that their intervals leave.

    Two things are in a certain order where their intervals do not overlap. Pairs that are certain
    in both lists agree or do not; all others may do either. If all 2N intervals hold at once, so
    does that of τ.

    Parameters
    ----------
    a, b
        Value and interval of each thing.
    open_pairs
        Pairs (i, j), i < j, that may do either whatever the intervals say.
    """

    def certain(own: Sequence[Span], i: int, j: int) -> int:
        if own[i].low > own[j].high:
            return 1
        return -1 if own[j].low > own[i].high else 0

    pairs = [(i, j) for i in range(len(a)) for j in range(i + 1, len(a))]
    signs = [certain(a, i, j) * certain(b, i, j) * ((i, j) not in open_pairs) for i, j in pairs]
    agree, differ = signs.count(1), signs.count(-1)
    tau = kendall_tau(np.array([x.value for x in a]), np.array([x.value for x in b]))
    return Span(tau, 2 * agree / len(pairs) - 1, 1 - 2 * differ / len(pairs))


def chance_of_order(things: int) -> float:
    """Return the probability that a random order of N things is the right one."""
    return 1 / math.factorial(things)
