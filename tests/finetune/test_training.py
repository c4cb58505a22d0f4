"""Fine-tuning: the optimiser's steps, the hold-out stopping, the history."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from ntktune.errors import UserError
from ntktune.finetune import training
from ntktune.finetune.training import (
    Settings,
    batch_rows,
    expected_steps,
    fine_tune,
    mean_loss,
    outputs,
    step_sizes,
)
from ntktune.network.models import pad


def tuned(text_model, sentences, settings, seed=3, targets=None, **changes):
    model = text_model(outputs=changes.pop("outputs", 1), dtype=torch.float64)
    if targets is None:
        targets = torch.stack([s[-1] / 20 - 1 for s in sentences]).double()
    result = fine_tune(
        model,
        sentences,
        targets,
        range(24),
        range(24, 32),
        settings(**changes),
        np.random.default_rng(seed),
    )
    return model, result, targets


def test_one_epoch_against_plain_adamw(text_model, sentences, settings):
    """Three steps written out: same batches, one padded pass, plain loop AdamW."""
    model, result, targets = tuned(
        text_model, sentences, settings, max_epochs=1, batch_size=10, evaluate_every=3
    )
    reference = text_model(dtype=torch.float64)
    decaying = [p for n, p in reference.named_parameters() if p.ndim == 2 and "embed" not in n]
    still = [p for n, p in reference.named_parameters() if p.ndim < 2 or "embed" in n]
    stepper = torch.optim.AdamW(
        [{"params": decaying, "weight_decay": 0.01}, {"params": still, "weight_decay": 0}],
        lr=3e-3,
        foreach=False,
    )
    losses = []
    usual = settings(max_epochs=1, batch_size=10)
    lengths = [len(sentence) for sentence in sentences]
    for rows in batch_rows(range(24), lengths, usual, np.random.default_rng(3)):
        stepper.zero_grad()
        loss = functional.mse_loss(reference(*pad([sentences[i] for i in rows])), targets[rows])
        loss.backward()
        stepper.step()
        losses += [loss.item()] * len(rows)
    assert result.best.step == 3
    assert result.best.train_loss == pytest.approx(np.mean(losses), rel=1e-12)
    for (name, found), wanted in zip(
        model.state_dict().items(), reference.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0, msg=name)


def test_batch_tokens_do_not_matter(text_model, sentences, settings):
    one, first, _ = tuned(text_model, sentences, settings, batch_tokens=1)
    two, second, _ = tuned(text_model, sentences, settings, batch_tokens=10_000)
    for a, b in zip(first.history, second.history, strict=True):
        assert a.holdout_loss == pytest.approx(b.holdout_loss, rel=1e-8)
    torch.testing.assert_close(one.head.weight, two.head.weight, atol=1e-8, rtol=0)


def test_same_seed_same_bits_other_seed_other_order(text_model, sentences, settings):
    first, again, other = (tuned(text_model, sentences, settings, seed=s)[0] for s in (3, 3, 4))
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_history_steps_and_epochs(text_model, sentences, settings):
    _, result, _ = tuned(
        text_model, sentences, settings, batch_size=5, max_epochs=2, evaluate_every=4, patience=99
    )
    assert [e.step for e in result.history] == [0, 4, 8, 10]  # 2 epochs of ceil(24 / 5)
    assert [e.epoch for e in result.history] == [0, 0.8, 1.6, 2]
    assert math.isnan(result.history[0].train_loss)
    assert all(math.isfinite(e.train_loss) for e in result.history[1:])
    assert result.steps == expected_steps(24, settings(batch_size=5, max_epochs=2)) == 10


@pytest.mark.parametrize("warmup", [0.0, 0.2])
def test_the_step_size_rises_and_falls_as_hugging_faces(settings, warmup):
    from transformers import get_linear_schedule_with_warmup

    found = step_sizes(20, settings(warmup=warmup, schedule="linear"))
    rising = round(20 * warmup)
    stepper = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    peer = get_linear_schedule_with_warmup(stepper, rising, 20)
    wanted = []
    for _ in range(20):
        wanted.append(peer.get_last_lr()[0])
        stepper.step()
        peer.step()
    np.testing.assert_allclose(found[rising:], wanted[rising:], rtol=1e-12)
    # theirs makes a first step of 0
    np.testing.assert_allclose(found[:rising], np.arange(1, rising + 1) / (rising + 1))
    assert (step_sizes(20, settings()) == 1).all()


def test_each_step_has_the_size_that_the_schedule_says(text_model, sentences, settings):
    """Gradient descent on all rows with gradients cut to length 1: a step's length is its size."""
    places = []

    def look(evaluation):
        places.append(torch.cat([p.detach().flatten().clone() for p in model.parameters()]))

    model = text_model(dtype=torch.float64)
    how = {"optimizer": "sgd", "batch_size": 24, "weight_decay": 0.0, "patience": None}
    how |= {"max_steps": 6, "evaluate_every": 1, "learning_rate": 1e-3, "max_norm": 1e-4}
    how |= {"warmup": 0.34, "schedule": "linear"}
    targets = torch.stack([s[-1] / 20 - 1 for s in sentences]).double()
    # every id is in the training part, so that the embedding table stays whole
    seen = [torch.arange(60), *sentences[1:]]
    result = fine_tune(
        *(model, seen, targets, range(24), range(24, 32), settings(**how)),
        np.random.default_rng(0),
        on_evaluation=look,
    )
    moved = [(b - a).norm().item() for a, b in itertools.pairwise(places)]
    shares = np.array([1 / 3, 2 / 3, 1, 3 / 4, 2 / 4, 1 / 4])
    np.testing.assert_allclose(moved, 1e-3 * 1e-4 * shares, rtol=1e-6)
    clock = [evaluation.sum_learning_rate for evaluation in result.history]
    np.testing.assert_allclose(clock, 1e-3 * np.concatenate([[0], np.cumsum(shares)]))


