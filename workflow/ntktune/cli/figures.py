"""The commands of the chapter figures: figures, tables and verdicts, from tables only.

Each command imports its own figure's module inside its function: a rule's digest of
the code follows those imports, so that editing one figure redraws that figure only.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntktune.artifacts import Record, read_json, write_csv
from ntktune.cli import add_command
from ntktune.cli.figure_files import (
    COSINE_COLUMNS,
    MERGED_COLUMNS,
    NEGATED_COLUMNS,
    SLOPE_COLUMNS,
    THEORY_COLUMNS,
    THEORY_LISTS,
    add_drawing,
    checked_table,
    input_digests,
    numeric,
    own_table,
    tables_of_tasks,
    task_facts,
    task_titles,
    write_figure,
)
from ntktune.cli.inputs import check_names
from ntktune.errors import UserError, not_there

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

ERROR_COLUMNS = ("mse", "baseline_mse", "noise_variance", "accuracy", "baseline_accuracy")
F1_COLUMNS = ("f1", "baseline_f1")
SCORE_COLUMNS = (*ERROR_COLUMNS, *F1_COLUMNS, "pearson", "spearman")
STEP_COLUMNS = ("best_step", "sum_learning_rate")
FIT_COLUMNS = (
    "draw",
    "range",
    "first",
    "last",
    "exponent",
    "intercept",
    "r_squared",
    "exponential",
    "dropped",
)
STOPPING_COLUMNS = (
    "draw",
    "n",
    "sigma",
    "sigma_source",
    "radius",
    "radius_source",
    "step_size",
    "critical_radius",
    "stopping_time",
    "eta",
)
RATE_COLUMNS = (
    "task",
    "predicted_rate",
    "measured_exponent",
    "error_measure",
    "measured_low",
    "measured_high",
    "slope_exponent",
    "needed",
    "seeds",
    "shared_draws",
    "shared_seeds",
)
RADII_COLUMNS = ("decay", "predicted", "measured")
PREDICTION_COLUMNS = (
    *RATE_COLUMNS,
    "kind",
    "exponent",
    "exponent_low",
    "exponent_high",
    "predicted_low",
    "predicted_high",
    "needed_low",
    "needed_high",
    "sizes",
)
SUMMARY_KEYS = (
    "task",
    "n",
    "draws",
    "shared",
    "noise_floor",
    "exponent",
    "r_squared",
    "predicted_rate",
    "sensitivity",
)


def _metrics(
    paths: list[str], columns: Iterable[str]
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """Read the fine-tuning metrics of many tasks and sizes as one table.

    Also return task → what its provenance states of it (title, score range).
    """
    import pandas as pd

    tables, facts = [], {}
    for path in paths:
        table, provenance = checked_table(path, ("task", "kind", "metric", "n", "seed", *columns))
        unknown = sorted(set(table["kind"]) - {"regression", "classification"})
        if unknown:
            raise UserError(
                f"{path} has tasks of kind {unknown[0]!r}; it must be regression or classification"
            )
        tables.append(table)
        for task in table["task"].unique():
            facts[task] = task_facts(provenance)
    metrics = pd.concat(tables, ignore_index=True)
    metrics = numeric(metrics, (*columns, "n"), "--metrics")
    repeated = metrics[metrics.duplicated(["task", "n", "seed"])]
    if len(repeated):
        task, n, seed = repeated.iloc[0][["task", "n", "seed"]]
        raise UserError(
            f"--metrics holds task {task!r}, n = {n}, seed {seed} more than once; give each file "
            "once"
        )
    return metrics, facts


def _untuned(paths: list[str]) -> pd.DataFrame:
    """Read the predictions without fine-tuning of many tasks as one table; none have no rows."""
    import pandas as pd

    columns = ("task", "kind", "metric", "method", "n", "seed", *SCORE_COLUMNS)
    tables = [checked_table(path, columns)[0] for path in paths]
    found = pd.concat([pd.DataFrame(columns=list(columns)), *tables], ignore_index=True)
    return numeric(found, SCORE_COLUMNS, "--untuned")


def _summary(path: str) -> dict[str, Any]:
    """Read one summary of a spectrum."""
    summary = read_json(path)
    check_names(path, summary, SUMMARY_KEYS, "keys")
    return summary


def _stopping(args: argparse.Namespace) -> pd.DataFrame:
    """Read the stopping times of all tasks."""
    return _of_some_tasks(args.stopping, STOPPING_COLUMNS, "--stopping", kinds=False)


def _made(args: argparse.Namespace, record: Record) -> dict[str, Any]:
    """Return a table's provenance: its inputs' digests."""
    return record.provenance(inputs=input_digests(args))


def fig2(args: argparse.Namespace) -> None:
    """Draw figure 2: test error against the number of labelled examples, one panel per task."""
    from ntktune.figures.fig2 import learning_curve_figure

    record = Record("ntktune.cli.figures:fig2", args)
    metrics, facts = _metrics(args.metrics, ERROR_COLUMNS)
    untuned = _untuned(args.untuned) if args.untuned else None
    titles = task_titles(facts)
    for task, stated in facts.items():
        if stated.get("kind") == "regression" and stated.get("score_range"):
            low, high = (f"{bound:g}".replace("-", "−") for bound in stated["score_range"])
            titles[task] = f"{titles.get(task, task)}, scores {low} to {high}"
    figure = learning_curve_figure(metrics, args.tasks, args.color, titles, untuned)
    write_figure(figure, args, record)


def decay(args: argparse.Namespace) -> None:
    """Draw one of figures 4-9: one task's eigenvalues and the power law fitted to them."""
    from ntktune.figures.decay import decay_figure

    record = Record("ntktune.cli.figures:decay", args)
    eigenvalues, _ = checked_table(args.eigenvalues, ("draw", "k", "eigenvalue"))
    summary = _summary(args.summary)
    fits = _fits(args.fits, summary)
    title = task_facts(summary.get("provenance", {})).get("title") or summary["task"]
    interval = [summary["exponent"].get(end) for end in ("low", "high")]
    figure = decay_figure(eigenvalues, fits, summary["noise_floor"], title, args.color, interval)
    write_figure(figure, args, record)


