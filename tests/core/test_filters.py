"""The filters against sums and products that take every step."""

import numpy as np

from ntktune.spectrum.filters import descent_filter, descent_shares, ridge_filter

VALUES = np.array([0.0, 1e-18, 0.03, 0.5, 1.0])


def test_shares_at_the_borders():
    found = descent_shares(VALUES, [0, 1, 10**9], 1.0)
    expected = [[0, 0, 0, 0, 0], [0, 1e-18, 0.03, 0.5, 1], [0, 1e-9, 1, 1, 1]]
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_the_filter_is_the_sum_over_steps():
    for step in (1.0, 0.3):
        found = descent_filter(VALUES, [0, 1, 7, 400], step)
        for row, t in zip(found, [0, 1, 7, 400], strict=True):
            expected = sum(step * (1 - step * VALUES) ** tau for tau in range(t))
            np.testing.assert_allclose(row, expected, rtol=1e-12)
        np.testing.assert_allclose(found * VALUES, descent_shares(VALUES, [0, 1, 7, 400], step))


def test_ridge():
    found = ridge_filter(VALUES, [0.5, 2.0])
    np.testing.assert_allclose(found[1], 1 / (VALUES + 2.0), rtol=1e-15)
    assert found.shape == (2, 5)