def test_a_budget_of_steps_takes_the_place_of_epochs(text_model, sentences, settings):
    _, result, _ = tuned(text_model, sentences, settings, max_steps=15, evaluate_every=4)
    assert [e.step for e in result.history] == [0, 4, 8, 12, 15]
    assert result.history[-1].epoch == 2.5  # six steps each
    whole = list(batch_rows(range(24), [5] * 60, settings(max_steps=15), np.random.default_rng(0)))
    epochs = list(batch_rows(range(24), [5] * 60, settings(max_epochs=3), np.random.default_rng(0)))
    assert whole == epochs[:15]


@pytest.mark.parametrize(("rate", "ended"), [(1e-5, True), (0.02, False)])
def test_a_training_that_ends_with_its_hold_out_loss_falling_says_so(
    text_model, sentences, settings, rate, ended
):
    """A gentle one; the other's hold-out loss rises before its end."""
    how = {"learning_rate": rate, "max_epochs": 12, "patience": 99}
    result = tuned(text_model, sentences, settings, **how)[1]
    assert result.steps == 72
    assert result.at_budget == ended
    assert (result.best.step == 72) == ended


def test_model_ends_with_its_best_holdout_weights(text_model, sentences, settings):
    """A learning rate so large that the hold-out loss rises again."""
    model, result, targets = tuned(
        text_model, sentences, settings, learning_rate=0.02, max_epochs=12, patience=99
    )
    losses = [e.holdout_loss for e in result.history]
    assert result.best == result.history[int(np.argmin(losses))]
    assert 0 < result.best.step < result.steps
    held = mean_loss(model, sentences[24:32], targets[24:32], settings())
    assert held == pytest.approx(min(losses), rel=1e-12)
    assert held < losses[-1]
    assert all(p.grad is None for p in model.parameters())


