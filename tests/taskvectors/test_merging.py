"""Merged models and their scores."""

import math

import pytest
import torch

from ntktune.taskvectors import arithmetic
from ntktune.taskvectors.arithmetic import apply, task_vector
from ntktune.taskvectors.merging import (
    combinations,
    evaluations,
    merged_scores,
    merged_weights,
)


def test_all_pairs_then_all():
    assert combinations(2) == [(0, 1)]
    assert combinations(3) == [(0, 1), (0, 2), (1, 2), (0, 1, 2)]
    assert evaluations(3) == 6 + 6 + 3
    assert len(combinations(6)) == 16


@pytest.mark.parametrize("stretch", [1, 7, 36, 10**6])
def test_merged_weights_are_the_sum_of_the_vectors(stretch, monkeypatch):
    monkeypatch.setattr(arithmetic, "SLICE", stretch)
    generator = torch.Generator().manual_seed(0)
    states = [
        {name: torch.randn(9, 4, generator=generator) for name in ("x", "y")} for _ in range(4)
    ]
    base, *tuned = states
    found = merged_weights(base, tuned, 0.3)
    wanted = apply(base, [task_vector(base, t) for t in tuned], [0.3] * 3)
    assert all(torch.equal(found[name], wanted[name]) for name in base)
    single = merged_weights(base, tuned[:1], 1.0)
    assert all(torch.equal(single[name], tuned[0][name]) for name in base)


@pytest.fixture
def tuned_tasks(study):
    """Return the pretrained model and three tasks whose weights moved at random."""
    from ntktune.cli.finetune import model_facts, read_examples
    from ntktune.models import text_model
    from ntktune.taskvectors.merging import TunedTask, backbone_weights

    model = text_model(study / "model", outputs=1, head_seed=0)
    facts, generator, tasks = (
        model_facts(study / "model"),
        torch.Generator().manual_seed(0),
        [],
    )
    for name, outputs in (("a", 1), ("b", 1), ("c", 2)):
        examples, _ = read_examples(study / f"{name}.safetensors", name, facts)
        moved = {
            k: w + 0.1 * torch.randn(w.shape, generator=generator)
            for k, w in backbone_weights(model).items()
        }
        head = torch.randn(outputs, 16, generator=generator)
        bias = torch.randn(outputs, generator=generator)
        tasks.append(TunedTask(examples, range(40, 60), moved, head, bias, 0.5, 2.0))
    return model, tasks


def test_scores_of_every_merge_and_member(tuned_tasks):
    model, tasks = tuned_tasks
    before = {k: p.detach().clone() for k, p in model.backbone.named_parameters()}
    told = []
    rows = merged_scores(model, tasks, 0.5, 64, told.append)
    assert [(r["merged"], r["task"]) for r in rows] == [
        ("a + b", "a"),
        ("a + b", "b"),
        ("a + c", "a"),
        ("a + c", "c"),
        ("b + c", "b"),
        ("b + c", "c"),
        ("a + b + c", "a"),
        ("a + b + c", "b"),
        ("a + b + c", "c"),
    ]
    assert told == list(range(1, evaluations(3) + 1))
    for row in rows:
        assert row["metric"] == ("accuracy" if row["task"] == "c" else "pearson")
        assert row["coefficient"] == 0.5
        assert row["normalised"] == row["merged_score"] / row["single"]
    for name, parameter in model.backbone.named_parameters():
        assert torch.equal(parameter, before[name])


def test_coefficient_zero_is_the_pretrained_model(tuned_tasks):
    model, tasks = tuned_tasks
    rows = merged_scores(model, tasks, 0.0, 64)
    assert [r["merged_score"] for r in rows] == [r["pretrained"] for r in rows]
    assert rows[0]["pretrained"] != rows[0]["single"]


def test_task_that_did_not_move_leaves_the_other_its_score(tuned_tasks):
    model, (first, second, _) = tuned_tasks
    for name, parameter in model.backbone.named_parameters():
        second.backbone[name] = parameter.detach().clone()
    rows = merged_scores(model, [first, second], 1.0, 64)
    assert [r["task"] for r in rows] == ["a", "b"]
    assert rows[0]["merged_score"] == rows[0]["single"]
    assert rows[0]["normalised"] == 1
    assert rows[1]["single"] == rows[1]["pretrained"]


def test_single_score_of_zero_has_no_normalised_score(tuned_tasks):
    model, (first, second, _) = tuned_tasks
    first.head_weight.zero_()  # a constant prediction: its correlation is defined as 0
    row = merged_scores(model, [first, second], 1.0, 64)[0]
    assert row["single"] == row["merged_score"] == 0
    assert math.isnan(row["normalised"])
