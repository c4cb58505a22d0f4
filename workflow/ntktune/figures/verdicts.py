"""The claims of Sun & Raskutti 2026 (SR26) about a study's own data, each with its verdict.

:mod:`ntktune.figures.claims` has the rule by which all are judged. Throughout,
``fits`` is task → its rows of the table ``decay``; ``rates`` is table 1, by task; ``shared`` is
task → mean share of rows that two draws, or the labelled examples of two seeds, have in common;
``kind`` is that of a task, since errors of two kinds do not compare. Other names are those of
:mod:`ntktune.figures.tables`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from ntktune.figures.claims import (
    DID_NOT_MOVE,
    NO_ERROR,
    NOT_RUN,
    UNMOVED,
    Claim,
    Given,
    Sample,
    Span,
    judge,
    listed,
    ratio_sample,
)
from ntktune.figures.cosines import ALL, DIFFERENT, NULLS, whole_cosines
from ntktune.figures.linearized_verdicts import linearized_rows
from ntktune.figures.measures import kendall_tau, kinds, learned, nearest_runs, of_task, with_error
from ntktune.figures.needed import SHARE, needed_size
from ntktune.figures.rates import RANGES, RATE, check_fits, measured_exponent
from ntktune.figures.result_tables import (
    linear_table,
    negated_as_chosen,
    negated_fully,
    rules_table,
)
from ntktune.figures.selection_verdicts import selection_rows
from ntktune.figures.theory_verdicts import by_seed, theory_rows
from ntktune.intervals import LEVEL, half_width
from ntktune.study.merges import FIXED, LEAST_KEPT, parts
from ntktune.study.scores import ERRORS, share_reached

LEAST_TASKS = 3  # for an order
MOST_CHANCE = 1 - LEVEL
# from the largest exponent to the smallest, as SR26 orders GPT-Neo-1.3B's
PAPER_ORDERS = {
    "regression": {"semrel": "SemRel", "sts12": "STS-12", "stsb": "STS-B"},
    "classification": {"amazon": "Amazon", "mrpc": "MRPC", "rte": "RTE"},
}
Row = dict[str, Any]
Spans = Callable[[float], Span]  # coverage → value and interval
# fmt: off
CLAIMS = {
    "power law": Claim(
        "The kernel's eigenvalues decay as a power of their rank",
        "eqs 29, 31-32; figures 4-9", "smallest R² over tasks of log λ_k on log k, mean over draws",
        0.9, "≥", "an exponential decay, R² of log λ_k on k", repeats="draws"),
    "error falls": Claim(
        "The test error falls with the number of labelled examples",
        "figure 2",
        "largest ratio over tasks of the error at the largest n to that at the smallest",
        1, "≤", "predicting the mean or the majority; error there over the model's", ours=False,
        missing="one sample size only; a comparison needs two"),
    "rate": Claim(
        "The error falls as n^(−a/(a+1)), a being the kernel's decay exponent",
        "eq 30", "largest distance over tasks of measured exponent and a/(a+1)",
        0, "=", "the exponent 1/2 for every task", tolerance=0.15,
        missing="no task has an exponent; it needs two sizes"),
    "source": Claim(
        "The error falls as n^(−2ar/(1+2ar)), with the kernel's decay a and the task's source r",
        "table 1", "largest distance over tasks of measured exponent and 2ar/(1+2ar)",
        0, "=", "the exponent 1/2 for every task", tolerance=0.15, paper="Cui21",
        missing="no task has an exponent; it needs two sizes"),
    "merging": Claim(
        "The sum of two task vectors keeps most of what each reaches alone",
        "section 5.2, eqs 22-25; figure 3",
        "smallest merged score / single-task score over pairs and their tasks",
        0.9, "≥", "the pretrained weights under the same heads, score / single-task score",
        units="scores", missing="no two task vectors were added"),
    "orthogonal": Claim(
        "Task vectors of different tasks are nearly orthogonal",
        "section 5.2; figure 3", "largest |cosine| of two tasks, means over runs",
        0.1, "≤", NULLS["seeds"], units="pairs", missing="no pair of tasks that moved"),
    "rte": Claim(
        "RTE's task vector is nearly orthogonal to the others'",
        "section 5.2; figure 3", "largest |cosine| of RTE and another task, means over runs",
        0.1, "≤", NULLS["seeds"], units="pairs", missing="no pair of tasks that moved"),
    "negation": Claim(
        "Negating a task vector raises its task's error",
        "section 5.2, eq 24; Ilharco et al. 2023",
        "smallest rise over targets of the test MSE at λ = ",
        0, "≥", "a random vector of equal length in every tensor, rise of the test MSE",
        missing="no task vector was negated"),
}
# fmt: on


def order_span(a: Sequence[Span], b: Sequence[Span], open_pairs: frozenset = frozenset()) -> Span:
    """Return Kendall's τ of two lists of N things, and the interval that their intervals leave.

    Two things are in a certain order where their intervals do not overlap. Pairs that are certain
    in both lists agree or do not; all others may do either, as may ``open_pairs``, pairs (i, j)
    with i < j, whatever the intervals say. If all 2N intervals hold at once, so does that of τ.
    """

    def certain(own: Sequence[Span], i: int, j: int) -> int:
        return int(own[i].low > own[j].high) - int(own[j].low > own[i].high)

    pairs = list(combinations(range(len(a)), 2))
    signs = [certain(a, i, j) * certain(b, i, j) * ((i, j) not in open_pairs) for i, j in pairs]
    agree, differ = signs.count(1), signs.count(-1)
    tau = kendall_tau([x.value for x in a], [x.value for x in b])
    return Span(tau, 2 * agree / len(pairs) - 1, 1 - 2 * differ / len(pairs))


def chance_of_order(things: int) -> float:
    """Return the probability that a random order of N things is the right one."""
    return 1 / math.factorial(things)


def _numbers(own: pd.DataFrame, *names: str) -> list[np.ndarray]:
    return [own[name].to_numpy(dtype=float) for name in names]


def _rate(exponent: float) -> float:
    return exponent / (exponent + 1)


def power_law(fits: Mapping[str, pd.DataFrame], shared: Mapping[str, float]) -> Row:
    """Return the verdict on the decay being a power law."""
    units, others, lowest = {}, {}, []
    for task, own in fits.items():
        main = own[own["range"] == RANGES[0]]
        r_squared, control = main["r_squared"].to_numpy(), main["exponential"].to_numpy()
        units[task] = Sample(r_squared, r_squared - control, shared.get(task, 0.0))
        others[task] = control.mean()
        lowest.append(own.groupby("range")["r_squared"].mean().min())
    detail = f"smallest over ranges of ranks {min(lowest):.3g}"
    return judge(CLAIMS["power law"], units, listed(others), detail)


def _exponent_spans(
    fits: Mapping[str, pd.DataFrame], shared: Mapping[str, float]
) -> dict[str, Spans]:
    """Return task → coverage → decay exponent over all ranks and its interval over draws."""
    values = {t: own.loc[own["range"] == RANGES[0], "exponent"] for t, own in fits.items()}
    return {t: Sample(v.to_numpy(), shared=shared.get(t, 0.0)).span for t, v in values.items()}


def _fall_span(metrics: pd.DataFrame, shared: float, level: float) -> Span:
    """Return a learning curve's exponent and its interval."""
    found = measured_exponent(metrics, shared, level)
    return Span(*(found[f"measured_{name}"] for name in ("exponent", "low", "high")))


