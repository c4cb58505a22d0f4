"""J v and Jᵀ w against finite differences and plain autograd, in float64."""

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from ntktune.network.models import TextModel, described_configuration
from ntktune.network.tangent import (
    LogitDifference,
    difference,
    directional_derivative,
    length,
    moved,
    weighted_gradient,
)

ARCHITECTURES = {
    # functions that compute in the weights' precision throughout
    "gpt2": {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 60},
    "bert": {
        "model_type": "bert",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "vocab_size": 60,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    },
    "opt": {
        "model_type": "opt",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "vocab_size": 60,
        "num_attention_heads": 2,
        "ffn_dim": 24,
        "word_embed_proj_dim": 16,
    },
}


def network(name, outputs=1):
    from transformers import AutoModel

    torch.manual_seed(3)
    backbone = AutoModel.from_config(described_configuration(ARCHITECTURES[name]))
    model = TextModel(backbone, outputs, torch.Generator().manual_seed(1)).double().eval()
    return LogitDifference(model) if outputs == 2 else model


def texts(count=6):
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(3, 60, (n,), generator=generator) for n in range(3, 3 + count)]


def direction(model, scale=1.0):
    generator = torch.Generator().manual_seed(7)
    return {
        name: scale * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        for name, p in model.named_parameters()
    }


def values(model, examples):
    with torch.no_grad():
        return torch.cat(
            [model(e[None], torch.ones(1, len(e), dtype=torch.long)) for e in examples]
        )


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_slope_is_the_finite_difference(name, outputs):
    model, examples, h = network(name, outputs), texts(), 1e-5
    tangent = direction(model, 0.1)
    value, slope = directional_derivative(model, tangent, examples, batch_tokens=20)
    torch.testing.assert_close(value, values(model, examples), rtol=1e-12, atol=1e-12)
    with moved(model, {k: h * v for k, v in tangent.items()}):
        above = values(model, examples)
    with moved(model, {k: -h * v for k, v in tangent.items()}):
        below = values(model, examples)
    assert slope.abs().max() > 0.01
    torch.testing.assert_close(slope, (above - below) / (2 * h), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_gradient_is_its_transpose(name):
    model, examples = network(name), texts()
    weights = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, 0.1], dtype=torch.float64)
    found = weighted_gradient(model, weights, examples, batch_tokens=20)
    tangent = direction(model)
    slope = directional_derivative(model, tangent, examples, 20)[1]
    inner = sum((found[name] * v).sum() for name, v in tangent.items())
    torch.testing.assert_close(inner, weights @ slope, rtol=1e-10, atol=1e-10)
    mask = [torch.ones(1, len(e), dtype=torch.long) for e in examples]
    total = sum(w * model(e[None], m)[0] for w, e, m in zip(weights, examples, mask, strict=True))
    parameters = list(model.parameters())
    plain = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(
        parameters_to_vector(found.values()), parameters_to_vector(plain), rtol=1e-9, atol=1e-12
    )


def test_a_network_that_is_linear_in_its_weights_is_its_own_linearisation():
    model, examples = network("gpt2"), texts()
    tangent = {"head.weight": direction(model)["head.weight"]}
    value, slope = directional_derivative(model, tangent, examples, 64)
    with moved(model, tangent):
        torch.testing.assert_close(values(model, examples), value + slope, rtol=1e-12, atol=1e-12)


def test_batches_do_not_matter():
    model, examples = network("opt"), texts()
    tangent = direction(model)
    one = directional_derivative(model, tangent, examples, batch_tokens=1)
    all_together = directional_derivative(model, tangent, examples, batch_tokens=10_000)
    torch.testing.assert_close(one, all_together, rtol=1e-9, atol=1e-10)


def test_weights_come_back():
    model = network("gpt2")
    before = [p.detach().clone() for p in model.parameters()]
    start = network("gpt2")
    with moved(model, direction(model)):
        change = difference(model, start)
        assert length(change) == pytest.approx(length(direction(model)))
    for now, then in zip(model.parameters(), before, strict=True):
        assert torch.equal(now, then)
    assert length(difference(model, start)) == 0
