"""Run cases on the processor and on the pretended GPU, and report where they differ, as JSON.

A program of its own: what pretends the GPU may end the process that it was loaded in.

    python tests/gpu/compare.py REPORT MODULE ...
"""

import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pretended_gpu import pretended_gpu

from ntktune.network import matmul


def difference(found, wanted, tolerance, name=""):
    """Return in words where two results differ, "" where they are equal.

    Numbers may differ by ``tolerance`` of the largest one.
    """
    if isinstance(wanted, dict):
        if found.keys() != wanted.keys():
            return f"{name}: {sorted(found)}, not {sorted(wanted)}"
        every = (difference(found[k], wanted[k], tolerance, f"{name} {k}") for k in wanted)
        return "; ".join(filter(None, every))
    if isinstance(wanted, pd.DataFrame):
        return difference(*(dict(table.items()) for table in (found, wanted)), tolerance, name)
    found, wanted = np.asarray(found), np.asarray(wanted)
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return f"{name}: {found.dtype} {found.shape}, not {wanted.dtype} {wanted.shape}"
    if wanted.dtype.kind != "f":
        return "" if (found == wanted).all() else f"{name}: {found}, not {wanted}"
    scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0)
    if np.allclose(found, wanted, rtol=0, atol=tolerance * scale, equal_nan=True):
        return ""
    return f"{name}: differs by {np.nanmax(np.abs(found - wanted))}, the largest is {scale}"


def outcome(case, tolerance):
    """Return how a case differs on the two devices, or what it failed with."""
    try:
        wanted = case(device=torch.device("cpu"))
        with pretended_gpu() as device:
            found = case(device=device)
        return difference(found, wanted, tolerance)
    except (Exception, SystemExit):
        return traceback.format_exc()


def main(report, *modules):
    # the same products on both: what is compared is where the tensors are
    matmul.ONEDNN = None
    found = {}
    for module in modules:
        for name, (case, tolerance) in importlib.import_module(module).CASES.items():
            started = time.process_time()
            found[f"{module} {name}"] = outcome(case, tolerance)
            spent = time.process_time() - started
            print(f"{module}, {name}: {spent:.2f} s of processor time", flush=True)
    Path(report).write_text(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
