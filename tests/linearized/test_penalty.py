"""Fine-tuning held near its start: the objective's minimum, its limits, and its condition."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from tiny_network import made_up, text_model
from torch import nn

from ntktune.errors import UserError
from ntktune.finetune.embedding import reachable_rows
from ntktune.finetune.training import Settings, fine_tune, optimizer, plain_step
from ntktune.linearized.penalty import Penalty, distance_bound
from ntktune.network.tangent import difference, length

SETTINGS = Settings(
    learning_rate=0.02,
    weight_decay=0.0,
    batch_size=8,
    max_epochs=4,
    evaluate_every=None,
    patience=None,
    batch_tokens=64,
)


class Quadratic(nn.Module):
    """L(w) = ½ Σ h (w − minimum)², whose weights start at 1, −2 and 0.5."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
        self.curvature = torch.tensor([1.0, 10.0, 0.1], dtype=torch.float64)
        self.minimum = torch.tensor([3.0, 1.0, -1.0], dtype=torch.float64)

    def descend(self, penalty, steps, rate, kind):
        stepper = optimizer(self, rate, 0.0, kind)
        take_step = penalty([self.weight])
        for n in range(steps):
            stepper.zero_grad()
            loss = (self.curvature * (self.weight - self.minimum) ** 2).sum() / 2
            loss.backward()
            for group in stepper.param_groups:  # else AdamW keeps moving to and fro
                group["lr"] = rate * (1 - n / steps)
            take_step(stepper)
        return self.weight.detach()


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("weight", [0.3, 20.0])
def test_it_ends_where_the_penalised_loss_is_least(kind, weight):
    model = Quadratic()
    start = model.weight.detach().clone()
    # (h (w − minimum) + λ (w − start)) = 0
    both = model.curvature * model.minimum + weight * start
    wanted = both / (model.curvature + weight)
    found = model.descend(Penalty(weight, selective=False), 4000, 0.05, kind)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    loss = (model.curvature * (start - model.minimum) ** 2).sum().item() / 2
    assert (found - start).norm() <= distance_bound(loss, weight)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_an_infinite_penalty_stays_unless_it_waits_for_the_loss_to_pull_back(kind):
    model = Quadratic()
    start = model.weight.detach().clone()
    found = model.descend(Penalty(1e15, selective=False), 50, 0.05, kind)
    torch.testing.assert_close(found, start, rtol=0, atol=1e-9)
    # a loss that falls on the way out never lets a selective one act
    found = Quadratic().descend(Penalty(1e15), 50, 0.05, kind)
    assert (found - start).norm() > 0.5


def test_the_penalty_applies_where_the_loss_does_not_pull_away():
    """One weight, gradient descent: its way from 0 says in which steps it was drawn back."""
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    stepper = torch.optim.SGD([weight], lr=0.5)
    take_step = Penalty(2.0)([weight])  # each draws back by 1 / (1 + 0.5 · 2) = ½
    way = []
    for gradient in (-4.0, -4.0, 1.0, 0.0):
        weight.grad = torch.full_like(weight, gradient)
        take_step(stepper)
        way.append(weight.item())
    # at the start (⟨∇, 0⟩ = 0), not on the way out, on the way back, and where there is no pull
    assert way == [1.0, 3.0, 1.25, 0.625]


class Factored(Quadratic):
    """The same loss of 3 x 2 weights that an adapter moves: W + s B A."""

    def __init__(self):
        super().__init__()
        random = torch.Generator().manual_seed(0)
        a, self.wanted = torch.randn(5, 2, generator=random).double().split([2, 3])
        self.a, self.b = nn.Parameter(a.clone()), nn.Parameter(torch.zeros(3, 2).double())
        self.scale = 1.7
        del self.weight

    def change(self):
        return self.scale * self.b @ self.a

    def descend(self, penalty, steps, rate, kind):
        stepper = optimizer(self, rate, 0.0, kind)
        take_step = penalty([self.a, self.b])
        for n in range(steps):
            stepper.zero_grad()
            (self.curvature[:, None] * (self.change() - self.wanted) ** 2).sum().div(2).backward()
            for group in stepper.param_groups:
                group["lr"] = rate * (1 - n / steps)
            take_step(stepper)
        return self.change().detach()


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("weight", [0.3, 20.0])
def test_adapters_end_where_the_loss_with_the_merged_weights_distance_is_least(kind, weight):
    model = Factored()
    penalty = Penalty(weight, False, [(model.a, model.b, model.scale)])
    found = model.descend(penalty, 6000, 0.005, kind)
    curvature = model.curvature[:, None]  # of full rank: any change can be reached
    wanted = curvature * model.wanted / (curvature + weight)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_adapters_with_an_infinite_penalty_stay(kind):
    model = Factored()
    penalty = Penalty(1e15, False, [(model.a, model.b, model.scale)])
    assert model.descend(penalty, 50, 0.02, kind).norm() < 1e-9
    model = Factored()
    selective = Penalty(1e15, True, [(model.a, model.b, model.scale)])
    assert model.descend(selective, 50, 0.02, kind).norm() > 0.05


