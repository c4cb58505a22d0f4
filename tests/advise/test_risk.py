"""The error at any number of examples, against known answers and simulated texts."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from ntktune.advise.risk import (
    Risk,
    accuracy,
    estimated_risk,
    examples_for,
    explained,
    exponents,
    known_risk,
    left_out,
    predicted,
    threshold,
)
from ntktune.errors import UserError
from ntktune.linearized.statistics import centred_spectrum, gcv

EIGENVALUES, COEFFICIENTS = [1, 1 / 2, 1 / 4, 1 / 8], [1, 1 / 4, 1 / 16, 0]
KERNEL = np.array([[4, 2, 1, 0], [2, 3, 1, 1], [1, 1, 2, 0], [0, 1, 0, 1.0]])
LABEL = np.array([1, -1, 2, 0.0])


@pytest.mark.parametrize(
    ("count", "ridge", "kappa", "factor", "test", "train"),
    [
        (2, 0.0, 0.3535533906, 2.2955940092, 0.5338800834, 0.0),
        (2, 0.1, 0.4553166914, 1.8486360911, 0.5189491852, 0.0062580309),
        (3, 0.5, 0.4284356212, 1.4755942860, 0.3956382027, 0.0598721116),
    ],
)
def test_a_known_kernels_error(count, ridge, kappa, factor, test, train):
    found = threshold(EIGENVALUES, count, ridge)
    risk = known_risk(EIGENVALUES, COEFFICIENTS, 0.1, found)
    assert found == pytest.approx(kappa, abs=6e-11)
    assert count / (count - risk.d2[0]) == pytest.approx(factor, abs=6e-11)
    error = count * risk.squared[0] / (count - risk.d2[0])
    assert error == pytest.approx(test, abs=6e-11)
    assert (ridge / (count * found)) ** 2 * error == pytest.approx(train, abs=6e-11)
    assert risk.d1[0] + ridge / found == pytest.approx(count, rel=1e-12)  # conservation


def test_what_is_learned_of_a_known_target():
    for count, ridge, learned in ((2, 0, 0.6941951102), (2, 0.1, 0.6401032337)):
        risk = known_risk(EIGENVALUES, COEFFICIENTS, 0.1, threshold(EIGENVALUES, count, ridge))
        share = (risk.variance - risk.linear[0]) / sum(COEFFICIENTS)
        assert share == pytest.approx(learned, abs=6e-11)


def test_four_hundred_eigenvalues():
    ranks = np.arange(1, 401.0)
    kappa = threshold(ranks**-1.5, 60, 0.05)
    risk = known_risk(ranks**-1.5, ranks**-2, 0.05, kappa)
    error = 60 * risk.squared[0] / (60 - risk.d2[0])
    assert error == pytest.approx(0.1205834, abs=5e-8)
    assert (0.05 / (60 * kappa)) ** 2 * error == pytest.approx(0.0018495, abs=5e-8)


def test_a_matrix_by_hand():
    risk = estimated_risk(KERNEL, LABEL, [0.5], centred=False)
    wanted = (0.4414682540, 2.8674157303, 1.3428176911, 1.4663584250, 1.5714285714)
    assert [float(array[0]) for array in risk[:5]] == pytest.approx(wanted, abs=6e-11)
    error = 4 * risk.squared[0] / (4 - risk.d2[0])
    assert error == pytest.approx(2.2073885110, abs=6e-11)
    assert error == pytest.approx(gcv(KERNEL, LABEL, 0.5), rel=1e-12)


def test_at_the_pilots_own_number_the_error_is_that_of_cross_validation():
    """Generalised cross-validation of the centred kernel, whatever the labels' level or scale."""
    middle = np.eye(4) - 0.25
    contrasts = np.linalg.svd(middle)[0][:, :3]
    centred, label = contrasts.T @ KERNEL @ contrasts, contrasts.T @ LABEL
    for ridge in (0.1, 1.0, 10.0):
        risk = estimated_risk(KERNEL, LABEL, [ridge])
        own = predicted(risk, 4)
        assert own.error == pytest.approx(gcv(centred, label, ridge), rel=1e-10)
        assert own.ridge == pytest.approx(ridge, rel=1e-8)
        moved = predicted(estimated_risk(KERNEL + 3.0, 2 * LABEL + 5, [ridge]), 4)
        assert moved.error == pytest.approx(4 * own.error, rel=1e-8)


