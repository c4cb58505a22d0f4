"""Metrics against hand-computed values and against scipy and scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import softmax
from sklearn import metrics as peer

from ntktune.figures.measures import METRIC_LABELS
from ntktune.finetune.metrics import (
    MEASURES,
    class_scores,
    classification_metrics,
    f1_score,
    pearson,
    regression_metrics,
    score,
    spearman,
)
from ntktune.study.config import schema
from ntktune.study.scores import METRICS, share_reached


def test_regression_by_hand():
    found = regression_metrics(
        np.array([1.0, 2.0, 4.0]),
        np.array([0.0, 2.0, 3.0]),
        training_label=np.array([1.0, 3.0]),
        score_range=(-1.0, 4.0),
        label_noise=np.array([0.1, 0.2, 0.3]),
    )
    assert found["mse"] == pytest.approx(2 / 3)
    assert found["mse_unit"] == pytest.approx(2 / 3 / 25)  # both rescaled by (y + 1) / 5
    assert found["baseline_mse"] == pytest.approx((4 + 0 + 1) / 3)
    assert found["noise_variance"] == pytest.approx(0.14 / 3)
    assert found["pearson"] == pytest.approx(13 / 14)
    assert found["spearman"] == pytest.approx(1)


def test_unit_error_is_that_of_rescaled_scores():
    rng = np.random.default_rng(0)
    prediction, label = rng.uniform(1, 5, 50), rng.uniform(1, 5, 50)
    common = {"training_label": label, "label_noise": np.full(50, math.nan)}
    raw = regression_metrics(prediction, label, score_range=(1, 5), **common)
    unit = regression_metrics((prediction - 1) / 4, (label - 1) / 4, score_range=(0, 1), **common)
    assert raw["mse_unit"] == pytest.approx(unit["mse"], rel=1e-12)
    assert math.isnan(raw["noise_variance"])
    without = regression_metrics(prediction, label, score_range=None, **common)
    assert math.isnan(without["mse_unit"])
    assert without["mse"] == raw["mse"]


def test_classification_by_hand():
    logits = np.array([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    label = np.array([1.0, 0.0, 0.0, 1.0])
    found = classification_metrics(logits, label, training_label=np.array([0, 1, 1]))
    assert found["accuracy"] == 0.5  # right, right, wrong, and the tie goes to class 0
    assert found["f1"] == pytest.approx(2 * 1 / (2 + 2))
    losses = [math.log1p(math.exp(-1)), math.log1p(math.exp(-2)), math.log1p(math.exp(3))]
    assert found["cross_entropy"] == pytest.approx((sum(losses) + math.log(2)) / 4)
    assert found["baseline_accuracy"] == 0.5
    assert found["baseline_f1"] == pytest.approx(2 / 3)


def test_three_classes_against_scikit_learn():
    random = np.random.default_rng(0)
    logits, label = random.normal(size=(40, 3)), random.integers(0, 3, 40)
    found = classification_metrics(logits, label, training_label=np.array([2, 0, 2, 1]))
    predicted, shares = logits.argmax(1), softmax(logits, axis=1)
    assert found["accuracy"] == peer.accuracy_score(label, predicted)
    assert found["f1"] == pytest.approx(peer.f1_score(label, predicted, average="macro"))
    assert found["cross_entropy"] == pytest.approx(peer.log_loss(label, shares))
    assert found["baseline_accuracy"] == np.mean(label == 2)
    assert found["baseline_f1"] == pytest.approx(
        peer.f1_score(label, np.full(40, 2), average="macro")
    )
    assert found["chance_accuracy"] == pytest.approx(1 / 3)
    by_class = [peer.f1_score(label == c, predicted == c) for c in range(3)]
    assert class_scores(logits, label) == pytest.approx(by_class)
    assert np.mean(by_class) == pytest.approx(found["f1"])


def test_cross_entropy_of_huge_logits_is_finite():
    found = classification_metrics(
        np.array([[1000.0, -1000.0]]), np.array([1]), training_label=np.array([0])
    )
    assert found["cross_entropy"] == 2000


@pytest.mark.parametrize("correlation", [pearson, spearman])
def test_constant_prediction_correlates_not_at_all(correlation):
    label = np.arange(5.0)
    assert correlation(np.full(5, 0.1), label) == 0.0
    assert correlation(label, np.full(5, 0.1)) == 0.0


@given(
    st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=3, max_size=30).filter(
        lambda p: len({a for a, _ in p}) > 1 and len({b for _, b in p}) > 1
    )
)
def test_correlations_against_scipy(pairs):
    first, second = np.array(pairs, float).T
    assert pearson(first, second) == pytest.approx(stats.pearsonr(first, second)[0], abs=1e-12)
    assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second)[0], abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=20))
def test_f1_against_scikit_learn(pairs):
    prediction, label = np.array(pairs).T
    assert f1_score(prediction, label) == pytest.approx(
        peer.f1_score(label, prediction, zero_division=0)
    )


def test_every_metric_that_a_task_may_name_is_a_score():
    """The schema, the check of a definition, what is computed and what figures print agree."""
    stated = {name for name in schema("task")["properties"]["metric"]["enum"] if name}
    assert stated == {name for some in METRICS.values() for name in some}
    assert stated == set(MEASURES) == set(METRIC_LABELS)
    label, output = np.array([1.0, 2, 4]), np.array([2.0, 2.5, 9])
    assert score("pearson", output, label) == pearson(output, label)
    assert score("spearman", output, label) == pytest.approx(1)
    assert score("mse", output, label) == pytest.approx((1 + 0.25 + 25) / 3)
    classes, predicted = np.array([0, 1, 1, 0]), np.array([True, True, False, False])
    assert score("accuracy", predicted, classes) == 0.5
    assert score("f1", predicted, classes) == 0.5
    assert all(math.isnan(score(name, label[:0], label[:0])) for name in stated)


def test_of_an_error_the_share_is_the_inverse():
    assert share_reached("accuracy", 0.6, 0.8) == pytest.approx(0.75)
    assert share_reached("mse", 0.8, 0.6) == pytest.approx(0.75)
    assert math.isnan(share_reached("pearson", 0.5, -0.1))
    assert math.isnan(share_reached("mse", 0.0, 0.5))
    assert math.isnan(share_reached("mse", 0.5, 0.0))
