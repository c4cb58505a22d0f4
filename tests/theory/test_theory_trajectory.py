"""A watched fine-tuning against explicit Jacobians and loops, in float64."""

import copy
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_network import SETTINGS, SUBSETS, made_up, text_model

from ntktune.errors import UserError
from ntktune.finetune.repeats import fine_tuned_repeats, start_seed
from ntktune.finetune.training import fine_tune
from ntktune.study.seeds import generator
from ntktune.theory import trajectory
from ntktune.theory.complexity import stopping_time
from ntktune.theory.drift import operator_stopping_times
from ntktune.theory.shift import shift_estimate
from ntktune.theory.trajectory import watched_seed

SIZE, TEST_ROWS, STEPS = 16, 5, 9
TRAIN = [i for i in range(SIZE) if i % 4]
HOLDOUT = [i for i in range(SIZE) if i % 4 == 0]
TEST = sorted(generator(5, "theory.test", "toy").permutation(range(20, 30))[:TEST_ROWS].tolist())


@pytest.fixture(scope="module", params=["regression", "classification"])
def watched(request):
    kind = request.param
    examples, model = made_up(kind), text_model(2 if kind == "classification" else 1)
    before = copy.deepcopy(model.backbone.state_dict())
    shares = []
    found = watched_seed(
        model,
        examples,
        SUBSETS,
        SIZE,
        0,
        SETTINGS,
        5,
        test_rows=TEST_ROWS,
        descent_steps=STEPS,
        step_size_factor=0.7,
        progress=shares.append,
    )
    after = model.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    return kind, examples, found


def scalar(model, ids):
    value = model(ids[None], torch.ones(1, len(ids), dtype=torch.long))[0]
    return value[1] - value[0] if value.ndim else value


def explicit(kind, examples):
    """Return the pretrained network with its head, and targets, as fine-tuning starts."""
    model = text_model(2 if kind == "classification" else 1)
    start = start_seed(model, examples, SUBSETS, SIZE, 0, SETTINGS, 5)
    label = examples.label
    assert (start.train, start.holdout) == (TRAIN, HOLDOUT)
    if kind == "classification":
        return model, 2 * label - 1
    return model, (label - label[TRAIN].mean()) / label[TRAIN].std()


def jacobian(model, rows, examples):
    parameters = list(model.parameters())
    found = []
    for row in rows:
        value = scalar(model, examples.ids[row])
        gradients = torch.autograd.grad(
            value, parameters, allow_unused=True, materialize_grads=True
        )
        found.append(torch.cat([g.flatten() for g in gradients]).numpy())
    return np.array(found)


def values(model, rows, examples):
    with torch.no_grad():
        return np.array([scalar(model, examples.ids[row]).item() for row in rows])


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()]).numpy()


def set_weights(model, vector):
    with torch.no_grad():
        torch.nn.utils.vector_to_parameters(torch.as_tensor(vector), model.parameters())


def error(kind, found, target):
    if kind == "classification":
        return np.mean((found > 0) != (target > 0))
    return np.mean((found - target) ** 2)


def loss(kind, found, target):
    if kind == "classification":
        return np.mean(np.log(1 + np.exp(-target * found)))
    return np.mean((found - target) ** 2)


