"""Merged models: ``"a + b"`` is the model that tasks a and b are added into."""

JOIN = " + "
# coefficients: as configured, and chosen on hold-out rows
FIXED, VALIDATED = "fixed", "validation"
LEAST_KEPT = 0.95  # share of its score that negating another task leaves a control (Ilharco et al.)


def parts(name: str) -> list[str]:
    """Return the tasks that a merged model holds."""
    return name.split(JOIN)
