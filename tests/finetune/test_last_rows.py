"""Computing only the read tokens' rows in the last block changes no output and no gradient."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ntktune.finetune.last_rows import last_rows_only
from ntktune.finetune.training import PASS_TOKENS, passes
from ntktune.network.models import TextModel, pad

CPU = torch.device("cpu")


def architecture(name):
    from transformers import AutoModel, BertConfig, GPT2Config, GPTNeoConfig, LlamaConfig

    config = {
        "llama": lambda: LlamaConfig(
            vocab_size=60, hidden_size=16, intermediate_size=32, num_hidden_layers=3,
            num_attention_heads=2, num_key_value_heads=1, initializer_range=0.2,
        ),
        "gpt_neo": lambda: GPTNeoConfig(
            vocab_size=60, hidden_size=16, num_layers=2, num_heads=2, initializer_range=0.2,
            attention_types=[[["global", "local"], 1]], window_size=4, max_position_embeddings=32,
        ),
        "gpt2": lambda: GPT2Config(
            vocab_size=60, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.2
        ),
        "bert": lambda: BertConfig(
            vocab_size=60, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=32, initializer_range=0.2,
        ),
    }[name]()  # fmt: skip
    torch.manual_seed(0)
    backbone = AutoModel.from_config(config, dtype=torch.float64)
    return TextModel(backbone, 2, torch.Generator().manual_seed(1)).double().eval()


def outputs_and_gradients(model, sentences):
    model.zero_grad()
    found = model(*pad(sentences))
    (found * torch.arange(found.numel()).view_as(found)).sum().backward()
    return found.detach(), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        (
            "llama",
            [
                "self_attn.q_proj",
                "self_attn.o_proj",
                "mlp.gate_proj",
                "mlp.up_proj",
                "mlp.down_proj",
            ],
        ),
        ("gpt_neo", ["q_proj", "out_proj", "c_fc", "c_proj"]),
        ("gpt2", []),  # its layers are of another kind
        (
            "bert",
            [
                "attention.self.query",
                "attention.output.dense",
                "intermediate.dense",
                "1.output.dense",
            ],
        ),
    ],
)
def test_outputs_and_gradients_stay(name, layers, sentences):
    model = architecture(name)
    expected, gradients = outputs_and_gradients(model, sentences[:8])
    names = {module: name for name, module in model.named_modules()}
    with last_rows_only(model, sentences) as found:
        assert [n for n in layers if sum(names[m].endswith(n) for m in found) != 1] == []
        assert len(found) == len(layers)
        inside, again = outputs_and_gradients(model, sentences[:8])
        single = model(*pad(sentences[:1]))
        one_token = model(*pad([sentences[0][:1]]))
    # Hugging Face's GPT-Neo computes its attention in float32 always
    exact = {"rtol": 1e-5, "atol": 1e-5} if name == "gpt_neo" else {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(inside, expected, **exact)
    assert again.keys() == gradients.keys()
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(again[parameter], gradient, **exact, msg=parameter)
    torch.testing.assert_close(single, expected[:1], **exact)
    torch.testing.assert_close(one_token, model(*pad([sentences[0][:1]])), **exact)
    assert all("forward" not in vars(module) for module in model.modules())
    assert not model.backbone._forward_pre_hooks


class Rows(TorchFunctionMode):
    """Counts the rows that linear layers compute."""

    count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is functional.linear:
            self.count += args[0].numel() // args[0].shape[-1]
        return function(*args, **(kwargs or {}))


def test_other_rows_are_not_computed(sentences):
    model, (ids, mask) = architecture("llama"), pad(sentences[:8])
    with Rows() as whole:
        model(ids, mask)
    with last_rows_only(model, sentences), Rows() as some:
        model(ids, mask)
    # five of the last block's seven layers, and in all 21 layers and the head
    assert whole.count == 21 * ids.numel() + 8
    assert some.count == 16 * ids.numel() + 5 * 8 + 8


def test_a_model_that_reads_every_token_is_left_alone(sentences):
    model = architecture("llama")
    plain = model.backbone.forward

    def mixed(**inputs):
        found = plain(**inputs)
        found.last_hidden_state = found.last_hidden_state + found.last_hidden_state.mean(1, True)
        return found

    model.backbone.forward = mixed
    with last_rows_only(model, sentences) as found:
        assert found == []


def test_a_layer_whose_value_counts_without_a_gradient_is_left_alone(sentences):
    model = architecture("llama")
    plain = model.backbone.forward

    def detached(**inputs):
        found = plain(**inputs)
        states = found.last_hidden_state
        found.last_hidden_state = states + states.detach().mean(1, True)
        return found

    model.backbone.forward = detached
    with last_rows_only(model, sentences) as found:
        assert found == []
        assert all("forward" not in vars(m) for m in model.modules() if m is not model.backbone)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=7), st.integers(1, 120))
def test_passes_are_the_best_of_all_splits(lengths, most):
    def work(split):
        return sum(len(part) * max(lengths[i] for i in part) + PASS_TOKENS for part in split)

    found = passes(lengths, most, CPU)
    assert sorted(i for part in found for i in part) == list(range(len(lengths)))
    assert all(len(p) == 1 or len(p) * max(lengths[i] for i in p) <= most for p in found)
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    splits = []
    for cuts in itertools.product([False, True], repeat=len(lengths) - 1):
        split = [[order[0]]]
        for i, cut in zip(order[1:], cuts, strict=True):
            split.append([i]) if cut else split[-1].append(i)
        if all(len(p) == 1 or len(p) * max(lengths[i] for i in p) <= most for p in split):
            splits.append(work(split))
    assert work(found) == min(splits)
