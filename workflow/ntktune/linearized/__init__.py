"""The network linearised at its pretrained weights: its training, and which layers to train."""

from ntktune.linearized.bounds import (
    addition,
    residual_bounds,
    residual_norm_bound,
    smallest_rank,
    weyl_bounds,
)
from ntktune.linearized.solution import descended, distance, logistic_weights, squared_weights
from ntktune.linearized.statistics import (
    alignment,
    best_gcv,
    centred_spectrum,
    condition_number,
    gcv,
    log_evidence,
)

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
