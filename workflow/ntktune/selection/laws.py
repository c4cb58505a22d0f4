"""How the test loss L falls with the number of training examples D: laws, and their fits.

All are fitted to log L. ``x`` is log D, (n,), and ``y`` log L, (C, n) of C curves at the same
sizes. The rectified law of Lin et al. 2024 (arXiv 2402.02314), L = B/(D_l + D^β) + E, is the curve
of Morgan, Mercer & Flodin that the literature on learning curves calls mmf4.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, stdtrit

from ntktune.errors import UserError
from ntktune.intervals import LEVEL

ITERATIONS = 1_000
TOLERANCE, PATIENCE = 1e-9, 5  # a fit has ended when no step of so many gains such a share
SLOPES = (0.05, 0.2, 0.5, 1.0)  # β of the starts
FLOORS = (1e-6, 0.5, 0.95)  # E of the starts, as a share of the smallest loss
LEAST_FLOOR = 1e-9  # of the smallest loss: no different from 0
FLATTEST, STEEPEST, MOST_POWER = 1e-4, 20.0, 1e3  # the smallest and the largest β; α

# log L at parameters (M, P) and x (n,), and its derivatives: (M, n) and (M, n, P)
Model = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Law:
    """A law: the names of its P parameters, as fitted, and the model of log L."""

    name: str
    parameters: tuple[str, ...]
    model: Model


class Fit(NamedTuple):
    """A law fitted to C curves: parameters (C, P), and residuals of log L, (C, n)."""

    law: Law
    x: np.ndarray
    parameters: np.ndarray
    residuals: np.ndarray

    @property
    def rmsd(self) -> np.ndarray:
        """Root mean squared residual of log L of each curve, (C,)."""
        return np.sqrt(np.mean(self.residuals**2, axis=1))


def _rectified(parameters: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """L = exp(log_height − log(1 + exp(β x − log_start))) + exp(log_floor).

    The first term is B/(D_l + D^β) with D_l = exp(log_start) and B = D_l exp(log_height): so it
    stays finite whatever D_l is.
    """
    height, start, log_slope, floor = (part[:, None] for part in parameters.T)
    slope = np.exp(log_slope)
    inner = slope * x - start
    above = height - np.logaddexp(0, inner)
    weight = expit(above - floor)  # of the term above the floor
    turned = weight * expit(inner)
    parts = (weight, turned, -turned * slope * x, 1 - weight)
    return np.logaddexp(above, floor), np.stack(parts, axis=-1)


def _vanilla(parameters: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """L = (B D^−β + E)^α, with B = exp(log_height) and E = exp(log_floor / α)."""
    height, log_slope, floor, log_power = (part[:, None] for part in parameters.T)
    slope, power = np.exp(log_slope), np.exp(log_power)
    above = height - slope * x
    weight, within = expit(above - floor / power), np.logaddexp(above, floor / power)
    of_power = power * within - (1 - weight) * floor
    parts = (power * weight, -power * weight * slope * x, 1 - weight, of_power)
    return power * within, np.stack(parts, axis=-1)


def _power(parameters: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """L = B D^−β + E."""
    whole = np.concatenate([parameters, np.zeros((len(parameters), 1))], axis=1)
    found, slopes = _vanilla(whole, x)
    return found, slopes[..., :3]


def _line(parameters: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log L = intercept + slope · log D."""
    slopes = np.stack([np.ones_like(x), x], axis=-1)
    return parameters @ slopes.T, np.broadcast_to(slopes, (len(parameters), *slopes.shape))


RECTIFIED = Law("rectified", ("log_height", "log_start", "log_slope", "log_floor"), _rectified)
VANILLA = Law("vanilla", ("log_height", "log_slope", "log_floor", "log_power"), _vanilla)
POWER = Law("power", ("log_height", "log_slope", "log_floor"), _power)
LINE = Law("line", ("intercept", "slope"), _line)
LAWS = {law.name: law for law in (RECTIFIED, VANILLA, POWER, LINE)}


