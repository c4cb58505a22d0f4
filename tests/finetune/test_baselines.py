"""Predictions without fine-tuning: kernel regression against its plain forms, and a probe."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from ntktune.finetune import regression
from ntktune.finetune.baselines import baseline_rows
from ntktune.finetune.regression import RIDGES, kernel_prediction, kernel_weights, probe_head

TRAIN, HOLDOUT, OTHERS = range(12), range(12, 17), range(17, 25)


@pytest.fixture
def problem():
    """25 rows: features, a kernel, f_0, and targets that are linear in the features and noisy."""
    random = np.random.default_rng(0)
    features = random.normal(size=(25, 4))
    start = random.normal(size=25)
    target = start + features @ [1.0, -2.0, 0.5, 0.0] + 0.3 * random.normal(size=25)
    # a ridge of its own, so that every strength makes another prediction
    return features, features @ features.T + 0.5 * np.eye(25), start, target


def holdout_best(predict, strengths, target):
    losses = [np.mean((predict(s)[HOLDOUT] - target[HOLDOUT]) ** 2) for s in strengths]
    return strengths[int(np.argmin(losses))]


def test_ridge_against_a_plain_solve(problem):
    _, gram, start, target = problem
    inside = gram[:12, :12]
    largest = np.linalg.eigvalsh(inside)[-1]

    def predict(share):
        weights = np.linalg.solve(inside + share * largest * np.eye(12), (target - start)[:12])
        return start + gram[:, :12] @ weights

    found, share = kernel_prediction(gram, start, target, TRAIN, HOLDOUT, OTHERS, "ridge")
    assert share == holdout_best(predict, RIDGES, target)
    np.testing.assert_allclose(found, predict(share)[17:], rtol=1e-8)


@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_descent_against_an_explicit_loop(problem, noise, monkeypatch):
    _, gram, start, target = problem
    target = target + noise * np.random.default_rng(1).normal(size=25)
    monkeypatch.setattr(regression, "STEPS", np.arange(60.0))
    factors = regression.FACTORS
    monkeypatch.setitem(factors, "descent", (factors["descent"][0], np.arange(60.0)))
    step = 12 / np.linalg.eigvalsh(gram[:12, :12])[-1]  # 1 over the largest eigenvalue of K_n
    path = [start]
    for _ in range(59):
        path.append(path[-1] + step / 12 * gram[:, :12] @ (target - path[-1])[:12])
    found, steps = kernel_prediction(gram, start, target, TRAIN, HOLDOUT, OTHERS, "descent")
    assert steps == holdout_best(lambda s: path[int(s)], np.arange(60.0), target)
    np.testing.assert_allclose(found, path[int(steps)][17:], rtol=1e-10)


def test_many_steps_interpolate(problem):
    random = np.random.default_rng(2)
    basis = np.linalg.qr(random.normal(size=(25, 25)))[0]
    gram = basis @ np.diag(np.logspace(0, -3, 25)) @ basis.T
    _, _, start, _ = problem
    target = start + gram @ random.normal(size=25)
    found, steps = kernel_prediction(gram, start, target, range(25), TRAIN, OTHERS, "descent")
    assert steps > 1e4  # as far as digits go
    np.testing.assert_allclose(found, target[17:], rtol=1e-6)


@pytest.mark.parametrize("method", ["ridge", "descent"])
def test_labels_without_a_signal_teach_nothing(problem, method):
    _, gram, start, _ = problem
    target = start + np.where(np.arange(25) < 12, 1.0, -1.0)  # what is learnt is wrong elsewhere
    gram = gram + 10  # every text resembles every other
    found, strength = kernel_prediction(gram, start, target, TRAIN, HOLDOUT, OTHERS, method)
    assert strength == {"ridge": RIDGES[0], "descent": 0}[method]
    assert np.abs(found - start[17:]).max() < (0.02 if method == "ridge" else 1e-12)


def test_a_kernel_of_zeros_leaves_the_start(problem):
    _, gram, start, target = problem
    found, _ = kernel_prediction(0 * gram, start, target, TRAIN, HOLDOUT, OTHERS, "ridge")
    np.testing.assert_array_equal(found, start[17:])


def test_order_of_the_rows_does_not_matter(problem):
    _, gram, start, target = problem
    first, _ = kernel_prediction(gram, start, target, TRAIN, HOLDOUT, OTHERS, "descent")
    again, _ = kernel_prediction(gram, start, target, TRAIN[::-1], HOLDOUT, OTHERS, "descent")
    np.testing.assert_allclose(first, again, rtol=1e-9)


def test_the_probe_is_ridge_regression_with_an_intercept(problem):
    features, _, _, target = problem
    features = features + 5  # only an intercept can take that out
    weights, offset, share = probe_head(features, target, TRAIN, HOLDOUT)
    found = features[17:] @ weights + offset
    centred = features[:12] - features[:12].mean(0)
    largest = np.linalg.eigvalsh(centred @ centred.T)[-1]
    peer = Ridge(alpha=share * largest).fit(features[:12], target[:12])
    np.testing.assert_allclose(found, peer.predict(features[17:]), rtol=1e-6)
    other = Ridge(alpha=1e-3 * share * largest).fit(features[:12], target[:12])
    losses = [((p.predict(features)[12:17] - target[12:17]) ** 2).mean() for p in (peer, other)]
    assert losses[0] <= losses[1] + 1e-12


@pytest.mark.parametrize("method", ["ridge", "descent"])
def test_several_outputs_share_a_strength(problem, method):
    """Outputs in opposite pairs, as two classes are, give what one of them gives."""
    _, gram, start, target = problem
    shift = target - start
    one, strength = kernel_weights(gram, shift, TRAIN, HOLDOUT, method)
    both, same = kernel_weights(gram, np.stack([-shift, shift], 1), TRAIN, HOLDOUT, method)
    assert same == strength
    np.testing.assert_allclose(both, np.stack([-one, one], 1), rtol=1e-12)
    other = np.random.default_rng(3).normal(size=25)
    mixed, strength = kernel_weights(gram, np.stack([shift, other], 1), TRAIN, HOLDOUT, method)
    strengths = regression.FACTORS[method][1]
    losses = []
    for value in strengths:
        with pytest.MonkeyPatch.context() as patch:
            made = regression.FACTORS[method][0]
            place = int(np.flatnonzero(strengths == value)[0])
            only = (lambda v, made=made, place=place: made(v)[place : place + 1], [value])
            patch.setitem(regression.FACTORS, method, only)
            alone = [kernel_weights(gram, y, TRAIN, HOLDOUT, method)[0] for y in (shift, other)]
        predicted = [gram[12:17, :12] @ weights for weights in alone]
        losses.append(((np.stack(predicted, 1) - np.stack([shift, other], 1)[12:17]) ** 2).mean())
        if value == strength:
            np.testing.assert_allclose(mixed, np.stack(alone, 1), rtol=1e-9)
    # of many steps all give the same, but for rounding
    assert losses[list(strengths).index(strength)] == pytest.approx(min(losses), rel=1e-9)


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_a_learning_curve_from_one_matrix(kind, examples, subsets):
    data = examples(kind)
    features = {row: np.array([ids[-1], 1.0, float(len(ids))]) for row, ids in enumerate(data.ids)}
    rows = [*subsets["seeds"][0]["order"], *subsets["test"]]
    x = np.array([features[row][0] for row in rows]) / 10
    gram = np.exp(-0.5 * (x[:, None] - x[None, :]) ** 2)
    kernels = {0: (gram, np.full(len(rows), 7.0), rows)}
    found = baseline_rows(data, subsets, [15, 20], features, kernels)
    methods = {(r["method"], r["n"], r["seed"]) for r in found}
    kernel = {(f"kernel-{m}", n, 0) for m in ("ridge", "descent") for n in (15, 20)}
    assert methods == {("linear-probe", n, seed) for n in (15, 20) for seed in (0, 1)} | kernel
    score = {"regression": "pearson", "classification": "accuracy"}[kind]
    # the label is a function of the last token
    assert all(row[score] > 0.8 for row in found if row["n"] == 20)
    assert all(np.isnan(row["mse"]) == (kind == "classification") for row in found)
    # rows that the matrix lacks: sizes that need them are left out
    some = kernels[0][0][5:, 5:], kernels[0][1][5:], rows[5:]
    fewer = baseline_rows(data, subsets, [15, 20], features, {0: some})
    assert {r["method"] for r in fewer} == {"linear-probe"}


def test_the_offset_of_the_start_does_not_matter(examples, subsets):
    """As in fine-tuning, where the head's bias takes it out."""
    data = examples()
    rows = [*subsets["seeds"][0]["order"], *subsets["test"]]
    features = {row: np.array([float(ids[-1])]) for row, ids in enumerate(data.ids)}
    gram = np.eye(len(rows)) + 1
    start = np.random.default_rng(0).normal(size=len(rows))
    found = [
        baseline_rows(data, subsets, [20], features, {0: (gram, start + shift, rows)})
        for shift in (0.0, 100.0)
    ]
    assert [r["mse"] for r in found[0]] == pytest.approx([r["mse"] for r in found[1]])


def test_equal_labels_are_named(examples, subsets):
    from ntktune.errors import UserError

    data = dataclasses.replace(examples(), label=np.zeros(60))
    with pytest.raises(UserError, match="all 16 labels of the training part are 0"):
        baseline_rows(data, subsets, [20], {row: np.ones(2) for row in range(60)}, {})
