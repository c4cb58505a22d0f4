"""The commands of the chapter figures that draw the theory's tables."""

from __future__ import annotations

import argparse

from ntktune.artifacts import Record, write_csv
from ntktune.cli import add_command
from ntktune.cli.figure_files import (
    PATH_COLUMNS,
    RULE_COLUMNS,
    SLOPE_COLUMNS,
    SOLUTION_COLUMNS,
    STOP_COLUMNS,
    THEORY_LISTS,
    TRACE_COLUMNS,
    add_drawing,
    check_same_tasks,
    checked_table,
    input_digests,
    numeric,
    tables_of_tasks,
    task_titles,
    write_figure,
)

SENSITIVITY_COLUMNS = (
    "draw",
    "sigma_source",
    "radius_source",
    "sigma_factor",
    "radius_factor",
    "sigma",
    "radius",
    "stopping_time",
    "eta",
)
NETWORK_COLUMNS = ("width", "seed", "phase", "drift", "linear_gap", "distance")


def descent(args: argparse.Namespace) -> None:
    """Draw the test error along kernel descent and ridge, with the four stops, a panel per task."""
    from ntktune.figures.descent import descent_figure

    record = Record("ntktune.cli.figures_theory:descent", args)
    rules, facts = tables_of_tasks(args.rules, RULE_COLUMNS, "--rules")
    paths, _ = tables_of_tasks(args.paths, PATH_COLUMNS, "--paths")
    check_same_tasks({"--rules": rules, "--paths": paths})
    figure = descent_figure(rules, paths, args.tasks, args.colors, task_titles(facts))
    write_figure(figure, args, record)


def linearisation(args: argparse.Namespace) -> None:
    """Draw linearisation error and drift along fine-tuning, against the distance gone."""
    from ntktune.figures.linearisation import linearisation_figure

    record = Record("ntktune.cli.figures_theory:linearisation", args)
    trace, facts = tables_of_tasks(args.traces, TRACE_COLUMNS, "--traces")
    figure = linearisation_figure(trace, args.tasks, args.colors, task_titles(facts))
    write_figure(figure, args, record)


def width(args: argparse.Namespace) -> None:
    """Draw drift, linearisation error and distance against the width of networks."""
    from ntktune.figures.width import width_figure

    record = Record("ntktune.cli.figures_theory:width", args)
    networks, _ = checked_table(args.networks, NETWORK_COLUMNS)
    slopes, _ = checked_table(args.slopes, SLOPE_COLUMNS)
    write_figure(width_figure(networks, slopes, args.colors), args, record)


def table5(args: argparse.Namespace) -> None:
    """Write table 5: four stopping rules in the kernel model, and ridge beside early stopping."""
    from ntktune.figures.table5 import rules_table

    record = Record("ntktune.cli.figures_theory:table5", args)
    rules, _ = tables_of_tasks(args.rules, RULE_COLUMNS, "--rules")
    paths, _ = tables_of_tasks(args.paths, PATH_COLUMNS, "--paths")
    check_same_tasks({"--rules": rules, "--paths": paths})
    provenance = record.provenance(inputs=input_digests(args))
    write_csv(args.out, rules_table(rules, paths), provenance)


def table6(args: argparse.Namespace) -> None:
    """Write table 6: the linear picture along real fine-tuning."""
    from ntktune.figures.table6 import linear_table

    record = Record("ntktune.cli.figures_theory:table6", args)
    trace, _ = tables_of_tasks(args.traces, TRACE_COLUMNS, "--traces")
    ridge, _ = tables_of_tasks(args.solutions, SOLUTION_COLUMNS, "--solutions")
    stops, _ = tables_of_tasks(args.stops, STOP_COLUMNS, "--stops")
    check_same_tasks({"--traces": trace, "--solutions": ridge, "--stops": stops})
    provenance = record.provenance(inputs=input_digests(args))
    write_csv(args.out, linear_table(trace, ridge, stops), provenance)


def table7(args: argparse.Namespace) -> None:
    """Write table 7: what the stopping time owes to the estimates of noise and radius."""
    from ntktune.figures.table7 import sensitivity_table

    record = Record("ntktune.cli.figures_theory:table7", args)
    found, _ = tables_of_tasks(args.sensitivity, SENSITIVITY_COLUMNS, "--sensitivity")
    numbers = [name for name in SENSITIVITY_COLUMNS if not name.endswith("_source")]
    found = numeric(found, numbers, "--sensitivity")
    provenance = record.provenance(inputs=input_digests(args))
    write_csv(args.out, sensitivity_table(found), provenance)


def _add_lists(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add options that take one file per task."""
    lists = THEORY_LISTS | {"sensitivity": "stopping times by estimate (sensitivity.parquet)"}
    for name in names:
        what = f"{lists[name]}, one file per task"
        parser.add_argument(f"--{name}", required=True, nargs="+", metavar="FILE", help=what)


def _add_colors(parser: argparse.ArgumentParser, what: str, *defaults: str) -> None:
    parser.add_argument(
        "--colors", nargs=len(defaults), default=list(defaults), metavar="HEX", help=what
    )


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add these verbs to the chapter."""
    parser = add_command(verbs, "descent", descent)
    _add_lists(parser, "rules", "paths")
    add_drawing(parser, tasks=True, color=False)
    what = "colours of the rules theory, hold-out, SURE and oracle"
    _add_colors(parser, what, "#0072B2", "#D55E00", "#009E73", "#444444")

    parser = add_command(verbs, "linearisation", linearisation)
    _add_lists(parser, "traces")
    add_drawing(parser, tasks=True, color=False)
    _add_colors(parser, "colours of AdamW and gradient descent", "#0072B2", "#D55E00")

    parser = add_command(verbs, "width", width)
    parser.add_argument("--networks", required=True, metavar="FILE", help="width.parquet")
    parser.add_argument("--slopes", required=True, metavar="FILE", help="slopes.parquet")
    add_drawing(parser, tasks=False, color=False)
    what = "colours of pretraining, and of fine-tuning with all weights or a fresh head"
    _add_colors(parser, what, "#444444", "#0072B2", "#D55E00")

    for run, lists in (
        (table5, ("rules", "paths")),
        (table6, ("traces", "solutions", "stops")),
        (table7, ("sensitivity",)),
    ):
        parser = add_command(verbs, run.__name__, run)
        _add_lists(parser, *lists)
        parser.add_argument("--out", required=True, metavar="FILE", help="the CSV file to write")
