"""What a pilot predicts of larger samples."""

import numpy as np
import pytest

from ntktune.advise import Forecast, forecast, repeated
from ntktune.errors import UserError
from ntktune.linearized.statistics import best_gcv, centred_spectrum


def task(count, random, noise=0.3, decay=1.2):
    """Texts of Gaussian features: the kernel, labels, and features to test with."""
    ranks = np.arange(1, 401.0)
    weights = random.choice([-1, 1], len(ranks)) * ranks**-0.8
    weights /= np.linalg.norm(weights)
    features = random.standard_normal((count, len(ranks)))
    label = features @ weights + random.normal(0, noise**0.5, count)
    return (features * ranks**-decay) @ features.T, label


def true_error(kernel, label, count, tests, random, draws=20):
    """The error of the best ridge at n, of texts drawn from many."""
    errors = []
    for _ in range(draws):
        order = random.permutation(len(label))
        train, test = order[:count], order[-tests:]
        own = kernel[np.ix_(train, train)]
        values, vectors = np.linalg.eigh(own - own.mean(0) - own.mean(1)[:, None] + own.mean())
        across = kernel[np.ix_(test, train)]
        across = across - own.mean(0) - across.mean(1)[:, None] + own.mean()
        mean = label[train].mean()
        along = vectors.T @ (label[train] - mean)
        found = [
            np.mean(
                (across @ vectors @ (along / (np.maximum(values, 0) + d)) + mean - label[test]) ** 2
            )
            for d in np.logspace(-3, 2, 26)
        ]
        errors.append(min(found))
    return np.mean(errors)


def test_a_pilots_forecast_holds_on_average():
    random = np.random.default_rng(0)
    ratios, held = [], []
    counts = np.array([100, 200, 400])
    for _ in range(12):
        kernel, label = task(1000, random)
        truth = np.array([true_error(kernel, label, n, 400, random, 3) for n in counts])
        some = np.arange(100)
        found = forecast(kernel[np.ix_(some, some)], label[some], counts)
        assert isinstance(found, Forecast)
        assert (found.low < found.error).all()
        assert (found.error < found.high).all()
        ratios.append(found.error / truth)
        held.append((found.low < truth) & (truth < found.high))
    assert 0.7 < np.mean(held) < 1  # of an 80 % interval
    assert np.exp(np.abs(np.log(ratios)).mean()) < 1.2
    assert np.exp(np.log(ratios).mean(axis=0)) == pytest.approx([1, 1, 1], rel=0.15)


def test_a_forecast_needs_no_order_and_scales_with_its_labels():
    random = np.random.default_rng(1)
    kernel, label = task(60, random)
    found = forecast(kernel, label, [60, 120])
    order = random.permutation(60)
    moved = forecast(7 * kernel[np.ix_(order, order)] + 3, 10 * label[order] - 4, [60, 120])
    assert moved.error == pytest.approx(100 * found.error, rel=1e-6)
    twice = forecast(kernel, np.stack([label, label], axis=1), [60, 120])
    assert twice.error == pytest.approx(2 * found.error, rel=1e-8)


def test_at_the_pilots_own_number_an_error_is_cross_validation():
    kernel, label = task(80, np.random.default_rng(2))
    found = forecast(kernel, label, 80)
    known = best_gcv(centred_spectrum(kernel), label - label.mean())[0]
    assert found.error == pytest.approx(known, rel=0.01)  # on other ridges


def test_equal_texts_count_once():
    random = np.random.default_rng(3)
    kernel, label = task(40, random)
    rows = np.append(np.arange(40), [0, 0, 7])
    assert repeated(kernel[np.ix_(rows, rows)]).tolist() == rows.tolist()
    twice = forecast(kernel[np.ix_(rows, rows)], label[rows], [40, 80])
    for name, value in forecast(kernel, label, [40, 80])._asdict().items():
        np.testing.assert_array_equal(getattr(twice, name), value)


def test_what_no_forecast_can_be_made_of():
    kernel, label = task(11, np.random.default_rng(4))
    with pytest.raises(
        UserError, match="11 of 11 texts are left once equal ones count once; a fore"
    ):
        forecast(kernel, label, 100)
    kernel, _ = task(12, np.random.default_rng(4))
    with pytest.raises(UserError, match="all 12 texts have the same label"):
        forecast(kernel, np.ones(12), 100)


