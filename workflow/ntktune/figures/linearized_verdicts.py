"""The verdicts on Afzal et al. 2026 (Afz26): penalties that keep linear, layers by spectrum.

``held``, ``sets`` and ``tuned`` are tables of :mod:`ntktune.figures.tables`, without rows where a
study has none; ``shared`` is task → mean share of labelled examples that two seeds have in common.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from ntktune.figures.choice import scores, set_order
from ntktune.figures.claims import DID_NOT_MOVE, Claim, Given, Sample, Span, judge, listed

LEAST_SETS = 12  # for an order
NOT_HELD = "no training was held (linearized.held)"
AFZ26 = {"paper": "Afz26"}
# fmt: off
CLAIMS = {
    "condition": Claim(
        "The better conditioned the kernel of a set of layers, the better it is fine-tuned",
        "condition number of the NTK against performance",
        "smallest Kendall τ over tasks of −κ at the start and the test score of sets of layers",
        0, "≥", "the number of trained weights, τ", missing="no sets of layers were trained",
        **AFZ26),
    "linear": Claim(
        "A penalty on the distance from the pretrained weights keeps fine-tuning linear",
        "eq 8", "largest ‖f − f_lin‖/‖f − f_P‖ over tasks, test rows, at the largest penalty",
        0.1, "≤", "plain fine-tuning, ‖f − f_lin‖/‖f − f_P‖", missing=NOT_HELD, **AFZ26),
    "distance": Claim(
        "Penalised fine-tuning stays within √(2R(θ_P)/λ) of the pretrained weights",
        "objective of eq 8", "largest distance over its bound, over tasks and penalties",
        1, "≤", "the penalty only where the loss pulls back, ratio", ours=False, missing=NOT_HELD,
        **AFZ26),
}
# fmt: on
OTHERS = ("gcv", "gcv_layers", "evidence", "alignment")  # told beside the condition number
Row = dict[str, Any]


def condition_orders(sets: pd.DataFrame, tuned: pd.DataFrame, shared: Mapping[str, float]) -> Row:
    """Return the verdict on the condition number telling how well layers fine-tune."""
    units, controls, others = {}, {}, {}
    scored = tuned.assign(score=scores(tuned)).merge(sets, on=["task", "layers"])
    for task, own in scored.groupby("task", sort=False):
        if own["layers"].nunique() < LEAST_SETS:
            units[task] = Sample(np.array([]), missing=f"fewer than {LEAST_SETS} sets of layers")
            continue
        seeds = [rows for _, rows in own.groupby("seed")]
        found = {
            name: np.array([set_order(rows, name) for rows in seeds])
            for name in ("condition", "parameters", *OTHERS)
        }
        if not np.isfinite(found["condition"]).all():
            units[task] = Sample(np.array([]), missing="the condition numbers are all alike")
            continue
        beyond = found["condition"] - found["parameters"]
        own_seeds = Sample(found["condition"], beyond, shared.get(task, 0.0))
        span = partial(_order_span, own_seeds, own["layers"].nunique())
        units[task] = Given(span, own_seeds.better, len(seeds))
        controls[task] = found["parameters"].mean()
        for name in OTHERS:
            others.setdefault(name, {})[task] = found[name].mean()
    detail = "; ".join(f"τ of {name}: {listed(values)}" for name, values in others.items())
    return judge(CLAIMS["condition"], units, listed(controls), detail)


def _order_span(seeds: Sample, sets: int, level: float) -> Span:
    """Return the mean τ over seeds, and its interval over seeds or over sets, whichever is wider.

    All seeds have one condition number per set, so they cannot tell whether another choice of sets
    would have another order: of N unrelated numbers τ has the variance 2(2N + 5)/(9N(N − 1)).
    """
    found = seeds.span(level)
    half = ndtri((1 + level) / 2) * math.sqrt(2 * (2 * sets + 5) / (9 * sets * (sets - 1)))
    half = max(half, np.nan_to_num(found.high - found.value))
    return Span(found.value, found.value - half, found.value + half)


def penalty_linear(held: pd.DataFrame, shared: Mapping[str, float]) -> Row:
    """Return the verdict on the largest penalty keeping fine-tuning linear."""
    units, plain, cost = {}, {}, {}
    best = held[held["best"].astype(bool)]
    for task, own in best.groupby("task", sort=False):
        every = own[~own["selective"].astype(bool)].set_index("seed")
        first = every[every["share"] == 0]
        last = every[every["share"] == every["share"].max()].loc[first.index]
        gaps, without = (rows["linear_gap"].to_numpy(float) for rows in (last, first))
        missing = "" if np.isfinite(gaps).all() else DID_NOT_MOVE
        units[task] = Sample(gaps, without - gaps, shared.get(task, 0.0), missing=missing)
        plain[task] = np.nanmean(without) if np.isfinite(without).any() else np.nan
        cost[task] = float(last["error"].mean() - first["error"].mean())
    detail = f"test error less that of plain fine-tuning: {listed(cost)}" if cost else ""
    return judge(CLAIMS["linear"], units, listed(plain), detail)


def penalty_distance(held: pd.DataFrame, shared: Mapping[str, float]) -> Row:
    """Return the verdict on the bound on the distance."""
    units, selective = {}, {}
    for task, own in held[held["share"] > 0].groupby("task", sort=False):
        ratio = own["distance"] / own["bound"]
        is_selective = own["selective"].astype(bool)
        most = ratio[~is_selective].groupby(own["seed"]).max()
        other = ratio[is_selective].groupby(own["seed"]).max()
        beyond = (other - most).to_numpy()
        units[task] = Sample(most.to_numpy(), beyond, shared.get(task, 0.0))
        selective[task] = other.mean()
    return judge(CLAIMS["distance"], units, listed(selective))


def linearized_rows(
    held: pd.DataFrame, sets: pd.DataFrame, tuned: pd.DataFrame, shared: Mapping[str, float]
) -> list[Row]:
    """Return the verdicts on Afzal et al. 2026, a dict per claim; none if nothing was made."""
    if held.empty and tuned.empty:
        return []
    return [
        condition_orders(sets, tuned, shared),
        penalty_linear(held, shared),
        penalty_distance(held, shared),
    ]
