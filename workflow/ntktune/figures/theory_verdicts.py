"""The verdicts on what SR26 proves: stopping, ridge, linearisation, drift, width.

``rules`` and ``linear`` are tables 5 and 6 of each seed (:func:`by_seed`), without rows where a
study has none; ``untuned`` is the table ``baselines``; ``shared`` is task → mean share of labelled
examples that two seeds have in common. Other names are those of :mod:`ntktune.figures.tables`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from ntktune.figures.claims import (
    DID_NOT_MOVE,
    SIMULATED,
    UNMOVED,
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

LEAST_GAIN = 0.05  # of the loss at the start: less is no gain to have a share of
NOT_SAMPLED = "no kernel of a training sample and the test rows"
NOT_WATCHED = "no task was watched (theory.tasks)"
OF_WIDTHS = {
    "statistic": "slope of its logarithm on log N, of the start that keeps the claim least",
    "bound": -0.5,
    "control": "a quantity that does not change with the width, slope",
    "missing": "no networks were trained",
} | {"group": SIMULATED, "repeats": "networks", "units": "starts"}
Row = dict[str, Any]
Measured = tuple[dict[str, Sample], str, str]  # of a claim: units, the control's number, detail
# fmt: off
CLAIMS = {
    "hindsight": Claim(
        "In the kernel model the theory's stopping time is nearly as good as hindsight",
        "sections 3.5 and 6.1, eqs 10-11",
        "largest ratio of the test error at T̂_max to the lowest along the path",
        1.25, "≤", "never stopping, mean ratio", missing=NOT_SAMPLED),
    "ridge": Claim(
        "Early-stopped gradient descent is as good as kernel ridge regression",
        "eqs 27-28", "largest relative difference of their lowest test errors along the path",
        0.05, "≤", "never stopping, mean difference", missing=NOT_SAMPLED),
    "network at ridge": Claim(
        "The network at the ridge solution's weights predicts as ridge does",
        "eq 28", "largest ‖f_{θ_P+Δ̂} − f_ridge‖/‖f_ridge − f_P‖ over tasks, on test rows",
        0.1, "≤", "the pretrained network: 1 by definition", missing=NOT_WATCHED),
    "linear": Claim(
        "Fine-tuning stays near the network linearised at its pretrained weights",
        "Lemma 1, eq 14",
        "largest ‖f − f_lin‖/‖f − f_P‖ over tasks, test rows, at the hold-out's choice",
        0.1, "≤", "the pretrained network instead of the linearised one: 1 by definition",
        missing=NOT_WATCHED),
    "drift": Claim(
        "The kernel hardly changes while the network is fine-tuned",
        "eq 17", "largest ‖K_t − K_0‖/‖K_0‖ over tasks, operator norm, at the hold-out's choice",
        0.1, "≤", "no training, without drift or gain; share of the test loss that training took",
        missing=NOT_WATCHED),
    "gain": Claim(
        "The linearised network recovers more than half of fine-tuning's gain",
        "Lemma 1; Malladi et al. 2023",
        "smallest share over tasks of the test loss's fall that f_lin has too",
        0.5, "≥", "the pretrained network: 0 by definition", ours=False, missing=NOT_WATCHED),
    "kernel regression": Claim(
        "Regression with the kernel comes within 10 % of fine-tuning",
        "section 3; Malladi et al. 2023",
        "smallest ratio over tasks of kernel ridge's test score to fine-tuning's",
        0.9, "≥", "a linear probe, ratio to fine-tuning", ours=False,
        missing="no kernel predictions"),
    "own stop": Claim(
        "The theory's stopping time is that of the network's own gradient descent",
        "sections 3.5 and 6.1, eqs 10-11, 26",
        "largest factor over tasks between T̂_max and the hold-out's stop",
        2.0, "≤", "the last step, factor to the hold-out's stop", missing=NOT_WATCHED),
    "radius": Claim(
        "For eigenvalues k^−a the critical radius ε̂² falls as n^(−a/(a+1))",
        "eqs 11 and 30", "largest distance of the measured exponent from −a/(a+1), n from 10⁴",
        0.03, "≤", "n^(−1/2) whatever a is, largest distance", group=SIMULATED, units="exponents",
        ours=False, missing="it was not computed"),
    "width drift": Claim(
        "The kernel's drift falls at least as N^(−1/2) with the width",
        "eq 17", side="≤", ours=False, **OF_WIDTHS),
    "width linear_gap": Claim(
        "The linearisation error falls at least as N^(−1/2) with the width",
        "Lemma 1", side="≤", ours=False, **OF_WIDTHS),
    "width distance": Claim(
        "The distance from the start over √N falls as N^(−1/2) with the width",
        "eqs 14, 17-18", side="=", tolerance=0.15, **OF_WIDTHS),
}
# fmt: on


def by_seed(
    table: Callable[..., pd.DataFrame], first: pd.DataFrame, *others: pd.DataFrame
) -> pd.DataFrame:
    """Return a table of :mod:`~ntktune.figures.result_tables` made for each seed on its own."""
    found = [
        table(own, *(other[other["seed"] == seed] for other in others)).assign(seed=seed)
        for seed, own in first.groupby("seed")
    ]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _numbers(own: pd.DataFrame, *names: str) -> list[pd.Series]:
    return [own[name].astype(float) for name in names]


def _units(
    rows: pd.DataFrame,
    values: pd.Series,
    beyond: pd.Series,
    scale: Callable[[float], float] = float,
    missing: Any = "",
) -> dict[str, Sample]:
    """Return each task's :class:`Sample` over seeds; of each size where both are several.

    ``missing`` says per row why it has no value ("" if it has); a unit needs all of its rows.
    """
    several = rows["n"].nunique() > 1 and rows["seed"].nunique() > 1
    rows = rows.assign(value=values, beyond=beyond, missing=missing)
    units = {}
    for key, own in rows.groupby(["task", "n"] if several else ["task"], sort=False):
        means = own.groupby("seed")[["value", "beyond"]].mean()
        why = min(set(own["missing"]) - {""}, default="")
        name = ", n = ".join(map(str, key))
        units[name] = Sample(means["value"].to_numpy(), means["beyond"].to_numpy(), 0.0, scale, why)
    return units


def _worst_cell(rows: pd.DataFrame, values: pd.Series) -> str:
    """Return the largest of a column's values, with its task and size."""
    worst = rows.loc[values.idxmax()]
    return f"largest single one {values.max():.3g} ({worst['task']}, n = {worst['n']})"


