"""The tables that figures and tables are made of: where they stand, their columns, reading them.

Each is declared once, in :data:`TABLES`. A table's name is that of its file; commands take it as
an option, drawing functions as a parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ntktune.errors import UserError, check_names, not_there
from ntktune.store.records import read_csv, read_json, read_table

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("regression", "classification")


class Table(NamedTuple):
    """One kind of table.

    ``file`` is its place in a study's results; in braces what there is a file for: ``{task}``,
    and :data:`ntktune.figures.catalogue.PLACES`. ``about`` says in a few words what it holds.
    Columns ``kept`` stay as they are (of a JSON file its keys), ``numbers`` become floating point.
    ``lists`` is which of a study's tasks have one; ``of_task`` whether the columns ``task`` and
    ``kind`` come from the file's provenance; ``one`` are columns whose values no two files may
    share.
    """

    file: str
    about: str
    kept: str
    numbers: str = ""
    lists: str = "tasks"
    of_task: bool = False
    one: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Names of all columns."""
        return [*self.kept.split(), *self.numbers.split()]


def _of_task(file: str, about: str, kept: str, numbers: str = "", lists: str = "tasks") -> Table:
    """Return a table of which each task has one file, which says in its provenance whose it is."""
    about = f"{about}, one file per task"
    return Table(file, about, kept, numbers, lists, of_task=True, one=("task",))


SCORES = (
    "mse mse_unit baseline_mse noise_variance pearson spearman "
    "accuracy f1 cross_entropy baseline_accuracy baseline_f1 chance_accuracy"
)
TRAINED = "task kind metric method n seed at_budget"
NUMBERS = f"{SCORES} best_step sum_learning_rate"

