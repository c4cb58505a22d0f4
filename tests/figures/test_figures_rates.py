import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_study import NAN, SIZES, TASKS, metrics_table
from scipy.optimize import nnls
from scipy.stats import linregress

from ntktune.figures.claims import Span
from ntktune.figures.measures import kendall_tau
from ntktune.figures.rates import (
    EXPONENTS,
    curve_exponents,
    curve_points,
    exponent_interval,
    floor_fits,
    measured_exponent,
)
from ntktune.figures.verdicts import chance_of_order, order_span


def metrics_of(task, sizes=SIZES, **kwargs):
    return pd.concat([metrics_table(task, size, **kwargs) for size in sizes], ignore_index=True)


def measured(metrics):
    return measured_exponent(metrics)


@pytest.mark.parametrize("task", TASKS)
def test_a_known_exponent_is_recovered(task):
    _, kind, _, exponent = TASKS[task]
    found = measured(metrics_of(task))
    assert found["measured_exponent"] == pytest.approx(exponent, abs=1e-12)
    measure = {"regression": "MSE − label noise", "classification": "error rate"}[kind]
    assert found["error_measure"] == measure
    assert (found["sizes"], found["seeds"], found["reason"]) == (4, 3, "")
    # the seeds' own exponents are 0.02 apart; t of 0.975 with two degrees of freedom is 4.303
    half = 4.303 * 0.02 / 3**0.5
    assert found["measured_low"] == pytest.approx(exponent - half, abs=0.015)
    assert found["measured_high"] == pytest.approx(exponent + half, abs=0.015)


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


@pytest.mark.parametrize("count", [3, 5, 10])
@pytest.mark.parametrize(
    ("sizes", "floor", "noise"),
    [((16, 32, 64), 0.0, 0.1), ((32, 96, 320, 1024), 0.05, 0.05), ((32, 96, 320, 1024), 0.0, 0.05)],
)
def test_the_exponents_interval_covers_with_few_seeds(count, sizes, floor, noise):
    """Of 100 intervals 95 hold the exponent: with a slope, a floor, and a floor of 0.

    Fits to single seeds are biased where the floor is 0, and their t-interval holds it in 60.
    """
    random, sizes = np.random.default_rng(count), np.array(sizes)
    truth, held, repeats = floor + sizes**-0.5, 0, 500
    for _ in range(repeats):
        # a seed's sizes are nested: they share part of the noise
        own = random.standard_normal((count, len(sizes))) + random.standard_normal((count, 1))
        curves = truth * np.exp(noise * own - noise**2)
        low, high = exponent_interval(sizes, curves, curves.mean(axis=0))
        held += low <= 0.5 <= high
    assert held / repeats == pytest.approx(0.95, abs=0.02)


def test_with_few_sizes_the_exponent_is_the_slope_of_the_means():
    points = pd.DataFrame(
        {"n": [32, 64, 128] * 2, "seed": [0, 0, 0, 1, 1, 1], "error": [1, 0.5, 0.25, 3, 1.5, 0.75]}
    )
    means = points.groupby("n")["error"].mean()
    np.testing.assert_allclose(
        curve_exponents(means.index.to_numpy(), means.to_numpy()[None], means.to_numpy())[0], 1.0
    )
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


def test_what_limits_the_exponent_is_said():
    rising = metrics_of("rte").assign(accuracy=lambda m: 0.9 - m["n"] / 1000)
    found = measured(rising)
    assert (found["measured_exponent"], found["reason"]) == (0.0, "the error does not fall with n")
    step = metrics_of("rte").assign(accuracy=lambda m: np.where(m["n"] > 32, 0.9, 0.1))
    assert measured(step)["reason"] == "the exponent is at the largest that is tried, 3"


def test_an_end_beyond_the_exponents_tried_is_infinite():
    noise = np.random.default_rng(0).uniform(-0.4, 0.4, size=12)
    for sizes in ([16, 32, 64], None):
        flat = metrics_of("rte", seeds=2, **({"sizes": sizes} if sizes else {}))
        found = measured(flat.assign(accuracy=0.5 + noise[: len(flat)]))
        assert (found["measured_low"], found["measured_high"]) == (-np.inf, np.inf)


def test_a_seed_that_lacks_a_size_does_not_count_in_the_interval():
    whole = metrics_of("rte")
    lacking = whole[(whole["seed"] != 1) | (whole["n"] < whole["n"].max())]
    found, two = measured(lacking), measured(whole[whole["seed"] != 1])
    assert np.isfinite(found["measured_exponent"])
    # of the other two seeds' curves; the deviations are relative to the mean of all
    for end in ("measured_low", "measured_high"):
        assert found[end] == pytest.approx(two[end], rel=0.2)
    found = measured(lacking[lacking["seed"] != 2])
    assert np.isfinite(found["measured_exponent"])
    assert np.isnan([found["measured_low"], found["measured_high"]]).all()
    assert found["reason"] == "1 of 2 seeds have all 4 sizes; an interval needs two"


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


def spans(*values, half=0.1):
    return [Span(value, value - half, value + half) for value in values]


def test_the_interval_of_tau_counts_pairs_that_are_certain():
    a = spans(1.0, 2.0, 3.0)
    assert order_span(a, spans(5.0, 6.0, 7.0)) == pytest.approx((1, 1, 1))
    assert order_span(a, spans(7.0, 6.0, 5.0)) == pytest.approx((-1, -1, -1))
    # 6.0 and 6.15 may be either way
    assert order_span(a, spans(5.0, 6.0, 6.15)) == pytest.approx((1, 1 / 3, 1))
    assert order_span(a, spans(6.0, 5.0, 6.15)) == pytest.approx((1 / 3, -1 / 3, 1 / 3))
    assert order_span(a, spans(5.0, 6.0, 7.0), frozenset({(0, 2)})) == pytest.approx((1, 1 / 3, 1))
    unknown = [*spans(5.0, 6.0), Span(np.nan, np.nan, np.nan)]
    assert order_span(a, unknown)[1:] == pytest.approx((-1 / 3, 1))
    assert chance_of_order(3) == pytest.approx(1 / 6)
