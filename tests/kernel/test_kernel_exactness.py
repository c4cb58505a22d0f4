"""The engine's kernel equals a naive one: architectures, sharing, bare and frozen parameters."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from ntktune.errors import UserError
from ntktune.kernel import gram
from ntktune.network.loading import from_configuration
from ntktune.network.models import described_configuration, pad, text_model

ARCHITECTURES = ["gpt_neo", "llama", "bert", "gpt2"]


def relative(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.usefixtures("float64_inside")
@pytest.mark.parametrize("outputs", ["scalar", "difference"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture_in_both_precisions(name, outputs, tiny, texts, reference):
    model = tiny(name, outputs=1 if outputs == "scalar" else 2)
    expected, values = reference(model, texts, outputs)
    exact = gram(model, texts, outputs=outputs, max_tokens=30, dtype=torch.float64)
    assert relative(exact.kernel, expected) < 1e-10
    assert relative(exact.outputs, values) < 1e-10
    assert exact.provenance["general"] == {}  # every parameter is served by a rule
    assert exact.provenance["function"] == outputs
    assert exact.provenance["parameters"] == sum(p.numel() for p in model.parameters())
    assert exact.kernel.dtype == exact.outputs.dtype == torch.float64


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_float32_against_the_float64_reference(name, tiny, texts, reference):
    model = tiny(name)
    found = gram(model, texts, max_tokens=30)
    expected, values = reference(model, texts)
    assert relative(found.kernel, expected) < 1e-5
    assert relative(found.outputs, values) < 1e-5
    assert found.provenance["dtype"] == "float32"


@pytest.mark.usefixtures("float64_inside")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_head_on_the_mean_over_tokens(name, tiny, texts, reference):
    last, model = tiny(name), tiny(name)
    model.backbone.pooling = "mean"
    expected, values = reference(model, texts)
    state = model.backbone(input_ids=texts[0][None]).last_hidden_state[0].mean(dim=0)
    assert values[0].item() == pytest.approx(model.head(state).item(), rel=1e-5)
    for max_bytes in (2**29, 30_000):
        settings = {"dtype": torch.float64, "max_tokens": 30, "max_bytes": max_bytes}
        found = gram(model, texts, **settings)
        assert relative(found.kernel, expected) < 1e-10
        assert relative(found.outputs, values) < 1e-10
    assert relative(gram(last, texts, **settings).kernel, expected) > 0.01


@pytest.mark.usefixtures("float64_inside")
@pytest.mark.parametrize(("name", "classes"), [("gpt2", 1), ("llama", 2), ("gpt2", 3)])
def test_all_outputs_of_a_network(name, classes, tiny, texts, reference):
    model = tiny(name, outputs=classes)
    expected, values = reference(model, texts, "full")
    for max_bytes in (2**29, 30_000):
        settings = {"dtype": torch.float64, "max_tokens": 30, "max_bytes": max_bytes}
        full = gram(model, texts, outputs="full", **settings)
        assert full.kernel.shape == (9, 9, classes, classes)
        assert relative(full.kernel, expected) < 1e-10
        assert relative(full.outputs, values) < 1e-10
        assert relative(torch.stack(list(full.groups.values())).sum(0), expected) < 1e-10
        diagonal = gram(model, texts, outputs="diagonal", **settings)
        assert relative(diagonal.kernel, expected.diagonal(dim1=2, dim2=3)) < 1e-10
        assert relative(diagonal.outputs, values) < 1e-10
        trace = gram(model, texts, outputs="trace", **settings)
        assert relative(trace.kernel, expected.diagonal(dim1=2, dim2=3).sum(-1)) < 1e-10
        assert relative(torch.stack(list(trace.groups.values())).sum(0), trace.kernel) < 1e-10
        cross = gram(model, texts[:4], texts[4:], outputs="full", **settings)
        assert relative(cross.kernel, expected[:4, 4:]) < 1e-10


@pytest.mark.usefixtures("float64_inside")
@pytest.mark.parametrize("classes", [2, 3, 6, 77])
def test_the_mean_over_classes(classes, tiny, texts, reference):
    model, some = tiny("llama", outputs=classes), texts[:4]
    expected, values = reference(model, some, "full")
    found = gram(model, some, outputs="mean", dtype=torch.float64)
    assert found.kernel.shape == (4, 4)
    assert relative(found.kernel, expected.diagonal(dim1=2, dim2=3).mean(-1)) < 1e-10
    assert relative(torch.stack(list(found.groups.values())).sum(0), found.kernel) < 1e-10
    assert relative(found.outputs, values) < 1e-10


def test_a_classifier_that_looks_for_its_padding(tiny, texts, reference):
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(0)
    config = tiny("llama").backbone.config
    config.vocab_size, config.pad_token_id, config.num_labels = 51, 50, 1  # 0 is a word here
    model = LlamaForSequenceClassification(config).eval()
    assert relative(gram(model, texts).kernel, reference(model, texts)[0]) < 1e-5


@pytest.mark.parametrize("padding", [None, -1, 50, 1000])
def test_a_classifier_without_a_usable_padding_id(padding, tiny, texts, reference):
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(0)
    config = tiny("llama").backbone.config
    config.num_labels = 1
    model = LlamaForSequenceClassification(config).eval()
    model.config.pad_token_id = padding
    assert relative(gram(model, texts).kernel, reference(model, texts)[0]) < 1e-5
    assert model.config.pad_token_id == padding
    every_last = [torch.tensor([word]) for word in range(50)]
    with pytest.raises(UserError, match=f"padding token, config.pad_token_id = {padding}, is none"):
        gram(model, every_last)


@pytest.mark.parametrize("repeat", ["repeat", "expand"])
def test_a_module_that_repeats_an_embedding_itself(repeat, toy, texts, reference):
    class Model(toy):
        def forward(self, input_ids, attention_mask):
            count, length = input_ids.shape
            places = self.places(torch.arange(length)[None])  # (1, T, D)
            sizes = (count, 1, 1) if repeat == "repeat" else (count, -1, -1)
            hidden = self.body(self.embed(input_ids) + getattr(places, repeat)(*sizes))
            return self.head(self.pooled(hidden, attention_mask)).squeeze(1)

    model = Model(places=nn.Embedding(16, 12))
    found = gram(model, texts, dtype=torch.float64)
    assert relative(found.kernel, reference(model, texts)[0]) < 1e-10
    assert set(found.provenance["general"]) == ({"places.weight"} if repeat == "repeat" else set())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        # masked places that may attend to nothing
        ("gemma2", {"sliding_window": 4, "head_dim": 8, "query_pre_attn_scalar": 1}),
        # its library has no product of several experts in float64
        ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    ],
)
def test_float64_where_the_library_computes_in_float32_alone(
    name, settings, texts, reference, tmp_path
):
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 50}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0}
    ends = {"bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.2}
    torch.manual_seed(0)
    from_configuration(
        described_configuration({"model_type": name} | shape | heads | ends | settings)
    ).save_pretrained(tmp_path)
    model = text_model(tmp_path, outputs=1, head_seed=0, dtype=torch.float64)
    expected, values = reference(model, texts)
    with torch.no_grad():
        torch.testing.assert_close(model(*pad(texts)), values, rtol=1e-5, atol=1e-6)
    assert relative(gram(model, texts, dtype=torch.float64).kernel, expected) < 1e-5
    narrow = text_model(tmp_path, outputs=1, head_seed=0)
    assert relative(gram(narrow, texts, dtype=torch.float64).kernel, expected) < 1e-5


def test_own_groups(toy, texts):
    found = gram(toy(), texts, groups=lambda name: name.split(".")[1], dtype=torch.float64)
    assert list(found.groups) == ["weight", "bias"]
    assert relative(found.groups["weight"] + found.groups["bias"], found.kernel) < 1e-12
    assert found.groups["bias"].abs().max() > 0


def test_bfloat16_is_close(tiny, texts, reference):
    found = gram(tiny("gpt2"), texts, dtype=torch.bfloat16)
    assert relative(found.kernel, reference(tiny("gpt2"), texts)[0]) < 0.1


def test_bert_says_that_its_pooler_has_no_gradient(tiny, texts):
    found = gram(tiny("bert"), texts, dtype=torch.float64)
    without = found.provenance["without_gradient"]
    assert {"backbone.pooler.dense.weight", "backbone.pooler.dense.bias"} <= set(without)
    assert found.groups["other"].abs().max() == 0


def test_groups(tiny, texts):
    found = gram(tiny("gpt_neo"), texts)
    assert list(found.groups) == [
        *("embedding", "norm", "block0.attention", "block0.mlp"),
        *("block1.attention", "block1.mlp", "head"),
    ]
    for name, group in found.groups.items():
        assert group.abs().max() > 0, name
    torch.testing.assert_close(sum(found.groups.values()), found.kernel, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("name", "group", "parts"),
    [
        ("gpt_neo", "block1.mlp", ["h.1.mlp"]),
        ("gpt_neo", "norm", ["ln_"]),
        ("bert", "block0.attention", ["layer.0.attention.self", "layer.0.attention.output.dense"]),
        ("bert", "embedding", ["_embeddings"]),
        ("llama", "head", ["head"]),
    ],
)
def test_a_group_is_the_kernel_of_its_parameters(name, group, parts, tiny, texts, reference):
    model = tiny(name)
    whole = gram(model, texts, dtype=torch.float64)
    for parameter, tensor in model.named_parameters():
        tensor.requires_grad_(any(part in parameter for part in parts))
    alone, _ = reference(model, texts)
    assert relative(whole.groups[group], alone) < 1e-6
    assert relative(gram(model, texts, dtype=torch.float64).kernel, alone) < 1e-6


def check(model, texts, reference, general=(), **settings):
    found = gram(model, texts, dtype=torch.float64, **settings)
    assert relative(found.kernel, reference(model, texts)[0]) < 1e-10
    assert set(found.provenance["general"]) == set(general)
    return found


def test_a_layer_called_twice(toy, texts, reference):
    class Shared(toy):
        def body(self, hidden):
            return torch.tanh(self.linear(torch.tanh(self.norm(self.linear(self.norm(hidden))))))

    check(Shared(norm=nn.LayerNorm(12)), texts, reference)


def test_a_weight_shared_by_two_layers(toy, texts, reference):
    class Shared(toy):
        def body(self, hidden):
            return self.second(torch.tanh(self.linear(hidden)))

    model = Shared(second=nn.Linear(12, 12))
    model.second.weight = model.linear.weight
    check(model, texts, reference)


class TiedWords(nn.Module):
    """f is the language-model head's output for one word; the head is the embedding."""

    def __init__(self, raw):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(50, 12, padding_idx=7)
        self.linear = nn.Linear(12, 12)
        self.raw = raw
        if not raw:
            self.out = nn.Linear(12, 50, bias=False)
            self.out.weight = self.embed.weight

    def forward(self, input_ids, attention_mask):
        hidden = torch.tanh(self.linear(self.embed(input_ids)))
        hidden = (hidden * attention_mask[:, :, None]).sum(1)
        logits = functional.linear(hidden, self.embed.weight) if self.raw else self.out(hidden)
        return logits[:, 5].exp() + logits[:, 20]


