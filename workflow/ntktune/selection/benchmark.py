"""The benchmark of Lin et al. 2024 (arXiv 2402.02314): 30 models, 15 sizes, three data sets."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from ntktune.errors import UserError
from ntktune.selection.accept import (
    LEAST_KEPT,
    METHODS,
    Curves,
    correlation,
    relative_accuracy,
)
from ntktune.selection.laws import LAWS, LINE, RECTIFIED, VANILLA, fitted, predicted

FILES = {"FLAN": "flan", "WMT19": "wmt19", "GIGAWORD": "gigaword"}
DIVISORS = (8, 16, 32, 64, 128, 256, 512)  # a budget is all data over one of them
# Published, in percent, one per divisor: table 1 of the paper.
# fmt: off
PUBLISHED = {
    ("FLAN", "PearCorr"): (90.9, 73.1, 65.5, 61.1, 52.2, 50.5, 45.6),
    ("WMT19", "PearCorr"): (98.9, 97.0, 97.7, 86.0, 78.0, 73.4, 61.5),
    ("GIGAWORD", "PearCorr"): (98.9, 97.6, 96.9, 92.0, 91.1, 89.1, 91.0),
    ("FLAN", "RelAcc"): (93.6, 93.2, 93.2, 93.2, 85.3, 93.2, 93.2),
    ("WMT19", "RelAcc"): (99.1, 99.1, 99.6, 99.1, 99.1, 99.1, 99.1),
    ("GIGAWORD", "RelAcc"): (100.0, 91.4, 94.3, 100.0, 94.3, 94.3, 91.4),
}
# fmt: on
# Mean over 90 curves. The vanilla law's fits there minimise another loss (Huber's, δ = .001) than
# the rectified law's, from starts that were not kept.
PUBLISHED_ERRORS = {"rectified": 0.00797, "vanilla": 0.03643}
MEASURES = {"PearCorr": correlation, "RelAcc": relative_accuracy}


def read_curves(path: Path) -> tuple[pd.Index, Curves]:
    """Read one of the benchmark's files: models, and their losses.

    Columns are ``config name``, numbers of examples from 0 on, ``size`` (weights) and others.
    Raises UserError if the file is another.
    """
    try:
        table = pd.read_csv(path, index_col=0)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    sizes = [name for name in table.columns if str(name).isdecimal()]
    numbers = np.array([int(name) for name in sizes], float)
    losses = table[sizes].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    if len(sizes) < 3 or numbers[0] != 0 or not (np.diff(numbers) > 0).all():
        raise UserError(f"{path} has no columns 0, 200, 400 …, the numbers of examples, ascending")
    if np.sum(numbers[1:] <= numbers[-1] / DIVISORS[-1]) < LEAST_KEPT or len(table) < 2:
        raise UserError(
            f"{path} needs two models or more, and {LEAST_KEPT} sizes up to 1/{DIVISORS[-1]} of "
            f"the largest, which is {numbers[-1]:.0f}"
        )
    parameters = pd.to_numeric(table.get("size"), errors="coerce")
    above = [np.isfinite(found) & (found > 0) for found in (losses, np.asarray(parameters, float))]
    if not all(part.all() for part in above):
        raise UserError(
            f"{path} needs a loss above 0 in each column of a size, and the column size: each "
            "model's number of weights"
        )
    return table.index, Curves(losses[:, 0], numbers[1:], losses[:, 1:], parameters.to_numpy(float))


def printed(share: float) -> float:
    """Return a share in percent as the paper prints it: rounded to four digits, then to one."""
    return round(round(share, 4) * 100, 1)


def read_benchmark(folder: Path) -> dict[str, tuple[pd.Index, Curves]]:
    """Read the benchmark's files in a folder: data set → models and curves.

    The names of the files end in flan.csv, wmt19.csv and gigaword.csv.
    """
    found = {}
    for name, end in FILES.items():
        files = sorted(folder.glob(f"*{end}.csv"))
        if len(files) != 1:
            raise UserError(f"{folder} has {len(files)} files *{end}.csv; it must have one")
        found[name] = read_curves(files[0])
    return found


def selected(curves: Mapping[str, tuple[pd.Index, Curves]]) -> pd.DataFrame:
    """Return how well each method selects: a row per data set, budget, method and measure.

    The budget is all data over ``divisor``. ``value`` is in percent, ``published`` the paper's, of
    AtS; ``examples`` is the largest size that the budget allows; ``cost`` the examples that the
    method trains each model on, over those of all data, which training each model once would take.
    """
    rows = []
    for name, (_, known) in curves.items():
        true, full = known.losses[:, -1], known.sizes[-1]
        for place, divisor in enumerate(DIVISORS):
            part = known.up_to(full / divisor)
            for method, score in METHODS.items():
                found = score(part, full)
                used = {"AtS": part.sizes.sum(), "SubTuning": part.sizes[-1]}.get(method, 0.0)
                for measure, value in MEASURES.items():
                    row = {"data": name, "divisor": divisor, "examples": part.sizes[-1]}
                    row |= {"method": method, "measure": measure}
                    row |= {"value": 100 * value(found, true), "cost": used / full}
                    published = PUBLISHED.get((name, measure)) if method == "AtS" else None
                    rows.append(row | {"published": published[place] if published else np.nan})
    return pd.DataFrame(rows)


def law_errors(curves: Mapping[str, tuple[pd.Index, Curves]]) -> pd.DataFrame:
    """Return the root mean squared error of log L of two laws, fitted to all sizes above 0."""
    rows = []
    for name, (models, known) in curves.items():
        for law in (RECTIFIED, VANILLA):
            errors = fitted(law, known.sizes, known.losses).rmsd
            named = zip(models, errors, strict=True)
            rows += [{"data": name, "law": law.name, "model": m, "rmsd": e} for m, e in named]
    return pd.DataFrame(rows)


def extrapolated(curves: Mapping[str, tuple[pd.Index, Curves]]) -> pd.DataFrame:
    """Return how far each law is off the loss with all data, fitted to what a budget allows.

    A row per data set, budget and law, AtS and the line through the three largest sizes among them:
    ``error``, the mean |log L̂ − log L| over models; ``correlation`` of L̂ and L over them; and
    ``covered``, the share of models whose loss lies in the law's 95 % interval.
    """
    rows = []
    for name, (_, known) in curves.items():
        true, full = known.losses[:, -1], known.sizes[-1]
        for divisor in DIVISORS:
            part = known.up_to(full / divisor)
            fits = {law.name: fitted(law, part.sizes, part.losses) for law in LAWS.values()}
            fits["last three"] = fitted(LINE, part.sizes[-3:], part.losses[:, -3:])
            found = {
                law: [end[:, 0] for end in predicted(fit, [full])] for law, fit in fits.items()
            }
            ats = METHODS["AtS"](part, full)
            found["AtS"] = [ats, np.full_like(ats, np.nan), np.full_like(ats, np.nan)]
            for law, (value, low, high) in found.items():
                covered = (
                    np.mean((low < true) & (true < high)) if np.isfinite(low).any() else np.nan
                )
                rows.append({"data": name, "divisor": divisor, "law": law})
                rows[-1] |= {"error": np.mean(np.abs(np.log(value / true))), "covered": covered}
                rows[-1] |= {"correlation": correlation(value, true)}
    return pd.DataFrame(rows)
