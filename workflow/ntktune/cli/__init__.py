"""The commands: read files, one library call, write files.

A chapter's module has ``add_commands(verbs)`` and one function per verb. Modules
here import nothing heavy at the top; a command imports what it needs.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable

# What several commands read: option -> help.
INPUTS = {
    "folder": "the study's folder, as results/quickstart; give it from the repository's root",
    "gram": "the task's gram.safetensors",
    "model": "folder of the pretrained model",
    "subsets": "the task's subsets.json",
    "task": "the task's name",
    "tokens": "the task's tokens.safetensors",
}

CHAPTERS = {
    "data": "fetch the model and the tasks, tokenise, draw samples",
    "kernel": "empirical Neural Tangent Kernels of a model on a task",
    "spectrum": "eigenvalues of a kernel and their power-law decay",
    "finetune": "fine-tuning with hold-out early stopping; what it will cost",
    "taskvectors": "task vectors: cosines; merged, negated and exported models",
    "theory": "stopping rules, linearisation, width, simulation",
    "figures": "figures, tables and verdicts, from tables only",
    "results": "a study's results as a whole: check, pack",
}


def add_command(
    verbs: argparse._SubParsersAction,
    verb: str,
    run: Callable[[argparse.Namespace], None],
    *inputs: str,
    network: bool | Callable[[argparse.Namespace], bool] = False,
    **files: str,
) -> argparse.ArgumentParser:
    """Add one verb to a chapter and return its parser; its help is the function's docstring.

    Parameters
    ----------
    verbs, verb, run
        The chapter's verbs, the new one's name, and what it runs.
    inputs
        Names in ``INPUTS``, options that must be given.
    network
        Only a command with True, or whose arguments make this true, may reach the network; all
        others run with the hub switched off.
    files
        The command's own options that must be given, with their help.
    """
    from ntktune.cli.options import add_options, option_flag

    summary = run.__doc__.strip().splitlines()[0]
    parser = verbs.add_parser(verb, help=summary, description=summary)
    parser.set_defaults(_run=run, _network=network)
    for name, told in ({name: INPUTS[name] for name in inputs} | files).items():
        parser.add_argument(option_flag(name), required=True, help=told)
    add_options(parser, " ".join(parser.prog.split()[-2:]))
    return parser


class Progress:
    """Progress lines on standard error (a job's log): what, how far, how long it will take.

    At most one line in two seconds, and always the last one.
    """

    def __init__(self, what: str, total: float):
        self.what, self.total = what, total
        self.started = time.monotonic()
        self.shown = float("-inf")

    def __call__(self, done: float) -> None:
        """Report that ``done`` of ``total`` is done."""
        now = time.monotonic()
        if done < self.total and now - self.shown < 2:
            return
        self.shown = now
        spent = now - self.started
        left = spent * (self.total - done) / done if done else float("nan")
        share = f"{self.what}: {100 * done / self.total:3.0f} %"
        with contextlib.suppress(OSError):  # a log on a full disk is no reason to stop
            print(f"{share}, {spent:.0f} s, about {left:.0f} s left", file=sys.stderr, flush=True)
