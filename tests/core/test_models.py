"""The network of the study: backbone, head on the last real token, padding, batches."""

import copy
import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    GPTNeoConfig,
    LlamaConfig,
    T5Config,
)

from ntktune.errors import UserError
from ntktune.network import loading, models

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


SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50}
WIDE = SHAPE | {"intermediate_size": 24, "max_position_embeddings": 34, "pad_token_id": 1}


def described(model_type, **settings):
    return models.described_configuration({"model_type": model_type} | settings)


def saved(config, folder, kind=AutoModel):
    torch.manual_seed(0)
    kind.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("config", "width", "positions"),
    [
        # OPT-350M's hidden states are projected to the width of its words
        (described("opt", **WIDE, ffn_dim=24, word_embed_proj_dim=8), 8, 34),
        (described("albert", **WIDE, embedding_size=8), 16, 34),
        # they count positions from the padding id on
        (described("roberta", **WIDE), 16, 32),
        (described("mpnet", **WIDE), 16, 32),
        (described("xlnet", d_model=16, d_inner=24, n_layer=2, n_head=2, vocab_size=50), 16, None),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_width_and_positions_are_those_of_the_network_itself(config, width, positions, tmp_path):
    model = models.text_model(saved(config, tmp_path), outputs=2, head_seed=0)
    assert model.head.weight.shape == (2, width)
    assert models.positions(model.backbone) == positions
    longest = torch.full((1, positions or 40), 3)
    assert model(longest, torch.ones_like(longest)).isfinite().all()
    if config.model_type in ("roberta", "mpnet"):
        with pytest.raises((IndexError, RuntimeError), match="out of"):
            model(torch.full((1, 33), 3), torch.ones(1, 33, dtype=torch.long))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (T5Config(vocab_size=50, d_model=8, d_ff=8), "t5 is an encoder-decoder"),
        ({"model_type": "gemma3"}, "gemma3 has several parts, and its text model (gemma3_text)"),
    ],
)
def test_what_is_no_text_network_is_told_in_one_line(config, message, tmp_path):
    if isinstance(config, dict):
        config = AutoConfig.for_model(**config)
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=re.escape(message)) as told:
        models.empty_backbone(tmp_path)
    assert "\n" not in str(told.value)


def test_a_network_of_images_is_told_in_one_line():
    settings = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    backbone = loading.from_configuration(described("vit", **settings)).eval()
    with pytest.raises(UserError, match=r"^ViTModel cannot be run on a text"):
        models.TextModel(backbone, 1, torch.Generator())


@pytest.mark.parametrize("name", ["gpt_neo", "smollm3", "gemma2", "jamba"])
def test_first_blocks_cut_every_list_that_has_an_entry_per_block(name, tmp_path):
    small = {"bos_token_id": 0, "eos_token_id": [0, 1], "num_key_value_heads": 1, "head_dim": 8}
    config = {
        "gpt_neo": CONFIGS["gpt_neo"],
        "smollm3": described("smollm3", **WIDE | small),
        "gemma2": described("gemma2", **WIDE | small),
        "jamba": described("jamba", **WIDE | small, attn_layer_offset=1, attn_layer_period=2),
    }[name]
    cut = models.cut_configuration(copy.deepcopy(config), 1)
    again = AutoConfig.for_model(**cut.to_diff_dict())  # what an export writes
    assert again.num_hidden_layers == 1
    assert again.eos_token_id == config.eos_token_id
    for key, value in vars(config).items():
        if isinstance(value, list) and len(value) == 2 and key != "eos_token_id":
            assert list(getattr(again, key)) == value[:1], key
    assert len(models.block_list(models.skeleton(again))) == 1


def _deeper(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))


def _renamed(folder):
    weights = load_file(folder / "model.safetensors")
    weights = {f"module.{name}": tensor for name, tensor in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _lacking(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("spoil", [_deeper, _renamed, _lacking])
def test_weights_that_do_not_fill_the_model_are_refused(spoil, tmp_path):
    saved(CONFIGS["llama"], tmp_path)
    spoil(tmp_path)
    for load in (
        lambda: models.text_model(tmp_path, outputs=1, head_seed=0),
        lambda: models.load_backbone(tmp_path),
        lambda: models.label_word_model(tmp_path, [3, 4]),
    ):
        with pytest.raises(UserError, match=r"^the weights in .* do not fill the model: ") as told:
            load()
        assert "\n" not in str(told.value)


def test_a_folder_without_the_language_head_has_no_label_words(tmp_path):
    saved(CONFIGS["llama"], tmp_path)
    with pytest.raises(UserError, match=r"lm_head.weight.* saved without the language head"):
        models.label_word_model(tmp_path, [3, 4])


def test_an_adapter_alone_is_told(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="it holds an adapter"):
        models.load_backbone(tmp_path)


@pytest.mark.parametrize(
    ("name", "settings", "scale"),
    [
        ("llama", {}, 1),
        ("granite", {"logits_scaling": 8.0}, 1 / 8),
        ("cohere", {"logit_scale": 0.0625}, 1 / 16),
    ],
)
def test_label_words_are_read_as_the_model_scales_them(name, settings, scale, tmp_path):
    config = described(name, **WIDE | {"bos_token_id": 0, "eos_token_id": 0} | settings)
    model = models.label_word_model(saved(config, tmp_path, AutoModelForCausalLM), [3, 7])
    assert model.scale == pytest.approx(scale, rel=1e-6)
    ids, mask = models.pad(examples())
    with torch.no_grad():
        whole = model.model(input_ids=ids, attention_mask=mask).logits
        expected = whole[range(3), models.last_tokens(mask)][:, [3, 7]]
        torch.testing.assert_close(model(ids, mask), expected, rtol=1e-5, atol=1e-7)


def test_label_words_of_capped_logits_are_refused(tmp_path):
    settings = WIDE | {"bos_token_id": 0, "eos_token_id": 0, "num_key_value_heads": 1}
    config = described("gemma2", **settings, head_dim=8, final_logit_softcapping=3.0)
    saved(config, tmp_path, AutoModelForCausalLM)
    with pytest.raises(UserError, match=r"a factor \(final_logit_softcapping\), which label"):
        models.label_word_model(tmp_path, [3, 4])
