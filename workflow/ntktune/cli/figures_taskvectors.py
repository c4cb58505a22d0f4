"""The commands of the chapter figures that draw the tables of task vectors."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ntktune.artifacts import Record, write_csv
from ntktune.cli import add_command
from ntktune.cli.figure_files import (
    COSINE_COLUMNS,
    MERGED_COLUMNS,
    NEGATED_COLUMNS,
    add_drawing,
    checked_table,
    input_digests,
    numeric,
    write_figure,
)
from ntktune.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

SWEEP_COLUMNS = ("merged", "seed", "task", "part", "coefficient", "normalised")
OVERLAP_COLUMNS = (
    "task",
    "other",
    "seed",
    "sample_exact",
    "sample_normalised",
    "pool_exact",
    "pool_normalised",
)
ERROR_COLUMNS = ("task_a", "task_b", "seed", "arm", "alpha_a", "alpha_b", "error")
TASK_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#444444")


# Columns of words; all others are numbers.
WORDS = {
    *("pair", "task_a", "task_b", "group", "merged", "task", "kind", "metric", "choice", "part"),
    *("target", "other", "arm", "chosen", "run_a", "run_b"),
}


def _table(path: str, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read one table of task vectors."""
    numbers = [name for name in columns if name not in WORDS]
    return numeric(checked_table(path, columns)[0], numbers, path)


def _pairs(paths: list[str]) -> pd.DataFrame:
    """Read the disentanglement errors of many pairs as one table."""
    import pandas as pd

    tables, seen = [], set()
    for path in paths:
        table = _table(path, ERROR_COLUMNS)
        found = set(zip(table["task_a"], table["task_b"], strict=True))
        if found & seen:
            a, b = sorted(found & seen)[0]
            raise UserError(
                f"--disentanglement lists the pair {a}, {b} more than once; give each pair once"
            )
        seen |= found
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def fig3(args: argparse.Namespace) -> None:
    """Draw figure 3: cosines between task vectors, and merged models against single ones."""
    from ntktune.figures.fig3 import task_vector_figure

    record = Record("ntktune.cli.figures_taskvectors:fig3", args)
    cosine = _table(args.cosine, COSINE_COLUMNS)
    merged = _table(args.merged, MERGED_COLUMNS)
    figure = task_vector_figure(cosine, merged, args.tasks, args.colormap, args.colors)
    write_figure(figure, args, record)


def layers(args: argparse.Namespace) -> None:
    """Draw the cosines between task vectors by group of layers."""
    from ntktune.figures.layers import layer_figure

    record = Record("ntktune.cli.figures_taskvectors:layers", args)
    cosine = _table(args.cosine, COSINE_COLUMNS)
    write_figure(layer_figure(cosine, args.colors), args, record)


def addition(args: argparse.Namespace) -> None:
    """Draw the scores of merged models against the coefficient, one panel per merge."""
    from ntktune.figures.addition import addition_figure

    record = Record("ntktune.cli.figures_taskvectors:addition", args)
    sweep = _table(args.sweep, SWEEP_COLUMNS)
    merged = _table(args.merged, MERGED_COLUMNS)
    write_figure(addition_figure(sweep, merged, args.colors), args, record)


def negation(args: argparse.Namespace) -> None:
    """Draw what taking a task vector away does to its task and to others, against λ."""
    from ntktune.figures.negation import negation_figure

    record = Record("ntktune.cli.figures_taskvectors:negation", args)
    negated = _table(args.negated, NEGATED_COLUMNS)
    write_figure(negation_figure(negated, args.colors), args, record)


def disentanglement(args: argparse.Namespace) -> None:
    """Draw the disentanglement error of every pair over both coefficients."""
    from ntktune.figures.disentanglement import disentanglement_figure

    record = Record("ntktune.cli.figures_taskvectors:disentanglement", args)
    figure = disentanglement_figure(_pairs(args.disentanglement), args.colormap)
    write_figure(figure, args, record)


