"""Statistics of a kernel, against published numbers and naive formulas, and bounds that hold."""

import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from ntktune.linearized import (
    addition,
    alignment,
    best_gcv,
    centred_spectrum,
    condition_number,
    gcv,
    log_evidence,
    residual_bounds,
    residual_norm_bound,
    smallest_rank,
    weyl_bounds,
)

KERNEL = np.array([[4.0, 2, 1, 0], [2, 3, 1, 1], [1, 1, 2, 0], [0, 1, 0, 1]])
LABEL = np.array([1.0, -1, 2, 0])


def drawn(draw, n, rank):
    factor = draw.normal(size=(n, rank)) * np.exp(draw.normal())
    return factor @ factor.T


def test_gcv_has_its_known_value_and_its_centred_minimum():
    assert gcv(KERNEL, LABEL, 0.5) == pytest.approx(2.2073885110, abs=1e-10)
    lowest, ridge = best_gcv(centred_spectrum(KERNEL), LABEL)
    # the same of three orthogonal contrasts, which the mean leaves
    contrasts = np.linalg.qr(np.column_stack([np.ones(4), np.eye(4)[:, :3]]))[0][:, 1:]
    inner, along = contrasts.T @ KERNEL @ contrasts, contrasts.T @ LABEL
    assert lowest == pytest.approx(gcv(inner, along, ridge), rel=1e-9)
    largest = np.linalg.eigvalsh(inner)[-1]
    tried = [gcv(inner, along, share * largest) for share in np.logspace(-8, 2, 60)]
    assert lowest <= min(tried) * (1 + 1e-3)


def test_two_equal_texts_with_one_label_hide_no_error():
    """Their difference is told exactly by every ridge, and as δ → 0 nothing else counts."""
    draw = np.random.default_rng(0)
    factor, label = draw.normal(size=(60, 90)) * np.arange(1, 91) ** -0.5, draw.normal(size=60)
    alone, _ = best_gcv(centred_spectrum(factor @ factor.T), label)
    factor, label = np.vstack([factor, factor[:1]]), np.append(label, label[0])
    twice, _ = best_gcv(centred_spectrum(factor @ factor.T), label)
    assert twice == pytest.approx(alone, rel=0.1)


def test_directions_without_a_signal_are_no_part_of_the_labels():
    """Five texts, two of them equal: beside the constant vector a second eigenvalue is 0."""
    draw = np.random.default_rng(5)
    factor, label = draw.normal(size=(5, 9)), draw.normal(size=5)
    factor[4] = factor[3]
    kernel = factor @ factor.T
    # what no kernel can tell apart stays wrong, however small the ridge
    apart = (label[4] - label[3]) ** 2 / 2
    for shift in (0.0, 300.0):  # the constant part moves nothing
        error, ridge = best_gcv(centred_spectrum(kernel + shift), label)
        left = np.linalg.inv(
            kernel
            - kernel.mean(0)
            - kernel.mean(1)[:, None]
            + kernel.mean()
            + ridge * np.eye(5)
            + 1e9 * np.ones((5, 5))
        )
        rest = left @ label
        assert rest @ rest >= apart / ridge**2 * (1 - 1e-6)
        trace = np.trace(left)
        assert error == pytest.approx(4 * rest @ rest / trace**2, rel=1e-5)
        assert error >= 4 * apart / ridge**2 / trace**2 * (1 - 1e-5)
        assert condition_number(centred_spectrum(kernel + shift)) == math.inf


def test_nothing_is_read_below_the_kernels_own_precision():
    draw = np.random.default_rng(6)
    kernel, label = drawn(draw, 30, 10) + 1e4, draw.normal(size=30)  # 20 directions are noise
    rough = kernel.astype(np.float32).astype(float)
    rough = (rough + rough.T) / 2
    precision = float(np.finfo(np.float32).eps)
    assert condition_number(centred_spectrum(rough, precision)) == math.inf
    error, ridge = best_gcv(centred_spectrum(rough, precision), label)
    assert ridge >= 30 * precision * 1e4
    smooth, _ = best_gcv(centred_spectrum(kernel, precision), label)
    assert error == pytest.approx(smooth, rel=0.2)


def test_the_evidence_has_its_known_values_and_is_that_of_the_normal_law():
    assert log_evidence(KERNEL, LABEL, ratio=1.0) == pytest.approx(-1.7375958664, abs=1e-10)
    assert log_evidence(KERNEL, LABEL, ratio=0.5) == pytest.approx(-1.7762941927, abs=1e-10)
    best = log_evidence(KERNEL, LABEL)
    laws = []
    for ratio in np.logspace(-12, 12, 200):
        shape = KERNEL / ratio + np.eye(4)
        scale = LABEL @ np.linalg.solve(shape, LABEL) / 4  # the best 1/β
        law = multivariate_normal(np.zeros(4), scale * shape)
        laws.append(law.logpdf(LABEL) / 4)
    assert best == pytest.approx(max(laws), abs=1e-4)
    assert best >= max(laws) - 1e-12


