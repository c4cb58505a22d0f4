"""The four rules against loops that take every step."""

import numpy as np
import pytest

from ntktune.theory.complexity import stopping_time
from ntktune.theory.rules import four_rules
from ntktune.theory.shift import shift_estimate

TRAIN, HOLDOUT, TEST = range(24), range(24, 32), range(32, 60)


@pytest.fixture
def problem():
    random = np.random.default_rng(3)
    x = np.sort(random.random(60))[random.permutation(60)]
    gram = np.minimum.outer(x, x)
    start = 0.1 * random.normal(size=60)
    return gram, start, np.sin(6 * x) + 0.3 * random.normal(size=60)


def loop(gram, start, label, rows, steps):
    """Return f_t on all rows for t = 0..steps, by gradient descent on some of them."""
    rows = list(rows)
    values = [start.copy()]
    step = min(1.0, len(rows) / np.linalg.eigvalsh(gram[np.ix_(rows, rows)])[-1])
    for _ in range(steps):
        left = label[rows] - values[-1][rows]
        values.append(values[-1] + step * gram[:, rows] @ left / len(rows))
    return np.array(values), step


def test_times_and_errors_are_those_of_the_loop(problem):
    gram, start, label = problem
    found = {
        row["rule"]: row for row in four_rules(gram, start, label, TRAIN, HOLDOUT, TEST, sigma=0.3)
    }
    every = [*TRAIN, *HOLDOUT]
    path, step = loop(gram, start, label, every, 64)
    half, half_step = loop(gram, start, label, TRAIN, 64)

    def error(values, rows=TEST):
        return ((values[:, list(rows)] - label[list(rows)]) ** 2).mean(axis=1)

    held = error(half, HOLDOUT)
    whole = gram[np.ix_(every, every)]
    radius = shift_estimate(whole, (label - start)[every]).radius
    stop = stopping_time(np.linalg.eigvalsh(whole / 32), sigma=0.3, step_size=step, radius=radius)
    assert found["theory"]["time"] == stop <= 64
    assert found["theory"]["test_error"] == pytest.approx(error(path)[stop], rel=1e-8)
    assert found["theory"]["eta"] == pytest.approx(stop * step)
    for rule, values, errors, alpha in (
        ("oracle", path, error(path), step),
        ("holdout", half, held, half_step),
    ):
        row = found[rule]
        assert row["eta"] == pytest.approx(row["time"] * alpha)
        if row["time"] <= 64:
            assert row["time"] == errors.argmin()
            assert row["test_error"] == pytest.approx(error(values)[row["time"]], rel=1e-8)
    assert (
        found["oracle"]["test_error"]
        <= min(found[r]["test_error"] for r in ("theory", "sure")) + 1e-12
    )
    assert found["sure"]["start_error"] == pytest.approx(error(path)[0])


def test_noise_that_is_not_given_is_estimated(problem):
    gram, start, label = problem
    rows = four_rules(gram, start, label, TRAIN, HOLDOUT, TEST)
    assert {row["sigma_source"] for row in rows} == {"residual"}
    assert rows[0]["sigma"] == pytest.approx(0.3, rel=0.5)
    loud = four_rules(gram, start, label, TRAIN, HOLDOUT, TEST, sigma=3.0)
    assert loud[0]["time"] < rows[0]["time"]  # more noise stops sooner
