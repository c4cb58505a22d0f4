"""A kernel that memory is too small for: smaller pieces, the same numbers."""

import errno
import subprocess
import sys

import pytest
import torch

from ntktune.errors import UserError
from ntktune.kernel import gram


class Greedy(torch.nn.Module):
    """A network that finds no memory for more than so many tokens at once."""

    def __init__(self, most):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(20, 8)
        self.head = torch.nn.Linear(8, 1)
        self.most = most
        self.asked = []

    def forward(self, input_ids, attention_mask):
        self.asked.append(input_ids.numel())
        if input_ids.numel() > self.most:
            torch.empty(2**60)
        hidden = self.embedding(input_ids).tanh() * attention_mask[..., None]
        return self.head(hidden.sum(1)).squeeze(1)


TEXTS = [torch.arange(n) % 20 for n in (3, 5, 4, 8, 8, 7, 2, 6)]


def test_it_goes_on_with_smaller_batches_and_says_so():
    wanted = gram(Greedy(1000), TEXTS, max_tokens=64, dtype=torch.float64)
    model = Greedy(17)
    with pytest.warns(
        RuntimeWarning, match="going on with half as much at once: 16 tokens"
    ) as said:
        found = gram(model, TEXTS, max_tokens=64, dtype=torch.float64)
    assert len(said) == 2  # 32, then 16
    assert "memory ran out on cpu (" in str(said[0].message)
    assert found.provenance["tokens_at_once"] == 16
    assert wanted.provenance["tokens_at_once"] == 64
    torch.testing.assert_close(found.kernel, wanted.kernel, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.outputs, wanted.outputs, rtol=1e-12, atol=1e-14)


def test_too_little_for_a_single_text_is_one_clear_error():
    with (
        pytest.warns(RuntimeWarning, match="going on with half"),
        pytest.raises(UserError, match=r"too little memory on cpu, even in small pieces .*fewer"),
    ):
        gram(Greedy(7), TEXTS, max_tokens=64)


def test_another_error_is_not_taken_for_one_of_memory():
    model = Greedy(1000)
    model.asked = None
    with pytest.raises(AttributeError, match="append"):
        gram(model, TEXTS)
    model.register_forward_hook(lambda *_: torch.ones(2, 3) @ torch.ones(2, 3))
    model.asked = []
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        gram(model, TEXTS)


LIMITED = """
import resource, torch
from pathlib import Path
from ntktune.kernel import gram
torch.set_num_threads(1)
torch.manual_seed(0)
class Wide(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(20, 64)
        self.up = torch.nn.Linear(64, 60_000)
        self.head = torch.nn.Linear(60_000, 1)
    def forward(self, input_ids, attention_mask):
        hidden = self.up(self.embedding(input_ids)).tanh() * attention_mask[..., None]
        return self.head(hidden.sum(1)).squeeze(1)
texts = [torch.arange(16) % 20 + n % 3 for n in range(12)]
model = Wide()
free = gram(model, texts, max_tokens=192).kernel
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
{limit}
found = gram(model, texts, max_tokens=192)
assert torch.allclose(found.kernel, free, rtol=1e-4), (found.kernel, free)
print(found.provenance["tokens_at_once"])
"""


@pytest.mark.usefixtures("freed_memory_goes_back")
def test_a_real_limit_of_memory_gives_smaller_batches_and_the_same_kernel():
    """192 tokens of 60,000 numbers are 46 MB, several times over."""
    results = []
    for limit in ("", "resource.setrlimit(resource.RLIMIT_AS, (used + 110 * 2**20,) * 2)"):
        done = subprocess.run(
            [sys.executable, "-c", LIMITED.format(limit=limit)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        results.append((int(done.stdout), "memory ran out on cpu" in done.stderr))
    assert results[0] == (192, False)
    assert results[1][0] < 192
    assert results[1][1]


@pytest.fixture
def spilled(tiny, tmp_path, monkeypatch):
    """Return the kernel of a tiny stack whose blocks' inputs have no room."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = tiny("llama")

    def kernel(texts, chunk_bytes=40_000.0):
        return gram(model, texts, max_bytes=2000.0, chunk_bytes=chunk_bytes)

    return kernel


def test_inputs_of_blocks_that_have_no_room_are_in_a_file(spilled, tmp_path):
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(0, 50, (n,), generator=generator) for n in (30, 28, 20, 12, 5)]
    roomy = spilled(texts, 1e9)
    found = spilled(texts)
    assert [one.provenance["spilled"] for one in (roomy, found)] == [False, True]
    assert "chunks" not in found.provenance
    assert torch.equal(found.kernel, roomy.kernel)
    assert torch.equal(found.outputs, roomy.outputs)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line(spilled, tmp_path, monkeypatch):
    def full(descriptor, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ntktune.kernel.stack.reserve", full)
    texts = [torch.arange(30)] * 5
    with pytest.raises(UserError, match=f"no room in the folder {tmp_path} .No space left"):
        spilled(texts)
    assert not list(tmp_path.iterdir())