def test_patience_stops_on_a_constructed_sequence(text_model, sentences, settings, monkeypatch):
    made_up = iter([5.0, 3.0, 4.0, 2.0, 2.0, 9.0, 1.0])
    monkeypatch.setattr(training, "mean_loss", lambda *_: next(made_up))
    _, result, _ = tuned(text_model, sentences, settings, evaluate_every=1, patience=2)
    # 2.0 again is no new lowest value; with 9.0 that makes two without one
    assert [e.holdout_loss for e in result.history] == [5, 3, 4, 2, 2, 9]
    assert (result.best.step, result.best.holdout_loss, result.steps) == (3, 2.0, 5)


def test_task_that_only_gets_worse_keeps_the_pretrained_model(
    text_model, sentences, settings, monkeypatch
):
    made_up = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(training, "mean_loss", lambda *_: next(made_up))
    model, result, _ = tuned(text_model, sentences, settings, evaluate_every=1, patience=2)
    assert result.best.step == 0
    for found, wanted in zip(
        model.parameters(), text_model(dtype=torch.float64).parameters(), strict=True
    ):
        assert torch.equal(found, wanted)


def test_without_patience_all_epochs_are_made(text_model, sentences, settings, monkeypatch):
    monkeypatch.setattr(training, "mean_loss", lambda *_: 1.0)
    _, result, _ = tuned(text_model, sentences, settings, patience=None, max_epochs=3, batch_size=8)
    assert result.steps == 9
    assert result.best.step == 0


def test_each_evaluation_is_seen_with_its_weights(text_model, sentences, settings):
    """Also on texts with tokens that the training does not reach."""
    model, seen = text_model(dtype=torch.float64), []
    targets = torch.stack([s[-1] / 20 - 1 for s in sentences]).double()
    result = fine_tune(
        model,
        sentences,
        targets,
        [0, 1, 2, 3],
        [4, 5],
        settings(evaluate_every=1, patience=None),
        np.random.default_rng(0),
        on_evaluation=lambda _: seen.append(
            (outputs(model, sentences[4:6], 512), outputs(model, sentences[20:], 512))
        ),
        looked_at=range(20, len(sentences)),
    )
    losses = [((found - targets[4:6]) ** 2).mean().item() for found, _ in seen]
    assert losses == pytest.approx([e.holdout_loss for e in result.history], rel=1e-12)
    best = [e.step for e in result.history].index(result.best.step)
    torch.testing.assert_close(seen[best][1], outputs(model, sentences[20:], 512))


def test_checkpointing_changes_no_number(text_model, sentences, settings, monkeypatch):
    calls = []
    plain = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(
        torch.utils.checkpoint, "checkpoint", lambda *a, **k: (calls.append(1), plain(*a, **k))[1]
    )
    one, first, _ = tuned(text_model, sentences, settings, checkpointing=True)
    assert calls
    two, second, _ = tuned(text_model, sentences, settings)
    assert [e.holdout_loss for e in first.history] == pytest.approx(
        [e.holdout_loss for e in second.history], rel=1e-12
    )
    torch.testing.assert_close(one.head.weight, two.head.weight, atol=1e-10, rtol=0)
    assert all("forward" not in vars(module) for module in one.modules())


def test_cross_entropy_learns_a_rule(text_model, sentences, settings):
    targets = torch.stack([(s[-1] > 20).long() for s in sentences])
    _, result, _ = tuned(
        text_model, sentences, settings, outputs=2, targets=targets, max_epochs=25, patience=99
    )
    start = result.history[0].holdout_loss
    assert result.history[-1].train_loss < 0.1
    assert result.best.holdout_loss < 0.9 * start


