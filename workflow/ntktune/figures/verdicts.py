"""The claims of Sun & Raskutti 2026 (SR26) about a study's own data, each with its verdict.

:mod:`ntktune.figures.claims` has the rule by which all are judged. Throughout,
``fits`` is task → its rows of the table ``decay``; ``rates`` is table 1, by task; ``shared`` is
task → mean share of rows that two draws, or the labelled examples of two seeds, have in common;
``kind`` is that of a task, since errors of two kinds do not compare. Other names are those of
:mod:`ntktune.figures.tables`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd

from ntktune.figures.agreement import chance_of_order, order_span
from ntktune.figures.claims import (
    NOT_RUN,
    STILL,
    Claim,
    Given,
    Sample,
    Span,
    judge,
    listed,
    ratio_sample,
)
from ntktune.figures.cosines import ALL, DIFFERENT, NULLS, whole_cosines
from ntktune.figures.measures import kinds, learned, nearest_size, of_task, with_error
from ntktune.figures.needed import SHARE, needed_size
from ntktune.figures.negations import negated_as_chosen, negated_fully
from ntktune.figures.rates import RANGES, RATE, check_fits, measured_exponent
from ntktune.figures.result_tables import linear_table, rules_table
from ntktune.figures.theory_verdicts import by_seed, theory_rows
from ntktune.intervals import LEVEL, half_width
from ntktune.study.merges import FIXED, LEAST_KEPT, parts
from ntktune.study.scores import ERRORS, share_reached

LEAST_R_SQUARED = 0.9
MOST_COSINE = 0.1
LEAST_NORMALISED = 0.9
LEAST_TASKS = 3
MOST_RATE_APART = 0.15
MOST_CHANCE = 1 - LEVEL
RTE = "rte"
# from the largest exponent to the smallest, as SR26 orders GPT-Neo-1.3B's
PAPER_ORDERS = {
    "regression": {"semrel": "SemRel", "sts12": "STS-12", "stsb": "STS-B"},
    "classification": {"amazon": "Amazon", "mrpc": "MRPC", "rte": "RTE"},
}
Spans = Callable[[float], Span]  # coverage → value and interval


def _rate(exponent: float) -> float:
    """Return a/(a+1)."""
    return exponent / (exponent + 1)


def power_law(fits: Mapping[str, pd.DataFrame], shared: Mapping[str, float]) -> dict[str, Any]:
    """Return the verdict on the decay being a power law."""
    claim = Claim(
        claim="The kernel's eigenvalues decay as a power of their rank",
        source="eqs 29, 31-32; figures 4-9",
        statistic="smallest R² over tasks of log λ_k on log k, mean over draws",
        bound=LEAST_R_SQUARED,
        side="≥",
        control="an exponential decay, R² of log λ_k on k",
        repeats="draws",
    )
    units, others, ranges = {}, {}, {}
    for task, own in fits.items():
        main = own[own["range"] == RANGES[0]]
        r_squared, control = main["r_squared"].to_numpy(), main["exponential"].to_numpy()
        units[task] = Sample(r_squared, r_squared - control, shared.get(task, 0.0))
        others[task] = control.mean()
        ranges[task] = own.groupby("range")["r_squared"].mean().min()
    detail = f"smallest over ranges of ranks {min(ranges.values()):.3g}"
    return judge(claim, units, listed(others), detail)


def _exponent_spans(
    fits: Mapping[str, pd.DataFrame], shared: Mapping[str, float]
) -> dict[str, Spans]:
    """Return task → coverage → decay exponent over all ranks and its interval over draws."""
    found = {}
    for task, own in fits.items():
        values = own.loc[own["range"] == RANGES[0], "exponent"].to_numpy()
        found[task] = Sample(values, shared=shared.get(task, 0.0)).span
    return found


def _fit_means(fits: Mapping[str, pd.DataFrame]) -> dict[str, np.ndarray]:
    """Return task → mean exponents over draws, one per range of ranks."""
    return {
        task: own.groupby("range")["exponent"].mean().reindex(RANGES).to_numpy()
        for task, own in fits.items()
    }


def _flipped(tasks: Sequence[str], *fits: Mapping[str, np.ndarray]) -> frozenset:
    """Return the pairs (i, j) whose order is another with another range or form of the fit."""
    found = set()
    for i, first in enumerate(tasks):
        for j, second in enumerate(tasks[i + 1 :], i + 1):
            for values in fits:
                signs = np.sign(values[first] - values[second])
                if len(set(signs[np.isfinite(signs)])) > 1:
                    found.add((i, j))
    return frozenset(found)


def _order_row(
    claim: Claim,
    tasks: Sequence[str],
    first: Mapping[str, Spans],
    second: Mapping[str, Spans],
    flips: frozenset = frozenset(),
    *,
    law: bool = True,
    detail: str = "",
) -> dict[str, Any]:
    """Return the verdict on two orders of tasks being one.

    Parameters
    ----------
    first, second
        Task → its value and interval in either order; the claim is Kendall's τ = 1.
    flips
        Pairs of tasks that stay open, as their order depends on the fit.
    law
        Whether the claim goes beyond these tasks: then so good an order must be unlikely by
        chance.
    """
    chance = chance_of_order(len(tasks))
    control = f"right by chance once in {round(1 / chance):,}"
    if len(tasks) < LEAST_TASKS:
        missing = f"tasks with both numbers: {len(tasks)}; an order needs {LEAST_TASKS}"
        return judge(claim, {}, missing=missing)

    def span(level: float) -> Span:
        each = 1 - (1 - level) / (2 * len(tasks))
        return order_span(*([own[t](each) for t in tasks] for own in (first, second)), flips)

    notes, power = [detail] if detail else [], f"{2 * len(tasks)} intervals that hold together"
    if flips:
        names = "; ".join(f"{tasks[i]} and {tasks[j]}" for i, j in sorted(flips))
        notes.insert(0, f"the order depends on the range or form of the fit: {names}")
    if law and chance > MOST_CHANCE:
        power += "; four tasks are needed for a chance below 5 %"
    unit = Given(span, not law or chance <= MOST_CHANCE)
    missing = "all values are equal, so they have no order"
    return judge(claim, {"": unit}, control, "; ".join(notes), power, missing)


def _order_claim(claim: str, source: str, statistic: str) -> Claim:
    return Claim(claim, source, statistic, 1, "≥", control="a random order", ours=False)


def _listed_pairs(tasks: Sequence[str], *columns: Mapping[str, Spans]) -> str:
    """Return "task value / value, …" for a detail."""
    return ", ".join(
        f"{task} " + " / ".join(f"{own[task](LEVEL).value:.3g}" for own in columns)
        for task in tasks
    )


def decay_orders(
    kind: str,
    fits: Mapping[str, pd.DataFrame],
    rates: pd.DataFrame,
    metrics: pd.DataFrame,
) -> list[dict[str, Any]]:
    """Return the verdicts on fast-decaying tasks learning faster and needing fewer examples."""
    own = {t: of_task(metrics, t) for t, is_of in kinds(metrics).items() if is_of == kind}
    own = {task: rows for task, rows in own.items() if task in fits and learned(rows)}
    decay = _exponent_spans(fits, rates["shared_draws"])
    falls, needs = {}, {}
    for task, rows in own.items():
        shared = rates["shared_seeds"][task]

        @cache
        def fall(level: float, rows=rows, shared=shared) -> Span:
            found = measured_exponent(rows, shared, level)
            return Span(*(found[f"measured_{name}"] for name in ("exponent", "low", "high")))

        @cache
        def fewer(level: float, rows=rows, shared=shared) -> Span:
            found = needed_size(rows, shared, level)
            return Span(*(-found[name] for name in ("needed", "needed_high", "needed_low")))

        falls[task], needs[task] = fall, fewer
    means = _fit_means(fits)
    forms = {
        task: rates.loc[task, ["measured_exponent", "slope_exponent"]].to_numpy(dtype=float)
        for task in own
    }
    rows = []
    for spans, claim, what, others in (
        (falls, "faster the error falls with n", "learning-curve exponent", [forms]),
        (needs, "fewer examples the task needs", f"−n at {SHARE:.0%} of the best score", []),
    ):
        tasks = [t for t in own if np.isfinite(spans[t](LEVEL).value)]
        row = _order_row(
            _order_claim(
                f"The faster the decay, the {claim} ({kind} tasks)",
                "eq 30",
                f"Kendall τ of decay exponent and {what}",
            ),
            tasks,
            decay,
            spans,
            _flipped(tasks, means, *others),
            detail=_listed_pairs(tasks, decay, spans),
        )
        rows.append(row)
    return rows


def paper_order(
    kind: str, fits: Mapping[str, pd.DataFrame], shared: Mapping[str, float]
) -> dict[str, Any]:
    """Return the verdict on the paper's own order of decay exponents."""
    titles = PAPER_ORDERS[kind]
    claim = _order_claim(
        f"The decay exponents come in the order {' > '.join(titles.values())}",
        "section 6; figures 4-9",
        "Kendall τ against that order",
    )
    missing = [task for task in titles if task not in fits]
    if missing:
        return judge(claim, {}, missing=f"not among the study's tasks: {', '.join(missing)}")
    tasks, decay = list(titles), _exponent_spans(fits, shared)
    paper = {task: lambda _, v=-place: Span(v, v, v) for place, task in enumerate(tasks)}
    flips = _flipped(tasks, _fit_means(fits))
    detail = f"{_listed_pairs(tasks, decay)}; the paper's order is GPT-Neo-1.3B's"
    return _order_row(claim, tasks, decay, paper, flips, law=False, detail=detail)


