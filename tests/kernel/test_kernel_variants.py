"""Kernels of signs, of adapters, of label words, in chunks and projected."""

import pytest
import torch
from torch import nn

from ntktune.errors import UserError
from ntktune.kernel import gram
from ntktune.network.loading import from_configuration
from ntktune.network.models import LabelWordModel, TextModel, described_configuration

VARIANTS = ["sgd", "signgd", "asymmetric-signgd"]


def relative(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


def settled(model, jacobian):
    """A float64 Jacobian, its entries 0 up to a share of the module's largest entry in a row."""
    layers = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            layers.setdefault(name.rpartition(".")[0], []).append(parameter.numel())
    parts = []
    for layer in jacobian.split([sum(sizes) for sizes in layers.values()], dim=1):
        parts.append(layer * (layer.abs() > 3e-7 * layer.abs().amax(1, keepdim=True)))
    return torch.cat(parts, dim=1)


def products(model, jacobian, variant):
    """The variant's definition, on a whole Jacobian."""
    right = jacobian if variant == "sgd" else settled(model, jacobian)
    left = right if variant == "sgd" else right.sign()
    return left @ (left if variant == "signgd" else right).T


class Lora(nn.Module):
    """A frozen linear layer and a trainable product of two narrow ones beside it."""

    def __init__(self, base, rank=2, start=1.0):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Linear(base.in_features, rank, bias=False)
        self.b = nn.Linear(rank, base.out_features, bias=False)
        with torch.no_grad():
            self.b.weight *= start

    def forward(self, x):
        return self.base(x) + 0.5 * self.b(self.a(x))


def with_lora(model, start=1.0):
    torch.manual_seed(0)
    model.backbone.requires_grad_(False)
    for layer in model.backbone.layers:
        layer.self_attn.q_proj = Lora(layer.self_attn.q_proj, start=start)
        layer.self_attn.v_proj = Lora(layer.self_attn.v_proj, start=start)
    return model.eval()


def make(kind, classes, toy, tiny):
    """A model with C outputs and something unusual about its parameters."""

    class Model(toy):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(12, classes)
            if kind == "bare":
                self.scale = nn.Parameter(torch.randn(12))

        def body(self, hidden):
            hidden = super().body(hidden)
            if kind == "shared":
                hidden = super().body(hidden)
            return hidden * self.scale if kind == "bare" else hidden

        def forward(self, input_ids, attention_mask):
            hidden = self.body(self.embed(input_ids))
            return self.head(self.pooled(hidden, attention_mask))

    if kind == "lora":
        return with_lora(tiny("llama", outputs=classes))
    model = Model()
    if kind == "frozen":
        model.embed.requires_grad_(False)
        model.linear.bias.requires_grad_(False)
    return model


@pytest.fixture
def texts(texts):
    """Without the text of one token: its queries and keys have a gradient of chance alone."""
    return [text if len(text) > 1 else torch.tensor([4, 9]) for text in texts]


@pytest.mark.usefixtures("float64_inside")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("kind", ["shared", "bare", "lora", "frozen"])
def test_unusual_parameters_all_outputs_and_variants(
    kind, classes, variant, toy, tiny, texts, jacobian
):
    model = make(kind, classes, toy, tiny)
    rows, values = jacobian(model, texts, "full")
    whole = products(model, rows, variant).reshape(9, classes, 9, classes).transpose(1, 2)
    settings = {"dtype": torch.float64, "variant": variant, "max_tokens": 30}
    full = gram(model, texts, outputs="full", **settings)
    assert relative(full.kernel, whole) < 1e-10
    assert relative(full.outputs, values) < 1e-10
    assert set(full.provenance["general"]) == ({"scale"} if kind == "bare" else set())
    assert full.provenance["variant"] == variant
    diagonal = gram(model, texts, outputs="diagonal", **settings).kernel
    assert relative(diagonal, whole.diagonal(dim1=2, dim2=3)) < 1e-10
    trace = gram(model, texts, outputs="trace", **settings).kernel
    assert relative(trace, whole.diagonal(dim1=2, dim2=3).sum(-1)) < 1e-10
    cross = gram(model, texts[:4], texts[4:], outputs="full", max_bytes=1000, **settings)
    assert relative(cross.kernel, whole[:4, 4:]) < 1e-10
    if classes == 1:
        found = gram(model, texts, **settings).kernel
        assert relative(found, whole[:, :, 0, 0]) < 1e-10
    if classes == 2:
        difference = rows.reshape(9, 2, -1).diff(dim=1)[:, 0]
        found = gram(model, texts, outputs="difference", **settings).kernel
        assert relative(found, products(model, difference, variant)) < 1e-10


@pytest.mark.usefixtures("float64_inside")
@pytest.mark.parametrize("variant", ["signgd", "asymmetric-signgd"])
@pytest.mark.parametrize("max_bytes", [2**30, 30_000])
def test_signs_of_a_whole_network(variant, max_bytes, tiny, texts, jacobian):
    model = tiny("llama")
    found = gram(model, texts, variant=variant, dtype=torch.float64, max_bytes=max_bytes)
    assert relative(found.kernel, products(model, jacobian(model, texts)[0], variant)) < 1e-10
    parameters = sum(p.numel() for p in model.parameters())
    if variant == "signgd":  # a gradient's signs are ±1, or 0 for words that do not occur
        assert found.kernel.diagonal().max() <= parameters


def test_signs_in_float32(tiny, texts, jacobian):
    model = tiny("llama")
    found = gram(model, texts, variant="signgd").kernel
    assert relative(found, products(model, jacobian(model, texts)[0], "signgd")) < 1e-2


SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50}
WIDE = SHAPE | {"intermediate_size": 24, "max_position_embeddings": 40}
ARCHITECTURES = {
    "bert": WIDE,
    "roberta": WIDE | {"pad_token_id": 1},
    "albert": WIDE | {"embedding_size": 8},
    "electra": WIDE | {"embedding_size": 8},
    "distilbert": {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2, "vocab_size": 50},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40, "vocab_size": 50},
    "gpt_neox": WIDE,
    "bloom": SHAPE,
    "opt": WIDE | {"ffn_dim": 24, "word_embed_proj_dim": 16},
    "phi": WIDE,
    "llama": WIDE | {"num_key_value_heads": 1},
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_gradient_that_is_zero_but_for_rounding_has_sign_zero(name, texts, jacobian):
    """As that of attention's key biases, wherever an architecture keeps them."""
    torch.manual_seed(0)
    backbone = from_configuration(
        described_configuration({"model_type": name} | ARCHITECTURES[name])
    )
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model = TextModel(backbone.eval(), 1, torch.Generator().manual_seed(0)).double()
    rows = jacobian(model, texts)[0]
    found = gram(model, texts, variant="signgd", dtype=torch.float64)
    assert found.provenance["self_check"]["largest_relative_error"] < 1e-5
    assert relative(found.kernel, products(model, rows, "signgd")) < 1e-3
    # in float32 the kernel is the same but for few signs
    for settings in ({}, {"max_bytes": 20_000}):
        near = gram(model, texts, variant="signgd", dtype=torch.float32, **settings).kernel
        assert relative(near, found.kernel) < 2e-2
    mixed = gram(model, texts, variant="asymmetric-signgd", dtype=torch.float64).kernel
    assert relative(mixed, products(model, rows, "asymmetric-signgd")) < 1e-3


