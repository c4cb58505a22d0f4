"""What a command did, for the provenance of what it writes."""

from __future__ import annotations

import argparse
import platform
import sys
import time
from typing import Any

from ntktune import __version__
from ntktune.network.device import gpu_peak_memory, peak_memory_bytes
from ntktune.store.code_digest import code_digest


class Record:
    """What a command did, for the provenance of the artifacts it writes.

    Parameters
    ----------
    entry
        The command's function as ``"ntktune.cli.kernel:gram"``.
    args
        The parsed command line: which command, and the slice of the configuration that it used.
    """

    def __init__(self, entry: str, args: argparse.Namespace):
        self.entry = entry
        self.command = f"{args._chapter} {args._verb}"
        self.settings = {
            k: v for k, v in vars(args).items() if not callable(v) and not k.startswith("_")
        }
        self.started = time.monotonic()

    def provenance(self, **facts: Any) -> dict[str, Any]:
        """Return the provenance so far, with a command's own facts added.

        Usual facts: ``model`` and ``data`` (from the inputs' own provenance), ``seeds``,
        ``dtype``, ``device``.
        """
        versions = {"ntktune": __version__, "python": platform.python_version()}
        for name in ("numpy", "torch", "transformers", "datasets", "pandas", "scipy"):
            if name in sys.modules:
                versions[name] = sys.modules[name].__version__
        record = {
            "command": self.command,
            "settings": self.settings,
            "code": code_digest(self.entry),
            "versions": versions,
            "wall_seconds": round(time.monotonic() - self.started, 3),
            "peak_memory_bytes": peak_memory_bytes(),
        }
        return record | gpu_peak_memory() | facts
