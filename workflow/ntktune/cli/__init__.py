"""The commands: read files, one library call, write files.

A chapter's module has ``add_commands(verbs)`` and one function per verb. Modules
here import nothing heavy at the top; a command imports what it needs.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

from ntktune.cli.options import add_options, option_flag

# What several commands read: option -> help.
INPUTS = {
    "folder": "the study's folder, as results/quickstart; give it from the repository's root",
    "gram": "kernels, of kernel draws or kernel gram",
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
    "linearized": "the linearised network, and which layers to train",
    "selection": "which model to fine-tune, by a few fine-tunings or by none",
    "advise": "how many labels a task needs, before labelling or training",
    "figures": "figures, tables and verdicts, from tables only",
    "results": "a study's results as a whole: check, pack",
}


def optional(told: str, **how: Any) -> dict[str, Any]:
    """Return an option of ``add_command`` that may be left out."""
    return {"required": False, "help": told, **how}


def many(told: str, metavar: str = "FILE") -> dict[str, Any]:
    """Return an option of ``add_command`` that takes one value or more."""
    return {"nargs": "+", "metavar": metavar, "help": told}


def model_options(told: str = "model folder") -> dict[str, Any]:
    """Return the options that name a model: its folder, or an id of the hub and a revision."""
    revision = optional("of a model of the hub: commit, tag or branch (default: main)")
    return {"model": f"{told}, or an id of the Hugging Face hub (owner/name)", "revision": revision}


def add_command(
    verbs: argparse._SubParsersAction,
    verb: str,
    run: Callable[[argparse.Namespace], None],
    *inputs: str,
    network: bool | Callable[[argparse.Namespace], bool] = False,
    **own: str | dict[str, Any],
) -> argparse.ArgumentParser:
    """Add the verb that runs ``run`` to a chapter; return its parser.

    Its help is the function's docstring. ``inputs`` are names in ``INPUTS``, and ``own`` the
    command's own options: each with its help, or with the arguments of ``add_argument``. All must
    be given, except for :func:`optional` ones. Only a command whose ``network`` is true, or true of
    its arguments, may reach the network; all others run with the hub switched off.
    """
    summary = run.__doc__.strip().splitlines()[0]
    parser = verbs.add_parser(verb, help=summary, description=summary)
    parser.set_defaults(_run=run, _network=network)
    for name, told in ({name: INPUTS[name] for name in inputs} | own).items():
        how = {"help": told} if isinstance(told, str) else told
        parser.add_argument(option_flag(name), **({"required": True} | how))
    add_options(parser, " ".join(parser.prog.split()[-2:]))
    return parser


TELLING = 0.15  # of a job: with less done nothing says how long the rest will take


class Progress:
    """Progress lines on standard error (a job's log): what, how far, how long it will take.

    At most one line in two seconds, and always the last one. What is left is told once a share of
    :data:`TELLING` is done: the first steps wait for what comes before them.
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
        share = f"{self.what}: {100 * done / self.total:3.0f} %, {spent:.0f} s"
        if done >= TELLING * self.total:
            share += f", about {spent * (self.total - done) / done:.0f} s left"
        with contextlib.suppress(OSError):  # a log on a full disk is no reason to stop
            print(share, file=sys.stderr, flush=True)