# fmt: off
TABLES = {
    "metrics": Table("finetune/{task}/{method}/n{size}/metrics.parquet",
        "fine-tuning metrics, one file per task and size", TRAINED, NUMBERS, one=("task", "n")),
    "compared": Table("finetune/{task}/{compared}/n{size}/metrics.parquet",
        "those of other methods of fine-tuning", TRAINED, NUMBERS, one=("task", "method", "n")),
    "baselines": Table("finetune/{task}/baselines.parquet",
        "predictions without fine-tuning, one file per task",
        "task kind metric method n seed", SCORES, one=("task",)),
    "history": _of_task("finetune/{task}/fixed/n{fixed_size}/history.parquet",
        "evaluations without early stopping, with test metrics",
        "kind seed", f"epoch holdout_loss {SCORES}", lists="fixed"),
    "subsets": _of_task("data/{task}/subsets.json", "samples of each seed", "seeds test"),
    "eigenvalues": _of_task("spectrum/{task}/eigenvalues.parquet", "eigenvalues",
        "draw k", "eigenvalue centred"),
    "decay": _of_task("spectrum/{task}/decay.parquet", "decay fits",
        "draw range first last dropped", "exponent intercept r_squared exponential"),
    "summary": _of_task("spectrum/{task}/summary.json", "spectrum summaries",
        "n draws shared noise_floor exponent r_squared predicted_rate sensitivity"),
    "stopping": _of_task("theory/{task}/stopping.parquet", "stopping times",
        "draw n sigma_source radius_source",
        "sigma radius step_size critical_radius stopping_time eta"),
    "sensitivity": _of_task("theory/{task}/sensitivity.parquet", "stopping times by estimate",
        "kind draw sigma_source radius_source",
        "sigma_factor radius_factor sigma radius stopping_time eta"),
    "rules": _of_task("theory/{task}/rules.parquet", "stops of four rules",
        "kind seed n rule sigma_source", "time eta test_error start_error", lists="ruled"),
    "ridge": _of_task("theory/{task}/ridge.parquet", "descent beside ridge",
        "kind seed n", "eta distance_test error_descent error_ridge", lists="ruled"),
    "trajectory": _of_task("theory/{task}/trajectory.parquet", "evaluations of watched trainings",
        "kind n seed method best",
        "step eta train_loss distance linear_gap kernel_gap error error_linear start_error loss "
        "loss_linear start_loss drift drift_frobenius alignment exponent start_exponent",
        lists="watched"),
    "trajectory_ridge": _of_task("theory/{task}/trajectory_ridge.parquet",
        "networks at ridge solutions", "kind seed holdout",
        "gap error_network error_ridge", lists="watched"),
    "stops": _of_task("theory/{task}/stops.parquet", "stops on one clock", "kind seed",
        "step_size theory operator_crossing operator_minimiser kernel_holdout network_holdout "
        "network_steps", lists="watched"),
    "held": _of_task("linearized/{task}/hold.parquet", "trainings with a penalty",
        "kind n seed selective best",
        "share ridge step distance bound linear_gap drift error error_linear error_solution "
        "start_error loss loss_linear loss_solution start_loss", lists="held"),
    "radius": _of_task("linearized/{task}/radius.parquet", "the Jacobian's change by distance",
        "kind n seed draw", "radius lipschitz", lists="held"),
    "sets": _of_task("linearized/{task}/sets.parquet", "what kernels of sets of layers say",
        "layers", "parameters condition largest trace gcv gcv_ridge gcv_layers "
        "evidence alignment all_residual all_residual_low all_residual_high all_largest_low "
        "all_largest_high", lists="layered"),
    "layers": _of_task("linearized/{task}/layers.parquet", "what kernels of layers say",
        "block layer", "parameters trace alignment", lists="layered"),
    "tuned": _of_task("linearized/{task}/tune.parquet", "trainings of sets of layers",
        "metric method layers n seed at_budget",
        f"{NUMBERS} learning_rate holdout_loss", lists="layered"),
    "curves": _of_task("selection/{task}/curves.parquet", "fine-tunings of candidates",
        "metric method model pooling n seed at_budget", f"{NUMBERS} flops", lists="selected"),
    "scores": _of_task("selection/{task}/scores.parquet", "scores of candidates before training",
        "model pooling kernel seed",
        "texts weights tokens probe low high parc gcv evidence alignment nearest h_score n_leep "
        "trans_rate gaussian_overlap sfda remaining stop", lists="selected"),
    "benchmark": _of_task("advise/{task}/benchmark.parquet", "what pilots predict",
        "kernel way draw repeat", "pilot n base error error_low error_high true score score_low "
        "score_high", lists="advised"),
    "exponents": _of_task("advise/{task}/exponents.parquet", "exponents of a kernel and its task",
        "draw", "decay source rate", lists="advised"),
    "cosine": Table("taskvectors/cosine.parquet", "cosines between task vectors",
        "pair task_a run_a task_b run_b group", "cosine shared", lists="merged"),
    "merged": Table("taskvectors/merged.parquet", "scores of merged models",
        "merged seed task kind metric choice",
        "coefficient pretrained single merged_score normalised normalised_clean rows leaked "
        "validation_rows", lists="merged"),
    "sweep": Table("taskvectors/sweep.parquet", "scores of merged models by coefficient",
        "merged seed task part", "coefficient normalised", lists="merged"),
    "negated": Table("taskvectors/negated.parquet", "scores of negated models",
        "target seed task kind metric part chosen",
        "coefficient score pretrained kept gap random_gap predicted_gap linear_score",
        lists="merged"),
    "overlap": Table("taskvectors/overlap.parquet", "test rows that other tasks were trained on",
        "task other seed", "sample_exact sample_normalised pool_exact pool_normalised",
        lists="merged"),
    "disentanglement": Table("taskvectors/disentanglement/{pair}.parquet",
        "disentanglement errors, one file per pair",
        "task_a task_b seed arm", "alpha_a alpha_b error", lists="merged",
        one=("task_a", "task_b")),
    "simulation": Table("theory/simulation.parquet",
        "errors of the stopping rules on a known target", "n rule", "error error_stderr repeats"),
    "radii": Table("theory/radii.parquet", "critical radii of power laws",
        "", "decay predicted measured"),
    "width": Table("theory/width.parquet", "networks of several widths",
        "width seed phase", "drift linear_gap distance"),
    "slopes": Table("theory/slopes.parquet", "slopes over networks' widths",
        "phase quantity networks", "slope low high"),
    "table1": Table("figures/table1.csv", "table 1",
        "task kind metric error_measure sizes seeds needed_undecided needed_bound",
        "shared_draws exponent exponent_low exponent_high r_squared predicted_rate predicted_low "
        "predicted_high shared_seeds measured_exponent measured_low measured_high slope_exponent "
        "needed needed_low needed_high best_gain best_score best_score_sd best_size test_rows"),
    "verdicts": Table("figures/verdicts.csv", "the verdicts", "group claim verdict"),
}
# fmt: on

