"""The verdicts on what SR26 proves: stopping, ridge, linearisation, drift, width.

``rules`` and ``linear`` are tables 5 and 6 of each seed (:func:`by_seed`), without rows where a
study has none; ``untuned`` is the table ``baselines``; ``shared`` is task → mean share of labelled
examples that two seeds have in common. Other names are those of :mod:`ntktune.figures.tables`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from ntktune.figures.claims import (
    SIMULATED,
    STILL,
    Claim,
    Given,
    Sample,
    Span,
    judge,
    listed,
    ratio_sample,
)
from ntktune.figures.measures import gains, learned
from ntktune.intervals import LEVEL

MOST_OVER_HINDSIGHT = 1.25
MOST_APART = 0.05
MOST_GAP = 0.1
MOST_DRIFT = 0.1
LEAST_RECOVERED = 0.5
LEAST_GAIN = 0.05  # of the loss at the start: less is no gain to have a share of
LEAST_KERNEL_SHARE = 0.9
MOST_TIMES_APART = 2.0
MOST_EXPONENT_APART = 0.03
MOST_UNCERTAIN = 0.15
NOT_SAMPLED = "no kernel of a training sample and the test rows"
NOT_WATCHED = "no task was watched (theory.tasks)"


def by_seed(
    table: Callable[..., pd.DataFrame], first: pd.DataFrame, *others: pd.DataFrame
) -> pd.DataFrame:
    """Return what a table would be for each seed on its own, with the column ``seed``.

    Parameters
    ----------
    table
        :func:`~ntktune.figures.result_tables.rules_table` or
        :func:`~ntktune.figures.result_tables.linear_table`.
    first, others
        Its arguments, each with the column ``seed``; without rows where a study has none.
    """
    found = [
        table(own, *(other[other["seed"] == seed] for other in others)).assign(seed=seed)
        for seed, own in first.groupby("seed")
    ]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _units(rows: pd.DataFrame, made: Callable[[pd.DataFrame], Sample]) -> dict[str, Sample]:
    """Return the unit of each task; of each task and size where those have two seeds or more."""
    if rows.empty:
        return {}
    sizes = rows["n"].nunique() > 1 and rows["seed"].nunique() > 1
    if sizes:
        groups = rows.groupby(["task", "n"], sort=False)
        return {f"{task}, n = {n}": made(own) for (task, n), own in groups}
    return {task: made(own) for task, own in rows.groupby("task", sort=False)}


def _worst_cell(rows: pd.DataFrame, values: pd.Series) -> str:
    """Return the largest of a column's values, with its task and size."""
    worst = rows.loc[values.idxmax()]
    return f"largest single one {values.max():.3g} ({worst['task']}, n = {worst['n']})"


def _numbers(own: pd.DataFrame, *names: str) -> list[np.ndarray]:
    return [own[name].to_numpy(dtype=float) for name in names]


def _seed_means(own: pd.DataFrame, values: np.ndarray) -> np.ndarray:
    """Return the mean over sizes of a value, per seed."""
    return pd.Series(values).groupby(own["seed"].to_numpy()).mean().to_numpy()


def stopping_is_near_hindsight(rules: pd.DataFrame) -> dict[str, Any]:
    """Return the verdict on the theory's stop being nearly as good as the best one."""
    claim = Claim(
        claim="In the kernel model the theory's stopping time is nearly as good as hindsight",
        source="sections 3.5 and 6.1, eqs 10-11",
        statistic="largest ratio of the test error at T̂_max to the lowest along the path",
        bound=MOST_OVER_HINDSIGHT,
        side="≤",
        control="never stopping, mean ratio",
    )

    def made(own: pd.DataFrame) -> Sample:
        theory, oracle, never = (np.log(values) for values in _numbers(own, *columns))
        return Sample(
            _seed_means(own, theory - oracle), _seed_means(own, never - theory), scale=np.exp
        )

    columns = ("theory_error", "oracle_error", "never_error")
    control = detail = ""
    if len(rules):
        ratio = {name: rules[name] / rules["oracle_error"] for name in columns}
        better = int((ratio["never_error"] < ratio["theory_error"]).sum())
        control = f"{np.exp(np.log(ratio['never_error']).mean()):.3g}"
        control += f"; better than T̂_max in {better} of {len(rules)}"
        detail = _worst_cell(rules, ratio["theory_error"])
    return judge(claim, _units(rules, made), control, detail, missing=NOT_SAMPLED)


