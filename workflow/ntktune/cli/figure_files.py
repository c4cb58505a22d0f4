"""Reading the tables that figures are drawn from, and writing the figures."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntktune.artifacts import (
    Record,
    atomic_path,
    file_sha256,
    read_csv,
    read_table,
    write_json,
)
from ntktune.cli.inputs import check_names
from ntktune.errors import UserError, not_there

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# of the slopes over networks' widths, which a figure and the verdicts read
SLOPE_COLUMNS = ("phase", "quantity", "slope", "low", "high", "networks")
# of the tables of task vectors, likewise
COSINE_COLUMNS = ("pair", "task_a", "run_a", "task_b", "run_b", "group", "cosine", "shared")
MERGED_COLUMNS = (
    "merged",
    "seed",
    "task",
    "kind",
    "metric",
    "choice",
    "coefficient",
    "pretrained",
    "single",
    "merged_score",
    "normalised",
    "normalised_clean",
    "rows",
    "leaked",
    "validation_rows",
)
NEGATED_COLUMNS = (
    "target",
    "seed",
    "task",
    "kind",
    "metric",
    "part",
    "coefficient",
    "score",
    "pretrained",
    "kept",
    "gap",
    "random_gap",
    "predicted_gap",
    "linear_score",
    "chosen",
)
# of the theory's tables, one file per task, likewise
RULE_COLUMNS = (
    "seed",
    "n",
    "rule",
    "time",
    "eta",
    "test_error",
    "start_error",
    "sigma_source",
)
PATH_COLUMNS = ("seed", "n", "eta", "distance_test", "error_descent", "error_ridge")
TRACE_COLUMNS = (
    "n",
    "seed",
    "method",
    "step",
    "best",
    "eta",
    "distance",
    "linear_gap",
    "kernel_gap",
    "error",
    "error_linear",
    "start_error",
    "loss",
    "loss_linear",
    "start_loss",
    "drift",
    "drift_frobenius",
    "alignment",
    "exponent",
    "start_exponent",
)
SOLUTION_COLUMNS = ("seed", "holdout", "gap", "error_network", "error_ridge")
STOP_COLUMNS = (
    "seed",
    "step_size",
    "theory",
    "operator_crossing",
    "operator_minimiser",
    "kernel_holdout",
    "network_holdout",
    "network_steps",
)
THEORY_COLUMNS = {
    "rules": RULE_COLUMNS,
    "paths": PATH_COLUMNS,
    "traces": TRACE_COLUMNS,
    "solutions": SOLUTION_COLUMNS,
    "stops": STOP_COLUMNS,
}
THEORY_LISTS = {
    "rules": "stops of four rules (rules.parquet)",
    "paths": "descent beside ridge (ridge.parquet)",
    "traces": "evaluations of watched trainings (trace.parquet)",
    "solutions": "networks at ridge solutions (trace_ridge.parquet)",
    "stops": "stops on one clock (stops.parquet)",
}


def checked_table(path: str, columns: Iterable[str]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read one table and check that it has rows and the columns that are needed."""
    table, provenance = read_table(path)
    check_names(path, table.columns, columns, "columns")
    if table.empty:
        raise UserError(f"{path} has no rows; make it again")
    return table, provenance


def numeric(table: pd.DataFrame, columns: Iterable[str], where: str) -> pd.DataFrame:
    """Return a table with some columns as floating point, but for ``n``, which stays as it is.

    Raises
    ------
    UserError
        One holds something that is no number.
    """
    import pandas as pd

    table = table.copy()
    for name in columns:
        numbers = pd.to_numeric(table[name], errors="coerce")
        wrong = table.loc[numbers.isna() & table[name].notna(), name]
        if len(wrong):
            raise UserError(
                f"the column {name} of {where} holds {wrong.iloc[0]!r}, which is no number; make "
                "its file again"
            )
        table[name] = numbers if name == "n" else numbers.astype(float)
    return table


def task_facts(provenance: dict[str, Any]) -> dict[str, Any]:
    """Return what an artifact's provenance says of its task: at least a name, or nothing."""
    task = provenance.get("task") or {}
    return {"name": task} if isinstance(task, str) else task


