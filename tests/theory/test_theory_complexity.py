"""Critical radius and stopping time: a published simulation, the defining equations, scaling."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import brentq

from ntktune.errors import UserError
from ntktune.theory import critical_radius, local_rademacher_complexity, stopping_time

spectra = st.builds(
    lambda n, exponent, scale, seed, zeros: np.concatenate(
        [
            scale
            * np.arange(1, n + 1.0) ** -exponent
            * np.random.default_rng(seed).lognormal(0, 0.5, n),
            np.zeros(zeros),
        ]
    ),
    n=st.integers(1, 60),
    exponent=st.floats(0, 4),
    scale=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**32 - 1),
    zeros=st.integers(0, 5),
)
noises = st.floats(1e-2, 1e2)
radii = st.floats(1e-2, 1e2)


def sobolev_eigenvalues(n):
    """Eigenvalues of min(x, x')/n on x_i = i/n, in closed form."""
    i = np.arange(1, n + 1)
    return 1 / (2 * n * np.sin((2 * i - 1) * np.pi / (2 * (2 * n + 1)))) ** 2


def test_the_closed_form_is_that_of_the_matrix():
    x = np.arange(1, 31) / 30
    found = np.linalg.eigvalsh(np.minimum.outer(x, x) / 30)[::-1]
    np.testing.assert_allclose(found, sobolev_eigenvalues(30), rtol=1e-9)


@pytest.mark.parametrize(
    ("n", "steps", "squared"),
    [(20, 4, 0.8808), (40, 6, 0.6154), (80, 9, 0.4325), (100, 10, 0.3716), (200, 18, 0.2136)],
)
def test_the_simulation_of_rwy14(n, steps, squared):
    """First-order Sobolev kernel, σ = 1, α = 0.25, unit radius."""
    values = sobolev_eigenvalues(n)
    assert stopping_time(values, sigma=1.0, step_size=0.25) == steps
    assert critical_radius(values, sigma=1.0) ** 2 == pytest.approx(squared, abs=5e-5)
    # by the defining equation, without any closed form
    root = brentq(
        lambda e: local_rademacher_complexity(values, e) - e**2 / (2 * math.e), 1e-3, 10, xtol=1e-14
    )
    assert critical_radius(values, sigma=1.0) == pytest.approx(root, rel=1e-12)


@given(spectra, noises, radii)
def test_the_critical_radius_solves_its_equation(values, sigma, radius):
    epsilon = critical_radius(values, sigma=sigma, radius=radius)
    right = radius * epsilon**2 / (2 * math.e * sigma)
    assert local_rademacher_complexity(values, epsilon) == pytest.approx(right, rel=1e-12)
    below = 0.999 * epsilon  # the smallest such ε
    assert local_rademacher_complexity(values, below) > radius * below**2 / (2 * math.e * sigma)


def assert_stops_as_defined(values, sigma, radius, step):
    """R̂(√η⁻¹) first exceeds C_H/(2eση) one step after T̂; ε̂² lies between 1/η there and at T̂.

    Return whether that was asserted: at the very edge rounding decides, and both answers are right.
    """
    steps = stopping_time(values, sigma=sigma, step_size=step, radius=radius)

    def fits_noise(t):
        eta = t * step
        return local_rademacher_complexity(values, eta**-0.5) > radius / (2 * math.e * sigma * eta)

    squared = critical_radius(values, sigma=sigma, radius=radius) ** 2
    if any(abs(t * step * squared - 1) <= 1e-9 for t in (steps, steps + 1)):
        return False
    assert fits_noise(steps + 1)
    assert steps == 0 or not fits_noise(steps)
    assert 1 / ((steps + 1) * step) <= squared
    assert steps == 0 or squared <= 1 / (steps * step)
    return True


@given(spectra, noises, radii, st.floats(0.01, 1.0))
def test_the_stopping_time_meets_its_definition_and_the_sandwich(values, sigma, radius, factor):
    assume(assert_stops_as_defined(values, sigma, radius, factor * min(1.0, 1.0 / values.max())))


def test_the_stopping_time_of_ten_thousand_spectra():
    """As above, without the search for a smallest failure, which took most of the time."""
    random, decided = np.random.default_rng(0), 0
    for _ in range(10_000):
        index = np.arange(1.0, random.integers(2, 62))
        values = 10 ** random.uniform(-3, 3) * index ** -random.uniform(0, 4)
        values = values * random.lognormal(0, 0.5, len(index))
        values = np.append(values, np.zeros(random.integers(0, 6)))
        sigma, radius = 10 ** random.uniform(-2, 2, size=2)
        step = random.uniform(0.01, 1) * min(1.0, 1.0 / values.max())
        decided += assert_stops_as_defined(values, sigma, radius, step)
    assert decided > 9_900


@given(spectra, noises, radii)
def test_scaling(values, sigma, radius):
    epsilon = critical_radius(values, sigma=sigma, radius=radius)
    # only C_H/σ counts
    assert critical_radius(values, sigma=3 * sigma, radius=3 * radius) == pytest.approx(epsilon)
    # in other units of f: K, and ε², by c², noise by c (C_H has no unit of f)
    scaled = critical_radius(4 * values, sigma=2 * sigma, radius=radius)
    assert scaled == pytest.approx(2 * epsilon)
    # more noise stops sooner
    step = 1 / values.max()
    early, late = (
        stopping_time(values, sigma=s, step_size=step, radius=radius) for s in (2 * sigma, sigma)
    )
    assert early <= late


def test_stopping_at_the_start_and_very_late():
    assert stopping_time([1.0, 0.5], sigma=100.0, step_size=1.0) == 0
    # one eigenvalue λ: R̂ = √η⁻¹ beyond 1/λ, so T̂ = ⌊(C/2eσ)²⌋ with unit steps
    level = 1e12
    steps = stopping_time([1.0], sigma=1.0, step_size=1.0, radius=2 * math.e * level)
    assert isinstance(steps, int)
    assert steps == pytest.approx(level**2, rel=1e-12)
    tiny = stopping_time([1.0], sigma=1.0, step_size=1e-9, radius=2 * math.e * 1e3)
    assert tiny == pytest.approx(1e15, rel=1e-12)


def test_rank_deficient_kernels_and_rounding_below_zero():
    values = [2.0, 1.0, 0.0, -1e-17]
    assert critical_radius(values, sigma=0.1) == critical_radius([2.0, 1.0, 0, 0], sigma=0.1)
    assert local_rademacher_complexity(values, 10.0) == pytest.approx(math.sqrt(0.75))
    assert local_rademacher_complexity(values, 0.0) == 0
    assert local_rademacher_complexity(values, 1.0) == pytest.approx(math.sqrt(0.5))


def test_nothing_to_learn_stops_at_once():
    assert critical_radius([1.0, 0.5], sigma=1.0, radius=0.0) == math.inf
    assert stopping_time([1.0, 0.5], sigma=1.0, step_size=1.0, radius=0.0) == 0


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        ([1.0], {"sigma": 0.0}, "sigma is 0.0; the noise must be positive"),
        ([1.0], {"sigma": -1.0}, "sigma is -1.0"),
        ([1.0], {"sigma": math.nan}, "sigma is nan"),
        ([1.0], {"radius": -0.5}, "radius is -0.5; C_H must be finite, 0 or more"),
        ([1.0], {"radius": math.inf}, "radius is inf"),
        ([0.0, 0.0], {}, "no eigenvalue is positive"),
        ([-1.0, -2.0], {}, "no eigenvalue is positive"),
        ([1.0, math.nan], {}, "1 of 2 eigenvalues are not finite"),
        ([], {}, r"shape \(0,\)"),
        ([[1.0]], {}, r"shape \(1, 1\)"),
    ],
)
def test_mistakes(values, settings, message):
    settings = {"sigma": 1.0} | settings
    with pytest.raises(UserError, match=message):
        critical_radius(values, **settings)
    with pytest.raises(UserError, match=message):
        stopping_time(values, step_size=0.1, **settings)


@pytest.mark.parametrize("step", [0.0, -0.1, math.nan, math.inf])
def test_step_sizes_that_are_none(step):
    with pytest.raises(UserError, match=f"step_size is {step}; it must be positive"):
        stopping_time([1.0], sigma=1.0, step_size=step)


def test_negative_epsilon():
    with pytest.raises(UserError, match="epsilon is -1; it must be 0 or more"):
        local_rademacher_complexity([1.0], -1)
