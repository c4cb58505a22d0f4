"""What every verdict on a claim consists of."""

from collections.abc import Mapping
from typing import Any

REPRODUCED, FAILED, UNTESTED = "reproduced", "not reproduced", "not tested"


def claim_row(
    claim: str,
    source: str,
    statistic: str,
    value: float,
    threshold: str,
    verdict: str,
    detail: str,
) -> dict[str, Any]:
    """Return one claim of SR26 with its statistic, the rule that judges it, and the verdict."""
    return {
        "claim": claim,
        "source": f"SR26 {source}",
        "statistic": statistic,
        "value": value,
        "threshold": threshold,
        "verdict": verdict,
        "detail": detail,
    }


def listed(values: Mapping[str, float]) -> str:
    """Return ``"a 0.97, b 1.2"``."""
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())
