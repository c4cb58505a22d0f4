"""Task vectors: exact differences, cosines, sums."""

import importlib
import math
import operator
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ntktune
from ntktune import taskvectors
from ntktune.errors import UserError
from ntktune.store.tensors import stored_tensors, write_tensors
from ntktune.taskvectors import arithmetic
from ntktune.taskvectors.arithmetic import (
    add,
    apply,
    cosine,
    cosines,
    direction,
    dot,
    grams,
    merged,
    rebuilt,
    scale,
    task_vector,
)


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


def test_add_and_scale_against_float64_numpy():
    one, two = weights(0), weights(1)
    total, negated = add([one, two]), scale(one, -0.3)
    for name in one:
        x, y = one[name].double().numpy(), two[name].double().numpy()
        assert np.array_equal(total[name].numpy(), x + y)
        assert np.array_equal(negated[name].numpy(), -0.3 * x)
    with pytest.raises(UserError, match="no task vector to add"):
        add([])


def whole(pieces):
    """Put a model's stretches together."""
    found = {}
    for name, part in pieces:
        found.setdefault(name, []).append(part)
    return {name: torch.cat(parts) for name, parts in found.items()}


@pytest.mark.parametrize("stretch", [17, 400, 10**6])
def test_grams_are_the_pairwise_products(stretch, monkeypatch):
    monkeypatch.setattr(arithmetic, "SLICE", stretch)
    base, tuned = weights(0), [weights(s) for s in (1, 2, 3)]
    vectors = [task_vector(base, t) for t in tuned]
    told = []
    found = grams(base, tuned, lambda name: name.split(".")[0], told.append)
    assert list(found) == ["all", "block", "table"]
    assert told[-1] == 1
    assert told == sorted(told)
    flat = {
        group: np.stack(
            [np.concatenate([v[k].numpy().ravel() for k in v if k.startswith(start)])
             for v in vectors]
        )
        for group, start in (("all", ""), ("block", "block"), ("table", "table"))
    }  # fmt: skip
    for group, rows in flat.items():
        np.testing.assert_allclose(found[group], rows @ rows.T, rtol=1e-12, atol=1e-9)
        assert (found[group] == found[group].T).all()
    angles = cosines(found["all"])
    np.testing.assert_allclose(
        angles, [[cosine(a, b) for b in vectors] for a in vectors], rtol=1e-10
    )
    assert (np.diag(angles) == 1).all()
    with_base = cosines(grams(base, [tuned[0], base], str)["all"])
    assert np.isnan(with_base[1]).all()
    assert with_base[0, 0] == 1


@pytest.mark.parametrize("stretch", [1, 37, 10**6])
@pytest.mark.parametrize("stored", [False, True])
def test_merging_in_stretches_is_the_sum_of_the_vectors(stretch, stored, monkeypatch, tmp_path):
    monkeypatch.setattr(arithmetic, "SLICE", stretch)
    base, *tuned = [weights(s) for s in range(4)]
    wanted = apply(base, [task_vector(base, t) for t in tuned], [0.3, -0.7, 1.0])
    for name, tensor in wanted.items():
        exact = base[name].double().numpy() + sum(
            c * (t[name].double().numpy() - base[name].double().numpy())
            for c, t in zip((0.3, -0.7, 1.0), tuned, strict=True)
        )
        # a sum in another order may round to the neighbour
        np.testing.assert_allclose(tensor.numpy(), exact, rtol=1.2e-7)
    if stored:
        for i, state in enumerate((base, *tuned)):
            write_tensors(tmp_path / f"{i}.safetensors", state, {})
        base, *tuned = [stored_tensors(tmp_path / f"{i}.safetensors")[0] for i in range(4)]
    found = whole(merged(base, tuned, [0.3, -0.7, 1.0]))
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, wanted[name], rtol=1.2e-7, atol=0)
    single = whole(merged(base, tuned[:1], [1.0]))
    assert all(torch.equal(single[name], tuned[0][name][...]) for name in base)
    zero = whole(merged(base, tuned[:1], [0.0]))
    assert all(torch.equal(zero[name], base[name][...]) for name in base)
    line = direction(base, tuned[:2])
    for name in base:
        total = sum(t[name][...].double() - base[name][...].double() for t in tuned[:2])
        assert torch.equal(line[name], total.float())


def test_a_stored_vector_stands_for_the_weights_it_leads_to(tmp_path):
    base, tuned = weights(0), weights(1, 1e-3)
    vector = {k: v.to(torch.bfloat16) for k, v in task_vector(base, tuned).items()}
    write_tensors(tmp_path / "v.safetensors", vector, {})
    found = rebuilt(base, stored_tensors(tmp_path / "v.safetensors")[0])
    assert len(found) == len(base)
    back = task_vector(base, found)
    for name, tensor in vector.items():
        assert torch.equal(back[name].to(torch.bfloat16), tensor)
        assert torch.equal(found[name][2:5], base[name][2:5].double() + tensor[2:5].double())
    with pytest.raises(UserError, match=r"in the pretrained set of weights, not in the task vec"):
        rebuilt(base, {"table": base["table"]})


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
    message = r"block\.weight has shape .* in the pretrained set .* in the fine-tuned"
    with pytest.raises(UserError, match=message):
        grams(base, [tuned], str)
    with pytest.raises(UserError, match=message):
        next(merged(base, [tuned], [1.0]))


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
    with pytest.raises(UserError, match="a coefficient is nan"):
        next(merged(base, [base], [math.nan]))


def test_the_package_offers_its_functions_itself_and_imports_nothing_heavy_for_it():
    assert set(taskvectors.__all__) == {"add", "apply", "cosine", "scale", "task_vector"}
    for name in taskvectors.__all__:
        assert getattr(taskvectors, name) is getattr(arithmetic, name)
    with pytest.raises(AttributeError, match=r"'ntktune\.taskvectors' has no attribute 'nothing'"):
        operator.attrgetter("nothing")(taskvectors)
    code = "import sys, ntktune.taskvectors; print({'numpy', 'pandas', 'torch'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_what_the_package_calls_public_is_there():
    modules = re.findall(r"``ntktune\.([\w.]+)``", ntktune.__doc__)
    assert {"kernel", "spectrum", "taskvectors", "theory", "network.models"} <= set(modules)
    modules = ["kernel", "spectrum", "taskvectors", "theory", "network.models"]
    for name in modules[:-1]:
        module = importlib.import_module(f"ntktune.{name}")
        assert all(hasattr(module, public) for public in module.__all__)
    assert {"text_model", "label_word_model"} <= {
        *dir(importlib.import_module("ntktune.network.models"))
    }
