"""Tables 1-9: a study's numbers, one function per table.

Inputs are the tables of :mod:`ntktune.figures.tables`, by name. A table's caption says what its
columns are. Unless said otherwise there a column is a mean over seeds or draws, and
``<column>_sd`` the standard deviation (NaN of one).
"""

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from ntktune.errors import UserError, check_names
from ntktune.figures.choice import STATISTICS, scored_sets
from ntktune.figures.cosines import DIFFERENT, cosine_summary, whole_cosines
from ntktune.figures.measures import kinds, nearest_runs
from ntktune.figures.needed import needed_size
from ntktune.figures.pilots import judged
from ntktune.figures.rates import SENSITIVITY, measured_exponent
from ntktune.figures.selected import CANDIDATE, choices, law_errors, with_loss
from ntktune.figures.tables import check_same_tasks
from ntktune.intervals import shared_rows
from ntktune.study.merges import FIXED, VALIDATED, full_coefficient, parts

DECIMALS = 4  # of scores of merged and negated models, and of cosines
SCORES = (
    *("mse", "mse_unit", "baseline_mse", "noise_variance", "pearson", "spearman"),
    *("accuracy", "f1", "cross_entropy", "baseline_accuracy", "baseline_f1", "chance_accuracy"),
)
MERGED = ("coefficient", "pretrained", "single", "merged_score", "normalised", "normalised_clean")
OVERLAPS = ("sample_exact", "sample_normalised", "pool_exact", "pool_normalised")
NEGATED = ("coefficient", "score", "pretrained", "kept", "gap", "predicted_gap", "linear_score")
ALONG = (
    *("eta", "distance", "linear_gap", "kernel_gap", "error", "drift", "drift_frobenius"),
    *("alignment", "exponent"),
)
HELD = (
    *("ridge", "distance", "bound", "linear_gap", "drift", "error", "error_linear"),
    *("error_solution", "start_error", "loss", "loss_linear", "loss_solution", "start_loss"),
)
STOPS = (
    *("step_size", "theory", "operator_crossing", "operator_minimiser", "kernel_holdout"),
    *("network_holdout", "network_steps"),
)


def _first(own: pd.DataFrame, *columns: str) -> dict[str, Any]:
    return {name: own[name].iloc[0] for name in columns}


def _spread(own: pd.DataFrame, columns: Iterable[str]) -> dict[str, float]:
    found = {}
    for name in columns:
        with np.errstate(invalid="ignore"):  # no deviation where a value is infinite
            found |= {name: own[name].mean(), f"{name}_sd": own[name].std()}
    return found


def _means(own: pd.DataFrame, columns: Iterable[str], prefix: str = "") -> dict[str, float]:
    return {f"{prefix}{name}": own[name].mean() for name in columns}


def _sources(own: pd.DataFrame) -> str:
    return " or ".join(sorted(set(own["sigma_source"])))


def study_table(
    summary: Mapping[str, Mapping[str, Any]],
    metrics: pd.DataFrame,
    subsets: Mapping[str, Mapping[str, Any]],
) -> pd.DataFrame:
    """Return Table 1: decay exponents, the rates they predict, and measured ones (SR26 eqs 29-32).

    One row per task. ``summary`` and ``subsets`` are task → content of its file; a seed's sample of
    n is the first n of its ``order``. Raises UserError if a task that was fine-tuned has no
    samples.
    """
    check_names("--subsets", subsets, metrics["task"].unique(), "tasks")
    kind, metric = kinds(metrics), kinds(metrics, "metric")
    rows = []
    for task, own in summary.items():
        exponent, rate = own["exponent"], own["predicted_rate"]
        row = {"task": task, "kind": kind.get(task, ""), "metric": metric.get(task, "")}
        row |= {"n": own["n"], "draws": own["draws"], "shared_draws": own["shared"]}
        row["exponent"] = exponent["mean"]
        row |= {f"exponent_{name}": exponent[name] for name in ("sd", "low", "high")}
        row |= {"omega": exponent["mean"] / 2, "r_squared": own["r_squared"]["mean"]}
        for column, ranks in SENSITIVITY.items():
            row[column] = own["sensitivity"].get(ranks, {}).get("mean", np.nan)
        row["predicted_rate"] = rate["mean"]
        row |= {f"predicted_{name}": rate[name] for name in ("low", "high")}
        if task in kind:
            runs = metrics[metrics["task"] == task]
            largest = runs[runs["n"] == runs["n"].max()]
            seeds = [subsets[task]["seeds"][seed] for seed in largest["seed"]]
            samples = [seed["order"][: runs["n"].max()] for seed in seeds]
            shared = shared_rows(np.array(samples))
            row |= {"shared_seeds": shared} | measured_exponent(runs, shared)
            row |= needed_size(runs, shared) | {"test_rows": len(subsets[task]["test"])}
        else:
            row["reason"] = "the task was not fine-tuned"
        rows.append(row)
    return pd.DataFrame(rows)


