"""The verdicts on what SR26 proves: stopping, ridge, linearisation, drift, width."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from ntktune.figures.claims import FAILED, REPRODUCED, UNTESTED, claim_row, listed
from ntktune.figures.measures import gains

MOST_OVER_HINDSIGHT = 1.25
MOST_APART = 0.05
MOST_GAP = 0.1
MOST_DRIFT = 0.1
LEAST_RECOVERED = 0.5
LEAST_KERNEL_SHARE = 0.9
MOST_TIMES_APART = 2.0
MOST_EXPONENT_APART = 0.03
MOST_UNCERTAIN = 0.15
# for a bound, and for an exact power
WIDTH_RULES = (
    "each start's 95 % interval at or below −1/2; not reproduced if one lies above",
    f"each start's 95 % interval holds −1/2, half its width {MOST_UNCERTAIN} at most (ours)",
)


def _judged(
    claim: str,
    source: str,
    statistic: str,
    values: Mapping[str, float],
    worst: Callable,
    threshold: str,
    holds: Callable[[float], bool],
    detail: str,
    missing: str,
) -> dict[str, Any]:
    """Return the verdict on a claim that must hold for every task.

    Parameters
    ----------
    values
        Task → its value; NaN where it has none.
    worst
        ``max`` or ``min``: which value is the statistic.
    holds
        Whether the claim holds for that value.
    detail
        What follows the tasks' values.
    missing
        The detail where no task has a value.
    """
    known = {task: value for task, value in values.items() if np.isfinite(value)}
    if not known:
        return claim_row(claim, source, statistic, np.nan, threshold, UNTESTED, missing)
    value = worst(known.values())
    verdict = REPRODUCED if holds(value) else FAILED
    rest = f"; not known: {', '.join(t for t in values if t not in known)}"
    return claim_row(
        claim,
        source,
        statistic,
        value,
        threshold,
        verdict,
        f"by task: {listed(known)}" + (rest if len(known) < len(values) else "") + detail,
    )


def _at_most(bound: float) -> tuple[Callable, str, Callable[[float], bool]]:
    """Return ``worst``, ``threshold`` and ``holds`` of :func:`_judged` for a bound of ours."""
    return max, f"≤ {bound:g} (ours)", lambda value: value <= bound


def _largest(table: pd.DataFrame) -> pd.DataFrame:
    """Return each task's row of the largest n, by task."""
    return (
        table.sort_values("n", kind="stable").drop_duplicates("task", keep="last").set_index("task")
    )


def _by_task(values: pd.Series) -> dict[str, float]:
    """Return task → value of a column of a table with the index ``task``."""
    return values.astype(float).to_dict()


def stopping_is_near_hindsight(rules: pd.DataFrame) -> dict[str, Any]:
    """Return the verdict on the theory's stop being nearly as good as the best one.

    Parameters
    ----------
    rules
        Table 5.
    """
    own = _largest(rules)
    ratios = {
        rule: own[f"{rule}_error"] / own["oracle_error"] for rule in ("theory", "holdout", "sure")
    }
    others = "; mean ratio of the hold-out {:.3g}, of SURE {:.3g}".format(
        ratios["holdout"].mean(), ratios["sure"].mean()
    )
    return _judged(
        "In the kernel model the theory's stopping time is nearly as good as hindsight",
        "sections 3.5 and 6.1, eqs 10-11",
        "largest ratio over tasks of the test error at T̂_max to the lowest along the path",
        _by_task(ratios["theory"]),
        *_at_most(MOST_OVER_HINDSIGHT),
        others,
        "no kernel of a training sample and the test rows",
    )


def stopping_is_ridge(rules: pd.DataFrame) -> dict[str, Any]:
    """Return the verdict on early stopping doing what a ridge penalty does.

    Parameters
    ----------
    rules
        Table 5.
    """
    own = _largest(rules)
    return _judged(
        "Early-stopped gradient descent is as good as kernel ridge regression",
        "eqs 27-28",
        "largest relative difference over tasks of their lowest test errors along the path",
        _by_task((own["ridge_lowest"] / own["oracle_error"] - 1).abs()),
        *_at_most(MOST_APART),
        "; ‖f_t − f_ridge‖/‖f_t − f_0‖ with λ = 1/η_t where descent is at its best: "
        + listed(_by_task(own["ridge_distance"])),
        "no kernel of a training sample and the test rows",
    )


