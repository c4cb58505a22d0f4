"""How well a pilot predicts larger samples: of kernels, and of fine-tunings, beside other ways.

Everything that a prediction uses comes out of the pilot: its texts' kernel, or trainings on samples
no larger than it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ntktune.advise.advice import SHARE, needed
from ntktune.advise.calibration import answers_to
from ntktune.advise.pilot import (
    LEAST,
    SUBSETS,
    distinct,
    forecast,
    guard,
    interval,
    links,
    sub_sample,
)
from ntktune.advise.risk import estimated_risk, exponents
from ntktune.errors import UserError
from ntktune.intervals import half_width
from ntktune.linearized.statistics import EPS, best_gcv, centred_spectrum
from ntktune.selection.laws import LINE, POWER, Law, fitted
from ntktune.selection.laws import predicted as by_law
from ntktune.store.records import read_csv

TRUTHS = 20  # splits that a kernel's error is the mean of
TESTED = 0.25  # of a kernel's texts, at least, that an error is measured on
MULTIPLES = (1, 2, 4, 8, 16)  # of a pilot, at which it is judged
SHRINKAGE = np.logspace(2, -6, 65)  # ridges over the largest eigenvalue
HELD_OUT = 0.2  # of a pilot, for the law through its hold-out curve
OURS, OWN = "kernel", "pilot's own"
CALIBRATED = "kernel, calibrated"
LAST_TIME = "as other tasks"
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


def subset_errors(
    kernel: np.ndarray,
    label: np.ndarray,
    sizes: ArrayLike,
    random: np.random.Generator,
    *,
    precision: float = EPS,
) -> np.ndarray:
    """Return the error of sub-samples by generalised cross-validation, (S,): geometric means.

    All labels train, where a hold-out part would take some away. ``sizes`` are n, (S,), ascending;
    each sub-sample has more than one label.
    """
    found = np.empty((SUBSETS, len(sizes)))
    for row in found:
        order = sub_sample(label, sizes[0], random)
        for place, size in enumerate(sizes):
            some = order[:size]
            own = label[some] - label[some].mean(axis=0)
            row[place] = best_gcv(centred_spectrum(kernel[np.ix_(some, some)], precision), own)[0]
    with np.errstate(divide="ignore"):
        return np.exp(np.log(found).mean(axis=0))


def sizes_within(texts: int) -> np.ndarray:
    """Return the sizes of a pilot's sub-samples that a law is fitted to, ascending."""
    return np.unique(np.geomspace(max(texts // 8, LEAST), texts, 4).round().astype(int))


def law_through(law: Law, sizes: np.ndarray, errors: np.ndarray, counts: ArrayLike) -> np.ndarray:
    """Return a law's errors at ``counts`` n, of any shape, fitted to errors at sizes, (S,).

    NaN where no law goes through them: there is one size, or an error of 0.
    """
    if len(sizes) < 2 or not (np.isfinite(errors) & (errors > 0)).all():
        return np.full(np.shape(counts), np.nan)
    return by_law(fitted(law, sizes, errors), np.ravel(counts))[0].reshape(np.shape(counts))


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
    kept = len(label) - math.ceil(HELD_OUT * len(label))
    held, fewer = sub_sample(label, kept, random)[kept:], sizes_within(kept)
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
    if max(pilots) > many:
        raise UserError(
            f"the kernel has {many} texts, fewer than a pilot of {max(pilots)}; "
            "raise kernel.rows, or give smaller advise.pilots"
        )
    if not all(np.ptp(label, axis=0).any() for label in labels):
        raise UserError(f"all {many} texts of a draw have the same label; raise kernel.rows")
    known = sorted({k * n for n in pilots for k in MULTIPLES if k * n <= (1 - TESTED) * many})
    truths = [
        dict(zip(known, measured_errors(*both, known, random, precision=precision), strict=True))
        for both in zip(kernels, labels, strict=True)
    ]
    rows, done = [], 0
    for pilot in pilots:
        wanted = np.array(sorted({k * pilot for k in MULTIPLES} | {*counts}))
        for repeat in range(repeats):
            draw = repeat % len(kernels)
            kernel, label = kernels[draw], labels[draw]
            some = sub_sample(label, pilot, random)[:pilot]
            own = kernel[np.ix_(some, some)], label[some]
            if len(distinct(own[0], precision)) < LEAST:
                continue  # it is no pilot: most of its texts repeat others
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
            done += 1
            progress(done)
    return rows


def by_scores(
    sizes: np.ndarray, scores: np.ndarray, wanted: np.ndarray, base: float
) -> dict[str, np.ndarray]:
    """Return way → scores at ``wanted`` n, as those of smaller samples alone predict them.

    ``sizes``, (S,), ascending, and ``scores`` are of trainings; ``base`` is the score without any.
    """
    powers = np.linspace(0.05, 5, 100)
    known, reach = (np.log(np.clip(n, 2, FULL_DATA)) / np.log(FULL_DATA) for n in (sizes, wanted))
    fits = ((base + (1 - base) * known ** powers[:, None] - scores) ** 2).sum(axis=1)
    ways = {"last score": np.full(len(wanted), scores[-1])}
    ways["x^p"] = base + (1 - base) * reach ** powers[fits.argmin()]
    if len(sizes) > 1:
        slope, start = np.polyfit(np.log(sizes), scores, 1)
        ways["a + b log n"] = np.minimum(start + slope * np.log(wanted), 1)
        ways["power law"] = 1 - law_through(LINE, sizes, 1 - scores, wanted)
    if len(sizes) > 3:
        ways["power law, last three"] = 1 - law_through(LINE, sizes[-3:], 1 - scores[-3:], wanted)
        ways["power law with a floor"] = 1 - law_through(POWER, sizes, 1 - scores, wanted)
    return ways


def read_curves(path: str) -> tuple[pd.DataFrame, bool]:
    """Read learning curves for :func:`curve_cases` from a CSV; whether it has losses: 1 − score.

    Raises UserError if a column is missing or one too many, a number is none, or a curve has n
    twice.
    """
    table = read_csv(path, keep_default_na=False)  # NA is a name
    values = [name for name in ("score", "loss") if name in table]
    if len(values) > 1:
        raise UserError(f"{path} has the columns score and loss; leave one of them out")
    value = values[0] if values else "score"
    if missing := [name for name in ("model", "task", "n", value) if name not in table]:
        raise UserError(f"{path} has no column {', '.join(missing)}; it has {', '.join(table)}")
    table = table[["model", "task", "n", value]].rename(columns={value: "score"})
    numbers = table[["n", "score"]].apply(pd.to_numeric, errors="coerce").astype(float)
    if value == "loss":
        numbers["score"] = 1 - numbers["score"]
    bad = ~np.isfinite(numbers).all(axis=1) | (numbers["n"] < 0) | (numbers["score"] > 1)
    bad |= table[["model", "task"]].eq("").any(axis=1)
    if bad.any():
        place = int(bad.to_numpy().argmax())
        raise UserError(
            f"{path}, row {place + 2} is {', '.join(map(str, table.iloc[place]))}; model and task "
            "must be named, n be 0 or more, a score at most 1, a loss 0 or more"
        )
    table = table.assign(**numbers)
    if (twice := table.duplicated(["model", "task", "n"])).any():
        place = int(twice.to_numpy().argmax())
        raise UserError(f"{path}, row {place + 2}: this n of this curve has stood before")
    return table, value == "loss"


def known_ways(scores: pd.Series, known: int, base: float) -> dict[str, np.ndarray]:
    """Return way → scores at all n of ``scores``, (S,), of which the first ``known`` are known."""
    sizes, values = scores.index.to_numpy(), scores.to_numpy()
    ways = by_scores(sizes[:known], values[:known], sizes[known:], base)
    return {way: np.append(values[:known], beyond) for way, beyond in ways.items()}


def curve_cases(
    curves: pd.DataFrame, pilots: Sequence[int], *, losses: bool = False
) -> pd.DataFrame:
    """Return what the smaller samples of measured curves predict of larger ones, as score_cases.

    ``curves`` have ``model``, ``task``, ``n`` and ``score``, one of each; the score without
    training is that of n = 0, or of the smallest n. A pilot knows the scores of all n up to it.
    A relative error is of the score, or with ``losses`` of 1 − score.
    """
    found = []
    for (model, task), own in curves.groupby(["model", "task"], sort=False):
        scores = own.set_index("n")["score"].sort_index()
        base, scores = scores.iloc[0], scores[scores.index > 0]
        for pilot in pilots:
            known = int(np.sum(scores.index <= pilot))
            if known in (0, len(scores)):
                continue
            about = {"model": model, "task": task, "pilot": pilot, "repeat": 0, "base": base}
            for way, values in known_ways(scores, known, base).items():
                row = about | {"way": way, "predicted": values, "true": scores, "sd": 0.0}
                found.append(pd.DataFrame(row).reset_index())
    if not found:
        return pd.DataFrame()
    every = pd.concat(found, ignore_index=True)
    predicted, true = (1 - every[key] if losses else every[key] for key in ("predicted", "true"))
    return every.assign(off=(predicted / true.where(true != 0) - 1).abs())


def score_cases(predicted: pd.DataFrame, trained: pd.DataFrame, *, classes: bool) -> pd.DataFrame:
    """Return what is predicted of the scores of one task's trainings, a row per pilot, way and n.

    ``predicted`` are the rows of :func:`kernel_cases` of the whole kernel; ``trained`` has ``n``,
    ``score`` and ``seed``. A pilot knows the trainings of samples no larger than it, and is judged
    if there are any, and larger ones. At n that it knows, ways that go by trainings predict their
    scores, the kernel its own. ``off`` is the |relative error|.
    """
    link, back = links(classes=classes)
    truth = trained.groupby("n")["score"].agg(["mean", "std"])
    found = []
    for (pilot, repeat), own in predicted.groupby(["pilot", "repeat"]):
        known = int(np.sum(truth.index <= pilot))
        if known in (0, len(truth)):
            continue
        kernel = own.set_index("n").loc[truth.index]
        ends = {"low": kernel["score_low"], "high": kernel["score_high"]}
        shift = link(truth["mean"].iloc[known - 1]) - link(kernel["score"].iloc[known - 1])
        ways = known_ways(truth["mean"], known, own["base"].iloc[0])
        ways[OURS] = kernel["score"].to_numpy()
        ways[CALIBRATED] = back(link(ways[OURS]) + shift)
        for way, values in ways.items():
            about = {"pilot": pilot, "repeat": repeat, "way": way, "base": own["base"].iloc[0]}
            about |= {"predicted": values, "true": truth["mean"], "sd": truth["std"]}
            about["off"] = (values / truth["mean"] - 1).abs()
            found.append(pd.DataFrame(about | (ends if way == OURS else {})).reset_index())
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def asked_for(cases: pd.DataFrame) -> pd.DataFrame:
    """Return how many examples each way asks for, where a training of n reached some score.

    ``cases`` are of :func:`score_cases` or :func:`curve_cases`. Adds ``asked``, the examples by
    whose predicted curve the score of n is reached, at most the largest n; ``never``, whether it is
    not; ``missed``, the score lost at ``asked``; ``wasted``, asked/n less 1 where it is more;
    ``octaves``, the doublings between ``asked`` and n, infinite where it is never reached; and
    ``steep``, whether the score moves by more than two standard deviations as n doubles, and n is
    at most half the largest, so that asking for too many can be told.
    """
    rows = []
    for _, own in cases.groupby([*_of_model(cases), "task", "pilot", "repeat", "way"]):
        own = own.sort_values("n")
        sizes, truth = own["n"].to_numpy(), own["true"].to_numpy()
        slope = np.gradient(truth, np.log2(sizes))
        for place in np.flatnonzero(sizes > own["pilot"].iloc[0]):
            asked = needed(sizes, own["predicted"].to_numpy(), truth[place])
            row = own.iloc[place].to_dict() | _regret(own, asked, sizes[place])
            steep = slope[place] > 2 * own["sd"].iloc[place] and 2 * sizes[place] <= sizes[-1]
            rows.append(row | {"steep": bool(steep)})
    return pd.DataFrame(rows)


def _regret(curve: pd.DataFrame, asked: float, needs: float) -> dict[str, Any]:
    """Return what asking for a number of examples loses against ``needs``, on a curve by n."""
    sizes, truth = np.log(curve["n"]), curve["true"]
    never, asked = not math.isfinite(asked), min(asked, float(curve["n"].iloc[-1]))
    lost = np.interp(math.log(needs), sizes, truth) - np.interp(math.log(asked), sizes, truth)
    found = {"asked": asked, "never": never, "missed": max(lost, 0.0)}
    octaves = math.inf if never else abs(math.log2(asked / needs))
    return found | {"wasted": max(asked / needs - 1, 0.0), "octaves": octaves}


def asked_for_gain(cases: pd.DataFrame) -> pd.DataFrame:
    """Return how many examples each way asks for, for :data:`SHARE` of what the largest n gains.

    ``cases`` are of :func:`score_cases`, or :func:`curve_cases`, of all ``task``, by one model. The
    gain is that over ``base``, by the way's own predicted curve; tasks whose true gain is within
    two standard deviations are left out. ``needs`` is the number by the true curve. One further
    way, ``as other tasks``, asks for the median of what these need. Columns as of
    :func:`asked_for`.
    """
    rows = []
    for _, same in cases.groupby([*_of_model(cases), "pilot", "repeat"]):
        about = same.iloc[0][[*_of_model(cases), "pilot", "repeat"]].to_dict()
        curves = {}
        for (task, way), own in same.sort_values("n").groupby(["task", "way"], sort=False):
            if own["true"].iloc[-1] - own["base"].iloc[-1] > 2 * own["sd"].iloc[-1]:
                curves[task, way] = own
        needs = {task: _for_gain(own, "true") for (task, _), own in curves.items()}
        asked = {key: _for_gain(own, "predicted") for key, own in curves.items()}
        for task, own in {key[0]: own for key, own in curves.items()}.items():
            if others := [n for name, n in needs.items() if name != task]:
                curves[task, LAST_TIME] = own
                asked[task, LAST_TIME] = float(np.median(others))
        for (task, way), own in curves.items():
            row = about | {"task": task, "way": way, "needs": needs[task]}
            rows.append(row | _regret(own, asked[task, way], needs[task]))
    return pd.DataFrame(rows)


def _of_model(cases: pd.DataFrame) -> list[str]:
    """Return the column of models, if there is one."""
    return [name for name in ("model",) if name in cases]


def _for_gain(curve: pd.DataFrame, value: str) -> float:
    """Return the number of examples for a share of a curve's gain over its base."""
    scores, base = curve[value].to_numpy(), curve["base"].iloc[-1]
    return needed(curve["n"].to_numpy(), scores, base + SHARE * (scores[-1] - base))


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
