"""Commands of the chapter ``theory``."""

from __future__ import annotations

import argparse

from ntktune.artifacts import Record, read_arrays, write_table
from ntktune.cli import add_command


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the chapter's verbs."""
    parser = add_command(verbs, "stopping", stopping)
    parser.add_argument("--gram", required=True, help="the task's gram.safetensors")
    parser.add_argument(
        "--step-size-factor",
        type=float,
        default=1.0,
        help="step size over min(1, 1/λ1), the largest that the theory allows (default: 1)",
    )
    parser.add_argument("--out", required=True, help="parquet: one row per draw")


def stopping(args: argparse.Namespace) -> None:
    """Compute critical radius and stopping time of a task's kernels."""
    import pandas as pd

    from ntktune.device import machine_epsilon
    from ntktune.theory import stopping_row

    record = Record("ntktune.cli.theory:stopping", args)
    tensors, facts = read_arrays(args.gram)
    precision = machine_epsilon(facts["dtype"])
    rows = []
    for draw in range(len(tensors["kernel"])):
        kernel, outputs, label, noise = (
            tensors[name][draw] for name in ("kernel", "outputs", "label", "label_noise")
        )
        row = stopping_row(
            kernel,
            outputs,
            label,
            noise,
            kind=facts["task"]["kind"],
            precision=precision,
            step_size_factor=args.step_size_factor,
        )
        rows.append({"draw": draw} | row)
    origin = {key: facts[key] for key in ("task", "data_sha256", "model", "function", "dtype")}
    labels = {
        "regression": "standardised by the draw's mean and standard deviation",
        "classification": "-1 for class 0, +1 for class 1, target of the logit difference",
    }
    provenance = record.provenance(**origin, labels=labels[facts["task"]["kind"]])
    write_table(args.out, pd.DataFrame(rows), provenance)