@pytest.mark.parametrize("sign", [1, -1])
def test_the_loss_pulls_at_merged_weights_as_at_b(sign):
    """The condition of a selective penalty is ⟨∇_W L, s B A⟩ >= 0, which is ⟨∇_B L, B⟩ >= 0."""
    model = Factored()
    stepper = optimizer(model, 1.0, 0.0, "sgd")
    take_step = Penalty(2.0, True, [(model.a, model.b, model.scale)])([model.a, model.b])
    take_step(stepper)  # the first: without a gradient nothing moves
    with torch.no_grad():
        model.b += torch.arange(6.0).view(3, 2) - 2
    gradient = sign * torch.ones(3, 2).double() * model.change().detach()
    (model.change() * gradient).sum().backward()  # ∇_W L is ± s B A
    model.a.grad, before = None, model.b.detach().clone()
    with torch.no_grad():
        moved = before - model.b.grad
        both = 2.0 * model.scale**2 * model.a @ model.a.T + torch.eye(2)
    wanted = torch.linalg.solve(both, moved.T).T if sign > 0 else moved
    take_step(stepper)
    torch.testing.assert_close(model.b.detach(), wanted.detach())


def test_a_weak_penalty_leaves_adapters_their_first_factor():
    """AdamW has no measure of A yet in the first step, where only B has a gradient."""
    model = Factored()
    stepper = optimizer(model, 0.05, 0.0, "adamw")
    take_step = Penalty(1e-3, False, [(model.a, model.b, model.scale)])([model.a, model.b])
    start = model.a.detach().norm()
    for _ in range(5):
        stepper.zero_grad()
        ((model.change() - model.wanted) ** 2).sum().backward()
        take_step(stepper)
        assert model.a.detach().norm() > 0.9 * start


@pytest.fixture(scope="module")
def tuned():
    """Return a function: a training's weights at the end, and how far from the start it was."""
    texts = made_up("regression")
    targets = torch.as_tensor(texts.label)

    def run(*penalty, **changes):
        model, seen = text_model(1), []
        start = copy.deepcopy(model)

        # the embedding has few rows meanwhile, all that move
        table, used = reachable_rows(start.backbone, texts.ids[:24])
        table.weight = torch.nn.Parameter(table.weight[used])

        def look(evaluation):
            seen.append((evaluation.train_loss, length(difference(model, start))))

        settings = dataclasses.replace(SETTINGS, **changes)
        generator = np.random.default_rng(0)
        how = (settings, generator, lambda step: None, look, ())
        fine_tune(model, texts.ids, targets, range(16), range(16, 24), *how, *penalty)
        return dict(model.named_parameters()), seen

    return run


def test_no_penalty_is_plain_fine_tuning(tuned):
    (plain, _), (without, _) = tuned(), tuned(Penalty(0.0))
    assert all(torch.equal(plain[name], without[name]) for name in plain)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_training_with_an_infinite_penalty_stays(tuned, optimizer):
    _, far = tuned(optimizer=optimizer, learning_rate=0.01)
    _, seen = tuned(Penalty(1e15, selective=False), optimizer=optimizer, learning_rate=0.01)
    assert max(away for _, away in seen) < 1e-9 < 1e-2 < far[-1][1]


def test_a_training_stays_within_its_bound(tuned):
    """Gradient descent on all rows, whose penalised loss falls."""
    descent = {"optimizer": "sgd", "batch_size": 16, "learning_rate": 0.01, "max_epochs": 20}
    _, plain = tuned(**descent)
    loss = plain[1][0]  # of all rows before the first step
    for weight in (1.0, 30.0, 1000.0):
        _, seen = tuned(Penalty(weight, selective=False), **descent)
        assert 0 < seen[-1][1] < plain[-1][1]
        assert max(away for _, away in seen) <= distance_bound(loss, weight)


def test_a_negative_penalty_is_told():
    with pytest.raises(UserError, match="the penalty is -1, but must be 0 or above"):
        Penalty(-1)
    assert Penalty(0.0)([]) is plain_step
