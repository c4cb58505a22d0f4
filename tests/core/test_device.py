"""Device and precision: one place, clear errors."""

import pytest
import torch

from ntktune.device import (
    DTYPES,
    has_nvidia_gpu,
    machine_epsilon,
    select_device,
    torch_dtype,
)
from ntktune.errors import UserError


@pytest.mark.parametrize("name", DTYPES)
def test_epsilon_is_torchs(name):
    assert machine_epsilon(name) == torch.finfo(torch_dtype(name)).eps


def test_auto_takes_the_gpu_that_torch_sees():
    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    assert select_device("auto").type == wanted
    assert select_device("cpu").type == "cpu"
    assert not torch.backends.cuda.matmul.allow_tf32


def test_a_gpu_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device 'cuda' was asked for, but torch sees no GPU"):
        select_device("cuda")


def test_an_unknown_dtype_is_told():
    for function in (torch_dtype, machine_epsilon):
        with pytest.raises(UserError, match="dtype 'float16' is unknown; choose one of float32"):
            function("float16")


def test_torch_sees_no_gpu_where_there_is_none():
    assert has_nvidia_gpu() or not torch.cuda.is_available()