@pytest.mark.parametrize("raw", [False, True])
def test_tied_embedding_and_head(raw, texts, reference):
    texts = [*texts, torch.tensor([5, 7, 7, 20, 5])]  # 7 has no gradient as an input
    found = check(TiedWords(raw), texts, reference, general=["embed.weight"] if raw else [])
    if raw:
        reason = found.provenance["general"]["embed.weight"]
        assert reason == "the graph uses it 2 times, layers 1"


def test_bare_parameters_go_the_general_way(toy, texts, reference):
    class Bare(toy):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.randn(12))
            self.shift = nn.Parameter(torch.randn(3, 12))
            self.never = nn.Parameter(torch.randn(2))

        def body(self, hidden):
            return super().body(hidden) * self.scale + self.shift.prod(0)

    general = ["scale", "shift", "never"]
    check(Bare(), texts, reference, general)
    # gradients of only a few examples, or of one parameter, fit: the same numbers
    check(Bare(), texts, reference, general, max_bytes=900)
    check(Bare(), texts, reference, general, max_bytes=1)


def test_parametrised_layers_go_the_general_way(toy, texts, reference):
    model = toy(linear=weight_norm(nn.Linear(12, 12)))
    general = [f"linear.parametrizations.weight.original{i}" for i in (0, 1)] + ["linear.bias"]
    check(model, texts, reference, general)


