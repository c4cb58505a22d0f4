"""Fine-tuning of sets of layers."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_network import SETTINGS, made_up, text_model

from ntktune.errors import UserError
from ntktune.finetune.training import Lora
from ntktune.linearized.choice import tuned_set
from ntktune.linearized.layers import layer_sets

SUBSETS = {
    "holdout_fraction": 0.25,
    "seeds": [
        {"order": list(range(n, 20 + n)), "holdout": [i % 4 == 0 for i in range(20)]}
        for n in (0, 2)
    ],
    "test": list(range(22, 30)),
}
SETTINGS = dataclasses.replace(
    SETTINGS, learning_rate=1.0, weight_decay=0.0, max_epochs=2, lora=Lora(rank=2)
)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_only_the_set_and_the_head_are_trained_at_the_rate_the_holdout_chooses(method):
    model, examples = text_model(1), made_up("regression")
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    layers = layer_sets(model.backbone)["block1"]
    settings = dataclasses.replace(SETTINGS, method=method)
    cell, loaded, done = (examples, SUBSETS, 16, settings, 3, layers), [], []

    def load():
        loaded.append(text_model(1))
        return loaded[-1]

    rates = (1e-4, 1e-2)
    rows = tuned_set(load, *cell, rates=rates, seeds=2, progress=done.append)
    assert done == [1, 2]
    assert [row["seed"] for row in rows] == [0, 1]
    losses = {}
    for rate in rates:
        alone = tuned_set(load, *cell, rates=(rate,), seeds=2)
        losses[rate] = np.mean([row["holdout_loss"] for row in alone])
    assert rows[0]["learning_rate"] == min(losses, key=losses.get)
    changed = {
        name
        for name, p in loaded[-1].named_parameters()
        if not torch.equal(p, start[name]) and not name.startswith("head")
    }
    inside = {f"backbone.{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert changed == (inside if method == "full" else set())  # adapters are taken off again
    assert all(p.requires_grad for p in loaded[-1].parameters())


def test_rates_that_diverge_are_passed_over():
    examples, layers = made_up("regression"), layer_sets(text_model(1).backbone)["all"]
    settings = dataclasses.replace(SETTINGS, optimizer="sgd")
    cell = (lambda: text_model(1), examples, SUBSETS, 16, settings, 3, layers)
    rows = tuned_set(*cell, rates=(1e6, 1e-3), seeds=1)
    assert rows[0]["learning_rate"] == 1e-3
    with pytest.raises(UserError, match=r"the training diverged.*with every rate that is listed"):
        tuned_set(*cell, rates=(1e6, 1e7), seeds=1)