def fig10(args: argparse.Namespace) -> None:
    """Draw figure 10: F1 score against labelled examples, one panel per classification task."""
    from ntktune.figures.fig10 import f1_figure

    record = Record("ntktune.cli.figures:fig10", args)
    metrics, facts = _metrics(args.metrics, F1_COLUMNS)
    figure = f1_figure(metrics, args.tasks, args.color, task_titles(facts))
    write_figure(figure, args, record)


def prediction(args: argparse.Namespace) -> None:
    """Draw what the kernel predicts against what fine-tuning shows, a point per task."""
    from ntktune.figures.prediction import prediction_figure

    record = Record("ntktune.cli.figures:prediction", args)
    rates = own_table(args.table1, PREDICTION_COLUMNS)
    words = ("task", "kind", "error_measure")
    numbers = [name for name in PREDICTION_COLUMNS if name not in words]
    rates = numeric(rates, numbers, args.table1)
    facts = {summary["task"]: summary for summary in map(_summary, args.summaries)}
    titles = task_titles(
        {task: task_facts(summary.get("provenance", {})) for task, summary in facts.items()}
    )
    write_figure(prediction_figure(rates, args.colors, titles), args, record)


def epochs(args: argparse.Namespace) -> None:
    """Draw the test error after each epoch of trainings without early stopping."""
    from ntktune.figures.epochs import epochs_figure

    record = Record("ntktune.cli.figures:epochs", args)
    columns = ("seed", "epoch", "holdout_loss", *ERROR_COLUMNS)
    history, facts = tables_of_tasks(args.histories, columns, "--histories")
    history = numeric(history, ("epoch", "holdout_loss", *ERROR_COLUMNS), "--histories")
    write_figure(epochs_figure(history, args.tasks, args.color, task_titles(facts)), args, record)


