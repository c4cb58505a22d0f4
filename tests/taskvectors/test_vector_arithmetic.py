"""Task vectors: exact differences, cosines, sums."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ntktune.errors import UserError
from ntktune.taskvectors import arithmetic
from ntktune.taskvectors.arithmetic import apply, cosine, cosine_matrix, dot, task_vector


def weights(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"block.weight": (40, 30), "block.bias": (40,), "table": (50, 8)}
    return {k: scale * torch.randn(s, generator=generator) for k, s in shapes.items()}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1e-6, 1e-3, 1.0, 100.0]))
def test_base_plus_vector_is_the_tuned_model_bit_for_bit(seed, scale):
    base, moved = weights(seed), weights(seed + 1, scale)
    tuned = {name: base[name] + moved[name] for name in base}
    vector = task_vector(base, tuned)
    back = apply(base, [vector], [1.0])
    for name, tensor in tuned.items():
        assert vector[name].dtype == torch.float64
        assert back[name].dtype == torch.float32
        assert torch.equal(back[name], tensor)


def test_unrelated_float32_weights_round_trip_too():
    base, tuned = weights(0), weights(1, 1e-4)
    back = apply(base, [task_vector(base, tuned)], [1.0])
    assert all(torch.equal(back[name], tuned[name]) for name in tuned)


def test_adding_then_negating_gives_the_base_back():
    base, tuned = weights(0), weights(1)
    vector = task_vector(base, tuned)
    back = apply(base, [vector, vector], [0.7, -0.7])
    assert all(torch.equal(back[name], base[name]) for name in base)


def test_cosine_against_float64_numpy():
    first, second = weights(0), weights(1)
    flat = [np.concatenate([w[k].double().numpy().ravel() for k in w]) for w in (first, second)]
    wanted = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    assert cosine(first, second) == pytest.approx(wanted, rel=1e-13)
    assert dot(first, second) == pytest.approx(flat[0] @ flat[1], rel=1e-13)


def test_cosine_sums_in_float64():
    """In float32 the small second part would vanish beside the large first one."""
    first = {"w": torch.tensor([1e5, 1.0])}
    second = {"w": torch.tensor([1.0, -1e5 + 1])}
    wanted = (1e5 - 1e5 + 1) / math.hypot(1e5, 1) / math.hypot(1, 1e5 - 1)
    assert cosine(first, second) == pytest.approx(wanted, rel=1e-12)


def test_cosines_of_known_directions():
    x, y = {"w": torch.tensor([2.0, 0.0])}, {"w": torch.tensor([0.0, 3.0])}
    both = {"w": torch.tensor([1.0, 1.0])}
    assert cosine(x, y) == 0
    assert cosine(x, {"w": torch.tensor([-5.0, 0.0])}) == -1
    assert cosine(x, both) == pytest.approx(math.sqrt(0.5))
    assert math.isnan(cosine(x, {"w": torch.zeros(2)}))


@pytest.mark.parametrize("stretch", [17, 400, 10**6])
def test_matrix_is_the_pairwise_cosines(stretch, monkeypatch):
    monkeypatch.setattr(arithmetic, "SLICE", stretch)
    base, tuned = weights(0), [weights(s) for s in (1, 2, 3)]
    vectors = [task_vector(base, t) for t in tuned]
    found = cosine_matrix(base, tuned)
    wanted = [[cosine(a, b) for b in vectors] for a in vectors]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert (np.diag(found) == 1).all()
    assert (found == found.T).all()
    with_base = cosine_matrix(base, [tuned[0], base])
    assert np.isnan(with_base[1]).all()
    assert with_base[0, 0] == 1


def test_adding_task_vectors_of_linear_models_adds_their_functions():
    """For f(x) = θ·x the merged model is f_P + Δ₁ + Δ₂, exactly what the vectors say."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    model = nn.Linear(5, 3).double()
    states = []
    for _ in range(3):
        for parameter in model.parameters():
            nn.init.normal_(parameter, generator=generator)
        states.append({k: v.clone() for k, v in model.state_dict().items()})
    base, one, two = states

    def function(state):
        model.load_state_dict(state)
        return model(x).detach()

    vectors = [task_vector(base, one), task_vector(base, two)]
    merged = function(apply(base, vectors, [1.0, 1.0]))
    torch.testing.assert_close(merged, function(one) + function(two) - function(base))
    negated = function(apply(base, vectors[:1], [-0.5]))
    torch.testing.assert_close(negated, 1.5 * function(base) - 0.5 * function(one))


def test_mismatch_names_the_tensor_and_both_shapes():
    base, tuned = weights(0), weights(1)
    tuned["block.weight"] = tuned["block.weight"][:5]
    with pytest.raises(UserError, match=r"block\.weight has shape \(40, 30\).*\(5, 30\)"):
        task_vector(base, tuned)
    with pytest.raises(UserError, match=r"block\.weight has shape \(40, 30\).*\(5, 30\)"):
        cosine(base, tuned)
    with pytest.raises(UserError, match=r"block\.weight has shape"):
        cosine_matrix(base, [tuned])


def test_missing_tensor_is_named():
    base, tuned = weights(0), weights(1)
    del tuned["table"]
    with pytest.raises(UserError, match="tensor table is in the first set of weights, not in the"):
        task_vector(base, tuned)
    with pytest.raises(UserError, match="tensor table is in the second set of weights"):
        dot(tuned, base)


def test_coefficients_must_match():
    base = weights(0)
    with pytest.raises(UserError, match="1 task vectors and 2 coefficients"):
        apply(base, [base], [1.0, 2.0])
