"""Merged models: ``"a + b"`` is the model that tasks a and b are added into."""

import math
from collections.abc import Iterable

JOIN = " + "
# coefficients: as configured, and chosen on hold-out rows
FIXED, VALIDATED = "fixed", "validation"
LEAST_KEPT = 0.95  # share of its score that negating another task leaves a control (Ilharco et al.)


def parts(name: str) -> list[str]:
    """Return the tasks that a merged model holds."""
    return name.split(JOIN)


def full_coefficient(coefficients: Iterable[float]) -> float:
    """Return the λ at which negation is judged: 1, or the largest where 1 was not tried."""
    coefficients = list(coefficients)
    return next((c for c in coefficients if math.isclose(c, 1.0)), max(coefficients))
