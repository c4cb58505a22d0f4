"""What must not change a kernel, and what must come back as it was."""

import gc
import weakref

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ntktune.errors import UserError
from ntktune.kernel import gram


@pytest.fixture(scope="module")
def whole(tiny, texts):
    return gram(tiny("gpt2"), texts, dtype=torch.float64)


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11 * expected.abs().max().item())


@settings(deadline=None, max_examples=10, suppress_health_check=list(HealthCheck))
@given(order=st.permutations(range(9)), max_tokens=st.integers(1, 200))
def test_order_and_batches(order, max_tokens, whole, tiny, texts):
    model = tiny("gpt2")
    found = gram(model, [texts[i] for i in order], max_tokens=max_tokens, dtype=torch.float64)
    same(found.kernel, whole.kernel[order][:, order])
    same(found.outputs, whole.outputs[order])
    for name, group in found.groups.items():
        same(group, whole.groups[name][order][:, order])


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "gpt_neo"])
@pytest.mark.parametrize("max_bytes", [30_000, 200_000])
def test_block_by_block(name, max_bytes, tiny, texts):
    """Too little memory for all captures (or for one block's): the same numbers."""
    model = tiny(name)
    at_once = gram(model, texts, max_tokens=30, dtype=torch.float64)
    found = gram(model, texts, max_tokens=30, dtype=torch.float64, max_bytes=max_bytes)
    assert at_once.provenance["passes"] == 1
    assert found.provenance["passes"] == "block by block"
    assert found.provenance["general"] == {}
    same(found.kernel, at_once.kernel)
    same(found.outputs, at_once.outputs)
    for group, kernel in found.groups.items():
        same(kernel, at_once.groups[group])


def test_block_by_block_with_a_part_frozen(tiny, texts):
    model = tiny("llama")
    model.backbone.embed_tokens.requires_grad_(False)
    model.backbone.layers[0].requires_grad_(False)
    at_once = gram(model, texts, dtype=torch.float64)
    found = gram(model, texts, dtype=torch.float64, max_bytes=10_000)
    assert found.provenance["passes"] == "block by block"
    same(found.kernel, at_once.kernel)


class Skipping(torch.nn.Module):
    """Two blocks; with ``skip`` the first one's output also goes around the second."""

    def __init__(self, skip):
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(50, 8)
        self.layers = torch.nn.ModuleList(
            torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh()) for _ in range(2)
        )
        self.head = torch.nn.Linear(8, 1)
        self.skip = skip

    def forward(self, input_ids, attention_mask):
        hidden = first = self.layers[0](self.embed(input_ids))
        hidden = self.layers[1](hidden)
        hidden = hidden + first if self.skip else hidden
        return self.head((hidden * attention_mask[:, :, None]).sum(1))


@pytest.mark.parametrize("skip", [False, True])
def test_blocks_with_another_path_are_not_run_by_themselves(skip, texts, reference):
    found = gram(Skipping(skip), texts, dtype=torch.float64, max_bytes=3000)
    assert (found.provenance["passes"] == "block by block") is not skip
    same(found.kernel, reference(Skipping(skip), texts)[0])


def test_passes_over_the_layers(toy, texts, reference):
    found = gram(toy(), texts, dtype=torch.float64, max_bytes=1000)  # has no stack of blocks
    assert found.provenance["passes"] == 3
    assert found.provenance["general"] == {}
    same(found.kernel, reference(toy(), texts)[0])


@settings(deadline=None, max_examples=10, suppress_health_check=list(HealthCheck))
@given(cut=st.integers(1, 8), max_tokens=st.integers(1, 200), flip=st.booleans())
def test_cross_kernel_is_a_part_of_the_kernel(cut, max_tokens, flip, whole, tiny, texts):
    left, right = list(range(cut)), list(range(cut, 9))
    if flip:
        left, right = right, left
    found = gram(
        tiny("gpt2"),
        [texts[i] for i in left],
        [texts[i] for i in right],
        max_tokens=max_tokens,
        dtype=torch.float64,
        max_bytes=10_000 if flip else 2**29,
    )
    same(found.kernel, whole.kernel[left][:, right])
    same(found.outputs, whole.outputs[left])
    for name, group in found.groups.items():
        same(group, whole.groups[name][left][:, right])


def test_use_of_a_cache_is_put_back(tiny, texts):
    model = tiny("gpt2")
    model.backbone.config.use_cache = True
    same(
        gram(model, texts, dtype=torch.float64, max_bytes=30_000).kernel,
        gram(tiny("gpt2"), texts, dtype=torch.float64).kernel,
    )
    assert model.backbone.config.use_cache is True


