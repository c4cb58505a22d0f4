"""What is trained: all weights, low-rank adapters and the head, or the head alone."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch.nn import functional

from ntktune.errors import UserError
from ntktune.finetune.methods import (
    Adapter,
    adapted_layers,
    plain_weights,
    save_adapter,
    trained_by,
)
from ntktune.finetune.repeats import fine_tuned_repeats, seed_split
from ntktune.finetune.training import Lora, batch_rows, fine_tune, outputs
from ntktune.kernel import gram
from ntktune.network.models import Features

KINDS = ["regression", "three classes"]
LAYERS = [f"layers.{i}.{name}" for i in range(2) for name in (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)]  # fmt: skip


def repeats(text_model, data, subsets, how, seeds=None, **options):
    """Return rows, histories, and the head and the backbone's own weights of each seed."""
    model = text_model(outputs=data.outputs)
    found = []
    for repeat in fine_tuned_repeats(model, data, subsets, 20, how, 5, seeds, **options):
        weights = dict(plain_weights(model.backbone)) if how.method == "lora" else {}
        found.append((repeat.row, repeat.training.history, model.head.weight.clone(), weights))
    return found, model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["lora", "probe"])
@pytest.mark.parametrize("head", ["random", "probe"])
def test_only_the_methods_weights_are_trained_and_the_model_is_whole_again(
    text_model, examples, subsets, settings, kind, method, head
):
    data, before = examples(kind), text_model().backbone.state_dict()
    how = settings(method=method, head=head, max_epochs=8, patience=None, evaluate_every=None)
    both, model = repeats(text_model, data, subsets, how)
    after = model.backbone.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(weight.requires_grad for weight in model.parameters())
    assert [row["method"] for row, *_ in both] == [method, method]
    assert all(history[-1].train_loss < history[1].train_loss for _, history, *_ in both)
    alone, _ = repeats(text_model, data, subsets, how, seeds=[1])
    assert repr(alone[0][:2]) == repr(both[1][:2])  # NaN is not equal to itself
    assert torch.equal(alone[0][2], both[1][2])


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_alone_trains_as_under_a_frozen_backbone(
    text_model, examples, subsets, settings, kind
):
    data, how = examples(kind), settings(method="probe", checkpointing=True)
    # of one length: batches are put together by it
    data = dataclasses.replace(data, ids=[ids[-3:] for ids in data.ids])
    (found, *_), _ = repeats(text_model, data, subsets, how, seeds=[0], test_history=True)
    # the same steps through the whole network
    frozen = text_model(outputs=data.outputs)
    frozen.backbone.requires_grad_(False)
    (wanted,) = [
        (r.row, r.training.history)
        for r in fine_tuned_repeats(frozen, data, subsets, 20, settings(), 5, [0])
    ]
    for mine, theirs in zip(found[1], wanted[1], strict=True):
        assert mine.holdout_loss == pytest.approx(theirs.holdout_loss, rel=1e-5)
    for name in ("mse", "accuracy", "cross_entropy", "best_step"):
        assert found[0][name] == pytest.approx(wanted[0][name], rel=1e-4, nan_ok=True)


