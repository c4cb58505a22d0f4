"""Scores of merged and negated models, from the answers along their sweeps.

The coefficient of a merge is chosen on validation rows only, and reported on test rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from ntktune.errors import UserError
from ntktune.finetune.metrics import mean_squared_error, pearson
from ntktune.merges import FIXED, VALIDATED, parts

METRIC = {"regression": "pearson", "classification": "accuracy"}
KEPT = 0.95  # of a control task's score (Ilharco et al. 2023)


def score(kind: str, label: np.ndarray, output: np.ndarray) -> float:
    """Return Pearson's correlation of scores, or the accuracy of l1 − l0; NaN of no rows."""
    if not len(label):
        return math.nan
    if kind == "regression":
        return pearson(output, label)
    return float(np.mean((output > 0) == (label == 1)))


def _ratio(value: float, reference: float) -> float:
    return value / reference if reference else math.nan


def _scored(answers: pd.DataFrame, without: Iterable[int] = ()) -> tuple[float, int]:
    """Return the score of one model's answers on one task, some rows left out; and the rows."""
    left = answers[~answers["row"].isin(set(without))]
    kind = answers["kind"].iloc[0]
    return score(kind, left["label"].to_numpy(), left["output"].to_numpy()), len(left)


def single_answers(negated: pd.DataFrame) -> dict[tuple[str, int, float], pd.DataFrame]:
    """Return what each task's own models answer it: (task, seed, coefficient of τ) → answers.

    Parameters
    ----------
    negated
        The rows of :func:`ntktune.taskvectors.sweeps.negation_sweep`, with ``target`` and
        ``seed``. Coefficient 0 is the pretrained network, 1 the fine-tuned one.
    """
    own = negated[negated["task"] == negated["target"]]
    groups = own.groupby(["task", "seed", "coefficient"], sort=False)
    return {(task, seed, -value + 0.0): found for (task, seed, value), found in groups}