def test_gradient_descent_is_the_loop(watched):
    kind, examples, watched = watched
    rows = [row for row in watched.evaluations if row["method"] == "gradient-descent"]
    assert [row["step"] for row in rows if not row["best"]] == [1, 2, 4, 8, 9]
    model, target = explicit(kind, examples)
    test = TEST
    start, theta = weights(model), weights(model)
    first, outside = jacobian(model, TRAIN, examples), jacobian(model, test, examples)
    f_train, f_test = values(model, TRAIN, examples), values(model, test, examples)
    kernel = first @ first.T
    step = 0.7 * min(1.0, len(TRAIN) / np.linalg.eigvalsh(kernel)[-1])
    assert watched.stop["step_size"] == pytest.approx(step, rel=1e-8)
    inside, elsewhere = f_train.copy(), f_test.copy()
    holdout = {0: np.mean((values(model, HOLDOUT, examples) - target[HOLDOUT]) ** 2)}
    for time in range(1, STEPS + 1):
        left = target[TRAIN] - values(model, TRAIN, examples)
        theta = theta + step / len(TRAIN) * left @ jacobian(model, TRAIN, examples)
        set_weights(model, theta)
        left = target[TRAIN] - inside
        elsewhere = elsewhere + step / len(TRAIN) * outside @ first.T @ left
        inside = inside + step / len(TRAIN) * kernel @ left
        holdout[time] = np.mean((values(model, HOLDOUT, examples) - target[HOLDOUT]) ** 2)
        row = next((r for r in rows if r["step"] == time and not r["best"]), None)
        if row is None:
            continue
        now, linear = values(model, test, examples), f_test + outside @ (theta - start)
        moved, later = np.linalg.norm(now - f_test), jacobian(model, TRAIN, examples)
        drift = np.linalg.norm(later @ later.T - kernel, 2) / np.linalg.norm(kernel, 2)
        expected = {
            "eta": step * time,
            "holdout_loss": holdout[time],
            "distance": np.linalg.norm(theta - start) / np.linalg.norm(start),
            "linear_gap": np.linalg.norm(now - linear) / moved,
            "kernel_gap": np.linalg.norm(now - elsewhere) / moved,
            "error": error(kind, now, target[test]),
            "error_linear": error(kind, linear, target[test]),
            "error_kernel": error(kind, elsewhere, target[test]),
            "start_error": error(kind, f_test, target[test]),
            "drift": drift,
            "alignment": np.sum(kernel * (later @ later.T))
            / np.linalg.norm(kernel)
            / np.linalg.norm(later @ later.T),
            "loss": loss(kind, now, target[test]),
            "loss_linear": loss(kind, linear, target[test]),
            "start_loss": loss(kind, f_test, target[test]),
        }
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert watched.stop["network_holdout"] == min(holdout, key=holdout.get)
    assert watched.stop["network_steps"] == STEPS
    estimate = shift_estimate(kernel, target[TRAIN] - f_train)
    assert watched.stop["radius"] == pytest.approx(estimate.radius, rel=1e-6)
    rated = kind == "regression"  # 0.2 in units of the training rows' standard deviation
    sigma = 0.2 / examples.label[TRAIN].std() if rated else estimate.sigma
    assert watched.stop["sigma"] == pytest.approx(sigma, rel=1e-6)
    assert watched.stop["sigma_source"] == ("ratings" if rated else "residual")
    latest = stopping_time(
        np.linalg.eigvalsh(kernel / len(TRAIN)),
        sigma=sigma,
        radius=estimate.radius,
        step_size=step,
    )
    assert watched.stop["theory"] == latest
    looked = [row for row in rows if not row["best"]]
    operator = operator_stopping_times(
        [step * row["step"] for row in looked],
        [row["drift"] for row in looked],
        radius=estimate.radius,
        step_size=step,
        latest=latest,
    )
    for name in ("crossing", "minimiser"):
        found = watched.stop[f"operator_{name}"]
        assert found == pytest.approx(getattr(operator, name), nan_ok=True)
    # the kernel model's own hold-out stop, by the loop
    inside, held = f_train.copy(), values(explicit(kind, examples)[0], HOLDOUT, examples)
    beside = jacobian(explicit(kind, examples)[0], HOLDOUT, examples) @ first.T
    errors = []
    for _ in range(64):
        errors.append(np.mean((held - target[HOLDOUT]) ** 2))
        left = target[TRAIN] - inside
        held = held + step / len(TRAIN) * beside @ left
        inside = inside + step / len(TRAIN) * kernel @ left
    chosen = watched.stop["kernel_holdout"]
    assert chosen == np.argmin(errors) if chosen < 63 else np.argmin(errors) == 63