def _means(linear: pd.DataFrame, column: str) -> str:
    return listed(linear.groupby("task", sort=False)[column].mean().astype(float).to_dict())


def _hindsight(rules: pd.DataFrame) -> Measured:
    errors = _numbers(rules, "theory_error", "never_error", "oracle_error")
    theory, never, oracle = (np.log(error) for error in errors)
    units = _units(rules, theory - oracle, never - theory, np.exp)
    ratio, without = (error / errors[2] for error in errors[:2])
    control = f"{np.exp(np.log(without).mean()):.3g}"
    control += f"; better than T̂_max in {int((without < ratio).sum())} of {len(rules)}"
    return units, control, _worst_cell(rules, ratio)


def _stopping_is_ridge(rules: pd.DataFrame) -> Measured:
    oracle, ridge, never = _numbers(rules, "oracle_error", "ridge_lowest", "never_error")
    apart, without = (ridge / oracle - 1).abs(), (never / oracle - 1).abs()
    detail = (
        f"{_worst_cell(rules, apart)}; predictions ‖f_t − f_ridge‖/‖f_t − f_0‖ where descent is "
        f"best: mean {rules['ridge_distance'].mean():.3g}"
    )
    return _units(rules, apart, without - apart), f"{without.mean():.3g}", detail


def _stands_still(linear: pd.DataFrame) -> np.ndarray:
    """Return why a training says nothing, per row: "" where it left its start."""
    return np.where(linear["adamw_distance"].astype(float) > 0, "", DID_NOT_MOVE)


def _logarithm(linear: pd.DataFrame, column: str) -> pd.Series:
    with np.errstate(divide="ignore"):
        return np.log(linear[column].astype(float))


def _network_at_ridge(linear: pd.DataFrame) -> Measured:
    gap = _logarithm(linear, "ridge_gap")
    errors = (_means(linear, f"{name}_error") for name in ("ridge_network", "ridge"))
    detail = "test errors of network: {}; of ridge: {}".format(*errors)
    return _units(linear, gap, -gap, np.exp), "", detail


def _stays_linear(linear: pd.DataFrame) -> Measured:
    gap = _logarithm(linear, "adamw_linear_gap")
    units = _units(linear, gap, -gap, np.exp, _stands_still(linear))
    return units, "", f"gradient descent: {_means(linear, 'descent_linear_gap')}"


def _kernel_stays(linear: pd.DataFrame) -> Measured:
    drift, (gain,) = _logarithm(linear, "adamw_drift"), _numbers(linear, "gain")
    units = _units(linear, drift, gain, np.exp, _stands_still(linear))
    detail = f"gradient descent: {_means(linear, 'descent_drift')}; alignment of K_t and K_0: "
    return units, _means(linear, "gain"), detail + _means(linear, "adamw_alignment")


def _linear_recovers(linear: pd.DataFrame) -> Measured:
    gain, share = _numbers(linear, "gain", "gain_recovered")
    lost = f"the test loss did not fall by {LEAST_GAIN:.0%}: no gain to recover"
    still = _stands_still(linear)
    missing = np.where((still == "") & ~(gain >= LEAST_GAIN), lost, still)
    units = _units(linear, share, share, missing=missing)
    return units, "", f"fall of the test loss: {_means(linear, 'gain')}"


def _score(rows: pd.DataFrame) -> pd.Series:
    """Return each seed's score in the task's metric, above what needs no learning."""
    return pd.Series(gains(rows).to_numpy(), rows["seed"])


