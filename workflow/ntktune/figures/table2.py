"""Table 2: when the theory stops, beside when the hold-out stops."""

import numpy as np
import pandas as pd

from ntktune.figures.measures import nearest_size, of_task


def _sd(values: pd.Series) -> float:
    """Return the standard deviation; NaN for one value, or for one that is not finite."""
    return float(values.std()) if np.isfinite(values).all() else float("nan")


def stopping_table(stopping: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    """Return Table 2: one row per task.

    Parameters
    ----------
    stopping
        One row per task and draw: ``task``, ``draw``, ``n``, ``sigma``, ``sigma_source``,
        ``radius``, ``radius_source``, ``step_size``, ``critical_radius``,
        ``stopping_time``, ``eta``.
    metrics
        Fine-tuning metrics: ``task``, ``n``, ``seed``, ``best_step``,
        ``sum_learning_rate``.

    Returns
    -------
    DataFrame
        Means over draws of noise ``sigma``, ``radius`` C_H, ``step_size`` and
        ``critical_radius`` ε̂_n; ``stopping_time`` T̂_max and ``eta`` η, its sum of step
        sizes, mean and sd over draws (SR26 eqs 10-11, section 6.1; RWY14); then, at the
        sample size of the grid nearest to the kernel's n (``holdout_n``), the
        ``best_step`` on the hold-out and the sum of learning rates up to it, mean and sd
        over seeds. NaN for an sd of one value.

    Raises
    ------
    UserError
        A task that was not fine-tuned.
    """
    rows = []
    for task, draws in stopping.groupby("task", sort=False):
        runs = of_task(metrics, task)
        size = nearest_size(runs["n"], draws["n"].iloc[0])
        runs = runs[runs["n"] == size]
        rows.append(
            {
                "task": task,
                "n": draws["n"].iloc[0],
                "draws": len(draws),
                "sigma": draws["sigma"].mean(),
                "sigma_source": " or ".join(sorted(set(draws["sigma_source"]))),
                "radius": draws["radius"].mean(),
                "radius_source": draws["radius_source"].iloc[0],
                "step_size": draws["step_size"].mean(),
                "critical_radius": draws["critical_radius"].mean(),
                "stopping_time": draws["stopping_time"].mean(),
                "stopping_time_sd": _sd(draws["stopping_time"]),
                "eta": draws["eta"].mean(),
                "eta_sd": _sd(draws["eta"]),
                "holdout_n": size,
                "seeds": len(runs),
                "best_step": runs["best_step"].mean(),
                "best_step_sd": _sd(runs["best_step"]),
                "sum_learning_rate": runs["sum_learning_rate"].mean(),
                "sum_learning_rate_sd": _sd(runs["sum_learning_rate"]),
            }
        )
    return pd.DataFrame(rows)
