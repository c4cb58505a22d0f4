"""Where the arithmetic happens: device, precision and their names, in one place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ntktune.errors import UserError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "float64", "bfloat16")


def has_nvidia_gpu() -> bool:
    """Return whether this machine has an NVIDIA GPU, without importing torch."""
    return Path("/proc/driver/nvidia/gpus").is_dir()


def machine_epsilon(name: str) -> float:
    """Return eps of a configured dtype: the distance from 1 to the next larger number."""
    digits = {"float32": 23, "float64": 52, "bfloat16": 7}
    if name not in digits:
        raise UserError(f"dtype {name!r} is unknown; choose one of {', '.join(DTYPES)}")
    return 2.0 ** -digits[name]


def torch_dtype(name: str) -> torch.dtype:
    """Return the torch dtype of a configured name."""
    import torch

    if name not in DTYPES:
        raise UserError(f"dtype {name!r} is unknown; choose one of {', '.join(DTYPES)}")
    return getattr(torch, name)


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device, on the processor that which programs can have."""
    import psutil
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def select_device(name: str = "auto") -> torch.device:
    """Return the device to compute on and set its arithmetic to full precision.

    Parameters
    ----------
    name
        ``auto`` (a GPU where torch sees one, else the processor), ``cpu``, ``cuda``
        or ``cuda:1``.

    Raises
    ------
    UserError
        A GPU was asked for and torch sees none.
    """
    import torch

    # TF32 rounds the inputs of float32 products to 10 bits: a kernel's small
    # eigenvalues would drown in that.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device {name!r} was asked for, but torch sees no GPU; use cpu or auto")
    return torch.device(name)
