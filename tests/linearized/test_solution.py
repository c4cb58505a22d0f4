"""The linearised network's training, against an explicit Jacobian and descent step by step."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from tiny_network import text_model

from ntktune.errors import UserError
from ntktune.kernel import gram
from ntktune.linearized import descended, distance, logistic_weights, squared_weights
from ntktune.network.tangent import difference, directional_derivative, moved, weighted_gradient
from ntktune.theory import kernel_descent

TEXTS = [torch.arange(1, n) % 20 for n in (4, 7, 5, 9, 3, 6, 8, 10)]
OTHERS = [torch.arange(2, n) % 17 for n in (5, 8, 9)]


@pytest.fixture(scope="module")
def model():
    return text_model(1)


@pytest.fixture(scope="module")
def jacobian(model):
    """Return a function: f and its whole Jacobian, (N, P), on some texts, by plain autograd."""

    def rows(texts):
        values, found = [], []
        for text in texts:
            value = model(text[None], torch.ones(1, len(text), dtype=torch.long))[0]
            parts = torch.autograd.grad(value, list(model.parameters()))
            values.append(value.item())
            found.append(torch.cat([part.flatten() for part in parts]).numpy())
        return np.array(values), np.array(found)

    return rows


@pytest.fixture(scope="module")
def label():
    return np.random.default_rng(0).normal(size=len(TEXTS))


def flat(tangent, model):
    return torch.cat([tangent[name].flatten() for name, _ in model.named_parameters()]).numpy()


def test_the_solution_is_that_of_the_explicit_jacobian(model, jacobian, label):
    start, rows = jacobian(TEXTS)
    found = gram(model, TEXTS, dtype=torch.float64)
    descent = kernel_descent(found.kernel, label - found.outputs.numpy())
    elsewhere, other_rows = jacobian(OTHERS)
    cross = gram(model, OTHERS, TEXTS, dtype=torch.float64).kernel.numpy()
    for ridge in (1e-3, 1.0, 100.0):
        # Δ that minimises ½‖y − f_0 − JΔ‖² + λ/2 ‖Δ‖²
        system = rows.T @ rows + ridge * np.eye(len(rows[0]))
        wanted = np.linalg.solve(system, rows.T @ (label - start))
        weights = squared_weights(descent, ridge)
        solution = weighted_gradient(model, torch.as_tensor(weights), TEXTS, 64)
        scale = np.linalg.norm(wanted)
        assert np.linalg.norm(flat(solution, model) - wanted) < 1e-8 * scale
        assert distance(found.kernel, weights) == pytest.approx(scale, rel=1e-8)
        predicted = elsewhere + cross @ weights
        np.testing.assert_allclose(predicted, elsewhere + other_rows @ wanted, rtol=1e-8)
        value, change = directional_derivative(model, solution, OTHERS, 64)
        np.testing.assert_allclose((value + change).numpy(), predicted, rtol=1e-8)


def test_no_penalty_interpolates_and_an_infinite_one_stays(model, label):
    found = gram(model, TEXTS, dtype=torch.float64)
    kernel, shift = found.kernel.numpy(), label - found.outputs.numpy()
    descent = kernel_descent(kernel, shift)
    np.testing.assert_allclose(kernel @ squared_weights(descent, 1e-9), shift, rtol=1e-5)
    far = squared_weights(descent, 1e12)
    assert distance(kernel, far) < 1e-8
    for ridge in (1e-6, 1.0, 1e6):  # the objective has fallen, which bounds the way
        moved_by = distance(kernel, squared_weights(descent, ridge))
        assert moved_by <= np.sqrt(shift @ shift / ridge)


def test_descent_ends_at_the_solution_and_every_step_is_that_of_the_network(model, label):
    found = gram(model, TEXTS, dtype=torch.float64)
    kernel, shift = found.kernel.numpy(), label - found.outputs.numpy()
    ridge, n = 0.5 * np.trace(kernel) / len(kernel), len(kernel)
    step = n / (np.linalg.eigvalsh(kernel)[-1] + ridge)
    descent, wanted = kernel_descent(kernel, shift, step), torch.as_tensor(label)
    weights = np.zeros(n)
    for steps in range(6):
        np.testing.assert_allclose(squared_weights(descent, ridge, steps), weights, atol=1e-14)
        if steps in (1, 5):
            own = descended(model, TEXTS, lambda f: f - wanted, steps, step, ridge, 64)
            same = weighted_gradient(model, torch.as_tensor(weights), TEXTS, 64)
            gap = flat(own, model) - flat(same, model)
            assert np.linalg.norm(gap) < 1e-10 * np.linalg.norm(flat(same, model))
        weights = weights + step / n * (shift - kernel @ weights - ridge * weights)
    solved = np.linalg.solve(kernel + ridge * np.eye(n), shift)
    limit = squared_weights(descent, ridge, 1e6)
    np.testing.assert_allclose(limit, solved, rtol=0, atol=1e-8 * np.abs(solved).max())
    with pytest.raises(UserError, match=r"step_size is .* with the ridge .* must be at most"):
        squared_weights(descent, 4 * ridge, 3)


def test_outputs_that_share_a_kernel_are_solved_together():
    draw = np.random.default_rng(1)
    factor, labels = draw.normal(size=(9, 30)), draw.normal(size=(9, 3))
    kernel = factor @ factor.T
    together = squared_weights(kernel_descent(kernel, labels), 2.0)
    for column in range(3):
        one = squared_weights(kernel_descent(kernel, labels[:, column]), 2.0)
        np.testing.assert_allclose(together[:, column], one, rtol=1e-12)


@pytest.mark.parametrize("ridge", [1e-3, 1.0, 300.0])
@pytest.mark.parametrize("far", [0.1, 30.0])
def test_the_logistic_loss_is_minimised(ridge, far):
    draw = np.random.default_rng(2)
    rows, start = draw.normal(size=(25, 60)), far * draw.normal(size=25)
    target = np.where(draw.random(25) < 0.5, -1.0, 1.0)
    kernel = rows @ rows.T
    weights = logistic_weights(kernel, start, target, ridge)
    # stationary: λα = y / (1 + exp(y f))
    outputs = start + kernel @ weights
    slope = target * np.exp(-np.logaddexp(0, target * outputs))
    np.testing.assert_allclose(ridge * weights, slope, rtol=0, atol=1e-8)

    def objective(change):
        losses = np.logaddexp(0, -target * (start + rows @ change))
        return losses.sum() + ridge / 2 * change @ change

    plain = minimize(objective, np.zeros(60), method="L-BFGS-B", options={"maxiter": 5000})
    assert objective(rows.T @ weights) <= plain.fun * (1 + 1e-9) + 1e-12


def test_the_logistic_path_by_gradient_ends_at_newtons(model):
    target = np.where(np.arange(len(TEXTS)) % 3 == 0, 1.0, -1.0)
    found = gram(model, TEXTS, dtype=torch.float64)
    kernel, start = found.kernel.numpy(), found.outputs.numpy()
    ridge = 0.3 * np.linalg.eigvalsh(kernel)[-1]
    weights = logistic_weights(kernel, start, target, ridge)
    wanted = torch.as_tensor(target)

    def slope(outputs):
        return -wanted * torch.sigmoid(-wanted * outputs)

    step = len(TEXTS) / (np.linalg.eigvalsh(kernel)[-1] / 4 + ridge)
    own = descended(model, TEXTS, slope, 60, step, ridge, 64)
    same = flat(weighted_gradient(model, torch.as_tensor(weights), TEXTS, 64), model)
    assert np.linalg.norm(flat(own, model) - same) < 1e-8 * np.linalg.norm(same)


def test_the_linearisation_is_the_networks_to_second_order(model, label):
    found = gram(model, TEXTS, dtype=torch.float64)
    descent = kernel_descent(found.kernel, label - found.outputs.numpy())
    solution = weighted_gradient(model, torch.as_tensor(squared_weights(descent, 1.0)), TEXTS, 64)
    gaps = []
    for share in (1e-3, 5e-4):
        part = {name: share * change for name, change in solution.items()}
        value, change = directional_derivative(model, part, OTHERS, 64)
        with moved(model, part):
            now, _ = directional_derivative(model, difference(model, model), OTHERS, 64)
        gaps.append((now - value - change).norm().item())
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.05)
