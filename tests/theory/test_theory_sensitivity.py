import math

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

from ntktune.theory.complexity import stopping_time
from ntktune.theory.shift import difference_noise, noise_estimate, shift_estimate
from ntktune.theory.stopping import labels_stop, sensitivity_rows, stopping_row


def problem(n=300, sigma=0.3):
    random = np.random.default_rng(8)
    x = np.sort(random.random(n))
    gram = np.minimum.outer(x, x)
    return gram, np.sin(5 * x) + sigma * random.normal(size=n)


def test_every_estimate_finds_a_known_noise():
    gram, shift = problem()
    rows = pd.DataFrame(sensitivity_rows(gram, shift, step_size=1.0))
    own = rows[(rows["sigma_factor"] == 1) & (rows["radius_factor"] == 1)]
    assert set(own["sigma_source"]) == {"gcv", "likelihood", "difference"}
    assert own["sigma"].to_numpy() == pytest.approx(0.3, rel=0.15)
    assert len(rows) == 3 * 2 * 5


def test_the_likelihood_is_that_of_the_gaussian():
    gram, shift = problem(60)
    identity, n = np.eye(60), 60

    def minus_log(parameters):
        scale, noise = np.exp(parameters)
        covariance = scale * gram / n + noise * identity
        return shift @ np.linalg.solve(covariance, shift) + np.linalg.slogdet(covariance)[1]

    best = minimize(minus_log, [2.0, -2.0], method="Nelder-Mead", options={"xatol": 1e-10})
    scale, noise = np.exp(best.x)
    found = shift_estimate(gram, shift, criterion="likelihood")
    assert found.sigma == pytest.approx(math.sqrt(noise), rel=1e-4)
    assert found.ridge == pytest.approx(noise / scale, rel=1e-3)
    weights = np.linalg.solve(gram + n * found.ridge * identity, shift)
    assert found.radius == pytest.approx(math.sqrt(weights @ gram @ weights), rel=1e-6)


def test_differences_between_neighbours():
    x = np.array([0.0, 0.1, 5.0, 5.2])
    gram = 1 + np.outer(x, x)
    assert difference_noise(gram, [1.0, 1.4, 0.0, 1.0]) == pytest.approx(
        math.sqrt((2 * 0.4**2 + 2 * 1.0**2) / 8)
    )


def test_a_smoothing_that_finds_no_noise_says_so():
    """Its σ would be that of the float type; the noise is then read from neighbours."""
    gram, _ = problem(40)
    shift = gram @ np.sin(np.arange(40.0)) / 40  # of this kernel, without noise
    estimate = shift_estimate(gram, shift)
    assert not estimate.identified
    assert noise_estimate(gram, shift, estimate, None) == (
        difference_noise(gram, shift),
        "difference",
    )
    assert noise_estimate(gram, shift, estimate, 0.2) == (0.2, "ratings")
    noisy, shift = problem(80)
    estimate = shift_estimate(noisy, shift)
    assert estimate.identified
    assert noise_estimate(noisy, shift, estimate, None) == (estimate.sigma, "residual")


def test_factors_and_raters():
    gram, shift = problem(80)
    rows = pd.DataFrame(sensitivity_rows(gram, shift, step_size=0.5, rated_sigma=0.25))
    own = rows[(rows["sigma_source"] == "ratings") & (rows["radius_source"] == "gcv")]
    estimate = shift_estimate(gram, shift)
    values = np.linalg.eigvalsh(gram / 80)
    for row in own.itertuples():
        assert row.sigma == pytest.approx(0.25 * row.sigma_factor)
        assert row.radius == pytest.approx(estimate.radius * row.radius_factor)
        time = stopping_time(values, sigma=row.sigma, radius=row.radius, step_size=0.5)
        assert (row.stopping_time, row.eta) == (time, 0.5 * time)
    more = own.set_index(["sigma_factor", "radius_factor"])["stopping_time"]
    assert more[0.5, 1] >= more[1, 1] >= more[2, 1]
    # only C_H/σ counts
    assert more[0.5, 1] == more[1, 2]


def test_no_noise_at_all():
    rows = pd.DataFrame(sensitivity_rows(np.eye(5), np.zeros(5), step_size=1.0))
    assert rows["stopping_time"].isna().all()
    assert rows["critical_radius"].isna().all()


def test_labels_in_columns_stop_as_one_does():
    gram, label = problem(80)
    alone = labels_stop(gram, label[:, None])
    row = stopping_row(gram, np.zeros(80), label, np.full(80, np.nan), kind="regression")
    assert alone == pytest.approx({key: row[key] for key in alone}, rel=1e-6)
    alike = labels_stop(gram, np.column_stack([3 * label, 7 - 3 * label]))  # any unit and mean
    assert alike == pytest.approx(alone, rel=1e-6)
    other = np.random.default_rng(1).standard_normal(80)  # noise alone is no reason to go on
    assert labels_stop(gram, np.column_stack([label, other]))["eta"] < alone["eta"]
    # neighbours whose labels are alike show no noise
    twice = np.kron(np.eye(4), np.ones((2, 2)))
    assert labels_stop(twice, np.repeat([[0.0], [1.0], [2.0], [5.0]], 2, axis=0)) is None
