"""Both forms of a linear layer's Gram, and an embedding's, against dense gradients."""

import pytest
import torch

from ntktune.kernel import products
from ntktune.kernel.products import Rows, Sides, Workspace


def layer(counts, d_in=7, d_out=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    rows = sum(counts)
    a = torch.randn(rows, d_in, generator=generator, dtype=dtype)
    g = torch.randn(rows, d_out, generator=generator, dtype=dtype)
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return Rows(a, g, owner)


def dense(rows, examples):
    a, g, owner = rows
    gradients = torch.stack([g[owner == i].T @ a[owner == i] for i in range(examples)])
    return gradients.flatten(1) @ gradients.flatten(1).T


def sides_of(count):
    """The symmetric Gram, and the Grams of the first i examples with the others."""
    return [Sides(count), *(Sides(i, count - i) for i in range(1, count))]


def part(gram, sides):
    return gram if sides.columns is None else gram[: sides.rows, sides.rows :]


@pytest.mark.parametrize("counts", [[3, 1, 4], [0, 3, 0, 2, 0], [1], [9, 9, 9, 9]])
@pytest.mark.parametrize("tile", [1, 5, 1000])
@pytest.mark.parametrize("form", ["token_pair_gram", "materialised_gram"])
def test_linear_forms(form, counts, tile, monkeypatch):
    monkeypatch.setattr(products, "TILE_ROWS", tile)
    monkeypatch.setattr(products, "COLUMNS", 2 * tile)
    monkeypatch.setattr(products, "THREAD_COLUMNS", 2 * tile)
    monkeypatch.setattr(products, "BLOCK_NUMBERS", 60 * tile)
    rows = layer(counts)
    expected = dense(rows, len(counts))
    for sides in sides_of(len(counts)):
        more = [Workspace()] if form == "materialised_gram" else []
        found = getattr(products, form)(rows, sides, *more)
        torch.testing.assert_close(found, part(expected, sides), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_product_with_itself_has_the_same_bits_on_any_number_of_threads(dtype, monkeypatch):
    shape = products.THREAD_ROWS, 5 * products.THREAD_COLUMNS
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        with products.one_thread_each():
            found.append(products.inner_products(rows, rows))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    torch.testing.assert_close(found[0], rows.double() @ rows.double().T, rtol=1e-5, atol=1e-2)


def test_the_cheaper_form_is_taken():
    # few tokens of a wide layer, then many of a narrow one
    for sides in (Sides(2), Sides(1, 1)):
        assert products.linear_gram(layer([2, 2], 40, 40), sides, Workspace())[1] == "token pairs"
        assert (
            products.linear_gram(layer([3000, 3000], 4, 4), sides, Workspace())[1] == "materialised"
        )


def test_embedding_adds_equal_tokens_first():
    tokens = torch.tensor([4, 4, 1, 4, 2, 1, 1, 0])
    owner = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    gradients = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = torch.zeros(3, 5, 3, dtype=torch.float64)
    for token, example, gradient in zip(tokens, owner, gradients, strict=True):
        weight[example, token] += gradient
    expected = weight.flatten(1) @ weight.flatten(1).T
    for sides in sides_of(3):
        found = products.embedding_gram(Rows(tokens, gradients, owner), sides)
        torch.testing.assert_close(found, part(expected, sides))


def test_float32_sums_run_in_float64():
    # one large block, then many small ones that float32 would lose
    rows = torch.full((2, 4 * products.COLUMNS), 1e-2)
    rows[:, : products.COLUMNS] = 100.0
    expected = (rows.double() @ rows.double().T)[0, 1].item()
    found = products.inner_products(rows, rows)[0, 1].item()
    assert found == pytest.approx(expected, rel=1e-6)
    assert found - products.COLUMNS * 1e4 == pytest.approx(3 * products.COLUMNS * 1e-4, rel=1e-2)
