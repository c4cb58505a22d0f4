"""The commands of the chapter figures: figures, tables and verdicts, from tables only.

Each command imports its own figure's module inside its function: a rule's digest of
the code follows those imports, so that editing one figure redraws that figure only.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntktune.artifacts import (
    Record,
    atomic_path,
    file_sha256,
    read_json,
    read_table,
    write_csv,
    write_json,
)
from ntktune.cli import add_command
from ntktune.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

ERROR_COLUMNS = ("mse", "baseline_mse", "noise_variance", "accuracy", "baseline_accuracy")
SCORE_COLUMNS = (*ERROR_COLUMNS, "pearson")
F1_COLUMNS = ("f1", "baseline_f1")
STEP_COLUMNS = ("best_step", "sum_learning_rate")
COSINE_COLUMNS = ("task_a", "task_b", "cosine")
MERGED_COLUMNS = (
    "merged",
    "task",
    "kind",
    "metric",
    "coefficient",
    "pretrained",
    "single",
    "merged_score",
    "normalised",
)
FIT_COLUMNS = (
    "draw",
    "range",
    "first",
    "last",
    "exponent",
    "intercept",
    "r_squared",
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
    "needed",
)
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
)
SUMMARY_KEYS = (
    "task",
    "n",
    "draws",
    "noise_floor",
    "exponent",
    "r_squared",
    "predicted_rate",
    "sensitivity",
)


def _check_names(path: str, found: Iterable[str], wanted: Iterable[str], what: str) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UserError(
            f"{path} lacks the {what} {', '.join(missing)}; it is of another kind or was made by "
            "another version: give the right file, or make it again"
        )


def _table(path: str, columns: Iterable[str]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read one table and check that it has rows and the columns that are needed."""
    table, provenance = read_table(path)
    _check_names(path, table.columns, columns, "columns")
    if table.empty:
        raise UserError(f"{path} has no rows; make it again")
    return table, provenance


def _numbers(table: pd.DataFrame, columns: Iterable[str], where: str) -> pd.DataFrame:
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


def _task_facts(provenance: dict[str, Any]) -> dict[str, Any]:
    """Return what an artifact's provenance says of its task: at least a name, or nothing."""
    task = provenance.get("task") or {}
    return {"name": task} if isinstance(task, str) else task