def sweep_table(added: pd.DataFrame, negated: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of merged models along the coefficient, λ = 0 included.

    Parameters
    ----------
    added
        The rows of :func:`ntktune.taskvectors.sweeps.addition_sweep`, with ``merged`` (names
        joined by " + ") and ``seed``.
    negated
        As for :func:`single_answers`, of all tasks and seeds that were merged.

    Returns
    -------
    DataFrame
        Per merge, seed, task, part and coefficient: ``kind``, ``metric``, ``score``, ``single``
        (the task's own model's), ``normalised`` = score / single, ``rows``.

    Raises
    ------
    UserError
        A merged task's own model has no answers.
    """
    own, rows = single_answers(negated), []
    for (merge, seed, task), found in added.groupby(["merged", "seed", "task"], sort=False):
        for coefficient in (0.0, 1.0):
            if (task, seed, coefficient) not in own:
                raise UserError(
                    f"{merge} has answers to task {task!r}, seed {seed}, but no negation sweep of "
                    "that task and seed was given; give it"
                )
        along = pd.concat([own[task, seed, 0.0].drop(columns=["target", "slope"]), found])
        for (part, coefficient), answers in along.groupby(["part", "coefficient"], sort=True):
            single = own[task, seed, 1.0]
            alone = _scored(single[single["part"] == part])[0]
            reached, count = _scored(answers)
            kind = answers["kind"].iloc[0]
            rows.append(
                {
                    "merged": merge,
                    "seed": seed,
                    "task": task,
                    "kind": kind,
                    "metric": METRIC[kind],
                    "part": part,
                    "coefficient": coefficient,
                    "score": reached,
                    "single": alone,
                    "normalised": _ratio(reached, alone),
                    "rows": count,
                }
            )
    return pd.DataFrame(rows)


def chosen_coefficient(sweep: pd.DataFrame) -> float:
    """Return the coefficient of one merge and seed that validation rows choose.

    One for all tasks of the merge, as the merge is one model: the largest mean of the
    normalised scores, or of the plain ones where a task's own model scores 0 or less; of
    equal ones the smallest.

    Parameters
    ----------
    sweep
        Rows of :func:`sweep_table` of one merge and seed.
    """
    validation = sweep[sweep["part"] == "validation"]
    measure = "normalised" if (validation["single"] > 0).all() else "score"
    means = validation.groupby("coefficient")[measure].mean()
    return float(means.index[np.argmax(means.to_numpy())])


def merged_table(
    added: pd.DataFrame,
    negated: pd.DataFrame,
    sweep: pd.DataFrame,
    leaked: pd.DataFrame,
    coefficient: float,
) -> pd.DataFrame:
    """Return the test scores of merged models at a fixed and at the chosen coefficient.

    Parameters
    ----------
    added, negated
        As for :func:`sweep_table`.
    sweep
        What it returns.
    leaked
        ``task``, ``other``, ``seed``, ``row``: test rows of a task whose text is in the sample
        that another (or the same) task was fine-tuned on.
    coefficient
        The fixed one.

    Returns
    -------
    DataFrame
        Per merge, seed, task and ``choice`` (``fixed``, ``validation``): ``kind``, ``metric``,
        ``coefficient``, ``pretrained``, ``single``, ``merged_score``, ``normalised`` =
        merged_score / single (NaN if single is 0), ``rows``, ``leaked`` (rows that any task
        of the merge was fine-tuned on), and without those ``single_clean``,
        ``merged_clean``, ``normalised_clean`` (NaN if no row is left).

    Raises
    ------
    UserError
        The merges have no answers at the fixed coefficient.
    """
    own = {key: found[found["part"] == "test"] for key, found in single_answers(negated).items()}
    tests, rows = added[added["part"] == "test"], []
    for (merge, seed), found in tests.groupby(["merged", "seed"], sort=False):
        members = parts(merge)
        of_merge = (sweep["merged"] == merge) & (sweep["seed"] == seed)
        choices = {FIXED: coefficient, VALIDATED: chosen_coefficient(sweep[of_merge])}
        for task in members:
            pretrained, single = own[task, seed, 0.0], own[task, seed, 1.0]
            known = leaked[(leaked["task"] == task) & (leaked["seed"] == seed)]
            out = sorted(set(known.loc[known["other"].isin(members), "row"]) & set(single["row"]))
            for choice, value in choices.items():
                at = (found["task"] == task) & (found["coefficient"] == value)
                answers = found[at] if value else pretrained
                if answers.empty:
                    raise UserError(
                        f"{merge} has no answers at coefficient {value:g}, seed {seed}; sweep it "
                        "with that coefficient among the others"
                    )
                alone, alone_clean = _scored(single)[0], _scored(single, out)[0]
                reached, count = _scored(answers)
                clean = _scored(answers, out)[0]
                kind = single["kind"].iloc[0]
                rows.append(
                    {
                        "merged": merge,
                        "seed": seed,
                        "task": task,
                        "kind": kind,
                        "metric": METRIC[kind],
                        "choice": choice,
                        "coefficient": value,
                        "pretrained": _scored(pretrained)[0],
                        "single": alone,
                        "merged_score": reached,
                        "normalised": _ratio(reached, alone),
                        "rows": count,
                        "leaked": len(out),
                        "single_clean": alone_clean,
                        "merged_clean": clean,
                        "normalised_clean": _ratio(clean, alone_clean),
                    }
                )
    return pd.DataFrame(rows)


def negated_table(negated: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of negated models on their own and on control tasks (SR26 eq 24).

    Parameters
    ----------
    negated
        As for :func:`single_answers`.

    Returns
    -------
    DataFrame
        Per ``target``, seed, task, part and coefficient λ ≥ 0 of θ_P − λτ: ``kind``,
        ``metric``, ``score``, ``pretrained`` (λ = 0), ``kept`` = score / pretrained, ``error``
        (the mean squared error of f: raw scores, or l1 − l0 against −1 and +1), ``gap`` (error
        minus that at λ = 0), ``predicted_gap`` = E[2λ(y − f_P)Δ + λ²Δ²] and
        ``linear_score``, those of f_P − λΔ with Δ = Jτ; ``chosen``: the largest λ at which
        every control keeps 95 % of its validation score.
    """
    rows = []
    below = negated[negated["coefficient"] >= 0]
    for (target, seed, task, part), found in below.groupby(
        ["target", "seed", "task", "part"], sort=False
    ):
        kind = found["kind"].iloc[0]
        start = found[found["coefficient"] == 0].set_index("row")
        label = start["label"].to_numpy()
        wanted = 2 * label - 1 if kind == "classification" else label
        before, slope = start["output"].to_numpy(), start["slope"].to_numpy()
        pretrained = score(kind, label, before)
        for coefficient, answers in found.groupby("coefficient", sort=True):
            output = answers.set_index("row")["output"].loc[start.index].to_numpy()
            reached, error = score(kind, label, output), mean_squared_error(output, wanted)
            linear = before - coefficient * slope
            change = 2 * coefficient * (wanted - before) * slope + (coefficient * slope) ** 2
            rows.append(
                {
                    "target": target,
                    "seed": seed,
                    "task": task,
                    "kind": kind,
                    "metric": METRIC[kind],
                    "part": part,
                    "coefficient": coefficient,
                    "score": reached,
                    "pretrained": pretrained,
                    "kept": _ratio(reached, pretrained),
                    "error": error,
                    "gap": error - mean_squared_error(before, wanted),
                    "predicted_gap": float(np.mean(change)),
                    "linear_score": score(kind, label, linear),
                }
            )
    table = pd.DataFrame(rows)
    return table.assign(chosen=_most_negated(table))


def _most_negated(table: pd.DataFrame) -> pd.Series:
    """Return which rows have the largest λ that leaves every control 95 % of its score."""
    chosen = pd.Series(False, index=table.index)
    for (target, _), found in table.groupby(["target", "seed"], sort=False):
        controls = found[(found["task"] != target) & (found["part"] == "validation")]
        # of a score that is not above 0 there is no share to keep
        least = controls["pretrained"] * np.where(controls["pretrained"] > 0, KEPT, 1.0)
        kept = (controls["score"] >= least).groupby(controls["coefficient"]).all()
        chosen.loc[found.index[found["coefficient"] == kept.index[kept].max()]] = True
    return chosen