def simulation(args: argparse.Namespace) -> None:
    """Draw the simulation on a known target: the four stopping rules' errors, and the radii."""
    from ntktune.figures.simulation import simulation_figure

    record = Record("ntktune.cli.figures:simulation", args)
    errors, _ = checked_table(args.errors, ("n", "rule", "error", "error_stderr", "repeats"))
    radii, _ = checked_table(args.radii, RADII_COLUMNS)
    write_figure(simulation_figure(errors, radii, args.colors), args, record)


def _orders(paths: list[str], tasks: Iterable[str]) -> dict[str, np.ndarray]:
    """Read task → the order in which each of its seeds takes training rows, (seeds, rows)."""
    import numpy as np

    found = {}
    for path in paths:
        subsets = read_json(path)
        check_names(path, subsets, ("seeds", "provenance"), "keys")
        task = task_facts(subsets["provenance"]).get("name")
        found[task] = np.array([seed["order"] for seed in subsets["seeds"]])
    check_names("--subsets", found, tasks, "tasks")
    return found


def table1(args: argparse.Namespace) -> None:
    """Write table 1: decay exponents, the rates they predict, and the measured ones."""
    from ntktune.figures.table1 import decay_table

    record = Record("ntktune.cli.figures:table1", args)
    summaries = [_summary(path) for path in args.summaries]
    metrics, facts = _metrics(args.metrics, SCORE_COLUMNS)
    table = decay_table(summaries, metrics, _orders(args.subsets, facts))
    write_csv(args.out, table, _made(args, record))


def table2(args: argparse.Namespace) -> None:
    """Write table 2: the theory's stopping time beside the hold-out's."""
    from ntktune.figures.table2 import stopping_table

    record = Record("ntktune.cli.figures:table2", args)
    stopping = _stopping(args)
    metrics, _ = _metrics(args.metrics, STEP_COLUMNS)
    write_csv(args.out, stopping_table(stopping, metrics), _made(args, record))


def table4(args: argparse.Namespace) -> None:
    """Write table 4: the test scores of every task and sample size."""
    from ntktune.figures.table4 import SCORES, score_table

    record = Record("ntktune.cli.figures:table4", args)
    metrics, _ = _metrics(args.metrics, [name for names in SCORES.values() for name in names])
    write_csv(args.out, score_table(metrics), _made(args, record))


def _draw_fits(summaries: list[dict[str, Any]], fit_paths: list[str]) -> dict[str, pd.DataFrame]:
    """Read task → the fits of its draws; fits come in the order of the summaries."""
    if len(fit_paths) != len(summaries):
        raise UserError(
            f"--summaries has {len(summaries)} files and --fits has {len(fit_paths)}; give one of "
            "each per task, in the same order"
        )
    pairs = zip(summaries, fit_paths, strict=True)
    return {summary["task"]: _fits(path, summary) for summary, path in pairs}


def _exponents(fits: pd.DataFrame) -> np.ndarray:
    """Return the exponents of a task's draws, fitted to all eigenvalues."""
    return fits.loc[fits["range"] == "1..n", "exponent"].to_numpy()


def _fits(path: str, summary: dict[str, Any]) -> pd.DataFrame:
    """Read the fits that a summary is about; those of another task are refused."""
    import numpy as np

    fits, _ = checked_table(path, FIT_COLUMNS)
    values, stated = _exponents(fits), summary["exponent"]["mean"]
    if len(values) == 0 or not np.isclose(values.mean(), stated, rtol=1e-6):
        raise UserError(
            f"{path} does not belong to the summary of task {summary['task']!r}: its mean exponent "
            f"over 1..n is not {stated:.6g}; give that task's fits, in the order of the summaries"
        )
    return fits