def _fewer_span(metrics: pd.DataFrame, shared: float, level: float) -> Span:
    """Return minus the number of examples that a task needs, and its interval."""
    found = needed_size(metrics, shared, level)
    return Span(*(-found[name] for name in ("needed", "needed_high", "needed_low")))


def _fit_means(fits: Mapping[str, pd.DataFrame]) -> dict[str, np.ndarray]:
    """Return task → mean exponents over draws, one per range of ranks."""
    means = {task: own.groupby("range")["exponent"].mean() for task, own in fits.items()}
    return {task: own.reindex(RANGES).to_numpy() for task, own in means.items()}


def _flipped(tasks: Sequence[str], *fits: Mapping[str, np.ndarray]) -> frozenset:
    """Return the pairs (i, j) whose order is another with another range or form of the fit."""
    found = set()
    for (i, first), (j, second) in combinations(enumerate(tasks), 2):
        for values in fits:
            signs = np.sign(values[first] - values[second])
            if len(set(signs[np.isfinite(signs)])) > 1:
                found.add((i, j))
    return frozenset(found)


def _order_row(
    claim: tuple[str, str, str],
    tasks: Sequence[str],
    first: Mapping[str, Spans],
    second: Mapping[str, Spans],
    flips: frozenset = frozenset(),
    *,
    law: bool = True,
    detail: str = "",
    missing: str = "",
) -> Row:
    """Return the verdict on two orders of tasks being one: on Kendall's τ = 1.

    Pairs of tasks in ``flips`` stay open, as their order depends on the fit. With ``law`` the claim
    goes beyond these tasks: then so good an order must be unlikely by chance. ``detail`` stands for
    both values of each task; ``missing`` says why there is no order.
    """
    if len(tasks) < LEAST_TASKS and not missing:
        missing = f"tasks with both numbers: {len(tasks)}; an order needs {LEAST_TASKS}"
    no_order = missing or "all values are equal, so they have no order"
    stated = Claim(*claim, 1, "≥", "a random order", ours=False, missing=no_order)
    if missing:
        return judge(stated, {})
    chance, many = chance_of_order(len(tasks)), 2 * len(tasks)

    def span(level: float) -> Span:
        each = 1 - (1 - level) / many
        return order_span(*([own[t](each) for t in tasks] for own in (first, second)), flips)

    detail = detail or ", ".join(
        f"{task} {first[task](LEVEL).value:.3g} / {second[task](LEVEL).value:.3g}" for task in tasks
    )
    if flips:
        names = "; ".join(f"{tasks[i]} and {tasks[j]}" for i, j in sorted(flips))
        detail = f"the order depends on the range or form of the fit: {names}; {detail}"
    power = f"{many} intervals that hold together"
    if law and chance > MOST_CHANCE:
        power += "; four tasks are needed for a chance below 5 %"
    unit = Given(span, not law or chance <= MOST_CHANCE)
    control = f"right by chance once in {round(1 / chance):,}"
    return judge(stated, {"": unit}, control, detail, power)


