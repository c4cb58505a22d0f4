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

    parser = add_command(verbs, "simulate", simulate)
    parser.add_argument("--sizes", nargs="+", type=int, required=True, help="sample sizes")
    parser.add_argument("--repeats", type=int, required=True, help="draws of the noise")
    parser.add_argument("--seed", type=int, required=True, help="the study's root seed")
    parser.add_argument("--out-errors", required=True, help="parquet: one row per size and rule")
    parser.add_argument("--out-radii", required=True, help="parquet: one row per decay exponent")


def simulate(args: argparse.Namespace) -> None:
    """Repeat the simulation of Raskutti, Wainwright & Yu 2014: four stopping rules, f* known."""
    import pandas as pd

    from ntktune.cli import Progress
    from ntktune.errors import UserError
    from ntktune.seeds import generator
    from ntktune.theory.simulation import DECAYS, RADIUS_SIZES, radius_rows, simulated_rows

    record = Record("ntktune.cli.theory:simulate", args)
    if min(args.sizes) < 4 or args.repeats < 2:
        raise UserError(
            f"--sizes {min(args.sizes)} --repeats {args.repeats}: a size needs 4 points or more, "
            "and an error bar 2 repeats"
        )
    progress = Progress("simulation", sum(n**2 for n in args.sizes))
    rows, done = [], 0
    for n in args.sizes:
        rows += simulated_rows(n, args.repeats, generator(args.seed, "theory.simulation", size=n))
        done += n**2
        progress(done)
    provenance = record.provenance(seeds={"root": args.seed, "address": ["theory.simulation", "n"]})
    write_table(args.out_errors, pd.DataFrame(rows).assign(repeats=args.repeats), provenance)
    write_table(args.out_radii, pd.DataFrame(radius_rows(DECAYS, RADIUS_SIZES)), provenance)


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