def test_lora_at_its_start_sees_only_b(tiny, texts):
    model = with_lora(tiny("llama"), start=0.0)
    found = gram(model, texts, groups=lambda name: name.split(".")[-2], dtype=torch.float64)
    assert found.groups["a"].abs().max() == 0
    assert found.groups["b"].abs().max() > 0
    assert not any("base" in name for name in found.provenance["forms"]["token pairs"])


def language_model(tiny, tied, words=50):
    from transformers import LlamaForCausalLM

    config = tiny("llama").backbone.config
    config.vocab_size, config.tie_word_embeddings, config.pad_token_id = words, tied, None
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


@pytest.mark.usefixtures("float64_inside")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("tied", [True, False])
def test_label_words(tied, variant, tiny, texts, jacobian):
    model = LabelWordModel(language_model(tiny, tied), [7, 3]).eval()
    rows, values = jacobian(model, texts, "difference")
    found = gram(model, texts, outputs="difference", dtype=torch.float64, variant=variant)
    assert relative(found.kernel, products(model, rows, variant)) < 1e-10
    assert relative(found.outputs, values[:, 0]) < 1e-10
    assert found.provenance["general"] == {}
    words = "model.model.embed_tokens.weight" if tied else "model.lm_head.weight"
    assert (words in found.provenance["forms"]["equal tokens"]) is tied


def test_a_tied_head_whose_every_output_counts(tiny, texts, jacobian):
    class Likelihood(LabelWordModel):
        def forward(self, input_ids, attention_mask):
            return super().forward(input_ids, attention_mask).logsumexp(dim=1)

    model = Likelihood(language_model(tiny, tied=True, words=80), range(80)).eval()
    found = gram(model, texts)
    assert relative(found.kernel, products(model, jacobian(model, texts)[0], "sgd")) < 1e-5
    assert "model.model.embed_tokens.weight" in found.provenance["forms"]["materialised"]