def decay_orders(
    kind: str, fits: Mapping[str, pd.DataFrame], rates: pd.DataFrame, metrics: pd.DataFrame
) -> list[Row]:
    """Return the verdicts on fast-decaying tasks learning faster and needing fewer examples."""
    own = {t: of_task(metrics, t) for t, is_of in kinds(metrics).items() if is_of == kind}
    own = {task: rows for task, rows in own.items() if task in fits and learned(rows)}
    decay, means = _exponent_spans(fits, rates["shared_draws"]), _fit_means(fits)
    forms = rates[["measured_exponent", "slope_exponent"]].astype(float).T.to_dict("series")
    rows = []
    for span, claim, what, others in (
        (_fall_span, "faster the error falls with n", "learning-curve exponent", [forms]),
        (_fewer_span, "fewer examples the task needs", f"−n at {SHARE:.0%} of the best score", []),
    ):
        spans = {t: cache(partial(span, some, rates["shared_seeds"][t])) for t, some in own.items()}
        claimed = f"The faster the decay, the {claim} ({kind} tasks)"
        stated = claimed, "eq 30", f"Kendall τ of decay exponent and {what}"
        tasks = [task for task in own if np.isfinite(spans[task](LEVEL).value)]
        rows.append(_order_row(stated, tasks, decay, spans, _flipped(tasks, means, *others)))
    return rows


def paper_order(kind: str, fits: Mapping[str, pd.DataFrame], shared: Mapping[str, float]) -> Row:
    """Return the verdict on the paper's own order of decay exponents."""
    titles = PAPER_ORDERS[kind]
    stated = f"The decay exponents come in the order {' > '.join(titles.values())}"
    claim = stated, "section 6; figures 4-9", "Kendall τ against that order"
    if lacking := [task for task in titles if task not in fits]:
        missing = f"not among the study's tasks: {', '.join(lacking)}"
        return _order_row(claim, [], {}, {}, missing=missing)
    tasks, decay = list(titles), _exponent_spans(fits, shared)
    paper = {task: lambda _, v=-place: Span(v, v, v) for place, task in enumerate(tasks)}
    values = listed({task: decay[task](LEVEL).value for task in tasks})
    detail = f"{values}; the paper's order is GPT-Neo-1.3B's"
    flips = _flipped(tasks, _fit_means(fits))
    return _order_row(claim, tasks, decay, paper, flips, law=False, detail=detail)