def test_iris_has_its_published_evidence_whatever_the_features_are_padded_with():
    from sklearn.datasets import load_iris

    features, label = load_iris(return_X_y=True)
    classes = np.eye(3)[label]
    wanted = pytest.approx(-0.16006024341739, abs=1e-9)
    assert log_evidence(features @ features.T, classes) == wanted
    turned = features @ np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    padded = np.column_stack([turned, np.zeros((150, 5))])
    assert log_evidence(padded @ padded.T, classes) == wanted


def test_condition_and_alignment_are_of_the_centred_kernel():
    draw = np.random.default_rng(3)
    kernel = drawn(draw, 7, 20)
    values = np.linalg.eigvalsh(kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean())
    assert condition_number(centred_spectrum(kernel)) == pytest.approx(
        values[-1] / values[1], rel=1e-9
    )
    assert condition_number(centred_spectrum(kernel), 2.0) == pytest.approx(
        (values[-1] + 2) / (values[1] + 2)
    )
    assert condition_number(centred_spectrum(kernel + 50)) == pytest.approx(
        condition_number(centred_spectrum(kernel)), rel=1e-9
    )
    assert condition_number(centred_spectrum(drawn(draw, 7, 3))) == math.inf
    label = draw.normal(size=7)
    own = np.outer(label, label)
    assert alignment(own, label) == pytest.approx(1, abs=1e-12)
    assert alignment(3 * kernel + 5, label + 9) == pytest.approx(alignment(kernel, label))
    assert 0 < alignment(kernel, label) < 1


def test_two_thousand_random_kernels_keep_the_bounds():
    draw = np.random.default_rng(4)
    for _ in range(2000):
        n = int(draw.integers(2, 9))
        kernel, added = (drawn(draw, n, int(draw.integers(1, 12))) for _ in range(2))
        ridge, label = np.exp(3 * draw.normal()), draw.normal(size=n)
        values, slack = np.linalg.eigvalsh(kernel + added), 1e-9 * np.trace(kernel + added)
        low, high = weyl_bounds(kernel, added)
        assert (low <= values + slack).all()
        assert (values <= high + slack).all()
        inner, whole = kernel + ridge * np.eye(n), kernel + added + ridge * np.eye(n)
        before, after = (np.linalg.solve(matrix, label) for matrix in (inner, whole))
        low, high = residual_bounds(kernel, added, ridge)
        assert low * (1 - 1e-9) <= label @ after / (label @ before) <= high * (1 + 1e-9)
        norm = np.linalg.norm(after) / np.linalg.norm(before)
        assert norm >= residual_norm_bound(kernel, added, ridge) * (1 - 1e-9)


def test_one_example_has_one_ratio():
    """The case that contradicts a published bound (Afzal et al. 2026, theorem 7): it says 10."""
    one, three = np.array([[1.0]]), np.array([[3.0]])
    assert residual_bounds(one, three, 1.0) == pytest.approx((0.4, 0.4))
    assert residual_norm_bound(one, three, 1.0) == pytest.approx(0.4)


def test_what_more_layers_do_lies_within_its_bounds():
    """For all labels, by which a constant in kernels and labels makes no difference."""
    random = np.random.default_rng(3)
    for _ in range(200):
        kernel, added = (x @ x.T for x in random.normal(size=(2, 6, random.integers(1, 9))))
        label, ridge = random.normal(size=(6, 2)), 10 ** random.uniform(-3, 2)
        found = addition(kernel, added, label, ridge)
        assert 0 < found["residual_low"] * (1 - 1e-9) <= found["residual"]
        assert found["residual"] <= found["residual_high"] * (1 + 1e-9) <= 1 + 1e-9
        centred = np.eye(6) - 1 / 6
        largest = np.linalg.eigvalsh(centred @ (kernel + added) @ centred)[-1]
        assert found["largest_low"] <= largest * (1 + 1e-9)
        assert largest <= found["largest_high"] * (1 + 1e-9)
        y, inner = centred @ label, centred @ kernel @ centred + ridge * np.eye(6)
        solved = [
            np.sum(y * np.linalg.solve(m, y)) for m in (inner + centred @ added @ centred, inner)
        ]
        assert found["residual"] == pytest.approx(solved[0] / solved[1], rel=1e-8)
        moved = addition(kernel + 3.0, added, label + 5.0, ridge)
        assert moved == pytest.approx(found, rel=1e-6, abs=1e-9)
    nothing = addition(kernel, 0 * kernel, label, 1.0)
    assert [nothing[f"residual{end}"] for end in ("", "_low", "_high")] == pytest.approx([1.0] * 3)


@pytest.mark.parametrize(
    ("examples", "rank"),
    [(1, 2), (32, 8), (64, 11), (100, 14), (200, 20), (320, 25), (500, 32), (1024, 45)],
)
def test_the_smallest_rank_without_spurious_minima(examples, rank):
    assert smallest_rank(examples) == rank
    assert smallest_rank(1, outputs=examples) == rank
