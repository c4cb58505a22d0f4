"""What to do next with a pilot's forecast: how many labels, whether to go on, how to train."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ntktune.advise.pilot import LEVEL, Forecast, interval
from ntktune.errors import UserError

MOST = 8  # times as many labels as the pilot has: how far a forecast goes
POINTS = 48  # numbers of labels in a curve
SHARE = 0.95  # of the gain that the most labels bring
LEAST_GAIN = 0.01  # of the score, by twice the labels: with less, labelling stops
NEXT = 100  # labels
ALIKE = 0.005  # scores within so much are no different
SAME = 1e-9  # scores that differ by rounding
FARTHEST = 1_000_000_000  # labels: more than anybody has
FEW = 50  # texts: with fewer a forecast says little
FEW_OF_CLASS = 10

Triple = tuple[float, float, float]  # lower end, value, upper end


def curve_counts(texts: int, most: int | None = None) -> np.ndarray:
    """Return the numbers of labels n of a curve, ascending, for a pilot of some texts.

    From a quarter of the pilot to ``most`` n (None: :data:`MOST` pilots; at least :data:`NEXT`
    more than the pilot), with the pilot itself, :data:`NEXT` more, and its doublings. Raises
    UserError if ``most`` is not more than the pilot, or more than :data:`FARTHEST`.
    """
    most = MOST * texts if most is None else most
    if most <= texts:
        raise UserError(f"the most labels are {most}; give more than the {texts} of the pilot")
    if most > FARTHEST:
        raise UserError(f"the most labels are {most}; give {FARTHEST:,} or fewer")
    most = max(most, texts + NEXT)
    doublings = texts * 2 ** np.arange(math.floor(math.log2(most / texts)) + 1)
    steps = np.geomspace(max(texts // 4, 4), most, POINTS).round().astype(int)
    return np.unique([*steps, *doublings, texts + NEXT, most])


def needed(counts: np.ndarray, score: np.ndarray, target: float) -> float:
    """Return the number of labels whose score is ``target``, interpolated in log n.

    Infinite where no count has it; the smallest count where that has it already.
    """
    rising = np.maximum.accumulate(score)
    place = int(np.searchsorted(rising, target))
    if place == len(counts) or not target <= rising[-1]:
        return math.inf
    if place == 0:
        return float(counts[0])
    ends = slice(place - 1, place + 1)
    return float(np.exp(np.interp(target, rising[ends], np.log(counts[ends]))))


def _score_ends(found: Forecast) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the scores between both ends of their intervals, none beyond 0 and 1."""
    low, high = interval(found.score, found.scores)
    return np.maximum(low, 0), found.score, np.minimum(high, 1)


def curve(counts: np.ndarray, found: Forecast) -> dict[int, Triple]:
    """Return the score of each number of labels, between both ends of its interval."""
    ends = zip(*_score_ends(found), strict=True)
    return {int(n): tuple(map(float, own)) for n, own in zip(counts, ends, strict=True)}


def labels_for(counts: np.ndarray, found: Forecast, target: float) -> Triple:
    """Return how many labels a score takes: where the curve has it, and both of its ends."""
    low, value, high = _score_ends(found)
    return tuple(needed(counts, score, target) for score in (high, value, low))


def labels_for_share(counts: np.ndarray, found: Forecast, share: float = SHARE) -> Triple | None:
    """Return how many labels bring a share of the gain that the largest number of them brings.

    None if it brings none.
    """

    def of(score: np.ndarray) -> float:
        gained = score[-1] - found.base
        most = needed(counts, score, found.base + share * gained) if gained > SAME else counts[-1]
        return math.log(most)

    if found.score[-1] <= found.base + SAME:
        return None
    value = of(found.score)
    low, high = interval(value, np.array([of(score) for score in found.scores]))
    return tuple(float(np.clip(np.exp(n), counts[0], counts[-1])) for n in (low, value, high))


def gain(counts: np.ndarray, found: Forecast, start: int, end: int) -> Triple:
    """Return what the score gains from one number of labels to another."""
    first, last = np.searchsorted(counts, (start, end))
    value = found.score[last] - found.score[first]
    low, high = interval(value, found.scores[:, last] - found.scores[:, first])
    return tuple(map(float, (low, value, high)))