def test_adamw_is_the_studys_own_training(watched):
    kind, examples, watched = watched
    model = text_model(2 if kind == "classification" else 1)
    repeat = next(fine_tuned_repeats(model, examples, SUBSETS, SIZE, SETTINGS, 5))
    best = next(row for row in watched.evaluations if row["method"] == "adamw" and row["best"])
    assert best["step"] == repeat.row["best_step"]
    assert best["holdout_loss"] == pytest.approx(repeat.row["holdout_loss"], rel=1e-9)
    assert best["eta"] == pytest.approx(repeat.row["sum_learning_rate"])
    assert np.isnan(best["kernel_gap"])


def test_a_network_that_does_not_move_has_no_gap():
    """In float32 three ways of computing f differ by rounding, and so would their ratio."""
    examples, model = made_up("regression"), text_model(1).float()
    hasty = dataclasses.replace(SETTINGS, learning_rate=10.0, max_epochs=1)
    found = watched_seed(model, examples, SUBSETS, SIZE, 0, hasty, 5, test_rows=5, descent_steps=1)
    best = next(row for row in found.evaluations if row["method"] == "adamw" and row["best"])
    assert (best["step"], best["distance"]) == (0, 0.0)
    assert np.isnan(best["linear_gap"])
    assert best["error_linear"] == pytest.approx(best["start_error"])


def test_a_descent_that_diverges_names_its_own_key(monkeypatch):
    def diverging(*arguments, **how):
        if arguments[5].optimizer == "sgd":
            raise UserError("the training loss is nan at step 3")
        return fine_tune(*arguments, **how)

    monkeypatch.setattr(trajectory, "fine_tune", diverging)
    with pytest.raises(UserError, match=r"on toy: the training loss is nan .* lower theory\.step"):
        watched_seed(
            *(text_model(1), made_up("regression"), SUBSETS, SIZE, 0, SETTINGS, 5),
            test_rows=5,
            descent_steps=2,
        )


def test_a_seed_is_the_same_whichever_was_watched_before_it():
    first = SUBSETS["seeds"][0]
    second = {"order": first["order"][::-1], "holdout": first["holdout"][::-1]}
    subsets = SUBSETS | {"seeds": [first, second]}
    used, fresh = text_model(2), text_model(2)
    examples = made_up("classification")

    def watched(model, seed):
        arguments = (model, examples, subsets, SIZE, seed, SETTINGS, 5)
        return watched_seed(*arguments, test_rows=5, descent_steps=2)

    watched(used, 0)
    after, alone = watched(used, 1), watched(fresh, 1)
    pd.testing.assert_frame_equal(
        pd.DataFrame(after.evaluations), pd.DataFrame(alone.evaluations), check_exact=True
    )
    assert str(after.stop) == str(alone.stop)


def test_the_network_at_the_ridge_solution(watched):
    kind, examples, watched = watched
    model, target = explicit(kind, examples)
    test = TEST
    first, outside = jacobian(model, TRAIN, examples), jacobian(model, test, examples)
    shift = target[TRAIN] - values(model, TRAIN, examples)
    f_test, start, n = values(model, test, examples), weights(model), len(TRAIN)
    table = pd.DataFrame(watched.ridge)
    assert table["holdout"].sum() == 1
    for row in watched.ridge:
        # the minimiser of (1/n)‖y − f_P − JΔ‖² + λ‖Δ‖², SR26 eq 27, in the weights' own space
        normal = first.T @ first / n + row["ridge"] * np.eye(first.shape[1])
        solution = np.linalg.solve(normal, first.T @ shift / n)
        set_weights(model, start + solution)
        now, linear = values(model, test, examples), f_test + outside @ solution
        expected = {
            "ridge": 1 / row["eta"],
            "distance": np.linalg.norm(solution) / np.linalg.norm(start),
            "gap": np.linalg.norm(now - linear) / np.linalg.norm(linear - f_test),
            "error_network": error(kind, now, target[test]),
            "error_ridge": error(kind, linear, target[test]),
        }
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-5)