def table3(args: argparse.Namespace) -> None:
    """Write table 3: merged models against single-task models."""
    from ntktune.figures.table3 import merging_table

    record = Record("ntktune.cli.figures_taskvectors:table3", args)
    cosine = _table(args.cosine, COSINE_COLUMNS)
    merged = _table(args.merged, MERGED_COLUMNS)
    overlap = _table(args.overlap, OVERLAP_COLUMNS)
    provenance = record.provenance(inputs=input_digests(args))
    write_csv(args.out, merging_table(cosine, merged, overlap), provenance)


def table8(args: argparse.Namespace) -> None:
    """Write table 8: cosines between task vectors by kind of pair and group of layers."""
    from ntktune.figures.table8 import cosine_table

    record = Record("ntktune.cli.figures_taskvectors:table8", args)
    cosine = _table(args.cosine, COSINE_COLUMNS)
    provenance = record.provenance(inputs=input_digests(args))
    write_csv(args.out, cosine_table(cosine), provenance)


def table9(args: argparse.Namespace) -> None:
    """Write table 9: negated task vectors, target and controls."""
    from ntktune.figures.table9 import negation_table

    record = Record("ntktune.cli.figures_taskvectors:table9", args)
    negated = _table(args.negated, NEGATED_COLUMNS)
    provenance = record.provenance(inputs=input_digests(args))
    write_csv(args.out, negation_table(negated), provenance)


def _add_inputs(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add options that take one file each."""
    files = {
        "cosine": "cosines between task vectors (cosine.parquet)",
        "merged": "scores of merged models (merged.parquet)",
        "sweep": "scores of merged models by coefficient (sweep.parquet)",
        "negated": "scores of negated models (negated.parquet)",
        "overlap": "test rows that other tasks were trained on (overlap.parquet)",
    }
    for name in names:
        parser.add_argument(f"--{name}", required=True, metavar="FILE", help=files[name])


def _add_colors(
    parser: argparse.ArgumentParser, what: str, defaults: tuple[str, ...], nargs: int | str
) -> None:
    parser.add_argument("--colors", nargs=nargs, default=list(defaults), metavar="HEX", help=what)


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add these verbs to the chapter."""
    parser = add_command(verbs, "fig3", fig3)
    _add_inputs(parser, "cosine", "merged")
    add_drawing(parser, tasks=True, color=False)
    what = "a diverging colour map of matplotlib"
    parser.add_argument("--colormap", default="PuOr", metavar="NAME", help=what)
    _add_colors(parser, "colours of the single-task and the merged models", TASK_COLORS[:2], 2)

    parser = add_command(verbs, "layers", layers)
    _add_inputs(parser, "cosine")
    add_drawing(parser, tasks=False, color=False)
    what = "colours of two tasks, one task's two trainings, and its two samples under one head"
    _add_colors(parser, what, TASK_COLORS[:3], 3)

    for run, names in ((addition, ("sweep", "merged")), (negation, ("negated",))):
        parser = add_command(verbs, run.__name__, run)
        _add_inputs(parser, *names)
        add_drawing(parser, tasks=False, color=False)
        _add_colors(parser, "colours of the tasks, in turn", TASK_COLORS, "+")

    parser = add_command(verbs, "disentanglement", disentanglement)
    what = "disentanglement errors, one file per pair"
    parser.add_argument("--disentanglement", required=True, nargs="+", metavar="FILE", help=what)
    add_drawing(parser, tasks=False, color=False)
    what = "a sequential colour map of matplotlib"
    parser.add_argument("--colormap", default="YlGnBu", metavar="NAME", help=what)

    for run, names in (
        (table3, ("cosine", "merged", "overlap")),
        (table8, ("cosine",)),
        (table9, ("negated",)),
    ):
        parser = add_command(verbs, run.__name__, run)
        _add_inputs(parser, *names)
        parser.add_argument("--out", required=True, metavar="FILE", help="the CSV file to write")
