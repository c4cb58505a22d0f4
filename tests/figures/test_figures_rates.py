import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_study import NAN, SIZES, TASKS, metrics_table
from scipy.optimize import nnls
from scipy.stats import linregress

from ntktune.figures.agreement import kendall_tau, resampled_means, share_in_agreement
from ntktune.figures.rates import (
    EXPONENTS,
    curve_points,
    floor_fits,
    interval,
    measured_exponent,
    resampled_curves,
    resampled_exponents,
)


def metrics_of(task, sizes=SIZES, **kwargs):
    return pd.concat([metrics_table(task, size, **kwargs) for size in sizes], ignore_index=True)


def measured(metrics, resamples=500, seed=0):
    return measured_exponent(metrics, resamples, np.random.default_rng(seed))


@pytest.mark.parametrize("task", TASKS)
def test_a_known_exponent_is_recovered(task):
    _, kind, _, exponent = TASKS[task]
    found = measured(metrics_of(task))
    assert found["measured_exponent"] == pytest.approx(exponent, abs=1e-12)
    measure = {"regression": "MSE − label noise", "classification": "error rate"}[kind]
    assert found["error_measure"] == measure
    assert (found["sizes"], found["seeds"], found["reason"]) == (4, 3, "")
    # the seeds' own exponents are 0.02 apart: no sample of seeds leaves their range
    assert found["measured_low"] == pytest.approx(exponent - 0.02, abs=1e-9)
    assert found["measured_high"] == pytest.approx(exponent + 0.02, abs=1e-9)


def test_slope_and_standard_error_are_those_of_least_squares():
    random = np.random.default_rng(3)
    metrics = metrics_of("rte")
    metrics["accuracy"] = 1 - np.exp(-1 - 0.3 * np.log(metrics["n"]) + random.normal(0, 0.1, 12))
    fit = linregress(np.log(metrics["n"]), np.log(1 - metrics["accuracy"]))
    found = measured(metrics)
    assert found["slope_exponent"] == pytest.approx(-fit.slope, rel=1e-12)
    assert found["slope_stderr"] == pytest.approx(fit.stderr, rel=1e-10)