def kernel_is_as_good(
    untuned: pd.DataFrame, metrics: pd.DataFrame, shared: Mapping[str, float]
) -> Row:
    """Return the verdict on kernel regression coming near fine-tuning."""
    claim, units, probes = CLAIMS["kernel regression"], {}, {}
    for task, own in untuned[untuned["method"] == "kernel-ridge"].groupby("task", sort=False):
        n = own["n"].max()
        runs, others = (t[(t["task"] == task) & (t["n"] == n)] for t in (metrics, untuned))
        kernel = _score(own[own["n"] == n])
        probe = _score(others[others["method"] == "linear-probe"])
        runs = runs[runs["seed"].isin(kernel.index)]
        if not learned(runs):
            units[task] = UNMOVED
            continue
        # fewer are trained on large samples
        seeds = [seed for seed in kernel.index if seed in set(runs["seed"])]
        tuned, kernel = (score[seeds].to_numpy() for score in (_score(runs), kernel))
        probe = probe.reindex(seeds).to_numpy() if len(probe) else None
        beyond = None if probe is None else kernel - probe
        units[task] = ratio_sample(kernel, tuned, claim.bound, beyond, shared.get(task, 0.0))
        if probe is not None and not units[task].missing:
            probes[task] = np.mean(probe) / np.mean(tuned)
    detail = "scores above what needs no learning, at the largest n that a kernel predicts"
    return judge(claim, units, listed(probes), detail)


def _step(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "–"


def _own_stop(linear: pd.DataFrame) -> Measured:
    steps = _numbers(linear, "theory", "network_holdout", "network_steps")
    theory, stop, last = (np.log(values.clip(lower=1)) for values in steps)
    apart, at_last = (theory - stop).abs(), last - stop
    # if the hold-out loss still fell at the last step, the stop is known as a lower bound only
    far = CLAIMS["own stop"].bound * linear["theory"].clip(lower=1)
    known = linear["network_turned"].astype(bool) | (linear["network_holdout"] > far)
    missing = np.where(known, "", "the hold-out loss still fell at the last step")
    of_tasks = ", ".join(
        f"{row.task} {row.theory:.3g} / {_step(row.operator_crossing)} / "
        f"{_step(row.operator_minimiser)} / {'' if row.network_turned else '≥ '}"
        f"{row.network_holdout:.3g}"
        for row in linear.itertuples()
    )
    detail = f"T̂_max / T̂_op in both forms / the hold-out's stop, in steps: {of_tasks}"
    units = _units(linear, apart, at_last - apart, np.exp, missing)
    return units, f"mean {np.exp(at_last.mean()):.3g}", detail


def radius_exponent(radii: pd.DataFrame) -> Row:
    """Return the verdict on the critical radius falling as n^(−a/(a+1)) for a known decay."""
    claim, power = CLAIMS["radius"], "computed without sampling"
    if radii.empty:
        return judge(claim, {}, power=power)
    other = float((radii["measured"] + 0.5).abs().max())
    apart = float((radii["measured"] - radii["predicted"]).abs().max())
    exact = Given(lambda _: Span(apart, apart, apart), apart < other)
    return judge(claim, {"all": exact}, f"{other:.3g}", power=power)


def width_slopes(slopes: pd.DataFrame) -> list[Row]:
    """Return the verdicts on drift, linearisation error and distance falling with the width."""

    def span(row: Any, level: float) -> Span:
        free, half = row.networks - 2, (row.high - row.low) / 2
        half *= stdtrit(free, (1 + level) / 2) / stdtrit(free, (1 + LEVEL) / 2)
        return Span(row.slope, row.slope - half, row.slope + half)

    found = []
    for quantity in ("drift", "linear_gap", "distance"):
        own = slopes[(slopes["quantity"] == quantity) & (slopes["phase"] != "pretraining")]
        units = {
            row.phase: Given(partial(span, row), row.high < 0, count=row.networks)
            for row in own.itertuples()
        }
        found.append(judge(CLAIMS[f"width {quantity}"], units, "0"))
    return found


def theory_rows(
    rules: pd.DataFrame,
    linear: pd.DataFrame,
    untuned: pd.DataFrame,
    metrics: pd.DataFrame,
    radii: pd.DataFrame,
    slopes: pd.DataFrame,
    shared: Mapping[str, float],
) -> list[Row]:
    """Return the verdicts on the theory, one dict per claim."""
    measured = {
        "hindsight": (_hindsight, rules),
        "own stop": (_own_stop, linear),
        "ridge": (_stopping_is_ridge, rules),
        "network at ridge": (_network_at_ridge, linear),
        "linear": (_stays_linear, linear),
        "drift": (_kernel_stays, linear),
        "gain": (_linear_recovers, linear),
    }
    rows = [
        judge(CLAIMS[name], *([{}] if table.empty else measure(table)))
        for name, (measure, table) in measured.items()
    ]
    rows += [kernel_is_as_good(untuned, metrics, shared), radius_exponent(radii)]
    return rows + width_slopes(slopes)
