"""What is left of the error after some training time."""

import numpy as np
import pytest
from scipy.linalg import expm

from ntktune.errors import UserError
from ntktune.selection.dynamics import remaining_error
from ntktune.selection.scores import coordinates


@pytest.mark.parametrize("outputs", [(), (3,)])
def test_it_is_the_matrix_exponential_and_has_its_limits(outputs):
    rng = np.random.default_rng(0)
    features, shift = rng.normal(size=(12, 7)), rng.normal(size=(12, *outputs))
    kernel = features @ features.T  # of rank 7
    for time in (0.0, 0.01, 0.3, 2.0):
        wanted = np.sum((expm(-0.2 * kernel * time) @ shift) ** 2)
        assert remaining_error(kernel, shift, time, 0.2) == pytest.approx(wanted, rel=1e-10)
    assert remaining_error(kernel, shift, 0) == pytest.approx(np.sum(shift**2), rel=1e-12)
    outside = shift - features @ np.linalg.pinv(features) @ shift
    for late in (1e9, np.inf):
        found = remaining_error(kernel, shift, late)
        assert found == pytest.approx(np.sum(outside**2), rel=1e-8)


def test_noise_of_the_kernels_precision_is_not_learned():
    rng = np.random.default_rng(0)
    features, shift = rng.normal(size=(40, 7)), rng.normal(size=40)
    rounded = (features @ features.T).astype(np.float32)
    exact = remaining_error(features @ features.T, shift, np.inf)
    eps = float(np.finfo(np.float32).eps)
    assert remaining_error(rounded, shift, np.inf, precision=eps) == pytest.approx(exact, rel=1e-4)
    assert coordinates(rounded, eps).shape == (40, 7)


@pytest.mark.parametrize(("time", "step"), [(-1, 1), (np.nan, 1), (1, 0), (1, np.inf)])
def test_impossible_times_are_told(time, step):
    with pytest.raises(UserError, match="time"):
        remaining_error(np.eye(2), np.ones(2), time, step)