@pytest.mark.parametrize(("floor", "exponent"), [(0.0, 0.5), (0.3, 0.5), (1.2, 1.1)])
def test_a_known_floor_is_found_apart_from_the_exponent(floor, exponent):
    sizes = np.array([32, 64, 128, 256, 512])
    curve = floor + 4.0 * sizes**-exponent
    (b,), (low,) = floor_fits(sizes, curve[None], curve)
    assert b == pytest.approx(exponent, abs=1e-9)
    assert low == pytest.approx(floor, abs=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_floor_fits_are_the_best_non_negative_ones(seed):
    random = np.random.default_rng(seed)
    sizes = np.array([16, 40, 128, 256])
    means, scale = random.uniform(0.2, 2, size=(3, 4)), random.uniform(0.5, 2, size=4)
    found = floor_fits(sizes, means, scale)
    for curve, b, floor in zip(means, *found, strict=True):
        fits = []
        for power in EXPONENTS[::3]:
            basis = np.stack([np.ones(4), (sizes / 16) ** -power], axis=1) / scale[:, None]
            fits.append((nnls(basis, curve / scale)[1], power))
        shape = (sizes / 16) ** -b / scale if b else np.zeros(4)
        left = (curve - floor) / scale
        loss = np.linalg.norm(left - shape * (shape @ left) / max(shape @ shape, 1e-300))
        assert loss <= min(fits)[0] + 1e-7
        assert floor >= 0


def test_a_curve_that_rises_has_exponent_0():
    sizes, curve = np.array([32, 64, 128, 256]), np.array([[1.0, 1.1, 1.2, 1.3]])
    (b,), (floor,) = floor_fits(sizes, curve, np.ones(4))
    assert (b, floor) == (0.0, pytest.approx(1.15))
    assert np.isnan(floor_fits(sizes, np.array([[1.0, np.nan, 1.0, 1.0]]), np.ones(4))).all()


@given(st.integers(0, 2**32 - 1))
def test_resampled_curves_are_means_of_the_resampled_seeds(seed):
    random = np.random.default_rng(seed)
    points = pd.DataFrame(
        {
            "n": np.tile(SIZES, 4),
            "seed": np.repeat(range(4), 4),
            "error": np.exp(random.normal(size=16)),
        }
    ).drop(index=[3, 9])  # seeds need not have all sizes
    sizes, fast = resampled_curves(points, 5, np.random.default_rng(seed))
    assert sizes.tolist() == list(SIZES)
    times = np.random.default_rng(seed).multinomial(4, np.full(4, 0.25), size=5)
    for curve, row in zip(fast, times, strict=True):
        drawn = pd.concat([points[points["seed"] == s] for s in range(4) for _ in range(row[s])])
        expected = drawn.groupby("n")["error"].mean().reindex(SIZES)
        np.testing.assert_allclose(curve, expected, rtol=1e-12)


def test_with_few_sizes_the_exponent_is_the_slope_of_the_means():
    points = pd.DataFrame(
        {"n": [32, 64, 128] * 2, "seed": [0, 0, 0, 1, 1, 1], "error": [1, 0.5, 0.25, 3, 1.5, 0.75]}
    )
    np.testing.assert_allclose(resampled_exponents(points, 50, np.random.default_rng(0)), 1.0)
    # one seed is far above the others at one size: the logs' slope is another than the means'
    metrics = metrics_of("rte", sizes=[32, 64, 128])
    metrics.loc[(metrics["n"] == 128) & (metrics["seed"] == 0), "accuracy"] = 0.01
    found = measured(metrics)
    means = np.log((1 - metrics["accuracy"]).groupby(metrics["n"]).mean())
    slope = linregress(np.log([32, 64, 128]), means).slope
    assert found["measured_exponent"] == pytest.approx(-slope)
    assert abs(found["slope_exponent"] - found["measured_exponent"]) > 0.05
    assert found["measured_low"] <= found["measured_exponent"] <= found["measured_high"]
    assert np.isnan(found["floor"])


def test_an_interval_needs_nearly_all_samples():
    samples = np.arange(1000.0)
    assert interval(samples) == pytest.approx((24.975, 974.025))
    samples[:50] = np.nan
    assert np.isfinite(interval(samples)).all()
    samples[:51] = np.nan
    assert np.isnan(interval(samples)).all()


def test_what_limits_the_exponent_is_said():
    rising = metrics_of("rte").assign(accuracy=lambda m: 0.9 - m["n"] / 1000)
    found = measured(rising)
    assert (found["measured_exponent"], found["reason"]) == (0.0, "the error does not fall with n")
    step = metrics_of("rte").assign(accuracy=lambda m: np.where(m["n"] > 32, 0.9, 0.1))
    assert measured(step)["reason"] == "the exponent is at the largest that is tried, 3"


def test_a_sample_that_lacks_a_size_has_no_slope():
    points = pd.DataFrame({"n": [32, 64], "seed": [0, 1], "error": [1.0, 0.5]})
    slopes = resampled_exponents(points, 200, np.random.default_rng(0))
    both = ~np.isnan(slopes)
    assert 0 < both.sum() < 200
    np.testing.assert_allclose(slopes[both], 1.0)


def test_where_the_noise_is_unknown_it_is_the_floor():
    metrics = metrics_of("stsb", noise=0.5).assign(noise_variance=NAN)
    points, facts = curve_points(metrics)
    assert facts["error_measure"] == "MSE"
    np.testing.assert_array_equal(points["error"], metrics["mse"])
    found = measured(metrics)
    assert 0 < found["slope_exponent"] < 0.35  # it flattens the curve
    assert found["measured_exponent"] == pytest.approx(0.4, abs=0.006)
    assert found["floor"] == pytest.approx(0.5, abs=0.02)


def test_sizes_and_points_without_positive_excess_are_counted():
    metrics = metrics_of("stsb")
    metrics.loc[metrics["n"] == 256, "mse"] = 0.04  # below the noise of 0.05: mean excess < 0
    metrics.loc[(metrics["n"] == 128) & (metrics["seed"] == 1), "mse"] = 0.01  # mean stays > 0
    points, facts = curve_points(metrics)
    assert (facts["sizes_dropped"], facts["points_dropped"]) == (1, 1)
    assert len(points) == 9
    found = measured(metrics)
    assert found["sizes"] == 3
    assert np.isfinite(found["slope_exponent"])


def test_what_is_missing_is_said():
    one_size = measured(metrics_of("rte", sizes=[64]))
    assert np.isnan([one_size["measured_exponent"], one_size["measured_low"]]).all()
    assert one_size["reason"] == "a slope needs two sizes; 1 of 1 can be used"
    one_seed = measured(metrics_of("rte", seeds=1))
    assert one_seed["measured_exponent"] == pytest.approx(0.2)
    assert one_seed["slope_stderr"] == pytest.approx(0.0, abs=1e-9)
    assert np.isnan(one_seed["measured_low"])
    assert one_seed["reason"] == "an interval needs two seeds"
    two_points = measured(metrics_of("rte", sizes=[32, 64], seeds=1))
    assert two_points["measured_exponent"] == pytest.approx(0.2)
    assert np.isnan(two_points["slope_stderr"])  # no degree of freedom is left


def test_kendall_tau_by_hand():
    # pairs of (1, 2, 3, 4) and (1, 3, 2, 4): five agree, one does not
    assert kendall_tau(np.array([1, 2, 3, 4]), np.array([1, 3, 2, 4])) == pytest.approx(4 / 6)
    assert np.isnan(kendall_tau(np.array([1.0]), np.array([2.0])))
    assert np.isnan(kendall_tau(np.array([1.0, 2.0]), np.array([3.0, 3.0])))


@given(st.integers(0, 2**32 - 1))
def test_share_in_agreement_is_the_share_of_positive_taus(seed):
    a, b = np.random.default_rng(seed).integers(0, 4, size=(2, 20, 4)).astype(float)
    positive = [kendall_tau(x, y) > 0 for x, y in zip(a, b, strict=True)]
    assert share_in_agreement(a, b) == pytest.approx(np.mean(positive))


def test_an_unknown_value_is_no_agreement():
    a = np.array([[1.0, 2.0, 3.0], [1.0, np.nan, 3.0]])
    assert share_in_agreement(a, a) == 0.5


def test_resampled_means_scatter_as_the_bootstrap_says():
    values = np.array([1.0, 2.0, 4.0, 7.0])
    means = resampled_means(values, 40000, np.random.default_rng(0))
    assert means.shape == (40000,)
    assert means.mean() == pytest.approx(3.5, abs=0.02)
    assert means.std() == pytest.approx(values.std() / 2, rel=0.02)
