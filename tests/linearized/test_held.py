"""Trainings along the penalty, watched."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from tiny_network import SETTINGS, SUBSETS, made_up, text_model

from ntktune.kernel import gram
from ntktune.linearized.held import held_seed
from ntktune.network.tangent import LogitDifference
from ntktune.theory.trajectory import begin_watch, watched_seed

SETTINGS = dataclasses.replace(SETTINGS, weight_decay=0.0)
SHARES = (0.0, 1e-3, 1.0, 1e12)


@pytest.fixture(scope="module", params=["regression", "classification"])
def held(request):
    model, examples = (
        text_model(2 if request.param == "classification" else 1),
        made_up(request.param),
    )
    before, shares = copy.deepcopy(model.backbone.state_dict()), []
    cell = (model, examples, SUBSETS, 16, 0, SETTINGS, 5)
    penalties = [(share, False) for share in SHARES]
    rows = held_seed(*cell, penalties=penalties, test_rows=6, progress=shares.append)
    assert shares == [0.25, 0.5, 0.75, 1]
    assert all(torch.equal(before[name], now) for name, now in model.backbone.state_dict().items())
    return cell, rows


def best(rows, share):
    (row,) = (row for row in rows if row["share"] == share and row["best"])
    return row


def test_without_a_penalty_it_is_the_studys_own_training(held):
    cell, rows = held
    watched = watched_seed(*cell, test_rows=6, descent_steps=1).evaluations
    (wanted,) = (row for row in watched if row["method"] == "adamw" and row["best"])
    found = best(rows, 0.0)
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, nan_ok=True)
    assert found["ridge"] == 0
    assert found["bound"] == np.inf
    assert np.isnan(found["error_solution"])


def test_a_larger_penalty_stays_nearer_and_an_infinite_one_stays(held):
    _, rows = held
    last = [max(r["distance"] for r in rows if r["share"] == share) for share in SHARES]
    assert last[0] > last[1] > last[2] > last[3]
    assert last[3] < 1e-9
    far = best(rows, 1e12)
    assert far["error_solution"] == pytest.approx(far["start_error"])


def test_the_solution_is_ridge_regressions_or_is_stationary(held):
    (model, examples, *_), rows = held
    row = best(rows, 1.0)
    watch = begin_watch(model, examples, SUBSETS, 16, 0, SETTINGS, 5, 6, 1.0)
    scalar = LogitDifference(model) if examples.kind == "classification" else model
    train, test = watch.start.train, watch.test
    texts = [examples.ids[i] for i in (*train, *test)]
    found = gram(scalar, texts, dtype=torch.float64)
    kernel, start, n = found.kernel.numpy(), found.outputs.numpy(), len(train)
    inside, target = kernel[:n, :n], watch.target[train]
    ridge = np.linalg.eigvalsh(inside)[-1]
    assert row["ridge"] == pytest.approx(ridge)
    if examples.kind == "regression":
        weights = np.linalg.solve(inside + ridge * np.eye(n), target - start[:n])
    else:
        weights = np.zeros(n)
        for _ in range(2000):  # of a contraction: λα = y / (1 + exp(y f))
            slope = target / (1 + np.exp(target * (start[:n] + inside @ weights)))
            weights = weights + 0.5 * (slope / ridge - weights)
    values = start[n:] + kernel[n:, :n] @ weights
    wanted = watch.target[test]
    if examples.kind == "regression":
        assert row["loss_solution"] == pytest.approx(np.mean((values - wanted) ** 2), rel=1e-8)
    else:
        loss = np.mean(np.log1p(np.exp(-wanted * values)))
        assert row["loss_solution"] == pytest.approx(loss, rel=1e-8)
        assert row["error_solution"] == np.mean((values > 0) != (wanted > 0))