def test_dropout_is_off(text_model, sentences, settings):
    class Dropping(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.config = inner, inner.config

        def get_input_embeddings(self):
            return self.inner.get_input_embeddings()

        def forward(self, **inputs):
            found = self.inner(**inputs)
            found.last_hidden_state = functional.dropout(
                found.last_hidden_state, 0.5, self.training
            )
            return found

    plain, _, _ = tuned(text_model, sentences, settings)

    def wrapped(**options):
        model = text_model(**options)
        model.backbone = Dropping(model.backbone)
        return model.train()

    model, _, _ = tuned(wrapped, sentences, settings)
    assert torch.equal(model.head.weight, plain.head.weight)


def test_bfloat16_products_keep_float32_weights(text_model, sentences, settings):
    model = text_model()
    targets = torch.stack([s[-1] / 20 - 1 for s in sentences]).float()
    changed = settings(autocast=torch.bfloat16)
    result = fine_tune(
        model, sentences, targets, range(24), range(24, 32), changed, np.random.default_rng(0)
    )
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    exact = outputs(model, sentences, 64)
    rounded = outputs(model, sentences, 64, torch.bfloat16)
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.1
    assert result.best.holdout_loss < result.history[0].holdout_loss


def test_outputs_are_in_the_order_of_the_examples(text_model, sentences):
    model = text_model(outputs=2, dtype=torch.float64)
    together = outputs(model, sentences, 40)
    assert together.shape == (60, 2)
    for i in (0, 17, 59):
        torch.testing.assert_close(together[i], outputs(model, [sentences[i]], 40)[0])


def test_progress_counts_steps(text_model, sentences, settings):
    told = []
    model, targets = text_model(), torch.zeros(60)
    targets[:30] = 1
    fine_tune(
        model,
        sentences,
        targets,
        range(8),
        range(8, 10),
        settings(max_epochs=1),
        np.random.default_rng(0),
        told.append,
    )
    assert told == [1, 2]


@pytest.mark.parametrize(
    ("train", "holdout", "message"),
    [([], [1], "training part is empty"), ([1], [], "hold-out part is empty")],
)
def test_empty_part(text_model, sentences, settings, train, holdout, message):
    with pytest.raises(UserError, match=message):
        fine_tune(
            text_model(), sentences, torch.zeros(60), train, holdout, settings(),
            np.random.default_rng(0),
        )  # fmt: skip


def test_divergence_is_named(text_model, sentences, settings):
    with pytest.raises(UserError, match=r"loss is (nan|inf) at step \d+.*below 1e\+30"):
        tuned(text_model, sentences, settings, learning_rate=1e30, evaluate_every=99)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("batch_size", 0),
        ("max_epochs", -1),
        ("evaluate_every", 0),
        ("patience", 0),
        ("batch_tokens", 0),
        ("weight_decay", -0.1),
    ],
)
def test_settings_out_of_range(settings, name, value):
    with pytest.raises(UserError, match=f"{name} is {value}, but must be"):
        settings(**{name: value})


def test_settings_have_no_hidden_defaults():
    with pytest.raises(TypeError):
        Settings(learning_rate=1e-3)


def test_batches_cover_every_pass_once_and_hold_similar_lengths(settings):
    usual = settings(batch_size=4, max_epochs=3)
    rows = list(range(10, 60))
    lengths = [0] * 10 + [(7 * i) % 50 for i in range(50)]
    batches = list(batch_rows(rows, lengths, usual, np.random.default_rng(0)))
    per_epoch = expected_steps(50, usual) // 3
    assert len(batches) == 3 * per_epoch
    for epoch in range(3):
        some = batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(row for batch in some for row in batch) == rows
        assert all(len(batch) <= 4 for batch in some)
    padded = sum(len(b) * max(lengths[row] for row in b) for b in batches)
    real = sum(lengths[row] for b in batches for row in b)
    assert padded < 1.35 * real
    again = list(batch_rows(rows, lengths, usual, np.random.default_rng(0)))
    assert again == batches
    assert batches[:per_epoch] != batches[per_epoch : 2 * per_epoch]
