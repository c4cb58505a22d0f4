"""The decay fit on prescribed spectra."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ntktune.errors import UserError
from ntktune.spectrum import (
    centred_gram,
    decay_exponent,
    eigenvalues,
    noise_level,
    predicted_rate,
    rank_ranges,
)


def power_law(exponent, n, scale=1.0):
    return scale * np.arange(1, n + 1.0) ** -exponent


@pytest.mark.parametrize("n", [3, 10, 100, 1000])
@pytest.mark.parametrize("exponent", [0.3, 1.0, 1.7, 2.5])
def test_a_power_law_is_recovered(exponent, n):
    for first, last in rank_ranges(max(n, 10)).values():
        if last > n or last - first < 2:
            continue
        fit = decay_exponent(power_law(exponent, n, 7.0), first, last)
        assert fit.exponent == pytest.approx(exponent, abs=1e-10)
        assert fit.intercept == pytest.approx(math.log(7.0), abs=1e-10)
        assert fit.r_squared == pytest.approx(1.0, abs=1e-10)
        assert fit.stderr == pytest.approx(0.0, abs=1e-7)
        assert (fit.dropped, fit.first, fit.last) == (0, first, last)


@given(st.integers(4, 60), st.integers(0, 2**32 - 1), st.floats(1e-30, 1e30))
def test_least_squares_and_scale(n, seed, scale):
    values = np.sort(np.random.default_rng(seed).lognormal(0, 2, n))[::-1]
    fit = decay_exponent(values, noise_floor=0.0)
    line = stats.linregress(np.log(np.arange(1, n + 1)), np.log(values))
    assert fit.exponent == pytest.approx(-line.slope, rel=1e-9)
    assert fit.intercept == pytest.approx(line.intercept, rel=1e-9, abs=1e-9)
    assert fit.stderr == pytest.approx(line.stderr, rel=1e-7)
    assert fit.r_squared == pytest.approx(line.rvalue**2, abs=1e-9)
    scaled = decay_exponent(scale * values, noise_floor=0.0)
    assert scaled.exponent == pytest.approx(fit.exponent, rel=1e-9)
    assert scaled.intercept == pytest.approx(fit.intercept + math.log(scale), rel=1e-9, abs=1e-9)


def test_float_noise_is_dropped_and_counted():
    values = power_law(1.5, 50)
    values[40:] = [1e-17, 3e-18, 0.0, 0.0, -1e-20, -2e-19, -1e-18, -3e-18, -1e-17, -2e-17]
    fit = decay_exponent(values)
    assert fit.dropped == 10
    assert fit.exponent == pytest.approx(1.5, abs=1e-10)
    float32 = noise_level(values, np.finfo(np.float32).eps)
    assert float32 == pytest.approx(50 * 2**-23)
    assert decay_exponent(values, noise_floor=0.01).dropped == 50 - 21  # 21^-1.5 > 0.01 > 22^-1.5
    # the level itself is noise
    assert decay_exponent([4.0, 3.0, 2.0, 1.0], noise_floor=1.0).dropped == 1


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("rounding", [0.0, 1e-17, 1e-16])
def test_eigenvalues_that_are_alike_but_for_rounding_have_exponent_zero(seed, rounding):
    random = np.random.default_rng(seed)
    count, value = int(random.integers(3, 200)), float(10 ** random.uniform(-9, 9))
    values = value * (1 + count * rounding * random.uniform(-1, 1, count))
    fit = decay_exponent(np.sort(values)[::-1])
    assert (fit.exponent, fit.stderr, fit.r_squared) == (0.0, 0.0, 1.0)
    assert predicted_rate(fit.exponent) == 0.0


def test_equal_eigenvalues_do_not_decay():
    fit = decay_exponent(np.ones(10))
    assert (fit.exponent, fit.intercept, fit.r_squared, fit.stderr) == (0, 0, 1, 0)


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        ([3.0, math.nan, 1.0], {}, "eigenvalue 2 of 3 is nan, not finite"),
        ([math.inf, 2.0, 1.0], {}, "eigenvalue 1 of 3 is inf"),
        ([-1.0, -2.0, -3.0], {}, "the largest eigenvalue is -1; a kernel's must be positive"),
        ([0.0, 0.0, 0.0], {}, "the largest eigenvalue is 0"),
        ([1.0, 2.0, 3.0], {}, r"must descend, but λ_1 = 1 < λ_2 = 2; sort them"),
        ([[1.0, 2.0]], {}, r"shape \(1, 2\)"),
        ([], {}, r"shape \(0,\)"),
        ([3.0, 2.0], {}, "only 2 of the eigenvalues 1..2 are above the float noise"),
        ([3.0, 2.0, 1.0], {"noise_floor": 1.5}, "only 2 .*; a decay needs 3"),
        ([3.0, 2.0, 1.0], {"first": 0}, r"0..3 does not lie in 1..3"),
        ([3.0, 2.0, 1.0], {"last": 4}, r"1..4 does not lie in 1..3"),
        ([3.0, 2.0, 1.0], {"first": 3, "last": 2}, r"3..2 does not lie"),
    ],
)
def test_mistakes(values, settings, message):
    with pytest.raises(UserError, match=message):
        decay_exponent(values, **settings)


def test_eigenvalues_are_of_the_kernel_over_n():
    random = np.random.default_rng(0)
    basis, _ = np.linalg.qr(random.standard_normal((30, 30)))
    wanted = power_law(2.0, 30)
    found = eigenvalues(basis @ np.diag(30 * wanted) @ basis.T)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-14)
    assert decay_exponent(found).exponent == pytest.approx(2.0, abs=1e-9)


@pytest.mark.parametrize(
    ("gram", "message"),
    [
        (np.ones((2, 3)), r"square matrix .* shape \(2, 3\)"),
        (np.ones(4), r"shape \(4,\)"),
        (np.ones((0, 0)), r"at least one row"),
        ([[1.0, math.nan], [0.0, 1.0]], "1 values that are not finite, the first nan in row 0"),
        ([[1.0, 0.5], [0.2, 1.0]], "not symmetric: an entry and its mirror differ by 0.3"),
    ],
)
def test_matrices_that_are_no_kernels(gram, message):
    with pytest.raises(UserError, match=message):
        eigenvalues(gram)


def test_predicted_rate():
    assert predicted_rate(1.0) == 0.5
    assert predicted_rate(3.0) == 0.75
    assert predicted_rate(0.0) == 0.0
    for wrong in (-0.1, math.nan, math.inf):
        with pytest.raises(UserError, match="a rate needs a finite one, 0 or more"):
            predicted_rate(wrong)


def test_ranges():
    assert rank_ranges(100) == {
        "1..n": (1, 100),
        "2..n": (2, 100),
        "1..n/2": (1, 50),
        "n/10..9n/10": (10, 90),
    }
    assert rank_ranges(45)["n/10..9n/10"] == (5, 40)


def test_a_centred_kernel_is_that_of_features_without_their_mean():
    features = np.random.default_rng(0).standard_normal((9, 4)) + 5.0
    without = features - features.mean(axis=0)
    centred = centred_gram(features @ features.T)
    np.testing.assert_allclose(centred, without @ without.T, atol=1e-12)
    np.testing.assert_allclose(centred_gram(centred), centred, atol=1e-12)
    np.testing.assert_allclose(centred_gram(np.full((3, 3), 2.0)), 0.0, atol=1e-15)