def test_columns_of_labels_add_up():
    label = np.stack([LABEL, LABEL**2], axis=1)
    both, *each = (estimated_risk(KERNEL, own, [0.3]) for own in (label, *label.T))
    for name in ("squared", "linear", "variance"):
        total = sum(getattr(one, name) for one in each)
        assert getattr(both, name) == pytest.approx(total, rel=1e-12)
    assert both.d1 == pytest.approx(each[0].d1)


def _random_risk(random):
    size = random.integers(5, 60)
    values = np.sort(random.exponential(size=size) ** random.uniform(1, 4))[::-1]
    kappa = values[0] * np.logspace(2, -6, 50)
    return known_risk(values, random.exponential(size=size) ** 2, random.uniform(0, 1), kappa)


def test_the_number_for_an_error_is_the_smallest_that_reaches_it():
    random = np.random.default_rng(0)
    for _ in range(1000):
        risk = _random_risk(random)
        error = random.uniform(risk.squared.min() * 0.9, risk.variance)
        found = examples_for(risk, error)
        if error <= risk.squared.min():
            assert found == math.inf
            continue
        assert predicted(risk, found * (1 + 1e-9)).error <= error * (1 + 1e-9)
        fewer = np.linspace(0, found * (1 - 1e-9), 200)[1:]
        assert (predicted(risk, fewer).error > error).all()


def test_the_variance_needs_the_mean_alone():
    risk = estimated_risk(KERNEL, LABEL)
    for factor in (1.0, 10.0):
        assert examples_for(risk, factor * risk.variance) == 1


def test_the_error_falls_and_ends_at_the_variance():
    risk = _random_risk(np.random.default_rng(1))
    errors = predicted(risk, np.arange(1, 2000)).error
    assert (np.diff(errors) <= 1e-12).all()
    assert predicted(risk, 1e-9).error == risk.variance  # no threshold learns so little
    told = predicted(risk, [1, 1e9]).limited.tolist()
    assert told == [False, True]


def _joined(found):
    arrays = (np.concatenate([one[place] for one in found]) for place in range(6))
    return Risk(*arrays, found[0].variance)


@pytest.mark.parametrize(
    ("decay", "source", "slope", "noisy"),
    [(1.5, 0.5, -1.519, -0.594), (1.2, 0.25, -0.638, -0.386), (2, 0.5, -2.001, -0.657)],
)
def test_rates_of_power_laws(decay, source, slope, noisy):
    """Theory has 2 a r without noise, and 2 a r/(1 + 2 a r) with much (Cui et al. 2021)."""
    counts, ranks = np.array([512, 2048]), np.arange(1, 200_001.0)
    values, squares = ranks**-decay, ranks ** -(1 + 2 * decay * source)
    clean = _joined([known_risk(values, squares, 0, threshold(values, n)) for n in counts])
    errors = counts * clean.squared / (counts - clean.d2)
    assert np.log(errors[1] / errors[0]) / np.log(4) == pytest.approx(slope, abs=0.003)
    few = (values[:20_000], squares[:20_000])
    risk = _joined([known_risk(*few, 2.0, kappa) for kappa in np.logspace(0.5, -4, 200)])
    errors = predicted(risk, counts).error - 2.0
    assert np.log(errors[1] / errors[0]) / np.log(4) == pytest.approx(noisy, abs=0.01)


