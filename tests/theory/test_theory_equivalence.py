"""Early-stopped descent beside ridge: against both taken literally."""

import numpy as np
import pytest

from ntktune.theory.rules import equivalence_rows

TRAIN, TEST = range(20), range(20, 33)


@pytest.fixture
def rows():
    x = np.random.default_rng(3).random(33)
    random = np.random.default_rng(4)
    gram, start = np.minimum.outer(x, x) + 0.01, 0.1 * random.normal(size=33)
    label = np.sin(6 * x) + 0.2 * random.normal(size=33)
    found = equivalence_rows(gram, start, label, TRAIN, TEST, step_size_factor=0.5)
    return gram, start, label, found


def test_a_row_is_descent_and_ridge_at_its_time(rows):
    gram, start, label, found = rows
    inside = gram[:20, :20] / 20
    step = 0.5 * min(1.0, 1 / np.linalg.eigvalsh(inside)[-1])
    values = start.copy()
    for time in range(1, 31):
        values = values + step * gram[:, :20] @ (label - values)[:20] / 20
        row = found[time - 1]
        assert row["time"] == time
        assert row["eta"] == pytest.approx(step * time)
        weights = np.linalg.solve(inside + np.eye(20) / row["eta"], (label - start)[:20])
        ridge = start + gram[:, :20] @ weights / 20
        for part, rows_of in (("train", TRAIN), ("test", TEST)):
            apart = np.linalg.norm((values - ridge)[rows_of])
            scale = np.linalg.norm((values - start)[rows_of])
            assert row[f"distance_{part}"] == pytest.approx(apart / scale, rel=1e-8)
        own = np.mean((values - label)[TEST] ** 2)
        assert row["error_descent"] == pytest.approx(own, rel=1e-8)
        assert row["error_ridge"] == pytest.approx(np.mean((ridge - label)[TEST] ** 2), rel=1e-8)


def test_both_end_at_the_interpolation(rows):
    assert rows[3][-1]["distance_train"] < 0.01 < rows[3][4]["distance_train"]


def test_nothing_to_learn():
    gram = np.eye(33)
    label = np.append(np.zeros(20), np.ones(13))
    found = equivalence_rows(gram, np.zeros(33), label, TRAIN, TEST)
    assert {row["distance_train"] for row in found} == {0.0}
    assert {row["error_ridge"] for row in found} == {1.0}