def show(args: argparse.Namespace) -> None:
    """Print the examples needed, rates and tested claims of a study, and where its figures are."""
    from ntktune.figures.overview import overview

    folder = Path(args.folder)
    figures = folder / "figures"
    if not figures.is_dir():
        raise not_there(figures, "run the study first, or name its folder, as results/quickstart")
    if (figures / "verdicts.csv").is_file():  # made of table 1; a study need not have them
        columns = ("task", "metric", "seeds", "exponent", "r_squared", "predicted_rate")
        columns += ("measured_exponent", "best_score", "best_score_sd", "best_size", "needed")
        columns += ("needed_low", "needed_high", "needed_undecided", "needed_bound")
        rates = own_table(figures / "table1.csv", columns)
        claims = own_table(figures / "verdicts.csv", ("group", "claim", "verdict"))
        print(f"\n{overview(rates, claims)}\n")
    print(f"figures and tables  {figures}")
    if (folder / "report.html").is_file():
        print(f"report              {folder / 'report.html'}")


def _optional(path: str | None, columns: Iterable[str]) -> pd.DataFrame:
    """Read a table that a study may lack; it then has no rows."""
    import pandas as pd

    return pd.DataFrame(columns=list(columns)) if path is None else checked_table(path, columns)[0]


def _of_some_tasks(
    paths: list[str], columns: Iterable[str], option: str, *, kinds: bool = True
) -> pd.DataFrame:
    """Read one table per task, of which a study may have none: then it has no rows."""
    import pandas as pd

    if not paths:
        return pd.DataFrame(columns=[*columns, "task", "kind"])
    return tables_of_tasks(paths, columns, option, kinds=kinds)[0]


def verdicts(args: argparse.Namespace) -> None:
    """Write the verdicts: the paper's claims, each with its statistic on this study."""
    from ntktune.figures.table5 import rules_table
    from ntktune.figures.table6 import linear_table
    from ntktune.figures.theory_verdicts import by_seed, theory_rows
    from ntktune.figures.verdicts import verdict_table

    record = Record("ntktune.cli.figures:verdicts", args)
    summaries = [_summary(path) for path in args.summaries]
    metrics, _ = _metrics(args.metrics, (*SCORE_COLUMNS, *STEP_COLUMNS))
    rates = own_table(args.table1, RATE_COLUMNS)
    lists = [
        _of_some_tasks(getattr(args, name), columns, f"--{name}")
        for name, columns in THEORY_COLUMNS.items()
    ]
    theory = theory_rows(
        rules=by_seed(rules_table, *lists[:2]),
        linear=by_seed(linear_table, *lists[2:]),
        untuned=_untuned(args.untuned),
        metrics=metrics,
        radii=_optional(args.radii, RADII_COLUMNS),
        slopes=_optional(args.slopes, SLOPE_COLUMNS),
        shared=rates.set_index("task")["shared_seeds"],
    )
    table = verdict_table(
        rates=rates,
        fits=_draw_fits(summaries, args.fits),
        metrics=metrics,
        stopping=_stopping(args),
        cosine=_optional(args.cosine, COSINE_COLUMNS),
        merged=_optional(args.merged, MERGED_COLUMNS),
        negated=_optional(args.negated, NEGATED_COLUMNS),
        theory=theory,
    )
    write_csv(args.out, table, _made(args, record))


def _add_inputs(
    parser: argparse.ArgumentParser, *flags: str, one_task: bool = False, required: bool = True
) -> None:
    """Add the options that name files to read; with ``one_task`` each takes one file."""
    lists = {
        "--metrics": "fine-tuning metrics (metrics.parquet) of every task and size",
        "--summaries": "spectrum summaries (summary.json), one per task",
        "--fits": "decay fits (decay.parquet), one per task, in the order of --summaries",
        "--stopping": "stopping times (stopping.parquet), one file per task",
        "--histories": "evaluations with test metrics (history.parquet), one file per task",
        "--subsets": "samples of each seed (subsets.json), one file per task",
    }
    single = {
        "--eigenvalues": "the task's eigenvalues (eigenvalues.parquet)",
        "--fits": "the task's decay fits (decay.parquet)",
        "--summary": "the task's spectrum summary (summary.json)",
        "--cosine": "cosines between task vectors (cosine.parquet)",
        "--merged": "scores of merged models (merged.parquet)",
        "--negated": "scores of negated models (negated.parquet)",
        "--table1": "table 1 (table1.csv)",
        "--errors": "errors of the stopping rules (simulation.parquet)",
        "--radii": "critical radii of power laws (radii.parquet)",
        "--slopes": "slopes over networks' widths (slopes.parquet)",
    }
    for flag in flags:
        if flag in lists and not one_task:
            parser.add_argument(
                flag, required=required, nargs="+", metavar="FILE", help=lists[flag]
            )
        else:
            parser.add_argument(flag, required=required, metavar="FILE", help=single[flag])


