"""What a command writes carries what the command did."""

import argparse
import platform
import sys
import time
from collections.abc import Mapping
from typing import Any

from ntktune import __version__
from ntktune.network.device import gpu_peak_memory, peak_memory_bytes
from ntktune.store.code_digest import code_digest
from ntktune.store.records import write_table


def record(args: argparse.Namespace, entry: str = "", **facts: Any) -> dict[str, Any]:
    """Return the provenance of what a command writes, with the command's own ``facts``.

    ``args`` is the parsed command line: which command, and the slice of the configuration that it
    used. ``entry`` is the code that was run, as ``"ntktune.figures.decay:task_figure"``; by default
    the command's function. Usual facts: ``model``, ``task`` and ``data_sha256`` (from the inputs'
    own provenance), ``seeds``, ``dtype``, ``device``.
    """
    versions = {"ntktune": __version__, "python": platform.python_version()}
    for name in ("numpy", "torch", "transformers", "datasets", "pandas", "scipy"):
        if name in sys.modules:
            versions[name] = sys.modules[name].__version__
    provenance = {
        "command": f"{args._chapter} {args._verb}",
        "settings": {k: v for k, v in vars(args).items() if not k.startswith("_")},
        "code": code_digest(entry or f"{args._run.__module__}:{args._run.__name__}"),
        "versions": versions,
        "wall_seconds": round(time.monotonic() - args._started, 3),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    return provenance | gpu_peak_memory() | facts


def write_tables(args: argparse.Namespace, tables: Mapping[str, Any], **facts: Any) -> None:
    """Write tables, path → frame or rows, as parquet files with one provenance."""
    import pandas as pd

    provenance = record(args, **facts)
    for path, rows in tables.items():
        write_table(path, pd.DataFrame(rows), provenance)
