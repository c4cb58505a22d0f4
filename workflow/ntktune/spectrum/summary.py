"""Decay over the independent draws of one task."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ntktune.intervals import mean_interval
from ntktune.spectrum.decay import (
    LEAST_VALUES,
    decay_exponent,
    noise_level,
    predicted_rate,
    rank_ranges,
)

MAIN_RANGE = "1..n"


def eigenvalue_table(spectra: Sequence[np.ndarray], centred: Sequence[np.ndarray]) -> pd.DataFrame:
    """Return the eigenvalues of D draws, each (N,), and those of the centred kernels, as a table.

    Its columns are ``draw``, ``k``, ``eigenvalue`` and ``centred``.
    """
    count = len(spectra[0])
    return pd.DataFrame(
        {
            "draw": np.repeat(np.arange(len(spectra)), count),
            "k": np.tile(np.arange(1, count + 1), len(spectra)),
            "eigenvalue": np.concatenate(spectra),
            "centred": np.concatenate(centred),
        }
    )


def fitted_ranges(spectra: Sequence[np.ndarray], precision: float) -> pd.DataFrame:
    """Return the fit of every draw over every range of ranks.

    Parameters
    ----------
    spectra
        The eigenvalues of each draw, descending, shape (N,) each.
    precision
        eps of the precision in which the kernels were computed: values at or below
        N·eps·λ_1 are dropped.

    Returns
    -------
    DataFrame
        Columns draw, range, first, last, exponent, intercept, stderr, r_squared, exponential,
        dropped.
        Of a sensitivity range with fewer than three usable values the numbers are NaN.

    Raises
    ------
    UserError
        A draw has fewer than three usable values over the whole range.
    """
    rows = []
    for draw, values in enumerate(spectra):
        floor = noise_level(values, precision)
        for name, (first, last) in rank_ranges(len(values)).items():
            part = values[first - 1 : last]
            usable = int((part > floor).sum())
            row = {"draw": draw, "range": name}
            if usable >= LEAST_VALUES or name == MAIN_RANGE:
                row |= dataclasses.asdict(decay_exponent(values, first, last, floor))
            else:
                row |= {"first": first, "last": last, "dropped": len(part) - usable}
            rows.append(row)
    columns = [
        *("draw", "range", "first", "last"),
        *("exponent", "intercept", "stderr", "r_squared", "exponential", "dropped"),
    ]
    return pd.DataFrame(rows, columns=columns)


def _number(value: float) -> float | None:
    """Return a number for JSON, which knows no NaN."""
    return float(value) if math.isfinite(value) else None


def spectrum_summary(
    spectra: Sequence[np.ndarray],
    fits: pd.DataFrame,
    precision: float,
    shared: float,
) -> dict[str, Any]:
    """Return what a task's decay is, over its draws.

    Parameters
    ----------
    spectra, precision
        As for :func:`fitted_ranges`.
    fits
        Its result.
    shared
        Mean share of rows that two draws have in common.

    Returns
    -------
    dict
        n, draws, shared, noise_floor (the highest of the draws'), exponent {mean, sd, low,
        high, stderr_mean}, r_squared {mean, min}, intercept (mean), predicted_rate {mean, low,
        high}, sensitivity {range: {mean, sd}}, dropped (over all draws). Standard
        deviations are those of a sample (divided by draws − 1); low and high are the 95 %
        interval of :func:`ntktune.intervals.mean_interval`. None for one draw.
    """
    main = fits[fits["range"] == MAIN_RANGE]
    exponent = main["exponent"].to_numpy()
    mean = float(exponent.mean())
    ends = zip(("low", "high"), map(_number, mean_interval(exponent, shared)), strict=True)
    interval = dict(ends)
    others = fits[fits["range"] != MAIN_RANGE].groupby("range", sort=False)["exponent"]
    return {
        "n": len(spectra[0]),
        "draws": len(spectra),
        "shared": shared,
        "noise_floor": max(noise_level(values, precision) for values in spectra),
        "exponent": {
            "mean": mean,
            "sd": _number(main["exponent"].std()),
            **interval,
            "stderr_mean": float(main["stderr"].mean()),
        },
        "r_squared": {
            "mean": float(main["r_squared"].mean()),
            "min": float(main["r_squared"].min()),
        },
        "intercept": float(main["intercept"].mean()),
        "predicted_rate": {
            "mean": predicted_rate(mean),
            **{
                end: value if value is None else predicted_rate(max(value, 0.0))
                for end, value in interval.items()
            },
        },
        "sensitivity": {
            name: {"mean": _number(part.mean()), "sd": _number(part.std())} for name, part in others
        },
        "dropped": int(main["dropped"].sum()),
    }
