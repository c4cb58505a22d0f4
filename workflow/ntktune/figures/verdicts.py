"""The claims of Sun & Raskutti 2026 (SR26), each with its statistic on this study.

Every claim is ``reproduced``, ``not reproduced`` or ``not tested`` by a rule that stands
in the column ``threshold``. An order counts as reproduced only if it also holds in at
least 95 % of bootstrap samples: of the kernel's draws, and of the fine-tuning's seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ntktune.figures.agreement import kendall_tau, resampled_means, share_in_agreement
from ntktune.figures.claims import FAILED, REPRODUCED, UNTESTED, claim_row, listed
from ntktune.figures.cosines import DIFFERENT, NULLS, whole_cosines
from ntktune.figures.measures import curve, kinds, nearest_size, of_task, with_error
from ntktune.figures.needed import SHARE, gain_points, reached_sizes
from ntktune.figures.negations import negated_as_chosen, negated_fully
from ntktune.figures.rates import RATE, curve_points, resampled_curves, resampled_exponents
from ntktune.merges import FIXED, LEAST_KEPT, parts
from ntktune.scores import share_reached
from ntktune.seeds import generator

LEAST_R_SQUARED = 0.9
LEAST_SHARE = 0.95
MOST_COSINE = 0.1
LEAST_NORMALISED = 0.9
LEAST_TASKS = 3
RTE = "rte"
ORDER_RULE = f"τ > 0, and τ > 0 in ≥ {LEAST_SHARE:.0%} of bootstrap samples"
# from the largest exponent to the smallest, as SR26 orders GPT-Neo-1.3B's
PAPER_ORDERS = {
    "regression": {"semrel": "SemRel", "sts12": "STS-12", "stsb": "STS-B"},
    "classification": {"amazon": "Amazon", "mrpc": "MRPC", "rte": "RTE"},
}


def _order_verdict(tau: float, share: float, samples: str) -> tuple[str, str]:
    """Return verdict and remark for the agreement of two orders, by :data:`ORDER_RULE`.

    Parameters
    ----------
    tau
        Kendall's τ of the means.
    share
        Share of bootstrap samples with τ > 0; NaN where there is nothing to resample.
    samples
        What is resampled, for the remark.
    """
    if np.isnan(tau):
        return UNTESTED, "all values are equal, so they have no order"
    if np.isnan(share):
        if tau <= 0:
            return FAILED, f"its uncertainty is unknown: that needs two {samples} per task"
        return UNTESTED, f"the uncertainty of the order needs two {samples} per task"
    if tau > 0 and share < LEAST_SHARE:
        return FAILED, f"the order is the claimed one, but uncertain: τ > 0 in {share:.1%}"
    return REPRODUCED if tau > 0 else FAILED, f"τ > 0 in {share:.1%} of bootstrap samples"


def power_law(r_squared: Mapping[str, float]) -> dict[str, Any]:
    """Return the verdict on the decay being a power law.

    Parameters
    ----------
    r_squared
        Task → mean R² over draws of the fit of log λ_k on log k.
    """
    worst = min(r_squared.values())
    return claim_row(
        "The kernel's eigenvalues decay as a power of their rank",
        "eqs 29, 31-32; figures 4-9",
        "smallest mean R² of the log-log fit over the tasks",
        worst,
        f"≥ {LEAST_R_SQUARED} (ours)",
        REPRODUCED if worst >= LEAST_R_SQUARED else FAILED,
        f"mean R² by task: {listed(r_squared)}",
    )


def _decay_order(
    kind: str,
    what: str,
    claim: str,
    statistic: str,
    exponents: Mapping[str, np.ndarray],
    values: Mapping[str, float],
    samples: Callable[[str], np.ndarray],
    seed: int,
    resamples: int,
    sign: int = 1,
) -> dict[str, Any]:
    """Return the verdict on the order of decay exponents being that of something else.

    Parameters
    ----------
    kind
        ``"regression"`` or ``"classification"``: their errors do not compare.
    what
        What the values are, for the detail.
    claim, statistic
        What is claimed, and the statistic.
    exponents
        Task → its decay exponents, one per draw.
    values
        Task of that kind → the other value; NaN where it is unknown.
    samples
        Returns a task's values in bootstrap samples of the seeds, (resamples,).
    seed, resamples
        Root seed, and number of bootstrap samples.
    sign
        −1 if the claim is that the value falls with the exponent.
    """
    tasks = [t for t in exponents if np.isfinite(values.get(t, np.nan))]
    if len(tasks) < LEAST_TASKS:
        detail = f"{kind} tasks with both numbers: {len(tasks)}; an order needs {LEAST_TASKS}"
        detail += " or more"
        return claim_row(claim, "eq 30", statistic, np.nan, ORDER_RULE, UNTESTED, detail)
    decay = np.array([exponents[t].mean() for t in tasks])
    others = np.array([values[t] for t in tasks])
    tau = kendall_tau(decay, sign * others)
    drawn = np.stack([samples(t) for t in tasks], axis=1)  # (resamples, tasks)
    share = np.nan
    if all(len(exponents[t]) > 1 for t in tasks) and np.isfinite(drawn).any(axis=0).all():
        decays = _resampled(exponents, tasks, seed, resamples)
        share = share_in_agreement(decays, sign * drawn)
    verdict, remark = _order_verdict(tau, share, "draws and two seeds")
    pairs = ", ".join(
        f"{t} {a:.3g} and {b:.3g}" for t, a, b in zip(tasks, decay, others, strict=True)
    )
    detail = f"{remark}; decay exponent and {what} by task: {pairs}"
    return claim_row(claim, "eq 30", statistic, tau, ORDER_RULE, verdict, detail)


def _of_kind(metrics: pd.DataFrame, kind: str) -> list[str]:
    return [task for task, is_of in kinds(metrics).items() if is_of == kind]


def faster_decay_faster_fall(
    kind: str,
    exponents: Mapping[str, np.ndarray],
    measured: Mapping[str, float],
    metrics: pd.DataFrame,
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    """Return the verdict on the order of decay exponents being that of learning curves.

    Parameters
    ----------
    kind
        ``"regression"`` or ``"classification"``: their errors do not compare.
    exponents
        Task → its decay exponents, one per draw.
    measured
        Task → exponent of its learning curve.
    metrics
        Fine-tuning metrics, for the bootstrap over seeds.
    seed, resamples
        Root seed, and number of bootstrap samples.
    """

    def samples(task: str) -> np.ndarray:
        points = curve_points(of_task(metrics, task))[0]
        return resampled_exponents(points, resamples, generator(seed, "figures.bootstrap", task))

    return _decay_order(
        kind,
        "learning-curve exponent",
        f"The faster the decay, the faster the error falls with n ({kind} tasks)",
        "Kendall τ of decay exponent and learning-curve exponent",
        exponents,
        {t: measured.get(t, np.nan) for t in _of_kind(metrics, kind)},
        samples,
        seed,
        resamples,
    )


def faster_decay_fewer_samples(
    kind: str,
    exponents: Mapping[str, np.ndarray],
    needed: Mapping[str, float],
    metrics: pd.DataFrame,
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    """Return the verdict on fast-decaying tasks needing fewer examples.

    Parameters
    ----------
    needed
        Task → labelled examples that reach 95 % of its best score.
    kind, exponents, metrics, seed, resamples
        As for :func:`faster_decay_faster_fall`.
    """

    def samples(task: str) -> np.ndarray:
        points = gain_points(of_task(metrics, task))
        random = generator(seed, "figures.bootstrap", task)
        return reached_sizes(*resampled_curves(points, resamples, random))

    return _decay_order(
        kind,
        f"examples for {SHARE:.0%} of the best score",
        f"The faster the decay, the fewer examples the task needs ({kind} tasks)",
        f"Kendall τ of decay exponent and −n at {SHARE:.0%} of the best score",
        exponents,
        {t: needed.get(t, np.nan) for t in _of_kind(metrics, kind)},
        samples,
        seed,
        resamples,
        sign=-1,
    )


def _resampled(
    values: Mapping[str, np.ndarray],
    tasks: Sequence[str],
    seed: int,
    resamples: int,
    what: str = "draws",
) -> np.ndarray:
    """Return bootstrap means over draws or seeds, (resamples, tasks)."""
    address = f"figures.{what}"
    return np.stack(
        [resampled_means(values[t], resamples, generator(seed, address, t)) for t in tasks],
        axis=1,
    )


def paper_order(
    kind: str, exponents: Mapping[str, np.ndarray], seed: int, resamples: int
) -> dict[str, Any]:
    """Return the verdict on the paper's own order of decay exponents.

    Parameters
    ----------
    kind
        ``"regression"`` or ``"classification"``.
    exponents
        Task → its decay exponents, one per draw.
    seed, resamples
        Root seed, and number of bootstrap samples.
    """
    titles = PAPER_ORDERS[kind]
    claim = f"The decay exponents come in the order {' > '.join(titles.values())}"
    source, statistic = "section 6; figures 4-9", "Kendall τ against that order"
    rule = f"τ = 1, and the whole order in ≥ {LEAST_SHARE:.0%} of bootstrap samples"
    missing = [task for task in titles if task not in exponents]
    if missing:
        detail = f"not among the study's tasks: {', '.join(missing)}"
        return claim_row(claim, source, statistic, np.nan, rule, UNTESTED, detail)
    tasks = list(titles)
    means = {task: exponents[task].mean() for task in tasks}
    tau = kendall_tau(np.array(list(means.values())), -np.arange(len(tasks)))
    detail = f"exponents: {listed(means)}; the paper's order is GPT-Neo-1.3B's"
    if all(len(exponents[task]) > 1 for task in tasks):
        samples = _resampled(exponents, tasks, seed, resamples)
        share = float(np.mean((np.diff(samples, axis=1) < 0).all(axis=1)))
        kept = tau == 1 and share >= LEAST_SHARE
        verdict = REPRODUCED if kept else FAILED
        detail = f"the whole order in {share:.1%} of bootstrap samples; {detail}"
    else:
        verdict = UNTESTED if tau == 1 else FAILED
        detail = f"the order's uncertainty is unknown: that needs two draws per task; {detail}"
    return claim_row(claim, source, statistic, tau, rule, verdict, detail)


def error_falls(metrics: pd.DataFrame) -> dict[str, Any]:
    """Return the verdict on the error being smaller at the largest n than at the smallest."""
    metrics = with_error(metrics)
    claim, source = "The test error falls with the number of labelled examples", "figure 2"
    curves = {t: curve(of_task(metrics, t), "error")["mean"] for t in kinds(metrics)}
    curves = {t: means for t, means in curves.items() if len(means) > 1}
    statistic = "tasks whose mean test error is lower at the largest n than at the smallest"
    if not curves:
        detail = "one sample size only; a comparison needs two"
        return claim_row(claim, source, statistic, np.nan, "all tasks", UNTESTED, detail)
    ratios = {t: means.iloc[-1] / means.iloc[0] for t, means in curves.items()}
    fell = sum(means.iloc[-1] < means.iloc[0] for means in curves.values())
    return claim_row(
        claim,
        source,
        statistic,
        fell,
        f"all tasks ({len(curves)})",
        REPRODUCED if fell == len(curves) else FAILED,
        f"mean error at the largest n over that at the smallest, by task: {listed(ratios)}",
    )


def predicted_rate(rates: pd.DataFrame) -> dict[str, Any]:
    """Return the verdict on a/(a+1) being the exponent of the learning curve.

    Parameters
    ----------
    rates
        Table 1: ``task``, ``predicted_rate``, ``measured_exponent``, ``measured_low``,
        ``measured_high``, ``error_measure``.
    """
    claim = "The error falls as n^(−a/(a+1)), a being the kernel's decay exponent"
    statistic = "share of tasks whose a/(a+1) lies in the measured exponent's 95 % interval"
    known = rates.dropna(subset=["predicted_rate", "measured_low", "measured_high"])
    if known.empty:
        detail = "no task has an interval; it needs two sizes and two seeds"
        return claim_row(claim, "eq 30", statistic, np.nan, "all tasks", UNTESTED, detail)
    inside = known["predicted_rate"].between(known["measured_low"], known["measured_high"])
    numbers = ", ".join(
        f"{r.task} {r.predicted_rate:.3g} and {r.measured_exponent:.3g} "
        f"[{r.measured_low:.3g}, {r.measured_high:.3g}]"
        for r in known.itertuples()
    )
    detail = f"predicted and measured by task: {numbers}"
    if (known["error_measure"] == RATE).any():
        detail += (
            "; the prediction is about squared error, for which the error rate stands in "
            "on classifications"
        )
    if len(known) < len(rates):
        detail += f"; tasks without an interval: {len(rates) - len(known)} of {len(rates)}"
    return claim_row(
        claim,
        "eq 30",
        statistic,
        inside.mean(),
        f"all tasks ({len(known)})",
        REPRODUCED if inside.all() else FAILED,
        detail,
    )


def _of_one_task(cosine: pd.DataFrame) -> str:
    """Return what the cosines of one task's own vectors are, for the detail of a verdict."""
    found = []
    for null, name in NULLS.items():
        known = whole_cosines(cosine, null).dropna(subset="mean")
        if len(known):
            means = dict(zip(known["task_a"], known["mean"], strict=True))
            found.append(f"; {name}: {listed(means)}")
    return "".join(found) or "; cosines of one task with itself are not known"


