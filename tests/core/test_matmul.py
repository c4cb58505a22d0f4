"""Products on a processor: oneDNN's numbers are the plain product's, and it is really used."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional

from ntktune.network import matmul
from ntktune.network.matmul import FastLinear, product_transposed


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(found, expected):
    """Up to float32 rounding of the largest entry."""
    error = (found.double() - expected.double()).abs().max()
    return error <= 1e-5 * expected.abs().max()


@pytest.fixture
def calls(monkeypatch):
    """Count oneDNN's calls; where PyTorch was built without it, the plain product stands in."""
    count, plain = [], matmul.ONEDNN or (lambda left, right, *_: left @ right.T)

    def counted(*arguments):
        count.append(arguments[0].shape)
        return plain(*arguments)

    monkeypatch.setattr(matmul, "ONEDNN", counted)
    monkeypatch.setattr(matmul, "PLAIN_LAYERS", False)  # as with AVX-512
    monkeypatch.setattr(matmul, "NARROWEST", 1)
    return count


@pytest.fixture
def layer():
    made = nn.Linear(13, 7)
    with torch.no_grad():
        made.weight.copy_(numbers(7, 13, seed=1))
        made.bias.copy_(numbers(7, seed=2))
    return made


@pytest.mark.parametrize("shapes", [((5, 9), (4, 9)), ((1, 3), (1, 3)), ((300, 1500), (40, 1500))])
@pytest.mark.parametrize("layout", ["rows", "columns", "gaps"])
def test_product_against_float64(shapes, layout):
    left, right = (numbers(*shape, seed=i) for i, shape in enumerate(shapes))
    if layout == "columns":  # the same numbers, laid out otherwise
        left, right = left.T.contiguous().T, right.T.contiguous().T
    elif layout == "gaps":
        left, right = (torch.cat([m, m], 1)[:, : m.shape[1]] for m in (left, right))
    assert close(product_transposed(left, right), left.double() @ right.double().T)


@pytest.mark.parametrize("gaps", [False, True])
def test_long_sums_of_equal_terms_keep_their_digits(gaps):
    """Rounding errors of equal terms do not cancel: one running sum would be off by 1e-3."""
    rows = torch.full((3, 2 * 65_536), 1.1)[:, : 65_536 * (1 if gaps else 2)]
    found = product_transposed(rows, rows).double()
    assert found == pytest.approx((rows.double() @ rows.double().T).numpy(), rel=1e-5)


def test_product_without_rows_or_terms():
    assert product_transposed(numbers(0, 3), numbers(4, 3)).shape == (0, 4)
    assert torch.equal(product_transposed(numbers(2, 0), numbers(4, 0)), torch.zeros(2, 4))


def test_float64_keeps_its_digits(calls):
    left, right = numbers(6, 5, dtype=torch.float64), numbers(3, 5, seed=1, dtype=torch.float64)
    assert torch.equal(product_transposed(left, right), left @ right.T)
    assert calls == []


def test_narrow_layers_compute_a_plain_product(calls, layer, monkeypatch):
    monkeypatch.setattr(matmul, "NARROWEST", 8)  # of 13 inputs and 7 outputs
    x = numbers(4, 13)
    with FastLinear():
        found = layer(x)
    assert calls == []
    assert torch.equal(found, functional.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("shape", [(4, 13), (2, 3, 13), (5, 9, 13), (1, 1, 13), (13,), (0, 13)])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_and_its_gradients_against_float64(layer, shape, bias):
    if not bias:
        layer.bias = None
    x = numbers(*shape, seed=3).requires_grad_()
    with FastLinear():
        found = layer(x)
    upstream = numbers(*found.shape, seed=4)
    inputs = [x, *layer.parameters()]
    gradients = torch.autograd.grad(found, inputs, upstream)

    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected = functional.linear(*exact)
    assert found.shape == expected.shape
    for ours, theirs in zip(
        (found, *gradients),
        (expected, *torch.autograd.grad(expected, exact, upstream.double())),
        strict=True,
    ):
        assert ours.shape == theirs.shape
        assert ours.numel() == 0 or close(ours, theirs)


def test_every_product_of_a_layer_goes_to_onednn(layer, calls):
    x = numbers(2, 3, 13).requires_grad_()
    with FastLinear():
        layer(x).sum().backward()
    assert calls == [(8, 13), (8, 7), (7, 8)]  # output, input gradient, weight gradient


def test_rows_are_filled_up_to_few_numbers(layer, calls):
    """OneDNN keeps code for each: of a training's many batches that was more than all else."""
    for rows in range(1, 200):
        with FastLinear():
            layer(numbers(rows, 13)).sum().backward()
    assert {shape[0] for shape in calls if shape[1] == 13} == {8, 16, 24, *range(32, 225, 32)}
    assert {shape[1] for shape in calls if shape[0] == 7} == {8, 16, 24, *range(32, 225, 32)}


def test_only_wanted_gradients_are_computed(layer, calls):
    layer.requires_grad_(False)
    x = numbers(6, 13).requires_grad_()
    with FastLinear():
        layer(x).sum().backward()
    assert calls == [(8, 13), (8, 7)]
    calls.clear()
    with FastLinear(), torch.no_grad():
        layer(x)
    assert calls == [(8, 13)]


def test_other_precisions_and_autocast_are_left_alone(layer, calls):
    x = numbers(6, 13)
    with FastLinear():
        assert layer.double()(x.double()).dtype == torch.float64
        layer.float()
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
    assert calls == []


def test_outside_the_context_and_without_onednn_it_is_the_plain_layer(layer, calls, monkeypatch):
    x = numbers(6, 13)
    plain = layer(x)
    assert calls == []
    monkeypatch.setattr(matmul, "ONEDNN", None)
    with FastLinear():
        assert torch.equal(layer(x), plain)


def test_gradient_of_a_gradient_is_refused(layer, calls):
    x = numbers(6, 13).requires_grad_()
    with FastLinear():
        squared = layer(x).square().sum()
    (gradient,) = torch.autograd.grad(squared, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
    assert len(calls) == 3  # output, and both gradients once


def test_same_bytes_twice(layer):
    x = numbers(50, 13)
    with FastLinear():
        assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize("moving", ["input", "weight", "bias", "all"])
def test_forward_mode_derivatives_are_the_plain_layers(moving, layer, calls):
    x = numbers(2, 5, 13)
    values = {"input": x, "weight": layer.weight, "bias": layer.bias}

    def moved():
        with torch.no_grad(), forward_ad.dual_level():
            x, *weights = (
                forward_ad.make_dual(v.detach(), numbers(*v.shape, seed=3))
                if moving in (name, "all")
                else v.detach()
                for name, v in values.items()
            )
            return forward_ad.unpack_dual(functional.linear(x, *weights))

    expected = moved()
    assert not calls
    with FastLinear():
        found = moved()
    assert calls
    for part, plain in zip(found, expected, strict=True):
        assert close(part, plain)


def test_the_seconds_of_work_are_those_of_one_thread_over_all(monkeypatch):
    """Whatever runs beside it; and products have their threads again, also after a failure."""
    clock = iter([10.0, 16.0])
    monkeypatch.setattr(matmul.time, "process_time", lambda: next(clock))
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        seen = []
        device = torch.device("cpu")
        found = matmul.seconds_alone(lambda: seen.append(torch.get_num_threads()), device)
        assert (found, seen, torch.get_num_threads()) == (2.0, [1], 3)
        monkeypatch.setattr(matmul.time, "process_time", lambda: 0.0)
        with pytest.raises(ZeroDivisionError):
            matmul.seconds_alone(lambda: 1 / 0, device)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
