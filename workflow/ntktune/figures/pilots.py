"""How far pilots' predictions are off: of kernels' errors, and of fine-tunings' scores.

``benchmark`` and ``metrics`` are tables of :mod:`ntktune.figures.tables`; ``compared`` are further
methods' metrics.
"""

import numpy as np
import pandas as pd

from ntktune.advise.benchmark import CALIBRATED, OURS, asked_for, paired, score_cases
from ntktune.errors import UserError

KERNEL = "kernel"  # the truth that is no training's


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


def score_errors(
    benchmark: pd.DataFrame, metrics: pd.DataFrame, compared: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return the predictions of trainings' scores beyond the pilot, with ``off`` and ``covered``.

    And what :func:`~ntktune.advise.benchmark.asked_for` adds. A method's ``truth`` is its name.
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
        if len(cases):
            found.append(asked_for(cases).assign(task=task, truth=method))
    if not found:
        return pd.DataFrame()
    every = pd.concat(found, ignore_index=True)
    inside = every["low"].le(every["true"]) & every["true"].le(every["high"])
    off = (every["predicted"] / every["true"] - 1).abs()
    return every.assign(off=off, covered=inside.astype(float).where(every["low"].notna()))


def all_errors(
    benchmark: pd.DataFrame, metrics: pd.DataFrame, compared: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return the predictions of kernels and of trainings, the kernel's first.

    Raises UserError if there are none.
    """
    parts = [kernel_errors(benchmark), score_errors(benchmark, metrics, compared)]
    if not any(map(len, parts)):
        raise UserError(
            "no pilot is judged: no sample of finetune.sizes is larger than a pilot, and "
            "three quarters of kernel.rows are less than twice that; give smaller advise.pilots"
        )
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def judged(every: pd.DataFrame) -> pd.DataFrame:
    """Return what became of predictions, a row per truth, pilot and way to predict.

    ``off`` is the mean |relative error| over tasks; ``above`` by how much it is above the kernel's
    (of trainings, the calibrated kernel's), with a 95 % interval over tasks.
    """
    rows = []
    for (truth, pilot), own in every.groupby(["truth", "pilot"], sort=False):
        table = paired(own, "off", OURS if truth == KERNEL else CALIBRATED)
        for way, some in own.groupby("way", sort=False):
            row = {"truth": truth, "pilot": int(pilot), "way": way, "tasks": table["tasks"][way]}
            row |= {"off": table["mean"][way], "above": table["above"][way]}
            row |= {"above_low": table["low"][way], "above_high": table["high"][way]}
            row["covered"] = some["covered"].mean()
            if "asked" in some and some["asked"].notna().any():
                by_task = some.groupby("task")[["missed", "wasted", "never"]].mean()
                row |= by_task.mean().to_dict()
                steep = some[some["steep"].astype(bool)]
                octaves = np.log2(steep["asked"] / steep["n"]).abs()
                row |= {"steep": len(steep), "octaves": octaves.median()}
                row["within_two"] = octaves.le(1).mean() if len(steep) else np.nan
            rows.append(row)
    return pd.DataFrame(rows)
