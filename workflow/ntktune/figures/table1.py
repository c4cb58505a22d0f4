"""Table 1: the decay exponents, the rates they predict, and the rates that are measured."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ntktune.figures.measures import kinds
from ntktune.figures.needed import needed_size
from ntktune.figures.rates import measured_exponent
from ntktune.seeds import generator

# column → range of ranks that the decay is fitted over instead of 1..n
SENSITIVITY = {
    "exponent_2_to_n": "2..n",
    "exponent_1_to_half": "1..n/2",
    "exponent_middle": "n/10..9n/10",
}


def decay_table(
    summaries: Sequence[Mapping[str, Any]], metrics: pd.DataFrame, seed: int, resamples: int
) -> pd.DataFrame:
    """Return Table 1: one row per task.

    Parameters
    ----------
    summaries
        The spectrum's summaries, one per task.
    metrics
        Fine-tuning metrics, one row per task, size and seed.
    seed
        The study's root seed.
    resamples
        Bootstrap samples of the seeds, for the measured exponent's interval.

    Returns
    -------
    DataFrame
        ``task``, ``kind``, ``metric``; of the kernel ``n``, ``draws``, ``exponent`` a with
        ``_sd`` over draws and 95 % interval ``_low``, ``_high``, ``omega`` = a/2, ``r_squared``,
        the exponents over other ranges (SR26 eqs 29-32); ``predicted_rate`` a/(a+1) with
        interval (eq 30), no interval for one draw; and of the learning curve what
        :func:`ntktune.figures.rates.measured_exponent` and
        :func:`ntktune.figures.needed.needed_size` return.
    """
    kind, metric = kinds(metrics), kinds(metrics, "metric")
    rows = []
    for summary in summaries:
        task = summary["task"]
        exponent, rate = dict(summary["exponent"]), dict(summary["predicted_rate"])
        if summary["draws"] < 2:
            # resampling one draw gives an interval without width, which is no knowledge
            for interval in (exponent, rate):
                interval["low"] = interval["high"] = np.nan
        row = {
            "task": task,
            "kind": kind.get(task, ""),
            "metric": metric.get(task, ""),
            "n": summary["n"],
            "draws": summary["draws"],
            "exponent": exponent["mean"],
            "exponent_sd": exponent["sd"],
            "exponent_low": exponent["low"],
            "exponent_high": exponent["high"],
            "omega": exponent["mean"] / 2,
            "r_squared": summary["r_squared"]["mean"],
        }
        for column, ranks in SENSITIVITY.items():
            row[column] = summary["sensitivity"].get(ranks, {}).get("mean", np.nan)
        row |= {
            "predicted_rate": rate["mean"],
            "predicted_low": rate["low"],
            "predicted_high": rate["high"],
        }
        if task in kind:
            random = generator(seed, "figures.bootstrap", task)
            mine = metrics[metrics["task"] == task]
            row |= measured_exponent(mine, resamples, random)
            row |= needed_size(mine, resamples, generator(seed, "figures.bootstrap", task))
        else:
            row["reason"] = "the task was not fine-tuned"
        rows.append(row)
    return pd.DataFrame(rows)
