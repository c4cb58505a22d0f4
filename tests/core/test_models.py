"""The network of the study: backbone, head on the last real token, padding, batches."""

import pytest
import torch
from transformers import AutoModel, BertConfig, GPTNeoConfig, LlamaConfig

from ntktune import models
from ntktune.errors import UserError

CONFIGS = {
    "gpt_neo": GPTNeoConfig(
        vocab_size=50,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=32,
        window_size=4,
    ),
    "llama": LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    ),
    "bert": BertConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
    ),
}


@pytest.fixture(params=CONFIGS)
def folder(request, tmp_path):
    torch.manual_seed(0)
    AutoModel.from_config(CONFIGS[request.param]).save_pretrained(tmp_path)
    return tmp_path


def examples():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 50, (n,), generator=generator) for n in (5, 3, 9)]


def test_output_does_not_depend_on_padding_or_company(folder):
    model = models.text_model(folder, outputs=1, head_seed=0, dtype=torch.float64)
    texts = examples()
    with torch.no_grad():
        together = model(*models.pad(texts))
        alone = torch.cat([model(*models.pad([t])) for t in texts])
        ids, mask = models.pad(texts)
        # padded further, with junk under the mask
        ids = torch.cat([ids, torch.full((3, 4), 7)], dim=1)
        longer = model(ids, torch.cat([mask, torch.zeros(3, 4, dtype=torch.long)], dim=1))
    assert together.shape == (3,)
    # transformers computes part of GPT-Neo's attention in float32 whatever the model's precision
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(together, longer, rtol=1e-6, atol=1e-7)


def test_head_is_seeded_and_scaled_as_the_pretrained_configuration_says(folder):
    one, same, other = (models.text_model(folder, outputs=2, head_seed=s) for s in (1, 1, 2))
    assert torch.equal(one.head.weight, same.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)
    scale = one.backbone.config.initializer_range
    assert one.head.weight.std().item() == pytest.approx(scale, rel=0.4)
    assert torch.equal(one.head.bias, torch.zeros(2))
    assert one(*models.pad(examples())).shape == (3, 2)
    assert not one.training


def test_first_blocks_are_the_pretrained_ones(folder):
    whole = models.load_backbone(folder)
    first = models.load_backbone(folder, blocks=1)
    assert len(models.block_list(first)) == first.config.num_hidden_layers == 1
    kept = dict(first.named_parameters())
    assert all(torch.equal(p, dict(whole.named_parameters())[n]) for n, p in kept.items())
    assert len(kept) < len(dict(whole.named_parameters()))
    # what one block computes is the hidden state after the whole model's first block
    ids, mask = models.pad(examples()[:1])
    with torch.no_grad():
        states = whole(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        inside = torch.stack(list(states))
        hooked = []
        handle = models.block_list(first)[0].register_forward_hook(
            lambda _m, _i, out: hooked.append(out[0] if isinstance(out, tuple) else out)
        )
        first(input_ids=ids, attention_mask=mask)
        handle.remove()
    torch.testing.assert_close(hooked[0].reshape(inside[1].shape), inside[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("blocks", [0, 9])
def test_an_impossible_number_of_blocks_is_named(folder, blocks):
    with pytest.raises(
        UserError, match=rf"^{blocks} blocks are asked for .* but this model has [23];"
    ):
        models.load_backbone(folder, blocks=blocks)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"config\.json is missing"):
        models.load_backbone(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        models.load_backbone(tmp_path)


@pytest.mark.parametrize("max_tokens", [1, 7, 20, 1000])
def test_token_batches_hold_every_example_once_and_respect_the_budget(max_tokens):
    lengths = [3, 9, 1, 4, 4, 12, 2]
    batches = list(models.token_batches(lengths, max_tokens))
    assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[i] for i in batch)
        assert padded <= max_tokens or len(batch) == 1
    assert [lengths[i] for b in batches for i in b] == sorted(lengths, reverse=True)


def test_the_fused_gelu_is_the_same_function():
    from transformers.activations import NewGELUActivation

    module = NewGELUActivation()
    x = torch.linspace(-6, 6, 101, dtype=torch.float64, requires_grad=True)
    expected = module(x)
    slope = torch.autograd.grad(expected.sum(), x)[0]
    assert models.fuse_activations(torch.nn.Sequential(module)) == [module]
    assert models.fuse_activations(torch.nn.Sequential(module)) == []  # once is enough
    found = module(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), x)[0], slope, rtol=1e-12, atol=1e-12
    )
