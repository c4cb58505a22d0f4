"""Sample sizes from the data, for a study that names none."""

from __future__ import annotations

import numpy as np

from ntktune.data.sampling import class_pattern, holdout_pattern

FIRST, MOST = 16, 512  # smallest and largest sample that is chosen without being asked for


def training_labels(definition: dict, name: str) -> np.ndarray:
    """Return the labels of a task's training rows, cleaned, from its first source: shape (N,).

    Raises
    ------
    UserError
        The source cannot be used.
    """
    from ntktune.data.sources import read_sources, source_table

    table, _ = source_table(read_sources(definition, name), definition, name)
    return table.loc[table["split"] == "train", "label"].to_numpy()


def smallest_sample(classes: np.ndarray, holdout_fraction: float) -> int | None:
    """Return the smallest sample whose training part and hold-out have a row of every class.

    Parameters
    ----------
    classes
        Class (0, 1, ...) of each training row, shape (N,); all 0 for a regression.
    holdout_fraction
        Share of a sample that is held out.

    Returns
    -------
    int or None
        None if no sample of at most ``MOST`` rows has them.
    """
    holdout = holdout_pattern(min(len(classes), MOST), holdout_fraction)
    counts = np.bincount(classes.astype(int))
    pattern = class_pattern(holdout, counts)
    needed = [
        np.flatnonzero((pattern == label) & (holdout == held))[:1]
        for label in np.flatnonzero(counts)
        for held in (False, True)
    ]
    return int(np.max(needed)) + 1 if all(len(place) for place in needed) else None


def chosen_sizes(rows: int, smallest: int = FIRST) -> list[int]:
    """Return sample sizes for N training rows: each about twice the last, all rows the largest.

    Parameters
    ----------
    rows
        N, training rows.
    smallest
        The first size; 16 at least.
    """
    most, first = min(rows, MOST), max(smallest, FIRST)
    if most <= first:
        return [most]
    steps = max(round(np.log2(most / first)), 1)
    return np.geomspace(first, most, steps + 1).round().astype(int).tolist()
