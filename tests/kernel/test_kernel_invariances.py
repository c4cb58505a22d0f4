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


def test_passes_over_the_layers(whole, tiny, texts):
    found = gram(tiny("gpt2"), texts, dtype=torch.float64, max_bytes=30_000)
    assert found.provenance["passes"] > 3
    assert found.provenance["general"] == {}
    same(found.kernel, whole.kernel)


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
    assert first.provenance == second.provenance


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
    with pytest.raises(IndexError):  # a token that the vocabulary lacks, in the last batch
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
