"""Eigenvalues of a kernel, their power-law decay, and the rate it predicts."""

from ntktune.spectrum.decay import (
    DecayFit,
    decay_exponent,
    noise_level,
    predicted_rate,
    rank_ranges,
)
from ntktune.spectrum.eigenvalues import centred_gram, eigenvalues
from ntktune.spectrum.summary import fitted_ranges, spectrum_summary

__all__ = [
    "DecayFit",
    "centred_gram",
    "decay_exponent",
    "eigenvalues",
    "fitted_ranges",
    "noise_level",
    "predicted_rate",
    "rank_ranges",
    "spectrum_summary",
]