def error_falls(metrics: pd.DataFrame, shared: Mapping[str, float]) -> dict[str, Any]:
    """Return the verdict on the error being smaller at the largest n than at the smallest."""
    claim = Claim(
        claim="The test error falls with the number of labelled examples",
        source="figure 2",
        statistic="largest ratio over tasks of the error at the largest n to that at the smallest",
        bound=1,
        side="≤",
        control="predicting the mean or the majority; error there over the model's",
        ours=False,
    )
    units, trivial = {}, {}
    for task in kinds(metrics):
        own = with_error(of_task(metrics, task))
        table = own.pivot(index="seed", columns="n", values=["error", "baseline_error"])
        few, many = own["n"].min(), own["n"].max()
        if few == many:
            continue
        errors, baseline = table["error"], table["baseline_error"][many].to_numpy()
        start = float(errors[few].mean())
        units[task] = Sample(
            (errors[many] - errors[few]).to_numpy(),
            baseline - errors[many].to_numpy(),
            shared.get(task, 0.0),
            lambda value, start=start: 1 + value / start,
            "" if learned(own) else STILL,
        )
        trivial[task] = baseline.mean() / errors[many].mean()
    return judge(
        claim, units, listed(trivial), missing="one sample size only; a comparison needs two"
    )


def predicted_rate(
    rates: pd.DataFrame, fits: Mapping[str, pd.DataFrame], metrics: pd.DataFrame
) -> dict[str, Any]:
    """Return the verdict on a/(a+1) being the exponent of the learning curve.

    The prediction reaches over its interval and over the ranges of ranks that a is fitted to.
    """
    claim = Claim(
        claim="The error falls as n^(−a/(a+1)), a being the kernel's decay exponent",
        source="eq 30",
        statistic="largest distance over tasks of measured exponent and a/(a+1)",
        bound=0,
        side="=",
        tolerance=MOST_RATE_APART,
        control="the exponent 1/2 for every task",
    )
    units, at_half = {}, 0
    decay, means = _exponent_spans(fits, rates["shared_draws"]), _fit_means(fits)
    for task, row in rates.iterrows():
        if task not in kinds(metrics):
            continue
        own = of_task(metrics, task)
        if not learned(own):
            units[task] = Sample(np.array([]), missing=STILL)
            continue

        @cache
        def span(level: float, task=task, own=own, row=row) -> Span:
            found = measured_exponent(own, row["shared_seeds"], level)
            a, fitted = decay[task](level), means[task][np.isfinite(means[task])]
            low = _rate(max(np.min([a.low, *fitted]), 0.0))
            high = _rate(np.max([a.high, *fitted]))
            return Span(
                found["measured_exponent"] - _rate(a.value),
                found["measured_low"] - high,
                found["measured_high"] - low,
            )

        inside = row["measured_low"] <= 0.5 <= row["measured_high"]
        at_half += inside
        units[task] = Given(span, not inside, count=int(row["seeds"]))
    spans = {task: unit.span(LEVEL) for task, unit in units.items() if isinstance(unit, Given)}
    holding = sum(span.low <= 0 <= span.high for span in spans.values())
    detail = f"a/(a+1) in the interval of {holding} of {len(spans)} tasks"
    if (rates["error_measure"] == RATE).any():
        detail += "; it is about squared error, and classifications have the error rate"
    control = f"in the interval of {at_half} of {len(spans)} tasks"
    missing = "no task has an exponent; it needs two sizes"
    return judge(claim, units, control if spans else "", detail if spans else "", missing=missing)


