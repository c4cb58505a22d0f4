"""Where the arithmetic happens: device, precision and their names, in one place."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import math
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ntktune.errors import UserError

if TYPE_CHECKING:
    import torch
    from filelock import FileLock

# in exceptions that are not only of memory: processor (torch, oneDNN, C++), driver, cuBLAS
NO_MEMORY = (
    *("DefaultCPUAllocator", "could not create a primitive", "could not create a memory"),
    *("std::bad_alloc", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"),
)
# By CUDA's major version: the oldest driver that runs it (NVIDIA's CUDA compatibility table).
OLDEST_DRIVERS = {11: 450, 12: 525, 13: 580}
DIGITS = {"float32": 23, "float64": 52, "bfloat16": 7}  # binary ones behind the point
DTYPES = tuple(DIGITS)


def has_nvidia_gpu() -> bool:
    """Return whether this machine has an NVIDIA GPU, without importing torch."""
    return Path("/proc/driver/nvidia/gpus").is_dir()


def old_driver(driver: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """Return one line if the NVIDIA driver is too old for the installed torch; import no torch."""
    spec = importlib.util.find_spec("torch")
    if not driver.is_file() or spec is None:
        return None
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    cuda = re.search(r"^cuda\b.*'(\d+)\.[\d.]*'", text, re.MULTILINE)
    found = re.search(r"Kernel Module.*?\s(\d+)\.\d+", driver.read_text(encoding="utf-8"))
    wanted = OLDEST_DRIVERS.get(int(cuda[1])) if cuda else None
    if wanted is None or found is None or int(found[1]) >= wanted:
        return None
    return (
        f"the NVIDIA driver {found[1]} is too old for this torch (CUDA {cuda[1]} needs {wanted} or "
        "newer): no GPU can be used; update the driver, or install a torch for an older one, as "
        "`make setup TORCH_INDEX=URL` does"
    )


def machine_epsilon(name: str) -> float:
    """Return eps of a configured dtype: the distance from 1 to the next larger number."""
    if name not in DIGITS:
        raise UserError(f"dtype {name!r} is unknown; choose one of {', '.join(DTYPES)}")
    return 2.0 ** -DIGITS[name]


def torch_dtype(name: str) -> torch.dtype:
    """Return the torch dtype of a configured name."""
    import torch

    machine_epsilon(name)  # it knows which there are
    return getattr(torch, name)


def training_dtypes(name: str) -> tuple[torch.dtype, torch.dtype | None]:
    """Return the precision of a training's weights, and that of its matrix products if another."""
    # bfloat16 has too few digits for small steps
    dtype = torch_dtype(name)
    return (torch_dtype("float32"), dtype) if name == "bfloat16" else (dtype, None)


def is_processor(device: torch.device) -> bool:
    """Return whether a device is the processor; other modules ask this and compare no device."""
    return device.type == "cpu"


def free_bytes(device: torch.device) -> int:
    """Return free bytes: of the GPU, or of RAM within this process's cgroup limit."""
    import psutil
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(min(psutil.virtual_memory().available, free_in_control_groups()))


def reset_peak_memory(device: torch.device) -> None:
    """Let :func:`peak_memory_bytes` of a GPU count from now; a process's peak stays."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device | None = None) -> int:
    """Return the most bytes held at once: on a GPU by torch, else by this process."""
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    # the maximum resident set size is in KiB on Linux, in bytes on macOS
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def gpu_peak_memory() -> dict[str, int]:
    """Return the current GPU's peak memory for a record, {} where none is used; import no torch."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return {}
    return {"gpu_peak_memory_bytes": torch.cuda.max_memory_allocated()}