def test_a_pilot_estimates_the_population():
    """100 texts of Gaussian features, a = 1.2, r = 1/4, σ² = .3, and their error at 50 to 400."""
    random, ranks = np.random.default_rng(0), np.arange(1, 1001.0)
    values, squares = ranks**-1.2, ranks**-1.6
    squares /= squares.sum()
    kappa, counts = np.array([0.3, 0.1, 0.05, 0.02]), np.array([50, 100, 200])
    known = known_risk(values, squares, 0.3, kappa)
    fine = known_risk(values, squares, 0.3, values[0] * np.logspace(1, -4, 300))
    populations, errors = [], []
    for _ in range(100):
        features = random.standard_normal((100, len(ranks)))
        signs = random.choice([-1, 1], len(ranks))
        label = features @ (signs * np.sqrt(squares)) + random.normal(0, 0.3**0.5, 100)
        risk = estimated_risk((features * values) @ features.T, label)
        logs = -np.log(risk.kappa)  # ascending
        populations.append([np.interp(-np.log(kappa), logs, array) for array in risk[1:5]])
        errors.append(predicted(risk.guarded(), counts).error)
    wanted, error = np.array(known[1:5]), np.std(populations, axis=0) / 10  # of 100 pilots' mean
    # at given thresholds within 1 %; the lowest over thresholds is a little too low
    assert (np.abs(np.mean(populations, axis=0) - wanted) < 4 * error + 0.01 * wanted).all()
    assert (error < 0.02 * wanted).all()
    truth = predicted(fine, counts).error
    assert np.mean(errors, axis=0) == pytest.approx(truth, rel=0.08)
    assert (np.std(errors, axis=0) < 0.2 * truth).all()


@pytest.mark.parametrize(("decay", "source"), [(1.5, 0.5), (1.2, 0.25), (1.5, 1), (1.2, 0.05)])
def test_at_the_best_ridge_the_error_tells_the_correlation(decay, source):
    ranks = np.arange(1, 20_001.0)
    squares = ranks ** -(1 + 2 * decay * source)
    for noise in (0.1, 0.5, 2.0):
        risk = known_risk(ranks**-decay, squares / squares.sum(), noise, np.logspace(1, -5, 300))
        found = predicted(risk, [50, 200, 1000])
        spread = found.error - risk.variance + 2 * found.learned  # variance of the predictions
        correlation = found.learned / np.sqrt(risk.variance * spread)
        assert explained(found, risk.variance) ** 0.5 == pytest.approx(correlation, abs=0.003)


def test_what_is_explained_ends_at_nothing_and_at_all():
    learned = predicted(known_risk([1.0, 1.0], [0.5, 0.5], 0.0, [1e-9]), 100)
    assert explained(learned, 1.0) == pytest.approx(1)
    worse = learned._replace(error=np.array(1.3))
    assert explained(worse, 1.0) == 0


def test_the_ends_of_the_accuracy():
    assert accuracy(1.0, [0.3, 0.7]) == pytest.approx(1)
    assert accuracy(0.0, [0.5, 0.5]) == pytest.approx(0.5, abs=1e-3)
    assert accuracy(0.0, [0.2, 0.1, 0.7]) == pytest.approx(0.7)  # the most frequent
    rising = accuracy(np.linspace(0, 1, 200), [0.2, 0.1, 0.7])
    assert (np.diff(rising) > -1e-9).all()


def test_of_two_classes_the_accuracy_is_that_of_normal_predictions():
    learned, share = np.array([0.05, 0.2, 0.5, 0.7]), 0.3
    known = norm.cdf(np.sqrt(learned / (1 - learned)))
    assert accuracy(learned, [0.5, 0.5]) == pytest.approx(known, abs=1e-6)
    # labels −1 and 1 that are not as frequent: each class's mean, and where it is right
    mean, sd = 2 * share - 1, np.sqrt(4 * share * (1 - share) * learned * (1 - learned))
    right = share * norm.cdf((mean + learned * (1 - mean)) / sd)
    right += (1 - share) * norm.cdf(-(mean + learned * (-1 - mean)) / sd)
    assert accuracy(learned, [1 - share, share]) == pytest.approx(right, abs=1e-6)


