"""Table 7: what the stopping time owes to the estimates of noise and radius."""

import pandas as pd


def sensitivity_table(sensitivity: pd.DataFrame) -> pd.DataFrame:
    """Return Table 7: one row per task and pair of estimates.

    Parameters
    ----------
    sensitivity
        One row per draw, estimates and factor: ``task``, ``draw``, ``sigma_source``,
        ``radius_source``, ``sigma_factor``, ``radius_factor``, ``sigma``, ``radius``,
        ``stopping_time``, ``eta``.

    Returns
    -------
    DataFrame
        ``task``, ``draws``, ``sigma_source``, ``radius_source``; medians over draws of
        ``sigma``, ``radius``, ``stopping_time`` and ``eta``, and of the stopping time with half
        and twice the noise, and half and twice the radius. Medians, since a draw whose
        noise seems to be next to nothing stops after millions of steps.
    """
    rows = []
    keys = ["task", "sigma_source", "radius_source"]
    for (task, sigma_source, radius_source), own in sensitivity.groupby(keys, sort=False):
        plain = own[(own["sigma_factor"] == 1) & (own["radius_factor"] == 1)]
        row = {
            "task": task,
            "draws": len(plain),
            "sigma_source": sigma_source,
            "radius_source": radius_source,
        }
        for column in ("sigma", "radius", "stopping_time", "eta"):
            row[column] = plain[column].median()
        for name, factor, label in (
            ("sigma", 0.5, "half_sigma"),
            ("sigma", 2.0, "twice_sigma"),
            ("radius", 0.5, "half_radius"),
            ("radius", 2.0, "twice_radius"),
        ):
            row[label] = own.loc[own[f"{name}_factor"] == factor, "stopping_time"].median()
        rows.append(row)
    return pd.DataFrame(rows)
