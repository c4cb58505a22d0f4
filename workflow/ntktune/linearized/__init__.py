"""The network linearised at its pretrained weights: its training, and which layers to train."""

from typing import TYPE_CHECKING, Any

from ntktune.linearized.bounds import (
    addition,
    residual_bounds,
    residual_norm_bound,
    smallest_rank,
    weyl_bounds,
)
from ntktune.linearized.statistics import (
    alignment,
    best_gcv,
    centred_spectrum,
    condition_number,
    gcv,
    log_evidence,
)

if TYPE_CHECKING:
    from ntktune.linearized.solution import descended, distance, logistic_weights, squared_weights

__all__ = [
    "addition",
    "alignment",
    "best_gcv",
    "centred_spectrum",
    "condition_number",
    "descended",
    "distance",
    "gcv",
    "log_evidence",
    "logistic_weights",
    "residual_bounds",
    "residual_norm_bound",
    "smallest_rank",
    "squared_weights",
    "weyl_bounds",
]


def __getattr__(name: str) -> Any:
    """Import torch when a solution is asked for: what kernels say needs none."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ntktune.linearized import solution

    return getattr(solution, name)