def _metrics(
    paths: list[str], columns: Iterable[str]
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """Read the fine-tuning metrics of many tasks and sizes as one table.

    Also return task → what its provenance states of it (title, score range).
    """
    import pandas as pd

    tables, facts = [], {}
    for path in paths:
        table, provenance = _table(path, ("task", "kind", "n", "seed", *columns))
        unknown = sorted(set(table["kind"]) - {"regression", "classification"})
        if unknown:
            raise UserError(
                f"{path} has tasks of kind {unknown[0]!r}; it must be regression or classification"
            )
        tables.append(table)
        for task in table["task"].unique():
            facts[task] = _task_facts(provenance)
    metrics = pd.concat(tables, ignore_index=True)
    metrics = _numbers(metrics, (*columns, "n"), "--metrics")
    repeated = metrics[metrics.duplicated(["task", "n", "seed"])]
    if len(repeated):
        task, n, seed = repeated.iloc[0][["task", "n", "seed"]]
        raise UserError(
            f"--metrics holds task {task!r}, n = {n}, seed {seed} more than once; give each file "
            "once"
        )
    return metrics, facts


def _untuned(paths: list[str]) -> pd.DataFrame:
    """Read the predictions without fine-tuning of many tasks as one table."""
    import pandas as pd

    columns = ("task", "kind", "method", "n", "seed", *ERROR_COLUMNS)
    tables = [_table(path, columns)[0] for path in paths]
    return _numbers(pd.concat(tables, ignore_index=True), ERROR_COLUMNS, "--untuned")


def _titles(facts: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return task → title, for the tasks whose provenance states one."""
    return {task: stated["title"] for task, stated in facts.items() if stated.get("title")}


def _summary(path: str) -> dict[str, Any]:
    """Read one summary of a spectrum."""
    summary = read_json(path)
    _check_names(path, summary, SUMMARY_KEYS, "keys")
    return summary


def _stopping(paths: list[str]) -> pd.DataFrame:
    """Read the stopping times of many tasks as one table with a column ``task``."""
    import pandas as pd

    tables = []
    for path in paths:
        table, provenance = _table(path, STOPPING_COLUMNS)
        name = _task_facts(provenance).get("name")
        if not name:
            raise UserError(f"{path} does not say which task it is of; make it again")
        tables.append(table.assign(task=name))
    return pd.concat(tables, ignore_index=True)


def _inputs(args: argparse.Namespace) -> dict[str, str]:
    """Return the files that a command reads, each with its SHA-256, for the provenance."""
    given = (v for k, v in vars(args).items() if not k.startswith("_") and k != "out")
    listed = (v if isinstance(v, list) else [v] for v in given)
    paths = [v for values in listed for v in values if isinstance(v, str)]
    return {path: file_sha256(path) for path in paths if Path(path).is_file()}


def _write_figure(figure: Figure, args: argparse.Namespace, record: Record) -> None:
    """Write a figure in the formats asked for, with its provenance beside it as JSON.

    It stands beside it, not inside: wall times would make equal figures unequal files.
    """
    from ntktune.figures.style import figure_bytes

    contents = {path: figure_bytes(figure, Path(path).suffix[1:], args.dpi) for path in args.out}
    for path, content in contents.items():
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    for sidecar in sorted({Path(path).with_suffix(".json") for path in args.out}):
        write_json(sidecar, {}, record.provenance(inputs=_inputs(args)))


def fig2(args: argparse.Namespace) -> None:
    """Draw figure 2: test error against the number of labelled examples, one panel per task."""
    from ntktune.figures.fig2 import learning_curve_figure

    record = Record("ntktune.cli.figures:fig2", args)
    metrics, facts = _metrics(args.metrics, ERROR_COLUMNS)
    untuned = _untuned(args.untuned) if args.untuned else None
    titles = _titles(facts)
    for task, stated in facts.items():
        if stated.get("kind") == "regression" and stated.get("score_range"):
            low, high = (f"{bound:g}".replace("-", "−") for bound in stated["score_range"])
            titles[task] = f"{titles.get(task, task)}, scores {low} to {high}"
    figure = learning_curve_figure(metrics, args.tasks, args.color, titles, untuned)
    _write_figure(figure, args, record)


def fig3(args: argparse.Namespace) -> None:
    """Draw figure 3: cosines between task vectors, and merged models against single ones."""
    from ntktune.figures.fig3 import task_vector_figure

    record = Record("ntktune.cli.figures:fig3", args)
    cosine, _ = _table(args.cosine, COSINE_COLUMNS)
    merged, _ = _table(args.merged, MERGED_COLUMNS)
    figure = task_vector_figure(cosine, merged, args.tasks, args.colormap, args.colors)
    _write_figure(figure, args, record)


def decay(args: argparse.Namespace) -> None:
    """Draw one of figures 4-9: one task's eigenvalues and the power law fitted to them."""
    from ntktune.figures.decay import decay_figure

    record = Record("ntktune.cli.figures:decay", args)
    eigenvalues, _ = _table(args.eigenvalues, ("draw", "k", "eigenvalue"))
    fits, _ = _table(args.fits, FIT_COLUMNS)
    summary = _summary(args.summary)
    title = _task_facts(summary.get("provenance", {})).get("title") or summary["task"]
    figure = decay_figure(eigenvalues, fits, summary["noise_floor"], title, args.color)
    _write_figure(figure, args, record)


def fig10(args: argparse.Namespace) -> None:
    """Draw figure 10: F1 score against labelled examples, one panel per classification task."""
    from ntktune.figures.fig10 import f1_figure

    record = Record("ntktune.cli.figures:fig10", args)
    metrics, facts = _metrics(args.metrics, F1_COLUMNS)
    figure = f1_figure(metrics, args.tasks, args.color, _titles(facts))
    _write_figure(figure, args, record)


def prediction(args: argparse.Namespace) -> None:
    """Draw what the kernel predicts against what fine-tuning shows, a point per task."""
    from ntktune.figures.prediction import prediction_figure

    record = Record("ntktune.cli.figures:prediction", args)
    rates = _csv(args.table1, PREDICTION_COLUMNS)
    words = ("task", "kind", "error_measure")
    numbers = [name for name in PREDICTION_COLUMNS if name not in words]
    rates = _numbers(rates, numbers, args.table1)
    facts = {summary["task"]: summary for summary in map(_summary, args.summaries)}
    titles = _titles(
        {task: _task_facts(summary.get("provenance", {})) for task, summary in facts.items()}
    )
    _write_figure(prediction_figure(rates, args.colors, titles), args, record)


def epochs(args: argparse.Namespace) -> None:
    """Draw the test error after each epoch of trainings without early stopping."""
    import pandas as pd

    from ntktune.figures.epochs import epochs_figure

    record = Record("ntktune.cli.figures:epochs", args)
    tables, facts = [], {}
    for path in args.histories:
        table, provenance = _table(path, ("seed", "epoch", "holdout_loss", *ERROR_COLUMNS))
        task = _task_facts(provenance)
        if task.get("kind") not in ("regression", "classification") or not task.get("name"):
            raise UserError(
                f"{path} does not say which task it is of, and of what kind; make it again"
            )
        if task["name"] in facts:
            raise UserError(f"--histories holds task {task['name']!r} more than once; give it once")
        facts[task["name"]] = task
        tables.append(table.assign(task=task["name"], kind=task["kind"]))
    history = pd.concat(tables, ignore_index=True)
    history = _numbers(history, ("epoch", "holdout_loss", *ERROR_COLUMNS), "--histories")
    _write_figure(epochs_figure(history, args.tasks, args.color, _titles(facts)), args, record)


def simulation(args: argparse.Namespace) -> None:
    """Draw the simulation on a known target: the four stopping rules' errors, and the radii."""
    from ntktune.figures.simulation import simulation_figure

    record = Record("ntktune.cli.figures:simulation", args)
    errors, _ = _table(args.errors, ("n", "rule", "error", "error_stderr", "repeats"))
    radii, _ = _table(args.radii, ("decay", "predicted", "measured"))
    _write_figure(simulation_figure(errors, radii, args.colors), args, record)


def _samples(args: argparse.Namespace) -> int:
    """Return the number of bootstrap samples that was asked for."""
    if args.bootstrap < 1:
        raise UserError(f"--bootstrap {args.bootstrap} draws no sample; give 1000, say")
    return args.bootstrap


def table1(args: argparse.Namespace) -> None:
    """Write table 1: decay exponents, the rates they predict, and the measured ones."""
    from ntktune.figures.table1 import decay_table

    record = Record("ntktune.cli.figures:table1", args)
    summaries = [_summary(path) for path in args.summaries]
    metrics, _ = _metrics(args.metrics, SCORE_COLUMNS)
    table = decay_table(summaries, metrics, args.seed, _samples(args))
    write_csv(args.out, table, record.provenance(inputs=_inputs(args), seeds={"root": args.seed}))


def table2(args: argparse.Namespace) -> None:
    """Write table 2: the theory's stopping time beside the hold-out's."""
    from ntktune.figures.table2 import stopping_table

    record = Record("ntktune.cli.figures:table2", args)
    stopping = _stopping(args.stopping)
    metrics, _ = _metrics(args.metrics, STEP_COLUMNS)
    write_csv(args.out, stopping_table(stopping, metrics), record.provenance(inputs=_inputs(args)))


def table3(args: argparse.Namespace) -> None:
    """Write table 3: merged models against single-task models."""
    from ntktune.figures.table3 import merging_table

    record = Record("ntktune.cli.figures:table3", args)
    cosine, _ = _table(args.cosine, COSINE_COLUMNS)
    merged, _ = _table(args.merged, MERGED_COLUMNS)
    write_csv(args.out, merging_table(cosine, merged), record.provenance(inputs=_inputs(args)))


def table4(args: argparse.Namespace) -> None:
    """Write table 4: the test scores of every task and sample size."""
    from ntktune.figures.table4 import SCORES, score_table

    record = Record("ntktune.cli.figures:table4", args)
    metrics, _ = _metrics(args.metrics, [name for names in SCORES.values() for name in names])
    write_csv(args.out, score_table(metrics), record.provenance(inputs=_inputs(args)))


def _draw_exponents(summaries: list[dict[str, Any]], fit_paths: list[str]) -> dict[str, np.ndarray]:
    """Read task → the decay exponents of its draws; fits come in the order of the summaries."""
    import numpy as np

    if len(fit_paths) != len(summaries):
        raise UserError(
            f"--summaries has {len(summaries)} files and --fits has {len(fit_paths)}; give one of "
            "each per task, in the same order"
        )
    exponents = {}
    for summary, path in zip(summaries, fit_paths, strict=True):
        fits, _ = _table(path, FIT_COLUMNS)
        values = fits.loc[fits["range"] == "1..n", "exponent"].to_numpy()
        stated = summary["exponent"]["mean"]
        if len(values) == 0 or not np.isclose(values.mean(), stated, rtol=1e-6):
            raise UserError(
                f"{path} does not belong to the summary of task {summary['task']!r}: its mean "
                f"exponent over 1..n is not {stated:.6g}; give --fits in the order of --summaries"
            )
        exponents[summary["task"]] = values
    return exponents


def _csv(path: str | Path, columns: Iterable[str]) -> pd.DataFrame:
    """Read one of this chapter's own tables."""
    import pandas as pd

    if not Path(path).is_file():
        raise UserError(
            f"{path} does not exist; make it with: ntktune figures {Path(path).stem}, or run "
            "the study"
        )
    try:
        table = pd.read_csv(path)
    except ValueError as error:
        raise UserError(f"{path} is no table ({error}); make it again") from None
    _check_names(str(path), table.columns, columns, "columns")
    return table


def show(args: argparse.Namespace) -> None:
    """Print where a study's figures are, and its rates and verdicts in a few lines."""
    from ntktune.figures.overview import overview

    folder = Path(args.folder)
    columns = ("task", "exponent", "r_squared", "predicted_rate", "measured_exponent")
    rates = _csv(folder / "figures" / "table1.csv", columns)
    claims = _csv(folder / "figures" / "verdicts.csv", ("claim", "verdict"))
    print(f"\n{overview(rates, claims)}\n")
    print(f"figures and tables  {folder / 'figures'}")
    if (folder / "report.html").is_file():
        print(f"report              {folder / 'report.html'}")


def _optional(path: str | None, columns: Iterable[str]) -> pd.DataFrame:
    """Read a table that a study may lack; it then has no rows."""
    import pandas as pd

    return pd.DataFrame(columns=list(columns)) if path is None else _table(path, columns)[0]


def verdicts(args: argparse.Namespace) -> None:
    """Write the verdicts: the paper's claims, each with its statistic on this study."""
    from ntktune.figures.verdicts import verdict_table

    record = Record("ntktune.cli.figures:verdicts", args)
    summaries = [_summary(path) for path in args.summaries]
    metrics, _ = _metrics(args.metrics, (*SCORE_COLUMNS, *STEP_COLUMNS))
    table = verdict_table(
        rates=_csv(args.table1, RATE_COLUMNS),
        exponents=_draw_exponents(summaries, args.fits),
        r_squared={summary["task"]: summary["r_squared"]["mean"] for summary in summaries},
        metrics=metrics,
        stopping=_stopping(args.stopping),
        cosine=_optional(args.cosine, COSINE_COLUMNS),
        merged=_optional(args.merged, MERGED_COLUMNS),
        seed=args.seed,
        resamples=_samples(args),
    )
    write_csv(args.out, table, record.provenance(inputs=_inputs(args), seeds={"root": args.seed}))


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
    }
    single = {
        "--eigenvalues": "the task's eigenvalues (eigenvalues.parquet)",
        "--fits": "the task's decay fits (decay.parquet)",
        "--summary": "the task's spectrum summary (summary.json)",
        "--cosine": "cosines between task vectors (cosine.parquet)",
        "--merged": "scores of merged models (merged.parquet)",
        "--table1": "table 1 (table1.csv)",
        "--errors": "errors of the stopping rules (simulation.parquet)",
        "--radii": "critical radii of power laws (radii.parquet)",
    }
    for flag in flags:
        if flag in lists and not one_task:
            parser.add_argument(flag, required=True, nargs="+", metavar="FILE", help=lists[flag])
        else:
            parser.add_argument(flag, required=required, metavar="FILE", help=single[flag])


def _add_drawing(parser: argparse.ArgumentParser, *, tasks: bool, color: bool) -> None:
    """Add the options that say what is drawn, how, and where to."""
    if tasks:
        what = "tasks to draw, in order"
        parser.add_argument("--tasks", required=True, nargs="+", metavar="NAME", help=what)
    if color:
        parser.add_argument("--color", default="#0072B2", metavar="HEX", help="colour of the data")
    parser.add_argument("--dpi", type=int, default=200, help="resolution of PNG files")
    what = "files to write; their endings, pdf, svg or png, say the formats"
    parser.add_argument("--out", required=True, nargs="+", metavar="FILE", help=what)


def _add_table(parser: argparse.ArgumentParser, *, bootstrap: bool) -> None:
    """Add the options of a table."""
    if bootstrap:
        parser.add_argument("--seed", type=int, default=0, help="the study's root seed")
        parser.add_argument("--bootstrap", type=int, default=2000, help="bootstrap samples")
    parser.add_argument("--out", required=True, metavar="FILE", help="the CSV file to write")


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the verbs of this chapter."""
    for run in (fig2, fig10):
        parser = add_command(verbs, run.__name__, run)
        _add_inputs(parser, "--metrics")
        if run is fig2:
            what = "predictions without fine-tuning (baselines.parquet), one file per task"
            parser.add_argument("--untuned", nargs="+", metavar="FILE", help=what)
        _add_drawing(parser, tasks=True, color=True)

    parser = add_command(verbs, "fig3", fig3)
    _add_inputs(parser, "--cosine", "--merged")
    _add_drawing(parser, tasks=True, color=False)
    what = "a diverging colour map of matplotlib"
    parser.add_argument("--colormap", default="PuOr", metavar="NAME", help=what)
    what = "colours of the single-task and the merged models"
    default = ["#0072B2", "#D55E00"]
    parser.add_argument("--colors", nargs=2, default=default, metavar="HEX", help=what)

    parser = add_command(verbs, "prediction", prediction)
    _add_inputs(parser, "--table1", "--summaries")
    _add_drawing(parser, tasks=False, color=False)
    what = "colours of regressions and classifications"
    default = ["#0072B2", "#D55E00"]
    parser.add_argument("--colors", nargs=2, default=default, metavar="HEX", help=what)

    parser = add_command(verbs, "epochs", epochs)
    _add_inputs(parser, "--histories")
    _add_drawing(parser, tasks=True, color=True)

    parser = add_command(verbs, "simulation", simulation)
    _add_inputs(parser, "--errors", "--radii", one_task=True)
    _add_drawing(parser, tasks=False, color=False)
    what = "colours of the rules theory, hold-out, SURE and oracle"
    default = ["#0072B2", "#D55E00", "#009E73", "#444444"]
    parser.add_argument("--colors", nargs=4, default=default, metavar="HEX", help=what)

    parser = add_command(verbs, "decay", decay)
    _add_inputs(parser, "--eigenvalues", "--fits", "--summary", one_task=True)
    _add_drawing(parser, tasks=False, color=True)

    parser = add_command(verbs, "table1", table1)
    _add_inputs(parser, "--summaries", "--metrics")
    _add_table(parser, bootstrap=True)

    parser = add_command(verbs, "table2", table2)
    _add_inputs(parser, "--stopping", "--metrics")
    _add_table(parser, bootstrap=False)

    parser = add_command(verbs, "table3", table3)
    _add_inputs(parser, "--cosine", "--merged")
    _add_table(parser, bootstrap=False)

    parser = add_command(verbs, "table4", table4)
    _add_inputs(parser, "--metrics")
    _add_table(parser, bootstrap=False)

    parser = add_command(verbs, "show", show)
    parser.add_argument("--folder", required=True, help="results of a study, as results/quickstart")

    parser = add_command(verbs, "verdicts", verdicts)
    _add_inputs(parser, "--table1", "--summaries", "--fits", "--metrics", "--stopping")
    # a study need not merge tasks
    _add_inputs(parser, "--cosine", "--merged", required=False)
    _add_table(parser, bootstrap=True)
