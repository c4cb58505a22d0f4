"""The Jacobian's change against both Jacobians, by plain autograd."""

import copy

import numpy as np
import pytest
import torch
from tiny_network import text_model

from ntktune.linearized.curvature import jacobian_change, random_direction
from ntktune.network.tangent import length

TEXTS = [torch.arange(1, n) % 20 + 3 for n in (4, 7, 5, 9)]


def jacobian(model):
    rows = []
    for text in TEXTS:
        value = model(text[None], torch.ones(1, len(text), dtype=torch.long))[0]
        parts = torch.autograd.grad(value, list(model.parameters()))
        rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows)


@pytest.mark.parametrize("radius", [0.01, 0.5])
def test_the_norm_is_that_of_the_explicit_jacobians(radius):
    model = text_model(1)
    step = random_direction(model, radius, np.random.default_rng(0))
    assert length(step) == pytest.approx(radius)
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in moved.named_parameters():
            parameter += step[name]
    wanted = torch.linalg.matrix_norm(jacobian(moved) - jacobian(model), ord=2).item()
    assert jacobian_change(model, moved, TEXTS, tolerance=1e-10) == pytest.approx(wanted, rel=1e-6)
    assert jacobian_change(model, moved, TEXTS) == pytest.approx(wanted, rel=2e-3)


def test_equal_networks_have_equal_jacobians():
    model = text_model(1)
    assert jacobian_change(model, copy.deepcopy(model), TEXTS) == 0