def error_falls(metrics: pd.DataFrame, shared: Mapping[str, float]) -> Row:
    """Return the verdict on the error being smaller at the largest n than at the smallest."""
    units, trivial = {}, {}
    for task in kinds(metrics):
        own = with_error(of_task(metrics, task))
        few, many = own["n"].min(), own["n"].max()
        if few == many:
            continue
        ends = own[own["n"].isin([few, many])]
        table = ends.pivot(index="seed", columns="n", values=["error", "baseline_error"]).dropna()
        errors, baseline = table["error"], table["baseline_error"][many].to_numpy()
        start = float(errors[few].mean())
        units[task] = Sample(
            (errors[many] - errors[few]).to_numpy() / (start or np.nan),
            baseline - errors[many].to_numpy(),
            shared.get(task, 0.0),
            lambda value: max(1 + value, 0.0),  # errors are 0 or above
            DID_NOT_MOVE if not learned(own) else "" if start else NO_ERROR,
        )
        trivial[task] = baseline.mean() / errors[many].mean() if errors[many].any() else np.inf
    return judge(CLAIMS["error falls"], units, listed(trivial))


def predicted_rate(
    rates: pd.DataFrame, fits: Mapping[str, pd.DataFrame], metrics: pd.DataFrame
) -> Row:
    """Return the verdict on a/(a+1) being the exponent of the learning curve.

    The prediction reaches over its interval and over the ranges of ranks that a is fitted to.
    """
    decay, means = _exponent_spans(fits, rates["shared_draws"]), _fit_means(fits)

    def spans(task: str) -> Spans:
        def span(level: float) -> Span:
            a, fitted = decay[task](level), means[task][np.isfinite(means[task])]
            low = _rate(max(np.min([a.low, *fitted]), 0.0))
            return Span(_rate(a.value), low, _rate(np.max([a.high, *fitted])))

        return span

    return _rate_row(CLAIMS["rate"], "a/(a+1)", {t: spans(t) for t in decay}, rates, metrics)


def source_rate(exponents: pd.DataFrame, rates: pd.DataFrame, metrics: pd.DataFrame) -> Row:
    """Return the verdict on 2ar/(1+2ar) being the exponent of the learning curve."""
    shared = rates["shared_draws"]
    predicted = {
        task: Sample(own["rate"].to_numpy(float), shared=shared.get(task, 0.0)).span
        for task, own in exponents.groupby("task", sort=False)
    }
    some = rates[rates.index.isin(predicted)]
    return _rate_row(CLAIMS["source"], "2ar/(1+2ar)", predicted, some, metrics)


def _rate_row(
    claim: Claim,
    formula: str,
    predicted: Mapping[str, Spans],
    rates: pd.DataFrame,
    metrics: pd.DataFrame,
) -> Row:
    """Return the verdict on a predicted exponent of the learning curve, task → its span."""
    units, at_half = {}, 0
    for task, row in rates[rates.index.isin(kinds(metrics))].iterrows():
        own = of_task(metrics, task)
        if not learned(own):
            units[task] = UNMOVED
            continue

        @cache
        def span(level: float, task=task, own=own, row=row) -> Span:
            measured, rate = _fall_span(own, row["shared_seeds"], level), predicted[task](level)
            apart = measured.low - rate.high, measured.high - rate.low
            return Span(measured.value - rate.value, *apart)

        inside = row["measured_low"] <= 0.5 <= row["measured_high"]
        at_half += inside
        units[task] = Given(span, not inside, count=int(row["seeds"]))
    spans = [unit.span(LEVEL) for unit in units.values() if isinstance(unit, Given)]
    if not spans:
        return judge(claim, units)
    holding = sum(span.low <= 0 <= span.high for span in spans)
    detail = f"{formula} in the interval of {holding} of {len(spans)} tasks"
    if (rates["error_measure"] == RATE).any():
        detail += "; it is about squared error, and classifications have the error rate"
    return judge(claim, units, f"in the interval of {at_half} of {len(spans)} tasks", detail)


