"""Kernel descent in closed form against the loop it stands for."""

import numpy as np
import pytest

from ntktune.errors import UserError
from ntktune.theory.descent import kernel_descent


@pytest.fixture
def problem():
    random = np.random.default_rng(5)
    features = random.normal(size=(17, 9)) * np.arange(1, 10) ** -0.7  # 12 points, rank 9
    gram = features @ features.T
    return gram[:12, :12], gram[12:, :12], random.normal(size=12), random.normal(size=17)


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_the_closed_form_is_the_loop(problem, share):
    gram, cross, label, start = problem
    step = share / np.linalg.eigvalsh(gram / 12)[-1]
    descent = kernel_descent(gram, label - start[:12], step)
    inside, outside = start[:12].copy(), start[12:].copy()
    for t in range(301):
        if t in (0, 1, 2, 17, 300):
            np.testing.assert_allclose(
                start[:12] + descent.change_elsewhere(gram, t), inside, atol=1e-10
            )
            found = start[12:] + descent.change_elsewhere(cross, t)
            np.testing.assert_allclose(found, outside, atol=1e-10)
            error = np.mean((label - inside) ** 2)
            assert descent.training_error([t]) == pytest.approx(error, abs=1e-10)
        left = label - inside
        outside += step * cross @ left / 12
        inside += step * gram @ left / 12


def test_several_label_vectors_are_as_each_alone(problem):
    gram, cross, label, start = problem
    shifts = np.stack([label, label - start[:12]], axis=1)
    both = kernel_descent(gram, shifts, 0.05)
    for column, shift in enumerate(shifts.T):
        alone = kernel_descent(gram, shift, 0.05)
        np.testing.assert_allclose(
            both.change_elsewhere(gram, 7)[:, column], alone.change_elsewhere(gram, 7), atol=1e-14
        )
        np.testing.assert_allclose(
            both.change_elsewhere(cross, 7)[:, column], alone.change_elsewhere(cross, 7), atol=1e-14
        )
        errors = both.training_error([0, 3, 9])
        np.testing.assert_allclose(errors[:, column], alone.training_error([0, 3, 9]))


def test_errors_and_degrees_of_freedom_by_the_smoother(problem):
    gram, _, label, start = problem
    shift, truth = label - start[:12], np.sin(np.arange(12.0))
    descent = kernel_descent(gram, shift, 0.05)
    identity = np.eye(12)
    smoother = identity - np.linalg.matrix_power(identity - 0.05 * gram / 12, 9)
    assert descent.degrees_of_freedom([9]) == pytest.approx(np.trace(smoother))
    error = np.mean((smoother @ shift - truth) ** 2)
    assert descent.true_error(truth, [9]) == pytest.approx(error)


@pytest.mark.parametrize(
    ("gram", "shift", "step", "message"),
    [
        (np.eye(3), np.ones(4), 0.1, r"a kernel of shape \(3, 3\) does not fit labels of \(4,\)"),
        (np.eye(3) * np.nan, np.ones(3), 0.1, "not finite"),
        (np.eye(3), np.ones(3), 3.1, r"step_size is 3.1; it must be above 0 and at most .* = 3,"),
        (np.eye(3), np.ones(3), 0.0, "step_size is 0.0"),
    ],
)
def test_mistakes(gram, shift, step, message):
    with pytest.raises(UserError, match=message):
        kernel_descent(gram, shift, step)