def test_of_many_classes_the_accuracy_is_that_of_simulated_predictions():
    random, shares = np.random.default_rng(0), np.array([0.4, 0.3, 0.2, 0.1])
    label = random.choice(4, 40_000, p=shares)
    target, learned = np.eye(4)[label] - shares, 0.4
    noise = shares * (1 - shares) * 4 / 3 * learned * (1 - learned)
    drawn = random.standard_normal(target.shape) * np.sqrt(noise)
    found = np.mean(np.argmax(shares + learned * target + drawn, axis=1) == label)
    assert accuracy(learned, shares) == pytest.approx(found, abs=0.006)


@pytest.mark.parametrize(
    ("kernel", "label", "ridges", "told"),
    [
        (np.eye(5), np.arange(4.0), None, r"shape \(5, 5\) and labels of shape \(4,\)"),
        (np.eye(5)[:, :4], np.arange(5.0), None, r"shape \(5, 4\)"),
        (np.full((5, 5), np.nan), np.arange(5.0), None, "finite numbers below"),
        (np.eye(5), [0, 1, 2, np.inf, 4], None, "finite numbers"),
        (np.eye(5), [0, 1, 2, 1e160, 4], None, "finite numbers below"),
        (np.triu(np.ones((5, 5))), np.arange(5.0), None, "must be symmetric"),
        (np.eye(5), np.arange(5.0), [1.0, 0.0], "ridges must be above 0; there is 0"),
        (np.eye(5), np.arange(5.0), [-1.0], "there is -1"),
    ],
)
def test_what_is_no_kernel_no_label_and_no_ridge(kernel, label, ridges, told):
    with pytest.raises(UserError, match=told):
        estimated_risk(kernel, label, ridges)


def test_a_kernel_that_tells_no_texts_apart():
    for kernel in (np.zeros((5, 5)), np.full((5, 5), 3.0)):
        with pytest.raises(UserError, match="the centred kernel is zero but for rounding"):
            estimated_risk(kernel, np.arange(5.0))


def test_more_examples_than_directions_need_a_ridge():
    with pytest.raises(UserError, match="without a ridge 4 examples fit all 4 directions"):
        threshold(EIGENVALUES, 4)


def test_answers_to_texts_left_out_are_those_of_training_on_all_others():
    random = np.random.default_rng(0)
    features = random.standard_normal((14, 30))
    label, ridge = random.standard_normal((14, 2)), 3.0
    found = left_out(centred_spectrum(features @ features.T), label, ridge)
    for place in range(14):
        others = np.delete(np.arange(14), place)
        mean, x = label[others].mean(axis=0), features[others] - features[others].mean(axis=0)
        weights = np.linalg.solve(x.T @ x + ridge * np.eye(30), x.T @ (label[others] - mean))
        answer = (features[place] - features[others].mean(axis=0)) @ weights
        assert found[place] == pytest.approx(answer + label.mean(axis=0), abs=1e-10)


@pytest.mark.parametrize(("decay", "source"), [(1.5, 0.5), (1.2, 0.25)])
def test_decay_and_source_are_read_from_a_known_kernel_and_from_texts(decay, source):
    ranks = np.arange(1, 2001.0)
    values, squares = ranks**-decay, ranks ** -(1 + 2 * decay * source)
    squares /= squares.sum()
    fast = 2 * decay * source
    random = np.random.default_rng(0)
    features = random.standard_normal((200, len(ranks)))
    signs = random.choice([-1, 1], len(ranks))
    label = features @ (signs * squares**0.5) + random.normal(0, 0.3**0.5, 200)
    known = known_risk(values, squares, 0.3, np.logspace(-0.5, -2.5, 60))
    texts = estimated_risk((features * values) @ features.T, label).guarded()
    for risk in (known, texts):
        found = exponents(risk)
        assert found.decay == pytest.approx(decay, rel=0.15)
        assert found.source == pytest.approx(source, rel=0.3)
        assert found.rate == pytest.approx(fast / (1 + fast), abs=0.06)
    with pytest.raises(UserError, match="of more texts"):
        exponents(known_risk(values, squares, 0.3, [10, 20]))