def stopping_table(stopping: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    """Return Table 2: when the theory stops, beside when the hold-out stops; one row per task.

    Raises UserError for a task that was not fine-tuned.
    """
    rows = []
    for task, draws in stopping.groupby("task", sort=False):
        runs = nearest_runs(metrics, task, draws["n"].iloc[0])
        row = {"task": task, "n": draws["n"].iloc[0], "draws": len(draws)}
        row |= {"sigma": draws["sigma"].mean(), "sigma_source": _sources(draws)}
        row |= {"radius": draws["radius"].mean()} | _first(draws, "radius_source")
        row |= _means(draws, ("step_size", "critical_radius"))
        row |= _spread(draws, ("stopping_time", "eta"))
        row |= {"holdout_n": runs["n"].iloc[0], "seeds": len(runs)}
        rows.append(row | _spread(runs, ("best_step", "sum_learning_rate")))
    return pd.DataFrame(rows)


def _shared(overlap: pd.DataFrame, task: str, others: list[str]) -> pd.Series:
    """Return the test rows of a task that other tasks have, summed over them, mean over seeds."""
    own = overlap[(overlap["task"] == task) & overlap["other"].isin(others)]
    if missing := [other for other in others if other not in set(own["other"])]:
        raise UserError(
            f"the overlaps hold no test rows of {task!r} in {missing[0]!r}; count those of all "
            "merged tasks"
        )
    return own.groupby("seed")[list(OVERLAPS)].sum().mean()


def merging_table(
    cosine: pd.DataFrame, merged: pd.DataFrame, overlap: pd.DataFrame
) -> pd.DataFrame:
    """Return Table 3: merged models against single-task models.

    Raises UserError if the overlap of two merged tasks is not there.
    """
    pairs = whole_cosines(cosine, DIFFERENT).itertuples()
    known = {frozenset((row.task_a, row.task_b)): row.mean for row in pairs}
    rows = []
    for (name, task, choice), own in merged.groupby(["merged", "task", "choice"], sort=False):
        row = {"merged": name, "cosine": known.get(frozenset(parts(name)), np.nan), "task": task}
        row |= _first(own, "kind", "metric") | {"choice": choice, "seeds": own["seed"].nunique()}
        row |= _spread(own, MERGED)
        row |= _means(own, ("rows", "leaked", "validation_rows"))
        others = [part for part in parts(name) if part != task]
        rows.append(row | _shared(overlap, task, others).to_dict())
    return pd.DataFrame(rows).round(DECIMALS)


def score_table(
    metrics: pd.DataFrame,
    compared: pd.DataFrame | None = None,
    baselines: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return Table 4: the test scores of every task, method and sample size.

    The methods of fine-tuning come first, then the ``baselines``, which are not fine-tuned.
    ``baseline_`` is the training mean's error, or the training majority's score; ``chance_`` that
    of guessing among the classes.
    """
    rows, every = [], pd.concat([metrics, compared, baselines])
    own = {*every["metric"]}  # others are of the other kind of tasks
    scores = [name for name in SCORES if name in own or every[name].notna().any()]
    for (task, method, n), runs in every.groupby(["task", "method", "n"], sort=False, dropna=False):
        row = {"task": task} | _first(runs, "kind", "metric") | {"method": method, "n": n}
        row["seeds"] = " ".join(str(seed) for seed in sorted(runs["seed"]))
        row |= _spread(runs, scores)
        if runs["at_budget"].notna().all():  # fine-tuned
            row |= {"at_start": (runs["best_step"] == 0).sum()}
            row |= {"at_budget": int(runs["at_budget"].sum())}  # of one row a bool
        rows.append(row)
    return pd.DataFrame(rows)


def rules_table(rules: pd.DataFrame, ridge: pd.DataFrame) -> pd.DataFrame:
    """Return Table 5: four stopping rules in the kernel model, and ridge beside early stopping.

    One row per task and sample size: ``start_error`` is that of f_0; ``never_error`` that at the
    end of descent's path, as if nothing stopped it; ``ridge_distance`` ‖f_t − f_ridge‖/‖f_t − f_0‖
    on the test rows at descent's best t >= 1 (SR26 eq 27).
    """
    check_same_tasks(rules=rules, ridge=ridge)
    table = []
    for (task, n), own in rules.groupby(["task", "n"], sort=False):
        path = ridge[(ridge["task"] == task) & (ridge["n"] == n)]
        best = path.loc[path.groupby("seed")["error_descent"].idxmin()]
        last = path.loc[path.groupby("seed")["eta"].idxmax()]
        row = {"task": task} | _first(own, "kind") | {"n": n, "seeds": own["seed"].nunique()}
        row |= {"sigma_source": _sources(own), "start_error": own["start_error"].mean()}
        for rule, stops in own.groupby("rule", sort=False):
            row |= {f"{rule}_steps": stops["time"].mean(), f"{rule}_eta": stops["eta"].mean()}
            row |= _spread(stops.rename(columns={"test_error": f"{rule}_error"}), [f"{rule}_error"])
        # no step at all is the largest ridge
        start = own.groupby("seed")["start_error"].first()
        lowest = np.minimum(path.groupby("seed")["error_ridge"].min(), start)
        row |= {"ridge_lowest": lowest.mean(), "never_error": last["error_descent"].mean()}
        table.append(row | {"ridge_distance": best["distance_test"].mean()})
    return pd.DataFrame(table)


def _share(gain: float, of: float) -> float:
    return gain / of if of > 0 else np.nan


def linear_table(
    trajectory: pd.DataFrame, trajectory_ridge: pd.DataFrame, stops: pd.DataFrame
) -> pd.DataFrame:
    """Return Table 6: the linear picture along real fine-tuning; one row per watched task.

    Measures are those of :class:`ntktune.theory.trajectory.Trajectory`, NaN for a gap of a network
    that did not move. ``gain``, the fall of AdamW's test loss as a share of that at the start, and
    ``gain_recovered`` are NaN where the loss does not fall; a stop is NaN where the drift is not
    known so far in some seed. ``network_turned`` is of all seeds.
    """
    check_same_tasks(trajectory=trajectory, trajectory_ridge=trajectory_ridge, stops=stops)
    rows = []
    for task, own in trajectory.groupby("task", sort=False):
        best = own[own["best"].astype(bool)]
        adamw, descent = (best[best["method"] == m] for m in ("adamw", "gradient-descent"))
        solution, stop = (table[table["task"] == task] for table in (trajectory_ridge, stops))
        solution = solution[solution["holdout"].astype(bool)]
        row = {"task": task} | _first(own, "kind", "n") | {"seeds": own["seed"].nunique()}
        row |= _means(adamw, ALONG, "adamw_") | _means(descent, ALONG, "descent_")
        start, tuned, linear = (adamw[c].mean() for c in ("start_loss", "loss", "loss_linear"))
        row |= _means(adamw, ("start_exponent", "start_error"))
        row["linear_error"] = adamw["error_linear"].mean()
        row["gain"] = _share(start - tuned, start)
        row["gain_recovered"] = _share(start - linear, start - tuned)
        row["ridge_error"] = solution["error_ridge"].mean()
        row["ridge_network_error"] = solution["error_network"].mean()
        row["ridge_gap"] = solution["gap"].mean()
        row |= {column: stop[column].mean(skipna=False) for column in STOPS}
        row["network_turned"] = bool((stop["network_holdout"] < stop["network_steps"]).all())
        rows.append(row)
    return pd.DataFrame(rows)


def sensitivity_table(sensitivity: pd.DataFrame) -> pd.DataFrame:
    """Return Table 7: what the stopping time owes to the estimates of noise and radius.

    One row per task and pair of estimates. Medians over draws, since a draw whose estimated noise
    is nearly zero stops after millions of steps.
    """
    keys = ["task", "sigma_source", "radius_source"]
    rows = []
    for (task, *sources), own in sensitivity.groupby(keys, sort=False):
        plain = own[(own["sigma_factor"] == 1) & (own["radius_factor"] == 1)]
        row = {"task": task, "draws": len(plain)} | dict(zip(keys[1:], sources, strict=True))
        row |= plain[["sigma", "radius", "stopping_time", "eta"]].median().to_dict()
        for name, (word, factor) in product(("sigma", "radius"), (("half", 0.5), ("twice", 2.0))):
            some = own.loc[own[f"{name}_factor"] == factor, "stopping_time"]
            row[f"{word}_{name}"] = some.median()
        rows.append(row)
    return pd.DataFrame(rows)


def held_table(held: pd.DataFrame, radius: pd.DataFrame) -> pd.DataFrame:
    """Return Table 10: fine-tuning held near its start, a row per task, penalty and its kind.

    Means over seeds at the hold-out's choice. ``beyond_bound`` is the largest ``distance`` over
    ``bound`` of all evaluations looked at; ``lipschitz`` the mean and the largest over draws, at
    the smallest radius.
    """
    rows = []
    for (task, share, selective), own in held.groupby(["task", "share", "selective"], sort=False):
        best = own[own["best"].astype(bool)]
        row = {"task": task} | _first(own, "kind", "n") | {"share": share, "selective": selective}
        row |= {"seeds": own["seed"].nunique()} | _means(best, HELD)
        row["beyond_bound"] = (own["distance"] / own["bound"]).max()
        near = radius[(radius["task"] == task) & (radius["radius"] == radius["radius"].min())]
        row |= {"lipschitz": near["lipschitz"].mean(), "lipschitz_most": near["lipschitz"].max()}
        rows.append(row)
    return pd.DataFrame(rows)


def sets_table(sets: pd.DataFrame, tuned: pd.DataFrame) -> pd.DataFrame:
    """Return Table 11: sets of layers, what their kernels say before training, and their scores."""
    columns = ["task", "layers", "metric", "seeds", "score", "score_sd", "learning_rate"]
    columns += ["at_budget", *STATISTICS, "trace", "gcv_ridge"]
    columns += [name for name in sets if name.startswith("all_")]
    return scored_sets(sets, tuned)[columns]


def candidates_table(curves: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Return Table 12: learning curves of candidates, a row per size, beside the head's scores."""
    keys = ["task", "metric", "method", *CANDIDATE, "n"]
    found = with_loss(curves).groupby(keys, sort=False, dropna=False)
    table = found.agg(
        seeds=("seed", "nunique"),
        score=("score", "mean"),
        score_sd=("score", "std"),
        loss=("loss", "mean"),
        at_budget=("at_budget", "sum"),
        flops=("flops", "mean"),
    ).reset_index()
    of_head = scores[scores["kernel"] == "head"]
    numbers = ["weights", "tokens", "probe", "gcv", "evidence"]
    before = of_head.groupby(["task", *CANDIDATE], sort=False)[numbers].mean()
    remaining = scores.groupby(["task", *CANDIDATE], sort=False)["remaining"].mean()
    return table.join(before.join(remaining), on=["task", *CANDIDATE]).round(DECIMALS)


def choices_table(
    curves: pd.DataFrame, scores: pd.DataFrame, subsets: Mapping[str, Any]
) -> pd.DataFrame:
    """Return Table 13: :func:`~ntktune.figures.selected.choices`, rounded."""
    return choices(curves, scores, subsets).round(DECIMALS)


def laws_table(curves: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Return Table 14: how far laws are off at larger sizes, mean and spread over candidates."""
    found = law_errors(curves, scores)
    if found.empty:  # two sizes or fewer
        found = pd.DataFrame(columns=["task", "method", "sizes", "law", "error"])
    keys = ["task", "method", "sizes", "law"]
    errors = found.groupby(keys, sort=False)["error"]
    return (
        errors.agg(candidates="count", error="mean", error_sd="std").reset_index().round(DECIMALS)
    )


def pilots_table(
    benchmark: pd.DataFrame, metrics: pd.DataFrame, compared: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return Table 15: :func:`~ntktune.figures.pilots.judged`, rounded."""
    return judged(benchmark, metrics, compared).round(DECIMALS)


def cosine_table(cosine: pd.DataFrame) -> pd.DataFrame:
    """Return Table 8: :func:`~ntktune.figures.cosines.cosine_summary`, rounded."""
    return cosine_summary(cosine).round(DECIMALS)


def negated_fully(negated: pd.DataFrame) -> pd.DataFrame:
    """Return the test rows of negated models at λ = 1; of a target without it, at its largest λ."""
    test = negated[negated["part"] == "test"]
    full = test.groupby("target")["coefficient"].agg(full_coefficient)
    return test[test["coefficient"] == test["target"].map(full)]


def negated_as_chosen(negated: pd.DataFrame) -> pd.DataFrame:
    """Return the test rows at the coefficient that was chosen on validation data."""
    return negated[(negated["part"] == "test") & negated["chosen"].astype(bool)]


def negation_table(negated: pd.DataFrame) -> pd.DataFrame:
    """Return Table 9: negated task vectors; per target and task tested, a row for each choice."""
    rows, chosen = [], {FIXED: negated_fully(negated), VALIDATED: negated_as_chosen(negated)}
    for target, (choice, some) in product(negated["target"].unique(), chosen.items()):
        for task, own in some[some["target"] == target].groupby("task", sort=False):
            row = {"target": target, "task": task} | _first(own, "kind", "metric")
            row |= {"choice": choice, "seeds": own["seed"].nunique()}
            rows.append(row | _spread(own, NEGATED))
    return pd.DataFrame(rows).round(DECIMALS)
