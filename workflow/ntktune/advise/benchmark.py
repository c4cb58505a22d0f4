"""How well a pilot predicts larger samples: of kernels, and of fine-tunings, beside other ways.

Everything that a prediction uses comes out of the pilot: its texts' kernel, or trainings on samples
no larger than it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ntktune.advise.advice import needed
from ntktune.advise.calibration import answers_to, links
from ntktune.advise.pilot import (
    forecast,
    guard,
    interval,
    law_through,
    sizes_within,
    sub_sample,
    subset_errors,
)
from ntktune.advise.risk import estimated_risk, exponents
from ntktune.errors import UserError
from ntktune.intervals import half_width
from ntktune.linearized.statistics import EPS, centred_spectrum
from ntktune.selection.laws import LINE, POWER

TRUTHS = 20  # splits that a kernel's error is the mean of
TESTED = 0.25  # of a kernel's texts, at least, that an error is measured on
MULTIPLES = (1, 2, 4, 8, 16)  # of a pilot, at which it is judged
SHRINKAGE = np.logspace(2, -6, 65)  # ridges over the largest eigenvalue
HELD_OUT = 0.2  # of a pilot, for the law through its hold-out curve
OURS, OWN = "kernel", "pilot's own"
CALIBRATED = "kernel, calibrated"
FULL_DATA = 5000  # examples, at which x^p reaches its end (Je & Raffel)


def measured_errors(
    kernel: np.ndarray,
    label: np.ndarray,
    counts: Sequence[int],
    random: np.random.Generator,
    *,
    tested: np.ndarray | None = None,
    splits: int = TRUTHS,
    precision: float = EPS,
) -> np.ndarray:
    """Return the error of kernel ridge regression at ``counts`` n, each at its best ridge, (n,).

    ``kernel`` is (N, N), ``label`` (N, C). n texts are drawn, the error is that of ``tested``
    places, or of all other texts; its mean over ``splits`` is lowest at the ridge that is taken.
    """
    found = []
    others = np.setdiff1d(np.arange(len(label)), [] if tested is None else tested)
    for count in counts:
        errors = np.zeros(len(SHRINKAGE))
        for _ in range(splits):
            order = others[sub_sample(label[others], count, random)]
            train, test = order[:count], order[count:] if tested is None else tested
            spectrum = centred_spectrum(kernel[np.ix_(train, train)], precision)
            ridges = SHRINKAGE * spectrum.values[-1]
            answers = answers_to(kernel, label, train, test, spectrum, ridges)
            errors += np.mean(np.sum((answers - label[test]) ** 2, axis=2), axis=1) / splits
        found.append(errors.min())
    return np.array(found)


def whole_exponents(
    kernels: Sequence[np.ndarray], labels: Sequence[np.ndarray], precision: float = EPS
) -> list[dict[str, float]]:
    """Return :func:`ntktune.advise.exponents` of each draw's kernel and labels, (N, C)."""
    risks = [
        estimated_risk(*both, precision=precision) for both in zip(kernels, labels, strict=True)
    ]
    guarded = [risk.guarded(guard(len(labels[0]))) for risk in risks]
    return [{"draw": draw} | exponents(risk)._asdict() for draw, risk in enumerate(guarded)]


def other_ways(
    kernel: np.ndarray,
    label: np.ndarray,
    counts: np.ndarray,
    random: np.random.Generator,
    precision: float = EPS,
) -> dict[str, np.ndarray]:
    """Return way → errors at ``counts`` n, (n,), as a pilot's other ways to predict have them.

    Its own error by generalised cross-validation; power laws without and with a floor through that
    of sub-samples; and the power law through the errors of its hold-out part.
    """
    sizes = sizes_within(len(label))
    errors = subset_errors(kernel, label, sizes, random, precision=precision)
    held = random.permutation(len(label))[: math.ceil(HELD_OUT * len(label))]
    fewer = sizes_within(len(label) - len(held))
    measured = measured_errors(kernel, label, fewer, random, tested=held, precision=precision)
    return {
        OWN: np.full(len(counts), errors[-1]),
        "power law": law_through(LINE, sizes, errors, counts),
        "power law with a floor": law_through(POWER, sizes, errors, counts),
        "power law, hold-out": law_through(LINE, fewer, measured, counts),
    }


