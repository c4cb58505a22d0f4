import numpy as np
import pytest
import torch

from ntktune.errors import UserError
from ntktune.kernel import gram
from ntktune.network.models import pad
from ntktune.theory.attention import AttentionNetwork
from ntktune.theory.width import EXAMPLES, PHASES, made_up_tasks, width_rows, width_slopes

FEATURES = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))


def network(width=8, blocks=2):
    return AttentionNetwork(width, FEATURES, blocks, torch.Generator().manual_seed(1))


def by_hand(model, ids):
    """The network on one text, token by token."""

    def scaled(layer, x):
        return layer.linear.weight @ x / np.sqrt(len(x))

    hidden = [scaled(model.embed, FEATURES[i]) for i in ids]
    for block in model.blocks:
        mixed = []
        for place, x in enumerate(hidden):
            logits = torch.stack(
                [
                    scaled(block.query, x) @ scaled(block.key, other) / block.width
                    for other in hidden[: place + 1]
                ]
            )
            value = sum(
                w * scaled(block.value, other)
                for w, other in zip(logits.softmax(0), hidden[: place + 1], strict=True)
            )
            x = x + scaled(block.mixed, value)
            inner = torch.nn.functional.gelu(scaled(block.inner, x))
            mixed.append(x + scaled(block.outer, inner))
        hidden = mixed
    return scaled(model.head, hidden[-1])[0]


@torch.no_grad()
def test_the_network_is_the_formula():
    model, texts = network(), [torch.tensor([1, 2, 3]), torch.tensor([8, 0, 8, 4, 5])]
    found = model(*pad(texts))
    for value, text in zip(found, texts, strict=True):
        torch.testing.assert_close(value, by_hand(model, text.tolist()), rtol=1e-5, atol=1e-6)


def test_its_kernel_is_computed_exactly():
    model, texts = network(blocks=1).double(), [torch.tensor([1, 2, 3]), torch.tensor([8, 0, 8, 4])]
    parameters = list(model.parameters())
    rows = []
    for text in texts:
        value = model(text[None], torch.ones(1, len(text), dtype=torch.long))[0]
        gradients = torch.autograd.grad(value, parameters)
        rows.append(torch.cat([g.flatten() for g in gradients]))
    jacobian = torch.stack(rows)
    found = gram(model, texts, dtype=torch.float64).kernel
    torch.testing.assert_close(found, jacobian @ jacobian.T, rtol=1e-9, atol=1e-12)


def test_the_kernel_has_a_limit():
    """In this parametrisation a kernel neither grows nor vanishes with the width."""
    texts = [torch.tensor([1, 2, 3]), torch.tensor([8, 0, 8, 4])]
    sizes = [
        gram(network(width), texts, check=False).kernel.diagonal().mean().item()
        for width in (64, 512)
    ]
    assert 0.5 < sizes[1] / sizes[0] < 2


def test_tasks_are_similar_and_standardised():
    features, texts, (source, target) = made_up_tasks(np.random.default_rng(1))
    assert len(texts) == 2 * EXAMPLES
    assert max(int(text.max()) for text in texts) < len(features)
    for label in (source, target):
        assert label[:EXAMPLES].mean() == pytest.approx(0, abs=1e-12)
        assert label[:EXAMPLES].std() == pytest.approx(1)
    assert 0.2 < np.corrcoef(source, target)[0, 1] < 0.98


def random(width, seed):
    return np.random.default_rng([width, seed, 3])


def test_rows_of_every_network():
    done = []
    rows = width_rows([4, 8], 2, random, done.append)
    assert [(r["width"], r["seed"], r["phase"]) for r in rows] == [
        (width, seed, phase) for seed in (0, 1) for width in (4, 8) for phase in PHASES
    ]
    assert done == [16, 80, 96, 160]
    assert all(np.isfinite(list(row.values())[3:]).all() for row in rows)
    # training went somewhere
    assert all(row["training_error"] < 1 and row["distance"] > 0 for row in rows)
    again = width_rows([8], 2, random)
    assert again == [row for row in rows if row["width"] == 8]


def test_slopes_of_known_powers():
    rows = [
        {"width": n, "phase": phase, "drift": n**-0.5, "linear_gap": 3 / n, "distance": 2.0 + s}
        for n in (32, 64, 128)
        for s in (0, 1)
        for phase in PHASES
    ]
    found = {(r["phase"], r["quantity"]): r for r in width_slopes(rows)}
    assert len(found) == 9
    drift = found["fresh head", "drift"]
    assert (drift["slope"], drift["low"], drift["high"]) == pytest.approx((-0.5, -0.5, -0.5))
    assert found["pretraining", "linear_gap"]["slope"] == pytest.approx(-1)
    flat = found["all pretrained", "distance"]
    assert flat["slope"] == pytest.approx(0, abs=1e-12)
    assert flat["low"] == pytest.approx(-flat["high"])
    assert flat["high"] > 0.1
    assert flat["networks"] == 6


@pytest.mark.parametrize(("widths", "seeds"), [([], 1), ([0, 4], 1), ([4, 8], 0)])
def test_no_networks(widths, seeds):
    with pytest.raises(UserError, match="must be 1 or more"):
        width_rows(widths, seeds, random)


def test_one_width_has_no_slope():
    with pytest.raises(UserError, match="two widths"):
        width_slopes(width_rows([4], 3, random))
