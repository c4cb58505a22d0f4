"""Commands of the chapter ``spectrum``."""

import argparse
import sys

from ntktune.cli import add_command
from ntktune.cli.inputs import read_kernels
from ntktune.cli.record import record, write_tables
from ntktune.network.device import machine_epsilon
from ntktune.store.records import write_json


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the chapter's verbs."""
    add_command(
        *(verbs, "fit", fit, "gram"),
        out_eigenvalues="parquet: draw, k, eigenvalue, centred (of the centred kernel)",
        out_fits="parquet: one row per draw and range",
        out_summary="JSON: the decay over the draws",
    )


def fit(args: argparse.Namespace) -> None:
    """Fit the power law of the eigenvalues of a task's kernels."""
    from ntktune.intervals import shared_rows
    from ntktune.spectrum import centred_gram, eigenvalues, fitted_ranges, spectrum_summary
    from ntktune.spectrum.summary import eigenvalue_table

    tensors, facts = read_kernels(args.gram, ["kernel"])
    task = facts["task"]["name"]
    precision = machine_epsilon(facts["dtype"])
    spectra = [eigenvalues(kernel) for kernel in tensors["kernel"]]
    centred = [eigenvalues(centred_gram(kernel)) for kernel in tensors["kernel"]]
    fits = fitted_ranges(spectra, precision)
    # a kernel from elsewhere need not say which rows it is of
    shared = shared_rows(tensors["row"]) if "row" in tensors else 0.0
    summary = spectrum_summary(spectra, fits, precision, shared)
    tables = {args.out_eigenvalues: eigenvalue_table(spectra, centred), args.out_fits: fits}
    write_tables(args, tables, **facts)
    write_json(args.out_summary, {"task": task} | summary, record(args, **facts))
    exponent, rate = summary["exponent"], summary["predicted_rate"]["mean"]
    print(
        f"{task}: eigenvalues decay as k^-{exponent['mean']:.3f} (standard error "
        f"{exponent['stderr_mean']:.3f}, R² {summary['r_squared']['mean']:.3f}, "
        f"n={len(spectra[0])}); predicted learning curve: error ~ n^-{rate:.3f}",
        file=sys.stderr,
    )