def kernel_cases(
    kernels: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    pilots: Sequence[int],
    counts: Sequence[int],
    random: np.random.Generator,
    *,
    repeats: int,
    classes: bool,
    precision: float = EPS,
    progress: Callable[[float], None] = lambda pilots: None,
) -> list[dict[str, Any]]:
    """Return what pilots of some kernels' texts predict, a row per pilot, way and number of texts.

    ``kernels`` are (N, N) of draws of texts, ``labels`` theirs, (N, C). Pilots of N at most are
    drawn ``repeats`` times, in turn from each draw. Predicted are the error at multiples of the
    pilot, beside the truth, ``true``, where a quarter of the texts is left to measure it on; and,
    by the whole kernel, error and score at ``counts`` n with their intervals.
    """
    many = len(kernels[0])
    fitting = [pilot for pilot in pilots if pilot <= many]
    if not fitting:
        raise UserError(
            f"the kernel has {many} texts, fewer than the smallest pilot, {min(pilots)}; "
            "raise kernel.rows, or give smaller advise.pilots"
        )
    if not all(np.ptp(label, axis=0).any() for label in labels):
        raise UserError(f"all {many} texts of a draw have the same label; raise kernel.rows")
    known = sorted({k * n for n in fitting for k in MULTIPLES if k * n <= (1 - TESTED) * many})
    truths = [
        dict(zip(known, measured_errors(*both, known, random, precision=precision), strict=True))
        for both in zip(kernels, labels, strict=True)
    ]
    rows = []
    for pilot in fitting:
        wanted = np.array(sorted({k * pilot for k in MULTIPLES} | {*counts}))
        for repeat in range(repeats):
            draw = repeat % len(kernels)
            kernel, label = kernels[draw], labels[draw]
            some = sub_sample(label, pilot, random)[:pilot]
            own = kernel[np.ix_(some, some)], label[some]
            how = {"classes": classes, "seed": repeat, "precision": precision}
            found = forecast(*own, wanted, **how)
            low, high = interval(found.score, found.scores)
            about = {"pilot": pilot, "repeat": repeat, "draw": draw, "base": found.base}
            ways = {OURS: found.error} | other_ways(*own, wanted, random, precision)
            for way, errors in ways.items():
                for place, n in enumerate(wanted):
                    row = {"way": way, "n": n, "error": errors[place], "true": truths[draw].get(n)}
                    if way == OURS:
                        row |= {"error_low": found.low[place], "error_high": found.high[place]}
                        row |= {"score": found.score[place]}
                        row |= {"score_low": low[place], "score_high": high[place]}
                    rows.append(about | row)
            progress(1)
    return rows


def by_scores(
    sizes: np.ndarray, scores: np.ndarray, wanted: np.ndarray, base: float
) -> dict[str, np.ndarray]:
    """Return way → scores at ``wanted`` n, as those of smaller samples alone predict them.

    ``sizes``, (S,), ascending, and ``scores`` are of trainings; ``base`` is the score without any.
    """
    powers = np.linspace(0.05, 5, 100)
    level = np.log2(np.stack([sizes, np.full(len(sizes), 2)]).max(axis=0)) / math.log2(FULL_DATA)
    fits = ((base + (1 - base) * level ** powers[:, None] - scores) ** 2).sum(axis=1)
    power, reach = powers[fits.argmin()], np.log2(wanted) / math.log2(FULL_DATA)
    ways = {"last score": np.full(len(wanted), scores[-1])}
    ways["x^p"] = base + (1 - base) * np.minimum(reach, 1) ** power
    if len(sizes) > 1:
        slope, start = np.polyfit(np.log(sizes), scores, 1)
        ways["a + b log n"] = np.minimum(start + slope * np.log(wanted), 1)
        ways["power law"] = 1 - law_through(LINE, sizes, 1 - scores, wanted)
    if len(sizes) > 3:
        ways["power law, last three"] = 1 - law_through(LINE, sizes[-3:], 1 - scores[-3:], wanted)
    return ways


