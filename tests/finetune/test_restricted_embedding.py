"""Training on the embedding rows in use is training on the whole table."""

import numpy as np
import pytest
import torch
from torch import nn

from ntktune.finetune.embedding import Snapshot, restricted_embedding, shares_weight
from ntktune.finetune.training import fine_tune, outputs


def trained(text_model, sentences, settings, dtype):
    model = text_model(dtype=dtype)
    targets = torch.stack([s[-1] / 20 - 1 for s in sentences]).to(dtype)
    result = fine_tune(
        model,
        sentences,
        targets,
        range(24),
        range(24, 32),
        settings(max_epochs=5),
        np.random.default_rng(3),
    )
    return model.state_dict(), result


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 0), (torch.float32, 1e-5)])
def test_training_equals_that_of_the_whole_table(
    text_model, sentences, settings, monkeypatch, dtype, atol
):
    restricted, history = trained(text_model, sentences, settings, dtype)
    monkeypatch.setattr("ntktune.finetune.embedding.shares_weight", lambda *_: True)
    whole, whole_history = trained(text_model, sentences, settings, dtype)
    for name, tensor in whole.items():
        torch.testing.assert_close(restricted[name], tensor, atol=atol, rtol=0)
    assert history.best.step > 5  # the weights compared are trained ones
    losses = [[e.holdout_loss for e in h.history] for h in (history, whole_history)]
    np.testing.assert_allclose(*losses, atol=atol, rtol=0)
    start = text_model(dtype=dtype).state_dict()["backbone.embed_tokens.weight"]
    moved = (whole["backbone.embed_tokens.weight"] != start).any(dim=1)
    assert 30 < moved.sum() < 40  # ids 1-39 less the padding id: the training did reach them


def test_rows_out_of_reach_stay_bit_for_bit(text_model, sentences, settings):
    start = text_model().state_dict()["backbone.embed_tokens.weight"]
    state, _ = trained(text_model, sentences, settings, torch.float32)
    table = state["backbone.embed_tokens.weight"]
    assert torch.equal(table[40:], start[40:])
    assert torch.equal(table[:1], start[:1])  # the id under the padding
    assert torch.equal(table[2], start[2])  # the padding id: torch trains no such row
    assert not torch.equal(table[5], start[5])
    assert table.shape == start.shape


def test_outputs_within_the_context_are_the_same(text_model, sentences):
    model = text_model()
    before = outputs(model, sentences, 64)
    with restricted_embedding(model.backbone, sentences):
        assert len(model.backbone.embed_tokens.weight) == 40  # ids 1-39 and 0
        assert torch.equal(outputs(model, sentences, 64), before)
        assert model.backbone.embed_tokens.padding_idx == 2
    assert len(model.backbone.embed_tokens.weight) == 60
    assert torch.equal(outputs(model, sentences, 64), before)


def test_padding_row_that_does_not_occur_is_no_padding_row(text_model):
    model = text_model()
    with restricted_embedding(model.backbone, [torch.tensor([7, 9])]):
        assert model.backbone.embed_tokens.padding_idx is None
    assert model.backbone.embed_tokens.padding_idx == 2


def test_changes_within_the_context_are_kept_after_an_error(text_model):
    model = text_model()
    table = model.backbone.embed_tokens.weight
    start = table.detach().clone()

    def fail():
        with restricted_embedding(model.backbone, [torch.tensor([7, 9])]):
            with torch.no_grad():
                model.backbone.embed_tokens.weight += 1
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert model.backbone.embed_tokens.weight is table
    start[[0, 7, 9]] += 1
    assert torch.equal(table, start)


def test_tied_table_is_left_whole(text_model, sentences):
    model = text_model()
    model.backbone.output = nn.Linear(16, 60, bias=False)
    model.backbone.output.weight = model.backbone.embed_tokens.weight
    assert shares_weight(model.backbone, model.backbone.embed_tokens.weight)
    with restricted_embedding(model.backbone, sentences):
        assert len(model.backbone.embed_tokens.weight) == 60


def test_encoder_that_reads_positions_from_ids(sentences):
    """RoBERTa counts positions from the ids that are not its padding id."""
    from transformers import AutoModel, RobertaConfig

    from ntktune.network.models import TextModel

    config = RobertaConfig(
        vocab_size=60,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=20,
        pad_token_id=1,
    )
    model = TextModel(AutoModel.from_config(config).eval(), 1, torch.Generator().manual_seed(0))
    shifted = [s + 5 for s in sentences]
    before = outputs(model, shifted, 64)
    with restricted_embedding(model.backbone, shifted):
        assert torch.equal(outputs(model, shifted, 64), before)


@pytest.mark.parametrize("tied", [False, True])
def test_a_snapshot_puts_everything_back_that_a_training_changed(
    text_model, sentences, settings, tied
):
    model = text_model()
    if tied:
        model.backbone.output = nn.Linear(16, 60, bias=False)
        model.backbone.output.weight = model.backbone.embed_tokens.weight
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    kept = Snapshot(model.backbone, sentences[:32])
    targets = torch.stack([s[-1] / 20 - 1 for s in sentences])
    fine_tune(
        model, sentences, targets, range(24), range(24, 32), settings(), np.random.default_rng(3)
    )
    moved = [k for k, v in model.backbone.state_dict().items() if not torch.equal(v, before[k])]
    assert any("embed_tokens" in name for name in moved)
    assert len(moved) > 10
    kept.restore()
    assert all(torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())
    # of an untied table it holds the rows in reach only
    reached = {0}.union(*(s.tolist() for s in sentences[:32]))
    assert kept.rows is None if tied else len(kept.rows) == len(reached) < 60
