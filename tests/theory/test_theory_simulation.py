"""The outside check: the simulation of Raskutti, Wainwright & Yu (2014)."""

import numpy as np
import pytest

from ntktune.theory.descent import kernel_descent
from ntktune.theory.simulation import (
    radius_rows,
    simulated_rows,
    sobolev_problem,
    sure,
    tried_times,
)

# n: T, critical radius squared; mean error of theory, SURE, oracle, hold-out, over 400 repeats
TABLE = {
    20: (4, 0.881, 0.057, 0.110, 0.038, 0.129),
    40: (6, 0.615, 0.046, 0.079, 0.027, 0.079),
    80: (9, 0.432, 0.036, 0.043, 0.018, 0.051),
    100: (10, 0.372, 0.0335, 0.0345, 0.0166, 0.0427),
    200: (18, 0.214, 0.0237, 0.0181, 0.0098, 0.0262),
}


@pytest.mark.parametrize("n", TABLE)
def test_the_table_is_reproduced(n):
    stop, radius, *errors = TABLE[n]
    rows = {row["rule"]: row for row in simulated_rows(n, 400, np.random.default_rng(1))}
    assert rows["theory"]["time"] == stop
    assert round(rows["theory"]["critical_radius"] ** 2, 3) == radius
    for rule, expected in zip(("theory", "sure", "oracle", "holdout"), errors, strict=True):
        row = rows[rule]
        # both are means over 400 repeats, and the table's is rounded
        tolerance = 3 * np.sqrt(2) * row["error_stderr"] + 0.0006
        assert row["error"] == pytest.approx(expected, abs=tolerance), rule


def test_sure_is_unbiased_but_for_its_constant():
    gram, target = sobolev_problem(30)
    labels = target[:, None] + np.random.default_rng(2).standard_normal((30, 20_000))
    descent = kernel_descent(gram, labels, 0.25)
    times = [0, 3, 30]
    estimate = sure(descent, times, 1.0).mean(axis=1) - 1.0
    truth = descent.true_error(target, times).mean(axis=1)
    np.testing.assert_allclose(estimate, truth, atol=0.01)


def test_times_are_all_at_first_and_then_a_grid():
    times = tried_times(40_000)
    assert times[:65].tolist() == list(range(65))
    assert times[-1] == 40_000
    ratios = times[66:] / times[65:-1]
    assert 1 < ratios.min() < ratios.max() < 1.08
    assert tried_times(10)[-1] == 64


def test_the_critical_radius_falls_as_eq_30_says():
    rows = radius_rows([1.2, 1.5, 2.0, 3.0, 4.0], [10_000, 100_000, 1_000_000])
    for row in rows:
        assert row["predicted"] == pytest.approx(-row["decay"] / (row["decay"] + 1))
        assert row["measured"] == pytest.approx(row["predicted"], abs=0.03)
