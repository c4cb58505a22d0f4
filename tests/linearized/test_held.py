"""Trainings along the penalty, watched."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from tiny_network import SETTINGS, SUBSETS, made_up, text_model

from ntktune.finetune.methods import adapted_layers
from ntktune.finetune.repeats import fine_tuned_repeats
from ntktune.finetune.training import Lora
from ntktune.kernel import gram
from ntktune.linearized.held import held_seed
from ntktune.linearized.layers import weight_grams
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


@pytest.fixture(scope="module")
def adapted():
    model, examples = text_model(1), made_up("regression")
    settings = dataclasses.replace(SETTINGS, method="lora", lora=Lora(rank=2, alpha=4.0))
    before = copy.deepcopy(model.state_dict())
    cell = (model, examples, SUBSETS, 16, 0, settings, 5)
    penalties = [(share, False) for share in SHARES]
    rows = held_seed(*cell, penalties=penalties, test_rows=6)
    now = model.state_dict()
    assert {*now} == {*before}
    assert all(torch.equal(w, now[name]) for name, w in before.items() if "head" not in name)
    assert all(parameter.requires_grad for parameter in model.parameters())
    return cell, rows


def test_adapters_are_held_by_the_distance_of_the_merged_weights(adapted):
    (model, examples, *_, settings, root), rows = adapted
    (repeat,) = fine_tuned_repeats(model, examples, SUBSETS, 16, settings, root, [0])
    plain = best(rows, 0.0)
    assert plain["step"] == repeat.training.best.step
    assert plain["holdout_loss"] == pytest.approx(repeat.training.best.holdout_loss, rel=1e-9)
    last = [max(r["distance"] for r in rows if r["share"] == share) for share in SHARES]
    assert last[0] > last[1] > last[2] > last[3]
    assert last[1] > 0.6 * last[0]
    assert last[3] < 1e-9
    assert best(rows, 1e12)["loss_solution"] == pytest.approx(best(rows, 1e12)["start_loss"])


def test_adapters_linear_twin_moves_their_layers_alone(adapted):
    (model, examples, _, _, _, settings, _), rows = adapted
    layers = adapted_layers(model.backbone, settings.lora)
    watch = begin_watch(*adapted[0], 6, 1.0)
    texts = [examples.ids[i] for i in (*watch.start.train, *watch.test)]
    grams = weight_grams(model, texts, dtype=torch.float64)[0]
    kernel = grams["head"] + sum(grams[f"{layer}.weight"] for layer in layers)
    n = len(watch.start.train)
    ridge = np.linalg.eigvalsh(kernel[:n, :n])[-1]
    assert best(rows, 1.0)["ridge"] == pytest.approx(ridge)
    shift = watch.origin.shift[:n]
    weights = np.linalg.solve(kernel[:n, :n] + ridge * np.eye(n), shift)
    values = watch.origin.start + kernel[n:, :n].numpy() @ weights
    wanted = np.mean((values - watch.target[watch.test]) ** 2)
    assert best(rows, 1.0)["loss_solution"] == pytest.approx(wanted, rel=1e-8)


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