def score_cases(predicted: pd.DataFrame, trained: pd.DataFrame, *, classes: bool) -> pd.DataFrame:
    """Return what is predicted of the scores of one task's trainings, a row per pilot, way and n.

    ``predicted`` are the rows of :func:`kernel_cases` of the whole kernel; ``trained`` has ``n``,
    ``score`` and ``seed``. A pilot knows the trainings of samples no larger than it.
    """
    link, back = links(classes=classes)
    truth = trained.groupby("n")["score"].agg(["mean", "std"])
    rows = []
    for (pilot, repeat), own in predicted.groupby(["pilot", "repeat"]):
        within, beyond = truth[truth.index <= pilot], truth[truth.index > pilot]
        if within.empty or beyond.empty:
            continue
        sizes, wanted = within.index.to_numpy(), beyond.index.to_numpy()
        curve = own.set_index("n")
        ways = by_scores(sizes, within["mean"].to_numpy(), wanted, own["base"].iloc[0])
        shift = link(within["mean"].iloc[-1]) - link(curve["score"][sizes[-1]])
        ways |= {OURS: curve["score"][wanted].to_numpy()}
        ways[CALIBRATED] = back(link(ways[OURS]) + shift)
        ends = {OURS: ("score_low", "score_high")}
        for way, values in ways.items():
            for place, n in enumerate(wanted):
                row = {"pilot": pilot, "repeat": repeat, "way": way, "n": n}
                row |= {"predicted": values[place], "last": sizes[-1]}
                row |= {"true": beyond["mean"][n], "sd": beyond["std"][n]}
                if way in ends:
                    low, high = ends[way]
                    row |= {"low": curve[low][n], "high": curve[high][n]}
                rows.append(row)
    return pd.DataFrame(rows)


def asked_for(cases: pd.DataFrame) -> pd.DataFrame:
    """Return how many examples each way asks for, where a training of n reached some score.

    ``cases`` are of :func:`score_cases`, of one task. Adds ``asked``, the examples by whose
    predicted curve the score of n is reached, at most the largest n; ``never``, whether it is not;
    ``missed``, the score lost at ``asked``; ``wasted``, asked/n less 1 where it is more; and
    ``steep``, whether the score moves by more than two standard deviations as n doubles.
    """
    rows = []
    for _, own in cases.groupby(["pilot", "repeat", "way"]):
        own = own.sort_values("n")
        sizes, truth = own["n"].to_numpy(), own["true"].to_numpy()
        slope = np.gradient(truth, np.log2(sizes)) if len(sizes) > 1 else np.zeros(1)
        for place, n in enumerate(sizes):
            asked = needed(sizes, own["predicted"].to_numpy(), truth[place])
            never = not math.isfinite(asked)
            asked = min(asked, float(sizes[-1]))
            reached = np.interp(math.log(asked), np.log(sizes), truth)
            row = own.iloc[place].to_dict() | {"asked": asked, "never": never}
            row |= {"missed": max(truth[place] - reached, 0.0), "wasted": max(asked / n - 1, 0.0)}
            rows.append(row | {"steep": bool(slope[place] > 2 * own["sd"].iloc[place])})
    return pd.DataFrame(rows)


def paired(table: pd.DataFrame, value: str, ours: str) -> pd.DataFrame:
    """Return each way's mean of a value, and by how much it is above ours, with a 95 % interval.

    ``table`` has ``task``, ``way`` and the value, of which a task's is the mean; intervals are over
    tasks, of the differences on each.
    """
    means = table.groupby(["task", "way"])[value].mean().unstack()
    above = means.sub(means[ours], axis=0)
    half = pd.Series(half_width(above.to_numpy()), above.columns)
    found = {"mean": means.mean(), "above": above.mean(), "tasks": means.count()}
    return pd.DataFrame(found | {"low": above.mean() - half, "high": above.mean() + half})
