"""Each mistake gives one clear message."""

import pytest
import torch
from torch import nn

from ntktune.errors import UserError
from ntktune.kernel import gram

TEXT = torch.tensor([1, 2, 3])


def returning(toy, change):
    class Returning(toy):
        def forward(self, input_ids, attention_mask):
            return change(super().forward(input_ids, attention_mask))

    return Returning()


@pytest.mark.parametrize(
    ("examples", "settings", "message"),
    [
        ([], {}, r"there are no examples \(N=0\)"),
        ([TEXT, TEXT[:0]], {}, "example 1 has no tokens"),
        ([TEXT, TEXT[None]], {}, r"example 1 is not a one-dimensional .*shape \(1, 3\)"),
        ([TEXT.float()], {}, "example 0 is not a one-dimensional tensor of token ids"),
        ([[1, 2]], {}, r"example 0 is not .*\(list"),
        ([TEXT], {"outputs": "sum"}, "outputs='sum' is unknown; choose one of scalar, difference"),
        ([TEXT], {"outputs": "difference"}, r"needs a model that returns \(N, 2\)"),
        ([TEXT], {"other": []}, r"there are no examples \(M=0, `other` is empty\)"),
        ([TEXT], {"other": [TEXT, TEXT[:0]]}, "example of `other` 1 has no tokens"),
        ([TEXT], {"max_tokens": 0}, "max_tokens=0 is too few"),
        ([TEXT], {"dtype": torch.float16}, "dtype=torch.float16 is not supported"),
        ([TEXT], {"variant": "adam"}, "variant='adam' is unknown; choose one of sgd, signgd"),
        ([TEXT], {"projection": 0}, "projection=0: give a number of dimensions"),
        ([TEXT], {"projection": 4, "variant": "signgd"}, "projection=4 needs variant='sgd'"),
        ([TEXT], {"max_bytes": "1GB"}, "max_bytes must be a positive .* not '1GB'"),
        ([TEXT], {"chunk_bytes": 0}, "chunk_bytes must be a positive .* not 0"),
        (iter([TEXT]), {}, "the examples are a list_iterator; give a sequence"),
        ([TEXT], {"other": iter([TEXT])}, "`other` are a list_iterator; give a sequence"),
        ([TEXT.bool()], {}, r"example 0 is not .*\(torch.bool, shape"),
        ([TEXT.to(torch.uint8)], {}, r"example 0 is not .*\(torch.uint8, shape"),
        ([TEXT], {"groups": {}}, "groups is a dict; give a function of a parameter's name"),
        ([TEXT], {"device": "gpu"}, "device='gpu'"),
        ([TEXT], {"device": "cuda:99"}, "device='cuda:99'"),
        ([TEXT, TEXT - 2], {}, "example 1 has token id -1"),
        ([TEXT, TEXT + 47], {}, r"cannot look up example 1 \(3 tokens, ids up to 50\)"),
    ],
)
def test_arguments(examples, settings, message, toy):
    with pytest.raises(UserError, match=message):
        gram(toy(), examples, **settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: torch.stack([f, f], 1), "two classes ask for outputs='difference'"),
        (lambda f: torch.stack([f, f, f], 1), "for several outputs ask for outputs='trace'"),
        (lambda f: f[:, None, None].expand(-1, 3, 4), r"\(2, 3, 4\); .*language-model head"),
        (lambda f: f.sum(), r"returned \(\)"),
        (lambda f: (f, f), "the model returned tuple"),
    ],
)
def test_outputs_that_do_not_fit(change, message, toy):
    with pytest.raises(UserError, match=message):
        gram(returning(toy, change), [TEXT, TEXT])


def test_no_trainable_parameter(toy):
    with pytest.raises(UserError, match="no trainable parameter"):
        gram(toy().requires_grad_(False), [TEXT])


def test_parameters_that_do_nothing(toy):
    with pytest.raises(UserError, match=r"every example is zero in all 5 trainable parameters"):
        gram(returning(toy, lambda f: f.detach() + 0 * f), [TEXT])


def test_output_that_is_not_finite(toy):
    model = toy()
    with torch.no_grad():
        model.embed.weight[9] = float("inf")
        model.linear.weight[:] = 1.0

    class Unbounded(type(model)):
        def body(self, hidden):
            return self.linear(hidden)

    model.__class__ = Unbounded
    texts = [TEXT, torch.tensor([4, 9, 1, 2, 5, 6, 7, 8, 8, 8, 8, 8, 8]), TEXT]
    with pytest.raises(UserError, match="the output of example 1 is not finite"):
        gram(model, texts)


def test_gradient_that_is_not_finite(toy):
    class Root(toy):
        def body(self, hidden):
            return torch.sqrt(0 * super().body(hidden))  # 0, with slope 0 · ∞

    with pytest.raises(UserError, match="the squared gradient of example 0 is not finite"):
        gram(Root(), [TEXT, TEXT])


def test_a_model_that_mixes_its_examples(toy, texts):
    model = returning(toy, lambda f: f - 0.5 * f.mean().detach())
    with pytest.raises(UserError, match=r"the output is wrong on examples \[1, 2\]"):
        gram(model, texts)
    assert gram(model, texts, check=False).provenance["self_check"] is None


def test_a_model_that_sees_padding(texts):
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 4)

        def forward(self, input_ids, attention_mask):
            return self.embed(input_ids).pow(2).sum((1, 2))

    with pytest.raises(UserError, match=r"parameter group 'embedding' is wrong .* padding"):
        gram(Padded(), texts)
    gram(Padded(), texts, max_tokens=1)  # nothing is padded in batches of one


@pytest.mark.parametrize("name", ["gpt_neo", "gpt2", "llama", "bert"])
def test_texts_that_a_model_does_not_know(name, tiny):
    model = tiny(name)
    with pytest.raises(UserError, match=r"example 1 has token id 50, .* ids 0 to 49"):
        gram(model, [TEXT, TEXT + 47])
    with pytest.raises(UserError, match="example of `other` 0 has token id 50"):
        gram(model, [TEXT], [TEXT + 47])
    positions = model.backbone.config.max_position_embeddings
    with pytest.raises(UserError, match=f"example 1 has {positions + 1} tokens, .* {positions}"):
        gram(model, [TEXT, torch.ones(positions + 1, dtype=torch.long)])


def test_a_text_longer_than_a_plain_networks_positions(toy):
    class Placed(toy):
        def body(self, hidden):
            return super().body(hidden + self.place(torch.arange(hidden.shape[1])))

    model = Placed(place=nn.Embedding(4, 12))
    with pytest.raises(UserError, match=r"cannot look up example 1 \(5 tokens"):
        gram(model, [TEXT, torch.tensor([1, 2, 3, 4, 5])])


def test_padding_that_counts_in_longer_texts(toy):
    """The two texts that are tried out are of one length: nothing shows there."""

    class Padded(toy):
        def pooled(self, hidden, mask):
            return hidden.mean(1)

    texts = [torch.arange(1, n) for n in (9, 9, 12, 15)]
    with pytest.raises(UserError, match=r"is wrong on examples .* may depend on padding"):
        gram(Padded(), texts)
    gram(Padded(), texts, max_tokens=1)