def stopping_is_ridge(rules: pd.DataFrame) -> dict[str, Any]:
    """Return the verdict on early stopping doing what a ridge penalty does."""
    claim = Claim(
        claim="Early-stopped gradient descent is as good as kernel ridge regression",
        source="eqs 27-28",
        statistic="largest relative difference of their lowest test errors along the path",
        bound=MOST_APART,
        side="≤",
        control="never stopping, mean difference",
    )

    def made(own: pd.DataFrame) -> Sample:
        oracle, ridge, never = _numbers(own, "oracle_error", "ridge_lowest", "never_error")
        apart = np.abs(ridge / oracle - 1)
        return Sample(_seed_means(own, apart), _seed_means(own, np.abs(never / oracle - 1) - apart))

    control = detail = ""
    if len(rules):
        control = f"{(rules['never_error'] / rules['oracle_error'] - 1).abs().mean():.3g}"
        detail = _worst_cell(rules, (rules["ridge_lowest"] / rules["oracle_error"] - 1).abs())
        detail += "; predictions ‖f_t − f_ridge‖/‖f_t − f_0‖ where descent is best: mean "
        detail += f"{rules['ridge_distance'].mean():.3g}"
    return judge(claim, _units(rules, made), control, detail, missing=NOT_SAMPLED)


def _moved(own: pd.DataFrame, method: str) -> str:
    """Return why trainings say nothing: "" where all of them left their start."""
    return "" if (own[f"{method}_distance"].astype(float) > 0).all() else STILL


def _means(linear: pd.DataFrame, column: str) -> str:
    """Return a column's means by task."""
    return listed(linear.groupby("task", sort=False)[column].mean().astype(float).to_dict())


def _gap(
    claim: Claim, linear: pd.DataFrame, column: str, method: str | None, detail: str
) -> dict[str, Any]:
    """Return the verdict on a distance relative to how far the network went being small."""

    def made(own: pd.DataFrame) -> Sample:
        (gap,) = _numbers(own, column)
        gone = _moved(own, method) if method else ""
        with np.errstate(divide="ignore"):
            return Sample(np.log(gap), -np.log(gap), scale=np.exp, missing=gone)

    control = "1 by definition"
    return judge(claim, _units(linear, made), control, detail, missing=NOT_WATCHED)


def network_at_ridge(linear: pd.DataFrame) -> dict[str, Any]:
    """Return the verdict on the network at θ_P + Δ̂ being the ridge prediction."""
    claim = Claim(
        claim="The network at the ridge solution's weights predicts as ridge does",
        source="eq 28",
        statistic="largest ‖f_{θ_P+Δ̂} − f_ridge‖/‖f_ridge − f_P‖ over tasks, on test rows",
        bound=MOST_GAP,
        side="≤",
        control="the pretrained network",
    )
    detail = ""
    if len(linear):
        errors = (_means(linear, f"{name}_error") for name in ("ridge_network", "ridge"))
        detail = "test errors of network: {}; of ridge: {}".format(*errors)
    return _gap(claim, linear, "ridge_gap", None, detail)


def stays_linear(linear: pd.DataFrame) -> dict[str, Any]:
    """Return the verdict on fine-tuning staying near its linearisation."""
    claim = Claim(
        claim="Fine-tuning stays near the network linearised at its pretrained weights",
        source="Lemma 1, eq 14",
        statistic="largest ‖f − f_lin‖/‖f − f_P‖ over tasks, test rows, at the hold-out's choice",
        bound=MOST_GAP,
        side="≤",
        control="the pretrained network instead of the linearised one",
    )
    detail = f"gradient descent: {_means(linear, 'descent_linear_gap')}" if len(linear) else ""
    return _gap(claim, linear, "adamw_linear_gap", "adamw", detail)


def kernel_stays(linear: pd.DataFrame) -> dict[str, Any]:
    """Return the verdict on the kernel hardly changing along fine-tuning.

    Without training the kernel does not change either, so the test loss must have fallen.
    """
    claim = Claim(
        claim="The kernel hardly changes while the network is fine-tuned",
        source="eq 17",
        statistic="largest ‖K_t − K_0‖/‖K_0‖ over tasks, operator norm, at the hold-out's choice",
        bound=MOST_DRIFT,
        side="≤",
        control="no training, without drift or gain; share of the test loss that training took",
    )

    def made(own: pd.DataFrame) -> Sample:
        drift, gain = _numbers(own, "adamw_drift", "gain")
        with np.errstate(divide="ignore"):
            return Sample(np.log(drift), gain, scale=np.exp, missing=_moved(own, "adamw"))

    control = detail = ""
    if len(linear):
        control = _means(linear, "gain")
        detail = f"gradient descent: {_means(linear, 'descent_drift')}; alignment of K_t and K_0: "
        detail += _means(linear, "adamw_alignment")
    return judge(claim, _units(linear, made), control, detail, missing=NOT_WATCHED)