def test_a_rare_class_leaves_no_number_out():
    kernel, _ = task(60, np.random.default_rng(5))
    for rare in (1, 3, 9):
        label = np.arange(60) < rare
        found = forecast(kernel, label, [60, 120])
        assert all(np.isfinite(part).all() for part in found)


def test_a_constant_of_the_kernel_makes_no_texts_alike():
    kernel, label = task(60, np.random.default_rng(6))
    plain, moved = (forecast(kernel + c, label, [60, 120]) for c in (0.0, 1e6))
    assert moved.error == pytest.approx(plain.error, rel=1e-3)


@pytest.mark.parametrize(
    ("kernel", "label", "counts", "told"),
    [
        (np.eye(20), np.zeros(19), [20], r"shape \(20, 20\) and labels of shape \(19,\)"),
        (np.eye(20)[:, :19], np.zeros(20), [20], r"shape \(20, 19\)"),
        (np.full((20, 20), np.nan), np.zeros(20), [20], "must be finite"),
        (np.eye(20), np.full(20, np.nan), [20], "must be finite"),
        (np.eye(20), np.full(20, 1e160), [20], "must be finite"),
        (np.triu(np.ones((20, 20))), np.arange(20), [20], "must be symmetric"),
        (np.eye(20), np.arange(20), [np.inf], "counts of examples must be finite"),
        (np.eye(20), np.arange(20), [0], "1 or more"),
    ],
)
def test_what_is_no_pilot(kernel, label, counts, told):
    with pytest.raises(UserError, match=told):
        forecast(kernel, label, counts)


def test_one_column_marks_two_classes_at_most():
    kernel, _ = task(30, np.random.default_rng(7))
    with pytest.raises(UserError, match="has 3 values; give two, or a column per class"):
        forecast(kernel, np.arange(30) % 3, 60, classes=True)
    assert forecast(kernel, np.arange(30) % 2, 60, classes=True).base == 0.5


@pytest.mark.parametrize("shares", [None, (0.5, 0.5), (0.2, 0.8), (0.2, 0.3, 0.5)])
def test_of_noise_no_score_is_predicted(shares):
    """Neither below that of learning nothing: the mean of all other texts is low where y is high.

    Nor a high one, where the estimate of what is learned is not that of the error.
    """
    beyond = []
    for seed in range(30):
        random = np.random.default_rng(seed)
        features, label = random.standard_normal((60, 90)), random.standard_normal(60)
        if shares:
            label = np.eye(len(shares))[random.choice(len(shares), 60, p=shares)]
        found = forecast(features @ features.T, label, [60, 480], classes=bool(shares))
        assert (found.score >= found.base).all()
        assert (found.scores >= 0).all()
        beyond.append(found.score[-1] - found.base)
    assert np.median(beyond) < 0.1
    assert max(beyond) < 0.6


@pytest.mark.parametrize("shares", [None, (0.5, 0.5), (0.2, 0.3, 0.5)])
def test_scores_need_no_other_count_no_scale_and_one_variance_per_column(shares):
    random, counts = np.random.default_rng(1), np.array([10, 40, 45, 80, 320])
    for noise in (0.3, 3.0):
        kernel, label = task(40, random, noise=noise)
        if shares:
            order = np.searchsorted(np.cumsum(shares)[:-1] * 40, label.argsort().argsort(), "right")
            label = np.eye(len(shares))[order]
        how = {"classes": bool(shares)}
        whole = forecast(kernel, label, counts, **how)
        for n, score in zip(counts, whole.score, strict=True):
            alone = forecast(3e-9 * kernel, label, n, **how)
            assert alone.score == pytest.approx(score, abs=1e-9)
    if not shares:  # columns at other levels are as many tasks of the same score
        both = forecast(kernel, np.stack([label, label + 50], axis=1), counts)
        assert both.score == pytest.approx(whole.score, abs=1e-6)


@pytest.mark.parametrize("classes", [False, True])
def test_no_larger_sample_scores_lower(classes):
    counts = np.array([320, 40, 10, 80, 160])
    for seed in range(8):
        kernel, label = task(40, np.random.default_rng(seed), noise=1.0)
        found = forecast(kernel, np.sign(label) if classes else label, counts, classes=classes)
        assert (np.diff(found.score[counts.argsort()]) >= -1e-12).all()
        assert (np.diff(found.scores[:, counts.argsort()]) >= -1e-12).all()