def network_at_ridge(linear: pd.DataFrame) -> dict[str, Any]:
    """Return the verdict on the network at θ_P + Δ̂ being the ridge prediction (table 6)."""
    own = linear.set_index("task")
    errors = "; test errors of network and ridge: " + ", ".join(
        f"{task} {row.ridge_network_error:.3g} and {row.ridge_error:.3g}"
        for task, row in own.iterrows()
    )
    return _judged(
        "The network at the ridge solution's weights predicts as ridge does",
        "eq 28",
        "largest ‖f_{θ_P+Δ̂} − f_ridge‖/‖f_ridge − f_P‖ over tasks, on test rows",
        _by_task(own["ridge_gap"]),
        *_at_most(MOST_GAP),
        errors,
        "no task was watched (theory.tasks)",
    )


def stays_linear(linear: pd.DataFrame) -> dict[str, Any]:
    """Return the verdict on fine-tuning staying near its linearisation (table 6)."""
    own = linear.set_index("task")
    plain = _by_task(own["descent_linear_gap"])
    return _judged(
        "Fine-tuning stays near the network linearised at its pretrained weights",
        "Lemma 1, eq 14",
        "largest ‖f − f_lin‖/‖f − f_P‖ over tasks, on test rows, at the hold-out's choice",
        _by_task(own["adamw_linear_gap"]),
        *_at_most(MOST_GAP),
        "; with gradient descent instead of AdamW: " + listed(plain),
        "no task was watched, or no training moved before the hold-out stopped it",
    )


def kernel_stays(linear: pd.DataFrame) -> dict[str, Any]:
    """Return the verdict on the kernel hardly changing along fine-tuning (table 6)."""
    own = linear.set_index("task")
    more = "; with gradient descent: " + listed(_by_task(own["descent_drift"]))
    more += "; alignment of K_t and K_0: " + listed(_by_task(own["adamw_alignment"]))
    return _judged(
        "The kernel hardly changes while the network is fine-tuned",
        "eq 17",
        "largest ‖K_t − K_0‖/‖K_0‖ over tasks, operator norm, at the hold-out's choice",
        _by_task(own["adamw_drift"]),
        *_at_most(MOST_DRIFT),
        more,
        "no task was watched (theory.tasks)",
    )


def linear_recovers(linear: pd.DataFrame) -> dict[str, Any]:
    """Return the verdict on the linearised network having most of fine-tuning's gain (table 6)."""
    own = linear.set_index("task")
    return _judged(
        "The linearised network recovers more than half of fine-tuning's gain",
        "Lemma 1; Malladi et al. 2023",
        "smallest share over tasks of the test loss's fall that f_lin has too",
        _by_task(own["gain_recovered"]),
        min,
        f"> {LEAST_RECOVERED}",
        lambda value: value > LEAST_RECOVERED,
        "",
        "no watched task has a smaller test loss after fine-tuning",
    )


def kernel_is_as_good(untuned: pd.DataFrame, metrics: pd.DataFrame) -> dict[str, Any]:
    """Return the verdict on kernel regression coming near fine-tuning.

    Parameters
    ----------
    untuned
        Predictions without fine-tuning: ``task``, ``kind``, ``method``, ``n``, ``seed``,
        ``pearson``, ``accuracy``, ``baseline_accuracy``.
    metrics
        Fine-tuning's, the same columns but ``method``.
    """
    ridge = untuned[untuned["method"] == "kernel-ridge"] if len(untuned) else untuned
    shares = {}
    for task, own in ridge.groupby("task", sort=False):
        n = own["n"].max()
        kernel = own[own["n"] == n]
        tuned = metrics[
            (metrics["task"] == task) & (metrics["n"] == n) & metrics["seed"].isin(kernel["seed"])
        ]
        reached = gains(tuned).mean()
        shares[task] = gains(kernel).mean() / reached if reached > 0 else np.nan
    return _judged(
        "Regression with the kernel comes within 10 % of fine-tuning",
        "section 3; Malladi et al. 2023",
        "smallest ratio over tasks of kernel ridge's test score to fine-tuning's, same samples",
        shares,
        min,
        f"≥ {LEAST_KERNEL_SHARE}",
        lambda value: value >= LEAST_KERNEL_SHARE,
        " (Pearson correlations, and accuracies above the majority's, at the largest n that a "
        "kernel predicts)",
        "no kernel predictions, or no score above 0",
    )