def linear_recovers(linear: pd.DataFrame) -> dict[str, Any]:
    """Return the verdict on the linearised network having most of fine-tuning's gain."""
    claim = Claim(
        claim="The linearised network recovers more than half of fine-tuning's gain",
        source="Lemma 1; Malladi et al. 2023",
        statistic="smallest share over tasks of the test loss's fall that f_lin has too",
        bound=LEAST_RECOVERED,
        side="≥",
        control="the pretrained network",
        ours=False,
    )

    def made(own: pd.DataFrame) -> Sample:
        gain, share = _numbers(own, "gain", "gain_recovered")
        if _moved(own, "adamw"):
            return Sample(np.array([]), missing=STILL)
        if not (gain >= LEAST_GAIN).all():
            lost = f"the test loss did not fall by {LEAST_GAIN:.0%}: no gain to recover"
            return Sample(np.array([]), missing=lost)
        return Sample(share, share)

    detail = f"fall of the test loss: {_means(linear, 'gain')}" if len(linear) else ""
    return judge(claim, _units(linear, made), "0 by definition", detail, missing=NOT_WATCHED)


def _score(rows: pd.DataFrame) -> pd.Series:
    """Return each seed's score in the task's metric, above what needs no learning."""
    return pd.Series(gains(rows).to_numpy(), rows["seed"])


def kernel_is_as_good(
    untuned: pd.DataFrame, metrics: pd.DataFrame, shared: Mapping[str, float]
) -> dict[str, Any]:
    """Return the verdict on kernel regression coming near fine-tuning."""
    claim = Claim(
        claim="Regression with the kernel comes within 10 % of fine-tuning",
        source="section 3; Malladi et al. 2023",
        statistic="smallest ratio over tasks of kernel ridge's test score to fine-tuning's",
        bound=LEAST_KERNEL_SHARE,
        side="≥",
        control="a linear probe, ratio to fine-tuning",
        ours=False,
    )
    units, probes = {}, {}
    ridge = untuned[untuned["method"] == "kernel-ridge"] if len(untuned) else untuned
    for task, own in ridge.groupby("task", sort=False):
        n = own["n"].max()
        kernel = _score(own[own["n"] == n])
        runs = metrics[(metrics["task"] == task) & (metrics["n"] == n)]
        runs = runs[runs["seed"].isin(kernel.index)]
        tuned = _score(runs).loc[kernel.index].to_numpy()
        if not learned(runs):
            units[task] = Sample(np.array([]), missing=STILL)
            continue
        named = (untuned["task"] == task) & (untuned["method"] == "probe") & (untuned["n"] == n)
        probe = _score(untuned[named]).reindex(kernel.index).to_numpy() if named.any() else None
        kernel = kernel.to_numpy()
        beyond = None if probe is None else kernel - probe
        units[task] = ratio_sample(kernel, tuned, LEAST_KERNEL_SHARE, beyond, shared.get(task, 0.0))
        if probe is not None and not units[task].missing:
            probes[task] = np.mean(probe) / np.mean(tuned)
    detail = "scores above what needs no learning, at the largest n that a kernel predicts"
    return judge(claim, units, listed(probes), detail, missing="no kernel predictions")


