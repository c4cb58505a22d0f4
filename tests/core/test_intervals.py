"""The intervals cover what they say, with few values and with samples that share rows."""

import numpy as np
import pytest

from ntktune.intervals import count_that_decides, half_width, mean_interval, shared_rows

REPEATS = 20000


def covered(values, truth, shared=0.0, level=0.95):
    return np.mean(np.abs(values.mean(axis=0) - truth) <= half_width(values, shared, level))


@pytest.mark.parametrize("count", [3, 5, 10])
def test_the_mean_of_few_values_is_covered(count):
    values = np.random.default_rng(count).normal(2.0, 3.0, size=(count, REPEATS))
    assert covered(values, 2.0) == pytest.approx(0.95, abs=0.01)
    assert covered(values, 2.0, level=0.99) == pytest.approx(0.99, abs=0.005)


@pytest.mark.parametrize("count", [3, 5, 10])
def test_draws_that_share_rows_are_covered(count):
    """A pool of 60 texts, samples of 20: they share a third. The truth is that of all texts."""
    random = np.random.default_rng(count)
    found, wide, narrow = 4000, [], []
    for _ in range(found):
        pool = random.exponential(size=60) ** 0.5
        rows = np.stack([random.choice(60, 20, replace=False) for _ in range(count)])
        values, truth = pool[rows].mean(axis=1)[:, None], np.sqrt(np.pi) / 2
        wide.append(covered(values, truth, 1 / 3))
        narrow.append(covered(values, truth))
    assert np.mean(wide) == pytest.approx(0.95, abs=0.02)
    assert np.mean(narrow) < 0.9  # as if they were independent


def test_one_value_has_no_interval():
    assert np.isnan(mean_interval(np.array([1.0]))).all()
    assert np.isnan(half_width(np.array([1.0, np.nan])))
    assert np.isnan(half_width(np.array([1.0, 2.0]), shared=1.0))
    assert count_that_decides(np.array([1.0]), 0.5) is None


def test_shared_rows_is_the_mean_over_pairs():
    assert shared_rows(np.array([[0, 1, 2, 3], [2, 3, 4, 5], [6, 7, 8, 9]])) == pytest.approx(1 / 6)
    assert shared_rows(np.array([[0, 1]])) == 0.0


def test_the_count_that_decides_is_the_first_that_does():
    values = np.array([0.0, 1.0, 2.0])
    count = count_that_decides(values, 0.5)
    assert half_width(values, count=count) < 0.5 <= half_width(values, count=count - 1)
    assert count_that_decides(values, 0.0) is None
    # what the samples share sets a limit that no number of them passes
    assert count_that_decides(values, 0.5, shared=0.5) is None