Facts = dict[str, dict[str, Any]]  # task → what a file's provenance states of it


def task_facts(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file's provenance says of its task: at least a name, or nothing."""
    task = provenance.get("task") or {}
    return {"name": task} if isinstance(task, str) else task


def _read(path: str, spec: Table) -> tuple[pd.DataFrame, dict[str, Any], dict | None]:
    """Return one file as a checked table, what it states of its task, and a JSON file's content."""
    import pandas as pd

    document = None
    if path.endswith(".json"):
        document, table = read_json(path), pd.DataFrame(index=[0])
        check_names(path, document, [*spec.kept.split(), "provenance"], "keys")
        provenance = document["provenance"]
    elif path.endswith(".csv"):
        if not Path(path).is_file():
            made = f"make it with: ntktune figures table {Path(path).stem}, or run the study"
            raise not_there(path, made)
        table, provenance = read_csv(path), {}
    else:
        table, provenance = read_table(path)
    task = task_facts(provenance)
    if spec.of_task:
        if not task.get("name"):
            raise UserError(f"{path} does not say which task it is of; make it again")
        kind = {"kind": task["kind"]} if task.get("kind") else {}
        table = table.assign(task=task["name"], **kind)
    if not document:
        check_names(path, table.columns, spec.columns, "columns")
        if table.empty:
            raise UserError(f"{path} has no rows; make it again")
        for name in [*spec.numbers.split(), *{"n"} & set(table)]:
            numbers = pd.to_numeric(table[name], errors="coerce")
            wrong = table.loc[numbers.isna() & table[name].notna(), name]
            if len(wrong):
                raise UserError(
                    f"the column {name} of {path} holds {wrong.iloc[0]!r}, which is no number; "
                    "make its file again"
                )
            table[name] = numbers if name == "n" else numbers.astype(float)
    # table 1 states no kind of a task that was not fine-tuned
    if unknown := set(table["kind"].dropna() if "kind" in table else ()) - set(KINDS):
        allowed = " or ".join(KINDS)
        raise UserError(f"{path} has tasks of kind {min(unknown)!r}; it must be {allowed}")
    return table, task, document


def read_tables(
    name: str, paths: Sequence[str]
) -> tuple[pd.DataFrame | dict[str, dict[str, Any]], Facts]:
    """Read all files of one kind of table, a name of :data:`TABLES`, as one table.

    Returns the rows of all files, none without files, or of JSON files task → content; and the
    tasks' :data:`Facts`. Raises UserError if a file is damaged, lacks a column or a row, does not
    say which task it is of, holds text where a number belongs, or what another one holds, too.
    """
    import pandas as pd

    spec, facts, seen = TABLES[name], {}, set()
    tables, documents = [], {}
    for path in map(str, paths):
        table, task, document = _read(path, spec)
        if document:
            documents[task["name"]] = document
        facts |= dict.fromkeys(table.get("task", pd.Series(dtype=object)).unique(), task)
        found = set(table[list(spec.one)].itertuples(index=False, name=None)) if spec.one else set()
        if found & seen:
            pairs = zip(spec.one, min(found & seen), strict=True)
            twice = ", ".join(f"{column} {value!r}" for column, value in pairs)
            raise UserError(
                f"--{name.replace('_', '-')} holds {twice} more than once; give each file once"
            )
        seen |= found
        tables.append(table)
    if spec.file.endswith(".json"):
        return documents, facts
    types = dict.fromkeys(spec.numbers.split(), float) | dict.fromkeys({"n"} & {*spec.columns}, int)
    none = pd.DataFrame(columns=[*spec.columns, *["task"] * spec.of_task])
    every = tables or [none.astype(types)]
    return pd.concat(every, ignore_index=True), facts


def check_same_tasks(**tables: pd.DataFrame | Mapping[str, Any]) -> None:
    """Raise UserError if tables, by name, are not of the same tasks."""
    listed = {k: v if isinstance(v, Mapping) else v["task"] for k, v in tables.items()}
    tasks = {name: set(own) for name, own in listed.items()}
    every = set.union(*tasks.values())
    for name, own in tasks.items():
        if own != every:
            raise UserError(
                f"{name} lacks the task {min(every - own)!r}, which another table has; give the "
                "same tasks to all"
            )