def _step(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "–"


def networks_own_stop(linear: pd.DataFrame) -> dict[str, Any]:
    """Return the verdict on the network's gradient descent stopping when theory says."""
    claim = Claim(
        claim="The theory's stopping time is that of the network's own gradient descent",
        source="sections 3.5 and 6.1, eqs 10-11, 26",
        statistic="largest factor over tasks between T̂_max and the hold-out's stop",
        bound=MOST_TIMES_APART,
        side="≤",
        control="the last step, factor to the hold-out's stop",
    )

    def factors(own: pd.DataFrame) -> list[np.ndarray]:
        names = ("theory", "network_holdout", "network_steps")
        theory, stop, last = (np.log(np.clip(v, 1, None)) for v in _numbers(own, *names))
        return [np.abs(theory - stop), last - stop]

    def made(own: pd.DataFrame) -> Sample:
        apart, at_last = factors(own)
        # if the hold-out loss still fell at the last step, the stop is known as a lower bound only
        known = own["network_turned"].astype(bool) | (
            own["network_holdout"] > MOST_TIMES_APART * own["theory"].clip(lower=1)
        )
        lost = "" if known.all() else "the hold-out loss still fell at the last step"
        return Sample(apart, at_last - apart, scale=np.exp, missing=lost)

    control = detail = ""
    if len(linear):
        control = f"mean {np.exp(factors(linear)[1].mean()):.3g}"
        steps = ", ".join(
            f"{row.task} {row.theory:.3g} / {_step(row.operator_crossing)} / "
            f"{_step(row.operator_minimiser)} / {'' if row.network_turned else '≥ '}"
            f"{row.network_holdout:.3g}"
            for row in linear.itertuples()
        )
        detail = f"T̂_max / T̂_op in both forms / the hold-out's stop, in steps: {steps}"
    return judge(claim, _units(linear, made), control, detail, missing=NOT_WATCHED)


def radius_exponent(radii: pd.DataFrame) -> dict[str, Any]:
    """Return the verdict on the critical radius falling as n^(−a/(a+1)) for a known decay."""
    claim = Claim(
        claim="For eigenvalues k^−a the critical radius ε̂² falls as n^(−a/(a+1))",
        source="eqs 11 and 30",
        statistic="largest distance of the measured exponent from −a/(a+1), n from 10⁴",
        bound=MOST_EXPONENT_APART,
        side="≤",
        control="n^(−1/2) whatever a is, largest distance",
        group=SIMULATED,
        units="exponents",
        ours=False,
    )
    units, control = {}, ""
    if len(radii):
        other = float((radii["measured"] + 0.5).abs().max())
        apart = float((radii["measured"] - radii["predicted"]).abs().max())
        exact = Span(apart, apart, apart)
        units = {"all": Given(lambda _: exact, apart < other)}
        control = f"{other:.3g}"
    power = "computed without sampling"
    return judge(claim, units, control, power=power, missing="it was not computed")


def width_slopes(slopes: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the verdicts on drift, linearisation error and distance falling with the width."""
    claims = {
        "drift": ("The kernel's drift falls at least as N^(−1/2) with the width", "eq 17"),
        "linear_gap": (
            "The linearisation error falls at least as N^(−1/2) with the width",
            "Lemma 1",
        ),
        "distance": (
            "The distance from the start over √N falls as N^(−1/2) with the width",
            "eqs 14, 17-18",
        ),
    }
    found = []
    for quantity, (text, source) in claims.items():
        claim = Claim(
            claim=text,
            source=source,
            statistic="slope of its logarithm on log N, of the start that keeps the claim least",
            bound=-0.5,
            side="=" if quantity == "distance" else "≤",
            tolerance=MOST_UNCERTAIN,
            control="a quantity that does not change with the width, slope",
            group=SIMULATED,
            repeats="networks",
            units="starts",
            ours=quantity == "distance",
        )
        units = {}
        own = slopes[(slopes["quantity"] == quantity) & (slopes["phase"] != "pretraining")]
        for row in own.itertuples():

            def span(level: float, row=row) -> Span:
                free, half = row.networks - 2, (row.high - row.low) / 2
                half *= stdtrit(free, (1 + level) / 2) / stdtrit(free, (1 + LEVEL) / 2)
                return Span(row.slope, row.slope - half, row.slope + half)

            units[row.phase] = Given(span, row.high < 0, count=row.networks)
        found.append(judge(claim, units, "0", missing="no networks were trained"))
    return found


def theory_rows(
    rules: pd.DataFrame,
    linear: pd.DataFrame,
    untuned: pd.DataFrame,
    metrics: pd.DataFrame,
    radii: pd.DataFrame,
    slopes: pd.DataFrame,
    shared: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Return the verdicts on the theory, one dict per claim."""
    return [
        stopping_is_near_hindsight(rules),
        networks_own_stop(linear),
        stopping_is_ridge(rules),
        network_at_ridge(linear),
        stays_linear(linear),
        kernel_stays(linear),
        linear_recovers(linear),
        kernel_is_as_good(untuned, metrics, shared),
        radius_exponent(radii),
        *width_slopes(slopes),
    ]