def crossed_span(cosines: np.ndarray, level: float) -> Span:
    """Return |mean cosine| of two tasks' runs, (runs of one, runs of the other), and its interval.

    Cosines of one run with several others are not independent: the scatter of the mean is that
    of the first task's runs and that of the second's.
    """
    mean = float(np.abs(cosines.mean()))
    half = float(np.hypot(*(half_width(cosines.mean(axis=axis), level=level) for axis in (0, 1))))
    return Span(mean, mean - half if not half > mean else 0.0, mean + half)


def nearly_orthogonal(cosine: pd.DataFrame) -> list[Row]:
    """Return the verdicts on task vectors being nearly orthogonal: of all pairs, of rte's pairs."""
    null = (whole_cosines(cosine, pair) for pair in ("seeds", "subsets"))
    twice, same = (dict(rows[["task_a", "mean"]].dropna().to_numpy()) for rows in null)
    units: dict[str, Given | Sample] = {}
    different = cosine[(cosine["pair"] == DIFFERENT) & (cosine["group"] == ALL)]
    for (a, b), own in different.groupby(["task_a", "task_b"], sort=False):
        if own["cosine"].isna().any():
            units[f"{a} and {b}"] = UNMOVED
            continue
        runs = own.pivot(index="run_a", columns="run_b", values="cosine").to_numpy()
        span, known = partial(crossed_span, runs), [twice[t] for t in (a, b) if t in twice]
        better = bool(span(LEVEL).high < min(known)) if known else None
        units[f"{a} and {b}"] = Given(span, better, count=len(runs))
    detail = f"{NULLS['subsets']}: {listed(same)}" if same else ""
    rte = {name: unit for name, unit in units.items() if "rte" in name.split(" and ")}
    claims = {"orthogonal": units} | ({"rte": rte} if rte else {})
    control = listed(twice) or NOT_RUN
    return [judge(CLAIMS[name], some, control, detail) for name, some in claims.items()]


def merging_keeps(merged: pd.DataFrame) -> Row:
    """Return the verdict on models merged of two tasks keeping the single tasks' scores."""
    claim = CLAIMS["merging"]
    fixed = merged[merged["choice"] == FIXED]
    pairs = fixed[fixed["merged"].map(lambda name: len(parts(name)) == 2).astype(bool)]
    units, untuned = {}, {}
    for (merge, task), own in pairs.groupby(["merged", "task"], sort=False):
        score, single, start = _numbers(own, "merged_score", "single", "pretrained")
        metric, name = own["metric"].iloc[0], f"{task} in {merge}"
        if metric in ERRORS:  # less is better
            units[name] = ratio_sample(single, score, claim.bound, start - score)
        else:
            rows = np.inf if own["kind"].iloc[0] == "classification" else own["rows"].mean()
            units[name] = ratio_sample(score, single, claim.bound, score - start, rows=rows)
        if not units[name].missing:
            untuned[name] = share_reached(metric, start.mean(), single.mean())
    detail, leaked = "", pairs["leaked"].mean()
    if leaked > 0:
        detail = f"mean {pairs['normalised_clean'].mean():.3g} without the test rows whose text a "
        detail += f"member was fine-tuned on, {leaked:.3g} of {pairs['rows'].mean():.4g}"
    elif len(pairs):
        detail = "no member was fine-tuned on the text of a test row"
    control = f"mean {np.mean(list(untuned.values())):.3g}" if untuned else ""
    return judge(claim, units, control, detail)


