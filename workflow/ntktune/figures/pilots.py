"""How far pilots' predictions are off: of kernels' errors, and of fine-tunings' scores.

``benchmark`` and ``metrics`` are tables of :mod:`ntktune.figures.tables`; ``compared`` are further
methods' metrics.
"""

import pandas as pd

from ntktune.advise.benchmark import (
    CALIBRATED,
    OURS,
    asked_for,
    asked_for_gain,
    paired,
    score_cases,
)
from ntktune.errors import UserError

KERNEL = "kernel"  # the truth that is no training's
# Columns that a terminal has room for: what they say.
SHOWN = {
    "pilot": "the most labels that a way to predict knows scores of",
    "way": "",
    "off": "mean |relative error| of scores, or of losses if the file has these, beyond the pilot",
    "wasted": "labels asked for beyond those that a measured score took, as a share of these",
    "missed": "score that is lost where too few are asked for",
    "octaves": "median doublings between labels asked for and those that were needed, where the "
    "score rises steeply",
    "gain_octaves": "the same for 95 % of what the largest sample gains",
    "gain_within_two": "share of these that are right within a factor of two",
}


def kernel_errors(benchmark: pd.DataFrame) -> pd.DataFrame:
    """Return predictions of the kernel's error beyond the pilot, with ``off``, |relative error|.

    ``covered`` is whether the interval has the truth.
    """
    own = benchmark[(benchmark["kernel"] == "all") & (benchmark["n"] > benchmark["pilot"])]
    own = own[own["true"].notna()]
    inside = own["error_low"].le(own["true"]) & own["true"].le(own["error_high"])
    covered = inside.astype(float).where(own["error_low"].notna())
    off = (own["error"] / own["true"] - 1).abs()
    return own.assign(truth=KERNEL, off=off, covered=covered)


def training_cases(
    benchmark: pd.DataFrame, metrics: pd.DataFrame, compared: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return :func:`~ntktune.advise.benchmark.score_cases` of all tasks and methods.

    A method's ``truth`` is its name.
    """
    trained = metrics if compared is None else pd.concat([metrics, compared], ignore_index=True)
    regression = trained["kind"] == "regression"  # a kernel predicts these scores, whatever metric
    trained = trained.assign(score=trained["pearson"].where(regression, trained["accuracy"]))
    found = []
    for (task, method), own in trained.groupby(["task", "method"], sort=False):
        kernel = "head" if method == "probe" else "all"
        rows = benchmark[(benchmark["task"] == task) & (benchmark["way"] == OURS)]
        cases = score_cases(
            rows[rows["kernel"] == kernel], own, classes=own["kind"].iloc[0] != "regression"
        )
        found.append(cases.assign(task=task, truth=method))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def judged(
    benchmark: pd.DataFrame, metrics: pd.DataFrame, compared: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return what became of predictions, a row per truth, pilot and way to predict.

    The kernel's own error comes first, then each method's test score (:func:`judged_scores`).
    ``off`` is the mean |relative error| over tasks; ``above`` by how much it is above the kernel's
    (of trainings, the calibrated kernel's), with a 95 % interval over tasks. Raises UserError if
    there are no predictions.
    """
    kernels, cases = kernel_errors(benchmark), training_cases(benchmark, metrics, compared)
    parts = [_summary(kernels, OURS).assign(truth=KERNEL)] if len(kernels) else []
    for truth, own in cases.groupby("truth", sort=False) if len(cases) else ():
        parts.append(judged_scores(own, CALIBRATED).assign(truth=truth))
    if not parts:
        raise UserError(
            "no pilot is judged: no sample of finetune.sizes is larger than a pilot, and "
            "three quarters of kernel.rows are less than twice that; give smaller advise.pilots"
        )
    found = pd.concat(parts, ignore_index=True)
    return found[["truth", *found.columns.drop("truth")]]


def judged_scores(cases: pd.DataFrame, against: str) -> pd.DataFrame:
    """Return what became of predictions of scores, a row per pilot and way to predict.

    ``cases`` are of :func:`training_cases`; ``above`` is above the way ``against``. ``missed``,
    ``wasted``, ``octaves`` and so on are what comes of asking for as many examples as a score
    takes, those with ``gain_`` for 95 % of what the largest n gains.
    """
    every = asked_for(cases)
    if "low" in every:
        inside = every["low"].le(every["true"]) & every["true"].le(every["high"])
        every["covered"] = inside.astype(float).where(every["low"].notna())
    found = _summary(every, against)
    steep = every[every["steep"]].rename(columns={"n": "needs"})
    found = found.merge(_regrets(every), how="left").merge(_octaves(steep), how="left")
    gain = asked_for_gain(cases)
    if gain.empty:
        return found
    both = _regrets(gain).merge(_octaves(gain))
    named = {name: f"gain_{name}" for name in both.columns.drop(["pilot", "way"])}
    return found.merge(both.rename(columns=named), how="outer", sort=False).astype({"pilot": int})


def _summary(every: pd.DataFrame, against: str) -> pd.DataFrame:
    """Return how far predictions are off, and the share of intervals with the truth, by way."""
    rows = []
    for pilot, own in every.groupby("pilot"):
        table = paired(own, "off", against)
        for way, some in own.groupby("way", sort=False):
            row = {"pilot": int(pilot), "way": way, "tasks": table["tasks"][way]}
            row |= {"off": table["mean"][way], "above": table["above"][way]}
            row |= {"above_low": table["low"][way], "above_high": table["high"][way]}
            rows.append(row | ({"covered": some["covered"].mean()} if "covered" in some else {}))
    return pd.DataFrame(rows)


def _regrets(asked: pd.DataFrame) -> pd.DataFrame:
    """Return what is missed and wasted, and how often no number is asked for: means over tasks."""
    values = ["missed", "wasted", "never"]
    by_task = asked.groupby(["pilot", "way", "task"], sort=False)[values].mean()
    return by_task.groupby(["pilot", "way"], sort=False).mean().reset_index()


def _octaves(asked: pd.DataFrame) -> pd.DataFrame:
    """Return how many numbers are asked for, the median of doublings off, share within a factor 2.

    ``cases`` counts the true numbers, which pilots of one size share.
    """
    known = [name for name in ("model", "task", "needs") if name in asked]
    asked = asked.assign(near=asked["octaves"].le(1), case=asked.groupby(known).ngroup())
    by_way = asked.groupby(["pilot", "way"], sort=False)
    found = {"cases": by_way["case"].nunique(), "octaves": by_way["octaves"].median()}
    return pd.DataFrame(found | {"within_two": by_way["near"].mean()}).reset_index()
