"""Radius and noise from a smoothed shift."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntktune.errors import UserError
from ntktune.theory import shift_estimate, standardised_labels


def sample(n=200, sigma=0.3, seed=0):
    """A smooth function of norm 1 in the space of a decaying kernel, and noise."""
    random = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(random.standard_normal((n, n)))
    values = n * np.arange(1, n + 1.0) ** -2
    gram = basis @ np.diag(values) @ basis.T
    coefficients = np.zeros(n)
    coefficients[:5] = random.standard_normal(5)
    smooth = basis @ (np.sqrt(values) * coefficients)
    smooth /= np.linalg.norm(coefficients)
    return gram, smooth, smooth + sigma * random.standard_normal(n)


def test_against_the_formulas_with_inverses():
    gram, _, noisy = sample(n=40)
    found = shift_estimate(gram, noisy)
    n = len(gram)

    def score(ridge):
        smoother = gram @ np.linalg.inv(gram + n * ridge * np.eye(n))
        left = np.eye(n) - smoother
        return (left @ noisy) @ (left @ noisy) / n / (np.trace(left) / n) ** 2, smoother

    best, smoother = score(found.ridge)
    for other in (0.5, 0.99, 1.01, 2.0, 10.0):
        assert score(other * found.ridge)[0] >= best
    smoothed = smoother @ noisy
    squared_radius = smoothed @ np.linalg.pinv(gram) @ smoothed
    assert found.radius == pytest.approx(math.sqrt(squared_radius), rel=1e-8)
    residual = noisy - smoothed
    variance = residual @ residual / np.trace(np.eye(n) - smoother)
    assert found.sigma == pytest.approx(math.sqrt(variance), rel=1e-9)
    assert found.degrees_of_freedom == pytest.approx(np.trace(smoother), rel=1e-9)


def test_noise_and_radius_of_a_known_function():
    found = [shift_estimate(*sample(seed=s)[::2]) for s in range(10)]
    assert np.mean([f.sigma for f in found]) == pytest.approx(0.3, rel=0.05)
    # ridge shrinks, so the plug-in radius lies a little below
    assert np.mean([f.radius for f in found]) == pytest.approx(1.0, rel=0.15)


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_units(units, scale):
    gram, _, noisy = sample(n=30)
    once = shift_estimate(gram, noisy)
    # labels in other units, a kernel in others: ‖r‖_H goes with r / √G
    found = shift_estimate(scale * gram, units * noisy)
    assert found.sigma == pytest.approx(units * once.sigma, rel=1e-5)
    assert found.radius == pytest.approx(units / math.sqrt(scale) * once.radius, rel=1e-5)


def test_rank_deficient_kernel():
    direction = np.ones(6)
    noisy = 2 + np.array([0.1, -0.1, 0.1, -0.1, 0.1, -0.1])
    found = shift_estimate(np.outer(direction, direction), noisy)
    assert found.radius == pytest.approx(2.0, rel=0.01)  # r̂ = 2·1, ‖r̂‖_H = 2
    assert found.sigma == pytest.approx(0.1 * math.sqrt(6 / 5), rel=0.01)


def test_no_shift():
    found = shift_estimate(np.eye(4), np.zeros(4))
    assert (found.radius, found.sigma) == (0, 0)


@pytest.mark.parametrize(
    ("gram", "shift", "message"),
    [
        (np.eye(3), np.ones(4), r"shape \(3, 3\) does not fit \(4,\) labels"),
        (np.eye(2), [1.0, math.nan], "not finite"),
        (np.zeros((2, 2)), [1.0, 1.0], "no positive eigenvalue"),
    ],
)
def test_mistakes(gram, shift, message):
    with pytest.raises(UserError, match=message):
        shift_estimate(gram, shift)


def test_labels():
    labels, unit = standardised_labels([1.0, 3.0, 5.0], "regression")
    assert unit == pytest.approx(math.sqrt(8 / 3))
    np.testing.assert_allclose(labels, [-2 / unit, 0, 2 / unit])
    labels, unit = standardised_labels([0.0, 1.0, 1.0], "classification")
    assert labels.tolist() == [-1, 1, 1]
    assert math.isnan(unit)


@pytest.mark.parametrize(
    ("label", "kind", "message"),
    [
        ([2.0, 2.0], "regression", "all 2 labels of the draw are 2.0"),
        ([2.0, math.nan], "regression", "1 of 2 labels are not finite"),
        ([0.0, 2.0], "classification", r"must be 0 and 1, but these are \[0.0, 2.0\]"),
    ],
)
def test_labels_that_cannot_be_used(label, kind, message):
    with pytest.raises(UserError, match=message):
        standardised_labels(label, kind)
