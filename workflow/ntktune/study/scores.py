"""A task's score: which metrics it may be by, and how scores compare."""

import math
from typing import Any

# Kind of task → the metrics that its definition may name; the first is the default.
METRICS = {"regression": ("pearson", "spearman", "mse"), "classification": ("accuracy", "f1")}
ERRORS = ("mse",)  # less of these is better


def share_reached(metric: str, value: float, reference: float) -> float:
    """Return which share of a reference score another one reaches, 1 being all of it.

    That is value / reference, NaN unless the reference is above 0; of an error reference / value,
    NaN unless both are.
    """
    if metric in ERRORS:
        return reference / value if min(value, reference) > 0 else math.nan
    return value / reference if reference > 0 else math.nan


def predicted_class(values: Any) -> Any:
    """Return the classes, (N,), of f: of two, (N,), by its sign; of more, (N, C), the largest."""
    return values.argmax(axis=1) if values.ndim > 1 and values.shape[1] > 1 else values > 0