def _add_untuned(parser: argparse.ArgumentParser) -> None:
    what = "predictions without fine-tuning (baselines.parquet), one file per task"
    parser.add_argument("--untuned", nargs="+", default=[], metavar="FILE", help=what)


def _add_table(parser: argparse.ArgumentParser) -> None:
    """Add the option of a table."""
    parser.add_argument("--out", required=True, metavar="FILE", help="the CSV file to write")


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the verbs of this chapter."""
    from ntktune.cli import figures_taskvectors, figures_theory

    figures_theory.add_commands(verbs)
    figures_taskvectors.add_commands(verbs)
    for run in (fig2, fig10):
        parser = add_command(verbs, run.__name__, run)
        _add_inputs(parser, "--metrics")
        if run is fig2:
            _add_untuned(parser)
        add_drawing(parser, tasks=True, color=True)

    parser = add_command(verbs, "prediction", prediction)
    _add_inputs(parser, "--table1", "--summaries")
    add_drawing(parser, tasks=False, color=False)
    what = "colours of regressions and classifications"
    default = ["#0072B2", "#D55E00"]
    parser.add_argument("--colors", nargs=2, default=default, metavar="HEX", help=what)

    parser = add_command(verbs, "epochs", epochs)
    _add_inputs(parser, "--histories")
    add_drawing(parser, tasks=True, color=True)

    parser = add_command(verbs, "simulation", simulation)
    _add_inputs(parser, "--errors", "--radii", one_task=True)
    add_drawing(parser, tasks=False, color=False)
    what = "colours of the rules theory, hold-out, SURE and oracle"
    default = ["#0072B2", "#D55E00", "#009E73", "#444444"]
    parser.add_argument("--colors", nargs=4, default=default, metavar="HEX", help=what)

    parser = add_command(verbs, "decay", decay)
    _add_inputs(parser, "--eigenvalues", "--fits", "--summary", one_task=True)
    add_drawing(parser, tasks=False, color=True)

    parser = add_command(verbs, "table1", table1)
    _add_inputs(parser, "--summaries", "--metrics", "--subsets")
    _add_table(parser)

    parser = add_command(verbs, "table2", table2)
    _add_inputs(parser, "--stopping", "--metrics")
    _add_table(parser)

    parser = add_command(verbs, "table4", table4)
    _add_inputs(parser, "--metrics")
    _add_table(parser)

    parser = add_command(verbs, "show", show)
    parser.add_argument("--folder", required=True, help="results of a study, as results/quickstart")

    parser = add_command(verbs, "verdicts", verdicts)
    _add_inputs(parser, "--table1", "--summaries", "--fits", "--metrics")
    # a study need not have the chapter theory, merge tasks, predict by kernels or watch a training
    _add_inputs(parser, "--cosine", "--merged", "--negated", required=False)
    _add_inputs(parser, "--radii", "--slopes", required=False)
    lists = {"stopping": "stopping times (stopping.parquet)"} | THEORY_LISTS
    for name, what in lists.items():
        what += ", one file per task, or none"
        parser.add_argument(f"--{name}", nargs="*", default=[], metavar="FILE", help=what)
    _add_untuned(parser)
    _add_table(parser)
