"""Decay over the independent draws of one task."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ntktune.intervals import mean_interval
from ntktune.spectrum import decay

MAIN_RANGE = "1..n"
FIT_COLUMNS = [
    *("draw", "range", "first", "last"),
    *("exponent", "intercept", "stderr", "r_squared", "exponential", "dropped"),
]


def eigenvalue_table(spectra: Sequence[np.ndarray], centred: Sequence[np.ndarray]) -> pd.DataFrame:
    """Return the eigenvalues (N,) of D draws' kernels, plain and centred, as a table."""
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
    """Return the fit of every draw over every range of ranks, with :data:`FIT_COLUMNS`.

    ``spectra`` are each draw's eigenvalues, descending, (N,); ``precision`` is the kernels' eps
    (:func:`ntktune.spectrum.decay.noise_level`). A sensitivity range with fewer than three usable
    values has NaN for numbers; UserError if that happens to the whole range of a draw.
    """
    rows = []
    for draw, values in enumerate(spectra):
        floor = decay.noise_level(values, precision)
        for name, (first, last) in decay.rank_ranges(len(values)).items():
            noise = values[first - 1 : last] <= floor
            fit = {"first": first, "last": last, "dropped": int(noise.sum())}
            if (~noise).sum() >= decay.LEAST_VALUES or name == MAIN_RANGE:
                fit = dataclasses.asdict(decay.decay_exponent(values, first, last, floor))
            rows.append({"draw": draw, "range": name} | fit)
    return pd.DataFrame(rows, columns=FIT_COLUMNS)


def _number(value: float) -> float | None:
    """Return a number for JSON, which knows no NaN."""
    return float(value) if math.isfinite(value) else None


def spectrum_summary(
    spectra: Sequence[np.ndarray], fits: pd.DataFrame, precision: float, shared: float
) -> dict[str, Any]:
    """Return a task's decay over its draws, as written to ``summary.json``.

    ``fits`` comes from :func:`fitted_ranges`, of the same ``spectra`` and ``precision``;
    ``shared`` is the mean share of rows that two draws have in common. ``sd`` is a sample's; low
    and high are the 95 % interval of the mean; both are None for one draw. ``noise_floor`` is the
    highest of the draws', ``dropped`` counts over all draws.
    """
    whole = fits["range"] == MAIN_RANGE
    main, others = fits[whole], fits[~whole].groupby("range", sort=False)["exponent"]
    mean = float(main["exponent"].to_numpy().mean())
    low, high = map(_number, mean_interval(main["exponent"].to_numpy(), shared))
    interval = {"low": low, "high": high}
    rates = {k: v if v is None else decay.predicted_rate(max(v, 0.0)) for k, v in interval.items()}
    return {
        "n": len(spectra[0]),
        "draws": len(spectra),
        "shared": shared,
        "noise_floor": max(decay.noise_level(values, precision) for values in spectra),
        "exponent": {
            "mean": mean,
            "sd": _number(main["exponent"].std()),
            **interval,
            "stderr_mean": float(main["stderr"].mean()),
        },
        "r_squared": main["r_squared"].agg(["mean", "min"]).to_dict(),
        "intercept": float(main["intercept"].mean()),
        "predicted_rate": {"mean": decay.predicted_rate(mean), **rates},
        "sensitivity": {
            name: {"mean": _number(part.mean()), "sd": _number(part.std())} for name, part in others
        },
        "dropped": int(main["dropped"].sum()),
    }
