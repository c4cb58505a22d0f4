"""The verdicts on choosing a model: Lin et al. 2024 (Lin24) and LENSLLM 2025 (Lens25).

``curves`` and ``scores`` are tables of :mod:`ntktune.figures.tables`, without rows where a study
has none; ``shared`` is task → mean share of labelled examples that two seeds have in common.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ntktune.figures.claims import Claim, Sample, judge, listed
from ntktune.figures.selected import (
    CANDIDATE,
    MEASURED,
    SIZE,
    by_seed,
    choosing,
    chosen,
    first_method,
    law_errors,
)

NOTHING = "no candidates were compared (selection.tasks)"
FEW_SIZES = "selection.sizes needs three or more"
DEPENDENT = "candidates share texts and tests, and some a backbone"
# fmt: off
CLAIMS = {
    "measured": Claim(
        "With F(Θ, t) of the NTK in place of D_l the rectified law predicts larger sizes better",
        "the NTK-based rectified law",
        "smallest gain over tasks: |log error| with D_l fitted less with F, mean over candidates",
        0, "≥", "the power law with a floor, |log error|", repeats="candidates", missing=NOTHING,
        paper="Lens25"),
    "law": Claim(
        "The rectified law predicts losses at larger sizes better than the power law",
        "table 2",
        "smallest gain over tasks: the power law's |log error| less its own, mean over candidates",
        0, "≥", "a line in log-log, |log error|", repeats="candidates", missing=NOTHING,
        paper="Lin24"),
    "small": Claim(
        "Losses at small sizes choose a better model than its size does",
        "table 1", "smallest gain over tasks: test score of AtS's choice less the largest model's",
        0, "≥", "a random choice, score lost", missing=NOTHING, paper="Lin24"),
    "scores": Claim(
        "A score without any training chooses a better model than its size does",
        "the literature on transferability",
        "smallest gain over tasks: test score of LogME's choice less the largest model's",
        0, "≥", "a random choice, score lost", missing=NOTHING, paper="You21"),
}
# fmt: on
Row = dict[str, Any]


def law_against(
    claim: str, law: str, other: str, control: str, errors: pd.DataFrame, tasks: Sequence[str]
) -> Row:
    """Return the verdict on a law predicting better than another; ``errors``: ``law_errors``."""
    units, controls = {}, {}
    for task in tasks:
        own = errors[errors["task"] == task]
        found = own.pivot_table(index=[*CANDIDATE, "sizes"], columns="law", values="error")
        if own.empty or law not in found:
            missing = "no F(Θ, t) was measured (selection.kernel_seeds)"
            units[task] = Sample(np.array([]), missing=FEW_SIZES if own.empty else missing)
            continue
        # numbers of sizes are no further candidates
        each = found.groupby(CANDIDATE, sort=False).mean()[[law, other, control]].dropna()
        gain = (each[other] - each[law]).to_numpy()
        units[task] = Sample(gain, (each[control] - each[law]).to_numpy())
        controls[task] = float(each[control].mean())
    known = sorted(set(errors["sizes"]))
    detail = f"fitted to {', '.join(map(str, known))} sizes; {DEPENDENT}" if known else ""
    return judge(CLAIMS[claim], units, listed(controls), detail)


def choice_against_size(
    claim: str,
    name: str,
    kernel: str,
    curves: pd.DataFrame,
    scores: pd.DataFrame,
    shared: Mapping[str, float],
) -> Row:
    """Return the verdict on a way to choose a candidate against the largest model."""
    units, controls = {}, {}
    for task in curves["task"].unique():
        own = first_method(curves, task)
        truth = by_seed(own[own["n"] == own["n"].max()], "score")
        ways = {
            (way.name, way.kernel): chosen(way.said.mean(axis=1).reindex(truth.index))
            for way in choosing(own, scores[scores["task"] == task])
        }
        picked, largest = ways.get((name, kernel)), ways[SIZE, ""]
        if picked is None or picked == largest:
            missing = FEW_SIZES if picked is None else "it chooses the largest model"
            units[task] = Sample(np.array([]), missing=missing)
            continue
        score = truth.loc[picked].mean()
        gain = score - truth.loc[largest].mean()
        units[task] = Sample(
            gain.to_numpy(), (score - truth.mean()).to_numpy(), shared.get(task, 0.0)
        )
        controls[task] = float((truth.mean(axis=1).max() - truth.mean()).mean())
    return judge(CLAIMS[claim], units, listed(controls))


def selection_rows(
    curves: pd.DataFrame, scores: pd.DataFrame, shared: Mapping[str, float]
) -> list[Row]:
    """Return the verdicts on choosing a model, a dict per claim; none if nothing was made."""
    if curves.empty:
        return []
    tasks = curves["task"].unique()
    firsts = [first_method(curves, task) for task in tasks]
    errors = law_errors(pd.concat(firsts, ignore_index=True), scores)
    if errors.empty:
        errors = pd.DataFrame(columns=["task", "law", "error", "sizes", *CANDIDATE])
    choice = (curves, scores, shared)
    return [
        law_against("measured", MEASURED, "rectified", "power", errors, tasks),
        law_against("law", "rectified", "power", "line", errors, tasks),
        choice_against_size("small", "AtS", "", *choice),
        choice_against_size("scores", "evidence", "head", *choice),
    ]