def test_replaced_forward_and_hooks_go_the_general_way(toy, texts, reference):
    model = toy()
    model.linear.register_forward_hook(lambda module, args, output: output * 2)
    check(model, texts, reference, ["linear.weight", "linear.bias"])

    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = toy(linear=Doubled(12, 12))
    check(model, texts, reference, ["linear.weight", "linear.bias"])


@pytest.mark.parametrize("frozen", ["embed", "linear.weight", "linear.bias", "head", "norm"])
def test_partly_frozen(frozen, toy, texts, reference):
    class Normed(toy):
        def body(self, hidden):
            return torch.tanh(self.linear(self.norm(hidden)))

    model = Normed(norm=nn.LayerNorm(12))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    found = check(model, texts, reference)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found.provenance["parameters"] == trainable


class OffsetNorm(nn.Module):
    """Gemma's: the weight is 1 + w."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)


class SquaredScale(OffsetNorm):
    def forward(self, x):
        return x * self.weight**2


class MixedScale(OffsetNorm):
    def forward(self, x):
        return x * self.weight.cumsum(0)


@pytest.mark.parametrize(
    ("norm", "general"),
    [
        (OffsetNorm, False),
        (lambda: nn.RMSNorm(12), False),
        (lambda: nn.LayerNorm(12, bias=False), False),
        (SquaredScale, True),
        (MixedScale, True),
    ],
)
def test_norms_and_what_looks_like_one(norm, general, toy, texts, reference):
    class Normed(toy):
        def body(self, hidden):
            return torch.tanh(self.linear(self.norm(hidden)))

    found = check(Normed(norm=norm()), texts, reference, ["norm.weight"] if general else [])
    if general:
        reason = found.provenance["general"]["norm.weight"]
        assert reason == "its output is not an elementwise w∘ŷ(x)+b"


def test_rows_of_all_examples_in_one_dimension(toy, texts, reference):
    class Flat(toy):
        def body(self, hidden):
            return super().body(hidden.reshape(-1, 12)).reshape(hidden.shape)

    check(Flat(), texts, reference)


def test_time_before_batch_goes_the_general_way(toy, texts, reference):
    class TimeFirst(toy):
        def body(self, hidden):
            return super().body(hidden.transpose(0, 1)).transpose(0, 1)

    found = check(TimeFirst(), texts, reference, ["linear.weight", "linear.bias"])
    reason = found.provenance["general"]["linear.bias"]
    assert reason == "its rows do not belong to one example each"


def test_an_output_changed_in_place(toy, texts, reference):
    class InPlace(toy):
        def body(self, hidden):
            return hidden.mul_(0.5) + self.linear(hidden).tanh_()

    # the embedding's output may be changed; torch loses sight of a linear layer's, which
    # is a view of another tensor
    found = check(InPlace(), texts, reference, ["linear.weight", "linear.bias"])
    reason = found.provenance["general"]["linear.weight"]
    assert reason == "the graph uses it 1 times, layers 0"


def test_a_layer_whose_input_is_changed_has_no_gradient(toy, texts):
    class InPlace(toy):
        def body(self, hidden):
            first = self.linear(hidden)
            hidden += first
            return hidden

    # autograd refuses, and so does the engine, instead of using what the layer never saw
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gram(InPlace(), texts, check=False)


def test_an_expert_that_some_texts_call(toy, texts, reference):
    class Routed(toy):
        def body(self, hidden):
            hidden = super().body(hidden)
            # the two texts of the probe are longer
            return torch.tanh(self.expert(hidden)) if hidden.shape[1] < 5 else hidden

    model = Routed(expert=nn.Linear(12, 12))
    found = check(model, texts, reference, ["expert.weight", "expert.bias"], max_tokens=1)
    reason = found.provenance["general"]["expert.weight"]
    assert reason == "it is called for some texts only"
    in_chunks = gram(model, texts, dtype=torch.float64, max_tokens=1, chunk_bytes=1).provenance
    assert in_chunks["general"] == found.provenance["general"]  # only some chunks call it
    assert in_chunks["forms"].keys() >= {"equal tokens"}


def test_one_output_column_and_logits_are_accepted(toy, texts, reference):
    class Wrapped(toy):
        def forward(self, input_ids, attention_mask):
            from types import SimpleNamespace

            return SimpleNamespace(logits=super().forward(input_ids, attention_mask)[:, None])

    expected = gram(toy(), texts).kernel
    assert relative(gram(Wrapped(), texts).kernel, expected) < 1e-6


def test_one_example(toy, texts, reference):
    check(toy(), texts[:1], reference)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_checkpointed_part_runs_again_as_it_ran(dtype, toy, texts, reference):
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(toy):
        def body(self, hidden):
            return checkpoint(super().body, self.norm(hidden), use_reentrant=False)

    model = Checkpointed(norm=nn.LayerNorm(12), linear=nn.Sequential(nn.Linear(12, 12), nn.Tanh()))
    found = gram(model, texts, dtype=dtype)
    limit = 1e-10 if dtype == torch.float64 else 1e-5
    assert relative(found.kernel, reference(model, texts)[0]) < limit


def packed(toy):
    class Packed(toy):
        def forward(self, input_ids, attention_mask):
            real = attention_mask.bool()
            hidden = torch.tanh(self.linear(self.embed(input_ids[real])))  # (tokens, D)
            owner = real.nonzero()[:, 0]
            total = hidden.new_zeros(len(real), 12).index_add(0, owner, hidden)
            return self.head(total).squeeze(1)

    return Packed()


@pytest.mark.parametrize("size", range(2, 9))
def test_a_model_that_packs_its_rows(size, toy, texts, reference):
    some = [text for text in texts if len(text) > 3][:size]
    found = gram(packed(toy), some, dtype=torch.float64, max_tokens=24)
    assert relative(found.kernel, reference(packed(toy), some)[0]) < 1e-10


def test_packed_rows_of_texts_shorter_than_those_tried_out(toy, reference):
    some = [torch.arange(1, 1 + n) for n in (3, 5, 8, 8, 8, 8)]  # 3 + 5 is twice 4, too
    found = gram(packed(toy), some, dtype=torch.float64, max_tokens=10, check=False)
    assert relative(found.kernel, reference(packed(toy), some)[0]) < 1e-10


def test_a_layer_that_runs_without_a_graph(toy, texts, reference):
    class Stopped(toy):
        def body(self, hidden):
            with torch.no_grad():
                factor = self.linear(self.norm(hidden))
            return factor * torch.tanh(hidden)

    model = Stopped(norm=nn.LayerNorm(12))
    found = gram(model, texts, dtype=torch.float64)
    assert relative(found.kernel, reference(model, texts)[0]) < 1e-10
    stopped = {"linear.weight", "linear.bias", "norm.weight", "norm.bias"}
    assert stopped <= set(found.provenance["without_gradient"])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_on_inside(mode, toy, texts, reference):
    model = toy()
    with mode():
        found = gram(model, texts, dtype=torch.float64)
    assert relative(found.kernel, reference(model, texts)[0]) < 1e-10


@pytest.mark.parametrize("outputs", ["diagonal", "trace", "mean", "full"])
def test_a_constant_output_and_a_text_without_gradient(outputs, toy, texts, reference):
    class Partly(toy):
        def forward(self, input_ids, attention_mask):
            value = super().forward(input_ids, attention_mask) * (input_ids[:, 0] != texts[0][0])
            return torch.stack([0 * value, value], dim=1)

    model = Partly()
    expected, _ = reference(model, texts, "full")
    wanted = {
        "full": expected,
        "diagonal": expected.diagonal(dim1=2, dim2=3),
        "trace": expected.diagonal(dim1=2, dim2=3).sum(-1),
        "mean": expected.diagonal(dim1=2, dim2=3).mean(-1),
    }[outputs]
    for chunk_bytes in (None, 100):
        found = gram(model, texts, outputs=outputs, dtype=torch.float64, chunk_bytes=chunk_bytes)
        assert relative(found.kernel, wanted) < 1e-10
