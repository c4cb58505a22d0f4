"""Kernels of sets of layers from Grams by weight, against networks that train nothing else."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_network import text_model

from ntktune.finetune.methods import Adapter
from ntktune.finetune.training import Lora
from ntktune.kernel import gram
from ntktune.linearized.layers import (
    HEAD,
    layer_sets,
    lora_of,
    set_kernel,
    set_parameters,
    set_statistics,
    weight_grams,
)

TEXTS = [torch.arange(1, n) % 20 + 3 for n in (4, 7, 5, 9, 3, 6)]


def llama(blocks):
    from transformers import AutoModel

    from ntktune.network.models import TextModel, described_configuration

    shape = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 50}
    shape |= {"num_key_value_heads": 1, "num_hidden_layers": blocks, "initializer_range": 0.2}
    torch.manual_seed(1)
    backbone = AutoModel.from_config(described_configuration({"model_type": "llama", **shape}))
    return TextModel(backbone, 1, torch.Generator().manual_seed(0)).double().eval()


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request):
    return text_model(1) if request.param == "gpt2" else llama(2)


@pytest.fixture(scope="module")
def grams(model):
    return weight_grams(model, TEXTS, dtype=torch.float64)[0]


def alone(model, names):
    """Return the kernel of the network that trains some parameters and no other."""
    try:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)
        return gram(model, TEXTS, dtype=torch.float64).kernel.numpy()
    finally:
        model.requires_grad_(True)


def test_every_set_has_the_kernel_of_training_it_alone(model, grams):
    whole = gram(model, TEXTS, dtype=torch.float64).kernel.numpy()
    np.testing.assert_allclose(sum(grams.values()).numpy(), whole, rtol=1e-10)
    for layers in layer_sets(model.backbone).values():
        own = [f"backbone.{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
        wanted = alone(model, {*own, "head.weight", "head.bias"})
        found = set_kernel(grams, model.backbone, layers).numpy()
        assert np.linalg.norm(found - wanted) < 1e-10 * np.linalg.norm(wanted)
        count = sum(p.numel() for name, p in model.named_parameters() if name in own)
        assert set_parameters(model.backbone, layers) == count


def test_the_sets_are_blocks_kinds_and_runs_of_blocks():
    sets = layer_sets(llama(4).backbone)
    runs = ["first2", "last2"]
    blocks = [f"block{n}" for n in range(4)]
    assert list(sets) == ["all", "attention", "mlp", *blocks, *runs]
    assert sets["block2"] == sets["last2"][:7]
    assert sets["first2"] == [*sets["block0"], *sets["block1"]]
    assert [name for name in layer_sets(llama(5).backbone) if "4" in name] == [
        "block4",
        "first4",
        "last4",
    ]
    assert len(sets["all"]) == 28
    assert {*sets["attention"]} | {*sets["mlp"]} == {*sets["all"]}
    assert {name.rpartition(".")[2] for name in sets["mlp"]} == {
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    # one block is all blocks
    assert list(layer_sets(llama(1).backbone)) == ["all", "attention", "mlp"]


@pytest.mark.parametrize("rslora", [False, True])
def test_the_lora_kernel_is_the_mean_over_the_draws_of_a(model, grams, rslora):
    layers = layer_sets(model.backbone)["block1"]
    lora = lora_of(model.backbone, layers, Lora(rank=4, alpha=3.0, rslora=rslora))
    wanted = set_kernel(grams, model.backbone, layers, lora).numpy()
    # two hundred draws side by side: an adapter of rank 800
    many = 200
    wide = dataclasses.replace(lora, rank=4 * many, alpha=lora.alpha * (1 if rslora else many**0.5))
    same = set_kernel(grams, model.backbone, layers, wide).numpy()
    np.testing.assert_allclose(same, wanted, rtol=1e-12)
    count = set_parameters(model.backbone, layers, lora)
    adapter = Adapter(model.backbone, wide)
    try:
        adapter.reset(0)
        own = [p for name, p in model.named_parameters() if ".lora_" in name]
        assert count == sum(p.numel() for p in own) // many
        trained = [name for name, p in model.named_parameters() if ".lora_B." in name]
        found = alone(model, {*trained, "head.weight", "head.bias"})
    finally:
        adapter.remove()
        model.requires_grad_(True)
    assert np.linalg.norm(found - wanted) < 0.02 * np.linalg.norm(wanted)


def test_ranks_of_single_layers_count(model, grams):
    layers = layer_sets(model.backbone)["all"]
    end = layers[0].rpartition(".")[2]
    plain = Lora(rank=4, alpha=4.0)
    both = lora_of(model.backbone, layers, dataclasses.replace(plain, rank_pattern={end: 2}))
    assert both.rank_pattern == {name: 2 for name in layers if name.endswith(f".{end}")}
    few = [name for name in layers if name.endswith(f".{end}")]
    rest = [name for name in layers if name not in few]
    kernels = [
        set_kernel(grams, model.backbone, some, lora) - grams[HEAD]
        for some, lora in ((rest, plain), (few, dataclasses.replace(plain, rank=2)), (layers, both))
    ]
    np.testing.assert_allclose(kernels[0] + kernels[1], kernels[2], rtol=1e-12)


def test_a_set_has_a_row_of_statistics(model, grams):
    label = np.random.default_rng(0).normal(size=len(TEXTS))
    row = set_statistics(set_kernel(grams, model.backbone, []), label, 1e-15)
    assert list(row) == [
        "condition",
        "largest",
        "trace",
        "gcv",
        "gcv_ridge",
        "evidence",
        "alignment",
    ]
    assert np.isfinite([row[name] for name in row if name != "condition"]).all()
    assert row["trace"] >= row["largest"] > 0


def test_linearised_adapters_are_adapters_whose_first_factor_is_frozen():
    """LoRA-FA (Zhang et al. 2023): at B = 0 the first factor A has no gradient."""
    model = llama(2)
    label = np.random.default_rng(0).normal(size=len(TEXTS))
    adapter = Adapter(model.backbone, Lora(rank=4, alpha=4.0))
    adapter.reset(0)
    names = [name for name, _ in model.named_parameters()]
    second = {n for n in names if ".lora_B." in n or n.startswith("head.")}
    kernel = alone(model, second)
    both = alone(model, second | {n for n in names if ".lora_A." in n})
    np.testing.assert_allclose(both, kernel, rtol=1e-12)

    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    target, gaps = torch.as_tensor(label), []
    for step in (2e-3, 1e-3):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(start[name]).requires_grad_(name in second)
        trained = [p for p in model.parameters() if p.requires_grad]
        for turn in range(4):
            found = torch.stack([model(ids[None], torch.ones_like(ids)[None])[0] for ids in TEXTS])
            if turn == 0:
                first = found.detach().numpy()
            gradient = torch.autograd.grad(((found - target) ** 2).sum() / 2, trained)
            with torch.no_grad():
                for parameter, part in zip(trained, gradient, strict=True):
                    parameter.sub_(part, alpha=step * (turn < 3))
        left = np.linalg.matrix_power(np.eye(len(TEXTS)) - step * kernel, 3) @ (label - first)
        gaps.append(np.linalg.norm(found.detach().numpy() - (label - left)))
        assert gaps[-1] < 0.05 * np.linalg.norm(found.detach().numpy() - first)
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.1)