@pytest.mark.usefixtures("float64_inside")
@pytest.mark.parametrize("outputs", ["scalar", "full"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cut", [None, 4])
def test_chunks_do_not_change_the_kernel(cut, variant, outputs, tiny, texts):
    model = tiny("gpt_neo", outputs=1 if outputs == "scalar" else 2)
    # of one token to twelve, with repeated ones and two equal texts; down to a chunk for every pair
    texts = [texts[i] for i in (1, 2, 3, 6, 7, 8)]
    left, right = (texts, None) if cut is None else (texts[:cut], texts[cut:])
    settings = {"outputs": outputs, "variant": variant, "dtype": torch.float64}
    whole = gram(model, left, right, **settings)
    assert "chunks" not in whole.provenance
    for chunk_bytes in (25_000, 1):
        seen = []
        found = gram(model, left, right, chunk_bytes=chunk_bytes, progress=seen.append, **settings)
        assert found.provenance["chunks"] > 1
        assert relative(found.kernel, whole.kernel) < 1e-10
        assert relative(found.outputs, whole.outputs) < 1e-10
        assert list(found.groups) == list(whole.groups)
        for name, group in found.groups.items():
            assert relative(group, whole.groups[name]) < 1e-10
        assert found.provenance["self_check"]["largest_relative_error"] < 1e-9
        assert seen == sorted(seen)


def test_a_chunk_names_the_text_as_the_caller_numbers_it(toy, texts):
    class Poles(toy):
        def forward(self, input_ids, attention_mask):
            found = super().forward(input_ids, attention_mask)
            return found / (1 - (input_ids == 49).any(1).to(found.dtype))

    texts = [text.clamp(max=48) for text in texts]
    texts[7][:] = 49
    with pytest.raises(UserError, match="the output of example 7 is not finite"):
        gram(Poles(), texts, chunk_bytes=1)


def test_projection_keeps_the_expectation_and_states_its_error(toy, texts):
    torch.manual_seed(0)
    layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(8))

    class Deep(toy):
        def body(self, hidden):
            for layer in self.layers:
                hidden = hidden + torch.tanh(layer(hidden))
            return hidden

    model = Deep(hidden=64, layers=layers)
    exact = gram(model, texts[:8], dtype=torch.float64)
    errors = []
    for dimensions in (4, 16, 63):
        found = gram(model, texts[:8], dtype=torch.float64, projection=dimensions)
        stated = found.provenance["projection"]
        assert stated["dimensions"] == dimensions
        error = (found.kernel - exact.kernel).norm() / exact.kernel.norm()
        assert stated["relative_error"] == pytest.approx(error.item(), rel=1e-6)  # all 8 texts
        assert relative(found.groups["embedding"], exact.groups["embedding"]) < 1e-12
        errors.append(error.item())
    assert errors[2] < errors[0] < 1
    assert errors[2] < 0.2
    assert gram(model, texts, projection=64).provenance["projection"]["relative_error"] < 1e-6


def test_projections_are_unbiased():
    from ntktune.kernel.capture import Projection

    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 40, generator=generator, dtype=torch.float64)
    expected = rows @ rows.T
    project = Projection(8)
    found = torch.stack([(z := project(rows, f"weight {i}", "inputs")) @ z.T for i in range(2_000)])
    error = found.std(0) / 2_000**0.5
    assert ((found.mean(0) - expected).abs() < 4 * error).all()
    again = Projection(8)(rows, "weight 5", "inputs")
    assert torch.equal(again, project(rows, "weight 5", "inputs"))
    assert not torch.equal(again, project(rows, "weight 5", "gradients"))


def test_float32_keeps_the_decay(tiny):
    """Rounding moves small eigenvalues by less than n·eps·λ₁, below which none is used."""
    from ntktune.spectrum.decay import decay_exponent, noise_level

    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(0, 50, (int(n),), generator=generator) for n in range(4, 28)] * 2
    texts = [(text + i) % 50 for i, text in enumerate(texts)]
    exact, found = (
        torch.linalg.eigvalsh(gram(tiny("gpt_neo"), texts, dtype=dtype).kernel).flip(0)
        for dtype in (torch.float64, torch.float32)
    )
    floor = noise_level(exact, torch.finfo(torch.float32).eps)
    assert ((found - exact).abs() < floor + 1e-4 * exact).all()
    assert (found - exact)[len(texts) // 2 :].abs().max() < floor < exact[-1]
    slopes = [decay_exponent(values.numpy() / len(texts)).exponent for values in (exact, found)]
    assert slopes[0] == pytest.approx(slopes[1], abs=1e-3)