def crossed_span(cosines: np.ndarray, level: float) -> Span:
    """Return |mean cosine| of two tasks' runs and its interval.

    Cosines of one run with several others are not independent: the scatter of the mean is that
    of the first task's runs and that of the second's.

    Parameters
    ----------
    cosines
        Shape (runs of the first task, runs of the second).
    level
        Coverage.
    """
    mean = float(np.abs(cosines.mean()))
    half = float(np.hypot(*(half_width(cosines.mean(axis=axis), level=level) for axis in (0, 1))))
    return Span(mean, mean - half if not half > mean else 0.0, mean + half)


def nearly_orthogonal(cosine: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the verdicts on task vectors of different tasks being nearly orthogonal.

    Returns
    -------
    list of dict
        The verdict on all pairs, and, where ``rte`` is among the tasks, that on its own.
    """
    again = {
        null: dict(known[["task_a", "mean"]].dropna().to_numpy())
        for null, known in ((null, whole_cosines(cosine, null)) for null in NULLS)
    }
    twice = again["seeds"]
    units: dict[str, Given | Sample] = {}
    different = cosine[(cosine["pair"] == DIFFERENT) & (cosine["group"] == ALL)]
    for (a, b), own in different.groupby(["task_a", "task_b"], sort=False):
        if own["cosine"].isna().any():
            units[f"{a} and {b}"] = Sample(np.array([]), missing=STILL)
            continue
        runs = own.pivot(index="run_a", columns="run_b", values="cosine").to_numpy()
        span, known = partial(crossed_span, runs), [twice[t] for t in (a, b) if t in twice]
        better = bool(span(LEVEL).high < min(known)) if known else None
        units[f"{a} and {b}"] = Given(span, better, count=len(runs))
    same = again["subsets"]
    detail = f"{NULLS['subsets']}: {listed(same)}" if same else ""

    def row(claim: str, pairs: str, some: dict[str, Given | Sample]) -> dict[str, Any]:
        stated = Claim(
            claim=claim,
            source="section 5.2; figure 3",
            statistic=f"largest |cosine| of {pairs}, means over runs",
            bound=MOST_COSINE,
            side="≤",
            control=NULLS["seeds"],
            units="pairs",
        )
        missing = "no pair of tasks that moved"
        return judge(stated, some, listed(twice) or NOT_RUN, detail, missing=missing)

    found = [row("Task vectors of different tasks are nearly orthogonal", "two tasks", units)]
    with_rte = {name: unit for name, unit in units.items() if RTE in name.split(" and ")}
    if with_rte:
        claim = "RTE's task vector is nearly orthogonal to the others'"
        found.append(row(claim, "RTE and another task", with_rte))
    return found


def merging_keeps(merged: pd.DataFrame) -> dict[str, Any]:
    """Return the verdict on models merged of two tasks keeping the single tasks' scores."""
    claim = Claim(
        claim="The sum of two task vectors keeps most of what each reaches alone",
        source="section 5.2, eqs 22-25; figure 3",
        statistic="smallest merged score / single-task score over pairs and their tasks",
        bound=LEAST_NORMALISED,
        side="≥",
        control="the pretrained weights under the same heads, score / single-task score",
        units="scores",
    )
    fixed = merged[merged["choice"] == FIXED]
    pairs = fixed[fixed["merged"].map(lambda name: len(parts(name)) == 2).astype(bool)]
    units, untuned = {}, {}
    for (merge, task), own in pairs.groupby(["merged", "task"], sort=False):
        score, single, start = (
            own[name].to_numpy(dtype=float) for name in ("merged_score", "single", "pretrained")
        )
        metric, name = own["metric"].iloc[0], f"{task} in {merge}"
        if metric in ERRORS:  # less is better
            units[name] = ratio_sample(single, score, LEAST_NORMALISED, start - score)
        else:
            rows = np.inf if own["kind"].iloc[0] == "classification" else own["rows"].mean()
            units[name] = ratio_sample(score, single, LEAST_NORMALISED, score - start, rows=rows)
        if not units[name].missing:
            untuned[name] = share_reached(metric, start.mean(), single.mean())
    detail = ""
    if len(pairs):
        leaked, clean = pairs["leaked"].mean(), pairs["normalised_clean"].mean()
        detail = (
            f"mean {clean:.3g} without the test rows whose text a member was fine-tuned on, "
            f"{leaked:.3g} of {pairs['rows'].mean():.4g}"
            if leaked
            else "no member was fine-tuned on the text of a test row"
        )
    control = f"mean {np.mean(list(untuned.values())):.3g}" if untuned else ""
    return judge(claim, units, control, detail, missing="no two task vectors were added")


def _kept_as_chosen(negated: pd.DataFrame) -> str:
    """Return what targets and controls keep at the chosen coefficient, for a detail."""
    chosen = negated_as_chosen(negated).dropna(subset="kept")
    is_target = chosen["target"] == chosen["task"]
    kept = chosen.groupby(["target", is_target.rename("own")], sort=False)["kept"].mean()
    shares = {target: kept[target, True] for target, own in kept.index if own}
    if not shares:
        return ""
    return f"score kept where other tasks keep {LEAST_KEPT:.0%} of theirs: {listed(shares)}"


def negation_hurts(negated: pd.DataFrame) -> dict[str, Any]:
    """Return the verdict on a negated task vector raising its task's error."""
    at = negated_fully(negated)
    at = at[at["target"] == at["task"]].dropna(subset="gap")
    strengths = " or ".join(f"{value:g}" for value in sorted(set(at["coefficient"])) or [1.0])
    claim = Claim(
        claim="Negating a task vector raises its task's error",
        source="section 5.2, eq 24; Ilharco et al. 2023",
        statistic=f"smallest rise over targets of the test MSE at λ = {strengths}",
        bound=0,
        side="≥",
        control="a random vector of equal length in every tensor, rise of the test MSE",
    )
    units, random = {}, {}
    for target, own in at.groupby("target", sort=False):
        gap, other = (own[name].to_numpy(dtype=float) for name in ("gap", "random_gap"))
        still = (own["gap"] == 0) & (own["predicted_gap"] == 0)
        there = np.isfinite(other).all()
        units[target] = Sample(
            gap, gap - other if there else None, missing=STILL if still.any() else ""
        )
        if there:
            random[target] = other.mean()
    means = at.groupby("target", sort=False)[["gap", "predicted_gap"]].mean().astype(float)
    ratios = (means["gap"] / means["predicted_gap"])[means["predicted_gap"].abs() > 0]
    notes = [f"over the linear regime's prediction: {listed(ratios.to_dict())}"] * bool(len(ratios))
    detail = "; ".join([*notes, *filter(None, [_kept_as_chosen(negated)])])
    control = listed(random) or NOT_RUN
    return judge(claim, units, control, detail, missing="no task vector was negated")


def stopping_order(
    stopping: pd.DataFrame, metrics: pd.DataFrame, rates: pd.DataFrame
) -> dict[str, Any]:
    """Return the verdict on the theory's stopping ordering tasks as the hold-out's does."""
    claim = _order_claim(
        "The tasks that theory trains longer are those that the hold-out trains longer",
        "sections 3.5 and 6.1, eqs 10-11",
        "Kendall τ of η at T̂_max and of the summed learning rate at the hold-out's stop",
    )
    theory, holdout = {}, {}
    for task, draws in stopping.groupby("task", sort=False):
        runs = of_task(metrics, task)
        runs = runs[runs["n"] == nearest_size(runs["n"], draws["n"].iloc[0])]
        sums, etas = runs["sum_learning_rate"].dropna().to_numpy(), draws["eta"].to_numpy()
        if np.isfinite(etas).all() and len(sums):
            theory[task] = Sample(etas, shared=rates["shared_draws"].get(task, 0.0)).span
            holdout[task] = Sample(sums, shared=rates["shared_seeds"].get(task, 0.0)).span
    tasks = list(theory)
    return _order_row(claim, tasks, theory, holdout, detail=_listed_pairs(tasks, theory, holdout))


def verdict_table(
    rates: pd.DataFrame,
    fits: Mapping[str, pd.DataFrame],
    metrics: pd.DataFrame,
    stopping: pd.DataFrame,
    cosine: pd.DataFrame,
    merged: pd.DataFrame,
    negated: pd.DataFrame,
    theory: Sequence[dict[str, Any]],
) -> pd.DataFrame:
    """Return the verdicts, one row per claim.

    Returns
    -------
    DataFrame
        The columns of :func:`ntktune.figures.claims.judge`; claims about networks and spectra
        that are made up, which say nothing of a user's data, come last.
    """
    rates = rates.set_index("task")
    draws, seeds = rates["shared_draws"], rates["shared_seeds"]
    rows = [power_law(fits, draws)]
    for kind in PAPER_ORDERS:
        rows += decay_orders(kind, fits, rates, metrics)
    rows += [paper_order(kind, fits, draws) for kind in PAPER_ORDERS]
    rows += [
        error_falls(metrics, seeds),
        predicted_rate(rates, fits, metrics),
        *nearly_orthogonal(cosine),
        merging_keeps(merged),
        negation_hurts(negated),
        stopping_order(stopping, metrics, rates),
        *theory,
    ]
    return pd.DataFrame(rows).sort_values("group", ascending=False, kind="stable")


def study_verdicts(
    table1: pd.DataFrame,
    summary: Mapping[str, Mapping[str, Any]],
    decay: pd.DataFrame,
    metrics: pd.DataFrame,
    stopping: pd.DataFrame,
    cosine: pd.DataFrame,
    merged: pd.DataFrame,
    negated: pd.DataFrame,
    radii: pd.DataFrame,
    slopes: pd.DataFrame,
    rules: pd.DataFrame,
    ridge: pd.DataFrame,
    trace: pd.DataFrame,
    trace_ridge: pd.DataFrame,
    stops: pd.DataFrame,
    baselines: pd.DataFrame,
) -> pd.DataFrame:
    """Return the verdicts from a study's tables, named as in :mod:`ntktune.figures.tables`.

    Those after ``metrics`` have no rows where the study does not make them.

    Raises
    ------
    UserError
        ``decay`` and ``summary`` are of different spectra, or tables of different tasks.
    """
    check_fits(decay, summary)
    theory = theory_rows(
        rules=by_seed(rules_table, rules, ridge),
        linear=by_seed(linear_table, trace, trace_ridge, stops),
        untuned=baselines,
        metrics=metrics,
        radii=radii,
        slopes=slopes,
        shared=table1.set_index("task")["shared_seeds"],
    )
    fits = {task: decay[decay["task"] == task] for task in summary}
    return verdict_table(table1, fits, metrics, stopping, cosine, merged, negated, theory)