def task_titles(facts: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return task → title, for the tasks whose provenance states one."""
    return {task: stated["title"] for task, stated in facts.items() if stated.get("title")}


def tables_of_tasks(
    paths: list[str], columns: Iterable[str], option: str, *, kinds: bool = True
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """Read one table per task as one, with the columns ``task`` and, if ``kinds``, ``kind``.

    Also return task → what its table's provenance states of it (kind, title).

    Raises
    ------
    UserError
        A table does not say which task it is of, or two are of one.
    """
    import pandas as pd

    tables, facts = [], {}
    for path in paths:
        table, provenance = checked_table(path, columns)
        task = task_facts(provenance)
        if not task.get("name"):
            raise UserError(f"{path} does not say which task it is of; make it again")
        if kinds and task.get("kind") not in ("regression", "classification"):
            raise UserError(f"{path} does not say of what kind its task is; make it again")
        if task["name"] in facts:
            raise UserError(f"{option} holds task {task['name']!r} more than once; give it once")
        facts[task["name"]] = task
        table = table.assign(task=task["name"])
        tables.append(table.assign(kind=task["kind"]) if kinds else table)
    return pd.concat(tables, ignore_index=True), facts


def check_same_tasks(tables: dict[str, pd.DataFrame]) -> None:
    """Raise UserError if tables, by option, are not of the same tasks."""
    tasks = {option: set(table["task"]) for option, table in tables.items()}
    every = set.union(*tasks.values())
    for option, own in tasks.items():
        if own != every:
            raise UserError(
                f"{option} lacks the task {min(every - own)!r}, which another option has; give "
                "the same tasks to all"
            )


def own_table(path: str | Path, columns: Iterable[str]) -> pd.DataFrame:
    """Read one of this chapter's own tables."""
    if not Path(path).is_file():
        raise not_there(path, f"make it with: ntktune figures {Path(path).stem}, or run the study")
    table = read_csv(path)
    check_names(str(path), table.columns, columns, "columns")
    return table


def input_digests(args: argparse.Namespace) -> dict[str, str]:
    """Return the files that a command reads, each with its SHA-256, for the provenance."""
    given = (v for k, v in vars(args).items() if not k.startswith("_") and k != "out")
    listed = (v if isinstance(v, list) else [v] for v in given)
    paths = [v for values in listed for v in values if isinstance(v, str)]
    return {path: file_sha256(path) for path in paths if Path(path).is_file()}


def write_figure(figure: Figure, args: argparse.Namespace, record: Record) -> None:
    """Write a figure in the formats asked for, with its provenance beside it as JSON.

    It stands beside it, not inside: wall times would make equal figures unequal files. The files'
    checksums stand there, too.
    """
    from ntktune.figures.style import figure_bytes

    contents = {path: figure_bytes(figure, Path(path).suffix[1:], args.dpi) for path in args.out}
    for path, content in contents.items():
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    for sidecar in sorted({Path(path).with_suffix(".json") for path in args.out}):
        files = {
            Path(path).name: hashlib.sha256(content).hexdigest()
            for path, content in contents.items()
            if Path(path).with_suffix(".json") == sidecar
        }
        write_json(sidecar, {"files": files}, record.provenance(inputs=input_digests(args)))
    print(f"wrote {', '.join(args.out)}", file=sys.stderr)


def add_drawing(parser: argparse.ArgumentParser, *, tasks: bool, color: bool) -> None:
    """Add the options that say what is drawn, how, and where to."""
    if tasks:
        what = "tasks to draw, in order"
        parser.add_argument("--tasks", required=True, nargs="+", metavar="NAME", help=what)
    if color:
        parser.add_argument("--color", default="#0072B2", metavar="HEX", help="colour of the data")
    parser.add_argument("--dpi", type=int, default=200, help="resolution of PNG files")
    what = "files to write; their endings, pdf, svg or png, say the formats"
    parser.add_argument("--out", required=True, nargs="+", metavar="FILE", help=what)