def _step(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "–"


def networks_own_stop(linear: pd.DataFrame) -> dict[str, Any]:
    """Return the verdict on the network's gradient descent stopping when theory says (table 6)."""
    own = linear.set_index("task")
    turned = own["network_turned"].astype(bool)
    theory = own["theory"].astype(float).clip(lower=1)
    network = own["network_holdout"].astype(float).clip(lower=1)
    ratio = np.maximum(theory, network) / np.minimum(theory, network)
    # a training that ended while its hold-out loss fell says how late the stop is at least
    known = turned | (network > MOST_TIMES_APART * theory)
    steps = "; T̂_max, T̂_op in both forms (– where the drift is not known so far) and the "
    steps += "hold-out's stop, in steps: " + ", ".join(
        f"{task} {row.theory:.3g}, {_step(row.operator_crossing)} and "
        f"{_step(row.operator_minimiser)}, "
        f"{'' if row.network_turned else '≥ '}{row.network_holdout:.3g}"
        for task, row in own.iterrows()
    )
    return _judged(
        "The theory's stopping time is that of the network's own gradient descent",
        "sections 3.5 and 6.1, eqs 10-11, 26",
        "largest factor over tasks between T̂_max and the hold-out's stop",
        _by_task(ratio.where(known)),
        *_at_most(MOST_TIMES_APART),
        steps,
        "no task was watched, or every hold-out loss still fell at the last step" + steps,
    )


def radius_exponent(radii: pd.DataFrame) -> dict[str, Any]:
    """Return the verdict on the critical radius falling as n^(−a/(a+1)) for a known decay.

    Parameters
    ----------
    radii
        ``decay``, ``predicted``, ``measured``.
    """
    apart = (radii["measured"] - radii["predicted"]).abs().max() if len(radii) else np.nan
    numbers = ", ".join(
        f"a = {r.decay:g}: {r.measured:.3f} ({r.predicted:.3f})" for r in radii.itertuples()
    )
    return claim_row(
        "For eigenvalues k^−a the critical radius ε̂² falls as n^(−a/(a+1))",
        "eqs 11 and 30",
        "largest distance of the measured exponent from −a/(a+1), n from 10⁴",
        apart,
        f"≤ {MOST_EXPONENT_APART}",
        UNTESTED if np.isnan(apart) else REPRODUCED if apart <= MOST_EXPONENT_APART else FAILED,
        f"measured (predicted): {numbers}" if numbers else "it was not computed",
    )


def _width_verdict(own: pd.DataFrame, *, exactly: bool) -> str:
    """Return the verdict on slopes over fine-tuning's starts; see :data:`WIDTH_RULES`."""
    if exactly:
        wide = (own["high"] - own["low"]) / 2 > MOST_UNCERTAIN
        holds = (own["low"] <= -0.5) & (own["high"] >= -0.5)
        if not holds.all():
            return FAILED
        return UNTESTED if wide.any() else REPRODUCED
    if (own["low"] > -0.5).any():
        return FAILED
    return REPRODUCED if (own["high"] <= -0.5).all() else UNTESTED


def width_slopes(slopes: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the verdicts on drift, linearisation error and distance falling with the width.

    Parameters
    ----------
    slopes
        ``phase``, ``quantity``, ``slope``, ``low``, ``high``, ``networks``.
    """
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
    statistic = "flattest slope of its logarithm on log N, over fine-tuning's two starts"
    found = []
    for quantity, (claim, source) in claims.items():
        own = slopes[slopes["quantity"] == quantity]
        tuned = own[own["phase"] != "pretraining"]
        rule = WIDTH_RULES[quantity == "distance"]
        if tuned.empty:
            row = (np.nan, rule, UNTESTED, "no networks were trained")
        else:
            verdict = _width_verdict(tuned, exactly=quantity == "distance")
            numbers = ", ".join(
                f"{r.phase} {r.slope:.2f} [{r.low:.2f}, {r.high:.2f}]" for r in own.itertuples()
            )
            detail = f"slopes: {numbers}; networks per slope: {own['networks'].iloc[0]}"
            if verdict == UNTESTED:
                detail = f"too uncertain for a verdict; {detail}"
            row = (tuned["slope"].max(), rule, verdict, detail)
        found.append(claim_row(claim, source, statistic, *row))
    return found


def theory_rows(
    rules: pd.DataFrame,
    linear: pd.DataFrame,
    untuned: pd.DataFrame,
    metrics: pd.DataFrame,
    radii: pd.DataFrame,
    slopes: pd.DataFrame,
) -> list[dict[str, Any]]:
    """Return the verdicts on the theory, one dict per claim.

    Parameters
    ----------
    rules, linear
        Tables 5 and 6; without rows where a study has none of it.
    untuned, metrics
        See :func:`kernel_is_as_good`.
    radii, slopes
        See :func:`radius_exponent` and :func:`width_slopes`.
    """
    return [
        radius_exponent(radii),
        stopping_is_near_hindsight(rules),
        networks_own_stop(linear),
        stopping_is_ridge(rules),
        network_at_ridge(linear),
        stays_linear(linear),
        kernel_stays(linear),
        linear_recovers(linear),
        kernel_is_as_good(untuned, metrics),
        *width_slopes(slopes),
    ]
