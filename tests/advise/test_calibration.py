"""Forecasts shifted by short trainings: known answers."""

import numpy as np
import pytest

from ntktune.advise import Forecast, forecast
from ntktune.advise.calibration import (
    Calibration,
    calibrated,
    compared,
    half_answers,
    links,
    on_test_set,
    pilot_halves,
)
from ntktune.advise.pilot import interval

COUNTS = np.array([50, 100, 200, 400])


@pytest.fixture
def texts():
    random = np.random.default_rng(0)
    features = random.standard_normal((60, 90)) * np.arange(1, 91.0) ** -0.5
    label = np.sign(features[:, :1] + 0.5 * random.standard_normal((60, 1)))
    return features, label


@pytest.mark.parametrize("classes", [True, False])
def test_links_have_an_inverse(classes):
    link, back = links(classes=classes)
    scores = np.array([0.02, 0.5, 0.97])
    assert back(link(scores)) == pytest.approx(scores)
    assert np.isfinite(link(np.array([0.0, 1.0]))).all()
    assert back(link(np.array([0.995]))) == pytest.approx(0.995)


def test_answers_are_those_of_ridge_regression_on_the_features(texts):
    features, label = texts
    train, test = np.arange(40), np.arange(40, 60)
    found = half_answers(features @ features.T, label, train, test)
    mean, x = features[train].mean(axis=0), features[train] - features[train].mean(axis=0)
    errors = []
    for ridge in np.logspace(-3, 4, 400):
        right = x.T @ (label[train] - label[train].mean(axis=0))
        weights = np.linalg.solve(x.T @ x + ridge * np.eye(90), right)
        answers = (features[test] - mean) @ weights + label[train].mean(axis=0)
        errors.append(np.abs(answers - found).max())
    assert min(errors) < 0.02  # one of these ridges is near the one that was taken
    assert np.corrcoef(found[:, 0], label[test, 0])[0, 1] > 0.5


def test_halves_are_of_one_size_and_tested_on_each_other():
    label = np.array([0] * 20 + [1] * 11)
    first, second = pilot_halves(label, 31, seed=0)
    own, other = first["seeds"][0], second["seeds"][0]
    assert len(own["order"]) == len(other["order"]) == len(own["holdout"]) == 15
    assert not {*own["order"]} & {*other["order"]}
    assert (first["test"], second["test"]) == (other["order"], own["order"])
    assert abs(label[own["order"]].mean() - label[other["order"]].mean()) < 0.1
    assert sum(own["holdout"]) == 3


def test_a_training_that_does_as_its_kernel_shifts_nothing(texts):
    features, label = texts
    kernel, halves = features @ features.T, [(range(30), range(30, 60)), (range(30, 60), range(30))]
    own = [
        np.mean(np.sign(half_answers(kernel, label, *half)) == label[list(half[1])])
        for half in halves
    ]
    found = compared(kernel, label, halves, own, classes=True)
    assert (found.labels, found.shift, found.spread) == (30, 0, 0)
    assert found.kernel == found.trained == pytest.approx(np.mean(own))
    better = compared(kernel, label, halves, [0.95, 0.97], classes=True)
    assert better.shift > 0
    assert np.isfinite(compared(kernel, label, halves, [np.nan, 0.9], classes=False).shift)
    assert better.spread > 0


@pytest.mark.parametrize("classes", [True, False])
def test_a_shift_moves_scores_and_its_spread_widens_their_interval(classes):
    score = np.array([0.5, 0.6, 0.7, 0.8])
    scores = score + 0.01 * np.resize([[-1], [1], [1], [-1]], (20, 1))
    rest = dict.fromkeys(("error", "low", "high", "limited"))
    before = Forecast(score=score, scores=scores, base=0.5, texts=100, **rest)
    link, back = links(classes=classes)
    shift = float(link(0.7) - link(0.6))
    found, known = calibrated(
        COUNTS, before, Calibration(100, 0.7, 0.6, shift, 0.0), classes=classes
    )
    assert found.score == pytest.approx(back(link(score) + shift))
    assert found.score[1] == pytest.approx(0.7)
    assert known.equivalent == pytest.approx(2, rel=1e-4)  # the kernel has .7 at 200
    wider, _ = calibrated(COUNTS, before, Calibration(100, 0.7, 0.6, shift, 0.3), classes=classes)
    (low, high), (least, most) = (interval(own.score, own.scores) for own in (found, wider))
    assert (most - least > 1.5 * (high - low)).all()
    _, known = calibrated(COUNTS, before, Calibration(100, 0.9, 0.6, 5.0, 0.0), classes=classes)
    assert known.equivalent == np.inf
    _, known = calibrated(COUNTS, before, Calibration(100, 0.4, 0.6, -2.0, 0.0), classes=classes)
    assert np.isnan(known.equivalent)
    flat = before._replace(score=np.array([0.5, 0.6, 0.6, 0.6]))
    _, known = calibrated(COUNTS, flat, Calibration(150, 0.6, 0.6, 0.0, 0.0), classes=classes)
    assert known.equivalent == pytest.approx(1)


@pytest.mark.parametrize("turned", [False, True])
def test_a_forecast_has_the_score_that_a_test_set_shows(texts, turned):
    features, label = texts
    label = label.copy()
    train, test = np.arange(40), np.arange(40, 60)
    if turned:  # a test set of which the pilot's labels say the opposite
        label[test] *= -1
    kernel, counts = features @ features.T, np.array([20, 40, 80, 400])
    before = forecast(kernel[:40, :40], label[:40], counts, classes=True)
    found, measured, own = on_test_set(kernel, label, train, test, counts, before, classes=True)
    right = np.sign(half_answers(kernel, label, train, test)) == label[test]
    assert measured == pytest.approx(right.mean())
    assert own == before.score[1]
    assert found.score[1] == pytest.approx(np.clip(measured, 0.01, 0.99))
    assert (found.score < before.score).all() if turned else measured > 0.6


def test_the_spread_of_a_test_set_is_that_of_its_score():
    random = np.random.default_rng(3)
    features = random.standard_normal((4040, 5))
    label = np.sign(features[:, :1] + random.standard_normal((4040, 1)))
    places, counts = np.arange(40), np.array([40, 80])
    flat = Forecast(*[np.full(2, 0.7)] * 2, np.full((20, 2), 0.7), *[None] * 3, 0.5, 40)
    for texts in (400, 4000):
        test = np.arange(40, 40 + texts)
        some = np.append(places, test)
        kernel = features[some] @ features[some].T
        found, measured, _ = on_test_set(
            kernel, label[some], places, test, counts, flat, classes=True
        )
        deviation = found.scores[:, 0].std()
        assert deviation == pytest.approx((measured * (1 - measured) / texts) ** 0.5, rel=0.05)