def negation_hurts(negated: pd.DataFrame) -> Row:
    """Return the verdict on a negated task vector raising its task's error."""
    at = negated_fully(negated)
    at = at[at["target"] == at["task"]].dropna(subset="gap")
    strengths = " or ".join(f"{value:g}" for value in sorted(set(at["coefficient"])) or [1.0])
    claim = replace(CLAIMS["negation"], statistic=CLAIMS["negation"].statistic + strengths)
    units, random, ratios = {}, {}, {}
    for target, own in at.groupby("target", sort=False):
        gap, other, predicted = _numbers(own, "gap", "random_gap", "predicted_gap")
        there, still = np.isfinite(other).all(), ((gap == 0) & (predicted == 0)).any()
        why = DID_NOT_MOVE if still else ""
        units[target] = Sample(gap, gap - other if there else None, missing=why)
        if there:
            random[target] = other.mean()
        mean = own["predicted_gap"].astype(float).mean()
        if abs(mean) > 0:
            ratios[target] = own["gap"].astype(float).mean() / mean
    notes = [f"over the linear regime's prediction: {listed(ratios)}"] if ratios else []
    chosen = negated_as_chosen(negated).dropna(subset="kept")
    chosen = chosen[chosen["target"] == chosen["task"]]
    if len(chosen):
        kept = listed(chosen.groupby("target", sort=False)["kept"].mean())
        notes.append(f"score kept where other tasks keep {LEAST_KEPT:.0%} of theirs: {kept}")
    return judge(claim, units, listed(random) or NOT_RUN, "; ".join(notes))


def stopping_order(stopping: pd.DataFrame, metrics: pd.DataFrame, rates: pd.DataFrame) -> Row:
    """Return the verdict on the theory's stopping ordering tasks as the hold-out's does."""
    claim = (
        "The tasks that theory trains longer are those that the hold-out trains longer",
        "sections 3.5 and 6.1, eqs 10-11",
        "Kendall τ of η at T̂_max and of the summed learning rate at the hold-out's stop",
    )
    theory, holdout = {}, {}
    for task, draws in stopping.groupby("task", sort=False):
        runs = nearest_runs(metrics, task, draws["n"].iloc[0])
        sums, etas = runs["sum_learning_rate"].dropna().to_numpy(), draws["eta"].to_numpy()
        if np.isfinite(etas).all() and len(sums):
            theory[task] = Sample(etas, shared=rates["shared_draws"].get(task, 0.0)).span
            holdout[task] = Sample(sums, shared=rates["shared_seeds"].get(task, 0.0)).span
    return _order_row(claim, list(theory), theory, holdout)


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
    trajectory: pd.DataFrame,
    trajectory_ridge: pd.DataFrame,
    stops: pd.DataFrame,
    baselines: pd.DataFrame,
    held: pd.DataFrame,
    sets: pd.DataFrame,
    tuned: pd.DataFrame,
    curves: pd.DataFrame,
    scores: pd.DataFrame,
    exponents: pd.DataFrame,
) -> pd.DataFrame:
    """Return the verdicts, one row per claim, with :func:`ntktune.figures.claims.judge`'s columns.

    Claims about made-up networks and spectra come last. Tables after ``metrics`` have no rows where
    the study does not make them. Raises UserError if ``decay`` and ``summary`` are of different
    spectra, or tables are of different tasks.
    """
    check_fits(decay, summary)
    fits = {task: decay[decay["task"] == task] for task in summary}
    rates = table1.set_index("task")
    draws, seeds = rates["shared_draws"], rates["shared_seeds"]
    rows = [power_law(fits, draws)]
    for kind in PAPER_ORDERS:
        rows += decay_orders(kind, fits, rates, metrics)
    rows += [paper_order(kind, fits, draws) for kind in PAPER_ORDERS]
    each_rules = by_seed(rules_table, rules, ridge)
    each_linear = by_seed(linear_table, trajectory, trajectory_ridge, stops)
    rows += [
        error_falls(metrics, seeds),
        predicted_rate(rates, fits, metrics),
        *nearly_orthogonal(cosine),
        merging_keeps(merged),
        negation_hurts(negated),
        stopping_order(stopping, metrics, rates),
        *theory_rows(each_rules, each_linear, baselines, metrics, radii, slopes, seeds),
        *linearized_rows(held, sets, tuned, seeds),
        *selection_rows(curves, scores, seeds),
        *([] if exponents.empty else [source_rate(exponents, rates, metrics)]),
    ]
    return pd.DataFrame(rows).sort_values("group", ascending=False, kind="stable")