@pytest.mark.parametrize("rslora", [False, True])
def test_lora_takes_the_steps_of_a_plain_loop(text_model, examples, subsets, settings, rslora):
    data = examples()
    lora = Lora(rank=3, alpha=6, targets=["q_proj", "down_proj"], rank_pattern={"q_proj": 2},
                rslora=rslora)  # fmt: skip
    how = settings(method="lora", lora=lora, max_epochs=6, patience=None, evaluate_every=None)
    model = text_model().double()
    train, _ = seed_split(data, subsets, 20, 0)
    holdout = train[:4]  # whose loss falls
    targets = torch.as_tensor(data.label)
    with trained_by(model, data.ids, {*train, *holdout}, set(), how) as (ids, reset, adapter):
        reset(7)
        start = copy.deepcopy(model)
        drawn = {n: w.detach().clone() for n, w in start.named_parameters() if ".lora_" in n}
        fine_tune(model, ids, targets, train, holdout, how, np.random.default_rng(3))
        merged = dict(plain_weights(model.backbone))
        trained = {n: w.detach().clone() for n, w in model.named_parameters() if ".lora_" in n}
        head = model.head.weight.detach().clone()
        reset(7)
        assert all(torch.equal(dict(model.named_parameters())[n], w) for n, w in drawn.items())
        save = adapter.model.peft_config["default"]
    assert (save.r, save.lora_alpha, save.use_rslora) == (3, 6, rslora)
    # W + s B A by hand, by autograd, in float64
    base = {name: w.detach() for name, w in text_model().double().backbone.named_parameters()}
    network = text_model().double()
    ours = {}
    for name, weight in drawn.items():
        layer = name.removeprefix("backbone.").split(".lora_")[0]
        ours.setdefault(layer, {})["A" if "lora_A" in name else "B"] = weight.requires_grad_()
    assert {len(pair["A"]) for n, pair in ours.items() if n.endswith("q_proj")} == {2}
    assert {len(pair["A"]) for n, pair in ours.items() if n.endswith("down_proj")} == {3}
    top, bias = (w.detach().clone().requires_grad_() for w in network.head.parameters())
    flat = [w for pair in ours.values() for w in pair.values()]
    stepper = torch.optim.AdamW(
        [{"params": [*flat, top], "weight_decay": 0.01}, {"params": [bias], "weight_decay": 0}],
        lr=how.learning_rate,
    )

    def answers(rows):
        moved = dict(base)
        for layer, pair in ours.items():
            rank = len(pair["A"])
            scale = 6 / (math.sqrt(rank) if rslora else rank)
            moved[f"{layer}.weight"] = base[f"{layer}.weight"] + scale * pair["B"] @ pair["A"]
        texts = [data.ids[row][None] for row in rows]
        states = [
            torch.func.functional_call(
                network.backbone, moved, kwargs={"input_ids": ids}
            ).last_hidden_state[0, -1]
            for ids in texts
        ]
        return (torch.stack(states) @ top.T + bias)[:, 0]

    def holdout_loss():
        with torch.no_grad():
            return functional.mse_loss(answers(holdout), targets[holdout]).item()

    best, kept = holdout_loss(), None
    lengths = [len(ids) for ids in data.ids]
    for step, rows in enumerate(batch_rows(train, lengths, how, np.random.default_rng(3)), 1):
        stepper.zero_grad()
        functional.mse_loss(answers(rows), targets[rows]).backward()
        stepper.step()
        if step % 4 == 0 and (loss := holdout_loss()) < best:
            best, kept = loss, [w.detach().clone() for w in (*flat, top)]
    for mine, theirs in zip(trained.values(), kept[:-1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(head, kept[-1], rtol=1e-8, atol=1e-12)
    for weight, theirs in zip(flat, kept[:-1], strict=True):
        weight.data.copy_(theirs)
    for layer, pair in ours.items():
        rank = len(pair["A"])
        scale = 6 / (math.sqrt(rank) if rslora else rank)
        wanted = base[f"{layer}.weight"] + scale * pair["B"] @ pair["A"]
        torch.testing.assert_close(merged[f"{layer}.weight"], wanted, rtol=1e-8, atol=1e-12)
    assert merged.keys() == base.keys()


def test_a_saved_adapter_is_loaded_by_peft(text_model, examples, subsets, settings, tmp_path):
    data, model = examples(), text_model()
    how = settings(method="lora", lora=Lora(rank=2, targets=["v_proj", "embed_tokens"]))
    for repeat in fine_tuned_repeats(model, data, subsets, 20, how, 5, [0]):
        with torch.no_grad():  # whatever the hold-out chose
            for name, weight in repeat.adapter.model.named_parameters():
                weight.normal_() if ".lora_" in name else None
        save_adapter(repeat.adapter, model.head, tmp_path / "a", {"name": "some/model"})
        wanted = outputs(Features(model.backbone), data.ids, 64)
    assert '"some/model"' in (tmp_path / "a/adapter_config.json").read_text()
    loaded = PeftModel.from_pretrained(text_model().backbone, tmp_path / "a").eval()
    torch.testing.assert_close(outputs(Features(loaded), data.ids, 64), wanted)
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(outputs(Features(merged), data.ids, 64), wanted)
    assert not torch.allclose(wanted, outputs(Features(text_model().backbone), data.ids, 64))


def test_adapters_stand_where_they_are_asked_for(text_model):
    backbone = text_model().backbone
    assert adapted_layers(backbone, Lora()) == LAYERS
    ends = ("q_proj", "v_proj")
    assert adapted_layers(backbone, Lora(targets=ends)) == [n for n in LAYERS if n.endswith(ends)]
    found = adapted_layers(backbone, Lora(exclude=["mlp.up_proj", "layers.0.self_attn.q_proj"]))
    assert found == [n for n in LAYERS[1:] if not n.endswith("up_proj")]
    assert adapted_layers(backbone, Lora(layers=[1])) == LAYERS[7:]
    found = adapted_layers(backbone, Lora(targets=["embed_tokens", "k_proj"], layers=None))
    assert found == ["embed_tokens", LAYERS[1], LAYERS[8]]


@pytest.mark.parametrize(
    ("lora", "told"),
    [
        ({"targets": ["q_proj", "qproj"]}, "is no layer of the model; did you mean 'q_proj'?"),
        ({"targets": ["norm"]}, "targets 'norm' is no layer of the model"),
        ({"targets": ["proj"]}, "targets 'proj' is no layer of the model"),
        ({"targets": ["q_proj"], "exclude": ["v_proj"]}, "exclude 'v_proj'"),
        ({"layers": [0, 2]}, "layers has 2, but the blocks are 0 to 1"),
        ({"layers": [-1]}, "layers has -1"),
        ({"targets": ["q_proj", "embed_tokens"], "layers": [1]}, "is in none of the blocks [1]"),
        ({"targets": ["layers.0.mlp.up_proj"], "layers": [1]}, "is in none of the blocks"),
        ({"targets": ["q_proj"], "exclude": ["self_attn.q_proj"]}, "leaves no layer"),
        ({"targets": ["q_proj"], "rank_pattern": {"v_proj": 4}}, "rank_pattern 'v_proj'"),
        ({"rank": 0}, "peft takes no such adapter"),
    ],
)  # fmt: skip
def test_an_option_that_finds_no_layer_is_told_in_a_line(text_model, lora, told):
    with pytest.raises(UserError) as error:
        Adapter(text_model().backbone, Lora(**lora))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rank", [8, 64])
def test_the_initial_lora_kernel_is_a_projection_of_the_layers_own(text_model, sentences, rank):
    """E[K_LoRA] = alpha² / (3 r d_in) K_W over 200 draws of A; A's own gradient is 0.

    Twenty draws of rank r side by side are one of rank 20 r, and their mean is 20 times its kernel.
    """
    model, texts = text_model(dtype=torch.float64), sentences[:4]
    model.requires_grad_(False)
    wanted = 0
    for name in LAYERS:
        weight = model.backbone.get_submodule(name).weight.requires_grad_()
        own = gram(model, texts, dtype=torch.float64).kernel
        wanted = wanted + 25 / (3 * rank * weight.shape[1]) * own
        weight.requires_grad_(False)
    adapter = Adapter(model.backbone, Lora(rank=20 * rank, alpha=5.0))
    adapter.reset(0)
    draws = [gram(model, texts, dtype=torch.float64).kernel]
    for name, weight in model.named_parameters():
        weight.requires_grad_(".lora_B." in name)  # what A adds is 0
    for seed in range(10):
        adapter.reset(seed)
        draws.append(gram(model, texts, dtype=torch.float64, check=False).kernel)
    torch.testing.assert_close(draws[0], draws[1])
    mean = 20 * torch.stack(draws[1:]).mean(dim=0)
    assert (mean - wanted).norm() < 0.02 * wanted.norm()
    adapter.model.requires_grad_(True)
    model(texts[0][None], torch.ones(1, len(texts[0]), dtype=torch.long)).sum().backward()
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            assert parameter.grad is not None
            assert not parameter.grad.any()
        elif ".lora_B." in name:
            assert parameter.grad.any()
    adapter.remove()