def measured_start(size: float) -> Law:
    """Return the rectified law with D_l given, as LENSLLM (2025) has it: D_l = F(Θ, t).

    Raises UserError if ``size`` is not above 0.
    """
    if not 0 < size < math.inf:
        raise UserError(f"the pre-learned size is {size}; it must be a number above 0")
    place = RECTIFIED.parameters.index("log_start")

    def model(parameters: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found, slopes = _rectified(np.insert(parameters, place, math.log(size), axis=1), x)
        return found, np.delete(slopes, place, axis=-1)

    names = tuple(name for name in RECTIFIED.parameters if name != "log_start")
    return Law("measured", names, model)


def _starts(law: Law, x: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """Return starts of one curve's fit, (S, P): slopes, floors, and where the rectified law turns.

    The height is such that the first loss is met.
    """
    rows, span = [], np.ptp(x)
    for slope, floor, turn in product(SLOPES, FLOORS, (x[0] - span, x[0], x.mean(), x[-1])):
        given = {"log_slope": math.log(slope), "log_floor": curve.min() + math.log(floor)}
        given |= {"log_start": slope * turn}
        row = np.array([[given.get(name, 0.0) for name in law.parameters]])
        if law.parameters[0] == "log_height":
            bare = row.copy()
            bare[0, law.parameters.index("log_floor")] = -1e9  # no floor
            # a part of the first loss is above the floor
            above = curve[0] + math.log1p(-floor * math.exp(curve.min() - curve[0]))
            row[0, 0] = above - law.model(bare, x[:1])[0].item()
        rows.append(row[0])
    return np.unique(rows, axis=0)


def _bounds(law: Law, x: np.ndarray, curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest parameters of one curve's fit, (P,) each."""
    wide, lowest = STEEPEST * np.abs(x).max(), curve.min()
    bounds = {
        "log_height": (lowest - wide, curve.max() + wide),
        "log_start": (-wide, wide),
        "log_slope": (math.log(FLATTEST), math.log(STEEPEST)),
        "log_floor": (lowest + math.log(LEAST_FLOOR), lowest),
        "log_power": (-math.log(MOST_POWER), math.log(MOST_POWER)),
    }
    low, high = zip(*(bounds.get(name, (-np.inf, np.inf)) for name in law.parameters), strict=True)
    return np.array(low), np.array(high)


def _descended(
    model: Model,
    x: np.ndarray,
    curves: np.ndarray,
    parameters: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return least-squares parameters (M, P) within bounds, and sums of squares (M,), of M starts.

    Levenberg-Marquardt of all starts at once. A parameter at its bound that would leave it stays
    there for the step.
    """
    ended, total = parameters.copy(), np.empty(len(parameters))
    left = np.arange(len(parameters))  # fits that have not ended
    damping = np.full(len(parameters), 1e-2)
    still = np.zeros(len(parameters), int)  # steps in a row that gained next to nothing
    found, slopes = model(parameters, x)
    cost = np.sum((curves - found) ** 2, axis=1)
    for _ in range(ITERATIONS):
        gradient = np.einsum("mnp,mn->mp", slopes, curves - found)
        held = ((parameters <= low) & (gradient < 0)) | ((parameters >= high) & (gradient > 0))
        free = np.where(held, 0.0, 1.0)
        curvature = np.einsum("mnp,mnq->mpq", slopes, slopes) * free[:, None] * free[:, :, None]
        diagonal = np.einsum("mpp->mp", curvature)  # a view
        diagonal += damping[:, None] * diagonal + held + 1e-12
        step = np.linalg.solve(curvature, (gradient * free)[..., None])[..., 0]
        tried = np.clip(parameters + step, low, high)
        there, turned = model(tried, x)
        value = np.sum((curves - there) ** 2, axis=1)
        better = value < cost
        still = np.where(better & (value < (1 - TOLERANCE) * cost), 0, still + 1)
        damping = np.clip(np.where(better, damping / 5, damping * 4), 1e-12, 1e12)
        parameters = np.where(better[:, None], tried, parameters)
        found = np.where(better[:, None], there, found)
        slopes, cost = np.where(better[:, None, None], turned, slopes), np.minimum(value, cost)
        ended[left], total[left] = parameters, cost
        going = still <= PATIENCE
        if not going.any():
            break
        left, damping, still, found, slopes, cost, parameters, curves, low, high = (
            part[going]
            for part in (left, damping, still, found, slopes, cost, parameters, curves, low, high)
        )
    return ended, total


def checked(sizes: ArrayLike, losses: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return sizes, (n,), and losses, (C, n); raise UserError for what are no learning curves."""
    x, curves = np.asarray(sizes, float), np.atleast_2d(np.asarray(losses, float))
    if x.ndim != 1 or not (np.diff(x) > 0).all() or not (x > 0).all() or len(x) < 2:
        raise UserError(f"sizes {x.tolist()}: give two or more, ascending and above 0")
    if curves.shape[1:] != x.shape or not (np.isfinite(curves) & (curves > 0)).all():
        raise UserError(f"losses of shape {curves.shape}: give one above 0 for each of {len(x)}")
    return x, curves


def fitted(law: Law, sizes: ArrayLike, losses: ArrayLike) -> Fit:
    """Fit a law to curves by least squares on log L, each from several starts.

    ``sizes``, (n,), are ascending numbers of examples above 0; ``losses``, (C, n) or (n,), are
    above 0. Raises UserError for others. With fewer sizes than parameters the fit is one of many.
    """
    x, curves = map(np.log, checked(sizes, losses))
    starts = [_starts(law, x, curve) for curve in curves]
    many = len(starts[0])
    low, high = (
        np.repeat(np.array(part), many, axis=0)
        for part in zip(*(_bounds(law, x, curve) for curve in curves), strict=True)
    )
    begun = np.clip(np.concatenate(starts), low, high)
    found, cost = _descended(law.model, x, np.repeat(curves, many, axis=0), begun, low, high)
    best = np.argmin(cost.reshape(len(curves), many), axis=1)
    parameters = found.reshape(len(curves), many, -1)[np.arange(len(curves)), best]
    return Fit(law, x, parameters, curves - law.model(parameters, x)[0])


def predicted(
    fit: Fit, sizes: ArrayLike, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the losses that a fit predicts at other sizes, (C, m), and both ends of an interval.

    The interval is of a loss that would be measured there: by the fit's own scatter and that of
    its parameters to first order, with Student's t of n − P degrees of freedom. It is NaN where
    there are no more sizes than parameters.
    """
    x = np.log(np.asarray(sizes, float))
    value, slopes = fit.law.model(fit.parameters, x)
    _, own = fit.law.model(fit.parameters, fit.x)
    left = len(fit.x) - len(fit.law.parameters)
    if left < 1:
        half = np.full_like(value, np.nan)
    else:
        variance = np.sum(fit.residuals**2, axis=1) / left
        spread = np.linalg.pinv(np.einsum("cnp,cnq->cpq", own, own), rcond=1e-12, hermitian=True)
        along = np.einsum("cmp,cpq,cmq->cm", slopes, spread, slopes)
        half = stdtrit(left, (1 + level) / 2) * np.sqrt(variance[:, None] * (1 + along))
    with np.errstate(over="ignore"):  # an end that is not known
        return np.exp(value), np.exp(value - half), np.exp(value + half)
