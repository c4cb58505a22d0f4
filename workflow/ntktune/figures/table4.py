"""Table 4: the test scores of every task and sample size."""

import pandas as pd

SCORES = {
    "regression": ("mse", "mse_unit", "baseline_mse", "noise_variance", "pearson", "spearman"),
    "classification": ("accuracy", "f1", "cross_entropy", "baseline_accuracy", "baseline_f1"),
}


def score_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return Table 4: one row per task and size.

    Parameters
    ----------
    metrics
        Fine-tuning metrics, one row per task, size and seed.

    Returns
    -------
    DataFrame
        ``task``, ``kind``, ``metric`` (which is the task's score), ``n``, ``seeds`` (which, as
        "0 1 2"), and of each metric its mean and ``_sd`` over seeds (NaN with one seed): ``mse``
        in squared score units, ``mse_unit`` on scores rescaled to [0, 1], ``pearson``,
        ``spearman``, the error of the training mean, the variance of the labels' noise;
        ``accuracy``, ``f1``, ``cross_entropy``, and the training majority's accuracy and F1 score.
    """
    names = [name for some in SCORES.values() for name in some]
    rows = []
    for (task, n), runs in metrics.groupby(["task", "n"], sort=False, dropna=False):
        row = {
            "task": task,
            "kind": runs["kind"].iloc[0],
            "metric": runs["metric"].iloc[0],
            "n": n,
            "seeds": " ".join(str(seed) for seed in sorted(runs["seed"])),
        }
        for name in names:
            row[name] = runs[name].mean()
            row[f"{name}_sd"] = runs[name].std()
        rows.append(row)
    return pd.DataFrame(rows)
