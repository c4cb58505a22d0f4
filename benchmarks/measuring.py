"""What the benchmarks share: fresh processes, seconds, and memory at its highest."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ntktune.network.matmul import product_transposed


def memory(line: str) -> int:
    """Return a figure of this process's memory in bytes: VmRSS now, VmHWM at its highest."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split(f"{line}:")[1].split()[0])


def measured(work: Callable[[], Any]) -> tuple[Any, float, int]:
    """Return what some work returns, its seconds, and its highest memory above that before."""
    ctypes.CDLL(None).malloc_trim(0)  # what came before goes back first
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts here
    before, started = memory("VmRSS"), time.perf_counter()
    found = work()
    return found, time.perf_counter() - started, memory("VmHWM") - before


def best_rate() -> float:
    """Return FLOPs a second of a large exact product by the faster library, on all threads."""
    side = torch.randn(2_048, 2_048)
    rates = []
    for multiply in (product_transposed, torch.matmul):
        multiply(side, side)
        started = time.perf_counter()
        for _ in range(5):
            multiply(side, side)
        rates.append(5 * 2 * 2_048**3 / (time.perf_counter() - started))
    return max(rates)


def in_fresh_process(script: str, case: dict) -> dict:
    """Run a benchmark's script on one case, ``--case``; return the JSON that it prints last."""
    done = subprocess.run(
        [sys.executable, script, "--case", json.dumps(case)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])
