"""Repeats over seeds: independent of each other, on the sample that the subsets name."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from ntktune.errors import UserError
from ntktune.finetune.baselines import baseline_rows
from ntktune.finetune.metrics import CLASSIFICATION, REGRESSION, mean_squared_error
from ntktune.finetune.repeats import (
    Examples,
    all_steps,
    center_outputs,
    compared_rates,
    fine_tuned_repeats,
    label_scale,
    seed_split,
    start_seed,
)
from ntktune.finetune.training import outputs
from ntktune.network.models import Features


def rows(text_model, examples, subsets, settings, seeds=None, size=20, **options):
    model = text_model(outputs=examples.outputs)
    found = fine_tuned_repeats(model, examples, subsets, size, settings(), 5, seeds, **options)
    return [(r.row, r.training.history, model.head.weight.detach().clone()) for r in found]


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_a_seed_alone_gives_the_numbers_it_gives_after_others(
    text_model, examples, subsets, settings, kind
):
    both = rows(text_model, examples(kind), subsets, settings)
    alone = rows(text_model, examples(kind), subsets, settings, seeds=[1])
    assert repr(both[1][:2]) == repr(alone[0][:2])  # NaN is not equal to itself
    assert torch.equal(both[1][2], alone[0][2])
    assert both[0][0]["holdout_loss"] != both[1][0]["holdout_loss"]


def test_a_seed_on_the_sample_of_another_keeps_its_head_and_order(
    text_model, examples, subsets, settings
):
    own = rows(text_model, examples(), subsets, settings)
    swapped = rows(text_model, examples(), subsets, settings, seeds=[0, 0], samples=[0, 1])
    assert repr(swapped[0][:2]) == repr(own[0][:2])
    data = examples()
    one_sample = {**subsets, "seeds": subsets["seeds"][1:]}  # the second sample under seed 0
    alone = rows(text_model, data, one_sample, settings, seeds=[0])
    assert repr(swapped[1][:2]) == repr(alone[0][:2])
    assert swapped[1][0]["holdout_loss"] != own[1][0]["holdout_loss"]
    steps = all_steps(data, subsets, 20, settings(), samples=[0, 1])
    assert steps == 2 * all_steps(data, subsets, 20, settings(), samples=[0])


@pytest.mark.parametrize("head", ["random", "probe"])
def test_the_head_is_the_seeds_whatever_the_sample(text_model, examples, subsets, settings, head):
    model, data, heads = text_model(), examples(), []
    for seed, sample in ((0, 0), (0, 1), (1, 1)):
        start = start_seed(model, data, subsets, 20, seed, settings(head=head), 5, sample)
        assert start.train == seed_split(data, subsets, 20, sample)[0]
        heads.append(model.head.weight.detach().clone())
    assert torch.equal(heads[0], heads[1])
    assert not torch.allclose(heads[0], heads[2])


def test_one_row_per_seed_with_all_columns(text_model, examples, subsets, settings):
    found = rows(text_model, examples(), subsets, settings)
    assert [row["seed"] for row, *_ in found] == [0, 1]
    for row, history, _ in found:
        assert (row["task"], row["kind"], row["n"]) == ("toy", "regression", 20)
        assert (row["n_train"], row["n_holdout"]) == (16, 4)
        assert row["holdout_loss"] == min(e.holdout_loss for e in history)
        assert row["sum_learning_rate"] == pytest.approx(row["best_step"] * 3e-3)
        assert row["best_epoch"] == row["best_step"] / 4
        assert row["noise_variance"] == pytest.approx(0.09)
        assert all(math.isfinite(row[name]) for name in REGRESSION)
        assert all(math.isnan(row[name]) for name in CLASSIFICATION)
    row = rows(text_model, examples("classification"), subsets, settings)[0][0]
    assert all(math.isfinite(row[name]) for name in CLASSIFICATION)
    assert all(math.isnan(row[name]) for name in REGRESSION)


def test_metrics_are_those_of_the_model_that_is_yielded(text_model, examples, subsets, settings):
    model, data = text_model(), examples()
    for repeat in fine_tuned_repeats(model, data, subsets, 20, settings(), 5):
        prediction = outputs(model, [data.ids[i] for i in subsets["test"]], 64).double().numpy()
        prediction = prediction * repeat.label_sd + repeat.label_mean
        wanted = mean_squared_error(prediction, data.label[subsets["test"]])
        assert repeat.row["mse"] == pytest.approx(wanted, rel=1e-12)
        train, _ = seed_split(examples(), subsets, 20, repeat.seed)
        assert repeat.label_mean == data.label[train].mean()
        assert repeat.label_sd == data.label[train].std()


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_trainings_start_with_outputs_centred_on_the_training_part(
    text_model, examples, subsets, settings, kind
):
    model, data = text_model(outputs=examples(kind).outputs), examples(kind)
    before = model.head.weight.detach().clone()
    center_outputs(model, data.ids[:30], settings())
    assert torch.equal(model.head.weight, before)
    found = outputs(model, data.ids[:30], 64)
    assert found.mean(dim=0).abs().max() < 1e-6
    assert found.std() > 1e-4
    # standardised targets and centred outputs: the first loss is the variance of their difference
    history = rows(text_model, data, subsets, settings)[0][1]
    assert history[0].step == 0
    assert history[0].holdout_loss < 2.5


@pytest.mark.parametrize("kind", ["regression", "classification", "three classes"])
def test_from_a_probes_head_a_training_starts_with_what_the_probe_predicts(
    text_model, examples, subsets, settings, kind
):
    data, model = examples(kind), text_model(outputs=examples(kind).outputs)
    states = outputs(Features(model.backbone), data.ids, 64).double().numpy()
    probes = baseline_rows(data, subsets, [20], dict(enumerate(states)), {})
    # steps too small to move anything
    tiny = partial(settings, head="probe", learning_rate=1e-12, max_epochs=1)
    found = [row for row, *_ in rows(text_model, data, subsets, tiny)]
    for own, probe in zip(found, probes, strict=True):
        for name in (*REGRESSION, *CLASSIFICATION):
            assert own[name] == pytest.approx(probe[name], rel=1e-4, nan_ok=True), name
    # of both seeds, whichever was first; further training goes on from there
    alone = rows(text_model, data, subsets, tiny, seeds=[1])[0][0]
    assert repr(alone) == repr(found[1])
    longer = partial(settings, head="probe", learning_rate=3e-4, max_epochs=8)
    trained = rows(text_model, data, subsets, longer)
    for (row, history, _), start in zip(trained, found, strict=True):
        assert history[0].holdout_loss == pytest.approx(start["holdout_loss"], rel=1e-4)
        assert row["holdout_loss"] <= history[0].holdout_loss
    assert max(row["best_step"] for row, *_ in trained) > 0


def test_learning_rates_are_compared_by_the_hold_out_alone(text_model, examples, subsets, settings):
    data, blind = examples(), subsets | {"test": []}
    found = compared_rates(text_model, data, blind, 20, settings(), 5, [1e-6, 3e-3, 1e30], {})
    assert [row["learning_rate"] for row in found] == [3e-3, 1e-6, 1e30]
    for row in found[:2]:
        how = partial(settings, learning_rate=row["learning_rate"])
        alone = [kept for kept, *_ in rows(text_model, data, subsets, how)]
        losses = [kept["holdout_loss"] for kept in alone]
        assert row["holdout_loss"] == pytest.approx(np.mean(losses))
        assert row["at_budget"] == sum(kept["at_budget"] for kept in alone)
    assert found[2]["holdout_loss"] is None  # diverged


def test_scale_of_the_labels_does_not_matter(text_model, examples, subsets, settings):
    data = examples()
    scaled = Examples(
        "toy", "regression", data.ids, 10 * data.label + 3, data.label_noise, (-37.0, 43.0)
    )
    first = rows(text_model, data, subsets, settings)[0][0]
    second = rows(text_model, scaled, subsets, settings)[0][0]
    assert second["mse_unit"] == pytest.approx(first["mse_unit"], rel=1e-4)
    assert second["pearson"] == pytest.approx(first["pearson"], rel=1e-4)


def test_progress_runs_over_all_seeds(text_model, examples, subsets, settings):
    told = []
    rows(text_model, examples(), subsets, settings, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == all_steps(examples(), subsets, 20, settings()) == 2 * 3 * 4


def test_more_rows_than_there_are(text_model, examples, subsets, settings):
    with pytest.raises(UserError, match="a subset of 21 rows is asked for, but the task has 20"):
        list(fine_tuned_repeats(text_model(), examples(), subsets, 21, settings(), 0))


def test_no_holdout(text_model, examples, subsets, settings):
    for seed in subsets["seeds"]:
        seed["holdout"] = [False] * 20
    with pytest.raises(UserError, match="0 hold-out and 20 training rows"):
        rows(text_model, examples(), subsets, settings)


def test_no_test_rows(text_model, examples, subsets, settings):
    with pytest.raises(UserError, match="task toy has no test rows"):
        rows(text_model, examples(), subsets | {"test": []}, settings)


def test_equal_labels(examples):
    data = examples()
    data.label[:3] = 1.5
    with pytest.raises(UserError, match=r"all 3 labels of the training part are 1\.5"):
        label_scale(data, [0, 1, 2])
    assert label_scale(examples("classification"), [0, 1]) == (0.0, 1.0)


def test_kind_and_classes_are_checked(sentences):
    noise = np.zeros(60)
    with pytest.raises(UserError, match="of kind 'ranking'"):
        Examples("toy", "ranking", sentences, noise, noise)
    with pytest.raises(UserError, match="label 2 is not a class"):
        Examples("toy", "classification", sentences, noise + 2, noise)
