"""How many labels, when to stop, what to train: predicted from a pilot's kernel."""

from ntktune.advise.advice import advice, curve_counts
from ntktune.advise.pilot import Forecast, distinct, forecast, guard, interval, repeated
from ntktune.advise.risk import (
    Prediction,
    Risk,
    accuracy,
    estimated_risk,
    examples_for,
    explained,
    exponents,
    known_risk,
    predicted,
    threshold,
)

__all__ = [
    "Forecast",
    "Prediction",
    "Risk",
    "accuracy",
    "advice",
    "curve_counts",
    "distinct",
    "estimated_risk",
    "examples_for",
    "explained",
    "exponents",
    "forecast",
    "guard",
    "interval",
    "known_risk",
    "predicted",
    "repeated",
    "threshold",
]