def _orthogonality(
    claim: str, statistic: str, every: pd.DataFrame, nulls: str, remark: str = ""
) -> dict[str, Any]:
    """Return the verdict on pairs of tasks, with their mean cosines, being nearly orthogonal."""
    source, rule = "section 5.2; figure 3", f"≤ {MOST_COSINE} (ours)"
    pairs = every.dropna(subset="mean")
    if pairs.empty:
        detail = "no pair of tasks that moved"
        return claim_row(claim, source, statistic, np.nan, rule, UNTESTED, detail)
    sizes = pairs["mean"].abs()
    worst = pairs.loc[sizes.idxmax()]
    unmoved = f"; {len(every) - len(pairs)} pairs with a model that fine-tuning did not move"
    return claim_row(
        claim,
        source,
        statistic,
        sizes.max(),
        rule,
        REPRODUCED if sizes.max() <= MOST_COSINE else FAILED,
        f"{worst['task_a']} and {worst['task_b']} {worst['mean']:.3g}; "
        f"mean |cosine| over {len(pairs)} pairs {sizes.mean():.3g}"
        + remark
        + nulls
        + (unmoved if len(pairs) < len(every) else ""),
    )


def nearly_orthogonal(cosine: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the verdicts on task vectors of different tasks being nearly orthogonal.

    Parameters
    ----------
    cosine
        One row per two fine-tunings and group of layers: ``pair``, ``task_a``, ``task_b``,
        ``group``, ``cosine``. A pair's cosine is the mean over its runs.

    Returns
    -------
    list of dict
        The verdict on all pairs, and, where ``rte`` is among the tasks, that on its own.
    """
    every, nulls = whole_cosines(cosine, DIFFERENT), _of_one_task(cosine)
    claim = "Task vectors of different tasks are nearly orthogonal"
    statistic = "largest |cosine| of two tasks, means over runs"
    rows = [_orthogonality(claim, statistic, every, nulls)]
    with_rte = (every[["task_a", "task_b"]] == RTE).any(axis=1).astype(bool)
    if with_rte.any():
        others = every.loc[~with_rte, "mean"].abs().max()
        remark = f"; largest |cosine| among the other tasks {others:.3g}"
        claim = "RTE's task vector is nearly orthogonal to the others'"
        statistic = "largest |cosine| of RTE and another task, means over runs"
        remark = remark if np.isfinite(others) else "; there are no two other tasks"
        rows.append(_orthogonality(claim, statistic, every[with_rte], nulls, remark))
    return rows


def _without_leaks(usable: pd.DataFrame) -> str:
    """Return what is left of the merged models' scores without leaked test rows, for a detail."""
    if not usable["leaked"].any():
        return "; no member was fine-tuned on the text of a test row"
    clean = usable["normalised_clean"].mean()
    return (
        f"; mean {clean:.3g} without the test rows whose text a member was fine-tuned on, "
        f"{usable['leaked'].mean():.3g} of {usable['rows'].mean():.4g} on average"
    )


def merging_keeps(merged: pd.DataFrame) -> dict[str, Any]:
    """Return the verdict on models merged of two tasks keeping the single tasks' scores.

    A ratio to a score that is not above zero says nothing; such rows are left out.

    Parameters
    ----------
    merged
        One row per merge, seed, task and choice; those with the configured coefficient are
        judged, by their means over seeds.
    """
    claim = "The sum of two task vectors keeps most of what each reaches alone"
    source = "section 5.2, eqs 22-25; figure 3"
    statistic = "smallest merged score / single-task score over pairs and their tasks"
    rule = f"≥ {LEAST_NORMALISED} (ours)"
    fixed = merged[merged["choice"] == FIXED]
    pairs = fixed[fixed["merged"].map(lambda name: len(parts(name)) == 2).astype(bool)]
    usable = pairs[(pairs["single"] > 0) & pairs["normalised"].notna()]
    left_out = len(pairs) - len(usable)
    if usable.empty:
        detail = f"scores of pairs: {len(pairs)}, none with a single-task score above 0"
        return claim_row(claim, source, statistic, np.nan, rule, UNTESTED, detail)
    scores = (usable[name] for name in ("metric", "pretrained", "single"))
    usable = usable.assign(untuned=list(map(share_reached, *scores)))
    names = ["normalised", "normalised_clean", "untuned", "rows", "leaked"]
    means = usable.groupby(["merged", "task"], sort=False)[names].mean().reset_index()
    worst = means.loc[means["normalised"].idxmin()]
    detail = (
        f"smallest for {worst['task']} in {worst['merged']}; mean {means['normalised'].mean():.3g}"
        f" over all scores ({len(means)}), against {means['untuned'].mean():.3g} for the "
        f"pretrained weights with the same heads{_without_leaks(means)}"
    )
    if left_out:
        detail += f"; {left_out} left out: their single-task score is not above 0, or unknown"
    return claim_row(
        claim,
        source,
        statistic,
        worst["normalised"],
        rule,
        REPRODUCED if worst["normalised"] >= LEAST_NORMALISED else FAILED,
        detail,
    )


def _kept_as_chosen(negated: pd.DataFrame) -> str:
    """Return what targets and controls keep at the chosen coefficient, for a detail."""
    chosen = negated_as_chosen(negated).dropna(subset="kept")
    is_target = chosen["target"] == chosen["task"]
    kept = chosen.groupby(["target", is_target.rename("own")], sort=False)["kept"].mean()
    shares = "; ".join(
        f"{target} {own[target, True]:.3g}"
        + (f" (controls {own[target, False]:.3g})" if (target, False) in own else "")
        for target, own in kept.groupby("target", sort=False)
        if (target, True) in own
    )
    if not shares:
        return ""
    return (
        f"; share of its pretrained score that a target keeps at the largest λ that leaves its "
        f"controls {LEAST_KEPT:.0%} of theirs on validation data: {shares}"
    )


def negation_hurts(negated: pd.DataFrame) -> dict[str, Any]:
    """Return the verdict on a negated task vector raising its task's error.

    Parameters
    ----------
    negated
        One row per target, seed, tested task, part and coefficient: ``target``, ``seed``,
        ``task``, ``part``, ``coefficient``, ``kept``, ``gap``, ``predicted_gap``,
        ``chosen``.
    """
    claim = "Negating a task vector raises its task's error"
    source = "section 5.2, eq 24; Ilharco et al. 2023"
    at = negated_fully(negated)
    at = at[at["target"] == at["task"]].dropna(subset="gap")
    # a model whose best step is 0 did not move: its vector is zero, and there is nothing to negate
    still = (at["gap"] == 0) & (at["predicted_gap"] == 0)
    unmoved, at = int(still.sum()), at[~still]
    reached = sorted(set(at["coefficient"])) or [1.0]
    strengths = " or ".join(f"{value:g}" for value in reached)
    statistic = f"smallest rise over targets of the test MSE, mean over seeds, at λ = {strengths}"
    rule = "> 0 for every target (ours)"
    if at.empty:
        detail = "no task vector was negated, or none of them moved"
        return claim_row(claim, source, statistic, np.nan, rule, UNTESTED, detail)
    numbers = ["gap", "predicted_gap"]
    gaps = at.astype(dict.fromkeys(numbers, float)).groupby("target", sort=False)[numbers].mean()
    known = gaps[gaps["predicted_gap"].notna()]
    agree = int((np.sign(known["gap"]) == np.sign(known["predicted_gap"])).sum())
    by_target = ", ".join(
        f"{target} {row.gap:.3g} and {row.predicted_gap:.3g}" for target, row in gaps.iterrows()
    )
    detail = f"measured and predicted by target, in the linear regime: {by_target}; of the same "
    detail += f"sign: {agree} of {len(known)}"
    ratios = (known["gap"] / known["predicted_gap"])[known["predicted_gap"] != 0]
    if len(ratios):
        detail += f"; measured over predicted: {listed(ratios.to_dict())}"
    if unmoved:
        detail += f"; {unmoved} left out, whose fine-tuning did not move"
    return claim_row(
        claim,
        source,
        statistic,
        gaps["gap"].min(),
        rule,
        REPRODUCED if gaps["gap"].min() > 0 else FAILED,
        detail + _kept_as_chosen(negated),
    )


def stopping_order(
    stopping: pd.DataFrame, metrics: pd.DataFrame, seed: int, resamples: int
) -> dict[str, Any]:
    """Return the verdict on the theory's stopping ordering tasks as the hold-out's does.

    Parameters
    ----------
    stopping
        ``task``, ``n``, ``stopping_time``, ``eta``, one row per task and draw.
    metrics
        Fine-tuning metrics: ``task``, ``n``, ``seed``, ``best_step``,
        ``sum_learning_rate``; those at the size nearest to the kernel's n are used.
    seed, resamples
        Root seed, and number of bootstrap samples.
    """
    claim = "The tasks that theory trains longer are those that the hold-out trains longer"
    statistic = "Kendall τ of η at T̂_max and of the summed learning rate at the hold-out's stop"
    source = "sections 3.5 and 6.1, eqs 10-11"
    theory, holdout, steps, times = {}, {}, {}, {}
    for task, draws in stopping.groupby("task", sort=False):
        runs = of_task(metrics, task)
        runs = runs[runs["n"] == nearest_size(runs["n"], draws["n"].iloc[0])]
        sums = runs["sum_learning_rate"].dropna().to_numpy()
        if np.isfinite(draws["eta"]).all() and len(sums):
            theory[task], holdout[task] = draws["eta"].to_numpy(), sums
            times[task], steps[task] = draws["stopping_time"].mean(), runs["best_step"].mean()
    tasks = list(theory)
    if len(tasks) < LEAST_TASKS:
        detail = f"tasks with both stops: {len(tasks)}; an order needs {LEAST_TASKS} or more"
        return claim_row(claim, source, statistic, np.nan, ORDER_RULE, UNTESTED, detail)
    tau = kendall_tau(
        np.array([theory[t].mean() for t in tasks]), np.array([holdout[t].mean() for t in tasks])
    )
    share = np.nan
    if all(len(theory[t]) > 1 and len(holdout[t]) > 1 for t in tasks):
        share = share_in_agreement(
            _resampled(theory, tasks, seed, resamples, "draws"),
            _resampled(holdout, tasks, seed, resamples, "seeds"),
        )
    verdict, remark = _order_verdict(tau, share, "draws and two seeds")
    by_steps = kendall_tau(np.array(list(times.values())), np.array(list(steps.values())))
    numbers = ", ".join(f"{t} {theory[t].mean():.3g} and {holdout[t].mean():.3g}" for t in tasks)
    detail = f"{remark}; η and summed learning rate by task: {numbers}; τ of T̂_max and of the "
    detail += f"hold-out's best step {by_steps:.3g}"
    return claim_row(claim, source, statistic, tau, ORDER_RULE, verdict, detail)


def verdict_table(
    rates: pd.DataFrame,
    exponents: Mapping[str, np.ndarray],
    r_squared: Mapping[str, float],
    metrics: pd.DataFrame,
    stopping: pd.DataFrame,
    cosine: pd.DataFrame,
    merged: pd.DataFrame,
    negated: pd.DataFrame,
    theory: Sequence[dict[str, Any]],
    seed: int,
    resamples: int,
) -> pd.DataFrame:
    """Return the verdicts, one row per claim.

    Parameters
    ----------
    rates
        Table 1.
    exponents
        Task → decay exponents over all ranks, one per draw.
    r_squared
        Task → mean R² of those fits.
    metrics, stopping, cosine, merged, negated
        The tables of the chapters finetune, theory and taskvectors.
    theory
        Verdicts on the theory (:func:`ntktune.figures.theory_verdicts.theory_rows`).
    seed
        The study's root seed.
    resamples
        Bootstrap samples of draws and seeds.

    Returns
    -------
    DataFrame
        ``claim``, ``source``, ``statistic``, ``value``, ``threshold``, ``verdict``
        ("reproduced", "not reproduced", "not tested"), ``detail``.
    """
    by_task = rates.set_index("task")
    measured, needed = by_task["measured_exponent"].to_dict(), by_task["needed"].to_dict()
    rows = [power_law(r_squared)]
    for kind in PAPER_ORDERS:
        rows.append(faster_decay_faster_fall(kind, exponents, measured, metrics, seed, resamples))
        rows.append(faster_decay_fewer_samples(kind, exponents, needed, metrics, seed, resamples))
    rows.extend(paper_order(kind, exponents, seed, resamples) for kind in PAPER_ORDERS)
    rows += [
        error_falls(metrics),
        predicted_rate(rates),
        *nearly_orthogonal(cosine),
        merging_keeps(merged),
        negation_hurts(negated),
        stopping_order(stopping, metrics, seed, resamples),
        *theory,
    ]
    return pd.DataFrame(rows)