def lead(first: Forecast, second: Forecast) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return by how much a second score is above a first at each n, between its interval's ends.

    Both are of the same sub-samples of texts, so that what moves both moves no difference.
    """
    value = second.score - first.score
    low, high = interval(value, second.scores - first.scores)
    return low, value, high


def standing(counts: np.ndarray, first: Forecast, second: Forecast, now: int) -> dict[str, Any]:
    """Return how a second method stands to a first, from the place ``now`` of the pilot on.

    ``difference`` of scores there. ``standing`` is ``alike`` within :data:`ALIKE` at all n,
    ``ahead`` or ``behind`` where that is sure, and else ``unsure``. ``ahead_from`` is the number of
    labels from which on a method is surely ahead up to the last, None if there is none.
    """
    low, value, high = (ends[now:] for ends in lead(first, second))
    sure = (low > 0) & (value >= ALIKE)
    unsure = np.flatnonzero(~sure)
    start = 0 if not len(unsure) else int(unsure[-1]) + 1
    ahead_from = int(counts[now:][start]) if start < len(sure) else None
    if np.abs(value).max() < ALIKE:
        found = "alike"
    elif ahead_from is not None:
        found = "ahead"
    else:
        found = "behind" if (high < 0).all() else "unsure"
    difference = tuple(float(ends[0]) for ends in (low, value, high))
    return {"standing": found, "ahead_from": ahead_from, "difference": difference}


def stops(gained: Triple | None, least: float, *, limited: bool) -> bool | None:
    """Return whether so little is gained that labelling stops; None if that cannot be told.

    ``gained`` has an interval of 80 %, whose upper end is passed with 10 %. It is a lower bound
    where the pilot is ``limited``.
    """
    if gained is None:
        return None
    if gained[1] >= least:
        return False
    return True if gained[2] < least and not limited else None


def advice(
    counts: np.ndarray,
    forecasts: Mapping[str, Forecast],
    *,
    targets: Sequence[float] = (),
    least_gain: float = LEAST_GAIN,
    class_counts: Mapping[str, int] | None = None,
    texts: int | None = None,
    calibrated: tuple[str, Forecast, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return the advice that follows from forecasts of one pilot at ``counts`` n, (n,).

    ``counts`` are of :func:`curve_counts`. ``forecasts`` are by method of training, the cheapest
    first. ``targets`` are scores; ``class_counts`` says how many texts each class has; ``texts``
    how many there were before equal ones were taken together; ``calibrated`` has a method, its
    forecast shifted by trainings, and what these showed. All intervals are of 80 %. The method is
    the calibrated one, or else ``ahead``: the cheapest that is not surely behind the ``best`` at
    the pilot's own number. The others are compared with that one (:func:`standing`), by forecasts
    that are not shifted. Raises UserError if ``counts`` lack the pilot, or :data:`NEXT` more.
    """
    pilot = max(own.texts for own in forecasts.values())  # a kernel may tell fewer apart
    if lacking := {pilot, pilot + NEXT} - {*counts.tolist()}:
        raise UserError(f"counts lack {min(lacking)}; take those of curve_counts({pilot})")
    now = int(np.searchsorted(counts, pilot))
    best = max(forecasts, key=lambda name: forecasts[name].score[now])
    ahead = next(
        name for name, own in forecasts.items() if lead(own, forecasts[best])[0][now] <= SAME
    )
    method, found, known_of = calibrated or (ahead, forecasts[ahead], None)
    shown = {**forecasts, method: found}
    twice = gain(counts, found, pilot, 2 * pilot) if 2 * pilot <= counts[-1] else None
    known = counts[~found.limited]
    others = {name: own for name, own in forecasts.items() if name != ahead}
    return {
        "texts": pilot,
        "method": method,
        "ahead": ahead,
        "best": best,
        "level": LEVEL,
        "base": found.base,
        "n_for": {str(target): labels_for(counts, found, target) for target in targets},
        "n_for_share": {f"{SHARE:g}": labels_for_share(counts, found)},
        "at": {name: curve(counts, own) for name, own in shown.items()},
        "next": {str(NEXT): gain(counts, found, pilot, pilot + NEXT)},
        "doubling": twice,
        "limit_of_pilot": int(known[-1]) if len(known) else 0,
        "stop_labelling": stops(
            twice, least_gain, limited=bool(found.limited[counts <= 2 * pilot].any())
        ),
        "least_gain": least_gain,
        "others": {
            name: standing(counts, forecasts[ahead], own, now) for name, own in others.items()
        },
        "calibrated": known_of,
        "warnings": warnings(found, texts or pilot, class_counts or {}),
    }


def warnings(found: Forecast, texts: int, class_counts: Mapping[str, int]) -> list[str]:
    """Return what makes a forecast doubtful, as sentences."""
    told = []
    if texts > found.texts:
        told.append(
            f"{texts - found.texts} of {texts} texts repeat an earlier one; they were left out"
        )
    if found.texts < FEW:
        told.append(
            f"{found.texts} texts are too few to rely on this: label {FEW} or more, and ask again"
        )
    if few := [f"{name} ({count})" for name, count in class_counts.items() if count < FEW_OF_CLASS]:
        told.append(
            f"classes with fewer than {FEW_OF_CLASS} texts, of which little is known: "
            + ", ".join(few[:8])
            + (f" and {len(few) - 8} more" if len(few) > 8 else "")
        )
    if not (found.score > found.base + SAME).any():
        told.append(
            "the kernel predicts nothing better than the most frequent class or the mean; try "
            "another model or pooling before labelling more"
        )
    return told