def test_equal_texts_have_equal_rows(whole):
    same(whole.kernel[3], whole.kernel[8])  # the last text is the fourth


def test_symmetric_and_positive_semidefinite(whole):
    same(whole.kernel, whole.kernel.T)
    for kernel in (whole.kernel, *whole.groups.values()):
        values = torch.linalg.eigvalsh(kernel)
        assert values[0] > -1e-11 * values[-1]


def test_same_bytes_again(tiny, texts):
    first, second = (gram(tiny("llama"), texts) for _ in range(2))
    assert torch.equal(first.kernel, second.kernel)
    measured = {"seconds", "peak_bytes"}
    assert {k: v for k, v in first.provenance.items() if k not in measured} == {
        k: v for k, v in second.provenance.items() if k not in measured
    }
    assert all(first.provenance[key] > 0 for key in measured)


def test_the_check_reports_its_examples(whole):
    check = whole.provenance["self_check"]
    assert check["examples"] == [1, 2]  # the longest and the shortest
    assert check["largest_relative_error"] < 1e-10


def test_progress_rises_to_one(toy, texts):
    class Bare(toy):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(12))

        def body(self, hidden):
            return super().body(hidden) * self.scale

    seen = []
    gram(Bare(), texts, max_tokens=12, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[0] > 0
    assert seen[-1] == 1


def state(model):
    return (
        [p.requires_grad for p in model.parameters()],
        [p.grad for p in model.parameters()],
        [m.training for m in model.modules()],
        [len(m._forward_hooks) for m in model.modules()],
        [id(p) for p in model.parameters()],
        [p.dtype for p in model.parameters()],
        ["forward" in vars(m) for m in model.modules()],
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_model_comes_back_as_it_was(dtype, tiny, texts):
    model = tiny("gpt_neo").train()
    model.head.eval()
    model.head.weight.requires_grad_(False)
    values = [p.clone() for p in model.parameters()]
    before = state(model)
    gram(model, texts, dtype=dtype)
    assert state(model) == before
    assert all(torch.equal(p, v) for p, v in zip(model.parameters(), values, strict=True))


def test_the_model_comes_back_after_an_error(tiny, texts):
    model = tiny("gpt_neo").train()
    before = state(model)
    model.backbone.get_input_embeddings().num_embeddings = 10**7  # it says, and has fewer
    with pytest.raises(UserError, match="cannot look up example 9 "):
        gram(model, [*texts, torch.tensor([10**6])], max_tokens=12)
    assert state(model) == before
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        gram(model, texts)
    assert state(model) == before


def test_nothing_of_a_pass_stays_in_memory(toy, texts):
    alive = []

    class Watched(toy):
        def pooled(self, hidden, mask):
            alive.append(super().pooled(hidden, mask))  # what the head meets
            alive[-1] = weakref.ref(kept := alive[-1])
            return kept

    gram(Watched(), texts, max_tokens=20)
    assert len(alive) > 3
    gc.collect()
    # a hook that held its own graph would be a cycle that no collector finds
    assert not any(ref() is not None for ref in alive)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neo"])
def test_padding_side(name, tiny, texts):
    """The engine pads on the right; a model that turns that round has the same kernel."""
    model = tiny(name)

    class Left(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, input_ids, attention_mask):
            order = attention_mask.argsort(dim=1, stable=True)
            ids, mask = input_ids.gather(1, order), attention_mask.gather(1, order)
            places = (mask.cumsum(1) - 1).clamp(min=0)
            hidden = self.inner.backbone(
                input_ids=ids, attention_mask=mask, position_ids=places
            ).last_hidden_state
            return self.inner.head(hidden[:, -1]).squeeze(1)

    texts = [text for text in texts if len(text) > 1]
    expected = gram(model, texts, dtype=torch.float64, max_tokens=1)
    found = gram(Left(), texts, dtype=torch.float64, max_tokens=40)
    assert found.provenance["micro_batches"] < len(texts)
    same_to = 1e-6 * expected.kernel.abs().max().item()  # Hugging Face casts to float32
    torch.testing.assert_close(found.kernel, expected.kernel, rtol=0, atol=same_to)


@settings(deadline=None, max_examples=10, suppress_health_check=list(HealthCheck))
@given(cut=st.integers(1, 8), max_tokens=st.integers(1, 200))
def test_exchanging_the_sides_transposes(cut, max_tokens, tiny, texts):
    left, right = texts[:cut], texts[cut:]
    model, both = tiny("gpt2"), {"dtype": torch.float64, "max_tokens": max_tokens}
    found, turned = gram(model, left, right, **both), gram(model, right, left, **both)
    same(found.kernel, turned.kernel.T)