def release_cached_memory(device: torch.device) -> None:
    """Give back the memory that torch keeps on a GPU for later."""
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextlib.contextmanager
def full_precision_products() -> Iterator[None]:
    """Let a GPU multiply float32 in full: TF32 would round the inputs to 10 bits."""
    import torch

    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def free_in_control_groups(
    groups: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")
) -> float:
    """Return the bytes that this process's control groups have left, infinity without a limit.

    Clusters and containers limit a job's memory so. A group's limit holds for those within it, too.
    Cached files count as free. ``groups`` names the groups, ``hierarchy:controllers:path`` a line;
    ``mount`` is where they are mounted, of version 2 or version 1.
    """
    free = math.inf
    lines = groups.read_text().splitlines() if groups.is_file() else []
    for controllers, path in (line.split(":", 2)[1:] for line in lines):
        if not controllers:
            root, names = mount, ("memory.max", "memory.current", "(?:in)?active_file")
        elif "memory" in controllers.split(","):
            root = mount / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_(?:in)?active_file")
        else:
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # no such file; "max" is no number
                limit, used = (int((folder / name).read_text()) for name in names[:2])
                stat = (folder / "memory.stat").read_text()
                cached = sum(map(int, re.findall(rf"^{names[2]} (\d+)$", stat, re.MULTILINE)))
                free = min(free, max(0, limit - used + cached))
            if folder == root:
                break
    return free


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that memory could not be had, without importing torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in NO_MEMORY)


def select_device(name: str = "auto", *, lease: bool = True) -> torch.device:
    """Return the device to compute on and set its arithmetic to full precision.

    ``name`` is ``auto`` (a GPU where torch sees one, else the processor), ``cpu``, ``cuda`` or
    ``cuda:1``. ``auto`` and ``cuda`` lease a GPU, see :func:`leased_gpu`; ``lease=False`` takes
    the current one, leased or not. Raises UserError for another name, or if there is no such GPU.
    """
    import torch

    # TF32 rounds inputs of products to 10 bits: a kernel's small eigenvalues would drown in that
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    too_old = None if name == "cpu" or torch.cuda.is_available() else old_driver()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if too_old:
            print(too_old, file=sys.stderr, flush=True)
    named = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if not named:
        raise UserError(f"device {name!r} is not known; use cpu, cuda or auto")
    if name != "cpu" and not torch.cuda.is_available():
        why = too_old or "torch sees no GPU; use cpu or auto"
        raise UserError(f"device {name!r} was asked for, but {why}")
    if int(named[1] or 0) >= max(1, torch.cuda.device_count()):
        raise UserError(
            f"device {name!r} was asked for, but torch sees {torch.cuda.device_count()} GPUs, "
            "counted from 0"
        )
    if name != "cuda" or not lease:
        return torch.device(name)
    number = leased_gpu()
    torch.cuda.set_device(number)  # what names no device, as memory statistics, means this one
    return torch.device("cuda", number)


_lease: list[FileLock] = []  # held until this process ends


@functools.cache
def leased_gpu() -> int:
    """Return the number of a GPU that no other process has leased; wait until there is one."""
    # Snakemake counts the GPUs of a machine but does not hand them out. The lock on a file named
    # after one is released when the process ends in any way. Other users' jobs are not seen.
    from filelock import FileLock, Timeout

    names, told = _gpu_names(), False
    while True:
        for number, name in enumerate(names):
            lock = FileLock(Path(tempfile.gettempdir(), f"ntktune-{os.getuid()}-{name}.lock"))
            with contextlib.suppress(Timeout):
                lock.acquire(blocking=False)
                _lease.append(lock)
                return number
        if not told:
            every = "the GPU is" if len(names) == 1 else f"all {len(names)} GPUs are"
            print(
                f"{every} leased by other jobs; waiting (does --resources gpu=N say more than "
                "there are?)",
                file=sys.stderr,
                flush=True,
            )
            told = True
        time.sleep(0.5)


def _gpu_names() -> list[str]:
    """Return a name of each GPU that torch sees; a cluster shows each job its own as number 0."""
    from torch import cuda

    return [str(cuda.get_device_properties(gpu).uuid) for gpu in range(cuda.device_count())]
